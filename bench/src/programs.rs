//! P: processes that a warm run starts, here and on the box.

use crate::Result;
use crate::repos::Kind;
use crate::row::{Figure, Goal, Row, Sense};
use crate::stage::{Stage, Way};
use crate::trace::{Process, Started, started};

pub(crate) const ROWS: &[Row] = &[
    row(
        "P1",
        "processes started here by a warm run",
        "the classic chain: about 45",
        &[Goal { case: "run", gate: 0.0, moonshot: 0.0 }],
        here,
    ),
    row(
        "P2",
        "processes started on the box by a warm run",
        "the classic chain: about 25 shells and their children",
        &[Goal { case: "run", gate: 1.0, moonshot: 1.0 }],
        on_the_box,
    ),
    row(
        "P3",
        "provider plugins started by a warm run",
        "",
        &[Goal { case: "run", gate: 0.0, moonshot: 0.0 }],
        plugins,
    ),
];

const fn row(
    id: &'static str,
    what: &'static str,
    baseline: &'static str,
    goals: &'static [Goal],
    measure: fn(&Stage) -> Result<Vec<Figure>>,
) -> Row {
    Row { id, what, baseline, unit: "", sense: Sense::AtMost, goals, measure }
}

/// What the third run of somebody starts, by which time everything is warm.
fn warm(stage: &Stage) -> Result<Started> {
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    for _ in 0..2 {
        let _ = seat.run(&["true"]).run()?;
    }
    started(stage, seat.run(&["true"]))
}

fn figure(processes: &[Process]) -> Vec<Figure> {
    let name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
    let names = processes.iter().map(|all| all.iter().map(name).collect::<Vec<_>>().join(" → "));
    let note = names.collect::<Vec<_>>().join(", ");
    vec![Figure::of("run", processes.len() as f64).note(note)]
}

fn here(stage: &Stage) -> Result<Vec<Figure>> {
    Ok(figure(&warm(stage)?.here))
}

fn on_the_box(stage: &Stage) -> Result<Vec<Figure>> {
    Ok(figure(&warm(stage)?.on_the_box))
}

fn plugins(stage: &Stage) -> Result<Vec<Figure>> {
    let mut all = warm(stage)?.here;
    all.retain(|process| process.iter().any(|path| path.contains("crabbox-provider-")));
    Ok(figure(&all))
}

//! W: how long a warm run takes, beside a bare `ssh`, `rsync`, and the classic chain.

use crabbox_tests::line::Shape;

use crate::Result;
use crate::edits::Editor;
use crate::repos::Kind;
use crate::row::{Figure, Goal, Row, Sense, goal};
use crate::sample::in_turns;
use crate::stage::{Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    row(
        "W1",
        "warm run, 10 000 files, nothing changed",
        "`ssh host true` over ControlMaster",
        &[goal("50 ms", 1.0, 0.6), goal("150 ms", 1.0, 0.6)],
        far,
    ),
    row(
        "W2",
        "same, 200 files, no delay",
        "`ssh host true` over ControlMaster",
        &[goal("run", 1.3, 0.7)],
        near,
    ),
    row(
        "W3",
        "same, 10 000 files, no delay",
        "`rsync -az --delete`, nothing changed",
        &[goal("10 000 files", 0.3, 0.1)],
        beside_rsync,
    ),
    row(
        "W4",
        "same, 200 files, 50 ms",
        "the classic chain of 25 `ssh`",
        &[goal("run", 1.0 / 30.0, 1.0 / 60.0)],
        beside_chain,
    ),
    row(
        "W5",
        "files changed, 10 000 files, 50 ms",
        "own run with nothing changed",
        &[goal("1 file", 1.15, 1.05), goal("100 files", 2.0, 1.4)],
        changed,
    ),
];

const fn row(
    id: &'static str,
    what: &'static str,
    baseline: &'static str,
    goals: &'static [Goal],
    measure: fn(&Stage) -> Result<Vec<Figure>>,
) -> Row {
    Row { id, what, baseline, unit: "x", sense: Sense::AtMost, goals, measure }
}

/// Measures with a delay on the line, and takes the delay away again.
fn at<T>(stage: &Stage, ms: u64, measure: impl FnOnce() -> Result<T>) -> Result<T> {
    stage.line.reshape(Shape::rtt_ms(ms));
    let result = measure();
    stage.line.reshape(Shape::default());
    result
}

fn far(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Medium)?, None)?;
    let measure = |ms: u64| {
        let series = at(stage, ms, || {
            in_turns(
                stage.often(),
                &mut [
                    ("crabbox", Box::new(|| seat.run(&["true"]).ms())),
                    ("ssh", Box::new(|| stage.bare(Way::Line, true))),
                ],
            )
        })?;
        Ok(Figure::ratio(format!("{ms} ms"), &series[0], &series[1]))
    };
    [50, 150].into_iter().map(measure).collect()
}

fn near(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Small)?, None)?;
    let series = in_turns(
        stage.often() * 2,
        &mut [
            ("crabbox", Box::new(|| seat.run(&["true"]).ms())),
            ("ssh", Box::new(|| stage.bare(Way::Direct, true))),
            ("crabbox --version", Box::new(|| seat.crabbox(&["--version"]).ms())),
        ],
    )?;
    Ok(vec![Figure::ratio("run", &series[0], &series[1]).series([series[2].clone()])])
}

fn beside_rsync(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (case, kind) in [("10 000 files", Kind::Medium), ("real sources", Kind::Real)] {
        let repo = match (stage.repo(kind), kind) {
            (Err(_), Kind::Real) => continue,
            (repo, _) => repo?,
        };
        let (seat, plain, listed) = (
            stage.seat(Way::Direct, &repo, None)?,
            stage.emptied("plain")?,
            stage.emptied("listed")?,
        );
        let series = in_turns(
            stage.often() / 2,
            &mut [
                ("crabbox", Box::new(|| seat.run(&["true"]).ms())),
                ("rsync", Box::new(|| stage.rsync_plain(Way::Direct, &repo, &plain).ms())),
                (
                    "rsync --files-from",
                    Box::new(|| stage.rsync_listed(Way::Direct, &repo, &listed)?.ms()),
                ),
            ],
        )?;
        figures.push(Figure::ratio(case, &series[0], &series[1]).series([series[2].clone()]));
    }
    Ok(figures)
}

fn beside_chain(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Small)?;
    let (seat, to) = (stage.seat(Way::Line, &repo, None)?, stage.emptied("chain")?);
    let series = at(stage, 50, || {
        in_turns(
            stage.seldom(),
            &mut [
                ("crabbox", Box::new(|| seat.run(&["true"]).ms())),
                ("chain", Box::new(|| stage.chain(Way::Line, &repo, &to))),
            ],
        )
    })?;
    let times = series[1].min() / series[0].min();
    Ok(vec![Figure::ratio("run", &series[0], &series[1]).note(format!("{times:.1} times faster"))])
}

fn changed(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Medium)?;
    let (seat, editor) = (stage.seat(Way::Line, &repo, None)?, Editor::of(stage, &repo)?);
    let run = |count| {
        editor.edit(count)?;
        seat.run(&["true"]).ms()
    };
    let series = at(stage, 50, || {
        in_turns(
            stage.often(),
            &mut [
                ("nothing", Box::new(|| seat.run(&["true"]).ms())),
                ("1 file", Box::new(|| run(1))),
                ("after 1", Box::new(|| seat.run(&["true"]).ms())),
                ("100 files", Box::new(|| run(100))),
            ],
        )
    })?;
    Ok(vec![
        Figure::ratio("1 file", &series[1], &series[2]),
        Figure::ratio("100 files", &series[3], &series[0]),
    ])
}

//! R: how many times a run crosses the link, as the slope of its time over the link's round-trip time.

use crabbox_tests::line::Shape;

use crate::Result;
use crate::edits::Editor;
use crate::repos::{Kind, append};
use crate::row::{Figure, Goal, Row, Sense, goal};
use crate::sample::{Racer, Series, in_turns, slope};
use crate::stage::{Stage, Way};

/// Round-trip times in milliseconds; a slope over them is deaf to what the computers do meanwhile.
const TIMES: [u64; 3] = [0, 40, 80];

const fn row(
    id: &'static str,
    what: &'static str,
    goals: &'static [Goal],
    measure: fn(&Stage) -> Result<Vec<Figure>>,
) -> Row {
    Row {
        id,
        what,
        baseline: "`ssh` cold and over ControlMaster, same slope",
        unit: "round trips",
        sense: Sense::AtMost,
        goals,
        measure,
    }
}

pub(crate) const ROWS: &[Row] = &[
    row("R1", "warm run, nothing changed", &[goal("run", 1.2, 1.05)], unchanged),
    row(
        "R2",
        "warm run, files changed",
        &[goal("1 file", 1.2, 1.05), goal("100 files", 1.2, 1.05)],
        changed,
    ),
    row("R3", "warm run, the tree on the box changed", &[goal("run", 2.2, 2.05)], drifted),
    row(
        "R4",
        "warm run without a daemon, connection shared by OpenSSH",
        &[goal("run", 3.2, 2.05)],
        shared,
    ),
    row("R5", "run on a connection of its own", &[goal("run", 12.0, 7.05)], cold),
];

/// The slope of everybody's minima, measured in turns at each time.
fn slopes(stage: &Stage, racers: &mut [Racer<'_>]) -> Result<Vec<(f64, Vec<Series>)>> {
    let mut all: Vec<(f64, Vec<Series>)> = racers.iter().map(|_| (0.0, Vec::new())).collect();
    for ms in TIMES {
        stage.line.reshape(Shape::rtt_ms(ms));
        let series = in_turns(stage.often().min(8), racers);
        stage.line.reshape(Shape::default());
        for ((_, seen), mut series) in all.iter_mut().zip(series?) {
            series.name = format!("{} at {ms}", series.name);
            seen.push(series);
        }
    }
    for (slope_of, seen) in &mut all {
        let points: Vec<(f64, f64)> =
            TIMES.iter().zip(seen.iter()).map(|(ms, s)| (*ms as f64, s.min())).collect();
        *slope_of = slope(&points);
    }
    Ok(all)
}

/// One figure for each racer.
fn figures(stage: &Stage, mut racers: Vec<Racer<'_>>) -> Result<Vec<Figure>> {
    let names: Vec<String> = racers.iter().map(|(name, _)| (*name).to_owned()).collect();
    let slopes = slopes(stage, &mut racers)?;
    Ok(names
        .into_iter()
        .zip(slopes)
        .map(|(name, (value, seen))| Figure::of(name, value).series(seen))
        .collect())
}

fn unchanged(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Small)?, None)?;
    let mut figures = figures(
        stage,
        vec![
            ("run", Box::new(|| seat.run(&["true"]).ms())),
            ("ssh over ControlMaster", Box::new(|| stage.bare(Way::Line, true))),
            ("ssh cold", Box::new(|| stage.bare(Way::Line, false))),
        ],
    )?;
    let before = (stage.line.bytes_up(), stage.line.bytes_down());
    seat.run(&["true"]).ms()?;
    let (up, down) = (stage.line.bytes_up() - before.0, stage.line.bytes_down() - before.1);
    figures[0].note = format!("{up} bytes up, {down} down");
    Ok(figures)
}

fn changed(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Small)?;
    let (seat, editor) = (stage.seat(Way::Line, &repo, None)?, Editor::of(stage, &repo)?);
    let run = |count| {
        editor.edit(count)?;
        seat.run(&["true"]).ms()
    };
    figures(stage, vec![("1 file", Box::new(|| run(1))), ("100 files", Box::new(|| run(100)))])
}

fn drifted(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Small)?;
    let (seat, editor) = (stage.seat(Way::Line, &repo, None)?, Editor::of(stage, &repo)?);
    seat.run(&["true"]).ms()?;
    let name = editor.first().strip_prefix(&repo).map_err(|e| e.to_string())?;
    let on_the_box = seat.tree().join(name);
    let run = || {
        append(&on_the_box, "// changed on the box\n")?;
        seat.run(&["true"]).ms()
    };
    figures(stage, vec![("run", Box::new(run))])
}

fn shared(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Small)?, None)?;
    seat.share_connection(&stage.socket(Way::Line))?;
    seat.run(&["true"]).ms()?;
    let run = || seat.run(&["true"]).env("CRABBOX_DAEMON", "0").ms();
    figures(
        stage,
        vec![
            ("run", Box::new(run)),
            ("ssh over ControlMaster", Box::new(|| stage.bare(Way::Line, true))),
        ],
    )
}

fn cold(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Small)?, None)?;
    seat.run(&["true"]).ms()?;
    let run = || seat.run(&["true"]).env("CRABBOX_DAEMON", "0").ms();
    figures(
        stage,
        vec![("run", Box::new(run)), ("ssh cold", Box::new(|| stage.bare(Way::Line, false)))],
    )
}

//! X: from a saved file to a started command, and from a box that comes up to its first command.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use crabbox_tests::line::Shape;

use crate::Result;
use crate::launch::Guard;
use crate::repos::{Kind, append};
use crate::row::{Figure, Goal, Row, Sense};
use crate::sample::Series;
use crate::stage::{Seat, Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "X1",
        what: "a file is saved, its command starts on the box (`watch`): time beyond half the round trip",
        baseline: "",
        unit: "ms",
        sense: Sense::AtMost,
        goals: &[
            Goal { case: "0 ms", gate: 25.0, moonshot: 8.0 },
            Goal { case: "50 ms", gate: 25.0, moonshot: 8.0 },
        ],
        measure: saved,
    },
    Row {
        id: "X2",
        what: "a host accepts connections at last, the waiting run's command starts",
        baseline: "polls every 10 s",
        unit: "ms",
        sense: Sense::AtMost,
        goals: &[Goal { case: "run", gate: 500.0, moonshot: 150.0 }],
        measure: ready,
    },
];

/// Waits for a file that a command makes, looking often.
fn appears(mark: &Path, limit: Duration) -> Result<Instant> {
    let begun = Instant::now();
    while !mark.exists() {
        if begun.elapsed() > limit {
            return Err(format!("the command did not start within {limit:?}"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(Instant::now())
}

fn saved(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Small)?;
    let seat = stage.seat(Way::Line, &repo, None)?;
    let _ = seat.run(&["true"]).run()?;
    [0, 50]
        .into_iter()
        .map(|ms| {
            stage.line.reshape(Shape::rtt_ms(ms));
            let delays = watched(stage, &seat);
            stage.line.reshape(Shape::default());
            let beyond = delays?.into_iter().map(|delay| delay - ms as f64 / 2.0).collect();
            let series = Series::new("beyond the link", beyond);
            Ok(Figure::of(format!("{ms} ms"), series.median()).series([series]))
        })
        .collect()
}

/// Milliseconds from each save to the start of its command.
fn watched(stage: &Stage, seat: &Seat) -> Result<Vec<f64>> {
    let (mark, edited) = (stage.path().join("watched"), seat.repo.join("watched.txt"));
    fs::write(&edited, "begin\n").map_err(|e| e.to_string())?;
    let mut child = seat.watch(&["touch", &mark.display().to_string()]).start()?;
    let _guard = Guard::of(&child);
    // Whatever it says is read, so that it never waits for us.
    let said = child.stderr.take().map(BufReader::new);
    let reader = std::thread::spawn(move || {
        said.map(|lines| lines.lines().map_while(std::result::Result::ok).last())
    });
    let delays = (0..stage.often().min(10)).map(|time| {
        appears(&mark, Duration::from_secs(10))?;
        // Until the run before is over, its change would be part of the next.
        std::thread::sleep(Duration::from_millis(500));
        fs::remove_file(&mark).map_err(|e| e.to_string())?;
        let begun = Instant::now();
        append(&edited, &format!("{time}\n"))?;
        let started = appears(&mark, Duration::from_secs(10))?;
        Ok((started - begun).as_secs_f64() * 1e3)
    });
    let delays: Result<Vec<f64>> = delays.collect();
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(&mark);
    let last = reader.join().ok().flatten().flatten().unwrap_or_default();
    delays.map_err(|e| format!("{e} {last}"))
}

fn ready(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Line, &stage.repo(Kind::Small)?, None)?;
    let _ = seat.run(&["true"]).run()?;
    let mark = stage.path().join("ready");
    let mut delays = Vec::new();
    for time in 0..stage.seldom() {
        seat.forget_connections();
        stage.line.refuse(true);
        let mut child = seat.run(&["touch", &mark.display().to_string()]).start()?;
        let _guard = Guard::of(&child);
        // A different moment of its back-off each time.
        std::thread::sleep(Duration::from_millis(1500 + 170 * time as u64));
        stage.line.refuse(false);
        let begun = Instant::now();
        let started = appears(&mark, Duration::from_secs(30));
        let _ = child.wait();
        delays.push((started? - begun).as_secs_f64() * 1e3);
        fs::remove_file(&mark).map_err(|e| e.to_string())?;
    }
    let series = Series::new("since it listens", delays);
    Ok(vec![Figure::of("run", series.median()).series([series])])
}

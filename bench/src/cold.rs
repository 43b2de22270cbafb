//! C: the first sync to a box, and the first to the next one.

use std::fs;
use std::path::Path;

use crabbox_tests::line::Shape;

use crate::Result;
use crate::repos::{Dice, Kind};
use crate::row::{Figure, Goal, Row, Sense, goal};
use crate::sample::{Racer, Series, in_turns};
use crate::stage::{Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    row(
        "C1",
        "first sync and run, 10 000 files, no limit of the link",
        "`rsync -az --files-from`",
        "x",
        &[goal("wall", 0.6, 0.35), goal("processor", 0.7, 0.5)],
        unlimited,
    ),
    row(
        "C2",
        "first sync and run, 10 000 files, 100 Mbit/s, 50 ms",
        "bytes sent / rate",
        "x",
        &[goal("10 000 files", 1.25, 1.1), goal("real sources", 1.25, 1.1)],
        limited,
    ),
    row(
        "C3",
        "bytes of the first sync of a second checkout on the same host",
        "bytes of the first checkout's",
        "x",
        &[goal("10 000 files", 0.1, 0.03)],
        second,
    ),
    row(
        "C4",
        "bytes after one byte is put into a file of 150 MB",
        "size of the file",
        "x",
        &[goal("150 MB", 0.005, 0.001)],
        insertion,
    ),
    row(
        "C5",
        "first sync and run, 100 000 files, no limit of the link",
        "`rsync -az`, plain and --files-from",
        "x",
        &[goal("plain", 0.7, 0.4), goal("--files-from", 0.5, 0.25)],
        many,
    ),
];

const fn row(
    id: &'static str,
    what: &'static str,
    baseline: &'static str,
    unit: &'static str,
    goals: &'static [Goal],
    measure: fn(&Stage) -> Result<Vec<Figure>>,
) -> Row {
    Row { id, what, baseline, unit, sense: Sense::AtMost, goals, measure }
}

/// One sample says little on a machine whose cores are all busy.
fn often(stage: &Stage) -> usize {
    stage.seldom().clamp(3, 5)
}

/// Milliseconds of wall and processor time of the first run of somebody new on a new box.
fn first_run(stage: &Stage, way: Way, kind: Kind) -> Result<(f64, f64)> {
    let seat = stage.seat(way, &stage.repo(kind)?, None)?;
    let before = stage.cpu();
    let wall = seat.run(&["true"]).ms()?;
    Ok((wall, stage.cpu() - before))
}

fn unlimited(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Medium)?;
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    let mut racers: [Racer<'_>; 4] = [
        (
            "crabbox",
            Box::new(|| {
                let (wall, cpu) = first_run(stage, Way::Direct, Kind::Medium)?;
                mine.push(cpu);
                Ok(wall)
            }),
        ),
        (
            "rsync --files-from",
            Box::new(|| {
                let step = stage.rsync_listed(Way::Direct, &repo, &stage.emptied("listed")?)?;
                let before = stage.cpu();
                let wall = step.ms()?;
                theirs.push(stage.cpu() - before);
                Ok(wall)
            }),
        ),
        (
            "rsync",
            Box::new(|| stage.rsync_plain(Way::Direct, &repo, &stage.emptied("plain")?).ms()),
        ),
        ("tar+zstd", Box::new(|| stage.tar_zstd(Way::Direct, &repo, &stage.emptied("tar")?)?.ms())),
    ];
    let series = in_turns(often(stage), &mut racers)?;
    drop(racers);
    // The first measurement of each is the one that was not counted.
    let (mine, theirs) = (
        Series::new("crabbox", mine.split_off(1)),
        Series::new("rsync --files-from", theirs.split_off(1)),
    );
    let wall = Figure::ratio("wall", &series[0], &series[1]).series(series[2..].to_vec());
    Ok(vec![wall, Figure::ratio("processor", &mine, &theirs)])
}

fn limited(stage: &Stage) -> Result<Vec<Figure>> {
    const MBIT: u32 = 100;
    let mut figures = Vec::new();
    for (case, kind) in [("10 000 files", Kind::Medium), ("real sources", Kind::Real)] {
        let repo = match (stage.repo(kind), kind) {
            (Err(_), Kind::Real) => continue,
            (repo, _) => repo?,
        };
        let (mut bytes, rsync_bytes) = (0, std::cell::Cell::new(0));
        stage.line.reshape(Shape::rtt_ms(50).mbit(MBIT));
        let count = |measure: &mut dyn FnMut() -> Result<f64>| {
            let before = stage.line.bytes_up();
            let wall = measure()?;
            Ok::<_, String>((wall, stage.line.bytes_up() - before))
        };
        let series = in_turns(
            often(stage),
            &mut [
                (
                    "crabbox",
                    Box::new(|| {
                        let (wall, sent) = count(&mut || Ok(first_run(stage, Way::Line, kind)?.0))?;
                        bytes = sent;
                        Ok(wall)
                    }),
                ),
                (
                    "rsync --files-from",
                    Box::new(|| {
                        let step =
                            stage.rsync_listed(Way::Line, &repo, &stage.emptied("listed")?)?;
                        let (wall, sent) = count(&mut || step.ms())?;
                        rsync_bytes.set(sent);
                        Ok(wall)
                    }),
                ),
            ],
        );
        stage.line.reshape(Shape::default());
        let series = series?;
        let ideal = bytes as f64 * 8.0 / (f64::from(MBIT) * 1e3);
        let note = format!(
            "{bytes} bytes up, rsync {} bytes up; the rate alone needs {ideal:.0} ms",
            rsync_bytes.get()
        );
        figures.push(Figure::of(case, series[0].min() / ideal).series(series).note(note));
    }
    Ok(figures)
}

fn second(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Medium)?;
    // The same host gives the same lease; another name makes it another tree there.
    let other = repo.with_file_name("medium-again");
    let _ = stage.step("cp").arg("-a").arg(&repo).arg(&other).run()?;
    let shared = stage.emptied("shared-host")?;
    let first_run = |repo: &Path| {
        let before = stage.line.bytes_up();
        let seat = stage.seat(Way::Line, repo, Some(&shared))?;
        let _ = seat.run(&["true"]).run()?;
        Ok::<_, String>((stage.line.bytes_up() - before, seat))
    };
    let (one, _first) = first_run(&repo)?;
    let (two, _second) = first_run(&other)?;
    let _ = fs::remove_dir_all(&other);
    let note = format!("{one} bytes, then {two}");
    Ok(vec![Figure::of("10 000 files", two as f64 / one as f64).note(note)])
}

fn insertion(stage: &Stage) -> Result<Vec<Figure>> {
    const SIZE: usize = 150_000_000;
    let repo = stage.path().join("repos/one-file");
    fs::create_dir_all(&repo).map_err(|e| e.to_string())?;
    let _ = stage.step("git").arg("-C").arg(&repo).args(["init", "-q"]).run()?;
    let mut content = Dice(3).bytes(SIZE);
    let write =
        |content: &[u8]| fs::write(repo.join("big.bin"), content).map_err(|e| e.to_string());
    write(&content)?;
    let seat = stage.seat(Way::Line, &repo, None)?;
    let _ = seat.run(&["true"]).run()?;
    content.insert(SIZE / 3, b'!');
    write(&content)?;
    let before = stage.line.bytes_up();
    let took = seat.run(&["true"]).ms()?;
    let bytes = stage.line.bytes_up() - before;
    let note = format!("{bytes} bytes up in {took:.0} ms");
    let _ = fs::remove_dir_all(&repo);
    Ok(vec![Figure::of("150 MB", bytes as f64 / SIZE as f64).note(note)])
}

fn many(stage: &Stage) -> Result<Vec<Figure>> {
    let repo = stage.repo(Kind::Large)?;
    let series = in_turns(
        often(stage),
        &mut [
            ("crabbox", Box::new(|| Ok(first_run(stage, Way::Direct, Kind::Large)?.0))),
            (
                "rsync",
                Box::new(|| stage.rsync_plain(Way::Direct, &repo, &stage.emptied("plain")?).ms()),
            ),
            (
                "rsync --files-from",
                Box::new(|| {
                    stage.rsync_listed(Way::Direct, &repo, &stage.emptied("listed")?)?.ms()
                }),
            ),
        ],
    )?;
    Ok(vec![
        Figure::ratio("plain", &series[0], &series[1]),
        Figure::ratio("--files-from", &series[0], &series[2]),
    ])
}

//! M: knowing what a work tree holds.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::Result;
use crate::effort::{names, peak_of};
use crate::repos::Kind;
use crate::row::{Figure, Row, Sense, goal};
use crate::sample::in_turns;
use crate::stage::{Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "M1",
        what: "list and fingerprint a work tree (`sync-plan`, whole process)",
        baseline: "`git ls-files -co --exclude-standard`",
        unit: "x",
        sense: Sense::AtMost,
        goals: &[goal("10 000 files", 0.7, 0.4), goal("100 000 files", 0.7, 0.4)],
        measure: manifest,
    },
    Row {
        id: "M2",
        what: "the same while a watcher knows what changed",
        baseline: "`git ls-files -co --exclude-standard`",
        unit: "x",
        sense: Sense::AtMost,
        goals: &[goal("10 000 files", 0.1, 0.02)],
        measure: watched,
    },
    Row {
        id: "M3",
        what: "files on the box that git would not list, or the other way round",
        baseline: "`git ls-files` and what exists",
        unit: "",
        sense: Sense::AtMost,
        goals: &[goal("small", 0.0, 0.0), goal("medium", 0.0, 0.0), goal("real", 0.0, 0.0)],
        measure: equality,
    },
    Row {
        id: "M4",
        what: "most memory while listing 100 000 files (`sync-plan`)",
        baseline: "",
        unit: "MiB",
        sense: Sense::AtMost,
        goals: &[goal("100 000 files", 48.0, 24.0)],
        measure: memory,
    },
];

fn manifest(stage: &Stage) -> Result<Vec<Figure>> {
    let measure = |(case, kind): (&str, Kind)| {
        let repo = stage.repo(kind)?;
        let seat = stage.seat(Way::Direct, &repo, None)?;
        let series = in_turns(
            stage.often(),
            &mut [
                ("crabbox", Box::new(|| seat.crabbox(&["sync-plan", "--json"]).ms())),
                ("git ls-files", Box::new(|| stage.ls_files(&repo).ms())),
                (
                    "git status",
                    Box::new(|| {
                        stage.step("git").arg("-C").arg(&repo).args(["status", "--porcelain"]).ms()
                    }),
                ),
                ("crabbox --version", Box::new(|| seat.crabbox(&["--version"]).ms())),
            ],
        )?;
        Ok(Figure::ratio(case, &series[0], &series[1]).series(series[2..].to_vec()))
    };
    [("10 000 files", Kind::Medium), ("100 000 files", Kind::Large)]
        .into_iter()
        .map(measure)
        .collect()
}

fn watched(_: &Stage) -> Result<Vec<Figure>> {
    Err("crabbox has no watcher that outlives a command: every run looks at the tree itself (M1)"
        .into())
}

fn equality(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for kind in [Kind::Small, Kind::Medium, Kind::Real] {
        let repo = match (stage.repo(kind), kind) {
            (Err(_), Kind::Real) => continue,
            (repo, _) => repo?,
        };
        let seat = stage.seat(Way::Direct, &repo, None)?;
        let _ = seat.run(&["true"]).run()?;
        let listing = stage.listing(&repo)?;
        let listed = listing.split(|b| *b == 0).filter(|name| !name.is_empty());
        let listed: BTreeSet<PathBuf> =
            listed.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect();
        let there = names(&seat.tree());
        let odd: Vec<String> =
            listed.symmetric_difference(&there).take(3).map(|p| p.display().to_string()).collect();
        let count = listed.symmetric_difference(&there).count();
        let note = format!("{} files {}", there.len(), odd.join(" "));
        figures.push(Figure::of(kind.name(), count as f64).note(note.trim()));
    }
    Ok(figures)
}

fn memory(stage: &Stage) -> Result<Vec<Figure>> {
    let seat = stage.seat(Way::Direct, &stage.repo(Kind::Large)?, None)?;
    let _ = seat.crabbox(&["sync-plan", "--json"]).run()?;
    Ok(vec![Figure::of("100 000 files", peak_of(&seat.crabbox(&["sync-plan", "--json"]))?)])
}

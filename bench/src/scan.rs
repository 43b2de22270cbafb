//! M: knowing what a work tree holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crabbox_kernel::sync::{self, Hint, Keep, ScanOptions, SyncRules};

use crate::Result;
use crate::effort::{names, peak_of};
use crate::repos::Kind;
use crate::row::{Figure, Row, Sense, goal};
use crate::sample::in_turns;
use crate::stage::{Stage, Way};

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "M1",
        what: "list and fingerprint a work tree",
        baseline: "`git ls-files -co --exclude-standard`",
        unit: "x",
        sense: Sense::AtMost,
        goals: &[
            goal("10 000 files, the scan", 0.7, 0.4),
            goal("10 000 files, all of `sync-plan`", 0.7, 0.4),
            goal("100 000 files, the scan", 0.7, 0.4),
            goal("100 000 files, all of `sync-plan`", 0.7, 0.4),
        ],
        measure: manifest,
    },
    Row {
        id: "M2",
        what: "the same while a watcher knows what changed",
        baseline: "`git ls-files -co --exclude-standard`",
        unit: "x",
        sense: Sense::AtMost,
        goals: &[goal("10 000 files", 0.1, 0.02), goal("100 000 files", 0.1, 0.02)],
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

const SIZES: [(&str, Kind); 2] = [("10 000 files", Kind::Medium), ("100 000 files", Kind::Large)];

fn manifest(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (case, kind) in SIZES {
        let repo = stage.repo(kind)?;
        let seat = stage.seat(Way::Direct, &repo, None)?;
        let scanner = Scanner::new(stage, &repo);
        let git_status =
            || stage.step("git").arg("-C").arg(&repo).args(["status", "--porcelain"]).ms();
        let series = in_turns(
            stage.often(),
            &mut [
                ("the scan", Box::new(|| scanner.ms(None))),
                ("git ls-files", Box::new(|| stage.ls_files(&repo).ms())),
                ("sync-plan", Box::new(|| seat.crabbox(&["sync-plan", "--json"]).ms())),
                ("git status", Box::new(git_status)),
                ("crabbox --version", Box::new(|| seat.crabbox(&["--version"]).ms())),
            ],
        )?;
        figures.push(Figure::ratio(format!("{case}, the scan"), &series[0], &series[1]));
        let whole = Figure::ratio(format!("{case}, all of `sync-plan`"), &series[2], &series[1]);
        figures.push(whole.series(series[3..].to_vec()));
    }
    Ok(figures)
}

fn watched(stage: &Stage) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (case, kind) in SIZES {
        let repo = stage.repo(kind)?;
        let scanner = Scanner::new(stage, &repo);
        scanner.ms(None)?;
        let hint = Hint { token: TOKEN.to_owned(), changed: Vec::new() };
        let series = in_turns(
            stage.often() * 2,
            &mut [
                ("the scan", Box::new(|| scanner.ms(Some(&hint)))),
                ("git ls-files", Box::new(|| stage.ls_files(&repo).ms())),
            ],
        )?;
        figures.push(Figure::ratio(case, &series[0], &series[1]));
    }
    Ok(figures)
}

/// What a watcher calls the moment of the first scan.
const TOKEN: &str = "watched.1";

/// Scans a tree within this process, as every run does before anything else.
struct Scanner {
    repo: PathBuf,
    folder: PathBuf,
    env: BTreeMap<String, String>,
}

impl Scanner {
    fn new(stage: &Stage, repo: &Path) -> Self {
        let env = stage.env.iter().filter_map(|(name, value)| {
            value.to_str().map(|value| (name.clone(), value.to_owned()))
        });
        Self { repo: repo.to_owned(), folder: stage.path().join("index"), env: env.collect() }
    }

    /// Milliseconds of one scan.
    fn ms(&self, hint: Option<&Hint>) -> Result<f64> {
        let keep = Some(Keep { dir: &self.folder, env: &self.env });
        let options = ScanOptions { keep, hint, token: Some(TOKEN), stop: None };
        let begun = Instant::now();
        let tree = sync::look(&self.repo, &SyncRules::default(), &options);
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let tree = tree.map_err(|e| e.to_string())?;
        if tree.files() == 0 { Err("nothing was found".into()) } else { Ok(took) }
    }
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

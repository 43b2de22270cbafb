//! Random trees, random edits on the laptop, random harm on the box: after a flight the tree is exactly as wanted.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "tree/laptop.rs"]
mod laptop;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crabbox_helper::tree::Tree;
use laptop::{File, Files, Laptop, Manner, noise};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// What one step does to a path.
#[derive(Debug, Clone)]
enum Act {
    File(Vec<u8>, bool),
    Large(usize, u64),
    Link(String),
    Remove,
    Dir,
    Mode(u32),
    /// Other bytes of the same length in the same file; maybe the old time is put back.
    Forge(bool),
    /// A second name for a file outside the tree.
    Tie,
}

type Step = (PathBuf, Act);

/// Edits on the laptop, harm on the box, and a flight.
#[derive(Debug, Clone)]
struct Round {
    edits: Vec<Step>,
    harm: Vec<Step>,
    /// Harm to a path that was sent: which, and what.
    aim: usize,
    hit: Act,
    ask: bool,
    checksum: bool,
    cut: Option<usize>,
    reopen: bool,
    sweep: bool,
}

fn path() -> impl Strategy<Value = PathBuf> {
    let segment = prop_oneof![
        8 => prop::sample::select(vec![&b"a"[..], b"b", b"A", b"-c"]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>().prop_filter("a name", |b| !b"\0/".contains(b)), 1..6)
            .prop_filter("a name", |s| s != b"." && s != b".."),
    ];
    prop::collection::vec(segment, 1..4)
        .prop_map(|parts| PathBuf::from(OsString::from_vec(parts.join(&b'/'))))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        // Few contents, so that they meet again.
        4 => (0u8..6).prop_map(|n| vec![n; usize::from(n) * 3]),
        2 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn edit() -> impl Strategy<Value = Act> {
    prop_oneof![
        48 => (content(), any::<bool>()).prop_map(|(c, x)| Act::File(c, x)),
        1 => (0usize..3, 0u64..3).prop_map(|(n, seed)| Act::Large(n, seed)),
        12 => link(),
        24 => Just(Act::Remove),
    ]
}

fn harm() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (content(), any::<bool>()).prop_map(|(c, x)| Act::File(c, x)),
        3 => link(),
        4 => Just(Act::Remove),
        2 => Just(Act::Dir),
        2 => prop::sample::select(vec![0o400, 0o600, 0o755, 0o777]).prop_map(Act::Mode),
        4 => any::<bool>().prop_map(Act::Forge),
        1 => Just(Act::Tie),
    ]
}

fn link() -> impl Strategy<Value = Act> {
    prop::sample::select(vec!["a", "..", "../../outside", "../../outside/file", "/tmp", "none"])
        .prop_map(|to| Act::Link(to.to_owned()))
}

fn round() -> impl Strategy<Value = Round> {
    (
        prop::collection::vec((path(), edit()), 0..12),
        prop::collection::vec((path(), harm()), 0..4),
        (0usize..8, harm()),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0usize..6),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(edits, harm, (aim, hit), ask, checksum, cut, reopen, sweep)| Round {
            edits,
            harm,
            aim,
            hit,
            ask,
            checksum,
            cut,
            reopen,
            sweep,
        })
}

/// Edits the laptop's files; what stands in the way goes.
fn edit_files(files: &mut Files, (path, act): &Step) {
    let file = match act {
        Act::File(bytes, exec) => Some(File::Bytes(bytes.clone(), *exec)),
        Act::Large(n, seed) => Some(File::Bytes(noise((1 << 20) + 1 + n * 99_991, *seed), false)),
        Act::Link(to) => Some(File::Link(to.clone())),
        _ => None,
    };
    files.0.retain(|other, _| !other.starts_with(path) && !path.starts_with(other));
    if let Some(file) = file {
        files.0.insert(path.clone(), file);
    }
}

/// Harms the tree on the box like a command would, links and all.
fn harm_box(top: &Path, outside: &Path, (path, act): &Step) {
    let at = top.join(path);
    let clear = || {
        let mut dir = top.to_owned();
        for part in path.parent().into_iter().flat_map(Path::components) {
            dir.push(part);
            if !dir.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                let _ = std::fs::remove_file(&dir);
                std::fs::create_dir(&dir).unwrap();
            }
        }
        if at.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            std::fs::remove_dir_all(&at).unwrap();
        } else {
            let _ = std::fs::remove_file(&at);
        }
    };
    let real = at.parent().and_then(|p| p.canonicalize().ok()).is_some_and(|p| p.starts_with(top));
    let is_file = real && at.symlink_metadata().is_ok_and(|m| m.is_file());
    match act {
        Act::File(bytes, exec) => {
            clear();
            std::fs::write(&at, bytes).unwrap();
            chmod(&at, if *exec { 0o755 } else { 0o644 });
        }
        Act::Link(to) => {
            clear();
            symlink(to, &at).unwrap();
        }
        Act::Remove if real => clear(),
        Act::Dir => {
            clear();
            std::fs::create_dir(&at).unwrap();
        }
        Act::Mode(mode) if is_file => chmod(&at, *mode),
        // Not through a second name that leads outside.
        Act::Forge(back) if is_file && std::fs::metadata(&at).unwrap().nlink() == 1 => {
            let time = std::fs::metadata(&at).unwrap().modified().unwrap();
            let bytes: Vec<u8> = std::fs::read(&at).unwrap().iter().map(|b| b ^ 1).collect();
            let file = std::fs::File::options().write(true).open(&at).unwrap();
            (&file).write_all(&bytes).unwrap();
            if *back {
                file.set_modified(time).unwrap();
            }
        }
        Act::Tie => {
            clear();
            std::fs::hard_link(outside.join("file"), &at).unwrap();
        }
        _ => {}
    }
}

fn chmod(at: &Path, mode: u32) {
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What must stand after a flight: what is wanted, and what was never sent and is not in the way.
fn expected(before: &Files, managed: &BTreeSet<PathBuf>, wanted: &Files) -> Files {
    let mut all = wanted.clone();
    for (path, file) in &before.0 {
        let in_the_way = wanted.0.keys().any(|w| w.starts_with(path) || path.starts_with(w));
        if !managed.contains(path) && !in_the_way {
            all.0.insert(path.clone(), file.clone());
        }
    }
    all
}

/// What the rounds of one test have in common, so that each is thorough about something.
#[derive(Debug, Clone, Copy)]
enum Weather {
    /// Anything.
    Mixed,
    /// Nothing is harmed on the box.
    Calm,
    /// Every flight is cut once.
    Cut,
    /// Every flight reads every byte, after the last command's traces were looked at.
    Strict,
}

fn rounds(weather: Weather) -> impl Strategy<Value = Vec<Round>> {
    let round = round().prop_map(move |round| match weather {
        Weather::Mixed => round,
        Weather::Calm => Round { harm: Vec::new(), aim: usize::MAX, ..round },
        Weather::Cut => Round { cut: Some(round.cut.unwrap_or(round.aim % 3)), ..round },
        Weather::Strict => Round { checksum: true, sweep: true, ..round },
    });
    prop::collection::vec(round, 1..5)
}

/// 500 cases of each weather; `CRABBOX_TEST_CASES` asks for another number.
fn cases() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "how many cases are tried")]
    let asked = std::env::var("CRABBOX_TEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

#[track_caller]
fn explore(weather: Weather) {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() };
    // In memory where there is such a place, since disks are slow; anything also on the disk.
    let memory = Some(Path::new("/dev/shm")).filter(|memory| memory.is_dir());
    let on = memory.filter(|_| !matches!(weather, Weather::Mixed));
    let explored = TestRunner::new(config).run(&rounds(weather), |rounds| exact(&rounds, on));
    explored.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn after_a_flight_the_tree_is_exactly_as_wanted() {
    explore(Weather::Mixed);
}

#[test]
fn flight_after_flight_the_tree_is_exactly_as_wanted() {
    explore(Weather::Calm);
}

#[test]
fn after_a_flight_that_was_cut_the_tree_is_exactly_as_wanted() {
    explore(Weather::Cut);
}

#[test]
fn after_a_flight_that_reads_every_byte_the_tree_is_exactly_as_wanted() {
    explore(Weather::Strict);
}

fn exact(rounds: &[Round], on: Option<&Path>) -> Result<(), TestCaseError> {
    let dir = on.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (base, outside) = (root.join("cbx_1"), root.join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "theirs").unwrap();
    let mut tree = Tree::open(&base, "repo", "cbx_1").unwrap();
    let mut laptop = Laptop::new();
    let mut files = Files::default();
    let top = tree.workdir().to_owned();
    for round in rounds {
        round.edits.iter().for_each(|step| edit_files(&mut files, step));
        if top.exists() {
            round.harm.iter().for_each(|step| harm_box(&top, &outside, step));
        }
        let aimed = laptop.base.entries().iter().map(|e| e.path.clone()).nth(round.aim);
        if let (Some(path), true) = (aimed, top.exists()) {
            harm_box(&top, &outside, &(path, round.hit.clone()));
        }
        if round.reopen {
            tree = Tree::open(&base, "repo", "cbx_1").unwrap();
        }
        let before = if top.exists() { Files::read(&top) } else { Files::default() };
        let managed = laptop.base.entries().iter().map(|e| e.path.clone()).collect();
        for cut in [round.cut, None] {
            let manner = Manner { ask: round.ask, checksum: round.checksum, cut };
            match laptop.fly_so(&mut tree, &files, manner) {
                Ok(_) => break,
                Err(None) => prop_assert_eq!(&Files::read(&top), &before),
                Err(Some(fault)) => panic!("{fault:?}"),
            }
        }
        prop_assert_eq!(Files::read(&top), expected(&before, &managed, &files));
        prop_assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"theirs");
        prop_assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        if round.sweep {
            prop_assert_eq!(tree.sweep().unwrap().drifted, 0);
        }
    }
    Ok(())
}

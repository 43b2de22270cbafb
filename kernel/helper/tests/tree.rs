//! Trees on the box become exactly what the laptop wants, and what was never sent stays.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "tree/laptop.rs"]
mod laptop;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crabbox_helper::tree::{Fault, Tree};
use crabbox_schemas::helper::LockAsk;
use laptop::{File, Files, Laptop, Manner, noise};

struct Box {
    dir: tempfile::TempDir,
}

impl Box {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn tree(&self) -> Tree {
        self.lease("cbx_1")
    }

    fn lease(&self, lease: &str) -> Tree {
        Tree::open(&self.dir.path().join(lease), "repo", lease).unwrap()
    }
}

fn put(at: &Path, text: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
}

fn chmod(at: &Path, mode: u32) {
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_arrives_and_only_changes_are_sent_after_that() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let mut files = Files::of(&[("a", "1"), ("dir/sub/b", "2"), ("empty", ""), ("same", "1")]);
    files.0.insert("link".into(), File::Link("dir/none".into()));
    files.0.insert("run".into(), File::Bytes(b"#!/bin/sh\n".to_vec(), true));
    let flown = laptop.fly(&mut tree, &files);
    assert_eq!((flown.applied.written, flown.sent, flown.refusals), (6, 3, 0));
    assert_eq!(Files::read(tree.workdir()), files);
    let mode = |path: &str| std::fs::metadata(tree.workdir().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a"), mode("run"), mode("dir/sub")), (0o644, 0o755, 0o755));

    files.put("a", b"changed");
    files.0.remove(Path::new("dir/sub/b"));
    let flown = laptop.fly_so(&mut tree, &files, Manner::default()).unwrap();
    assert_eq!((flown.applied.written, flown.applied.removed, flown.sent), (1, 1, 1));
    assert_eq!(Files::read(tree.workdir()), files);
    assert!(!tree.workdir().join("dir").exists(), "a directory emptied by us is removed");
    let flown = laptop.fly(&mut tree, &files);
    assert_eq!((flown.applied.written, flown.applied.removed, flown.sent), (0, 0, 0));
}

#[test]
fn what_the_command_built_stays_unless_it_is_in_the_way() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("src/gone", "x"), ("a", "1")]));
    put(&tree.workdir().join("src/built.o"), "output");
    put(&tree.workdir().join("new/file/deep"), "in the way");
    let files = Files::of(&[("a", "1"), ("new/file", "wanted")]);
    laptop.fly(&mut tree, &files);
    let mut all = files.clone();
    all.put("src/built.o", b"output");
    assert_eq!(Files::read(tree.workdir()), all);
}

#[test]
fn changes_on_the_box_are_refused_until_the_delta_repairs_them() {
    type Harm = fn(&Path);
    let harms: &[(&str, Harm)] = &[
        ("modified, same size", |w| std::fs::write(w.join("README"), "HELLO\n").unwrap()),
        ("deleted", |w| std::fs::remove_file(w.join("dir/b")).unwrap()),
        ("made executable", |w| chmod(&w.join("dir/b"), 0o755)),
        ("link moved", |w| {
            std::fs::remove_file(w.join("link")).unwrap();
            symlink("elsewhere", w.join("link")).unwrap();
        }),
        ("file became link", |w| {
            std::fs::remove_file(w.join("README")).unwrap();
            symlink("dir/b", w.join("README")).unwrap();
        }),
        ("file became directory", |w| {
            std::fs::remove_file(w.join("README")).unwrap();
            put(&w.join("README/deep/x"), "x");
        }),
        ("directory became file", |w| {
            std::fs::remove_dir_all(w.join("dir")).unwrap();
            put(&w.join("dir"), "x");
        }),
        ("everything gone", |w| std::fs::remove_dir_all(w).unwrap()),
        ("top became file", |w| {
            std::fs::remove_dir_all(w).unwrap();
            put(w, "x");
        }),
    ];
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let mut files = Files::of(&[("README", "hello\n"), ("dir/sub/a", "a"), ("dir/b", "b")]);
    files.0.insert("link".into(), File::Link("README".into()));
    laptop.fly(&mut tree, &files);
    for guarded in [false, true] {
        for (what, harm) in harms {
            if guarded {
                assert_eq!(tree.sweep().unwrap().drifted, 0);
            }
            harm(tree.workdir());
            let flown = laptop.fly(&mut tree, &files);
            assert_eq!(flown.refusals, 1, "{what}, guarded: {guarded}");
            assert_eq!(Files::read(tree.workdir()), files, "{what}, guarded: {guarded}");
        }
    }
}

#[test]
fn nothing_is_written_or_deleted_through_a_planted_link() {
    let on = Box::new();
    let outside = on.dir.path().join("outside");
    for (link, path) in [("dir", "sub/a"), ("dir/sub", "a")] {
        let mut tree = on.lease(&link.replace('/', "-"));
        let mut laptop = Laptop::new();
        let mut files = Files::of(&[("dir/sub/a", "a"), ("dir/b", "b")]);
        laptop.fly(&mut tree, &files);
        put(&outside.join(path), "theirs");
        put(&outside.join("b"), "theirs");
        std::fs::remove_dir_all(tree.workdir().join(link)).unwrap();
        symlink(&outside, tree.workdir().join(link)).unwrap();
        files.put("dir/sub/a", b"changed");
        laptop.fly(&mut tree, &files);
        assert_eq!(Files::read(tree.workdir()), files);
        std::fs::remove_dir_all(tree.workdir().join(link)).unwrap();
        symlink(&outside, tree.workdir().join(link)).unwrap();
        laptop.fly(&mut tree, &Files::default());
        assert_eq!(std::fs::read(outside.join(path)).unwrap(), b"theirs");
        assert_eq!(std::fs::read(outside.join("b")).unwrap(), b"theirs");
    }
}

#[test]
fn a_cut_transfer_goes_on_where_it_was() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let mut files = Files::default();
    for n in 0..40 {
        files.put(&format!("f{n}"), &noise(1000, n));
    }
    files.put("large", &noise(3 << 20, 99));
    let manner = Manner { ask: true, cut: Some(50), ..Manner::default() };
    assert!(matches!(laptop.fly_so(&mut tree, &files, manner), Err(None)));
    assert_eq!(Files::read(tree.workdir()), Files::default());
    let all = laptop.delta(&files.manifest(), &files, &[]);
    let all = crabbox_tree::pieces(&all).unwrap().len();
    let flown = laptop.fly(&mut on.tree(), &files);
    assert_eq!(flown.sent, all - 50);
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn another_lease_is_kept_out_and_strange_names_are_refused() {
    let on = Box::new();
    let base = on.dir.path().join("cbx_1");
    let _tree = on.tree();
    let other = Tree::open(&base, "repo", "cbx_2").unwrap_err();
    assert_eq!(other, Fault::Fence { lease: "cbx_1".into() });
    for repo in ["", "..", "a/b", "/etc", ".crabbox"] {
        assert!(matches!(Tree::open(&base, repo, "cbx_1"), Err(Fault::Protocol(_))), "{repo}");
    }
}

#[test]
fn a_private_copy_holds_everything_with_modes_times_and_links() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut files = Files::of(&[("a/b", "1"), ("c", "2")]);
    files.0.insert("run".into(), File::Bytes(b"x".to_vec(), true));
    files.0.insert("a/link".into(), File::Link("../c".into()));
    Laptop::new().fly(&mut tree, &files);
    put(&tree.workdir().join("target/out"), "built");
    chmod(&tree.workdir().join("target"), 0o751);
    chmod(&tree.workdir().join("target/out"), 0o640);
    std::fs::create_dir(tree.workdir().join("hollow")).unwrap();
    let sparse = std::fs::File::create(tree.workdir().join("target/sparse")).unwrap();
    sparse.set_len(8 << 30).unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    sparse.set_modified(past).unwrap();
    let copy = tree.isolate("run_1").unwrap();
    assert_eq!(copy, on.dir.path().join("cbx_1/.crabbox/isolated/run_1/repo"));
    for path in ["", "a", "a/b", "a/link", "c", "run", "target", "target/out", "hollow"] {
        let meta = |root: &Path| std::fs::symlink_metadata(root.join(path)).unwrap();
        let (from, into) = (meta(tree.workdir()), meta(&copy));
        assert_eq!((from.mode(), from.mtime_nsec()), (into.mode(), into.mtime_nsec()), "{path:?}");
        assert_ne!(from.ino(), into.ino());
    }
    let meta = std::fs::metadata(copy.join("target/sparse")).unwrap();
    assert_eq!((meta.len(), meta.modified().unwrap()), (8 << 30, past));
    assert!(meta.blocks() < 100, "the hole was filled");
    std::fs::remove_file(tree.workdir().join("target/sparse")).unwrap();
    std::fs::remove_file(copy.join("target/sparse")).unwrap();
    assert_eq!(Files::read(&copy), Files::read(tree.workdir()));
    assert!(tree.isolate("../x").is_err());
    crabbox_helper::tree::forget_isolated(&on.dir.path().join("cbx_1"), "run_1").unwrap();
    assert!(!copy.parent().unwrap().exists());
}

#[test]
fn renames_and_branches_switched_back_cost_no_bytes() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let mut one = Files::default();
    for n in 0..30 {
        one.put(&format!("src/{n}"), &noise(900, n));
    }
    one.put("big", &noise(2 << 20, 7));
    laptop.fly(&mut tree, &one);

    let mut moved = Files::default();
    for (path, file) in &one.0 {
        moved.0.insert(Path::new("renamed").join(path), file.clone());
    }
    moved.0.insert("twin".into(), one.0[Path::new("src/3")].clone());
    moved.0.insert("big twin".into(), one.0[Path::new("big")].clone());
    let flown = laptop.fly(&mut tree, &moved);
    assert_eq!((flown.sent, flown.applied.received_bytes), (0, 0));
    assert_eq!(Files::read(tree.workdir()), moved);

    let mut other = Files::default();
    for n in 0..30 {
        other.put(&format!("src/{n}"), &noise(900, 1000 + n));
    }
    assert_eq!(laptop.fly(&mut tree, &other).sent, 30);
    for files in [&one, &other, &moved] {
        assert_eq!(laptop.fly(&mut tree, files).sent, 0, "the store has it");
        assert_eq!(Files::read(tree.workdir()), *files);
    }
}

#[test]
fn files_that_change_places_need_no_bytes() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("a", "first"), ("b", "second"), ("c", "third")]));
    let turned = Files::of(&[("a", "third"), ("b", "first"), ("c", "second"), ("d", "first")]);
    assert_eq!(laptop.fly(&mut tree, &turned).sent, 0);
    assert_eq!(Files::read(tree.workdir()), turned);
    for path in ["a", "b", "c", "d"] {
        assert_eq!(std::fs::metadata(tree.workdir().join(path)).unwrap().nlink(), 1, "{path}");
    }
}

#[test]
fn a_second_tree_under_the_same_work_root_needs_no_bytes_and_shares_no_file() {
    let on = Box::new();
    let (mut first, mut second) = (on.tree(), on.lease("cbx_2"));
    let mut files = Files::of(&[("a", "1"), ("b/c", "2")]);
    files.put("big", &noise(3 << 20, 5));
    Laptop::new().fly(&mut first, &files);
    assert_eq!(Laptop::new().fly(&mut second, &files).sent, 0);
    assert_eq!(Files::read(second.workdir()), files);
    let ino = |tree: &Tree| std::fs::metadata(tree.workdir().join("big")).unwrap().ino();
    assert_ne!(ino(&first), ino(&second));
}

#[test]
fn content_that_only_claims_to_be_right_is_not_taken() {
    let on = Box::new();
    let (mut first, mut second) = (on.tree(), on.lease("cbx_2"));
    let mut laptop = Laptop::new();
    let files = Files::of(&[("a", "aaaa"), ("b", "bbbb")]);
    laptop.fly(&mut first, &files);
    laptop.fly(&mut first, &Files::of(&[("b", "bbbb")]));
    std::fs::write(first.workdir().join("b"), "evil").unwrap();
    let store = on.dir.path().join(".crabbox/store/objects");
    for object in Files::read(&store).0.keys() {
        std::fs::write(store.join(object), "evil").unwrap();
    }
    assert_eq!(Laptop::new().fly(&mut second, &files).sent, 2);
    assert_eq!(Files::read(second.workdir()), files);
}

#[test]
fn an_insertion_into_a_large_file_costs_a_few_chunks() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let mut bytes = noise(20 << 20, 3);
    let mut files = Files::default();
    files.put("large", &bytes);
    laptop.fly(&mut tree, &files);
    bytes.insert(9 << 20, 42);
    files.put("large", &bytes);
    let flown = laptop.fly(&mut tree, &files);
    assert!((1..=4).contains(&flown.sent), "{} chunks", flown.sent);
    assert_eq!(Files::read(tree.workdir()), files);
    bytes.truncate(11 << 20);
    files.0.clear();
    files.put("elsewhere", &bytes);
    let flown = laptop.fly(&mut tree, &files);
    assert!(flown.sent <= 2, "{} chunks", flown.sent);
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn a_file_placed_anew_is_newer_than_what_was_built_before() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let (one, two) = (Files::of(&[("a", "1")]), Files::of(&[("a", "2")]));
    laptop.fly(&mut tree, &one);
    laptop.fly(&mut tree, &two);
    put(&tree.workdir().join("built"), "from 2");
    let built = std::fs::metadata(tree.workdir().join("built")).unwrap().modified().unwrap();
    assert_eq!(laptop.fly(&mut tree, &one).sent, 0);
    let placed = std::fs::metadata(tree.workdir().join("a")).unwrap().modified().unwrap();
    assert!(placed >= built, "make would not build again");
}

#[test]
fn a_sweep_looks_and_makes_nothing() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let files = Files::of(&[("a", "1"), ("b", "2")]);
    laptop.fly(&mut tree, &files);
    tree.sweep().unwrap();
    tree.guard();
    std::fs::remove_dir_all(tree.workdir()).unwrap();
    assert_eq!(tree.sweep().unwrap().drifted, 2);
    tree.guard();
    assert!(!tree.workdir().exists());
    assert_eq!(laptop.fly(&mut tree, &files).refusals, 1);
    assert_eq!(std::fs::read(tree.workdir().join("b")).unwrap(), b"2");
}

#[test]
fn a_guard_forgets_nothing_of_what_it_has_seen() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let files = Files::of(&[("dir/a", "1"), ("dir/sub/b", "2"), ("c", "3")]);
    laptop.fly(&mut tree, &files);
    tree.sweep().unwrap();
    std::fs::write(tree.workdir().join("dir/a"), "drift").unwrap();
    assert_eq!(tree.sweep().unwrap().drifted, 1);
    assert_eq!(tree.sweep().unwrap().drifted, 1, "seen once, known since");
    assert_eq!(laptop.fly(&mut tree, &files).refusals, 1);
    assert_eq!(laptop.fly(&mut tree, &files).refusals, 0);

    // Through a second name outside the tree the system reports nothing.
    tree.sweep().unwrap();
    let outside = on.dir.path().join("second name");
    std::fs::hard_link(tree.workdir().join("c"), &outside).unwrap();
    tree.sweep().unwrap();
    std::fs::write(&outside, "x").unwrap();
    assert_eq!(laptop.fly(&mut tree, &files).refusals, 1);
    assert_eq!(std::fs::read(&outside).unwrap(), b"x");

    // Another flight changes the tree and the state under a tree that is kept open.
    tree.sweep().unwrap();
    let other = Files::of(&[("dir/a", "1"), ("new", "4")]);
    let mut second = Laptop::new();
    second.fly(&mut on.tree(), &other);
    let flown = laptop.fly(&mut tree, &files);
    assert_eq!(flown.refusals, 1, "the base is another one");
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn a_state_that_is_not_whole_costs_no_bytes() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let files = Files::of(&[("a", "right")]);
    laptop.fly(&mut tree, &files);
    tree.sweep().unwrap();
    let note = on.dir.path().join("cbx_1/.crabbox/tree/repo/state");
    let mut state = std::fs::read(&note).unwrap();
    state.truncate(state.len() - 8);
    std::fs::write(&note, &state).unwrap();
    let flown = laptop.fly(&mut tree, &files);
    assert_eq!((flown.refusals, flown.sent), (1, 0));
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn a_tree_that_was_synced_without_a_helper_is_taken_over() {
    let on = Box::new();
    let base = on.dir.path().join("cbx_1");
    let files = Files::of(&[("a", "1"), ("b/c", "2"), ("gone", "3")]);
    for (path, text) in [("a", "1"), ("b/c", "2"), ("gone", "3"), ("built", "4")] {
        put(&base.join("repo").join(path), text);
    }
    let note = base.join(".crabbox/sync/repo/manifest");
    put(&note, &files.manifest().to_text());
    let mut tree = on.tree();
    let wanted = Files::of(&[("a", "1"), ("b/c", "2")]);
    let flown = Laptop::new().fly(&mut tree, &wanted);
    assert_eq!((flown.sent, flown.applied.written, flown.applied.removed), (0, 0, 1));
    let all = Files::of(&[("a", "1"), ("b/c", "2"), ("built", "4")]);
    assert_eq!(Files::read(tree.workdir()), all);
    assert!(!note.exists());

    // And again, after both had the tree: what the other sent is managed here, too.
    put(&base.join("repo/later"), "5");
    put(&note, &Files::of(&[("a", "1"), ("later", "5")]).manifest().to_text());
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("a", "1")]));
    assert_eq!(Files::read(tree.workdir()), Files::of(&[("a", "1"), ("built", "4")]));
    assert!(!note.exists());
    tree.sweep().unwrap();
    assert_eq!(laptop.fly(&mut tree, &Files::of(&[("a", "1")])).refusals, 0);
}

#[test]
fn a_locked_tree_is_waited_for_and_its_holder_is_named() {
    let on = Box::new();
    let (tree, other) = (on.tree(), on.tree());
    let ask = |owner: &str, wait_ms| LockAsk { owner: owner.to_owned(), wait_ms };
    let held = tree.lock(&ask("run_1 on laptop", 0), &mut |_| (), &|| false).unwrap();
    let busy = other.lock(&ask("run_2", 0), &mut |_| (), &|| false).unwrap_err();
    assert_eq!(busy, Fault::Busy { owner: "run_1 on laptop".into() });
    let mut told = Vec::new();
    let cancelled =
        other.lock(&ask("run_2", 60_000), &mut |who| told.push(who.to_owned()), &|| true);
    assert_eq!(cancelled.unwrap_err(), Fault::Cancelled);
    assert_eq!(told, ["run_1 on laptop"]);
    let kept = held.fd().try_clone_to_owned().unwrap();
    drop(held);
    assert!(other.lock(&ask("run_2", 0), &mut |_| (), &|| false).is_err(), "a copy holds it, too");
    let late = std::thread::spawn(move || drop(kept));
    other.lock(&ask("run_2", 60_000), &mut |_| (), &|| false).unwrap();
    late.join().unwrap();
}

#[test]
fn directories_that_a_command_closed_are_opened_again() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("shut/in/a", "1"), ("shut/b", "2")]));
    for mode in [0o000, 0o500, 0o300] {
        chmod(&tree.workdir().join("shut/in"), mode);
        chmod(&tree.workdir().join("shut"), mode);
        chmod(tree.workdir(), mode);
        let files = Files::of(&[("shut/in/a", &mode.to_string()), ("shut/b", "2")]);
        laptop.fly(&mut tree, &files);
        assert_eq!(Files::read(tree.workdir()), files);
    }
    chmod(&tree.workdir().join("shut/in"), 0o000);
    let files = Files::of(&[("shut", "a file now")]);
    laptop.fly(&mut tree, &files);
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn names_may_change_only_their_case() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("README", "1"), ("Dir/One", "2")]));
    let files = Files::of(&[("readme", "1"), ("dir/One", "2")]);
    assert_eq!(laptop.fly(&mut tree, &files).sent, 0);
    assert_eq!(Files::read(tree.workdir()), files);
    assert!(!tree.workdir().join("Dir").exists());
}

#[test]
fn a_delta_that_no_tree_can_hold_is_refused_before_anything_is_written() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let files = Files::of(&[("a", "1")]);
    laptop.fly(&mut tree, &files);
    for path in ["a/b", "a/b/c"] {
        let mut both = files.clone();
        both.put(path, b"below a file");
        let manner = Manner::default();
        let fault = laptop.fly_so(&mut tree, &both, manner).unwrap_err().unwrap();
        assert!(matches!(fault, Fault::Protocol(_)), "{fault:?}");
    }
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn huge_files_with_holes_arrive_with_holes() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut files = Files::default();
    let mut bytes = vec![0; 24 << 20];
    bytes[12 << 20..(12 << 20) + 100_000].copy_from_slice(&noise(100_000, 1));
    files.put("sparse", &bytes);
    Laptop::new().fly(&mut tree, &files);
    assert_eq!(Files::read(tree.workdir()), files);
    let meta = std::fs::metadata(tree.workdir().join("sparse")).unwrap();
    assert!(meta.blocks() * 512 < 2 << 20, "{} blocks", meta.blocks());
}

#[test]
fn what_a_cut_transfer_left_is_proved_before_it_is_used() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    let files = Files::of(&[("a", "aaaa"), ("b", "bbbb"), ("c", "cccc")]);
    let manner = Manner { ask: true, cut: Some(2), ..Manner::default() };
    assert!(matches!(laptop.fly_so(&mut tree, &files, manner), Err(None)));
    let staging = on.dir.path().join("cbx_1/.crabbox/tree/repo/staging");
    let staged = Files::read(&staging);
    assert_eq!(staged.0.len(), 2);
    std::fs::write(staging.join(staged.0.keys().next().unwrap()), "torn").unwrap();
    assert_eq!(laptop.fly(&mut tree, &files).sent, 2, "the torn one and the one that never came");
    assert_eq!(Files::read(tree.workdir()), files);
}

#[test]
fn a_file_with_a_second_name_never_reaches_the_store() {
    let on = Box::new();
    let mut tree = on.tree();
    let mut laptop = Laptop::new();
    laptop.fly(&mut tree, &Files::of(&[("gone", "1111"), ("replaced", "2222")]));
    for path in ["gone", "replaced"] {
        std::fs::hard_link(tree.workdir().join(path), on.dir.path().join(path)).unwrap();
    }
    tree.sweep().unwrap();
    laptop.fly(&mut tree, &Files::of(&[("replaced", "other")]));
    for (path, text) in [("gone", "1111"), ("replaced", "2222")] {
        let outside = on.dir.path().join(path);
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), text);
        assert_eq!(std::fs::metadata(&outside).unwrap().nlink(), 1, "{path} is shared");
    }
}

#[test]
fn a_file_of_more_than_four_gibibytes_arrives_and_its_zeros_stay_a_hole() {
    use crabbox_schemas::helper::TreeChange;
    use crabbox_tree::{Chunk, Entry, Kind, Manifest, Recipe, block::Block, content_hash, hex};
    use sha2::{Digest, Sha256};

    let (zeros, end) = (vec![0; 1 << 20], b"the end");
    let count = 4097;
    let mut hash = Sha256::new();
    (0..count).for_each(|_| hash.update(&zeros));
    hash.update(end);
    let (size, content) = (count * (1 << 20) + 7, hash.finalize().into());
    assert!(size > 4 << 30);
    let kind = Kind::File { size, sha256: content, exec: false };
    let wanted = Manifest::new(vec![Entry { path: "huge".into(), kind }]).unwrap();
    let nothing = Manifest::default();
    let mut delta = nothing.delta(&wanted);
    let chunk = |bytes: &[u8]| Chunk { len: bytes.len() as u32, sha256: content_hash(bytes) };
    let mut chunks = vec![chunk(&zeros); usize::try_from(count).unwrap()];
    chunks.push(chunk(end));
    delta.recipes.push(Recipe { content, chunks });

    let on = Box::new();
    let mut tree = on.tree();
    let change = TreeChange {
        base: hex(&nothing.digest()),
        target: hex(&wanted.digest()),
        ask: false,
        checksum: false,
        seed: None,
    };
    let begun = tree.begin(&change, delta).unwrap();
    let crabbox_helper::tree::Begin::Ready(mut staging) = begun else { panic!("{begun:?}") };
    assert_eq!(staging.pieces().len(), 2, "what repeats travels once");
    for bytes in [&zeros[..], end] {
        let mut block = Block::default();
        block.push(&content_hash(bytes), bytes);
        staging.put(block.seal(Some(1)).unwrap().into()).unwrap();
    }
    staging.apply(&mut tree).unwrap();
    let at = tree.workdir().join("huge");
    let meta = std::fs::metadata(&at).unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 64 << 20, "{} bytes on the disk", meta.blocks() * 512);
    let mut last = [1; 9];
    let file = std::fs::File::open(&at).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, size - 9).unwrap();
    assert_eq!(&last, b"\0\0the end");
    let again = TreeChange { base: change.target.clone(), ..change };
    let begun = tree.begin(&again, wanted.delta(&wanted)).unwrap();
    assert!(matches!(begun, crabbox_helper::tree::Begin::Ready(_)), "{begun:?}");
}

//! Random trees and random harm on both sides: after a sync the box holds the tree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::boxes::BARE;
use super::*;

/// What one step does to a path.
#[derive(Debug, Clone)]
enum Act {
    File(Vec<u8>, bool),
    Link(String),
    Remove,
}

fn segment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![b"a".to_vec(), b"A".to_vec(), b"b".to_vec(), b"-c".to_vec()]),
        1 => prop::collection::vec(any::<u8>().prop_filter("not a name", |b| *b != 0 && *b != b'/'), 1..8)
            .prop_filter("not a name", |s| s != b"." && s != b".." && s != b".git"),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (prop::collection::vec(any::<u8>(), 0..600), any::<bool>()).prop_map(|(c, x)| Act::File(c, x)),
        2 => prop::sample::select(vec!["a", "..", "../..", "/tmp", "nowhere"]).prop_map(|t| Act::Link(t.to_owned())),
        2 => Just(Act::Remove),
    ]
}

type Step = (Vec<Vec<u8>>, Act);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((prop::collection::vec(segment(), 1..4), act()), 0..12)
}

/// Applies a step inside `root`; what stands in the way goes.
fn apply(root: &Path, (segments, act): &Step) {
    let mut at = root.to_path_buf();
    let (last, parents) = segments.split_last().unwrap();
    for segment in parents {
        at.push(name(segment));
        if at.is_symlink() || at.is_file() {
            std::fs::remove_file(&at).unwrap();
        }
        if !at.is_dir() {
            std::fs::create_dir(&at).unwrap();
        }
    }
    at.push(name(last));
    if at.is_symlink() || at.is_file() {
        std::fs::remove_file(&at).unwrap();
    } else if at.is_dir() {
        std::fs::remove_dir_all(&at).unwrap();
    }
    match act {
        Act::File(content, exec) => {
            put(&at, content);
            chmod(&at, if *exec { 0o755 } else { 0o644 });
        }
        Act::Link(target) => symlink(target, &at).unwrap(),
        Act::Remove => {}
    }
}

/// What stands where, by a walk of its own.
fn look_at(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, &'static str)> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let at = item.unwrap().path();
            let meta = at.symlink_metadata().unwrap();
            let path = at.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                todo.push(at);
            } else if meta.is_symlink() {
                out.insert(
                    path,
                    (
                        std::fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes(),
                        "link",
                    ),
                );
            } else {
                let kind = if meta.permissions().mode() & 0o100 != 0 { "program" } else { "file" };
                out.insert(path, (std::fs::read(&at).unwrap(), kind));
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(48), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_edits_on_both_sides_the_box_holds_the_tree(
        first in steps(), here in steps(), there in steps(), bare in any::<bool>(), cut in prop::option::of(0usize..6000),
    ) {
        let local = tempfile::tempdir().unwrap();
        let to = if bare { LocalBox::with_only(BARE) } else { LocalBox::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        first.iter().for_each(|step| apply(local.path(), step));
        runtime.block_on(send(&to, local.path()));
        let before = look_at(&to.workdir());
        prop_assert_eq!(&before, &look_at(local.path()));
        here.iter().for_each(|step| apply(local.path(), step));
        there.iter().for_each(|step| apply(&to.workdir(), step));
        let harmed = look_at(&to.workdir());
        to.cut_after.set(cut);
        let _ = runtime.block_on(send_with(&to, &tree(local.path()), SyncRules::default()));
        to.cut_after.set(None);
        runtime.block_on(send(&to, local.path()));
        let (wanted, after) = (look_at(local.path()), look_at(&to.workdir()));
        for (path, entry) in &wanted {
            prop_assert_eq!(after.get(path), Some(entry), "{:?}", path);
        }
        for (path, entry) in after.iter().filter(|(path, _)| !wanted.contains_key(*path)) {
            prop_assert!(!before.contains_key(path), "{:?} was sent once and should be gone", path);
            prop_assert_eq!(harmed.get(path), Some(entry), "{:?} is the box's own", path);
        }
    }
}

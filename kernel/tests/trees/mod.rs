//! Trees for tests: every odd entry, random edits, and what really stands in a directory by a walk of its own.

#![expect(clippy::unwrap_used, reason = "a tree that cannot be made fails the test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// What one step does to a path.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    File(Vec<u8>, bool),
    Link(String),
    Remove,
}

/// A path and what is done to it.
pub(crate) type Edit = (Vec<Vec<u8>>, Act);

fn segment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![b"a".to_vec(), b"A".to_vec(), b"b".to_vec(), b"-c".to_vec()]),
        1 => prop::collection::vec(any::<u8>().prop_filter("not a name", |b| *b != 0 && *b != b'/'), 1..8)
            .prop_filter("not a name", |s| s != b"." && s != b".." && s != b".git"),
    ]
}

/// Small contents, a few that repeat, and some that travel in chunks.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..600),
        6 => prop::sample::select(vec![b"same".to_vec(), b"other".to_vec()]),
        1 => (any::<u32>(), 1_050_000..1_300_000usize).prop_map(|(seed, len)| noise(seed, len)),
    ]
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) | 1 << 40;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (content(), any::<bool>()).prop_map(|(c, x)| Act::File(c, x)),
        2 => prop::sample::select(vec!["a", "..", "../..", "/tmp", "nowhere"]).prop_map(|t| Act::Link(t.to_owned())),
        2 => Just(Act::Remove),
    ]
}

/// Some edits.
pub(crate) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec((prop::collection::vec(segment(), 1..4), act()), 0..12)
}

/// Does an edit inside `root`; what stands in the way goes.
pub(crate) fn edit(root: &Path, (segments, act): &Edit) {
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

/// What stands where: content or target, and the kind.
pub(crate) fn look_at(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, &'static str)> {
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
                let target = std::fs::read_link(&at).unwrap();
                out.insert(path, (target.into_os_string().into_encoded_bytes(), "link"));
            } else {
                let kind = if meta.permissions().mode() & 0o100 != 0 { "program" } else { "file" };
                out.insert(path, (std::fs::read(&at).unwrap(), kind));
            }
        }
    }
    out
}

pub(crate) fn put(at: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
}

pub(crate) fn chmod(at: &Path, mode: u32) {
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn name(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Every odd kind of entry.
pub(crate) fn odd(root: &Path) {
    let write = |path: &Path, text: &[u8]| put(&root.join(path), text);
    for bytes in [
        b"with space".as_slice(),
        b"new\nline",
        b"trailing newline\n",
        b"back\\slash",
        b"back\\nslash-n",
        b"carriage\rreturn",
        b"single'quote",
        b"double\"quote",
        b"dollar$HOME`id`",
        b"-rf",
        b"--help",
        b"@args",
        b"#hash",
        b"~",
        b"*",
        b"sub/-n",
        b"caf\xc3\xa9",
        b"not utf8 \xff\xfe",
        b"tab\there",
        b"...",
    ] {
        write(name(bytes), bytes);
    }
    write(Path::new("empty"), b"");
    let long = "d".repeat(120);
    let deep = format!("{}/{}", [long.as_str(); 6].join("/"), "f".repeat(230));
    write(Path::new(&deep), b"deep");
    write(Path::new("run.sh"), b"#!/bin/sh\n");
    chmod(&root.join("run.sh"), 0o755);
    write(Path::new("big"), &[7; 1_000_003]);
    write(Path::new("bigger"), &noise(1, 3_000_001));
    write(Path::new("README"), b"hello\n");
    for (target, link) in [
        ("README", "link"),
        ("nowhere/at all", "dangling"),
        ("../../outside", "out"),
        ("/etc", "absolute"),
        ("sub", "link to dir"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    symlink("t".repeat(300), root.join("long target")).unwrap();
    symlink(name(b"odd\n\\target \xff"), root.join(name(b"odd\\link\n"))).unwrap();
}

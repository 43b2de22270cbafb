//! Odd file trees, and a digest that says whether two trees are the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Names that break careless code: spaces, quotes, newlines, dashes, globs, bytes that are no UTF-8.
pub const ODD_NAMES: &[&[u8]] = &[
    b"with space",
    b" leading",
    b"trailing ",
    b"new\nline",
    b"tab\there",
    b"quo'te",
    b"dou\"ble",
    b"back\\slash",
    b"dollar$HOME",
    b"tick`id`",
    b"semi;colon",
    b"star*glob?[x]",
    b"-rf",
    b"--help",
    b"#hash",
    b"~tilde",
    b"{a,b}",
    "snowman-☃".as_bytes(),
    b"latin1-\xe9\xff",
    b"\x01control\x7f",
    b"cr\rhere",
    b"percent%s%n",
    b"dot.",
    b"...",
    b"equals=sign",
    b"at@colon:",
];

/// Writes about `count` files below `dir`, of every odd kind: names, empty files, binary content, executables,
/// symbolic links (dangling ones too), deep folders, long names.
pub fn write_odd(dir: &Path, count: usize) {
    for n in 0..count {
        let folder = dir.join(format!("d{}/e{}", n % 17, n % 5));
        fs::create_dir_all(&folder).expect("a folder");
        let body: Vec<u8> = (0..(n * 37) % 4099).map(|i| ((i * 31 + n) % 256) as u8).collect();
        fs::write(folder.join(format!("f{n}")), body).expect("a file");
    }
    let odd = dir.join("odd");
    fs::create_dir_all(&odd).expect("a folder");
    for (n, name) in ODD_NAMES.iter().enumerate() {
        let name = OsStr::from_bytes(name);
        fs::write(odd.join(name), format!("odd {n}\n")).expect("a file with an odd name");
        let folder = dir.join("odd folders").join(name);
        fs::create_dir_all(&folder).expect("a folder with an odd name");
        fs::write(folder.join(name), name.as_bytes()).expect("a file with an odd name");
    }
    fs::write(odd.join("empty"), "").expect("an empty file");
    fs::write(odd.join("n".repeat(255)), "long name").expect("a long name");
    fs::write(odd.join("big.bin"), vec![0xa5; 3 << 20]).expect("a big file");
    let script = odd.join("run me.sh");
    fs::write(&script, "#!/bin/sh\necho ran\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("an executable");
    for (target, link) in [
        ("empty", "link"),
        ("/nowhere/at all", "dangling"),
        ("../odd", "to folder"),
        ("a\nb", "odd target"),
    ] {
        symlink(target, odd.join(link)).expect("a symbolic link");
    }
}

/// What a tree holds: path → kind, executable bit, content hash or link target. `.git` and crabbox's own folder
/// at the top are left out, and so are empty folders, which git does not know.
pub fn contents(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<Vec<u8>, String>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let entry = entry.expect("a readable entry");
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        let name = path.strip_prefix(root).expect("below the root").as_os_str().as_bytes().to_vec();
        if dir == root && matches!(name.as_slice(), b".git" | b".crabbox") {
            continue;
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            found.insert(name, format!("link {:?}", target.as_os_str().as_bytes()));
        } else if kind.is_dir() {
            walk(root, &path, found);
        } else {
            let executable = entry.metadata().expect("facts").permissions().mode() & 0o100 != 0;
            let hash = Sha256::digest(fs::read(&path).expect("a readable file"));
            let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
            found.insert(name, format!("file {executable} {hex}"));
        }
    }
}

/// Fails with the first few differences when two trees are not the same.
pub fn assert_same(here: &Path, there: &Path) {
    let (left, right) = (contents(here), contents(there));
    let shown = |name: &Vec<u8>| String::from_utf8_lossy(name).escape_debug().to_string();
    let names = left.keys().chain(right.keys());
    let differ: Vec<String> = names
        .filter(|name| left.get(*name) != right.get(*name))
        .take(10)
        .map(|name| {
            format!("{}: {:?} here, {:?} there", shown(name), left.get(name), right.get(name))
        })
        .collect();
    assert!(
        differ.is_empty(),
        "{} and {} differ:\n{}",
        here.display(),
        there.display(),
        differ.join("\n")
    );
}

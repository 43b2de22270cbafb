//! Manifests, locks, schemas and packages that say anything at all: an error or a value, and nothing outside the folder.

use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{lock, manifest, package, settings};

const MANIFEST: &str = r#"
manifest = 1
id = "example.dev/toy"
version = "1.0.0"
protocols = ["1"]
[[provider]]
name = "toy"
kind = "ssh-lease"
targets = ["linux"]
config-schema = "config.schema.json"
[[artifact]]
runtime = "stdio"
path = "bin/toy"
[grants]
http = [{ origin = "https://api.example.dev" }]
secrets = [{ name = "token", env = ["TOY"] }]
"#;

/// Seeds are drawn anew; a case that failed is written down as a test of its own.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

/// A text with some bytes changed, taken out, or doubled.
fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    prop::collection::vec(change, 0..6).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "type",
        "object",
        "properties",
        "string",
        "integer",
        "enum",
        "items",
        "array",
        "default",
        "x-crabbox-flag",
        "a-b",
        "",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(words.to_vec()), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

/// A package of one file under this name, of this kind, that says it is this large.
fn packed(path: &[u8], kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut file = |name: &[u8], kind: u8, size: u64, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        let len = name.len().min(field.len());
        field[..len].copy_from_slice(&name[..len]);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_link_name("../../outside").unwrap();
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    file(manifest::FILE.as_bytes(), b'0', MANIFEST.len() as u64, MANIFEST.as_bytes());
    file(path, kind, size, content);
    tar.extend_from_slice(&[0; 1024]);
    zstd::encode_all(&*tar, 1).unwrap()
}

/// Unpacks below a folder of its own; everything that is there afterwards must be a plain file below it.
fn unpack(bytes: &[u8]) -> bool {
    let room = TempDir::new().unwrap();
    let folder = room.path().join("a/b/store");
    fs::create_dir_all(&folder).unwrap();
    let done = package::unpack(bytes, &folder).is_ok();
    assert_eq!(names(room.path()), ["a"]);
    assert_eq!(names(&room.path().join("a/b")), ["store"]);
    only_plain(&folder);
    done
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn only_plain(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir(), "{entry:?}");
        if kind.is_dir() {
            only_plain(&entry.path());
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_damaged_manifest_is_an_error_or_a_manifest_that_stays_in_its_folder(bytes in damaged(MANIFEST)) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(manifest::FILE);
        fs::write(&path, bytes).unwrap();
        if let Ok(read) = manifest::read(&path) {
            for artifact in &read.artifacts {
                prop_assert!(!artifact.path.contains("..") || !artifact.path.split('/').any(|p| p == ".."));
                prop_assert!(!artifact.path.starts_with('/'));
            }
        }
    }

    #[test]
    fn a_damaged_lock_is_an_error_or_a_lock(
        bytes in damaged(r#"{"lock":1,"plugins":{"example.dev/toy":{"version":"1.0.0","files":"sha256:00","grants":"sha256:11"}}}"#),
    ) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("crabbox.lock");
        fs::write(&path, bytes).unwrap();
        let _ = lock::read(&path);
    }

    #[test]
    fn any_schema_gives_flags_with_names_that_can_be_typed(schema in any_json()) {
        let schema = json!({"type": "object", "properties": {"a": schema.clone(), "b": {"properties": {"c": schema}}}});
        for flag in settings::flags("toy", &schema) {
            prop_assert!(!flag.config_key.is_empty());
        }
    }

    #[test]
    fn a_package_of_any_bytes_leaves_nothing_outside_its_folder(
        bytes in prop::collection::vec(any::<u8>(), 0..2000), at in any::<prop::sample::Index>(), compressed in any::<bool>(),
    ) {
        let mut package = packed(b"bin/toy", b'0', 5, b"hello");
        let at = at.index(package.len());
        package.splice(at.., bytes.clone());
        unpack(&package);
        if compressed {
            unpack(&zstd::encode_all(&*bytes, 1).unwrap());
        }
    }

    #[test]
    fn no_path_and_no_kind_of_entry_leads_out(
        parts in prop::collection::vec(prop::sample::select(vec!["..", ".", "", "a", "bin", "\u{0}", "crabbox-plugin.toml", "é"]), 1..6),
        absolute in any::<bool>(), kind in prop::sample::select(b"01234567gxLK".to_vec()),
    ) {
        let path = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        unpack(&packed(path.as_bytes(), kind, 5, b"hello"));
    }
}

#[test]
fn what_says_it_is_larger_than_the_world_is_refused() {
    assert!(unpack(&packed(b"bin/toy", b'0', 5, b"hello")));
    for size in [(1 << 30) + 1, u64::MAX >> 1, u64::MAX - 1, u64::MAX] {
        assert!(!unpack(&packed(b"bin/toy", b'0', size, b"hello")), "{size}");
    }
    // A bomb: half a gigabyte of nothing, twice, in some kilobytes.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path(manifest::FILE).unwrap();
    header.set_size(3 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    assert!(!unpack(&bomb.finish().unwrap()));
}

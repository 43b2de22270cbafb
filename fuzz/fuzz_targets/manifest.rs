//! A manifest of any bytes: an error, or one whose paths stay in its folder.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(crabbox_plugins::MANIFEST_FILE);
    std::fs::write(&path, bytes).expect("a file");
    if let Ok(manifest) = crabbox_plugins::read_manifest(&path) {
        for artifact in &manifest.artifacts {
            let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
            assert!(Path::new(&artifact.path).components().all(inside), "{}", artifact.path);
        }
    }
});

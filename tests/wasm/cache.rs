//! Machine code is made once, kept for its user alone, and never believed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crabbox_plugin_sdk::testkit::replay_command;
use crabbox_tests::binary;

use crate::guest::{ECHO, HELLO, Stage, call};

fn works(stage: &Stage) {
    let good = call(2, "lease.list", 60_000, "");
    stage.plays(&format!("{good}{}\n", r#"{"d":"<","match":{"id":2,"result":{}}}"#));
}

fn kept(stage: &Stage) -> PathBuf {
    let files: Vec<_> = fs::read_dir(stage.cache()).unwrap().flatten().map(|e| e.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_guest_is_compiled_once_and_for_its_user_only() {
    let stage = Stage::new(&ECHO);
    works(&stage);
    let file = kept(&stage);
    assert_eq!((mode(&stage.cache()), mode(&file)), (0o700, 0o600));
    let made = file.metadata().unwrap().modified().unwrap();
    works(&stage);
    assert_eq!(file.metadata().unwrap().modified().unwrap(), made);
}

#[test]
fn what_was_changed_or_could_have_been_is_compiled_anew() {
    let stage = Stage::new(&ECHO);
    works(&stage);
    let file = kept(&stage);
    let good = fs::read(&file).unwrap();
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("a changed byte", &|| {
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            fs::write(&file, bad).unwrap();
        }),
        ("a torn file", &|| fs::write(&file, &good[..good.len() / 2]).unwrap()),
        ("a file others may write", &|| {
            fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        }),
        ("a folder others may write", &|| {
            fs::set_permissions(stage.cache(), Permissions::from_mode(0o777)).unwrap();
        }),
        ("a link", &|| {
            fs::rename(&file, stage.dir.path().join("elsewhere")).unwrap();
            symlink(stage.dir.path().join("elsewhere"), &file).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        spoil();
        works(&stage);
        let again = kept(&stage);
        assert!(again.symlink_metadata().unwrap().is_file(), "{what}");
        assert_eq!((mode(&stage.cache()), mode(&again)), (0o700, 0o600), "{what}");
        assert_eq!(fs::read(&again).unwrap(), good, "{what}");
    }
}

#[test]
fn code_of_another_engine_is_compiled_anew() {
    let fueled = Stage::new(&ECHO).with(&["--fuel", "1000000"]);
    works(&fueled);
    let stage = Stage::new(&ECHO);
    works(&stage);
    let file = kept(&stage);
    fs::copy(kept(&fueled), &file).unwrap();
    works(&stage);
}

#[test]
fn compiled_code_in_a_package_is_refused() {
    let stage = Stage::new(&ECHO);
    works(&stage);
    fs::copy(kept(&stage), stage.dir.path().join("guest.wasm")).unwrap();
    let refused = refusal("is no WebAssembly");
    replay_command(stage.command(), &refused).unwrap();
}

#[test]
fn without_the_compiler_the_error_says_what_to_install() {
    let stage = Stage::new(&ECHO);
    let alone = stage.dir.path().join("crabbox-wasm-runner");
    fs::copy(binary("crabbox-wasm-runner"), &alone).unwrap();
    let mut command = Command::new(alone);
    command.env_clear().env("HOME", stage.dir.path()).arg(stage.dir.path().join("guest.wasm"));
    replay_command(command, &refusal("install crabbox-wasm-compile beside crabbox")).unwrap();
}

fn refusal(words: &str) -> String {
    let hello = HELLO.lines().next().unwrap();
    format!(
        r#"{hello}
{{"d":"<","match":{{"id":1,"error":{{"code":1003,"message":{{"$contains":"{words}"}},"data":{{"kind":"unsupported"}}}}}}}}
"#
    )
}

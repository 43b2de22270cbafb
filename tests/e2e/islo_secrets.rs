//! The key and the session: at Islo, in the host's memory, and nowhere else. And crabbox dying at any moment.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{ISLO_KEY, holders, tapped};
use rustix::process::Signal;
use serde_json::json;

use crate::islo::stage;
use crate::matrix::wished;

/// What every session's token begins with.
const SESSION: &str = "session-";

#[test]
fn neither_is_in_a_frame_a_file_an_argument_or_the_commands_environment() {
    let (room, islo, repo) = stage();
    let plugin = tapped(&room, "islo").display().to_string();
    let line = "env; tr '\\0' '\\n' </proc/$PPID/environ; echo begun; while [ ! -e go ]; do sleep 0.05; done";
    let words = ["run", "--debug", "--plugin-dev", &plugin, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(90)).start();
    running.prints("begun");
    for (pid, line) in room.processes() {
        assert!(!line.contains(ISLO_KEY) && !line.contains(SESSION), "{pid:?}: {line}");
    }
    let name = islo.boxes().remove(0);
    fs::write(islo.folder(&name, "workspace/crabbox/go"), "").unwrap();
    let ended = running.wait().expect(0);
    let shown = format!("{}{}", ended.out(), ended.err());
    assert!(!shown.contains(ISLO_KEY) && !shown.contains(SESSION), "{shown}");
    let told = fs::read_to_string(room.at("frames.in")).unwrap();
    let said = fs::read_to_string(room.at("frames.out")).unwrap();
    assert!(told.contains("captured:1") && said.contains("/auth/token"), "{said}");
    for secret in [ISLO_KEY, SESSION] {
        assert_eq!(holders(room.path(), secret), [] as [PathBuf; 0], "{secret}");
    }
    room.assert_no_claims();
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_that_cleanup_does_not_finish() {
    let (room, islo, repo) = stage();
    let other = "crabbox-of-somebody-else";
    islo.set(&json!({"polls": 2, "foreign": other}));
    for case in 0..wished("CRABBOX_TEST_CASES").unwrap_or(16) {
        let words = ["run", "--", "sleep", "0.2"];
        let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
        std::thread::sleep(Duration::from_millis(40 + case * 45 % 900));
        running.signal(Signal::KILL);
        let _ = running.wait();
    }
    let _ = room.crabbox(&repo, ["cleanup"]).limit(Duration::from_secs(120)).ok();
    assert_eq!(islo.boxes(), [other]);
    room.assert_nothing_left();
}

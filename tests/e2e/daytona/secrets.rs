//! The key: at Daytona, in the host's memory, and nowhere else. And Daytona's own SDK as a second client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{DAYTONA_KEY, DaytonaFake, Room, binaries, gone_without, holders, tapped};

use serde_json::json;

use super::{on, stage};
use crate::prism::Prism;

#[test]
fn it_is_in_no_frame_no_file_no_argument_and_not_in_the_commands_environment() {
    let (room, daytona, repo) = stage();
    let plugin = tapped(&room, "daytona").display().to_string();
    let line = "env; tr '\\0' '\\n' </proc/$PPID/environ; echo begun; while [ ! -e go ]; do sleep 0.05; done";
    let words =
        ["run", "--debug", "--env", "SOME=v4lue", "--plugin-dev", &plugin, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(90)).start();
    running.prints("begun");
    for (pid, line) in room.processes() {
        assert!(!line.contains(DAYTONA_KEY), "{pid:?}: {line}");
    }
    let number = daytona.kept()[0]["id"].as_str().unwrap().to_owned();
    fs::write(daytona.folder(&number, "home/daytona/crabbox/tree/go"), "").unwrap();
    let ended = running.wait().expect(0);
    let shown = format!("{}{}", ended.out(), ended.err());
    assert!(!shown.contains(DAYTONA_KEY) && ended.out().contains("SOME=v4lue"), "{shown}");
    let said = fs::read_to_string(room.at("frames.out")).unwrap();
    assert!(said.contains("\"bearer\":\"api-key\""), "{said}");
    assert_eq!(holders(room.path(), DAYTONA_KEY), [] as [PathBuf; 0]);
    room.assert_no_claims();
}

#[test]
fn daytonas_own_sdk_makes_runs_copies_and_removes_at_the_small_daytona() {
    if gone_without("CRABBOX_TEST_SDK", "Daytona's Python SDK") {
        return;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    let room = Room::new();
    let daytona = DaytonaFake::alone();
    daytona.set(&json!({"deleting": 0}));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/daytona/fake/second_client.py");
    let call = room.call(python).args([script, DAYTONA_KEY, &daytona.url()]);
    let ended = call.env("PYTHONDONTWRITEBYTECODE", "1").limit(Duration::from_secs(120)).ok();
    assert_eq!(ended.out(), "created, listed, ran, streamed, uploaded, deleted\n", "{ended}");
    assert_eq!(daytona.boxes(), [""; 0]);
}

#[test]
fn neither_the_provider_nor_the_small_daytona_drifts_from_the_services_description() {
    let (room, daytona, repo) = stage();
    let api = format!("{}/api", daytona.url());
    let Some(prism) = Prism::start(&room, "daytona", &api) else { return };
    let config = fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    let toolbox = format!("  toolboxUrl: {}/toolbox\n", daytona.url());
    room.configure(&(config.replace(&api, &prism.address) + &toolbox));
    let _ = room.crabbox(&repo, ["warmup", "--slug", "some"]).limit(Duration::from_secs(60)).ok();
    assert_eq!(on(&room, &repo, "some", "cat hello.txt").expect(0).out(), "hello\nchanged\n");
    for words in [&["list"][..], &["status", "some"], &["doctor"], &["stop", "some"]] {
        let _ = room.crabbox(&repo, words.iter().copied()).limit(Duration::from_secs(60)).ok();
    }
    // The document knows successes only: that something is not there is no status of its.
    let unknown = "Unable to match the returned status code";
    let complaints = prism.complaints().into_iter().filter(|line| !line.contains(unknown));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(daytona.boxes(), [""; 0]);
}

#[test]
fn the_key_of_daytonas_own_command_line_is_used_when_no_other_is_named() {
    let (room, daytona, repo) = stage();
    let config = fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    room.configure(&config.replace("  apiKey: cmd:printf 'dtn-%s-51' c4n4ry\n", ""));
    let profile = room.at("config/daytona/config.json");
    let _ = room.crabbox(&repo, ["run", "--", "true"]).run().expect(3).says(&["DAYTONA_API_KEY"]);
    fs::create_dir(profile.parent().unwrap()).unwrap();
    let text = json!({"activeProfile": "p2", "profiles": [
        {"id": "p1", "name": "old", "api": {"url": daytona.url(), "key": "other"}},
        {"id": "p2", "name": "own", "api": {"url": daytona.url(), "key": DAYTONA_KEY}},
    ]});
    fs::write(&profile, text.to_string()).unwrap();
    fs::set_permissions(&profile, PermissionsExt::from_mode(0o600)).unwrap();
    let ended = room.crabbox(&repo, ["run", "--", "cat hello.txt"]).limit(Duration::from_secs(60));
    assert_eq!(ended.ok().out(), "hello\nchanged\n");
    assert_eq!(holders(room.path(), DAYTONA_KEY), [profile]);
}

//! Bad input: each is one clear error with the right status, and nothing is spent or lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crabbox_tests::{Ended, Room};

fn fails(room: &Room, repo: &Path, args: &[&str], code: i32) -> Ended {
    let ended = room.crabbox(repo, args.iter().copied()).run().expect(code);
    room.assert_no_claims();
    assert!(!ended.err().contains("panicked"), "{ended}");
    ended
}

#[test]
fn unknown_commands_flags_and_providers_are_named() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = fails(&room, &repo, &["frobnicate"], 2).says(&["frobnicate"]);
    let _ = fails(&room, &repo, &["run", "--nonsense", "--", "true"], 2).says(&["--nonsense"]);
    let _ = fails(&room, &repo, &["run", "--provider", "moon", "--", "true"], 2).says(&[
        "moon",
        "known providers: aws, azure, blacksmith-testbox, container, daytona, example-python, external, hetzner, islo, local, ssh",
    ]);
    let _ = fails(&room, &repo, &["run"], 2).says(&["no command"]);
    let _ = fails(&room, &repo, &["run", "--", ""], 2);
    let _ = fails(&room, &repo, &["run", "--ttl", "soon", "--", "true"], 2).says(&["soon"]);
    let _ = fails(&room, &repo, &["run", "--id", "no-such-box", "--", "true"], 4)
        .says(&["no-such-box"]);
}

#[test]
fn an_error_is_one_json_document_when_asked_for() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = fails(&room, &repo, &["run", "--json", "--provider", "moon", "--", "true"], 2);
    let error = &ended.json()["error"];
    assert_eq!(
        (&error["errorKind"], &error["by"]),
        (&"provider_unknown".into(), &"crabbox".into()),
        "{ended}"
    );
    assert_eq!((&error["exitCode"], &error["retryable"]), (&2.into(), &false.into()), "{ended}");
    let ended = fails(&room, &repo, &["run", "--json", "--nonsense"], 2);
    assert_eq!(ended.json()["error"]["errorKind"], "usage", "{ended}");
}

#[test]
fn a_malformed_configuration_is_named_with_file_and_line() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".crabbox.yaml"), "profile: x\nsync: [unclosed\n").unwrap();
    let _ = fails(&room, &repo, &["run", "--", "true"], 2).says(&[".crabbox.yaml"]);
    fs::write(repo.join(".crabbox.yaml"), "ttl: soon\n").unwrap();
    let ended = room.crabbox(&repo, ["run", "--", "true"]).ok();
    let _ = ended.says(&["warning", ".crabbox.yaml:1", "soon"]);
}

#[test]
fn a_repository_cannot_choose_where_files_go() {
    let room = Room::new();
    let repo = room.repo("app");
    for text in [
        "static:\n  host: evil.invalid\n",
        "providers:\n  ssh:\n    host: evil.invalid\n",
        "ssh:\n  key: /etc/passwd\n",
        "coordinator: https://evil.invalid\n",
    ] {
        fs::write(repo.join(".crabbox.yaml"), text).unwrap();
        let ended = room
            .crabbox(&repo, ["run", "--json", "--provider", "ssh", "--", "true"])
            .run()
            .expect(2);
        assert_eq!(ended.json()["error"]["errorKind"], "config_untrusted", "{text}{ended}");
        let _ = ended.says(&[".crabbox.yaml"]);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error() {
    let room = Room::new();
    let repo = room.repo("app");
    let call =
        room.crabbox(&repo, ["run", "--", "true"]).env("CRABBOX_CONFIG", room.at("missing.yaml"));
    let _ = call.run().expect(2).says(&["missing.yaml"]);
    fs::create_dir_all(room.at("config/crabbox/config.yaml")).unwrap();
    let _ = fails(&room, &repo, &["run", "--", "true"], 2).says(&["config.yaml"]);
}

#[test]
fn unknown_keys_are_kept_and_shown() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  warnFiles: 7\nweather: fine\n").unwrap();
    let shown = room.crabbox(&repo, ["config", "show"]).ok().out();
    assert!(shown.contains("weather") && shown.contains("warnFiles"), "{shown}");
    let json = room.crabbox(&repo, ["config", "show", "--json"]).ok().json();
    assert_eq!(json["sync"]["warnFiles"], 7, "{json}");
    let path = room.crabbox(&repo, ["config", "path"]).ok().out();
    assert_eq!(path.trim(), room.at("config/crabbox/config.yaml").to_string_lossy());
}

#[test]
fn a_duration_that_is_none_is_refused_by_the_name_of_its_flag() {
    let room = Room::new();
    let repo = room.repo("app");
    for (command, flag) in [("run", "--timeout"), ("watch", "--timeout"), ("watch", "--debounce")] {
        for value in ["banana", "0"] {
            let call = room.crabbox(&repo, [command, flag, value, "--", "true"]);
            let _ = call.run().expect(2).says(&[flag, value]);
        }
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_said_to_stay_here() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::create_dir(repo.join("locked")).unwrap();
    fs::write(repo.join("locked/x"), "x").unwrap();
    fs::set_permissions(repo.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    let readable = fs::read_dir(repo.join("locked")).is_ok();
    for command in [&["sync-plan"][..], &["sync-plan"], &["run", "--", "true"]] {
        let ended = room.crabbox(&repo, command).ok();
        assert_eq!(ended.err().contains("locked"), !readable, "{ended}");
    }
    fs::set_permissions(repo.join("locked"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let room = Room::new();
    let repo = room.repo("app");
    // Root reads everything, so the file is one that cannot be read by anybody.
    let odd = repo.join("not-a-file");
    let _ = room.call("mkfifo").arg(&odd).ok();
    let ended = room.crabbox(&repo, ["run", "--", "true"]).run();
    assert!(
        ended.code == 0 || ended.code == 6,
        "a pipe is left out or refused, never waited for\n{ended}"
    );
    fs::remove_file(&odd).unwrap();
    fs::write(&odd, "x").unwrap();
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = room.crabbox(&repo, ["run", "--", "true"]).run();
    let readable = fs::read(&odd).is_ok();
    assert_eq!(ended.code, if readable { 0 } else { 6 }, "{ended}");
    if !readable {
        let _ = ended.says(&["not-a-file"]);
    }
    room.assert_nothing_left();
}

#[test]
fn an_ignore_file_that_is_a_pipe_is_named_and_never_waited_for() {
    let room = Room::new();
    let repo = room.repo("app");
    for name in [".crabboxignore", ".gitignore"] {
        let _ = room.call("mkfifo").arg(repo.join(name)).ok();
        let call = room.crabbox(&repo, ["run", "--", "true"]).limit(Duration::from_secs(20));
        let _ = call.run().expect(6).says(&[name, "not a regular file"]);
        fs::remove_file(repo.join(name)).unwrap();
    }
    let _ = room.call("mkfifo").arg(repo.join(".crabbox.yaml")).ok();
    let call = room.crabbox(&repo, ["run", "--", "true"]).limit(Duration::from_secs(20));
    let _ = call.run();
    room.assert_nothing_left();
}

#[test]
fn a_command_that_does_not_exist_is_127() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["run", "--", "no-such-program-at-all"]).run().expect(127);
    assert!(ended.err().contains("no-such-program-at-all"), "{ended}");
}

#[test]
fn damaged_state_hides_nothing_else() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = crate::local::warm(&room, &repo);
    fs::write(room.state().join("claims/cbx_ffffffffffff.json"), "{not json").unwrap();
    fs::create_dir_all(room.state().join("runs/run_ffffffffffff")).unwrap();
    let claims = room.crabbox(&repo, ["claims", "list", "--json"]).ok().json();
    assert_eq!(claims["claims"].as_array().map(Vec::len), Some(1), "{claims}");
    assert_eq!(claims["problems"].as_array().map(Vec::len), Some(1), "{claims}");
    let _ = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]).ok();
    fs::remove_file(room.state().join("claims/cbx_ffffffffffff.json")).unwrap();
}

//! Over SSH, with a token that lasts a while: shells, and runs that send only what changed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{DaytonaFake, Room, holders, tapped};
use serde_json::json;

use super::{on, warm};

/// What every token begins with.
const TOKEN: &str = "sshtok-";

fn stage() -> (Room, DaytonaFake, PathBuf) {
    let room = Room::new();
    let work = room.at("boxes");
    fs::create_dir(&work).unwrap();
    let daytona = DaytonaFake::with_ssh(&room, &work);
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "hello\nchanged\n").unwrap();
    (room, daytona, repo)
}

fn count(daytona: &DaytonaFake, what: &str) -> usize {
    daytona.asked().iter().filter(|asked| asked.starts_with(what)).count()
}

#[test]
fn a_run_over_ssh_sends_only_what_changed_and_its_token_is_nowhere_and_revoked() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    assert_eq!(on(&room, &repo, &id, "cat hello.txt; exit 3").expect(3).out(), "hello\nchanged\n");
    fs::write(repo.join("more.txt"), "more\n").unwrap();
    let again = on(&room, &repo, &id, "cat more.txt").expect(0);
    assert_eq!(again.out(), "more\n");
    assert_eq!(count(&daytona, "POST /toolbox"), 0, "{:?}", daytona.asked());
    let revoked = |asked: &String| asked.starts_with("DELETE") && asked.ends_with("/ssh-access");
    assert_eq!(daytona.asked().into_iter().filter(revoked).count(), 2);
    assert_eq!(daytona.told()["access"], json!([]), "every token is revoked");
    assert_eq!(holders(room.path(), TOKEN), [] as [PathBuf; 0]);
    let labels = daytona.kept()[0]["labels"].clone();
    assert!(labels["last_touched_at"].is_string(), "{labels}");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    room.assert_nothing_left();
}

#[test]
fn what_is_lent_is_in_no_message_to_the_plugin_or_from_it() {
    let (room, daytona, repo) = stage();
    let plugin = tapped(&room, "daytona").display().to_string();
    let words = ["run", "--plugin-dev", &plugin, "--", "cat", "hello.txt"];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).ok();
    assert_eq!(ended.out(), "hello\nchanged\n");
    assert_eq!(count(&daytona, "POST /toolbox"), 0, "it was let in");
    let frames = ["frames.in", "frames.out"].map(|name| fs::read_to_string(room.at(name)).unwrap());
    let frames = frames.concat();
    assert!(frames.contains("access.revoke") && !frames.contains(TOKEN), "{frames}");
    assert_eq!(daytona.told()["access"], json!([]));
}

#[test]
fn a_run_that_ends_leaves_others_in() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    let words = ["connect", &id];
    let line = "echo begun; while [ ! -e $HOME/go ]; do sleep 0.1; done; exit 7\n";
    let shell = room.crabbox(&repo, words).stdin(line).start();
    shell.prints("begun");
    assert_eq!(on(&room, &repo, &id, "touch $HOME/go").expect(0).out(), "");
    assert_eq!(shell.wait().expect(7).out(), "begun\n");
    assert_eq!(daytona.told()["access"], json!([]), "each gave back its own");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn a_run_that_goes_on_without_us_is_taken_up_again() {
    let (room, _daytona, repo) = stage();
    let id = warm(&room, &repo);
    let words =
        ["run", "--id", &id, "--detach", "--", "sh", "-c", "sleep 1; cat hello.txt; exit 5"];
    let _ = room.crabbox(&repo, words).limit(Duration::from_secs(60)).ok();
    let seen = room.crabbox(&repo, ["attach"]).limit(Duration::from_secs(60)).run().expect(5);
    assert_eq!(seen.out(), "hello\nchanged\n");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn a_shell_is_opened_and_only_who_asks_sees_the_token() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    let call = room.crabbox(&repo, ["connect", &id]).stdin("echo hi from $HOME; exit 7\n");
    let ended = call.limit(Duration::from_secs(60)).run().expect(7);
    assert!(ended.out().contains("hi from /"), "{ended}");
    assert_eq!(daytona.told()["access"], json!([]));
    let hidden = room.crabbox(&repo, ["ssh", &id]).run().expect(2);
    let _ = hidden.says(&["--show-secret", "crabbox connect"]);
    assert_eq!(daytona.told()["access"], json!([]));
    let shown = room.crabbox(&repo, ["ssh", &id, "--show-secret"]).ok();
    assert!(shown.out().contains(TOKEN) && shown.out().contains("@127.0.0.1"), "{shown}");
    assert_eq!(holders(room.path(), TOKEN), [] as [PathBuf; 0]);
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn where_nobody_is_let_in_daytona_runs_the_command_itself() {
    let (room, daytona, repo) = super::stage();
    daytona.configure(&room, "  sshGatewayHost: 127.0.0.1\n");
    let words = ["run", "--", "sh", "-c", "cat hello.txt; exit 4"];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run().expect(4);
    assert_eq!(ended.out(), "hello\nchanged\n");
    let _ = ended.says(&["daytona runs the command itself", "SSH access is not enabled"]);
    let words = ["run", "--detach", "--", "true"];
    let refused = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run();
    assert_ne!(refused.code, 0);
    assert_eq!(daytona.boxes(), [""; 0], "what cannot be done costs nothing for long");
}

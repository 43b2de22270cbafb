//! Boxes that stay: warm, used again, looked at, given back.

use std::time::Duration;

use crabbox_tests::Room;

use crate::local::warm;

#[test]
fn a_warm_box_serves_several_runs_and_is_given_back() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["warmup"]).ok();
    let out = ended.out();
    assert!(out.starts_with("leased cbx_") && out.contains("\nready ssh="), "{ended}");
    let slug = out.split_whitespace().find_map(|w| w.strip_prefix("slug=")).unwrap().to_owned();
    let _ = room
        .crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", "echo kept >left-by-a-run"])
        .ok();
    let ended = room.crabbox(&repo, ["run", "--id", &slug, "--", "cat", "left-by-a-run"]).ok();
    assert_eq!(ended.out(), "kept\n");
    assert_eq!(room.state_files("claims").len(), 1);
    let _ = room.crabbox(&repo, ["stop", &slug]).ok().says(&["lease=cbx_"]);
    room.assert_nothing_left();
    let _ = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]).run().expect(4);
}

#[test]
fn stopping_twice_succeeds_twice() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = warm(&room, &repo);
    let id = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    let _ = room.crabbox(&repo, ["release", &id]).ok();
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}

#[test]
fn keep_and_keep_on_failure_keep_the_box() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["run", "--keep", "--slug", "mine", "--", "true"]).ok();
    let _ = room.crabbox(&repo, ["run", "--id", "mine", "--no-sync", "--", "true"]).ok();
    let _ = room.crabbox(&repo, ["stop", "mine"]).ok();
    let _ = room.crabbox(&repo, ["run", "--keep-on-failure", "--", "true"]).ok();
    assert_eq!(room.state_files("claims").len(), 0);
    let _ = room.crabbox(&repo, ["run", "--keep-on-failure", "--", "false"]).run().expect(1);
    assert_eq!(room.state_files("claims").len(), 1);
}

#[test]
fn a_box_belongs_to_its_checkout_until_it_is_reclaimed() {
    let room = Room::new();
    let repo = room.repo("app");
    let other = room.repo("other");
    let slug = warm(&room, &repo);
    let ended = room.crabbox(&other, ["run", "--id", &slug, "--", "true"]).run().expect(2);
    let _ = ended.says(&["--reclaim", &repo.to_string_lossy()]);
    let _ = room.crabbox(&other, ["run", "--id", &slug, "--reclaim", "--", "true"]).ok();
    let _ = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]).run().expect(2);
}

#[test]
fn a_provider_that_contradicts_the_claim_is_refused() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let ended = room
        .crabbox(&repo, ["run", "--id", &slug, "--provider", "ssh", "--", "true"])
        .run()
        .expect(2);
    let _ = ended.says(&["local", "ssh"]);
}

#[test]
fn a_box_can_be_looked_at() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let list = room.crabbox(&repo, ["list", "--json"]).ok().json();
    assert_eq!(
        (&list[0]["slug"], &list[0]["Provider"]),
        (&slug.as_str().into(), &"local".into()),
        "{list}"
    );
    assert_eq!(list[0]["orphan"], false);
    let id = list[0]["id"].as_str().unwrap().to_owned();
    for command in ["status", "inspect"] {
        let view = room.crabbox(&repo, [command, "--id", &slug, "--json"]).ok().json();
        assert_eq!((&view["id"], &view["ready"]), (&id.as_str().into(), &true.into()), "{view}");
        assert_eq!(view["sshHost"], "127.0.0.1");
    }
    let _ = room.crabbox(&repo, ["status", &slug, "--wait"]).ok();
    let claims = room.crabbox(&repo, ["claims", "list", "--json"]).ok().json();
    assert_eq!(
        (&claims["version"], &claims["claims"][0]["leaseID"]),
        (&1.into(), &id.as_str().into()),
        "{claims}"
    );
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    assert!(line.starts_with("ssh ") && line.contains("127.0.0.1"), "{line}");
    let _ = room.crabbox(&repo, ["heartbeat", &slug]).ok();
    let text = room.crabbox(&repo, ["list"]).ok();
    assert!(text.out().contains(&slug), "{text}");
}

#[test]
fn openssh_can_use_what_ssh_prints() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    let ended = room.call("sh").args(["-c", &format!("{} 'echo hi from there'", line.trim())]).ok();
    assert_eq!(ended.out(), "hi from there\n");
}

#[test]
fn connect_opens_a_session() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let ended = room
        .crabbox(&repo, ["connect", "--id", &slug])
        .stdin("echo in the session; exit 7\n")
        .run();
    assert!(ended.code == 7 && ended.out().contains("in the session"), "{ended}");
}

#[test]
fn two_runs_on_one_box_take_turns_or_say_so() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let script = "echo begin; while [ ! -e go ]; do sleep 0.05; done; rm go; echo end";
    let first =
        room.crabbox(&repo, ["run", "--id", &slug, "--no-sync", "--", "sh", "-c", script]).start();
    first.prints("begin");
    let ended = room
        .crabbox(&repo, ["run", "--id", &slug, "--no-wait", "--no-sync", "--", "true"])
        .run()
        .expect(6);
    assert!(ended.err().contains("run_"), "it says who is there\n{ended}");
    let second =
        room.crabbox(&repo, ["run", "--id", &slug, "--no-sync", "--", "echo", "second"]).start();
    second.says("wait");
    assert_eq!(second.stdout(), "");
    // A run of its own may not start now, so the first is let go through OpenSSH.
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    let workdir = room.crabbox(&repo, ["history", "--json"]).ok().json();
    let workdir =
        workdir.as_array().unwrap().iter().find_map(|r| r["workdir"].as_str()).unwrap().to_owned();
    let _ = room.call("sh").args(["-c", &format!("{} 'touch {workdir}/go'", line.trim())]).ok();
    assert_eq!(first.wait().expect(0).out(), "begin\nend\n");
    assert_eq!(second.wait().expect(0).out(), "second\n");
}

#[test]
fn a_box_ends_itself_when_its_time_is_over() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["warmup", "--ttl", "3s", "--idle-timeout", "3s"]).ok();
    room.assert_no_process_within(Duration::from_secs(30));
    for claim in room.state_files("claims") {
        let _ = room.crabbox(&repo, ["stop", claim.trim_end_matches(".json")]).ok();
    }
    room.assert_nothing_left();
}

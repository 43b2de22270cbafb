//! Text lines that scripts parse, and the command lines people paste.

use std::fs;

use crabbox_tests::{Room, Sshd, binary};

use crate::local::warm;

#[test]
fn stop_says_what_was_deleted_in_the_words_scripts_know() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let list = room.crabbox(&repo, ["list", "--json"]).ok().json();
    let of = |key: &str| list[0][key].as_str().unwrap().to_owned();
    let line = format!("deleted lease={} server={} name={}\n", of("id"), of("cloudId"), of("name"));
    assert!(room.crabbox(&repo, ["stop", &slug]).ok().err().contains(&line), "{line}");
}

#[test]
fn two_boxes_never_share_a_name() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["warmup", "--slug", "mine"]).ok();
    let again = room.crabbox(&repo, ["warmup", "--slug", "Mine"]).run().expect(2);
    let _ = again.says(&["mine", "--id"]);
    assert_eq!(room.state_files("claims").len(), 1);
    let _ = room.crabbox(&repo, ["run", "--id", "mine", "--", "true"]).ok();
    let both = ["run", "--id", "mine", "--slug", "other", "--", "true"];
    let _ = room.crabbox(&repo, both).run().expect(2).says(&["--slug", "--id"]);
}

#[test]
fn the_printed_ssh_line_knows_the_host_key_beforehand() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    assert!(line.contains("StrictHostKeyChecking=yes"), "{line}");
    let ended = room.call("sh").args(["-c", &format!("{} 'echo there'", line.trim())]).ok();
    assert_eq!((ended.out().as_str(), ended.err().as_str()), ("there\n", ""));
}

#[test]
fn the_line_for_a_host_of_ones_own_trusts_what_crabbox_trusted() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    let pasted = format!("{} -o BatchMode=yes 'echo there'", line.trim());
    assert_eq!(room.call("sh").args(["-c", &pasted]).ok().out(), "there\n", "{line}");
}

#[test]
fn an_unknown_command_is_a_tool_beside_the_executable_or_a_mistake() {
    let room = Room::new();
    let repo = room.repo("app");
    let bin = room.at("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["crabbox-provider-local", "crabbox-provider-ssh"] {
        fs::hard_link(binary(name), bin.join(name))
            .or_else(|_| fs::copy(binary(name), bin.join(name)).map(|_| ()))
            .unwrap();
    }
    fs::copy(binary("crabbox-under-test"), bin.join("crabbox")).unwrap();
    let tool = "#!/bin/sh\necho \"tool $*\"\nexit 9\n";
    fs::write(bin.join("crabbox-hello"), tool).unwrap();
    let _ = room.call("chmod").arg("+x").arg(bin.join("crabbox-hello")).ok();
    let call = |words: &[&str]| room.call(bin.join("crabbox")).dir(&repo).args(words.to_vec());
    assert_eq!(call(&["hello", "--json", "a b"]).run().expect(9).out(), "tool --json a b\n");
    let _ = call(&["helo"]).run().expect(2).says(&["helo"]);
    let _ = call(&["statsu"]).run().expect(2).says(&["status"]);
}

#[test]
fn the_original_names_of_list_and_cleanup_work() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    assert!(room.crabbox(&repo, ["pool", "list"]).ok().out().contains(&slug));
    let _ = room.crabbox(&repo, ["machine", "cleanup", "--dry-run"]).ok();
    let _ = room.crabbox(&repo, ["pool"]).run().expect(2);
}

#[test]
fn a_quiet_run_still_warns() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("more"), "x").unwrap();
    let call = room.crabbox(&repo, ["run", "-q", "--", "true"]).env("CRABBOX_SYNC_WARN_FILES", "1");
    let said = call.ok().err();
    assert!(said.starts_with("warning: ") && said.contains("large"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_handle_that_cannot_be_written_is_refused_before_a_box_is_asked_for() {
    let room = Room::new();
    let repo = room.repo("app");
    for place in [".", "hello.txt/handle.json"] {
        let words = ["run", "--lease-output", place, "--", "true"];
        let said = room.crabbox(&repo, words).run().expect(2).err();
        assert!(said.contains("cannot write") && !said.contains("provisioning"), "{said}");
    }
    let _ = room.crabbox(&repo, ["run", "--lease-output", "new/h.json", "--", "true"]).ok();
    assert!(repo.join("new/h.json").is_file());
}

#[test]
fn a_home_folder_or_a_whole_disk_is_never_sent() {
    let room = Room::new();
    let home = room.at("home");
    let _ = room.crabbox(&home, ["run", "--", "true"]).run().expect(2).says(&["home folder"]);
    let _ = room.crabbox("/".as_ref(), ["run", "--", "true"]).run().expect(2).says(&["disk"]);
    let _ = room.crabbox(&home, ["run", "--no-sync", "--", "true"]).ok();
    room.assert_nothing_left();
}

//! The `ssh` provider against a real OpenSSH server.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Sshd, tree};

/// A room whose user has a host of their own.
fn hosted() -> (Room, Sshd) {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    (room, sshd)
}

/// The tree of a repository on the box: the one work directory with its name.
fn remote_tree(sshd: &Sshd, repo: &str) -> PathBuf {
    let leases =
        fs::read_dir(&sshd.work_root).expect("a work root").flatten().map(|e| e.path().join(repo));
    let found: Vec<_> = leases.filter(|p| p.is_dir()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn a_thousand_odd_files_arrive_as_they_are() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    tree::write_odd(&repo, 1100);
    room.commit(&repo);
    // Dirty in every way: changed, deleted, untracked, staged, renamed.
    fs::write(repo.join("d1/e1/f1"), "changed\n").unwrap();
    fs::remove_file(repo.join("d2/e2/f2")).unwrap();
    fs::write(repo.join("odd/brand new\n"), "untracked\n").unwrap();
    fs::write(repo.join("staged"), "staged\n").unwrap();
    room.git(&repo, ["add", "staged"]);
    room.git(&repo, ["mv", "hello.txt", "renamed.txt"]);
    let files = tree::contents(&repo).len();
    assert!(files >= 1000, "{files}");

    let ended = room
        .crabbox(&repo, ["run", "--", "sh", "-c", "cat d1/e1/f1 staged; exit 37"])
        .run()
        .expect(37);
    assert_eq!(ended.out(), "changed\nstaged\n");
    tree::assert_same(&repo, &remote_tree(&sshd, "app"));

    fs::remove_dir_all(repo.join("d3")).unwrap();
    fs::write(repo.join("odd/empty"), "no longer").unwrap();
    let _ = room.crabbox(&repo, ["run", "--", "true"]).ok();
    tree::assert_same(&repo, &remote_tree(&sshd, "app"));
}

#[test]
fn a_hundred_megabytes_of_mixed_output_arrive_byte_for_byte() {
    let (room, _sshd) = hosted();
    let repo = room.repo("app");
    // Two streams of 50 MiB of different bytes, written at the same time in odd pieces.
    let script = "(head -c 52428800 /dev/zero | tr '\\000' '\\201' | dd bs=7001 status=none) & \
                  yes 'error line' | head -c 52428800 >&2; wait";
    let ended = room
        .crabbox(&repo, ["run", "--quiet", "--", "sh", "-c", script])
        .limit(Duration::from_secs(180))
        .ok();
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (50 << 20, 50 << 20));
    assert!(ended.stdout.iter().all(|b| *b == 0o201));
    let line = b"error line\n";
    assert!(ended.stderr.iter().enumerate().all(|(n, b)| *b == line[n % line.len()]));
}

#[test]
fn a_host_of_the_users_own_is_kept_and_forgotten() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["warmup"]).ok();
    assert!(ended.out().contains("leased static_"), "{ended}");
    let _ = room.crabbox(&repo, ["run", "--id", "127-0-0-1", "--", "true"]).ok();
    let id = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    room.assert_no_claims();
    assert!(remote_tree(&sshd, "app").join("hello.txt").exists(), "stop leaves the host alone");
}

#[test]
fn a_name_for_a_host_that_has_one_is_refused() {
    let (room, _sshd) = hosted();
    let repo = room.repo("app");
    for command in [&["warmup", "--slug", "blue"][..], &["run", "--slug", "blue", "--", "true"]] {
        let refused = room.crabbox(&repo, command.iter().copied()).run();
        assert_ne!(refused.code, 0, "{refused}");
        let _ = refused.says(&["names its boxes itself", "--slug"]);
        room.assert_no_claims();
    }
}

#[test]
fn the_users_ssh_configuration_is_honoured() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    let ssh = room.at("home/.ssh");
    fs::create_dir(&ssh).unwrap();
    let (port, user, key) = (sshd.port, &sshd.user, sshd.key.display());
    let text = format!(
        "Host buildbox\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {key}\n"
    );
    fs::write(ssh.join("config"), text).unwrap();
    let root = sshd.work_root.display();
    room.configure(&format!("provider: ssh\nstatic:\n  host: buildbox\n  workRoot: {root}\n"));
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["run", "--", "sh", "-c", "echo $CRABBOX_TEST_BOX"]).ok();
    assert_eq!(ended.out(), "1\n");
}

#[test]
fn a_host_behind_a_program_of_the_users_is_reached_though_only_their_shell_knows_the_way() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    let ssh = room.at("home/.ssh");
    fs::create_dir(&ssh).unwrap();
    // The daemon, which keeps connections, does not have this variable.
    let text = format!(
        "Host buildbox\n  User {}\n  IdentityFile {}\n  ProxyCommand bash -c 'exec 3<>/dev/tcp/127.0.0.1/${{THE_PORT:?}}; cat <&3 & cat >&3; kill $!'\n",
        sshd.user,
        sshd.key.display()
    );
    fs::write(ssh.join("config"), text).unwrap();
    let root = sshd.work_root.display();
    room.configure(&format!("provider: ssh\nstatic:\n  host: buildbox\n  workRoot: {root}\n"));
    let repo = room.repo("app");
    for more in [&[][..], &["--no-daemon"]] {
        let words = [&["run"], more, &["--", "cat", "hello.txt"]].concat();
        let ended = room.crabbox(&repo, words).env("THE_PORT", sshd.port.to_string()).ok();
        assert_eq!(ended.out(), "hello\n", "{ended}");
    }
    let lost = room.crabbox(&repo, ["run", "--json", "--", "true"]).limit(Duration::from_secs(60));
    let error = lost.run().expect(7).json()["error"].clone();
    assert_eq!(error["stage"], "proxy", "{error}");
    assert!(error["cause"].to_string().contains("THE_PORT"), "{error}");
}

/// A run that must fail with 7, this error kind and this stage.
fn refused(room: &Room, repo: &Path, kind: &str, stage: &str) -> serde_json::Value {
    let ended = room
        .crabbox(repo, ["run", "--json", "--", "touch", "/tmp/never"])
        .limit(Duration::from_secs(45))
        .run();
    let ended = ended.expect(7);
    let error = ended.json()["error"].clone();
    assert_eq!(error["errorKind"], kind, "{ended}");
    assert_eq!(error["stage"], stage, "{ended}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{ended}");
    error
}

#[test]
fn a_changed_host_key_is_refused() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["run", "--", "true"]).ok();
    let _impostor = sshd.change_host_key(&room);
    let error = refused(&room, &repo, "ssh_host_key", "host-key");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("known")), "{error}");
}

#[test]
fn a_wrong_key_is_a_clear_error() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    fs::write(sshd.key.with_file_name("authorized_keys"), "").unwrap();
    refused(&room, &repo, "ssh_auth", "auth");
}

#[test]
fn a_closed_port_is_a_clear_error_in_time() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    drop(sshd);
    let began = Instant::now();
    refused(&room, &repo, "ssh_tcp", "tcp");
    assert!(began.elapsed() < Duration::from_secs(40));
}

#[test]
fn a_server_that_says_nothing_is_a_clear_error_in_time() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    room.configure(&sshd.config().replace(&sshd.port.to_string(), &port.to_string()));
    let repo = room.repo("app");
    refused(&room, &repo, "ssh_banner", "banner");
    drop(silent);
}

#[test]
fn an_unknown_host_is_a_clear_error() {
    let room = Room::new();
    room.configure(
        "provider: ssh\nstatic:\n  host: no-such-host.invalid\n  user: me\n  workRoot: /tmp/x\n",
    );
    let repo = room.repo("app");
    refused(&room, &repo, "ssh_dns", "dns");
}

#[test]
fn a_work_root_that_cannot_be_written_is_a_clear_error() {
    let (room, sshd) = hosted();
    fs::remove_dir_all(&sshd.work_root).unwrap();
    fs::write(&sshd.work_root, "a file is in the way").unwrap();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["run", "--", "true"]).run().expect(6);
    assert!(ended.err().contains("work"), "{ended}");
    fs::remove_file(&sshd.work_root).unwrap();
    fs::create_dir(&sshd.work_root).unwrap();
}

#[test]
fn a_box_lost_during_the_command_is_an_honest_end() {
    let (room, sshd) = hosted();
    let repo = room.repo("app");
    let mark = room.at("started");
    let script = format!("echo x >>{}; echo begun; exec sleep 300", mark.display());
    let running = room.crabbox(&repo, ["run", "--", "sh", "-c", &script]).start();
    running.prints("begun");
    sshd.cut();
    let ended = running.wait().expect(7);
    assert_eq!(fs::read_to_string(&mark).unwrap(), "x\n", "started once\n{ended}");
    let run = &room.crabbox(&repo, ["history", "--json"]).ok().json()[0];
    assert_eq!((&run["state"], &run["by"]), (&"lost".into(), &"crabbox".into()), "{run}");
    let id = room.state_files("claims").first().map(|c| c.trim_end_matches(".json").to_owned());
    if let Some(id) = id {
        let _ = room.crabbox(&repo, ["stop", &id]).ok();
    }
}

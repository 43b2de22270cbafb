//! Commands in a box behave as with OpenSSH's own server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod room;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use room::{Box, Room, bounded, until};
use serde_json::json;

fn plain() -> Room {
    Room::new(json!({"isolation": "none"}))
}

fn spawn_with_input(command: &mut Command) -> std::process::Child {
    command.stdin(Stdio::piped()).spawn().unwrap()
}

#[test]
fn status_and_both_streams_come_through() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000001");
    let output = house.run("echo out; echo err >&2; exit 37");
    assert_eq!(output.status.code(), Some(37));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(house.run("exit 0").status.code(), Some(0));
    assert_eq!(house.run("no-such-program-here").status.code(), Some(127));
}

#[test]
fn a_death_by_signal_is_reported_as_one() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000002");
    for signal in ["KILL", "TERM", "USR2", "SEGV"] {
        let mut ssh = house.ssh_with(
            "key",
            &["-v", "-o", "LogLevel=DEBUG1"],
            &[&format!("kill -{signal} $$")],
        );
        let output = bounded(ssh.spawn().unwrap());
        assert_eq!(output.status.code(), Some(255), "{signal}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("exit-signal"), "{signal}: {log}");
    }
}

#[test]
fn twenty_megabytes_pass_byte_exact_in_both_directions() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000003");
    let sent: Vec<u8> =
        (0u32..5_000_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut child = spawn_with_input(&mut house.ssh("tee /dev/stderr"));
    let mut input = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || input.write_all(&copy).unwrap());
    let output = bounded(child);
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == sent, "stdout differs");
    assert!(output.stderr == sent, "stderr differs");
}

#[test]
fn a_command_that_ignores_its_input_does_not_hold_up_others() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000004");
    let mut deaf = spawn_with_input(&mut house.ssh("echo up; exec sleep 600"));
    let mut first = [0; 3];
    deaf.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let mut input = deaf.stdin.take().unwrap();
    let writer = thread::spawn(move || {
        let _ = input.write_all(&vec![0; 8 << 20]);
    });
    assert_eq!(house.says("echo fine"), "fine\n");
    room::kill(i32::try_from(deaf.id()).unwrap(), "KILL");
    deaf.wait().unwrap();
    writer.join().unwrap();
}

#[test]
fn a_terminal_is_one_and_has_the_size_and_type_of_the_user() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000005");
    let mut ssh = house.ssh_with("key", &["-tt"], &["tty; stty -a; echo $TERM; exit 5"]);
    let output = bounded(ssh.env("TERM", "vt100").spawn().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("/dev/"), "{text}");
    assert!(text.contains("vt100\r\n"), "{text}");
}

#[test]
fn control_c_on_a_terminal_interrupts_the_command() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000006");
    let mut ssh = house.ssh_with(
        "key",
        &["-tt"],
        &["trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.05; done"],
    );
    let mut child = spawn_with_input(&mut ssh);
    let mut first = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child.stdin.as_mut().unwrap().write_all(&[3]).unwrap();
    let mut input = child.stdin.take();
    let output = bounded(child);
    drop(input.take());
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&output.stdout).contains("caught"));
}

#[test]
fn losing_the_client_hangs_up_a_terminal() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000007");
    let mut ssh = house.ssh_with("key", &["-tt"], &["echo $$ > pid; exec sleep 600"]);
    let mut child = spawn_with_input(&mut ssh);
    assert!(until(|| house.run("test -s pid").status.success()));
    let pid: i32 = house.says("cat pid").trim().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(until(|| !room::alive(pid)));
}

#[test]
fn a_login_shell_answers_when_no_command_is_given() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000008");
    let mut child = spawn_with_input(&mut house.ssh_with("key", &["-T"], &[]));
    child.stdin.take().unwrap().write_all(b"echo $0; exit 4\n").unwrap();
    let output = bounded(child);
    assert_eq!(output.status.code(), Some(4));
    assert!(output.stdout.starts_with(b"-"), "{output:?}");
}

#[test]
fn commands_run_side_by_side() {
    let mut room = plain();
    let house = room.acquire("cbx_000000000009");
    let children: Vec<_> = (0..8)
        .map(|n| {
            let meet = "until [ \"$(ls | grep -c '^here-')\" = 8 ]; do sleep 0.02; done";
            house.ssh(&format!("touch here-{n}; {meet}; echo {n}")).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        assert_eq!(bounded(child).stdout, format!("{n}\n").as_bytes());
    }
}

#[test]
fn several_channels_share_one_connection() {
    let mut room = plain();
    let house = room.acquire("cbx_00000000000a");
    let socket = room.dir.path().join("mux");
    let control = format!("ControlPath={}", socket.display());
    let master =
        house.ssh_with("key", &["-o", "ControlMaster=yes", "-o", &control, "-N"], &[]).spawn();
    let mut master = master.unwrap();
    assert!(until(|| socket.exists()));
    let children: Vec<_> = (0..4)
        .map(|n| {
            let command = format!("head -c 1000000 /dev/zero; exit {n}");
            house.ssh_with("key", &["-o", &control], &[&command]).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = bounded(child);
        assert_eq!((output.status.code(), output.stdout.len()), (i32::try_from(n).ok(), 1_000_000));
    }
    master.kill().unwrap();
    master.wait().unwrap();
}

#[test]
fn only_the_key_of_the_lease_opens_the_box() {
    let mut room = plain();
    let house = room.acquire("cbx_00000000000b");
    let refused = |key: &str, options: &[&str]| {
        let output = bounded(house.ssh_with(key, options, &["true"]).spawn().unwrap());
        assert_eq!(output.status.code(), Some(255));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("Permission denied (publickey)"), "{text}");
    };
    refused("stranger", &[]);
    refused("key", &["-o", "PubkeyAuthentication=no"]);
}

#[test]
fn the_environment_is_the_box_s_own() {
    let mut room = plain();
    let house = room.acquire("cbx_00000000000c");
    let text = house.says("env; pwd");
    let home = room.box_dir("cbx_00000000000c").join("home");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.map(str::to_owned)
    };
    assert!(!text.contains("SECRET_OF_USER"), "{text}");
    assert!(!text.contains("CRABBOX_STATE_DIR"), "{text}");
    assert_eq!(value("HOME").as_deref(), home.to_str());
    assert_eq!(value("USER").as_deref(), Some("ada"));
    assert_eq!(value("LOGNAME").as_deref(), Some("ada"));
    assert_eq!(value("LANG").as_deref(), Some("C.UTF-8"));
    assert_eq!(value("CRABBOX_BOX").as_deref(), room.box_dir("cbx_00000000000c").to_str());
    assert_eq!(value("RUSTUP_HOME").as_deref(), room.dir.path().join("home/.rustup").to_str());
    assert_eq!(value("VOLTA_HOME").as_deref(), room.dir.path().join("state").to_str());
    assert_eq!(value("PYENV_ROOT"), None);
    assert_eq!(text.lines().last(), home.to_str());
    let mut ssh = house.ssh_with("key", &["-o", "SetEnv=GREETING=hello"], &["echo $GREETING"]);
    assert_eq!(bounded(ssh.spawn().unwrap()).stdout, b"hello\n");
}

#[test]
fn every_command_leads_its_own_process_group() {
    let mut room = plain();
    let house = room.acquire("cbx_00000000000d");
    assert_eq!(
        house
            .says("ps -o pgid=,sid= -p $$ | tr -s ' ' '\\n' | sed '/^$/d' | sort -u | wc -l")
            .trim(),
        "1"
    );
    assert_eq!(house.says("[ $(ps -o pgid= -p $$) = $$ ] && echo leads"), "leads\n");
    assert_eq!(house.says("ulimit -c").trim(), "0");
}

#[test]
fn limits_of_the_settings_hold() {
    let mut room = Room::new(json!({"isolation": "none", "open-files": 64, "file-size-mib": 1}));
    let house = room.acquire("cbx_00000000000e");
    assert_eq!(house.says("ulimit -n").trim(), "64");
    assert!(!house.run("head -c 2000000 /dev/zero > big").status.success());
    assert_eq!(house.says("wc -c < big").trim(), "1048576");
}

fn echo_through(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let sent = vec![7; 300_000];
    let mut reader = socket.try_clone().unwrap();
    let writer = thread::spawn(move || {
        let _ = socket.write_all(&sent);
        let _ = socket.shutdown(std::net::Shutdown::Write);
    });
    let mut back = Vec::new();
    let read = reader.read_to_end(&mut back);
    writer.join().unwrap();
    read.is_ok() && back == vec![7; 300_000]
}

/// Echoes what each client sends; ends with the test's process.
fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writer = socket.try_clone().unwrap();
                let mut reader = socket;
                let _ = std::io::copy(&mut reader, &mut writer);
                let _ = writer.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn forwards(house: &Box, flag: &str) {
    let (near, far) = (free_port(), echo_server());
    let rule = format!("{near}:127.0.0.1:{far}");
    let options = [flag, &rule, "-N", "-o", "ExitOnForwardFailure=yes"];
    let mut ssh = house.ssh_with("key", &options, &[]).spawn().unwrap();
    let passed = until(|| echo_through(near));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    assert!(passed, "{flag}");
    assert!(until(|| TcpStream::connect(("127.0.0.1", near)).is_err()), "{flag} stays open");
}

#[test]
fn ports_are_forwarded_both_ways() {
    let mut room = plain();
    let house = room.acquire("cbx_00000000000f");
    forwards(&house, "-L");
    forwards(&house, "-R");
}

//! A connection that a real OpenSSH client shares, used in place of one of ours.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod sshd;
mod talk;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crabbox_kernel::error::Result;
use crabbox_kernel::event::Event;
use crabbox_kernel::ports::{
    Address, Dialer, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Stop,
};
use crabbox_remote::{SshDialer, SshRemote, Timing, UserSsh};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::SshAuth;
use sshd::{Sshd, command, signal, user, write};
use talk::{collect, run};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// A user whose OpenSSH shares a connection to the alias `box`.
struct Sharer {
    home: tempfile::TempDir,
    server: Sshd,
    master: Child,
}

impl Sharer {
    /// With more lines of `sshd_config`.
    fn with(sshd: &str) -> Self {
        let server = Sshd::with(sshd);
        let home = tempfile::tempdir().unwrap();
        let (port, key, dir) = (server.port, server.path("id"), home.path().display());
        let config = format!(
            "Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n  ControlPath {dir}/%r@%h-%p-%C\n",
            user()
        );
        write(&home.path().join(".ssh/config"), &config);
        let more = format!(
            "IdentityFile {}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n",
            key.display()
        );
        write(&home.path().join("for_the_master"), &format!("{config}  {more}"));
        let master = Self::share(&home);
        Self { home, server, master }
    }

    fn new() -> Self {
        Self::with("")
    }

    fn share(home: &tempfile::TempDir) -> Child {
        let master = command("ssh")
            .arg("-F")
            .arg(home.path().join("for_the_master"))
            .args(["-M", "-N", "box"])
            .stdin(Stdio::null())
            .spawn()
            .expect("openssh-client must be installed");
        let begun = Instant::now();
        while Self::sockets(home).is_empty() {
            assert!(begun.elapsed() < LONG, "the master does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        master
    }

    fn sockets(home: &tempfile::TempDir) -> Vec<PathBuf> {
        let all = fs::read_dir(home.path()).unwrap().flatten().map(|e| e.path());
        let ours = format!("{}@", user());
        all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(&ours)).collect()
    }

    fn socket(&self) -> PathBuf {
        Self::sockets(&self.home).pop().unwrap()
    }

    /// The user as they would be without their key: only the shared connection lets them in.
    fn user(&self) -> UserSsh {
        UserSsh::new(self.home.path(), user())
    }

    fn address(&self) -> Address {
        let mut address = self.server.address();
        address.endpoint.auth = SshAuth::User;
        (address.endpoint.host, address.endpoint.port) = ("box".into(), 0);
        address.endpoint.user.clear();
        address.key = PathBuf::new();
        fs::create_dir_all(address.known_hosts.parent().unwrap()).unwrap();
        address
    }

    /// Gives the user the key as well.
    fn with_key(&self) -> UserSsh {
        fs::copy(self.server.path("id"), self.home.path().join(".ssh/id_ed25519")).unwrap();
        self.user()
    }

    fn connections(&self) -> usize {
        self.server.sessions().len()
    }

    fn end_master(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.end_master();
    }
}

async fn dial(dialer: &SshDialer, address: &Address) -> (Result<SshRemote>, String) {
    let mut events = Vec::new();
    let remote = dialer.dial(address, &mut events, &Stop::never()).await;
    let said = events.iter().filter_map(|event| match event {
        Event::Debug { message } => Some(format!("{message}\n")),
        _ => None,
    });
    (remote, said.collect())
}

async fn shared(sharer: &Sharer) -> SshRemote {
    let (remote, said) = dial(&SshDialer::new(sharer.user()), &sharer.address()).await;
    let remote = remote.unwrap();
    assert!(said.contains("the connection that OpenSSH shares"), "{said}");
    assert_eq!(remote.transport(), "openssh");
    remote
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_run_over_a_connection_that_openssh_shares() {
    let sharer = Sharer::new();
    let remote = shared(&sharer).await;
    for code in [0, 37, 255] {
        let (out, err, exit) = run(&remote, &format!("echo out; echo err >&2; exit {code}")).await;
        assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(exit, Exit { code, signal: None });
    }
    assert_eq!(remote.peer(), format!("127.0.0.1:{}", sharer.server.port));
    assert!(!remote.is_closed());
    assert_eq!(sharer.connections(), 1, "no connection but the shared one");
    remote.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_are_whole_and_many_processes_share_it() {
    let sharer = Sharer::new();
    let remote = shared(&sharer).await;
    let bytes: Vec<u8> =
        (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let echo = |mine: Bytes| {
        let remote = &remote;
        async move {
            let (mut input, mut output) = remote.start("cat; echo end >&2", None).await.unwrap();
            let feed = async {
                for piece in mine.chunks(70_000) {
                    input.write(Bytes::copy_from_slice(piece)).await.unwrap();
                }
                input.finish().await.unwrap();
            };
            let (_, (out, err, exit)) =
                tokio::join!(feed, async { collect(&mut output).await.unwrap() });
            assert!(out == mine, "{} bytes came back of {}", out.len(), mine.len());
            assert_eq!((err.as_slice(), exit.code), (&b"end\n"[..], 0));
        }
    };
    let all = async {
        tokio::join!(
            echo(bytes.clone().into()),
            echo(bytes[..999].to_vec().into()),
            echo(Bytes::new())
        )
    };
    timeout(LONG, all).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_after_the_end_is_moot_and_giving_up_ends_the_process() {
    let sharer = Sharer::new();
    let remote = shared(&sharer).await;
    let (mut input, mut output) = remote.start("exit 5", None).await.unwrap();
    let (_, _, exit) = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap();
    assert_eq!(exit.code, 5);
    input.write(Bytes::from_static(b"more")).await.unwrap();
    input.finish().await.unwrap();
    let mark = sharer.server.path("alive");
    let command = format!(
        "trap '' PIPE; echo up; touch {0}; while echo x; do sleep 0.05; done; rm {0}",
        mark.display()
    );
    let (input, mut output) = remote.start(&command, None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    drop((input, output));
    let begun = Instant::now();
    while mark.exists() {
        assert!(begun.elapsed() < LONG, "the process goes on without a reader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_a_lost_connection_and_the_next_one_is_our_own() {
    let mut sharer = Sharer::new();
    let (dialer, address) = (SshDialer::new(sharer.with_key()), sharer.address());
    let remote = dial(&dialer, &address).await.0.unwrap();
    let (mut input, mut output) = remote.start("echo up; cat", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    sharer.end_master();
    let error = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap_err();
    assert_eq!(error.code, ErrorCode::ConnectionLost);
    timeout(LONG, remote.closed()).await.expect("in time");
    assert!(remote.is_closed());
    let write = timeout(LONG, input.write(Bytes::from_static(b"x"))).await.expect("in time");
    assert_eq!(write.unwrap_err().code, ErrorCode::ConnectionLost);
    let start = remote.start("true", None).await.unwrap_err();
    assert_eq!(start.code, ErrorCode::ConnectionLost);
    let (remote, said) = dial(&dialer, &address).await;
    let remote = remote.unwrap();
    assert!(said.contains("OpenSSH shares no connection to 127.0.0.1"), "{said}");
    assert_eq!(remote.transport(), "ssh");
    assert_eq!(run(&remote, "exit 3").await.2.code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_master_refuses_is_done_on_a_connection_of_our_own() {
    let sharer = Sharer::with("MaxSessions 1");
    let (remote, _) = dial(&SshDialer::new(sharer.with_key()), &sharer.address()).await;
    let remote = remote.unwrap();
    let (_input, mut output) = remote.start("echo up; sleep 600", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    assert_eq!(sharer.connections(), 1);
    assert_eq!(run(&remote, "exit 4").await.2.code, 4);
    assert_eq!(sharer.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_had_on_a_connection_of_our_own() {
    let sharer = Sharer::new();
    let (remote, _) = dial(&SshDialer::new(sharer.with_key()), &sharer.address()).await;
    let pty = Pty { term: "vt100".into(), columns: 101, rows: 11 };
    let (_input, mut output) = remote.unwrap().start("stty size", Some(&pty)).await.unwrap();
    let (out, _, _) = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&out).trim(), "11 101");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_others_may_use_or_that_is_dead_or_mute_is_passed_over() {
    let mut sharer = Sharer::new();
    let (dialer, address, socket) =
        (SshDialer::new(sharer.with_key()), sharer.address(), sharer.socket());
    let passed_over = async |why: &str| {
        let (remote, said) = dial(&dialer, &address).await;
        assert_eq!(remote.unwrap().transport(), "ssh");
        assert!(said.contains(why), "{said}");
    };
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
    passed_over("others may use it").await;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    signal(sharer.master.id(), "-STOP");
    passed_over("nobody answers").await;
    signal(sharer.master.id(), "-CONT");
    sharer.end_master();
    fs::remove_file(&socket).ok();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    passed_over("refused").await;
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "").unwrap();
    passed_over("no socket").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_box_or_one_whose_host_key_was_announced_never_uses_it() {
    let sharer = Sharer::new();
    let dialer = SshDialer::new(sharer.with_key());
    let mut announced = sharer.address();
    announced.endpoint.host_keys = vec![sharer.server.public("host_ed25519")];
    let mut leased = sharer.server.address();
    leased.endpoint.host = "127.0.0.1".into();
    for address in [announced, leased] {
        let (remote, said) = dial(&dialer, &address).await;
        assert_eq!((remote.unwrap().transport(), said.as_str()), ("ssh", ""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_connections_uses_it_only_where_there_is_no_other_way() {
    let sharer = Sharer::new();
    let keeping = |user| SshDialer::new(user).for_keeping();
    let address = sharer.address();
    let (remote, _) = dial(&keeping(sharer.user()), &address).await;
    assert_eq!(remote.unwrap().transport(), "openssh", "there is no key");
    let (remote, _) = dial(&keeping(sharer.with_key()), &address).await;
    assert_eq!(remote.unwrap().transport(), "ssh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_only_openssh_can_go_is_open_while_it_shares_the_connection() {
    let mut sharer = Sharer::new();
    let config = sharer.home.path().join(".ssh/config");
    let text = fs::read_to_string(&config).unwrap();
    write(&config, &format!("{text}  ProxyCommand echo no way >&2; exit 1\n"));
    assert_eq!(run(&shared(&sharer).await, "exit 9").await.2.code, 9);
    sharer.end_master();
    let (remote, _) = dial(&SshDialer::new(sharer.with_key()), &sharer.address()).await;
    assert_eq!(remote.unwrap_err().stage, Some("proxy"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_falls_silent_behind_the_master_is_noticed_and_not_used_again() {
    let sharer = Sharer::new();
    let keepalive = Duration::from_millis(300);
    let timing = Timing { keepalive, keepalive_max: 2, ..Timing::default() };
    let dialer = SshDialer::with_timing(sharer.with_key(), timing);
    let address = sharer.address();
    let remote = dial(&dialer, &address).await.0.unwrap();
    let (_input, mut output) = remote.start("echo up; sleep 600", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    tokio::time::sleep(keepalive * 6).await;
    assert!(!remote.is_closed(), "a process that says nothing is no silence");
    let sessions = sharer.server.sessions();
    sessions.iter().for_each(|pid| signal(*pid, "-STOP"));
    let lost = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap_err();
    assert_eq!(lost.code, ErrorCode::ConnectionLost);
    assert!(lost.to_string().contains("no sign of life"), "{lost}");
    let (remote, said) = dial(&dialer, &address).await;
    assert!(said.contains("it fell silent before"), "{said}");
    assert_eq!(run(&remote.unwrap(), "exit 2").await.2.code, 2);
    sessions.iter().for_each(|pid| signal(*pid, "-CONT"));
}

//! Processes over a real SSH server: exit statuses, signals, bytes, terminals, many at once.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod sshd;
mod talk;

use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::ports::{Dialer, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Stop};
use crabbox_remote::{SshDialer, SshRemote, UserSsh};
use crabbox_schemas::error::ErrorCode;
use sshd::Sshd;
use talk::{collect, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(120);

async fn dial(server: &Sshd) -> SshRemote {
    let dialer = SshDialer::new(UserSsh::new(server.dir.path(), "nobody"));
    dialer.dial(&server.address(), &mut Vec::new(), &Stop::never()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_statuses_come_through_and_streams_stay_apart() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    for code in [0, 37, 255] {
        let (out, err, exit) = run(&remote, &format!("echo out; echo err >&2; exit {code}")).await;
        assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(exit, Exit { code, signal: None });
    }
    let (out, _, _) = run(&remote, "printf '%s' 'a b'\"'\"'c'").await;
    assert_eq!(out, b"a b'c");
    assert_eq!(remote.peer(), format!("127.0.0.1:{}", server.port));
    timeout(Duration::from_secs(2), remote.close()).await.expect("a goodbye is bounded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_by_signal_is_named_and_a_signal_sent_reaches_the_server() {
    let server = Sshd::with("LogLevel DEBUG1");
    let remote = dial(&server).await;
    let (_, _, exit) = run(&remote, "kill -KILL $$").await;
    assert_eq!(exit, Exit { code: 137, signal: Some("KILL".into()) });
    let (mut input, mut output) = remote.start("echo up; read line; exit 4", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    input.signal("TERM").await.unwrap();
    input.finish().await.unwrap();
    let (_, _, exit) = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap();
    assert_eq!(exit.code, 4);
    assert!(server.log().contains("request signal"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_of_mixed_output_arrive_byte_exact() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let command = "(seq 1 7000000) & (seq 1 7000000 >&2) & wait; exit 37";
    let (out, err, exit) = run(&remote, command).await;
    let wanted: String = (1..=7_000_000).map(|n| format!("{n}\n")).collect();
    assert!(out.len() + err.len() > 100 << 20);
    assert!(out == wanted.as_bytes(), "stdout differs");
    assert!(err == wanted.as_bytes(), "stderr differs");
    assert_eq!(exit.code, 37);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_of_input_come_back_from_cat() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let sent = Bytes::from((0..20u32 << 20).map(|n| ((n * 31) >> 7) as u8).collect::<Vec<_>>());
    let (mut input, mut output) = remote.start("cat", None).await.unwrap();
    let feed = async {
        for chunk in sent.chunks(1 << 20) {
            input.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        input.finish().await.unwrap();
    };
    let both = async { tokio::join!(feed, collect(&mut output)).1.unwrap() };
    let (out, _, exit) = timeout(LONG, both).await.expect("in time");
    assert!(out == sent, "the echo differs");
    assert_eq!(exit.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_nobody_reads_does_not_hold_or_fail_the_run() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let (mut input, mut output) = remote.start("exec <&-; sleep 0.2; exit 5", None).await.unwrap();
    let feed = async {
        for _ in 0..64 {
            input.write(Bytes::from(vec![0; 1 << 20])).await.unwrap();
        }
        input.finish().await.unwrap();
    };
    let both = async { tokio::join!(feed, collect(&mut output)).1.unwrap() };
    assert_eq!(timeout(LONG, both).await.expect("in time").2.code, 5);
    input.write(Bytes::from_static(b"late")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_the_size_it_was_told() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let pty = Pty { term: "xterm".into(), columns: 91, rows: 33 };
    let command = "stty size; echo $TERM; read line; stty size";
    let (mut input, mut output) = remote.start(command, Some(&pty)).await.unwrap();
    let mut said = String::new();
    while !said.contains("xterm") {
        let Piece::Data(_, data) = timeout(LONG, output.next()).await.unwrap().unwrap() else {
            panic!("ended early: {said}");
        };
        said.push_str(&String::from_utf8_lossy(&data));
    }
    assert!(said.contains("33 91"), "{said}");
    input.resize(120, 50).await.unwrap();
    input.write(Bytes::from_static(b"go\n")).await.unwrap();
    let (out, _, exit) = timeout(LONG, collect(&mut output)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&out).contains("50 120"));
    assert_eq!(exit.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_command_is_the_login_shell() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let pty = Pty { term: "dumb".into(), columns: 80, rows: 24 };
    let (mut input, mut output) = remote.start("", Some(&pty)).await.unwrap();
    input.write(Bytes::from_static(b"echo $((6*7)); exit 9\n")).await.unwrap();
    let (out, _, exit) = timeout(LONG, collect(&mut output)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&out).contains("42"));
    assert_eq!(exit.code, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_share_one_connection_and_a_reader_that_sleeps_disturbs_none() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let (_input, mut idle) = remote.start("head -c 30000000 /dev/zero", None).await.unwrap();
    let eight = |n: i32| {
        let remote = &remote;
        async move { run(remote, &format!("echo {n}; exit {n}")).await.2.code }
    };
    let codes = tokio::join!(eight(1), eight(2), eight(3), eight(4), eight(5), eight(6));
    assert_eq!(codes, (1, 2, 3, 4, 5, 6));
    assert_eq!(server.sessions().len(), 1);
    let (out, _, exit) = timeout(LONG, collect(&mut idle)).await.unwrap().unwrap();
    assert_eq!((out.len(), exit.code), (30_000_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_is_given_up_holds_nobody() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    for _ in 0..20 {
        let (_, mut output) = remote.start("yes", None).await.unwrap();
        assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    }
    assert_eq!(run(&remote, "exit 3").await.2.code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_connection_is_lost_and_never_an_exit_status() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let (mut input, mut output) = remote.start("echo up; sleep 600", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    server.sessions().into_iter().for_each(sshd::kill);
    let error = timeout(LONG, collect(&mut output)).await.expect("in time").unwrap_err();
    assert_eq!(error.code, ErrorCode::ConnectionLost);
    let error = input.write(Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ConnectionLost);
    assert_eq!(remote.start("true", None).await.unwrap_err().code, ErrorCode::ConnectionLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_the_box_reaches_what_listens_there() {
    let server = Sshd::start();
    let remote = dial(&server).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut word = [0; 5];
        socket.read_exact(&mut word).await.unwrap();
        socket.write_all(&word).await.unwrap();
    });
    let mut stream = remote.open_tcp("127.0.0.1", port).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    timeout(LONG, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hello");
    echo.await.unwrap();
    assert!(remote.open_tcp("127.0.0.1", sshd::free_port()).await.is_err());
}

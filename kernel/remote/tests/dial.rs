//! Dialling real servers: every stage that can fail names itself, and waiting pays when the box is slow.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod sshd;

use std::fs;
use std::time::{Duration, Instant};

use crabbox_kernel::error::KernelError;
use crabbox_kernel::event::Event;
use crabbox_kernel::ports::{
    Address, Dialer, EventSink, Piece, ProcessOutput, Remote, Stop, Urgency,
};
use crabbox_remote::{SshDialer, SshRemote, Timing, UserSsh};
use crabbox_schemas::error::ErrorCode;
use sshd::{Sshd, free_port};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A dialer that is quick to give up on silence.
fn dialer() -> SshDialer {
    let timing = Timing { connect: Duration::from_secs(2), ..Timing::default() };
    SshDialer::with_timing(UserSsh::new("/nonexistent", "nobody"), timing)
}

async fn dial(address: &Address) -> (Result<SshRemote, KernelError>, Vec<Event>) {
    let mut events = Vec::new();
    let dialled = dialer().dial(address, &mut events, &Stop::never()).await;
    (dialled, events)
}

async fn fails(address: &Address) -> KernelError {
    dial(address).await.0.expect_err("dialling must fail")
}

/// Events as they happen, so that a test can act on the first.
struct Told(UnboundedSender<Event>);

impl EventSink for Told {
    fn emit(&mut self, event: Event) {
        let _ = self.0.send(event);
    }
}

/// Dials, and does something as soon as the dialer says that it waits.
async fn dial_and(
    address: &Address,
    stop: &Stop,
    act: impl FnOnce(),
) -> (Result<SshRemote, KernelError>, Vec<Event>) {
    let (tell, mut told) = unbounded_channel();
    let (dialer, mut sink) = (dialer(), Told(tell));
    let watch = async {
        let event = told.recv().await.expect("the dialer waits");
        tokio::task::block_in_place(act);
        event
    };
    let (dialled, first) = tokio::join!(dialer.dial(address, &mut sink, stop), watch);
    let mut events = vec![first];
    while let Ok(event) = told.try_recv() {
        events.push(event);
    }
    (dialled, events)
}

fn stages(events: &[Event]) -> Vec<&str> {
    let mut stages = Vec::new();
    for event in events {
        if let Event::BootstrapWaiting { stage, .. } = event {
            stages.push(stage.as_str());
        }
    }
    stages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_is_a_dns_failure() {
    let server = Sshd::start();
    let mut address = server.address();
    address.endpoint.host = "no-such-host.invalid".into();
    let error = fails(&address).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshDns, Some("dns")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_ports_are_named() {
    let server = Sshd::start();
    let mut address = server.address();
    let (one, two) = (free_port(), free_port());
    (address.endpoint.port, address.endpoint.fallback_ports) = (one, vec![two]);
    let error = fails(&address).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshTcp, Some("tcp")));
    assert!(error.message.contains(&format!("ports {one}, {two}")), "{error}");
    assert!(error.hint.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_says_nothing_is_a_banner_failure() {
    let server = Sshd::start();
    let mut address = server.address();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    address.endpoint.port = silent.local_addr().unwrap().port();
    let begun = Instant::now();
    let error = fails(&address).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshBanner, Some("banner")));
    assert!(error.to_string().contains("said nothing"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_something_else_is_a_banner_failure_that_quotes_it() {
    let server = Sshd::start();
    let mut address = server.address();
    let mail = TcpListener::bind("127.0.0.1:0").await.unwrap();
    address.endpoint.port = mail.local_addr().unwrap().port();
    let greeting = tokio::spawn(async move {
        let (mut socket, _) = mail.accept().await.unwrap();
        socket.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 64]).await;
    });
    let error = fails(&address).await;
    assert_eq!(error.code, ErrorCode::SshBanner);
    assert!(error.to_string().contains("220 mail.example ESMTP"), "{error}");
    greeting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fallback_port_is_used_when_the_first_is_closed_or_silent() {
    let server = Sshd::start();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for first in [free_port(), silent.local_addr().unwrap().port()] {
        let mut address = server.address();
        address.endpoint.fallback_ports = vec![server.port];
        address.endpoint.port = first;
        let (remote, _) = dial(&address).await;
        assert_eq!(remote.unwrap().peer(), format!("127.0.0.1:{}", server.port));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_and_the_error_says_which() {
    let server = Sshd::start();
    server.keygen("other", "ed25519", "");
    let mut address = server.address();
    address.key = server.path("other");
    let error = fails(&address).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshAuth, Some("auth")));
    assert!(error.to_string().contains("other: refused"), "{error}");
    assert!(error.to_string().contains(&address.endpoint.user), "{error}");
    (address.endpoint.user, address.endpoint.user_secret) = ("t0ken".into(), true);
    let error = fails(&address).await;
    assert_eq!(error.code, ErrorCode::SshAuth);
    assert!(!format!("{error:?}").contains("t0ken"), "a secret user name is never shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_learns_its_key_late_is_waited_for() {
    let server = Sshd::start();
    server.allow(&[]);
    let mut address = server.address();
    address.patience = Duration::from_secs(60);
    let (remote, events) = dial_and(&address, &Stop::never(), || server.allow(&["id"])).await;
    remote.unwrap();
    assert_eq!(stages(&events), ["auth"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_late_is_waited_for() {
    let mut server = Sshd::start();
    server.end();
    let mut address = server.address();
    address.patience = Duration::from_secs(60);
    let (remote, events) = dial_and(&address, &Stop::never(), || server.launch()).await;
    remote.unwrap();
    assert_eq!(stages(&events).first(), Some(&"tcp"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_check_is_repeated_until_it_passes_on_one_connection() {
    let server = Sshd::start();
    let mut address = server.address();
    let mark = server.path("mark");
    let check = format!(
        "echo x >> {0}; test $(wc -l < {0}) -ge 3 || {{ echo still busy; exit 1; }}",
        mark.display()
    );
    address.endpoint.ready_check = Some(check);
    address.patience = Duration::from_secs(60);
    let (remote, events) = dial(&address).await;
    remote.unwrap();
    assert_eq!(stages(&events), ["ready"]);
    assert_eq!(fs::read_to_string(mark).unwrap().lines().count(), 3);
    assert_eq!(server.log().matches("Accepted publickey").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_check_that_never_passes_is_quoted() {
    let server = Sshd::start();
    let mut address = server.address();
    address.endpoint.ready_check = Some("echo cloud-init still runs >&2; exit 3".into());
    let error = fails(&address).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshReady, Some("ready")));
    assert!(error.to_string().contains("ended with 3"), "{error}");
    assert!(error.to_string().contains("cloud-init still runs"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_host_key_is_pinned_and_a_changed_one_is_refused() {
    let mut server = Sshd::start();
    let address = server.address();
    dial(&address).await.0.unwrap().close().await;
    let pinned = fs::read_to_string(&address.known_hosts).unwrap();
    let key = server.public("host_ed25519");
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(pinned, format!("[127.0.0.1]:{} {key}\n", server.port));
    dial(&address).await.0.expect("the pinned key is believed").close().await;
    server.end();
    server.keygen("host_ed25519", "ed25519", "");
    server.launch();
    let mut patient = address.clone();
    patient.patience = Duration::from_secs(60);
    let error = fails(&patient).await;
    assert_eq!((error.code, error.stage), (ErrorCode::SshHostKey, Some("host-key")));
    assert!(error.hint.as_ref().unwrap().contains("pins/known_hosts:1"), "{error:?}");
    assert_eq!(fs::read_to_string(&address.known_hosts).unwrap(), pinned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_host_keys_decide_alone() {
    let server = Sshd::start();
    let mut address = server.address();
    // Only the second-best kind is announced: the dialer must ask for it.
    address.endpoint.host_keys = vec![server.public("host_ecdsa")];
    dial(&address).await.0.expect("the announced key is believed");
    assert!(!address.known_hosts.exists());
    address.endpoint.host_keys = vec![server.public("id")];
    assert_eq!(fails(&address).await.code, ErrorCode::SshHostKey);
    address.endpoint.host_keys = vec!["ssh-ed25519 garbage".into()];
    assert_eq!(fails(&address).await.code, ErrorCode::SshHostKey);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raising_stop_ends_the_waiting() {
    let server = Sshd::start();
    let mut address = server.address();
    address.endpoint.port = free_port();
    address.patience = Duration::from_secs(600);
    let (raise, stop) = Stop::new();
    let begun = Instant::now();
    let (dialled, _) = dial_and(&address, &stop, || {
        raise.send_replace(Urgency::Gentle);
    })
    .await;
    assert_eq!(dialled.unwrap_err().code, ErrorCode::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_noticed_by_its_silence() {
    let server = Sshd::start();
    let timing = Timing { keepalive: Duration::from_millis(300), ..Timing::default() };
    let dialer = SshDialer::with_timing(UserSsh::new("/nonexistent", "nobody"), timing);
    let dialled = dialer.dial(&server.address(), &mut Vec::new(), &Stop::never()).await;
    let remote = dialled.unwrap();
    let (_input, mut output) = remote.start("echo up; sleep 600", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Data(..)));
    let sessions = server.sessions();
    sessions.iter().for_each(|pid| sshd::signal(*pid, "-STOP"));
    let lost = tokio::time::timeout(Duration::from_secs(20), output.next()).await;
    sessions.iter().for_each(|pid| sshd::signal(*pid, "-CONT"));
    assert_eq!(lost.expect("in time").unwrap_err().code, ErrorCode::ConnectionLost);
}

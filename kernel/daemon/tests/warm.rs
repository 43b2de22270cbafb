//! What a command sees through the daemon is what it would see without it, only sooner.

#![expect(clippy::unwrap_used, reason = "a step that cannot be made fails the test")]

mod fakes;

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crabbox_daemon::{Absent, Caller, Seen, WarmRemote};
use crabbox_kernel::error::KernelError;
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::ports::{
    Dialer, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Stop, Urgency,
};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_wire::{Packet, PacketReader};
use fakes::{Town, address, caller, dialer, drain};
use tempfile::TempDir;
use tokio::task::LocalSet;

const LONG: Duration = Duration::from_secs(600);

/// Runs a story where local tasks can be started.
fn story(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async {
        tokio::time::timeout(Duration::from_secs(30), work).await.expect("the story ends in time");
    };
    LocalSet::new().block_on(&runtime, bounded);
}

fn town() -> (TempDir, Town, Rc<Caller>) {
    let dir = tempfile::tempdir().unwrap();
    let town = Town::default();
    let caller = caller(dir.path(), &town, "one", LONG);
    (dir, town, caller)
}

async fn warm(caller: &Rc<Caller>, direct: &Town, host: &str) -> WarmRemote<Town> {
    let dialled =
        dialer(caller, direct).dial(&address(host), &mut Vec::new(), &Stop::never()).await;
    let remote = dialled.unwrap();
    assert!(matches!(remote, WarmRemote::Kept(_)), "it goes through the daemon");
    remote
}

#[test]
fn commands_share_one_connection_to_a_box() {
    story(async {
        let (_dir, town, caller) = town();
        let direct = Town::default();
        for _ in 0..3 {
            let remote = warm(&caller, &direct, "a").await;
            assert_eq!(remote.peer(), "10.0.0.1:22");
        }
        let (one, other) = tokio::join!(warm(&caller, &direct, "b"), warm(&caller, &direct, "b"));
        assert_eq!((town.dials.get(), direct.dials.get()), (2, 0));
        drop((one, other));
        let status = caller.connect().await.unwrap().status().await.unwrap().unwrap();
        assert_eq!(status.connections.len(), 2);
    });
}

#[test]
fn a_process_behind_the_daemon_is_like_any_other() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let pty = Pty { term: "xterm".into(), columns: 80, rows: 24 };
        let (mut input, mut output) = remote.start("echo", Some(&pty)).await.unwrap();
        let sent: Vec<u8> = (0..7 << 20).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let write = async {
            input.resize(100, 40).await.unwrap();
            input.write(Bytes::from(sent.clone())).await.unwrap();
            input.finish().await.unwrap();
        };
        let ((), (out, err, exit)) = tokio::join!(write, drain(&mut output));
        assert!(out == sent && err == b"bye");
        assert_eq!(exit, Exit { code: 143, signal: Some("TERM".into()) });
        input.write(Bytes::from_static(b"late")).await.unwrap();
    });
}

#[test]
fn a_process_goes_on_when_its_input_is_let_go() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let (input, mut output) = remote.start("flood 300", None).await.unwrap();
        drop(input);
        assert_eq!(drain(&mut output).await.0.len(), 300 << 16);
    });
}

#[test]
fn errors_and_waiting_are_told_as_they_are() {
    story(async {
        let (_dir, town, caller) = town();
        let error = KernelError {
            causes: vec!["one".into(), "two".into()],
            ..KernelError::new(ErrorCode::SshHostKey, "it is another box")
        };
        let error = error.hint("look twice").at("host-key").outcome(Outcome::NotStarted);
        *town.refuses.borrow_mut() = Some(error.clone());
        let mut events = Vec::new();
        let direct = Town::default();
        let dialled =
            dialer(&caller, &direct).dial(&address("a"), &mut events, &Stop::never()).await;
        assert_eq!(dialled.err(), Some(error));
        assert_eq!(direct.dials.get(), 0);
        let waited =
            |e: &Event| matches!(e, Event::BootstrapWaiting { stage, .. } if stage == "tcp");
        assert!(events.iter().any(waited), "{events:?}");
    });
}

#[test]
fn a_login_that_needs_a_person_is_done_by_the_command_itself() {
    story(async {
        let (_dir, town, caller) = town();
        *town.refuses.borrow_mut() = Some(KernelError::new(ErrorCode::SshAuth, "no key fits"));
        let direct = Town::default();
        let dialled =
            dialer(&caller, &direct).dial(&address("a"), &mut Vec::new(), &Stop::never()).await;
        assert!(matches!(dialled, Ok(WarmRemote::Direct(_))));
    });
}

#[test]
fn a_dial_is_given_up_with_its_command() {
    story(async {
        let (_dir, town, caller) = town();
        town.hangs.set(true);
        let (wish, stop) = Stop::new();
        let direct = Town::default();
        let dialler = dialer(&caller, &direct);
        let address = address("a");
        let mut events = Vec::new();
        let dialling = dialler.dial(&address, &mut events, &stop);
        let stopping = async {
            while town.dials.get() == 0 {
                tokio::task::yield_now().await;
            }
            wish.send_replace(Urgency::Gentle);
        };
        let (dialled, ()) = tokio::join!(dialling, stopping);
        assert_eq!(dialled.err().map(|e| e.code), Some(ErrorCode::Cancelled));
        while town.abandoned.get() == 0 {
            tokio::task::yield_now().await;
        }
    });
}

/// A client of the helper that takes packets apart.
struct Session {
    input: <WarmRemote<Town> as Remote>::Input,
    output: <WarmRemote<Town> as Remote>::Output,
    packets: PacketReader,
}

impl Session {
    async fn open(remote: &WarmRemote<Town>) -> Self {
        let (input, output) = remote.kept_helper("/work").await.unwrap().expect("a helper");
        let mut session = Self { input, output, packets: PacketReader::new() };
        let hello = session.next().await.unwrap();
        assert!(String::from_utf8_lossy(&hello.body).contains("hello"), "{hello:?}");
        session
    }

    async fn say(&mut self, text: &str) {
        let packet = Packet::data(0, 20, 0, false, Bytes::copy_from_slice(text.as_bytes()));
        self.input.write(packet.to_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Result<Packet, KernelError> {
        loop {
            if let Some(packet) = self.packets.next_packet() {
                return Ok(packet.unwrap());
            }
            match self.output.next().await? {
                Piece::Data(Stream::Stdout, data) => self.packets.feed(&data),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn hears(&mut self, text: &str) {
        let packet = self.next().await.unwrap();
        assert_eq!((packet.session, &packet.body[..]), (0, text.as_bytes()));
    }
}

#[test]
fn clients_of_one_helper_do_not_hear_each_other() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let (mut one, mut other) = tokio::join!(Session::open(&remote), Session::open(&remote));
        assert_eq!(town.helpers.get(), 1);
        for round in 0..50 {
            one.say(&format!("one {round}")).await;
            other.say(&format!("other {round}")).await;
            other.hears(&format!("other {round}")).await;
            one.hears(&format!("one {round}")).await;
        }
        drop(one);
        other.say("still here").await;
        other.hears("still here").await;
        let left = |town: &Town| {
            let heard = town.heard.borrow();
            heard.iter().any(|(session, packet)| {
                *session != 0
                    && packet.channel == 0
                    && String::from_utf8_lossy(&packet.body).contains("session.end")
            })
        };
        while !left(&town) {
            tokio::task::yield_now().await;
        }
        let numbers: std::collections::BTreeSet<u32> =
            town.heard.borrow().iter().map(|(session, _)| *session).collect();
        assert_eq!(numbers.len(), 2);
    });
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let (mut lazy, mut quick) = tokio::join!(Session::open(&remote), Session::open(&remote));
        lazy.say("send 128").await;
        for round in 0..20 {
            quick.say(&round.to_string()).await;
            quick.hears(&round.to_string()).await;
        }
        for _ in 0..128 {
            assert_eq!(lazy.next().await.unwrap().body.len(), 64 << 10);
        }
    });
}

#[test]
fn a_client_that_is_sent_more_than_it_could_have_granted_is_let_go() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let mut lazy = Session::open(&remote).await;
        lazy.say("send 1024").await;
        let mut quick = Session::open(&remote).await;
        quick.say("hi").await;
        quick.hears("hi").await;
        let mut came = 0;
        while let Ok(packet) = lazy.next().await {
            came += packet.body.len();
        }
        assert!(came < 34 << 20, "{came} bytes were kept");
    });
}

#[test]
fn when_the_helper_dies_its_clients_know_and_the_next_dial_starts_anew() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let mut one = Session::open(&remote).await;
        let heart = town.hearts.borrow_mut().pop().unwrap();
        heart.send(Piece::Exited(Exit { code: 1, signal: None })).unwrap();
        let error = one.next().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ConnectionLost);
        assert!(error.message.contains("connection to the box"), "the daemon lives: {error}");
        let remote = warm(&caller, &town, "a").await;
        let mut again = Session::open(&remote).await;
        again.say("hi").await;
        again.hears("hi").await;
        assert_eq!(town.helpers.get(), 2);
    });
}

#[test]
fn a_box_without_a_helper_says_so() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        assert!(remote.kept_helper("/noexec").await.unwrap().is_none());
    });
}

#[test]
fn a_connection_that_fails_is_not_handed_out_again() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let error = remote.start("nonsense", None).await.err().unwrap();
        assert_eq!((error.code, error.hint.as_deref()), (ErrorCode::ConnectionLost, Some("look")));
        let _again = warm(&caller, &town, "a").await;
        assert_eq!(town.dials.get(), 2);
    });
}

#[test]
fn a_socket_nobody_listens_on_is_replaced() {
    story(async {
        let (_dir, town, caller) = town();
        drop(UnixListener::bind(&caller.place.socket).unwrap());
        assert!(caller.place.socket.exists());
        warm(&caller, &town, "a").await;
    });
}

#[test]
fn a_daemon_that_hangs_and_a_program_that_is_none_are_done_without_in_time() {
    for foreign in [false, true] {
        story(async move {
            let (_dir, town, caller) = town();
            let (lock, _silent) = fakes::owns(&caller);
            let _lock = (!foreign).then_some(lock);
            let (took, absent) = timed(caller.connect_or_start()).await;
            match absent.err().unwrap() {
                Absent::Wedged(_) => assert!(!foreign),
                Absent::Foreign(_) => assert!(foreign),
                other => panic!("{other}"),
            }
            assert!(took < Duration::from_millis(200), "{took:?}");
            let dialler = dialer(&caller, &town);
            let dialled = dialler.dial(&address("a"), &mut Vec::new(), &Stop::never()).await;
            assert!(matches!(dialled, Ok(WarmRemote::Direct(_))));
        });
    }
}

/// How long something takes, and what comes of it.
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed(), done)
}

/// Hello, a request, and so long until a second hello is missed; with some room for a busy machine.
const BYPASSED: Duration = Duration::from_millis(40 + 150 + 100);

#[test]
fn a_daemon_that_hangs_after_its_hello_is_done_without_in_time() {
    story(async {
        let (_dir, town, caller) = town();
        fakes::hangs_after(&caller, &[None]);
        let (dialler, address, never) = (dialer(&caller, &town), address("a"), Stop::never());
        for _ in 0..2 {
            let mut events = Vec::new();
            let (took, dialled) = timed(dialler.dial(&address, &mut events, &never)).await;
            assert!(matches!(dialled, Ok(WarmRemote::Direct(_))));
            assert!(took < BYPASSED, "{took:?}");
        }
    });
}

#[test]
fn a_daemon_that_hangs_when_it_is_asked_for_a_process_or_a_helper_is_left_in_time() {
    for helper in [false, true] {
        story(async move {
            let (_dir, town, caller) = town();
            fakes::hangs_after(&caller, &[Some(r#"{"connection":1,"peer":"a"}"#), None]);
            let remote = warm(&caller, &town, "a").await;
            let asked = async {
                match helper {
                    false => remote.start("echo", None).await.map(drop),
                    true => remote.kept_helper("/work").await.map(drop),
                }
            };
            let (took, asked) = timed(asked).await;
            assert_eq!(asked.err().map(|e| e.code), Some(ErrorCode::ConnectionLost));
            assert!(took < BYPASSED, "{took:?}");
            let again = dialer(&caller, &town);
            let again = again.dial(&address("a"), &mut Vec::new(), &Stop::never()).await;
            assert!(matches!(again, Ok(WarmRemote::Direct(_))));
        });
    }
}

#[test]
fn a_slow_box_is_not_taken_for_a_daemon_that_hangs() {
    story(async {
        let (_dir, town, caller) = town();
        town.slow.set(Duration::from_millis(700));
        let _ = warm(&caller, &Town::default(), "a").await;
    });
}

#[test]
fn a_daemon_of_another_build_finishes_and_makes_way() {
    story(async {
        let (dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let mut session = Session::open(&remote).await;
        let newer = fakes::caller(dir.path(), &town, "two", LONG);
        let absent = newer.connect_or_start().await.err().unwrap();
        assert!(matches!(absent, Absent::OtherBuild), "{absent}");
        session.say("unharmed").await;
        session.hears("unharmed").await;
        let again = async {
            loop {
                match newer.connect_or_start().await {
                    Ok(client) => return client,
                    Err(Absent::OtherBuild) => tokio::task::yield_now().await,
                    Err(absent) => panic!("{absent}"),
                }
            }
        };
        assert_eq!(again.await.hello.build, "two");
    });
}

#[test]
fn a_stop_ends_everything_at_once() {
    story(async {
        let (_dir, town, caller) = town();
        let remote = warm(&caller, &town, "a").await;
        let (_input, mut output) = remote.start("echo", None).await.unwrap();
        caller.connect().await.unwrap().stop().await.unwrap().unwrap();
        let error = output.next().await.err().unwrap();
        assert_eq!(error.code, ErrorCode::ConnectionLost);
        while caller.place.socket.exists() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(caller.connect().await, Err(Absent::NotRunning)));
    });
}

#[test]
fn a_daemon_nobody_uses_goes_away() {
    story(async {
        let dir = tempfile::tempdir().unwrap();
        let town = Town::default();
        let caller = caller(dir.path(), &town, "one", Duration::from_millis(300));
        let remote = warm(&caller, &town, "a").await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(caller.connect().await.is_ok(), "it stays while it is used");
        drop(remote);
        while caller.place.socket.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_watched_folder_is_told_about_from_the_second_time_on() {
    story(async {
        let (dir, _town, caller) = town();
        let root = dir.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        let mut client = caller.connect_or_start().await.unwrap();
        assert_eq!(client.changes(&root).await.unwrap(), Seen::default());
        let mut seen = Seen::default();
        while seen.token.is_none() {
            seen = client.changes(&root).await.unwrap();
        }
        assert_eq!(seen.since, None);
        let token = seen.token.unwrap();
        client.scanned(&root, &token).await.unwrap();
        std::fs::write(root.join("x"), "").unwrap();
        let seen = client.changes(&root).await.unwrap();
        assert_eq!(seen.since, Some((token.clone(), vec!["x".into()])));
        // An index that was not written anew is remembered as before.
        client.scanned(&root, &token).await.unwrap();
        std::fs::write(root.join("y"), "").unwrap();
        let seen = client.changes(&root).await.unwrap();
        assert_eq!(seen.since, Some((token, vec!["x".into(), "y".into()])));
        let status = client.status().await.unwrap().unwrap();
        assert_eq!(status.watched.len(), 1);
    });
}

//! A helper that says anything at all costs the laptop a clear error, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::helper::{Binaries, Helper, Opened, open};
use crabbox_kernel::ports::{Clock, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Stop};
use crabbox_kernel::run::process::Console;
use crabbox_kernel::run::stream::{Follow, OnStop};
use crabbox_kernel::state::State;
use crabbox_kernel::sync::flight::{Flight, Launch, Place, fly};
use crabbox_kernel::sync::{ScanOptions, SyncRules, scan};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{Action, Blob, LockAsk, RunSpec};
use crabbox_schemas::ids::{LeaseId, RunId};
use crabbox_wire::{Frame, GREETING, Id, Packet};
use proptest::prelude::*;
use serde_json::{Value, json};

const RUN: [u8; 6] = [1; 6];

/// A box with a helper that says this and then nothing, or dies.
struct Babbler {
    says: Vec<Bytes>,
    dies: bool,
}

struct Deaf;
struct Mouth {
    says: std::vec::IntoIter<Bytes>,
    dies: bool,
}

impl Remote for Babbler {
    type Input = Deaf;
    type Output = Mouth;

    async fn start(&self, _: &str, _: Option<&Pty>) -> Result<(Deaf, Mouth)> {
        Err(KernelError::new(ErrorCode::ConnectionLost, "only a helper is kept here"))
    }

    async fn kept_helper(&self, _: &str) -> Result<Option<(Deaf, Mouth)>> {
        Ok(Some((Deaf, Mouth { says: self.says.clone().into_iter(), dies: self.dies })))
    }

    fn peer(&self) -> &str {
        "a babbler"
    }

    async fn close(self) {}
}

impl ProcessInput for Deaf {
    async fn write(&mut self, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl ProcessOutput for Mouth {
    async fn next(&mut self) -> Result<Piece> {
        tokio::task::yield_now().await;
        match self.says.next() {
            Some(bytes) => Ok(Piece::Data(Stream::Stdout, bytes)),
            None if self.dies => Ok(Piece::Exited(Exit { code: 1, signal: None })),
            None => std::future::pending().await,
        }
    }
}

/// The runtime's time, which the tests hold in hand.
struct Time(tokio::time::Instant);

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Members that mean something, with values that may not.
fn member() -> impl Strategy<Value = (String, Value)> {
    let names = [
        "outcome",
        "why",
        "paths",
        "owner",
        "lease",
        "written",
        "removed",
        "receivedBytes",
        "channels",
        "channel",
        "pieces",
        "runId",
        "pid",
        "workdir",
        "atMs",
        "exit",
        "code",
        "stdout",
        "from",
        "to",
        "state",
        "startedMs",
        "stdinTaken",
        "bytes",
        "gone",
    ];
    let words = [
        "applied", "refused", "base", "drift", "content", "busy", "fence", "running", "exited",
        "a", "",
    ];
    let value = prop_oneof![
        4 => (0u64..70).prop_map(|n| json!(n)),
        1 => any::<u64>().prop_map(|n| json!(n)),
        1 => any::<i64>().prop_map(|n| json!(n)),
        6 => prop::sample::select(words.to_vec()).prop_map(|word| json!(word)),
        2 => Just(json!(RunId::mint(RUN).to_string())),
        1 => Just(json!({"code": 0, "stdout": 5, "stderr": 0, "endedMs": 1})),
        1 => Just(json!(["a", "../b", {"b64": "!"}])),
        1 => Just(Value::Null),
    ];
    (prop::sample::select(names.to_vec()).prop_map(str::to_owned), value)
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec(member(), 0..6).prop_map(|members| members.into_iter().collect())
}

/// A packet that can be read, whatever it means.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let methods = [
        "hello",
        "run.started",
        "run.exited",
        "run.gap",
        "flight.waiting",
        "flight.need",
        "credit",
        "nothing",
    ];
    let frame = prop_oneof![
        4 => (prop::sample::select(methods.to_vec()), object())
            .prop_map(|(method, params)| Frame::notification(method, &params).unwrap()),
        4 => (0u64..4, object())
            .prop_map(|(id, result)| Frame::Response { id: Id::Number(id), result: Ok(result) }),
        1 => object().prop_map(|params| Frame::request(Id::Number(1), "flight", &params).unwrap()),
    ];
    let sessions = || prop_oneof![9 => Just(0u32), 1 => any::<u32>()];
    prop_oneof![
        4 => (sessions(), frame).prop_map(|(s, frame)| Packet::message(s, &frame).unwrap().to_bytes().to_vec()),
        3 => (sessions(), 1u32..80, prop_oneof![3 => 0u64..20, 1 => any::<u64>()], any::<bool>(), text())
            .prop_map(|(s, channel, at, last, text)| Packet::data(s, channel, at, last, text.into()).to_bytes().to_vec()),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(b"crabbox-manifest 1\nend 46603e50a677670b83e8918e2b2134f52bfde62d213fd2f41f82dbbe3df6fa2a\n".to_vec()),
    ]
}

/// Packets, packets that were damaged, and bytes that are none.
fn said() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => packet(),
        1 => (packet(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 1..60),
    ]
}

/// Listens to a helper that says this after it greeted.
async fn hear(says: Vec<Vec<u8>>, dies: bool) -> Option<Helper> {
    let hello =
        json!({"channel": 1, "helper": "0", "os": "linux", "arch": "x86_64", "pid": 1, "nowMs": 1});
    let hello = Packet::message(0, &Frame::notification("hello", &hello).unwrap()).unwrap();
    let mut all = vec![Bytes::from([GREETING, &hello.to_bytes()].concat())];
    all.extend(says.into_iter().map(Bytes::from));
    let babbler = Babbler { says: all, dies };
    let binaries = Binaries::in_dir("/nowhere".into());
    let time = Time(tokio::time::Instant::now());
    match open(&babbler, &binaries, "/work", &time, &mut Vec::new()).await {
        Ok(Opened::Helper(helper)) => Some(helper),
        _ => None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// An hour of waiting is as good as for ever: then the user's patience ends it.
const HOUR: Duration = Duration::from_secs(3600);

/// How many cases; `CRABBOX_TEST_CASES` asks for another number.
fn config() -> ProptestConfig {
    #[expect(clippy::disallowed_methods, reason = "how many cases are tried")]
    let asked = std::env::var("CRABBOX_TEST_CASES").ok();
    let cases = asked.and_then(|n| n.parse().ok()).unwrap_or(500);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_flight_to_a_helper_that_babbles_ends_in_time_and_never_breaks(
        says in prop::collection::vec(said(), 0..12), dies in any::<bool>(), large in any::<bool>(),
    ) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let here = dir.path().join("here");
            std::fs::create_dir(&here).unwrap();
            std::fs::write(here.join("a"), vec![7; if large { 3 << 20 } else { 5 }]).unwrap();
            let rules = SyncRules { timeout: Duration::from_secs(60), ..SyncRules::default() };
            let tree = scan(&here, &rules, &ScanOptions::default()).unwrap().0;
            let spec = RunSpec {
                run_id: RunId::mint(RUN).to_string(),
                action: Action::Shell(Blob::Text("true".to_owned())),
                env: Default::default(),
                pty: None,
                stdin: true,
                timeout_ms: None,
                spool_bytes: 1 << 20,
            };
            let place =
                Place { lease: LeaseId::mint([1; 6]), base_dir: "/work/b".into(), repo: "repo".into() };
            let flight = Flight {
                place: &place,
                tree: Some((&tree, &rules)),
                lock: LockAsk { owner: "a test".to_owned(), wait_ms: 60_000 },
                isolate: false,
                checkout: None,
                launch: Some(&Launch { spec, script: None }),
            };
            let state = State { root: dir.path().join("state"), config: dir.path().join("config") };
            let Some(mut helper) = hear(says, dies).await else { return Ok(()) };
            let time = Time(tokio::time::Instant::now());
            let stop = Stop::never();
            let mut events = Vec::new();
            let flown = fly(&mut helper, &flight, &state, &mut events, &stop, &time);
            let flown = tokio::time::timeout(HOUR, flown).await;
            prop_assert!(flown.is_ok(), "its own timeout ends it");
            if let Ok(Err(error)) = flown {
                prop_assert!(error.outcome.is_some(), "whether the command may run is said: {error}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_run_followed_on_a_helper_that_babbles_ends_or_waits_and_never_breaks(
        says in prop::collection::vec(said(), 0..16), dies in any::<bool>(),
    ) {
        runtime().block_on(async {
            let Some(mut helper) = hear(says, dies).await else { return Ok(()) };
            let channels = helper.channels();
            let run = RunId::mint(RUN).to_string();
            let mut follow = Follow::new("/work/b", &run, [0, 0], true, OnStop::EndCommand);
            let (mut console, mut events) = (Console::closed(), Vec::new());
            let (time, stop) = (Time(tokio::time::Instant::now()), Stop::never());
            let followed =
                follow.to_the_end(&mut helper, channels, &mut console, &time, &mut events, &stop);
            if let Ok(Err(error)) = tokio::time::timeout(HOUR, followed).await {
                let known = [ErrorCode::ConnectionLost, ErrorCode::Internal];
                prop_assert!(known.contains(&error.code), "{error:?}");
            }
            Ok(())
        })?;
    }
}

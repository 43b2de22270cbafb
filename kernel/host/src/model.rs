//! The session against a plugin that says anything that is allowed, and some that is not, in any order.
//!
//! The plugin is in this process, at the other end of a pipe in memory; only its process group is a real one, a `sleep`,
//! so that it can be killed. `CRABBOX_TEST_FRAMES` asks for more frames, `CRABBOX_TEST_SEED` for those of an earlier try.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_kernel::ports::{Stop, Urgency};
use crabbox_net::{Blobs, Net};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::manifest::Grants;
use crabbox_schemas::plugin::Limits;
use crabbox_wire::payload::MAX_CHUNK;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::call::{Call, Hands, call};
use crate::exec::{KillOnDrop, Tools};
use crate::kv::Store;
use crate::link::Link;
use crate::spawn::{self, Group, Program, Running};

/// Frames in both directions, unless somebody asks for more.
const FRAMES: u64 = 150_000;
/// Calls of one session.
const CALLS: u64 = 300;
const WINDOW: u64 = 256 * 1024;

/// Pseudo-random numbers.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[expect(clippy::disallowed_methods, reason = "how much is tried, and which")]
fn wished(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// The plugin, and what it knows.
struct Plugin {
    dice: Dice,
    to: DuplexStream,
    /// Open calls: bytes of output sent, and granted beyond the window.
    calls: BTreeMap<u64, (u64, u64)>,
    answered: BTreeSet<u64>,
    /// Callbacks that were not answered yet: of which call.
    asked: BTreeMap<String, u64>,
    issued: u64,
    group: Arc<Group>,
    watch: Watch,
}

/// What the test sees of the plugin, and tells it.
#[derive(Clone, Default)]
struct Watch {
    frames: Arc<AtomicU64>,
    /// Callbacks that wait for an answer.
    pending: Arc<AtomicUsize>,
    /// Nothing more is said.
    quiet: Arc<AtomicBool>,
}

impl Plugin {
    async fn send(&mut self, mut frame: Value) -> bool {
        frame["jsonrpc"] = json!("2.0");
        self.watch.frames.fetch_add(1, Ordering::Relaxed);
        self.to.write_all(format!("{frame}\n").as_bytes()).await.is_ok()
    }

    /// Takes a frame of the kernel; every rule of its is checked.
    fn take(&mut self, frame: &Value) {
        self.watch.frames.fetch_add(1, Ordering::Relaxed);
        let id = &frame["id"];
        match frame["method"].as_str() {
            Some("$/cancel") => {}
            Some("$/credit") => {
                let call = frame["params"]["call"].as_u64().unwrap();
                if let Some((sent, granted)) = self.calls.get_mut(&call) {
                    *granted += frame["params"]["bytes"].as_u64().unwrap();
                    assert!(*granted <= *sent, "credit for {granted} of {sent} bytes");
                }
            }
            Some(_) => {
                let id = id.as_u64().unwrap();
                assert!(!self.answered.contains(&id), "{id} was used before");
                assert_eq!(self.calls.insert(id, (0, 0)), None, "{id} is in use");
            }
            None => {
                let asked = self.asked.remove(id.as_str().unwrap());
                assert!(asked.is_some(), "{id} was answered twice, or never asked");
                self.watch.pending.store(self.asked.len(), Ordering::SeqCst);
                let ok = frame.get("result").is_some();
                assert!(ok != frame.get("error").is_some(), "{frame}");
            }
        }
    }

    /// One thing a plugin may say; false when the wire is closed.
    async fn act(&mut self) -> bool {
        let open = self.calls.keys().copied().collect::<Vec<_>>();
        let pick = self.dice.below(open.len() as u64);
        let Some(&call) = open.get(usize::try_from(pick).unwrap()) else {
            return self.send(json!({"method": "event/log", "params": {"call": 0, "level": "info", "message": "idle"}})).await;
        };
        match self.dice.below(16) {
            0 => self.answer(call).await,
            1..6 => self.output(call).await,
            6 => self.send(json!({"method": "event/progress", "params": {"call": call, "phase": "p", "done": 1}})).await,
            7 => self.send(json!({"method": "event/log", "params": {"call": call, "level": "info", "message": "m"}})).await,
            8 => self.send(json!({"method": "event/nothing", "params": {"call": call}})).await,
            9 => self.ask(call, "host/kv.get", json!({"key": "k"})).await,
            10 => self.ask(call, "host/sleep", json!({"ms": 1})).await,
            11 => self.ask(call, "host/resource.forget", json!({"resource": {"kind": "s", "cloudId": "x"}})).await,
            12 => self.ask(call, "host/teleport", json!({})).await,
            13 => self.ask(call, "host/blob.read", json!({"blob": "b9", "off": 0})).await,
            _ => {
                // About a call that is over, or never was.
                let over = self.answered.iter().next_back().copied().unwrap_or(u64::MAX >> 12);
                self.ask(over, "host/kv.get", json!({"key": "k"})).await
            }
        }
    }

    async fn answer(&mut self, call: u64) -> bool {
        self.calls.remove(&call);
        self.answered.insert(call);
        let frame = match self.dice.one_in(4) {
            true => {
                json!({"id": call, "error": {"code": 1030, "message": "full", "data": {"kind": "capacity", "outcome": "not-started"}}})
            }
            false => json!({"id": call, "result": {"for": call}}),
        };
        let again = self.dice.one_in(30);
        self.send(frame.clone()).await && (!again || self.send(frame).await)
    }

    /// Output as credit allows, which is never less than nothing.
    async fn output(&mut self, call: u64) -> bool {
        let len = self.dice.below(MAX_CHUNK as u64 / 8) + 1;
        let (sent, granted) = self.calls[&call];
        if sent >= WINDOW + granted {
            return true;
        }
        self.calls.insert(call, (sent + len, granted));
        let text = "x".repeat(usize::try_from(len).unwrap());
        let params = json!({"call": call, "ch": "stdout", "off": sent, "text": text});
        self.send(json!({"method": "event/output", "params": params})).await
    }

    async fn ask(&mut self, call: u64, method: &str, mut params: Value) -> bool {
        self.issued += 1;
        let id = format!("p{}", self.issued);
        params["call"] = json!(call);
        self.asked.insert(id.clone(), call);
        self.watch.pending.store(self.asked.len(), Ordering::SeqCst);
        self.send(json!({"id": id, "method": method, "params": params})).await
    }
}

/// Plays the plugin until the kernel hangs up, or until it feels like dying.
async fn play(mut plugin: Plugin, from: DuplexStream, dies: bool) {
    let mut lines = BufReader::new(from).lines();
    loop {
        let quiet = plugin.watch.quiet.load(Ordering::SeqCst);
        let busy = !quiet && !plugin.calls.is_empty();
        if plugin.dice.one_in(200) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::yield_now().await;
        let line = match busy {
            true => lines.next_line().now_or_never(),
            false => Some(lines.next_line().await),
        };
        match line {
            Some(Ok(Some(line))) => plugin.take(&serde_json::from_str(&line).unwrap()),
            Some(_) => return,
            None => {
                if (dies && plugin.dice.one_in(2000)) || !plugin.act().await {
                    plugin.group.signal(rustix::process::Signal::KILL);
                    return;
                }
            }
        }
    }
}

fn broker(folder: &std::path::Path) -> Broker {
    let net = Net::new(crabbox_net::Options {
        grants: Grants::default(),
        setting: Arc::new(|_| None),
        source: Arc::new(|_| Box::pin(std::future::ready(Ok(None)))),
        now_ms: Arc::new(|| 0),
        roots: Vec::new(),
        lookup: None,
    });
    Broker {
        net: net.unwrap(),
        blobs: Blobs::new(folder),
        prompt: None,
        store: Store::new(folder.join("kv.json"), Arc::new(|| 0)),
        tools: Tools {
            path: String::new(),
            home: folder.to_owned(),
            env: BTreeMap::new(),
            cwd: folder.to_owned(),
            found: Mutex::default(),
            granted: vec![],
            checkout: None,
            keys: None,
        },
    }
}

/// One call of the kernel's, which ends as calls may end.
async fn one(link: &Arc<Link>, mut dice: Dice, dies: bool) {
    let (wish, stop) = Stop::new();
    if dice.one_in(8) {
        let time = Duration::from_millis(dice.below(4));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            wish.send_replace(Urgency::Gentle);
        });
    }
    let deadline = match dice.below(6) {
        0 => Duration::from_millis(dice.below(4)),
        _ => Duration::from_secs(60),
    };
    let params = json!({"ctx": {"deadlineMs": 1, "graceMs": 1, "idem": "k"}});
    let made = call(
        link,
        Call {
            method: "lease.list",
            params,
            deadline,
            grace: Duration::from_secs(30),
            mutating: true,
            stop: &stop,
        },
        Hands::default(),
    );
    // Some callers lose interest.
    let patience =
        if dice.one_in(8) { Duration::from_millis(dice.below(3)) } else { Duration::from_secs(90) };
    let Ok(ended) = timeout(patience, made).await else {
        assert!(patience < Duration::from_secs(1), "a call never ended");
        return;
    };
    match ended {
        Ok(result) => assert!(result["for"].is_u64(), "{result}"),
        Err(error) => {
            let known = [ErrorCode::Capacity, ErrorCode::ProviderTimeout];
            let fault = error.code == ErrorCode::PluginFault;
            assert!(known.contains(&error.code) || (dies && fault), "{error}");
            assert!(error.outcome.is_some_and(|o| o != Outcome::Completed), "{error}");
        }
    }
}

async fn session(seed: u64, watch: &Watch) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let dies = dice.one_in(4);
    let folder = tempfile::tempdir().unwrap();
    let program = Program {
        path: "/bin/sleep".into(),
        args: vec!["600".into()],
        env: BTreeMap::new(),
        cwd: folder.path().into(),
        confined: None,
    };
    let process = spawn::start(program).await.unwrap();
    let _guard = KillOnDrop(Arc::clone(&process.group));
    let ((stdin, from), (to, stdout), (stderr, _quiet)) = (duplex(4096), duplex(4096), duplex(64));
    let running = Running { stdin, stdout, stderr, group: Arc::clone(&process.group) };
    let limits = Limits { output_window: WINDOW, ..Limits::default() };
    let link = Link::attach(
        "model",
        limits,
        running,
        broker(folder.path()),
        None,
        crabbox_plugins::Written::default(),
    );
    let (calls, answered, asked) = Default::default();
    let watch = Watch { frames: Arc::clone(&watch.frames), ..Watch::default() };
    let plugin = Plugin {
        dice: Dice(dice.below(u64::MAX) | 1),
        to,
        calls,
        answered,
        asked,
        issued: 0,
        group: Arc::clone(&process.group),
        watch: watch.clone(),
    };
    let played = tokio::spawn(play(plugin, from, dies));
    let made: Vec<_> = (0..CALLS)
        .map(|_| {
            let (link, dice) = (Arc::clone(&link), Dice(dice.below(u64::MAX) | 1));
            tokio::task::spawn_local(async move { one(&link, dice, dies).await })
        })
        .collect();
    for call in made {
        call.await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    watch.quiet.store(true, Ordering::SeqCst);
    let mut patience = 1000;
    while watch.pending.load(Ordering::SeqCst) > 0 && link.ended().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        patience -= 1;
        assert!(patience > 0, "seed {seed}: a callback was never answered");
    }
    link.closes();
    link.hang_up();
    let played = timeout(Duration::from_secs(20), played).await;
    let played = played.unwrap_or_else(|_| panic!("seed {seed}: the plugin never heard the end"));
    played.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
}

#[test]
fn every_request_is_answered_once_and_credit_is_never_overdrawn_whatever_is_said_in_any_order() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (watch, most) = (Watch::default(), wished("CRABBOX_TEST_FRAMES", FRAMES));
    let first = wished("CRABBOX_TEST_SEED", 1);
    let mut seed = first;
    while watch.frames.load(Ordering::Relaxed) < most {
        runtime.block_on(LocalSet::new().run_until(session(seed, &watch)));
        seed += 1;
    }
    assert!(seed - first > 3, "only {} sessions", seed - first);
}

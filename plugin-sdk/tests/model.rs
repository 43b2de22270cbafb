//! The session against a kernel that calls, cancels, pays and answers in any order, and hangs up in the middle.
//!
//! `CRABBOX_TEST_FRAMES` asks for more frames, `CRABBOX_TEST_SEED` for those of an earlier try.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crabbox_plugin_sdk::*;
use serde_json::{Value, json};

/// Frames in both directions, unless somebody asks for more.
const FRAMES: u64 = 500_000;
/// Frames of one session.
const SESSION: u64 = 8_000;
const WINDOW: u64 = 64 * 1024;
const CHUNK: u64 = 48 * 1024;
/// No answer may take longer.
const BOUND: Duration = Duration::from_secs(30);

const MANIFEST: &str = r#"
manifest = 1
id = "example.dev/model"
version = "1.0.0"
protocols = ["1"]
[[provider]]
name = "model"
kind = "delegated-run"
targets = ["linux"]
[[artifact]]
runtime = "stdio"
path = "model"
"#;

/// Does what the words of its command say.
struct Model;

impl DelegatedRun for Model {
    fn warmup(&self, _: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        Err(Failure::not_found(params.desired.name))
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        for word in &params.command {
            match &**word {
                "sleep" => drop(call.sleep(Duration::from_millis(1))),
                "ask" => drop(call.kv_get("k")),
                "log" => call.log(Level::Info, "word"),
                "fail" => return Err(Failure::transient("as told")),
                "panic" => panic!("as told"),
                "check" => call.check()?,
                len => output.write(Channel::Stdout, &vec![b'x'; len.parse().unwrap()])?,
            }
        }
        Ok(RunStartResult { exit_code: 0, signal: None })
    }

    fn list(&self, _: &Call, _: ListParams) -> Result<ListResult, Failure> {
        Ok(ListResult { leases: vec![], next_cursor: None, complete: true })
    }

    fn status(&self, _: &Call, _: ResolveParams) -> Result<Lease, Failure> {
        Err(Failure::not_found("no box"))
    }

    fn stop(&self, _: &Call, _: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        Ok(ReleaseOutcome::AlreadyGone)
    }
}

/// Pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit.max(1)
    }
}

/// An open call as the kernel sees it.
#[derive(Default)]
struct Open {
    /// Bytes that came, and bytes that were paid for.
    came: u64,
    paid: u64,
}

struct Kernel {
    dice: Dice,
    to: Option<PipeWriter>,
    from: Receiver<Value>,
    issued: u64,
    open: BTreeMap<u64, Open>,
    /// Callbacks that wait for our answer.
    asked: Vec<(Value, u64)>,
    frames: u64,
}

impl Kernel {
    fn send(&mut self, mut frame: Value) {
        frame["jsonrpc"] = json!("2.0");
        self.frames += 1;
        let to = self.to.as_mut().unwrap();
        to.write_all(format!("{frame}\n").as_bytes()).unwrap();
    }

    fn request(&mut self, method: &str, mut params: Value) {
        self.issued += 1;
        self.open.insert(self.issued, Open::default());
        if method != "initialize" {
            params["ctx"] = json!({"deadlineMs": 60_000, "graceMs": 5_000, "idem": "k"});
        }
        self.send(json!({"id": self.issued, "method": method, "params": params}));
    }

    /// Takes a frame of the plugin; every rule of its is checked.
    fn take(&mut self, frame: &Value) {
        self.frames += 1;
        let params = &frame["params"];
        let call = params["call"].as_u64().unwrap_or_default();
        match (frame["method"].as_str(), frame.get("id")) {
            (None, Some(id)) => {
                let known = self.open.remove(&id.as_u64().unwrap());
                assert!(known.is_some(), "answered twice, or never asked: {frame}");
                assert!(frame.get("result").is_some() != frame.get("error").is_some(), "{frame}");
            }
            (Some(_), Some(id)) => {
                assert!(self.open.contains_key(&call), "asked for a call that is over: {frame}");
                self.asked.push((id.clone(), call));
            }
            (Some(method), None) => {
                let open = self.open.get_mut(&call);
                let open = open.unwrap_or_else(|| panic!("said of a call that is over: {frame}"));
                if method == "event/output" {
                    assert_eq!(params["off"], open.came, "{frame}");
                    open.came += params["text"].as_str().unwrap().len() as u64;
                    let ahead = open.came - open.paid;
                    assert!(ahead <= WINDOW + CHUNK, "{ahead} bytes without credit");
                }
            }
            (None, None) => panic!("no frame: {frame}"),
        }
    }

    /// Takes everything that has come.
    fn listen(&mut self) {
        while let Ok(frame) = self.from.try_recv() {
            self.take(&frame);
        }
    }

    /// One thing a kernel may say.
    fn act(&mut self) {
        match self.dice.below(12) {
            0..3 if self.open.len() < 40 => {
                let words =
                    ["sleep", "ask", "log", "check", "10", "3000", "30000", "fail", "panic"];
                let count = self.dice.below(12);
                let command: Vec<_> = (0..count)
                    .map(|_| words[usize::try_from(self.dice.below(8 + count / 11)).unwrap()])
                    .collect();
                self.request("run.start", json!({"runId": "r", "lease": {"leaseId": "cbx_000000000001"}, "command": command}));
            }
            3 => self.request("ping", json!({})),
            4 => self.request("run.list", json!({})),
            5 => self.request("run.levitate", json!({})),
            6 => {
                let id = self.dice.below(self.issued + 5);
                self.send(json!({"method": "$/cancel", "params": {"id": id, "reason": "user", "graceMs": 50}}));
            }
            7 => self.send(json!({"id": "p999999", "result": {}})),
            8 => self.send(json!({"method": "$/credit", "params": {"call": 999_999, "bytes": 5}})),
            _ => self.serve(),
        }
    }

    /// Answers one callback, and pays for one call's output.
    fn serve(&mut self) {
        if !self.asked.is_empty() {
            let at = usize::try_from(self.dice.below(self.asked.len() as u64)).unwrap();
            let (id, _) = self.asked.swap_remove(at);
            match self.dice.below(5) {
                0 => self.send(json!({"id": id, "error": {"code": 1040, "message": "no", "data": {"kind": "transient"}}})),
                _ => self.send(json!({"id": id, "result": {"woken": "time"}})),
            }
        }
        let owed = self.open.iter_mut().find(|(_, open)| open.came > open.paid);
        if let Some((&call, open)) = owed {
            let bytes = open.came - open.paid;
            open.paid = open.came;
            self.send(json!({"method": "$/credit", "params": {"call": call, "bytes": bytes}}));
        }
    }

    /// Until every call was answered.
    fn finish(&mut self) {
        while !self.open.is_empty() {
            match self.from.recv_timeout(Duration::from_millis(if self.asked.is_empty() {
                2
            } else {
                0
            })) {
                Ok(frame) => self.take(&frame),
                Err(_) => self.serve(),
            }
        }
    }
}

fn session(seed: u64) -> u64 {
    let (theirs, to) = std::io::pipe().unwrap();
    let (from, out) = std::io::pipe().unwrap();
    let plugin = Plugin::delegated_run(MANIFEST, |_| Ok(Model));
    let (ended, end) = channel();
    std::thread::spawn(move || ended.send(plugin.serve(theirs, out).is_ok()));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            sender.send(serde_json::from_str(&line).unwrap()).ok();
        }
    });
    let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (open, asked) = Default::default();
    let mut kernel =
        Kernel { dice, to: Some(to), from: receiver, issued: 0, open, asked, frames: 0 };
    let limits = json!({"maxLine": 1 << 20, "outputWindow": WINDOW, "maxInflight": 8});
    kernel.request(
        "initialize",
        json!({"protocols": ["1.0"], "kernel": {"name": "crabbox", "version": "0.1.0"},
        "limits": limits, "instance": {"provider": "model"}}),
    );
    let until = SESSION / 2 + kernel.dice.below(SESSION);
    while kernel.frames < until {
        kernel.listen();
        kernel.act();
    }
    let hangs_up = kernel.dice.below(3) == 0;
    if !hangs_up {
        kernel.finish();
    }
    kernel.to = None;
    assert_eq!(end.recv_timeout(BOUND), Ok(true), "seed {seed}: it did not end");
    while let Ok(frame) = kernel.from.recv_timeout(BOUND) {
        kernel.take(&frame);
    }
    assert!(hangs_up || kernel.open.is_empty());
    kernel.frames
}

#[expect(clippy::disallowed_methods, reason = "how much is tried, and which")]
fn wished(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn every_call_is_answered_once_and_nothing_is_said_of_a_call_that_is_over() {
    // The panics are part of the play.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("as told") {
            std::io::stderr().write_all(format!("{info}\n").as_bytes()).ok();
        }
    }));
    let (mut frames, mut seed) = (0, wished("CRABBOX_TEST_SEED", 1));
    while frames < wished("CRABBOX_TEST_FRAMES", FRAMES) {
        frames += session(seed);
        seed += 1;
    }
}

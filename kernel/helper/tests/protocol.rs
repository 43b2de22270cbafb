//! Replays every exchange printed in docs/box-channel.md, and the recorded ones beside this file; then talks nonsense.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod channel;

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use channel::{Boxed, Channel, LEASE, helper};
use crabbox_tree::block::Block;
use crabbox_tree::content_hash;
use crabbox_wire::{Packet, PacketReader};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A helper whose packets come one after the other, exactly as they were sent.
struct Replay {
    on: Boxed,
    child: Child,
    stdout: ChildStdout,
    reader: PacketReader,
}

impl Replay {
    fn begin() -> Self {
        let on = Boxed::new();
        let mut child = helper(&on).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self { on, child, stdout, reader: PacketReader::new() }
    }

    /// Puts the real folder for the printed one, or back.
    fn place(&self, text: &str, back: bool) -> String {
        let (real, printed) = (self.on.base_dir(), format!("/work/{LEASE}"));
        let real = real.to_str().unwrap();
        if back { text.replace(real, &printed) } else { text.replace(&printed, real) }
    }

    fn send(&mut self, step: &Value) {
        let session = u32::try_from(step["session"].as_u64().unwrap_or(0)).unwrap();
        let packet = match step["channel"].as_u64() {
            Some(channel) => {
                let body = match step["block"].as_array() {
                    Some(contents) => sealed(contents),
                    None => step["text"].as_str().unwrap().as_bytes().to_vec(),
                };
                let offset = step["offset"].as_u64().unwrap_or(0);
                let last = step["last"] == true;
                Packet::data(session, u32::try_from(channel).unwrap(), offset, last, body.into())
            }
            None => {
                let mut frame = step.clone();
                frame.as_object_mut().unwrap().remove("session");
                frame["jsonrpc"] = json!("2.0");
                Packet::data(session, 0, 0, false, self.place(&frame.to_string(), false).into())
            }
        };
        self.child.stdin.as_mut().unwrap().write_all(&packet.to_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        loop {
            if let Some(packet) = self.reader.next_packet() {
                return self.shown(&packet.unwrap());
            }
            let mut buffer = [0; 4096];
            let n = self.stdout.read(&mut buffer).unwrap();
            assert!(n > 0, "the helper is gone");
            self.reader.feed(&buffer[..n]);
        }
    }

    /// A packet as it is printed.
    fn shown(&self, packet: &Packet) -> Value {
        let mut shown = match packet.channel {
            0 => {
                let text = self.place(std::str::from_utf8(&packet.body).unwrap(), true);
                serde_json::from_str(&text).unwrap()
            }
            channel => json!({
                "channel": channel, "text": String::from_utf8_lossy(&packet.body),
                "offset": packet.offset, "last": packet.last,
            }),
        };
        shown["session"] = json!(packet.session);
        shown
    }

    fn expect(&mut self, pattern: &Value) -> Result<(), String> {
        let Some(set) = pattern["$set"].as_array() else {
            let got = self.receive();
            return fits(pattern, &got).then_some(()).ok_or(format!("{pattern}\n came {got}"));
        };
        let mut left: Vec<&Value> = set.iter().collect();
        while !left.is_empty() {
            let got = self.receive();
            let at = left.iter().position(|one| fits(one, &got));
            left.remove(at.ok_or(format!("any of {left:?}\n came {got}"))?);
        }
        Ok(())
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sealed(contents: &[Value]) -> Vec<u8> {
    let mut block = Block::default();
    for content in contents {
        let bytes = content.as_str().unwrap().as_bytes();
        block.push(&content_hash(bytes), bytes);
    }
    block.seal(None).unwrap()
}

/// Whether everything the pattern names is so.
fn matches(pattern: &Value, got: &Value) -> bool {
    match (pattern, got) {
        (Value::String(any), _) if any == "$any" => !got.is_null(),
        (Value::Object(pattern), Value::Object(_)) => {
            pattern.iter().all(|(name, value)| matches(value, &got[name]))
        }
        (Value::Array(pattern), Value::Array(got)) => {
            pattern.len() == got.len() && pattern.iter().zip(got).all(|(p, g)| matches(p, g))
        }
        _ => pattern == got,
    }
}

/// Whether a packet is as printed; what is not printed is the plainest.
fn fits(pattern: &Value, got: &Value) -> bool {
    let mut whole = json!({"session": 0});
    if pattern["channel"].is_u64() {
        whole = json!({"session": 0, "offset": 0, "last": false});
    }
    let printed = pattern.as_object().cloned().unwrap_or_default();
    whole.as_object_mut().unwrap().extend(printed);
    matches(&whole, got)
}

fn replay(name: &str, first: usize, text: &str) {
    let mut helper = Replay::begin();
    if !text.contains("\"method\":\"hello\"") {
        helper.expect(&json!({"method": "hello"})).unwrap();
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let step: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if let Some(sent) = step.get(">") {
            helper.send(sent);
        } else if let Err(mismatch) = helper.expect(&step["<"]) {
            panic!("{name}:{}: expected {mismatch}", first + index);
        }
    }
}

#[test]
fn every_exchange_in_the_page_is_what_really_happens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/box-channel.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut count = 0;
    let mut rest = page.as_str();
    while let Some(at) = rest.find("```jsonl\n") {
        rest = &rest[at + 9..];
        let exchange = &rest[..rest.find("```").unwrap()];
        replay(
            "docs/box-channel.md",
            page[..page.len() - rest.len()].lines().count() + 1,
            exchange,
        );
        count += 1;
    }
    assert!(count >= 6, "the page has examples");
}

#[test]
fn the_recorded_exchanges_are_what_really_happens() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        replay(path.to_str().unwrap(), 1, &std::fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn the_page_lists_every_method_note_and_refusal() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/box-channel.md");
    let page = std::fs::read_to_string(path).unwrap();
    for word in [
        "flight",
        "run.attach",
        "run.signal",
        "run.list",
        "run.forget",
        "hello",
        "credit",
        "cancel",
        "session.end",
        "flight.waiting",
        "flight.need",
        "run.started",
        "run.exited",
        "run.gap",
        "run.resize",
        "base",
        "drift",
        "content",
        "busy",
        "fence",
        "box.stat",
    ] {
        assert!(page.contains(&format!("`{word}`")), "nothing about {word}");
    }
}

#[test]
fn a_helper_that_has_nothing_to_do_does_nothing() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    channel.run(1, on.flight(1, "run_000000000001", json!({"exec": ["true"]}), json!({})));
    let switches = || {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", channel.child.id())).unwrap() {
            // A thread may end while it is looked at.
            let status = std::fs::read_to_string(task.unwrap().path().join("status"));
            let status = status.unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            sum += line.map_or(0, |n| n.trim().parse::<u64>().unwrap());
        }
        sum
    };
    channel::eventually("it is quiet", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(400));
        switches() == before
    });
}

#[test]
fn bytes_that_were_not_granted_end_the_channel() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let params =
        on.flight(1, "run_000000000001", json!({"exec": ["sleep", "66"]}), json!({"stdin": true}));
    channel.ask("flight", params).unwrap();
    for index in 0..10 {
        channel.bytes(0, 20, index << 20, false, &[0; 1 << 20]);
    }
    channel.until(|c| c.fatal.is_some());
    assert_eq!(channel.fatal.as_ref().unwrap().message, "more bytes than were granted");
    let params = json!({"baseDir": on.base_dir(), "runId": "run_000000000001", "now": true});
    Channel::open(&on).ask("run.signal", params).unwrap();
}

/// What is said before the nonsense.
#[derive(Debug, Clone)]
enum Said {
    Raw(Vec<u8>),
    Packet { session: u32, channel: u32, offset: u64, last: bool, body: Vec<u8> },
    Json(Value),
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let channel = prop_oneof![Just(0u32), 16u32..40, any::<u32>()];
    let frame = (any::<u8>(), ".{0,12}", 0u32..4).prop_map(|(id, text, kind)| {
        let names = ["flight", "run.attach", "run.list", "run.signal", "credit", "cancel", "run.resize"];
        let method = names[usize::from(id) % names.len()];
        let params = match kind {
            0 => json!({}),
            1 => json!({"channels": 1, "baseDir": text, "runId": text, "now": true, "id": id}),
            2 => json!({"channel": 21, "bytes": u64::MAX, "baseDir": "/", "columns": 1, "rows": id}),
            _ => json!({"channels": id, "lease": text, "baseDir": "/proc/none", "repo": text, "lock": {"owner": "", "waitMs": u64::MAX}}),
        };
        Said::Json(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    });
    prop_oneof![
        1 => bytes().prop_map(Said::Raw),
        3 => (0u32..3, channel, any::<u64>(), any::<bool>(), bytes()).prop_map(
            |(session, channel, offset, last, body)| Said::Packet { session, channel, offset, last, body },
        ),
        4 => frame,
    ]
}

fn encode(said: &Said) -> Vec<u8> {
    match said {
        Said::Raw(bytes) => bytes.clone(),
        Said::Packet { session, channel, offset, last, body } => {
            Packet::data(*session, *channel, *offset, *last, body.clone().into()).to_bytes().into()
        }
        Said::Json(value) => {
            Packet::data(0, 0, 0, false, value.to_string().into()).to_bytes().into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_is_answered_or_ends_the_channel_and_never_breaks_it(said in proptest::collection::vec(said(), 1..12)) {
        let mut helper = Replay::begin();
        let mut stdin = helper.child.stdin.take().unwrap();
        for one in &said {
            // A helper that has had enough reads no more.
            if stdin.write_all(&encode(one)).is_err() {
                break;
            }
        }
        drop(stdin);
        let mut rest = Vec::new();
        helper.stdout.read_to_end(&mut rest).unwrap();
        helper.reader.feed(&rest);
        while let Some(packet) = helper.reader.next_packet() {
            helper.shown(&packet.unwrap());
        }
        let status = helper.child.wait().unwrap();
        prop_assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    }
}

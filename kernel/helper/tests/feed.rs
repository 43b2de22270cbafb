//! Blocks that come over channels of their own, through the feed mode.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod channel;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use channel::{Boxed, Channel, LEASE, eventually};
use crabbox_schemas::helper::Role;
use crabbox_tree::block::Block;
use crabbox_tree::{Entry, Kind, Manifest, content_hash, hex};
use crabbox_wire::{GREETING, Packet};
use serde_json::{Value, json};

/// Files of a tree, and the block of each.
struct Files(Vec<Vec<u8>>);

impl Files {
    fn new(count: u8) -> Self {
        Self((0..count).map(|n| vec![n; 1000 + usize::from(n)]).collect())
    }

    fn manifest(&self) -> Manifest {
        let entry = |(n, bytes): (usize, &Vec<u8>)| Entry {
            path: format!("file{n}").into(),
            kind: Kind::File { size: bytes.len() as u64, sha256: content_hash(bytes), exec: false },
        };
        Manifest::new(self.0.iter().enumerate().map(entry).collect()).unwrap()
    }

    /// The packets of all blocks on a flight's channels, in order.
    fn packets(&self, base: u32) -> Vec<Packet> {
        let mut at = 0;
        let packet = |(n, bytes): (usize, &Vec<u8>)| {
            let mut block = Block::default();
            block.push(&content_hash(bytes), bytes);
            let sealed = block.seal(None).unwrap();
            let offset = at;
            at += sealed.len() as u64;
            let last = n + 1 == self.0.len();
            Packet::data(0, Role::Blocks.of(base), offset, last, sealed.into())
        };
        self.0.iter().enumerate().map(packet).collect()
    }

    /// Asks for a flight with these files, and waits until it wants their blocks; its request.
    fn fly(&self, on: &Boxed, channel: &mut Channel, base: u32) -> u64 {
        let (empty, manifest) = (Manifest::default(), self.manifest());
        let digest = |manifest: &Manifest| hex(&manifest.digest());
        let tree = json!({"base": digest(&empty), "target": digest(&manifest), "ask": true});
        let flight = json!({
            "channels": base, "lease": LEASE, "baseDir": on.base_dir(), "repo": "repo",
            "lock": {"owner": "a test", "waitMs": 0}, "tree": tree,
        });
        let id = channel.request_in(0, "flight", flight);
        channel.bytes(0, Role::Delta.of(base), 0, true, &empty.delta(&manifest).to_text());
        channel.until(|c| c.note_of("flight.need").is_some());
        id
    }
}

/// A feeder that has greeted.
#[expect(clippy::disallowed_methods, reason = "the test starts the real program")]
fn feeder(feed: &Value) -> Child {
    let mut child = Command::new(feed["program"].as_str().unwrap())
        .args(["feed", feed["socket"].as_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = vec![0; GREETING.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, GREETING);
    child
}

fn ends(what: &str, child: &mut Child) {
    eventually(what, || child.try_wait().unwrap().is_some());
}

#[test]
fn blocks_that_come_other_ways_and_in_any_order_make_the_tree() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let files = Files::new(12);
    let flight = files.fly(&on, &mut channel, 1);
    let feed = channel.ask("feed", json!({"channels": 1})).unwrap();
    let mut feeders = [feeder(&feed), feeder(&feed)];
    for (n, packet) in files.packets(1).into_iter().enumerate().rev() {
        match feeders.get_mut(n % 3) {
            Some(feeder) => {
                feeder.stdin.as_mut().unwrap().write_all(&packet.to_bytes()).unwrap();
            }
            None => channel.send(packet),
        }
    }
    let applied = channel.answer(0, flight).unwrap();
    assert_eq!((&applied["outcome"], &applied["written"]), (&json!("applied"), &json!(12)));
    for (n, bytes) in files.0.iter().enumerate() {
        assert_eq!(&std::fs::read(on.workdir().join(format!("file{n}"))).unwrap(), bytes);
    }
    for feeder in &mut feeders {
        assert!(feeder.try_wait().unwrap().is_none(), "it stays as long as its input");
        drop(feeder.stdin.take());
        ends("a feeder whose input ended", feeder);
    }
}

#[test]
fn what_does_not_belong_to_its_flight_ends_a_feeder_and_nothing_else() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let files = Files::new(3);
    let flight = files.fly(&on, &mut channel, 1);
    let feed = channel.ask("feed", json!({"channels": 1})).unwrap();
    let nonsense = [
        Packet::data(0, Role::Stdin.of(1), 0, false, "typed".into()).to_bytes(),
        Packet::data(0, Role::Blocks.of(2), 0, false, "block".into()).to_bytes(),
        Packet::data(0, 0, 0, false, r#"{"jsonrpc":"2.0","method":"session.end"}"#.into())
            .to_bytes(),
        vec![0xff; 64].into(),
    ];
    for bytes in nonsense {
        let mut feeder = feeder(&feed);
        feeder.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
        ends("a feeder that brought nonsense", &mut feeder);
    }
    files.packets(1).into_iter().for_each(|packet| channel.send(packet));
    assert_eq!(channel.answer(0, flight).unwrap()["outcome"], "applied");
}

#[test]
fn feeders_are_only_let_in_for_a_flight_under_way_and_end_with_the_serve() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let refused = channel.ask("feed", json!({"channels": 1})).unwrap_err();
    assert!(refused.message.contains("no flight"), "{refused:?}");
    let _flight = Files::new(2).fly(&on, &mut channel, 1);
    let feed = channel.ask("feed", json!({"channels": 1})).unwrap();
    assert!(channel.ask("feed", json!({"channels": 1})).is_err(), "once is enough");
    let mut feeder = feeder(&feed);
    channel.kill();
    ends("a feeder whose serve is gone", &mut feeder);
}

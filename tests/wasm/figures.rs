//! How fast the runner is. `CRABBOX_WASM_BIN=$PWD/target/release cargo test -p crabbox-tests --test wasm figures -- --nocapture`
//! prints what a release does; otherwise only that it works is held to.

#![expect(clippy::print_stderr, reason = "figures are for whoever asks for them")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::guest::{ECHO, Guest, Stage, call, our_component};

/// A guest that runs, and the pipes to it.
struct Live {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Live {
    fn start(stage: &Stage, hello: &str) -> Self {
        let mut command = stage.command();
        command.env("CRABBOX_PLUGIN", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut live = Self { child, to, from: BufReader::new(from), line: Vec::new() };
        live.ask(hello);
        live
    }

    fn send(&mut self, frame: &str) {
        self.to.write_all(frame.replacen('{', r#"{"jsonrpc":"2.0","#, 1).as_bytes()).unwrap();
        self.to.write_all(b"\n").unwrap();
    }

    fn receive(&mut self) -> &[u8] {
        self.line.clear();
        assert!(self.from.read_until(b'\n', &mut self.line).unwrap() > 0, "it ended");
        &self.line
    }

    fn ask(&mut self, frame: &str) {
        self.send(frame);
        let line = String::from_utf8_lossy(self.receive()).into_owned();
        assert!(line.contains("\"result\""), "{line}");
    }

    fn end(mut self) {
        drop(self.to);
        assert!(self.child.wait().unwrap().success());
    }
}

/// The frame of a transcript's step.
fn frame(step: &str) -> String {
    let step: serde_json::Value = serde_json::from_str(step).unwrap();
    step["m"].to_string()
}

fn median(times: usize, mut once: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|_| {
            let began = Instant::now();
            once();
            began.elapsed()
        })
        .collect();
    all.sort();
    all[times / 2]
}

/// Greets, pings and calls our component.
fn answers(component: &Path) {
    let stage = Stage::new(&ECHO);
    std::fs::copy(component, stage.dir.path().join("guest.wasm")).unwrap();
    let hello = r#"{"id":1,"method":"initialize","params":{"protocols":["1.0"],"kernel":{"name":"crabbox","version":"0.1.0"},"instance":{"provider":"ssh","config":{"host":"localhost"}}}}"#;
    let compiled = median(1, || Live::start(&stage, hello).end());
    let mut begun = Vec::new();
    for _ in 0..31 {
        let began = Instant::now();
        let live = Live::start(&stage, hello);
        begun.push(began.elapsed());
        live.end();
    }
    begun.sort();
    let mut live = Live::start(&stage, hello);
    let ping = median(1000, || live.ask(r#"{"id":7,"method":"ping","params":{}}"#));
    let mut id = 10;
    let listed = median(1000, || {
        id += 1;
        live.ask(&frame(&call(id, "lease.list", 60_000, "")));
    });
    live.end();
    eprintln!("start, compiled anew: {compiled:?}; from the cache: {:?}", begun[begun.len() / 2]);
    eprintln!("ping: {ping:?}; lease.list: {listed:?}");
    assert!(ping < Duration::from_millis(50) && listed < Duration::from_millis(500));
}

/// Takes so much output of a guest that prints the same byte.
fn output(byte: u8, mib: u64) -> f64 {
    let bytes = mib << 20;
    let body = format!(
        "(memory.fill (i32.const 16384) (i32.const {byte}) (i32.const 49152))
         (loop $on
           (call $write (i32.const 0) (global.get $off) (i32.const 16384) (i32.const 49152) (i32.const 1056))
           (global.set $off (i64.add (global.get $off) (i64.const 49152)))
           (br_if $on (i64.lt_u (global.get $off) (i64.const {bytes})))) {}",
        ECHO.body
    );
    let stage = Stage::new(&Guest { prints: true, body: body.leak(), ..ECHO });
    let mut live = Live::start(&stage, &frame(crate::guest::HELLO.lines().next().unwrap()));
    let began = Instant::now();
    live.send(&frame(&call(2, "lease.list", 600_000, "")));
    let mut seen = 0;
    while live.receive().starts_with(br#"{"jsonrpc":"2.0","method":"event/output""#) {
        seen += 49152;
        if seen % (10 * 49152) == 0 {
            let credit = r#"{"method":"$/credit","params":{"call":2,"bytes":491520}}"#;
            live.send(credit);
        }
    }
    assert!(seen >= bytes, "{seen}");
    let speed = seen as f64 / 1e6 / began.elapsed().as_secs_f64();
    live.end();
    speed
}

#[test]
fn figures_of_the_runner() {
    let measured = std::env::var_os("CRABBOX_WASM_BIN").is_some();
    let mib = if measured { 400 } else { 8 };
    let (text, bytes) = (output(b'x', mib), output(0xff, mib));
    eprintln!("output: {text:.0} MB/s of text, {bytes:.0} MB/s of other bytes");
    if let Some(component) = our_component("ssh") {
        answers(&component);
    }
}

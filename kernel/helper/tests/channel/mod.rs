//! The laptop's end, small: drives the real helper over pipes.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crabbox_schemas::error::RpcError;
use crabbox_schemas::helper::Role;
use crabbox_wire::{Frame, Id, Packet, PacketReader};
use serde_json::{Value, json};

/// Nothing here takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const LEASE: &str = "cbx_000000000001";

/// A box: a work root with one lease, and a home.
pub(crate) struct Boxed {
    dir: tempfile::TempDir,
}

impl Boxed {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        Self { dir }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(crate) fn base_dir(&self) -> PathBuf {
        self.dir.path().join(LEASE)
    }

    pub(crate) fn workdir(&self) -> PathBuf {
        self.base_dir().join("repo")
    }

    pub(crate) fn run_dir(&self, run: &str) -> PathBuf {
        self.base_dir().join(".crabbox/run").join(run)
    }

    /// The params of a flight with a command; `more` is merged into the command.
    pub(crate) fn flight(&self, base: u32, run: &str, action: Value, more: Value) -> Value {
        let mut spec = json!({"runId": run, "action": action, "env": {}, "spoolBytes": 64 << 20});
        let more = more.as_object().cloned().unwrap_or_default();
        spec.as_object_mut().unwrap().extend(more);
        json!({
            "channels": base, "lease": LEASE, "baseDir": self.base_dir(), "repo": "repo",
            "lock": {"owner": format!("{run} on a test"), "waitMs": 10_000}, "run": spec,
        })
    }

    /// The params that name a run and nothing else.
    pub(crate) fn named(&self, run: &str) -> Value {
        json!({"baseDir": self.base_dir(), "runId": run})
    }

    pub(crate) fn attach(&self, base: u32, run: &str, stdout: u64, stderr: u64) -> Value {
        json!({
            "channels": base, "baseDir": self.base_dir(), "runId": run,
            "stdout": stdout, "stderr": stderr,
        })
    }
}

/// What arrived on the channels of one base number.
#[derive(Default, Debug)]
pub(crate) struct Flow {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Place of the next byte of each.
    pub(crate) at: [u64; 2],
    pub(crate) ended: [bool; 2],
    pub(crate) have: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) exited: Option<Value>,
    pub(crate) started: Option<Value>,
    /// Whether bytes are granted as they arrive.
    pub(crate) stingy: bool,
}

impl Flow {
    pub(crate) fn code(&self) -> i64 {
        self.exited.as_ref().unwrap()["exit"]["code"].as_i64().unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A serve and the pipes to it.
pub(crate) struct Channel {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    packets: Receiver<Packet>,
    next_id: u64,
    pub(crate) flows: HashMap<(u32, u32), Flow>,
    pub(crate) answers: HashMap<(u32, u64), Result<Value, RpcError>>,
    pub(crate) notes: Vec<(u32, String, Value)>,
    pub(crate) fatal: Option<RpcError>,
}

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_crabbox-helper");

pub(crate) fn helper(on: &Boxed) -> Command {
    helper_from(on, Path::new(PROGRAM))
}

#[expect(clippy::disallowed_methods, reason = "the test starts the real program")]
fn helper_from(on: &Boxed, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--hash", &"0".repeat(64)]);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", on.home());
    command
}

impl Channel {
    pub(crate) fn open(on: &Boxed) -> Self {
        Self::open_with(on, Path::new(PROGRAM))
    }

    /// With another file of the program.
    pub(crate) fn open_with(on: &Boxed, program: &Path) -> Self {
        Self::over(helper_from(on, program))
    }

    /// Started by a line of shell, which has the program and its words as arguments.
    #[expect(clippy::disallowed_methods, reason = "the test starts the real program")]
    pub(crate) fn open_as(on: &Boxed, line: &str) -> Self {
        let program = helper_from(on, Path::new(PROGRAM));
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]).arg(program.get_program()).args(program.get_args());
        shell.env_clear().envs(program.get_envs().filter_map(|(n, v)| Some((n, v?))));
        Self::over(shell)
    }

    fn over(mut serve: Command) -> Self {
        let mut child = serve.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (tell, packets) = sync_channel(64);
        std::thread::spawn(move || {
            let mut reader = PacketReader::new();
            let mut buffer = vec![0; 1 << 20];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                reader.feed(&buffer[..n]);
                while let Some(packet) = reader.next_packet() {
                    if tell.send(packet.unwrap()).is_err() {
                        return;
                    }
                }
            }
        });
        let stdin = child.stdin.take();
        let mut channel = Self {
            child,
            stdin,
            packets,
            next_id: 0,
            flows: HashMap::new(),
            answers: HashMap::new(),
            notes: Vec::new(),
            fatal: None,
        };
        channel.until(|c| c.note_of("hello").is_some());
        channel
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A serve that is gone is found out by what does not come.
        let _ = self.stdin.as_mut().unwrap().write_all(bytes);
    }

    pub(crate) fn send(&mut self, packet: Packet) {
        self.write(&packet.to_bytes());
    }

    pub(crate) fn bytes(
        &mut self,
        session: u32,
        channel: u32,
        offset: u64,
        last: bool,
        body: &[u8],
    ) {
        self.send(Packet::data(session, channel, offset, last, body.to_vec().into()));
    }

    pub(crate) fn request_in(&mut self, session: u32, method: &str, params: Value) -> u64 {
        self.next_id += 1;
        let frame = Frame::request(Id::Number(self.next_id), method, &params).unwrap();
        self.send(Packet::message(session, &frame).unwrap());
        self.next_id
    }

    pub(crate) fn note(&mut self, session: u32, method: &str, params: Value) {
        let frame = Frame::notification(method, &params).unwrap();
        self.send(Packet::message(session, &frame).unwrap());
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Result<Value, RpcError> {
        let id = self.request_in(0, method, params);
        self.answer(0, id)
    }

    pub(crate) fn answer(&mut self, session: u32, id: u64) -> Result<Value, RpcError> {
        self.until(|c| c.answers.contains_key(&(session, id)));
        self.answers.remove(&(session, id)).unwrap()
    }

    pub(crate) fn note_of(&self, method: &str) -> Option<&Value> {
        self.notes.iter().rev().find(|n| n.1 == method).map(|n| &n.2)
    }

    /// Standard output so far.
    pub(crate) fn text(&self, base: u32) -> String {
        self.flows.get(&(0, base)).map(Flow::text).unwrap_or_default()
    }

    pub(crate) fn flow(&mut self, base: u32) -> &mut Flow {
        self.flows.entry((0, base)).or_default()
    }

    /// Takes packets until something is so.
    #[track_caller]
    pub(crate) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.packets.recv_timeout(left) {
                Ok(packet) => self.take(packet),
                Err(e) => panic!("{e}: {:?} {:?} {:?}", self.notes, self.answers, self.fatal),
            }
        }
    }

    /// Takes what comes for a while.
    pub(crate) fn during(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.packets.recv_timeout(left) {
                Ok(packet) => self.take(packet),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&mut self, base: u32, params: Value) -> &mut Flow {
        let answer = self.ask("flight", params).unwrap();
        assert_eq!(answer["outcome"], "applied", "{answer}");
        self.ended(base)
    }

    #[track_caller]
    pub(crate) fn ended(&mut self, base: u32) -> &mut Flow {
        self.until(|c| c.flows.get(&(0, base)).is_some_and(|f| f.exited.is_some()));
        self.flow(base)
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the channel as a cut link does.
    pub(crate) fn hang_up(mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }

    fn take(&mut self, packet: Packet) {
        if packet.channel != 0 {
            return self.take_bytes(packet);
        }
        let session = packet.session;
        match packet.frame().unwrap() {
            Frame::Response { id: Id::Number(0), result } => self.fatal = result.err(),
            Frame::Response { id: Id::Number(id), result } => {
                self.answers.insert((session, id), result);
            }
            Frame::Notification { method, params } => {
                let flow = params["channels"].as_u64().map(|base| {
                    self.flows.entry((session, u32::try_from(base).unwrap())).or_default()
                });
                match (method.as_str(), flow) {
                    ("run.exited", Some(flow)) => flow.exited = Some(params.clone()),
                    ("run.gap", None) => {
                        let channel = u32::try_from(params["channel"].as_u64().unwrap()).unwrap();
                        let (base, role) = Role::from_channel(channel).unwrap();
                        let flow = self.flows.entry((session, base)).or_default();
                        let at = &mut flow.at[usize::from(role == Role::Stderr)];
                        assert_eq!(*at, params["from"].as_u64().unwrap());
                        *at = params["to"].as_u64().unwrap();
                    }
                    _ => {}
                }
                self.notes.push((session, method, params));
            }
            other => panic!("{other:?}"),
        }
    }

    fn take_bytes(&mut self, packet: Packet) {
        let (base, role) = Role::from_channel(packet.channel).unwrap();
        let flow = self.flows.entry((packet.session, base)).or_default();
        let index = usize::from(role == Role::Stderr);
        match role {
            Role::Have => flow.have.extend_from_slice(&packet.body),
            Role::Manifest => flow.manifest.extend_from_slice(&packet.body),
            Role::Stdout | Role::Stderr => {
                assert_eq!(packet.offset, flow.at[index], "bytes are in order, none is missing");
                assert!(packet.body.len() <= 64 << 10);
                flow.at[index] += packet.body.len() as u64;
                flow.ended[index] |= packet.last;
                let to = if index == 0 { &mut flow.stdout } else { &mut flow.stderr };
                to.extend_from_slice(&packet.body);
                if !flow.stingy && !packet.body.is_empty() {
                    let grant = json!({"channel": packet.channel, "bytes": packet.body.len()});
                    self.note(packet.session, "credit", grant);
                }
            }
            other => panic!("bytes on {other:?}"),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of the nth run.
pub(crate) fn run_id(n: u64) -> String {
    format!("run_{n:012x}")
}

/// Waits for something on the box, with a bound.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process lives.
pub(crate) fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

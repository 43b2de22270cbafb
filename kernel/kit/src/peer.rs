//! The kernel's end of the wire, for tests: sends frames or bytes, and waits for what must come.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_plugins::Entry;
use crabbox_wire::Frame;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};

use crate::bench::Subject;
use crate::host::{CANARY, Host};

/// How long an answer may take that needs no work.
pub(crate) const PROMPT: Duration = Duration::from_secs(5);
/// How long work may take in a test.
pub(crate) const WORK: Duration = Duration::from_secs(60);
/// Most of standard error that is kept.
const STDERR_KEPT: usize = 64 * 1024;

/// What a plugin did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was sent, or done.
    pub sent: String,
    /// What must come of it.
    pub expected: String,
    /// What came.
    pub got: String,
}

/// What a check comes to.
pub(crate) type Outcome<T = ()> = Result<T, Box<Fault>>;

/// A fault in three phrases.
pub(crate) fn fault<T>(sent: &str, expected: &str, got: impl ToString) -> Outcome<T> {
    let got = shorten(&got.to_string());
    Err(Box::new(Fault { sent: sent.to_owned(), expected: expected.to_owned(), got }))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What is unlike the kernel about a start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner<'a> {
    /// It is not told that it is a plugin.
    pub(crate) by_hand: bool,
    /// Another home than the user's, also for what is to last for a moment only.
    pub(crate) home: Option<&'a Path>,
}

/// One plugin process and the pipes to it. Dropping it ends the process and its group.
#[derive(Debug)]
pub struct Peer {
    stdin: Option<ChildStdin>,
    lines: Receiver<Result<Value, String>>,
    child: Child,
    pub(crate) host: Host,
    /// Events and notifications that came, in order.
    pub(crate) events: Vec<Value>,
    /// Its answers and what it asked, in order and without what differs from one process to the next.
    pub(crate) said: Vec<Value>,
    /// Callbacks of these methods are kept unanswered.
    pub(crate) withhold: Option<&'static str>,
    /// Callbacks that were withheld.
    pub(crate) withheld: Vec<Value>,
    /// A callback held a secret where none belongs.
    leaked: bool,
    /// Output is taken, and no credit given for it.
    pub(crate) stingy: bool,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Ends when standard error does.
    stderr_open: Receiver<()>,
    next: u64,
    /// How many times longer than usual everything may take.
    patience: u32,
    /// Requests that were not answered yet.
    open: BTreeSet<u64>,
    /// Answers that came while another one was waited for.
    early: BTreeMap<u64, Value>,
}

impl Peer {
    /// Starts the plugin as the kernel would.
    pub(crate) fn start(subject: &Subject, host: Host) -> Outcome<Self> {
        Self::run(&subject.entry, subject, host, Manner::default())
    }

    /// The same, run otherwise.
    #[expect(clippy::disallowed_methods, reason = "the one place of the kit that starts plugins")]
    pub(crate) fn run(
        entry: &Entry,
        subject: &Subject,
        host: Host,
        manner: Manner<'_>,
    ) -> Outcome<Self> {
        let (state, Manner { by_hand, home }) = (subject.state.path(), manner);
        let mut command = Command::new(&entry.program);
        command.args(&entry.args).env_clear().envs(&subject.env).current_dir(state);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", &subject.user.home).env("LANG", "C.UTF-8");
        if let Some(home) = home {
            command.env("HOME", home).env("TMPDIR", home);
        }
        if let Some(cache) = &subject.cache {
            command.env("XDG_CACHE_HOME", cache);
        }
        if !by_hand {
            command.env("CRABBOX_PLUGIN", "1").env("CRABBOX_PROTOCOLS", "1");
            command.env("CRABBOX_STATE_DIR", state);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.process_group(0).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(e) => {
                return fault(&format!("start {}", entry.program.display()), "a process", e);
            }
        };
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return fault("start the plugin", "three pipes", "fewer");
        };
        let (stderr, stderr_open) = keep(stderr);
        Ok(Self {
            stdin: Some(stdin),
            lines: lines(stdout),
            child,
            host,
            events: Vec::new(),
            said: Vec::new(),
            withhold: None,
            withheld: Vec::new(),
            stingy: false,
            leaked: false,
            stderr,
            stderr_open,
            next: 0,
            patience: subject.patience,
            open: BTreeSet::new(),
            early: BTreeMap::new(),
        })
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, mut frame: Value) -> Outcome {
        frame["jsonrpc"] = json!("2.0");
        self.send_bytes(format!("{frame}\n").as_bytes())
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> Outcome {
        let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        match &mut self.stdin {
            Some(stdin) => match stdin.write_all(bytes).and_then(|()| stdin.flush()) {
                Ok(()) => Ok(()),
                Err(e) => fault(&sent, "the plugin reads it", format!("{e}; {}", self.tail())),
            },
            None => fault(&sent, "an open wire", "it was closed"),
        }
    }

    /// Sends a request with the usual bounds; its id.
    pub(crate) fn request(&mut self, method: &str, mut params: Value) -> Outcome<u64> {
        self.next += 1;
        if params.get("ctx").is_none() && method != "initialize" {
            params["ctx"] = json!({"deadlineMs": 60_000, "graceMs": 5_000, "idem": format!("kit-{}", self.next)});
        }
        self.expect(self.next);
        self.send(json!({"id": self.next, "method": method, "params": params}))?;
        Ok(self.next)
    }

    /// A request with this id is about to be sent.
    pub(crate) fn expect(&mut self, id: u64) {
        self.open.insert(id);
    }

    /// Waits for the answer to a request, serving what the plugin asks meanwhile.
    pub(crate) fn answer(&mut self, id: u64, within: Duration) -> Outcome<Result<Value, Value>> {
        let until = Instant::now() + within * self.patience;
        while !self.early.contains_key(&id) {
            let frame = self.next_frame(&format!("request {id}"), until)?;
            self.take(frame)?;
        }
        let frame = self.early.remove(&id).unwrap_or_default();
        Ok(match frame.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(frame["result"].clone()),
        })
    }

    /// Whether an answer came that nobody has taken yet.
    pub(crate) fn has_answer(&self) -> bool {
        !self.early.is_empty()
    }

    /// Asks and waits.
    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Outcome<Result<Value, Value>> {
        let id = self.request(method, params)?;
        self.answer(id, WORK)
    }

    /// Asks for something that must succeed.
    pub(crate) fn must(&mut self, method: &str, params: Value) -> Outcome<Value> {
        let sent = format!("{method} {params}");
        match self.ask(method, params)? {
            Ok(result) => Ok(result),
            Err(error) => fault(&shorten(&sent), "a result", error),
        }
    }

    /// Serves the plugin until this is true.
    pub(crate) fn until(
        &mut self,
        what: &str,
        within: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Outcome {
        let until = Instant::now() + within * self.patience;
        while !done(self) {
            let frame = self.next_frame(what, until)?;
            self.take(frame)?;
        }
        Ok(())
    }

    /// Serves the plugin for a while, whatever comes.
    pub(crate) fn idle(&mut self, time: Duration) -> Outcome {
        let until = Instant::now() + time;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Ok(frame)) => self.take(frame)?,
                Ok(Err(line)) => return self.impure(&line),
                Err(_) => return Ok(()),
            }
        }
    }

    fn next_frame(&mut self, waiting_for: &str, until: Instant) -> Outcome<Value> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(line)) => self.impure(&line),
            Err(RecvTimeoutError::Timeout) => fault(waiting_for, "an answer in time", "nothing"),
            Err(RecvTimeoutError::Disconnected) => fault(
                waiting_for,
                "an answer",
                format!("the plugin closed the wire; {}", self.tail()),
            ),
        }
    }

    fn impure<T>(&self, line: &str) -> Outcome<T> {
        fault("(anything)", "only frames of the protocol on standard output", line)
    }

    fn take(&mut self, frame: Value) -> Outcome {
        let method = frame["method"].as_str().unwrap_or_default().to_owned();
        let params = &frame["params"];
        if frame.get("method").is_none() {
            let id = frame["id"].as_u64().unwrap_or_default();
            if !self.open.remove(&id) {
                return fault(
                    "(nothing)",
                    "answers only to requests that were made, and once",
                    frame,
                );
            }
            self.said.push(json!({"result": frame["result"], "error": frame["error"]}));
            self.early.insert(id, frame);
            return Ok(());
        }
        if frame.get("id").is_none() {
            if method == "event/output" && !self.stingy {
                let bytes = output(params).map_or(0, |data| data.len());
                let call = params["call"].clone();
                self.send(json!({"method": "$/credit", "params": {"call": call, "bytes": bytes}}))?;
            }
            self.events.push(frame);
            return Ok(());
        }
        if params.get("call").is_none() {
            return fault(&method, "`call` in the params of every callback", &frame);
        }
        self.said.push(json!({"asks": method, "params": nameless(params)}));
        if self.withhold.is_some_and(|withhold| method.starts_with(withhold)) {
            self.withheld.push(frame);
            return Ok(());
        }
        self.leaked |= !may_hold_secrets(&method) && params.to_string().contains(CANARY);
        let (member, answer) = self.host.answer(&method, params);
        self.send(json!({"id": frame["id"], member: answer}))
    }

    /// Answers what was withheld, and withholds nothing more.
    pub(crate) fn let_go(&mut self) -> Outcome {
        self.withhold = None;
        for frame in std::mem::take(&mut self.withheld) {
            self.take(frame)?;
        }
        Ok(())
    }

    /// Closes the wire.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits for the process to end.
    pub(crate) fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within * self.patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return None,
            }
        }
    }

    /// Whether anything of its process group lives. What is dead and was not collected yet does not count.
    pub(crate) fn group_lives(&self) -> bool {
        let group = self.pid().as_raw_nonzero().to_string();
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return test_kill_process_group(self.pid()).is_ok();
        };
        processes.flatten().any(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // After the name, which may hold anything: state, parent, group.
            let mut facts = stat.rsplit(") ").next().unwrap_or_default().split(' ');
            let state = facts.next().unwrap_or("Z");
            facts.nth(1) == Some(group.as_str()) && !matches!(state, "Z" | "X")
        })
    }

    /// Time on a processor it took so far, where the system says so; counted in hundredths of a second.
    pub(crate) fn worked(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero()));
        let stat = stat.ok()?;
        let mut facts = stat.rsplit(") ").next()?.split(' ').skip(11).map(str::parse::<u64>);
        let (user, system) = (facts.next()?.ok()?, facts.next()?.ok()?);
        Some(Duration::from_millis((user + system) * 10))
    }

    /// Sends a signal to its whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        // Nobody left to be told is as good.
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Memory it uses, in MiB, where the system says so.
    pub(crate) fn memory_mib(&self) -> Option<u64> {
        let pid = self.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it said on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Everything it said on standard error, once it ended.
    pub(crate) fn last_words(&self) -> String {
        let _ = self.stderr_open.recv_timeout(PROMPT * self.patience);
        self.stderr()
    }

    fn tail(&self) -> String {
        let text = self.stderr();
        match text.trim() {
            "" => "it said nothing on standard error".to_owned(),
            text => format!("standard error: {}", text.lines().last().unwrap_or_default()),
        }
    }

    /// The secret must not have got out; every frame and all of standard error are looked at.
    pub(crate) fn kept_its_secret(&self) -> bool {
        !self.leaked
            && !self.stderr().contains(CANARY)
            && !self.events.iter().any(|event| event.to_string().contains(CANARY))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Params without the number of their call.
fn nameless(params: &Value) -> Value {
    let mut params = params.clone();
    params.as_object_mut().map(|members| members.remove("call"));
    params
}

/// Whether a plugin that may see a secret may put it there itself.
fn may_hold_secrets(method: &str) -> bool {
    ["host/http", "host/ws", "host/blob.write"].iter().any(|begin| method.starts_with(begin))
}

/// The bytes of an output event.
pub(crate) fn output(params: &Value) -> Option<Vec<u8>> {
    use base64::Engine;
    match (params.get("text"), params.get("b64")) {
        (Some(text), None) => Some(text.as_str()?.as_bytes().to_vec()),
        (None, Some(b64)) => base64::engine::general_purpose::STANDARD.decode(b64.as_str()?).ok(),
        _ => None,
    }
}

/// Reads frames on a thread of its own; a line that is none is an error with its text.
fn lines(from: impl Read + Send + 'static) -> Receiver<Result<Value, String>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            let whole = line.ends_with(b"\n") && !line.ends_with(b"\r\n") && line.len() <= 1 << 20;
            let frame = Frame::decode(line.strip_suffix(b"\n").unwrap_or(&line));
            let said = match frame {
                Ok(_) if whole => serde_json::from_slice(&line).map_err(|e| e.to_string()),
                Ok(_) => Err(format!("a line that is too long or does not end with LF: {text:?}")),
                Err(error) => Err(format!("{text:?}: {error}")),
            };
            if sender.send(said).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

fn keep(mut from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, Receiver<()>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    let (open, closed) = channel();
    std::thread::spawn(move || {
        let _open: Sender<()> = open;
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let mut kept = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..n]);
            let excess = kept.len().saturating_sub(STDERR_KEPT);
            kept.drain(..excess);
        }
    });
    (kept, closed)
}

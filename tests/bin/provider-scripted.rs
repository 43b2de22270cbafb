//! A provider plugin for tests that succeeds, fails, stalls, floods, lies or dies as its settings say.
//!
//! It speaks raw frames and shares no code with the SDK or the host, so that neither can hide a mistake
//! of the other. Each method's behaviour is one word of its settings; see `Scene::act` and `faults`.

#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a plugin that must run tools, read its environment and end at any moment"
)]

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// How long a stalled call waits for a cancel before it gives up.
const STALL: Duration = Duration::from_secs(600);
const CHUNK: usize = 48 * 1024;

fn main() {
    if std::env::var_os("CRABBOX_PLUGIN").is_none() {
        let _ = writeln!(std::io::stderr(), "this program is a crabbox plugin");
        std::process::exit(64);
    }
    let plugin = Arc::new(Plugin::default());
    for line in std::io::stdin().lock().lines() {
        let Ok(frame) = serde_json::from_str::<Value>(&line.unwrap_or_default()) else { break };
        plugin.take(frame);
    }
    if plugin.script("shutdown") == "ignore-eof" {
        std::thread::sleep(STALL);
    }
}

#[derive(Default)]
struct Plugin {
    provider: Mutex<String>,
    config: Mutex<Map<String, Value>>,
    window: Mutex<u64>,
    out: Mutex<()>,
    calls: Mutex<HashMap<u64, Arc<Call>>>,
    answers: Mutex<HashMap<String, Sender<Value>>>,
    asked: Mutex<u64>,
    disk: Mutex<()>,
}

/// What the kernel may still say about a call.
#[derive(Default)]
struct Call {
    state: Mutex<(bool, i64)>,
    changed: Condvar,
}

/// One call at work.
struct Scene {
    plugin: Arc<Plugin>,
    call: Arc<Call>,
    id: u64,
    method: String,
    params: Value,
}

/// A result, or the kind, message and outcome of an error.
type Answer = Result<Value, (String, String, Option<String>)>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugin {
    fn script(&self, key: &str) -> String {
        self.setting(key).unwrap_or_else(|| "ok".to_owned())
    }

    fn setting(&self, key: &str) -> Option<String> {
        lock(&self.config).get(key)?.as_str().map(str::to_owned)
    }

    fn raw(&self, bytes: &[u8]) {
        let _turn = lock(&self.out);
        let mut out = std::io::stdout().lock();
        if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }

    fn send(&self, mut frame: Value) {
        frame["jsonrpc"] = json!("2.0");
        self.raw(format!("{frame}\n").as_bytes());
    }

    fn take(self: &Arc<Self>, frame: Value) {
        let params = frame["params"].clone();
        match (frame["method"].as_str(), &frame["id"]) {
            (Some("initialize"), id) => self.hello(id.clone(), &params),
            (Some("shutdown"), id) => self.goodbye(id.clone()),
            (Some("$/cancel"), _) => self.nudge(params["id"].as_u64(), |state| state.0 = true),
            (Some("$/credit"), _) => {
                let bytes = params["bytes"].as_i64().unwrap_or_default();
                self.nudge(params["call"].as_u64(), |state| state.1 += bytes);
            }
            (Some(method), Value::Number(id)) => {
                self.begin(id.as_u64().unwrap_or_default(), method, params);
            }
            (None, Value::String(id)) => {
                if let Some(waiting) = lock(&self.answers).remove(id) {
                    let _ = waiting.send(frame.clone());
                }
            }
            _ => {}
        }
    }

    fn nudge(&self, call: Option<u64>, change: impl Fn(&mut (bool, i64))) {
        let call = call.and_then(|id| lock(&self.calls).get(&id).cloned());
        if let Some(call) = call {
            change(&mut lock(&call.state));
            call.changed.notify_all();
        }
    }

    fn begin(self: &Arc<Self>, id: u64, method: &str, params: Value) {
        let call = Arc::new(Call::default());
        lock(&call.state).1 = i64::try_from(*lock(&self.window)).unwrap_or(i64::MAX);
        lock(&self.calls).insert(id, Arc::clone(&call));
        let (plugin, method) = (Arc::clone(self), method.to_owned());
        let scene = Scene { plugin, call, id, method, params };
        std::thread::spawn(move || scene.play());
    }

    fn hello(self: &Arc<Self>, id: Value, params: &Value) {
        let instance = &params["instance"];
        *lock(&self.config) = instance["config"].as_object().cloned().unwrap_or_default();
        *lock(&self.provider) = instance["provider"].as_str().unwrap_or_default().to_owned();
        *lock(&self.window) = params["limits"]["outputWindow"].as_u64().unwrap_or(1 << 20);
        self.record("initialize", params);
        let kind = match instance["provider"].as_str() {
            Some("scripted-delegated") => "delegated-run",
            _ => "ssh-lease",
        };
        let mut result = json!({
            "protocol": "1.0",
            "plugin": {"id": "example.dev/scripted", "version": "1.0.0"},
            "provider": {"name": instance["provider"], "kind": kind, "idempotentAcquire": true},
            "methods": [],
        });
        match &*self.script("hello") {
            "exit-before-hello" => {
                let _ = writeln!(std::io::stderr(), "cannot load the moon");
                std::process::exit(3);
            }
            "banner" => self.raw(b"Welcome to Scripted 1.0!\n"),
            "stall" => return,
            "wrong-version" => result["protocol"] = json!("7.1"),
            "wrong-plugin" => result["plugin"]["id"] = json!("example.dev/other"),
            "wrong-kind" => result["provider"]["kind"] = json!("delegated-run"),
            "needy" => result["requires"] = json!(["secret", "teleport"]),
            "refuse" => {
                let data = json!({"kind": "auth", "hint": "log in first"});
                let error = json!({"code": 1010, "message": "no credentials", "data": data});
                return self.send(json!({"id": id, "error": error}));
            }
            _ => {}
        }
        self.send(json!({"id": id, "result": result}));
    }

    fn goodbye(&self, id: Value) {
        self.send(json!({"id": id, "result": {}}));
        if self.script("shutdown") == "stubborn" {
            // An ignored signal stays ignored in the program that takes over.
            let error = Command::new("/bin/sh")
                .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
                .exec();
            let _ = writeln!(std::io::stderr(), "no shell: {error}");
        }
    }

    /// Appends a call to the state file.
    fn record(&self, method: &str, params: &Value) {
        let Some(path) = self.setting("state-file") else { return };
        let _turn = lock(&self.disk);
        let line = format!("{}\n", json!({"method": method, "params": params}));
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// Reads, changes and writes the boxes it "made"; they survive the process.
    fn boxes<T>(&self, change: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
        let _turn = lock(&self.disk);
        let path = self.setting("state-file").map(|path| format!("{path}.boxes.json"));
        let text = path.as_ref().and_then(|p| std::fs::read(p).ok()).unwrap_or_default();
        let mut boxes = serde_json::from_slice(&text).unwrap_or_default();
        let result = change(&mut boxes);
        if let Some(path) = path {
            let _ = std::fs::write(&path, Value::Object(boxes).to_string());
        }
        result
    }

    fn ask(&self, method: &str, params: Value) -> Receiver<Value> {
        let id = {
            let mut asked = lock(&self.asked);
            *asked += 1;
            format!("p{asked}")
        };
        let (sender, receiver) = channel();
        lock(&self.answers).insert(id.clone(), sender);
        self.send(json!({"id": id, "method": method, "params": params}));
        receiver
    }
}

impl Scene {
    fn play(&self) {
        self.plugin.record(&self.method, &self.params);
        let key = match &*self.method {
            "lease.acquire" | "run.warmup" => "acquire",
            "lease.resolve" | "run.status" => "resolve",
            "lease.list" | "run.list" => "list",
            "lease.release" | "run.stop" => "release",
            "lease.touch" => "touch",
            "run.start" => "run",
            "doctor" => "doctor",
            _ => return self.answer(Err(("unsupported".into(), "no such method".into(), None))),
        };
        let script = self.plugin.script(key);
        let (word, argument) = script.split_once(':').unwrap_or((&script, ""));
        if self.fault(word, argument) {
            return;
        }
        let answer = self.act(word, argument);
        self.answer(answer.clone());
        if word == "double-answer" {
            self.answer(answer);
        }
        lock(&self.plugin.calls).remove(&self.id);
    }

    fn answer(&self, answer: Answer) {
        let frame = match answer {
            Ok(result) => json!({"id": self.id, "result": result}),
            Err((kind, message, outcome)) => {
                let mut data = json!({"kind": kind, "cause": ["the script said so"]});
                if let Some(outcome) = outcome {
                    data["outcome"] = json!(outcome);
                }
                json!({"id": self.id, "error": {"code": 1099, "message": message, "data": data}})
            }
        };
        self.plugin.send(frame);
    }

    /// Whether the behaviour was a fault after which there is no answer.
    fn fault(&self, word: &str, argument: &str) -> bool {
        let plugin = &self.plugin;
        match word {
            "die" => die(),
            "record-then-die" => {
                self.resource("record", "doomed");
                die();
            }
            "make-then-die" => {
                let lease = self.make();
                self.resource("record", lease["cloudId"].as_str().unwrap_or_default());
                die();
            }
            "garbage" => plugin.raw(b"Segmentation fault?\n"),
            "half-line" => plugin.raw(b"{\"jsonrpc\":\"2.0\",\"id\":"),
            "bom" => plugin.raw("\u{feff}{}\n".as_bytes()),
            "not-utf8" => plugin.raw(b"{\"a\":\"\xff\"}\n"),
            "batch" => plugin.raw(b"[{\"jsonrpc\":\"2.0\"}]\n"),
            "deep" => plugin.raw(format!("{{\"a\":{}\n", "[".repeat(70)).as_bytes()),
            "oversize" => plugin.raw(&vec![b'x'; (1 << 20) + 1]),
            "wrong-answer-id" => plugin.send(json!({"id": 4_000_000, "result": {}})),
            "overdraft" => self.overdraft(),
            "ignore-cancel" => std::thread::sleep(STALL),
            "close-stdout" => close_stdout(),
            "fork-holds-stdout" => {
                spawn_holder("sleep", &["300"]);
                die();
            }
            "escapee-holds-stdout" => {
                spawn_holder("setsid", &["sleep", argument]);
                die();
            }
            _ => return false,
        }
        true
    }

    /// What a behaviour does before the method's own work.
    fn act(&self, word: &str, argument: &str) -> Answer {
        let number = argument.parse::<u64>().unwrap_or_default();
        match word {
            "fail" => {
                let (kind, outcome) = argument.split_once(':').unwrap_or((argument, ""));
                let outcome = (!outcome.is_empty()).then(|| outcome.to_owned());
                return Err((kind.to_owned(), format!("told to fail with {kind}"), outcome));
            }
            "stall" => {
                self.wait_for_cancel(STALL)?;
            }
            "slow-ms" => self.wait_for_cancel(Duration::from_millis(number))?,
            "flood-log" => (0..number.max(10_000)).for_each(|n| self.log(&format!("line {n}"))),
            "flood-stderr" => {
                let line = "noise ".repeat(20);
                (0..20_000).for_each(|n| drop(writeln!(std::io::stderr(), "{line}{n}")));
            }
            "record" => self.resource("record", "made-1"),
            "ask" => return self.callback(argument),
            "chain" => return self.chain(argument),
            "storm" => return self.storm(),
            "exit" => return Ok(json!({"exitCode": number})),
            "no-exit-code" => return Ok(json!({"status": "succeeded"})),
            "flood-output" => return self.flood_output(number),
            "offsets" => return self.odd_offsets(),
            _ => {}
        }
        let mut result = self.work()?;
        if word == "lie-id" {
            result["lease"]["leaseId"] = json!("cbx_0123456789ab");
        }
        if word == "lie-host" {
            result["lease"]["ssh"]["host"] = json!("-oProxyCommand=true");
        }
        Ok(result)
    }

    /// The method done honestly.
    fn work(&self) -> Answer {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match &*self.method {
            "lease.acquire" | "run.warmup" => Ok(json!({"lease": self.make()})),
            "lease.resolve" | "run.status" => {
                let id = &self.params["id"];
                let found = self.plugin.boxes(|boxes| {
                    let fits = |b: &&Value| {
                        ["leaseId", "slug", "name", "cloudId"].iter().any(|key| b[key] == *id)
                    };
                    boxes.values().find(fits).cloned()
                });
                let missing = || ("not_found".into(), format!("no box {id}"), None);
                found.map(|lease| json!({"lease": lease})).ok_or_else(missing)
            }
            "lease.list" | "run.list" => {
                let leases: Vec<_> = self.plugin.boxes(|boxes| boxes.values().cloned().collect());
                Ok(json!({"leases": leases, "complete": true}))
            }
            "lease.release" | "run.stop" => {
                let id = text(&self.params["lease"]["leaseId"]);
                let gone = self.plugin.boxes(|boxes| boxes.remove(&id));
                let outcome = if gone.is_some() { "released" } else { "already_gone" };
                Ok(json!({"outcome": outcome}))
            }
            "lease.touch" => {
                let mut lease = self.params["lease"].clone();
                lease["status"] = self.params["state"].clone();
                Ok(json!({"lease": lease}))
            }
            "run.start" => self.run(),
            _ => Ok(json!({"checks": [{"id": "script", "status": "ok", "message": "ready"}]})),
        }
    }

    /// Makes a box, or finds the one an earlier attempt made.
    fn make(&self) -> Value {
        let desired = &self.params["desired"];
        let id = desired["leaseId"].as_str().unwrap_or_default().to_owned();
        let config = lock(&self.plugin.config).clone();
        let mut lease = json!({
            "leaseId": id, "slug": desired["slug"], "name": desired["name"],
            "cloudId": format!("box-{id}"), "status": "ready", "labels": self.params["labels"],
        });
        if let Some(root) = config.get("work-root") {
            lease["workRoot"] = root.clone();
        }
        if self.method == "lease.acquire" {
            lease["ssh"] = endpoint(&config);
            self.authorize(&config);
        }
        self.plugin.boxes(|boxes| boxes.entry(id).or_insert(lease).clone())
    }

    fn authorize(&self, config: &Map<String, Value>) {
        let (Some(path), Some(key)) = (
            config.get("authorized-keys").and_then(Value::as_str),
            self.params["sshPublicKey"].as_str(),
        ) else {
            return;
        };
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
            let _ = writeln!(file, "{key}");
        }
    }

    fn wait_for_cancel(&self, time: Duration) -> Result<(), (String, String, Option<String>)> {
        let state = lock(&self.call.state);
        let (state, _) = self
            .call
            .changed
            .wait_timeout_while(state, time, |state| !state.0)
            .unwrap_or_else(PoisonError::into_inner);
        match state.0 {
            true => Err(("cancelled".into(), "cancelled".into(), Some("rolled-back".into()))),
            false => Ok(()),
        }
    }

    fn resource(&self, verb: &str, cloud_id: &str) {
        let resource = json!({"kind": "server", "cloudId": cloud_id, "billable": true});
        let params = json!({"call": self.id, "resource": resource});
        let _ = self.plugin.ask(&format!("host/resource.{verb}"), params).recv_timeout(STALL);
        self.plugin.record("answered", &json!({"verb": verb, "cloudId": cloud_id}));
    }

    fn log(&self, message: &str) {
        let params = json!({"call": self.id, "level": "info", "message": message});
        self.plugin.send(json!({"method": "event/log", "params": params}));
    }

    /// Makes the callback that is given as `method {params}` and answers with what came back.
    fn callback(&self, request: &str) -> Answer {
        let (method, params) = request.split_once(' ').unwrap_or((request, "{}"));
        let mut params: Value = serde_json::from_str(params).unwrap_or_default();
        params["call"] = json!(self.id);
        let answer = self.plugin.ask(&format!("host/{method}"), params).recv_timeout(STALL);
        let answer = answer.unwrap_or_default();
        let message = answer["result"].to_string() + &answer["error"].to_string();
        Ok(json!({"checks": [{"id": "callback", "status": "ok", "message": message}]}))
    }

    /// Makes the callbacks of a list of `[method, params]`, one after the other. A text `$name` in params is that
    /// member of an earlier result. Answers with all results and errors.
    fn chain(&self, steps: &str) -> Answer {
        let steps: Vec<(String, Map<String, Value>)> =
            serde_json::from_str(steps).unwrap_or_default();
        let (mut known, mut answers) = (Map::new(), Vec::new());
        for (method, mut params) in steps {
            for value in params.values_mut() {
                let name = value.as_str().and_then(|text| text.strip_prefix('$'));
                if let Some(found) = name.and_then(|name| known.get(name)) {
                    *value = found.clone();
                }
            }
            params.insert("call".to_owned(), json!(self.id));
            let asked = self.plugin.ask(&format!("host/{method}"), params.into());
            let mut answer = asked.recv_timeout(STALL).unwrap_or_default();
            if let Some(result) = answer["result"].as_object() {
                known.extend(result.clone());
            }
            let shown = if answer["error"].is_null() { "result" } else { "error" };
            answers.push(answer[shown].take());
        }
        let message = Value::from(answers).to_string();
        Ok(json!({"checks": [{"id": "chain", "status": "ok", "message": message}]}))
    }

    /// More callbacks at once than are allowed; says how many were refused.
    fn storm(&self) -> Answer {
        let params = json!({"call": self.id, "ms": 200});
        let waiting: Vec<_> =
            (0..100).map(|_| self.plugin.ask("host/sleep", params.clone())).collect();
        let answers: Vec<_> = waiting.iter().filter_map(|w| w.recv_timeout(STALL).ok()).collect();
        let refused = answers.iter().filter(|a| a["error"]["data"]["kind"] == "rate_limited");
        let message = format!("{} answers, {} refused", answers.len(), refused.count());
        Ok(json!({"checks": [{"id": "storm", "status": "ok", "message": message}]}))
    }

    fn output(&self, channel: &str, offset: u64, bytes: &[u8]) {
        let mut params = json!({"call": self.id, "ch": channel, "off": offset});
        match std::str::from_utf8(bytes) {
            Ok(text) => params["text"] = json!(text),
            Err(_) => params["b64"] = json!(base64(bytes)),
        }
        self.plugin.send(json!({"method": "event/output", "params": params}));
    }

    /// Waits for credit, then sends.
    fn paid_output(&self, channel: &str, offset: u64, bytes: &[u8]) {
        let state = lock(&self.call.state);
        let (mut state, _) = self
            .call
            .changed
            .wait_timeout_while(state, STALL, |state| state.1 <= 0 && !state.0)
            .unwrap_or_else(PoisonError::into_inner);
        state.1 -= i64::try_from(bytes.len()).unwrap_or_default();
        drop(state);
        self.output(channel, offset, bytes);
    }

    fn overdraft(&self) {
        let chunk = vec![b'x'; CHUNK];
        let flood = (8u64 << 20) / CHUNK as u64;
        (0..flood).for_each(|n| self.output("stdout", n * CHUNK as u64, &chunk));
    }

    /// That many MiB of bytes 0..=255 over and over, as credit allows.
    fn flood_output(&self, mib: u64) -> Answer {
        let chunk: Vec<u8> = (0..CHUNK).map(|n| (n % 256) as u8).collect();
        let total = mib.max(1) << 20;
        let mut sent = 0;
        while sent < total {
            let len = (total - sent).min(CHUNK as u64);
            self.paid_output("stdout", sent, &chunk[..usize::try_from(len).unwrap_or(CHUNK)]);
            sent += len;
        }
        Ok(json!({"exitCode": 0}))
    }

    /// Repeats what it sent, overlaps, leaves a hole, and owns up to another.
    fn odd_offsets(&self) -> Answer {
        self.output("stdout", 0, b"hello ");
        self.output("stdout", 0, b"hello ");
        self.output("stdout", 3, b"lo world");
        self.output("stdout", 20, b"after");
        let gap =
            json!({"call": self.id, "ch": "stdout", "from": 25, "to": 30, "reason": "rotated"});
        self.plugin.send(json!({"method": "event/gap", "params": gap}));
        self.output("stdout", 30, b"end\xff");
        Ok(json!({"exitCode": 0}))
    }

    /// Really runs the command, in a folder with the workspace's files.
    fn run(&self) -> Answer {
        let fail = |e: std::io::Error| ("transient".to_owned(), e.to_string(), None);
        let words = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(Into::into)
                .collect()
        };
        let folder = format!("run-{}", self.params["runId"].as_str().unwrap_or("x"));
        std::fs::create_dir_all(&folder).map_err(fail)?;
        if let Some(archive) = self.params["workspace"].as_str() {
            Command::new("tar").args(["-xf", archive, "-C", &folder]).status().map_err(fail)?;
        }
        let command = words(&self.params["command"]);
        let (program, args) = command
            .split_first()
            .ok_or_else(|| ("invalid_request".to_owned(), "no command".to_owned(), None))?;
        let env = self.params["env"].as_object().cloned().unwrap_or_default();
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().filter_map(|(k, v)| Some((k, v.as_str()?))))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(|| self.pump("stdout", stdout));
            scope.spawn(|| self.pump("stderr", stderr));
        });
        let code = self.outlive(&mut child);
        let _ = std::fs::remove_dir_all(&folder);
        code.map(|code| json!({"exitCode": code}))
    }

    fn pump(&self, channel: &str, stream: Option<impl Read>) {
        let Some(mut stream) = stream else { return };
        let (mut buffer, mut offset) = (vec![0; CHUNK], 0);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            self.paid_output(channel, offset, &buffer[..n]);
            offset += n as u64;
        }
    }

    /// Waits for the command, or kills it when the call is cancelled or its time is up.
    fn outlive(
        &self,
        child: &mut std::process::Child,
    ) -> Result<i32, (String, String, Option<String>)> {
        let start = Instant::now();
        let limit = self.params["timeoutSecs"].as_u64().map_or(STALL, Duration::from_secs);
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(status.code().unwrap_or(137));
            }
            let cancelled = self.wait_for_cancel(Duration::from_millis(10));
            if cancelled.is_err() || start.elapsed() > limit {
                let _ = child.kill().and_then(|()| child.wait());
                cancelled?;
                return Ok(124);
            }
        }
    }
}

fn die() -> ! {
    let mut stderr = std::io::stderr().lock();
    let _ = (0..30).try_for_each(|n| writeln!(stderr, "last words {n}"));
    std::process::exit(9)
}

fn spawn_holder(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).stdin(Stdio::null()).spawn();
}

/// Stdout ends, the program does not.
fn close_stdout() {
    let _ = Command::new("/bin/sh").args(["-c", "exec >&- 2>&-; sleep 300"]).exec();
}

fn endpoint(config: &Map<String, Value>) -> Value {
    let mut ssh = json!({"host": "127.0.0.1", "port": 22, "auth": "kernel-key"});
    for (ours, theirs) in [
        ("ssh-host", "host"),
        ("ssh-port", "port"),
        ("ssh-user", "user"),
        ("ssh-auth", "auth"),
        ("ssh-key-file", "keyFile"),
        ("ssh-ready-check", "readyCheck"),
        ("ssh-host-keys", "hostKeys"),
    ] {
        if let Some(value) = config.get(ours) {
            ssh[theirs] = value.clone();
        }
    }
    ssh
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

//! A provider plugin for tests that succeeds, fails, stalls, floods, lies or dies as its settings say.
//!
//! It speaks raw frames and shares no code with the SDK or the host, so that neither can hide a mistake
//! of the other. Each method's behaviour is one word of its settings; see `Scene::act` and `faults`.

#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a plugin that must run tools, read its environment and end at any moment"
)]

mod ask;
mod fault;
mod honest;
mod output;
mod run;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

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
}

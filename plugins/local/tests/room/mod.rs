//! A kernel and a user in one: speaks to the plugin over its pipes and to its boxes with OpenSSH.
#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::disallowed_methods, reason = "tests start the plugin and the SSH client")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Room {
    pub(crate) dir: tempfile::TempDir,
    plugin: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: u64,
    /// What the plugin asked to be written down, and whether it was there at that moment.
    pub(crate) recorded: Vec<String>,
    pub(crate) forgotten: Vec<String>,
    config: Value,
    path: String,
}

impl Room {
    pub(crate) fn new(config: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "home"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::create_dir(dir.path().join("home/.rustup")).unwrap();
        for name in ["key", "stranger"] {
            let file = dir.path().join(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&file)
                .status();
            assert!(made.unwrap().success());
        }
        let path = std::env!("PATH").to_owned();
        let (plugin, input, output) = open(dir.path());
        let mut room = Self {
            dir,
            plugin,
            input: Some(input),
            output,
            next: 0,
            recorded: Vec::new(),
            forgotten: Vec::new(),
            config,
            path,
        };
        room.initialize();
        room
    }

    fn initialize(&mut self) {
        let home = self.dir.path().join("home");
        let params = json!({
            "protocols": ["1.0"], "kernel": {"name": "test", "version": "0"},
            "instance": {"provider": "local", "config": self.config,
                "user": {"home": home, "path": self.path, "login": "ada"}},
        });
        self.call("initialize", params).unwrap();
    }

    /// A second plugin process on the same state, as the next command of a user has.
    pub(crate) fn reopen(&mut self) {
        drop(self.input.take());
        assert!(self.plugin.wait().unwrap().success());
        let (plugin, input, output) = open(self.dir.path());
        (self.plugin, self.input, self.output) = (plugin, Some(input), output);
        self.initialize();
    }

    pub(crate) fn send(&mut self, frame: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{frame}").unwrap();
        input.flush().unwrap();
    }

    /// Starts a call and returns its number.
    pub(crate) fn begin(&mut self, method: &str, mut params: Value) -> u64 {
        self.next += 1;
        if method != "initialize" {
            params["ctx"] = json!({"deadlineMs": 60000, "graceMs": 20000, "idem": "one"});
        }
        let id = self.next;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.begin(method, params);
        self.finish(id)
    }

    /// Serves the plugin's callbacks until the call is answered.
    pub(crate) fn finish(&mut self, id: u64) -> Result<Value, Value> {
        loop {
            let frame = self.frame();
            if frame["method"].is_string() {
                self.serve(&frame);
            } else if frame["id"] == id {
                return match frame.get("result") {
                    Some(result) => Ok(result.clone()),
                    None => Err(frame["error"].clone()),
                };
            }
        }
    }

    pub(crate) fn frame(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the plugin is gone");
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn serve(&mut self, frame: &Value) {
        let params = &frame["params"];
        let cloud_id = params["resource"]["cloudId"].as_str().map(str::to_owned);
        let result = match frame["method"].as_str().unwrap() {
            "host/sleep" => {
                thread::sleep(Duration::from_millis(params["ms"].as_u64().unwrap()));
                json!({"woken": "time"})
            }
            "host/resource.record" => {
                let boxes = self.dir.path().join("state/boxes");
                let made = fs::read_dir(boxes).map_or(0, Iterator::count);
                assert_eq!(made, self.recorded.len(), "made before it was recorded");
                self.recorded.extend(cloud_id);
                json!({})
            }
            "host/resource.forget" => {
                self.forgotten.extend(cloud_id);
                json!({})
            }
            _ => return,
        };
        self.send(&json!({"jsonrpc": "2.0", "id": frame["id"], "result": result}));
    }

    pub(crate) fn acquire_params(&self, id: &str, ttl: u64, idle: u64) -> Value {
        let key = fs::read_to_string(self.dir.path().join("key.pub")).unwrap();
        json!({
            "desired": {"leaseId": id, "slug": "blue-prawn", "name": "crabbox-blue-prawn-1"},
            "request": {"target": std::env::consts::OS, "ttlSecs": ttl, "idleTimeoutSecs": idle},
            "sshPublicKey": key.trim(), "labels": {"crabbox": "true", "lease": id},
        })
    }

    pub(crate) fn acquire(&mut self, id: &str) -> Box {
        let params = self.acquire_params(id, 3600, 1800);
        let lease = self.call("lease.acquire", params).unwrap()["lease"].clone();
        Box::of(self.dir.path(), lease)
    }

    pub(crate) fn release(&mut self, id: &str) -> Result<Value, Value> {
        let lease = json!({"leaseId": id, "cloudId": format!("local-{id}")});
        self.call("lease.release", json!({"lease": lease, "expected": {"leaseId": id}}))
    }

    pub(crate) fn box_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("state/boxes").join(id)
    }

    pub(crate) fn keeper(&self, id: &str) -> i32 {
        let lock = fs::read_to_string(self.box_dir(id).join("lock")).unwrap();
        lock.trim().parse().unwrap()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let boxes = fs::read_dir(self.dir.path().join("state/boxes"));
        let ids = boxes.into_iter().flatten().flatten().map(|e| e.file_name());
        let ids: Vec<String> = ids.map(|id| id.to_string_lossy().into_owned()).collect();
        if !thread::panicking() {
            for id in ids {
                let _ = self.release(&id);
            }
        } else {
            for id in ids {
                let lock = fs::read_to_string(self.box_dir(&id).join("lock"));
                if let Ok(pid) = lock.unwrap_or_default().trim().parse() {
                    kill(pid, "TERM");
                }
            }
        }
        drop(self.input.take());
        let _ = self.plugin.wait();
    }
}

fn open(dir: &Path) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_crabbox-provider-local"))
        .env_clear()
        .envs([("CRABBOX_PLUGIN", "1"), ("LANG", "C.UTF-8"), ("SECRET_OF_USER", "x")])
        .env("CRABBOX_STATE_DIR", dir.join("state"))
        .env("VOLTA_HOME", dir.join("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (input, output) = (plugin.stdin.take().unwrap(), plugin.stdout.take().unwrap());
    (plugin, input, BufReader::new(output))
}

/// A box, as a user of OpenSSH sees it.
pub(crate) struct Box {
    pub(crate) lease: Value,
    dir: PathBuf,
}

impl Box {
    pub(crate) fn of(dir: &Path, lease: Value) -> Self {
        let ssh = &lease["ssh"];
        let known = format!(
            "[{}]:{} {}\n",
            ssh["host"].as_str().unwrap(),
            ssh["port"],
            ssh["hostKeys"][0].as_str().unwrap()
        );
        let dir = dir.to_owned();
        fs::write(dir.join(format!("known-{}", ssh["port"])), known).unwrap();
        Self { lease, dir }
    }

    pub(crate) fn port(&self) -> u16 {
        u16::try_from(self.lease["ssh"]["port"].as_u64().unwrap()).unwrap()
    }

    /// `ssh` with options, then the box, then what `args` adds.
    pub(crate) fn ssh_with(&self, key: &str, options: &[&str], args: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-i"]).arg(self.dir.join(key));
        let known = self.dir.join(format!("known-{}", self.port()));
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        for option in ["StrictHostKeyChecking=yes", "BatchMode=yes", "IdentitiesOnly=yes"] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-o", "LogLevel=ERROR", "-o", "IdentityAgent=none"]);
        ssh.args(options).args(["-p", &self.port().to_string(), "ada@127.0.0.1"]).args(args);
        ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh
    }

    pub(crate) fn ssh(&self, command: &str) -> Command {
        self.ssh_with("key", &[], &[command])
    }

    pub(crate) fn run(&self, command: &str) -> Output {
        bounded(self.ssh(command).spawn().unwrap())
    }

    /// What a command prints; it must succeed.
    pub(crate) fn says(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Waits for a child's end, or kills it and fails.
pub(crate) fn bounded(child: Child) -> Output {
    let pid = i32::try_from(child.id()).unwrap();
    let waiter = thread::spawn(move || child.wait_with_output().unwrap());
    let in_time = until(|| waiter.is_finished());
    if !in_time {
        kill(pid, "KILL");
    }
    let output = waiter.join().unwrap();
    assert!(in_time, "it took too long: {output:?}");
    output
}

/// Whether something becomes true in time.
pub(crate) fn until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn kill(pid: i32, signal: &str) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
}

/// Whether a process exists and is not merely waiting to be collected.
pub(crate) fn alive(pid: i32) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

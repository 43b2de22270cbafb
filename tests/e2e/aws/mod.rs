//! Instances of EC2, from moto on loopback whose instances are real SSH servers.

mod kills;
mod lease;
mod walk;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crabbox_tests::{Call, Room, binaries, binary, gone_without};
use serde_json::{Value, json};

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky {
    /// Ends, with all its instances, when its input does.
    cloud: Child,
    pub(crate) url: String,
    /// Id and text of the key that crabbox uses.
    pub(crate) keys: [String; 2],
    /// The same of somebody who may do everything.
    pub(crate) admin: [String; 2],
    pub(crate) repo: PathBuf,
    pub(crate) room: Room,
}

/// Where the folder of the provider is.
fn plugin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/aws")
}

/// The policy that the provider's page tells people to use.
fn policy() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers/aws.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut policies = blocks.filter(|block| block.contains("\"Statement\""));
    serde_json::from_str(policies.next().expect("the page has a policy")).unwrap()
}

/// The vendors' clients, unless somebody went without them.
pub(crate) fn python() -> Option<PathBuf> {
    if gone_without("CRABBOX_TEST_MOTO", "moto") {
        return None;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    Some(python)
}

impl Sky {
    /// A cloud whose user has the rights of the page; none where nobody has moto.
    pub(crate) fn new() -> Option<Self> {
        Self::with(&policy())
    }

    #[expect(clippy::disallowed_methods, reason = "starts a server for tests")]
    pub(crate) fn with(policy: &Value) -> Option<Self> {
        let python = python()?;
        let room = Room::new();
        let repo = room.repo("app");
        let file = room.at("policy.json");
        fs::write(&file, policy.to_string()).unwrap();
        let mut cloud = Command::new(python)
            .arg(plugin().join("fake/server.py"))
            .args([room.at("cloud"), file, binary("fake-machine")])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = Vec::new();
        let mut stdout = cloud.stdout.take().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            told.push(byte[0]);
        }
        let told: Value = serde_json::from_slice(&told).expect("the cloud says where it is");
        let pair = |name: &str| serde_json::from_value(told[name].clone()).unwrap();
        let url = told["url"].as_str().unwrap().to_owned();
        let (keys, admin) = (pair("keys"), pair("admin"));
        let sky = Self { cloud, url, keys, admin, repo, room };
        sky.configure("");
        Some(sky)
    }

    /// Configures crabbox for this cloud.
    pub(crate) fn configure(&self, more: &str) {
        let me = self.room.call("id").arg("-un").ok().out();
        let root = self.room.at("work");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.room.configure(&format!(
            "provider: aws\naws:\n  endpointUrl: {0}\n  addressUrl: {0}/address\n{more}ssh:\n  user: {1}\n  port: {port}\n  \
             fallbackPorts: []\nworkRoot: {2}\n",
            self.url,
            me.trim(),
            root.display()
        ));
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        let [id, key] = &self.keys;
        self.room
            .crabbox(&self.repo, words)
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", key)
    }

    fn talk(&self, body: &str) -> Value {
        let host = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        let head = "host: fake\r\nconnection: close\r\ncontent-length";
        write!(stream, "POST /_fake HTTP/1.1\r\n{head}: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Changes how the cloud behaves.
    pub(crate) fn set(&self, change: &Value) {
        self.talk(&change.to_string());
    }

    /// What shall go wrong.
    pub(crate) fn faults(&self, faults: Value) {
        self.set(&json!({ "faults": faults }));
    }

    /// Everything the cloud has.
    pub(crate) fn state(&self) -> Value {
        self.talk("")
    }

    /// The instances that are not on their way out.
    pub(crate) fn instances(&self) -> Vec<Value> {
        let all = self.state()["instances"].as_array().unwrap().clone();
        let over = |one: &Value| ["shutting-down", "terminated"].iter().any(|s| one["state"] == *s);
        all.into_iter().filter(|one| !over(one)).collect()
    }

    /// Names of instances and keys.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> =
            self.instances().iter().map(|one| name(&one["tags"]["Name"])).collect();
        let keys = self.state()["keys"].as_array().unwrap().clone();
        all.extend(keys.iter().map(|key| name(&key["name"])));
        all
    }

    /// Fails unless crabbox here remembers no lease.
    pub(crate) fn assert_forgotten(&self) {
        for folder in ["claims", "journal"] {
            assert_eq!(self.room.state_files(folder), [""; 0], "{folder}");
        }
    }

    /// Actions that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        serde_json::from_value(self.state()["asked"].clone()).unwrap()
    }

    /// How often an action was asked for.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == action).count()
    }
}

impl Drop for Sky {
    fn drop(&mut self) {
        drop(self.cloud.stdin.take());
        let _ = self.cloud.wait();
    }
}

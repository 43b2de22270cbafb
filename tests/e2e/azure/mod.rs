//! Machines of Azure, from a cloud on loopback whose machines are real SSH servers.

mod client;
mod kills;
mod kit;
mod lease;
mod walk;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crabbox_tests::{Call, Room, binary};
use serde_json::{Value, json};

/// What must appear nowhere.
pub(crate) const SECRET: &str = "s3cret-c4n4ry-5b2e";

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky {
    /// Ends, with all its machines, when its input does.
    cloud: Child,
    pub(crate) url: String,
    /// Subscription, tenant and client.
    pub(crate) ids: [String; 3],
    pub(crate) repo: PathBuf,
    pub(crate) room: Room,
}

/// Where the folder of the provider is.
pub(crate) fn plugin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/azure")
}

/// The role that the provider's page tells people to make.
pub(crate) fn role() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers/azure.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut roles = blocks.filter(|block| block.contains("\"Actions\""));
    serde_json::from_str(roles.next().expect("the page has a role")).unwrap()
}

impl Sky {
    /// A cloud whose client has the rights of the page.
    pub(crate) fn new() -> Self {
        Self::with(&role())
    }

    #[expect(clippy::disallowed_methods, reason = "starts a server for tests")]
    pub(crate) fn with(role: &Value) -> Self {
        let room = Room::new();
        let repo = room.repo("app");
        let file = room.at("role.json");
        fs::write(&file, role.to_string()).unwrap();
        let mut cloud = Command::new("python3")
            .arg(plugin().join("fake/server.py"))
            .args([room.at("cloud"), file, binary("fake-machine")])
            .arg(SECRET)
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
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let ids = ["subscription", "tenant", "client"].map(text);
        let sky = Self { cloud, url: text("url"), ids, repo, room };
        sky.configure("");
        sky
    }

    /// Configures crabbox for this cloud.
    pub(crate) fn configure(&self, more: &str) {
        let me = self.room.call("id").arg("-un").ok().out();
        let root = self.room.at("work");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let [subscription, tenant, client] = &self.ids;
        self.room.configure(&format!(
            "provider: azure\nazure:\n  armUrl: {0}\n  loginUrl: {0}\n  addressUrl: {0}/address\n  pricesUrl: {0}/prices\n  \
             subscriptionId: {subscription}\n  tenantId: {tenant}\n  clientId: {client}\n{more}ssh:\n  user: {1}\n  port: {port}\n  \
             fallbackPorts: []\nworkRoot: {2}\n",
            self.url,
            me.trim(),
            root.display()
        ));
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        self.room.crabbox(&self.repo, words).env("AZURE_CLIENT_SECRET", SECRET)
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

    /// Everything the cloud has, and what it was asked.
    pub(crate) fn state(&self) -> Value {
        self.talk("")
    }

    /// Things of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        let state = self.state();
        let all = state["things"].as_array().unwrap();
        all.iter().filter(|one| one["kind"] == kind).cloned().collect()
    }

    /// Names of everything that is there for one lease alone.
    pub(crate) fn names(&self) -> Vec<String> {
        let kinds = ["virtualMachines", "networkInterfaces", "publicIPAddresses", "disks"];
        let all = kinds.into_iter().flat_map(|kind| self.all(kind));
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Fails unless crabbox here remembers no lease.
    pub(crate) fn assert_forgotten(&self) {
        for folder in ["claims", "journal"] {
            assert_eq!(self.room.state_files(folder), [""; 0], "{folder}");
        }
    }

    /// What was asked for so far, such as `PUT virtualMachines`.
    pub(crate) fn asked(&self) -> Vec<String> {
        serde_json::from_value(self.state()["asked"].clone()).unwrap()
    }

    /// How often something was asked for.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == what).count()
    }
}

impl Drop for Sky {
    fn drop(&mut self) {
        drop(self.cloud.stdin.take());
        let _ = self.cloud.wait();
    }
}

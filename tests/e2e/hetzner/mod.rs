//! Servers of Hetzner Cloud, from a cloud on loopback whose servers are real SSH servers.

mod client;
mod kills;
mod lease;
mod walk;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{Call, Room, Running, binary, eventually};
use serde_json::{Value, json};

/// What must appear nowhere.
pub(crate) const TOKEN: &str = "t0ken-c4n4ry-9d1f";

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky {
    /// Ends, with all its servers, when it is dropped.
    cloud: Running,
    address: String,
    pub(crate) repo: PathBuf,
    pub(crate) room: Room,
}

impl Sky {
    pub(crate) fn new() -> Self {
        let room = Room::new();
        let repo = room.repo("app");
        let cloud = room
            .call(binary("fake-hetzner"))
            .args([room.at("cloud").into_os_string(), TOKEN.into()])
            .limit(Duration::from_secs(3600))
            .start();
        eventually("a cloud", Duration::from_secs(10), || cloud.stdout().ends_with('\n'));
        let address = cloud.stdout().trim().to_owned();
        let sky = Self { cloud, address, repo, room };
        sky.configure(&sky.address, "");
        sky
    }

    /// Where the API is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Configures crabbox for the API at this address.
    pub(crate) fn configure(&self, address: &str, more: &str) {
        let me = self.room.call("id").arg("-un").ok().out();
        let root = self.room.at("work");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.room.configure(&format!(
            "provider: hetzner\nhetzner:\n  apiUrl: {address}\n{more}ssh:\n  user: {}\n  port: {port}\n  \
             fallbackPorts: []\nworkRoot: {}\n",
            me.trim(),
            root.display()
        ));
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        self.room.crabbox(&self.repo, words).env("HCLOUD_TOKEN", TOKEN)
    }

    /// Asks the cloud behind its back.
    pub(crate) fn control(&self, what: &str, body: &Value) -> Value {
        let host = self.address.trim_start_matches("http://").trim_end_matches("/v1");
        let mut stream = TcpStream::connect(host).unwrap();
        let text = body.to_string();
        let length = text.len();
        write!(stream, "POST /_fake/{what} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{text}")
            .unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Takes the only server away, as its owner might in the console.
    pub(crate) fn delete_server(&self) {
        let id = &self.state()["servers"][0]["id"];
        let host = self.address.trim_start_matches("http://").trim_end_matches("/v1");
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "DELETE /v1/servers/{id} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }

    /// What shall go wrong.
    pub(crate) fn rules(&self, rules: Value) {
        self.control("rules", &rules);
    }

    /// Everything the cloud has.
    pub(crate) fn state(&self) -> Value {
        self.control("state", &json!({}))
    }

    /// Names of servers and keys.
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.state();
        let all =
            ["servers", "ssh_keys"].into_iter().flat_map(|kind| state[kind].as_array().unwrap());
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Fails unless crabbox here remembers no lease.
    pub(crate) fn assert_forgotten(&self) {
        for folder in ["claims", "journal"] {
            assert_eq!(self.room.state_files(folder), [""; 0], "{folder}");
        }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        serde_json::from_value(self.state()["requests"].clone()).unwrap()
    }
}

impl Drop for Sky {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.control("end", &json!({}));
            eventually("the end of the cloud", Duration::from_secs(20), || self.cloud.ended());
        }
    }
}

//! Servers of Hetzner Cloud, from a cloud on loopback whose servers are real SSH servers.

mod client;
mod first_start;
mod kills;
mod lease;
mod walk;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::ops::Deref;

use crabbox_tests::{Call, Cloud, Room, binary};
use serde_json::{Value, json};

/// What must appear nowhere.
pub(crate) const TOKEN: &str = "t0ken-c4n4ry-9d1f";

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky(Cloud);

impl Deref for Sky {
    type Target = Cloud;

    fn deref(&self) -> &Cloud {
        &self.0
    }
}

impl Sky {
    pub(crate) fn new() -> Self {
        let room = Room::new();
        let folder = room.at("cloud");
        let sky = Self(Cloud::start(room, &binary("fake-hetzner"), [folder, TOKEN.into()]));
        sky.configure(sky.address(), "");
        sky
    }

    /// Where the API is.
    pub(crate) fn address(&self) -> &str {
        &self.url
    }

    /// Configures crabbox for the API at this address.
    pub(crate) fn configure(&self, address: &str, more: &str) {
        self.0.configure("hetzner", &format!("  apiUrl: {address}\n{more}"));
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        self.room.crabbox(&self.repo, words).env("HCLOUD_TOKEN", TOKEN)
    }

    /// Asks the cloud behind its back.
    pub(crate) fn control(&self, what: &str, body: &Value) -> Value {
        self.ask(&format!("/{what}"), body)
    }

    /// Takes the only server away, as its owner might in the console.
    pub(crate) fn delete_server(&self) {
        let id = &self.state()["servers"][0]["id"];
        let host = self.address().trim_start_matches("http://").trim_end_matches("/v1");
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

    /// Requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        serde_json::from_value(self.state()["requests"].clone()).unwrap()
    }
}

//! Clouds of tests: a server on loopback whose machines are real SSH servers, a room that is configured for it, and a
//! checkout in it.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::server::{Server, ask};
use crate::{Ended, Room};

/// One that runs; it ends, with all its machines, when this is dropped.
pub struct Cloud {
    _server: Server,
    /// What it said of itself.
    pub told: Value,
    /// Where it is.
    pub url: String,
    /// A checkout.
    pub repo: PathBuf,
    /// The room.
    pub room: Room,
}

impl Cloud {
    /// Starts one with a program, which says what it is in a line of JSON, or only where it is.
    pub fn start<S: AsRef<OsStr>>(
        room: Room,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let repo = room.repo("app");
        let server = Server::start(program, args);
        let told: Value =
            serde_json::from_str(&server.said).unwrap_or_else(|_| json!({"url": server.said}));
        let url = told["url"].as_str().expect("it says where it is").to_owned();
        Self { _server: server, told, url, repo, room }
    }

    /// Makes a provider the room's; `block` are the lines of its settings.
    pub fn configure(&self, provider: &str, block: &str) {
        let me = self.room.call("id").arg("-un").ok().out();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (port, root) = (free.expect("a free port").port(), self.room.at("work"));
        self.room.configure(&format!(
            "provider: {provider}\n{provider}:\n{block}ssh:\n  user: {}\n  port: {port}\n  \
             fallbackPorts: []\nworkRoot: {}\n",
            me.trim(),
            root.display()
        ));
    }

    /// From now on the provider runs as a component. It is compiled first, by an unoptimised compiler.
    pub fn as_component(&self, provider: &str) {
        crate::binary(&format!("crabbox-provider-{provider}.wasm"));
        let file = self.room.at("config/crabbox/config.yaml");
        let text = fs::read_to_string(file).expect("it was configured");
        self.room.configure(&format!(
            "{text}plugins:\n  runtime: [{provider}=wasm]\n  startTimeout: 60s\n"
        ));
    }

    /// Asks the cloud behind its back, below `/_fake`.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let host = self.url.trim_end_matches("/v1");
        ask(host, "POST", &format!("/_fake{path}"), &body.to_string())
    }

    /// Changes how it behaves; see its own page.
    pub fn set(&self, change: &Value) {
        self.ask("", change);
    }

    /// What shall go wrong.
    pub fn faults(&self, faults: Value) {
        self.set(&json!({ "faults": faults }));
    }

    /// Everything it has, and what it was asked.
    pub fn state(&self) -> Value {
        self.ask("", &json!({}))
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        serde_json::from_value(self.state()["asked"].clone()).expect("words")
    }

    /// How often something was asked for.
    pub fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == what).count()
    }

    /// The attempts of a run, in words.
    pub fn attempts(&self, ran: &Ended) -> Vec<String> {
        let id = ran.json()["id"].as_str().expect("a run has an id").to_owned();
        let told = self.room.crabbox(&self.repo, ["events", &id, "--json"]).ok().json();
        let events = told.as_array().into_iter().flatten();
        let attempts = events.filter(|event| event["type"] == "lease.attempt");
        attempts.map(|event| event["message"].as_str().expect("words").to_owned()).collect()
    }

    /// Fails unless crabbox here remembers no lease.
    pub fn assert_forgotten(&self) {
        for folder in ["claims", "journal"] {
            assert_eq!(self.room.state_files(folder), [""; 0], "{folder}");
        }
    }
}

/// The policy or role that a provider's page tells people to use: the block of JSON that has this member.
pub fn rights_on_page(provider: &str, member: &str) -> Value {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers");
    let page = fs::read_to_string(docs.join(format!("{provider}.md"))).expect("a page");
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut found = blocks.filter(|block| block.contains(&format!("\"{member}\"")));
    serde_json::from_str(found.next().expect("the page has it")).expect("a document")
}

//! The small Blacksmith of `plugins/blacksmith/fake`: it really sends the checkout to OpenSSH servers and runs there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Room, Sshd};

/// The servers that can be testboxes, and the tool's state; somewhere else than the room that uses it.
pub struct Blacksmith {
    servers: Vec<Sshd>,
    far: Room,
}

impl Blacksmith {
    /// One with so many machines; it is made the room's provider.
    pub fn start(room: &Room, machines: usize) -> Self {
        let far = Room::new();
        for folder in ["state/slots", "state/boxes"] {
            fs::create_dir_all(far.at(folder)).expect("a folder");
        }
        let servers: Vec<_> =
            (0..machines).map(|n| Sshd::with(&far, &format!("machine{n}"), "")).collect();
        for (n, server) in servers.iter().enumerate() {
            let dir = far.at(&format!("machine{n}"));
            let slot = json!({
                "host": server.host, "port": server.port, "user": server.user, "home": dir.join("home"),
                "keys": dir.join("authorized_keys"), "work": server.work_root,
            });
            fs::write(far.at(&format!("state/slots/{n}.json")), slot.to_string()).expect("a slot");
        }
        let fake = Self { servers, far };
        fake.install(room);
        fake.configure(room, "provider: blacksmith-testbox\n");
        fake
    }

    /// Puts the tool into the room, as `tools/blacksmith`.
    fn install(&self, room: &Room) {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests live below it");
        let program = top.join("plugins/blacksmith/fake/blacksmith.py");
        let (state, program) = (self.far.at("state"), program.display());
        let text = format!(
            "#!/bin/sh\nBLACKSMITH_FAKE='{}' exec python3 '{program}' \"$@\"\n",
            state.display()
        );
        fs::create_dir_all(room.at("tools")).expect("a folder");
        fs::write(self.tool(room), text).expect("a tool");
        fs::set_permissions(self.tool(room), fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// Where the tool is.
    pub fn tool(&self, room: &Room) -> PathBuf {
        room.at("tools/blacksmith")
    }

    /// Writes the room's settings.
    pub fn configure(&self, room: &Room, more: &str) {
        self.install(room);
        room.configure(&format!(
            "blacksmith:\n  cli: {}\n  org: example\n  workflow: ci.yml\n  job: test\n  ref: main\n{more}",
            self.tool(room).display()
        ));
    }

    /// Has the next call of an action misbehave; see the tool's own page.
    pub fn fault(&self, action: &str, how: Value) {
        self.put("faults.json", &json!({ action: how }));
    }

    /// The states a new testbox goes through, one a look.
    pub fn hydrates(&self, states: &[&str]) {
        self.put("hydration.json", &json!(states));
    }

    /// Puts a testbox into a state.
    pub fn is_now(&self, id: &str, status: &str) {
        let file = self.far.at("state/boxes").join(format!("{id}.json"));
        let text = fs::read_to_string(&file).expect("a box");
        let mut testbox: Value = serde_json::from_str(&text).expect("a document");
        testbox["status"] = status.into();
        fs::write(file, testbox.to_string()).expect("a box");
    }

    fn put(&self, file: &str, value: &Value) {
        fs::write(self.far.at("state").join(file), value.to_string()).expect("a file");
    }

    /// The testboxes that live: id and what is known of each.
    pub fn boxes(&self) -> Vec<(String, Value)> {
        let files = fs::read_dir(self.far.at("state/boxes")).expect("boxes").flatten();
        let read = files.filter(|file| file.path().extension().is_some_and(|end| end == "json"));
        let mut all: Vec<_> = read
            .map(|file| {
                let name = file.path().file_stem().expect("a name").to_string_lossy().into_owned();
                let text = fs::read_to_string(file.path()).expect("a box");
                (name, serde_json::from_str::<Value>(&text).expect("a document"))
            })
            .filter(|(_, testbox)| testbox["status"] != "completed")
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The tree of a testbox.
    pub fn tree(&self, id: &str) -> PathBuf {
        let trees = self.servers.iter().map(|server| server.work_root.join(id));
        trees.into_iter().find(|tree| tree.is_dir()).expect("a tree of that testbox")
    }

    /// Every call of the tool so far: arguments, folder, environment.
    pub fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.far.at("state/asked.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a document")).collect()
    }

    /// How often an action was asked for.
    pub fn count(&self, action: &str) -> usize {
        let is = |asked: &&Value| {
            let words = asked["args"].as_array().into_iter().flatten();
            words.filter_map(Value::as_str).any(|word| word == action)
        };
        self.asked().iter().filter(is).count()
    }
}

//! The methods done honestly.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::{Map, Value, json};

use crate::{Answer, Scene, lock};

impl Scene {
    /// The method done honestly.
    pub(crate) fn work(&self) -> Answer {
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
    pub(crate) fn make(&self) -> Value {
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

    pub(crate) fn authorize(&self, config: &Map<String, Value>) {
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

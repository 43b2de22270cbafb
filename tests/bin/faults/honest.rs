//! The provider done honestly: boxes in a file, commands on this machine.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::call::{Answer, Call, failure};

pub(crate) fn work(call: &Call) -> Answer {
    match call.at {
        "acquire" => {
            let lease = make(call);
            let resource = json!({"kind": "server", "cloudId": lease["cloudId"], "billable": true});
            call.ask("resource.record", json!({"resource": resource}))?;
            call.tell("progress", json!({"phase": "boot", "done": 1, "total": 2}));
            call.ask("sleep", json!({"ms": 10}))?;
            Ok(json!({"lease": lease}))
        }
        "resolve" => {
            let id = &call.params["id"];
            let fits =
                |b: &&Value| ["leaseId", "slug", "name", "cloudId"].iter().any(|key| b[key] == *id);
            let found = boxes(call, |boxes| boxes.values().find(fits).cloned());
            match found {
                Some(lease) => Ok(json!({"lease": lease})),
                None => Err(failure("not_found", "no such box")),
            }
        }
        "list" => {
            let leases: Vec<_> = boxes(call, |boxes| boxes.values().cloned().collect());
            Ok(json!({"leases": leases, "complete": true}))
        }
        "release" => {
            let id = call.params["lease"]["leaseId"].as_str().unwrap_or_default();
            let gone = boxes(call, |boxes| boxes.remove(id)).is_some();
            Ok(json!({"outcome": if gone { "released" } else { "already_gone" }}))
        }
        "touch" => Ok(json!({"lease": call.params["lease"]})),
        "start" => run(call),
        _ => Ok(json!({"checks": []})),
    }
}

/// Makes a box, or finds the one an earlier attempt made.
fn make(call: &Call) -> Value {
    let desired = &call.params["desired"];
    let id = desired["leaseId"].as_str().unwrap_or_default().to_owned();
    let mut lease = json!({
        "leaseId": id, "slug": desired["slug"], "name": desired["name"],
        "cloudId": format!("box-{id}"), "status": "ready", "labels": call.params["labels"],
    });
    if !call.plugin.delegates {
        lease["ssh"] =
            json!({"user": "crabbox", "host": "127.0.0.1", "port": 9, "auth": "kernel-key"});
    }
    boxes(call, |boxes| boxes.entry(id).or_insert(lease).clone())
}

/// Reads, changes and writes the boxes; they survive the process.
fn boxes<T>(call: &Call, change: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
    let path = call.plugin.text("boxes");
    let text = std::fs::read(path).unwrap_or_default();
    let mut boxes = serde_json::from_slice(&text).unwrap_or_default();
    let result = change(&mut boxes);
    let _ = std::fs::write(path, Value::Object(boxes).to_string());
    result
}

fn run(call: &Call) -> Answer {
    let command: Vec<String> =
        serde_json::from_value(call.params["command"].clone()).unwrap_or_default();
    let [program, args @ ..] = &command[..] else {
        return Err(failure("invalid_request", "no command"));
    };
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|e| failure("transient", &e.to_string()))?;
    let mut text = String::new();
    if let Some(stdout) = &mut child.stdout {
        let _ = stdout.read_to_string(&mut text);
    }
    call.tell("output", json!({"ch": "stdout", "off": 0, "text": text}));
    let status = child.wait().map_err(|e| failure("transient", &e.to_string()))?;
    Ok(json!({"exitCode": status.code().unwrap_or(137)}))
}

//! A provider plugin for tests that does wrong whatever can be done wrong, one thing at a time.
//!
//! Its setting `fault` says when it strikes and what it does: `acquire:garbage`. Everything else it does honestly: it
//! runs commands on this machine and keeps its boxes in a file. What must come of each fault is the table in
//! `tests/e2e/faults/table.md`. It speaks raw frames and shares no code with the SDK or the host, so that neither can
//! hide a mistake of the other.

#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a plugin that must run tools, read its environment and end at any moment"
)]

mod answers;
mod call;
mod floods;
mod honest;
mod leaks;
mod lies;
mod lines;
mod process;
mod reach;
mod wire;

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::call::{Call, Played};
use crate::wire::Wire;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

fn main() {
    if std::env::var_os("CRABBOX_PLUGIN").is_none() {
        std::process::exit(64);
    }
    let mut plugin: Option<Arc<Plugin>> = None;
    for line in std::io::stdin().lock().lines() {
        let Ok(frame) = serde_json::from_str::<Value>(&line.unwrap_or_default()) else { break };
        match &plugin {
            None => plugin = Some(Arc::new(Plugin::greeted(&frame))),
            Some(plugin) => plugin.take(frame),
        }
        if plugin.as_ref().is_some_and(|plugin| plugin.wire.is_deaf()) {
            std::thread::sleep(FOR_EVER);
        }
    }
    if plugin.is_some_and(|plugin| plugin.strikes("eof")) {
        std::thread::sleep(FOR_EVER);
    }
}

/// The plugin after `initialize`.
pub(crate) struct Plugin {
    pub(crate) wire: Wire,
    config: Map<String, Value>,
    delegates: bool,
}

impl Plugin {
    fn greeted(hello: &Value) -> Self {
        let instance = &hello["params"]["instance"];
        let config = instance["config"].as_object().cloned().unwrap_or_default();
        let delegates = instance["provider"] == "faulty";
        let plugin = Self { wire: Wire::new(frames(&config)), config, delegates };
        let (id, mut result) = (hello["id"].clone(), plugin.introduction(&instance["provider"]));
        if plugin.strikes("hello") {
            let (word, argument) = plugin.fault();
            if lies::about_itself(word, &mut result) {
                plugin.wire.send(json!({"id": id, "result": result}));
                return plugin;
            }
            let call = Call::hello(&plugin, &id);
            match strike(&call, word, argument) {
                Played::Silent => return plugin,
                Played::Answer(answer) => {
                    call.reply(answer);
                    return plugin;
                }
                Played::Go => {}
            }
        }
        plugin.wire.send(json!({"id": id, "result": result}));
        plugin
    }

    fn introduction(&self, provider: &Value) -> Value {
        let kind = if self.delegates { "delegated-run" } else { "ssh-lease" };
        json!({
            "protocol": "1.0",
            "plugin": {"id": "example.dev/faulty", "version": "1.0.0"},
            "provider": {"name": provider, "kind": kind, "idempotentAcquire": true},
            "methods": [],
        })
    }

    fn take(self: &Arc<Self>, frame: Value) {
        match (frame["method"].as_str(), &frame["id"]) {
            (Some("$/cancel"), _) => self.wire.cancelled(),
            (Some(method), Value::Number(_)) => {
                let call = Call::new(self, method, &frame);
                std::thread::spawn(move || serve(&call));
            }
            (None, Value::String(id)) => self.wire.answered(id, frame.clone()),
            _ => {}
        }
    }

    /// Whether this is when it strikes.
    pub(crate) fn strikes(&self, at: &str) -> bool {
        self.text("fault").split(':').next() == Some(at)
    }

    /// What it does then, and the argument of that.
    fn fault(&self) -> (&str, &str) {
        let rest = self.text("fault").split_once(':').map_or("", |(_, rest)| rest);
        rest.split_once(':').unwrap_or((rest, ""))
    }

    /// A setting.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.config.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// After how many frames it dies, if that is its fault.
fn frames(config: &Map<String, Value>) -> Option<u64> {
    config.get("fault")?.as_str()?.strip_prefix("any:die-after:")?.parse().ok()
}

fn serve(call: &Call) {
    leaks::dies_before_its_command(call);
    let played = match call.plugin.strikes(call.at) {
        true => {
            let (word, argument) = call.plugin.fault();
            strike(call, word, argument)
        }
        false => Played::Go,
    };
    match played {
        Played::Silent => {}
        Played::Answer(answer) => call.reply(answer),
        Played::Go => {
            let mut answer = honest::work(call);
            if let (Ok(result), true) = (&mut answer, call.plugin.strikes(call.at)) {
                lies::change(call.plugin.fault().0, result);
                leaks::change(call, call.plugin.fault().0, result);
            }
            call.reply(answer);
            answers::afterwards(call);
        }
    }
}

/// Does the wrong thing; a word that nobody knows is said, so that the table cannot go stale.
fn strike(call: &Call, word: &str, argument: &str) -> Played {
    call.note_strike();
    lines::play(call, word)
        .or_else(|| answers::play(call, word))
        .or_else(|| floods::play(call, word))
        .or_else(|| process::play(call, word, argument))
        .or_else(|| reach::play(call, word))
        .or_else(|| leaks::play(call, word))
        .or_else(|| lies::known(word).then_some(Played::Go))
        .unwrap_or_else(|| Played::Answer(Err(call::failure("internal", "no such behaviour"))))
}

//! One request of the kernel, and the ways to answer it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{FOR_EVER, Plugin};

/// A result, or an error object.
pub(crate) type Answer = Result<Value, Value>;

/// What a fault came to.
pub(crate) enum Played {
    /// Nothing more is said.
    Silent,
    /// This is the answer.
    Answer(Answer),
    /// The call's own work follows.
    Go,
}

pub(crate) struct Call<'a> {
    pub(crate) plugin: Held<'a>,
    pub(crate) id: Value,
    /// Which moment of the table it is.
    pub(crate) at: &'static str,
    pub(crate) params: Value,
}

/// The plugin, before or after it is shared.
pub(crate) enum Held<'a> {
    Lent(&'a Plugin),
    Shared(Arc<Plugin>),
}

impl std::ops::Deref for Held<'_> {
    type Target = Plugin;

    fn deref(&self) -> &Plugin {
        match self {
            Self::Lent(plugin) => plugin,
            Self::Shared(plugin) => plugin,
        }
    }
}

impl<'a> Call<'a> {
    pub(crate) fn hello(plugin: &'a Plugin, id: &Value) -> Self {
        Self { plugin: Held::Lent(plugin), id: id.clone(), at: "hello", params: json!({}) }
    }
}

impl Call<'static> {
    pub(crate) fn new(plugin: &Arc<Plugin>, method: &str, frame: &Value) -> Self {
        let at = match method {
            "lease.acquire" | "run.warmup" => "acquire",
            "lease.resolve" | "run.status" => "resolve",
            "lease.list" | "run.list" => "list",
            "lease.release" | "run.stop" => "release",
            "lease.touch" => "touch",
            "run.start" => "start",
            "shutdown" => "shutdown",
            _ => "other",
        };
        let (id, params) = (frame["id"].clone(), frame["params"].clone());
        Self { plugin: Held::Shared(Arc::clone(plugin)), id, at, params }
    }
}

impl Call<'_> {
    pub(crate) fn reply(&self, answer: Answer) {
        self.plugin.wire.send(match answer {
            Ok(result) => json!({"id": self.id, "result": result}),
            Err(error) => json!({"id": self.id, "error": error}),
        });
    }

    /// Makes a callback and waits for its answer.
    pub(crate) fn ask(&self, method: &str, params: Value) -> Answer {
        let answer = self.begin(method, params).recv_timeout(FOR_EVER).unwrap_or_default();
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// Makes a callback whose answer comes later.
    pub(crate) fn begin(
        &self,
        method: &str,
        mut params: Value,
    ) -> std::sync::mpsc::Receiver<Value> {
        params["call"] = self.id.clone();
        self.plugin.wire.ask(method, params)
    }

    /// Tells something, with no answer.
    pub(crate) fn tell(&self, event: &str, mut params: Value) {
        params["call"] = self.id.clone();
        self.plugin.wire.send(json!({"method": format!("event/{event}"), "params": params}));
    }

    /// Leaves a file that says that the fault has begun.
    pub(crate) fn note_strike(&self) {
        let _ = std::fs::write(format!("{}.struck", self.plugin.text("boxes")), "");
    }
}

/// An error object that says that nothing was made.
pub(crate) fn failure(kind: &str, message: &str) -> Value {
    json!({"code": 1099, "message": message, "data": {"kind": kind, "outcome": "not-started"}})
}

/// Passes a refusal of the kernel on; a call that was not refused goes on, and the test fails.
pub(crate) fn refused(answer: Answer) -> Played {
    match answer {
        Ok(_) => Played::Go,
        Err(mut error) => {
            if error["data"].is_null() {
                error["data"] = json!({"kind": "unsupported"});
            }
            error["data"]["outcome"] = json!("not-started");
            Played::Answer(Err(error))
        }
    }
}

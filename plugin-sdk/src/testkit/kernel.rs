//! A kernel for tests: it makes calls and serves callbacks, with a cassette for the network and time that passes at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_cassette::Cassette;
use crabbox_schemas::error::{ErrorKind, Resource, RpcError};
use crabbox_schemas::plugin::{
    BlobBytes, BlobFacts, BlobParams, BlobReadParams, BlobWriteParams, HttpCloseParams, KvParams,
    KvResult, ResourceParams, SecretParams, SecretResult, SleepParams, SleepResult, callback,
};
use crabbox_wire::payload;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::peer::Peer;
use crate::Plugin;

/// How long a plugin may think.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sleeps before a provider is taken to wait for ever.
const MOST_SLEEPS: usize = 10_000;

/// Plays the kernel for one provider. Time costs nothing: a sleep ends at once and is counted.
pub struct Kernel {
    peer: Peer,
    cassette: Cassette,
    secrets: BTreeMap<String, String>,
    kept: BTreeMap<String, String>,
    blobs: Vec<Vec<u8>>,
    resources: Vec<Resource>,
    events: Vec<(String, Value)>,
    slept: Duration,
    sleeps: usize,
    calls: u64,
}

impl Kernel {
    /// Starts a plugin in this process with these settings.
    pub fn start(
        plugin: Plugin,
        provider: &str,
        config: Value,
        cassette: Cassette,
    ) -> Result<Self, String> {
        let mut kernel = Self {
            peer: Peer::in_process(plugin)?,
            cassette,
            secrets: BTreeMap::new(),
            kept: BTreeMap::new(),
            blobs: Vec::new(),
            resources: Vec::new(),
            events: Vec::new(),
            slept: Duration::ZERO,
            sleeps: 0,
            calls: 0,
        };
        let params = json!({
            "protocols": ["1.0"], "kernel": {"name": "crabbox", "version": env!("CARGO_PKG_VERSION")},
            "callbacks": ["resource", "secret", "kv", "sleep", "http", "http.open", "blob"],
            "instance": {"provider": provider, "config": config},
        });
        kernel.request("initialize", params).map_err(|error| error.message)?;
        Ok(kernel)
    }

    /// Gives a secret that may be revealed.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Makes a call; its `ctx` is filled in.
    pub fn call(&mut self, method: &str, mut params: Value) -> Result<Value, RpcError> {
        let context =
            json!({"deadlineMs": 900_000, "graceMs": 30_000, "idem": format!("idem-{method}")});
        if let Some(members) = params.as_object_mut() {
            members.insert("ctx".to_owned(), context);
        }
        self.request(method, params)
    }

    /// What the provider recorded and did not take back.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The events so far: name and params.
    pub fn events(&self) -> &[(String, Value)] {
        &self.events
    }

    /// How long the provider slept.
    pub fn slept(&self) -> Duration {
        self.slept
    }

    /// Closes the wire. The plugin must end, and everything on the cassette must have been asked for.
    pub fn finish(self) -> Result<(), String> {
        let unused = self.cassette.unused();
        self.peer.finish(PATIENCE)?;
        match unused.is_empty() {
            true => Ok(()),
            false => Err(format!("never asked for: {}", unused.join(", "))),
        }
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value, RpcError> {
        self.calls += 1;
        let (id, broken) = (self.calls, |what| RpcError::of(ErrorKind::ProviderBug, what));
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.peer.send(&frame).map_err(broken)?;
        loop {
            let mut frame = self.peer.receive(PATIENCE).map_err(broken)?;
            let params = frame["params"].take();
            match frame["method"].as_str() {
                Some(name) if frame.get("id").is_some() => {
                    let answer = match self.serve(name, params) {
                        Ok(result) => {
                            json!({"jsonrpc": "2.0", "id": frame["id"], "result": result})
                        }
                        Err(error) => json!({"jsonrpc": "2.0", "id": frame["id"], "error": error}),
                    };
                    self.peer.send(&answer).map_err(broken)?;
                }
                Some(name) => self.told(name.to_owned(), params),
                None if frame["id"] == id && frame["error"].is_object() => {
                    return Err(read(frame["error"].take())?);
                }
                None if frame["id"] == id => return Ok(frame["result"].take()),
                None => return Err(broken(format!("an answer to no call: {frame}"))),
            }
        }
    }

    /// Keeps an event; output is paid for at once.
    fn told(&mut self, name: String, params: Value) {
        if name == "event/output" {
            let bytes = payload::MAX_CHUNK;
            let credit = json!({"call": params["call"], "bytes": bytes});
            // A plugin that is gone shows when something is received.
            let _ =
                self.peer.send(&json!({"jsonrpc": "2.0", "method": "$/credit", "params": credit}));
        }
        self.events.push((name, params));
    }

    fn serve(&mut self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            callback::HTTP => done(self.cassette.http(&read(params)?)?),
            callback::HTTP_OPEN => done(self.cassette.open(&read(params)?)?),
            callback::HTTP_READ => done(self.cassette.read(&read(params)?)?),
            callback::HTTP_CLOSE => {
                self.cassette.close(&read::<HttpCloseParams>(params)?.stream);
                Ok(json!({}))
            }
            callback::RESOURCE_RECORD | callback::RESOURCE_FORGET => {
                let ResourceParams { resource, .. } = read(params)?;
                self.resources.retain(|known| known.cloud_id != resource.cloud_id);
                if method == callback::RESOURCE_RECORD {
                    self.resources.push(resource);
                }
                Ok(json!({}))
            }
            callback::SECRET_REVEAL => {
                let SecretParams { name, .. } = read(params)?;
                let value = self.secrets.get(&name).cloned();
                let missing = || RpcError::of(ErrorKind::GrantDenied, format!("no secret {name}"));
                done(SecretResult { value: value.ok_or_else(missing)? })
            }
            callback::SLEEP => self.sleep(&read(params)?),
            _ if method.starts_with("host/kv.") => done(self.keep(method, read(params)?)),
            _ if method.starts_with("host/blob.") => self.blob(method, params),
            _ => Err(RpcError::of(ErrorKind::Unsupported, format!("this kernel has no {method}"))),
        }
    }

    fn sleep(&mut self, params: &SleepParams) -> Result<Value, RpcError> {
        self.slept += Duration::from_millis(params.ms);
        self.sleeps += 1;
        if self.sleeps > MOST_SLEEPS {
            return Err(RpcError::of(ErrorKind::Timeout, "the provider sleeps without end"));
        }
        done(SleepResult { woken: "time".to_owned() })
    }

    fn keep(&mut self, method: &str, params: KvParams) -> KvResult {
        let KvParams { key, value, .. } = params;
        let mut result = KvResult::default();
        match (method, value) {
            (callback::KV_GET, _) => result.value = self.kept.get(&key).cloned(),
            (callback::KV_PUT, Some(value)) => drop(self.kept.insert(key, value)),
            (callback::KV_DELETE, _) => drop(self.kept.remove(&key)),
            _ => result.keys = self.kept.keys().filter(|k| k.starts_with(&key)).cloned().collect(),
        }
        result
    }

    fn blob(&mut self, method: &str, params: Value) -> Result<Value, RpcError> {
        let missing = || RpcError::of(ErrorKind::NotFound, "no such blob");
        let number = |name: &str| name.strip_prefix('b').and_then(|n| n.parse::<usize>().ok());
        match method {
            callback::BLOB_CREATE => {
                self.blobs.push(Vec::new());
                done(BlobFacts {
                    blob: format!("b{}", self.blobs.len() - 1),
                    size: 0,
                    sha256: None,
                })
            }
            callback::BLOB_WRITE => {
                let params: BlobWriteParams = read(params)?;
                let bytes = payload::unpack(params.text, params.b64)
                    .map_err(|what| RpcError::of(ErrorKind::InvalidRequest, what))?;
                let blob = number(&params.blob).and_then(|n| self.blobs.get_mut(n));
                blob.ok_or_else(missing)?.extend(bytes);
                Ok(json!({}))
            }
            callback::BLOB_SEAL => {
                let name = read::<BlobParams>(params)?.blob.ok_or_else(missing)?;
                let blob = number(&name).and_then(|n| self.blobs.get(n)).ok_or_else(missing)?;
                done(BlobFacts { size: blob.len() as u64, blob: name, sha256: None })
            }
            callback::BLOB_READ => {
                let params: BlobReadParams = read(params)?;
                let blob =
                    number(&params.blob).and_then(|n| self.blobs.get(n)).ok_or_else(missing)?;
                let from =
                    usize::try_from(params.off).map_or(blob.len(), |off| off.min(blob.len()));
                let most = usize::try_from(params.max).unwrap_or(payload::MAX_CHUNK);
                let piece = &blob[from..blob.len().min(from + most.min(payload::MAX_CHUNK))];
                let (text, b64) =
                    if piece.is_empty() { (None, None) } else { payload::pack(piece) };
                done(BlobBytes { text, b64 })
            }
            _ => Ok(json!({})),
        }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("resources", &self.resources).finish_non_exhaustive()
    }
}

/// The JSON of a lease's identity, for `desired`.
pub fn desired(lease_id: &str, slug: &str) -> Map<String, Value> {
    let name = format!("crabbox-{slug}");
    [("leaseId", lease_id), ("slug", slug), ("name", &name)]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect()
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, RpcError> {
    serde_json::from_value(value)
        .map_err(|e| RpcError::of(ErrorKind::InvalidRequest, e.to_string()))
}

fn done(result: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(result).map_err(|e| RpcError::of(ErrorKind::Internal, e.to_string()))
}

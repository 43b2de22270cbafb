//! What the kit answers when a plugin asks: a journal, values, blobs, time that costs nothing, canaries for secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{
    BlobBytes, BlobFacts, BlobParams, BlobReadParams, BlobWriteParams, callback,
};
use crabbox_wire::payload::{self, MAX_CHUNK};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::peer::{Outcome, fault};
use crate::service::Service;
use crate::tools::Tools;

/// What stands for every secret: it may go nowhere.
pub(crate) const CANARY: &str = "canary-7d1f0c9a-never-print-me";

pub(crate) type Answer = Result<Value, RpcError>;

/// The kernel's side of callbacks.
#[derive(Debug)]
pub(crate) struct Host {
    /// Resources that were recorded and not forgotten, by provider id.
    pub(crate) journal: BTreeMap<String, Value>,
    values: BTreeMap<String, String>,
    /// Where they are kept: they outlive a plugin's process.
    kept: PathBuf,
    blobs: BTreeMap<String, Vec<u8>>,
    /// Runs the tools that the plugin was granted, when no recording answers for them.
    tools: Tools,
    /// The world outside, as recorded.
    pub(crate) service: Service,
}

impl Host {
    pub(crate) fn new(bench: &Bench<'_>) -> Outcome<Self> {
        let service = match Service::new(bench) {
            Ok(service) => service,
            Err(why) => return fault("the grants of the manifest", "grants that make sense", why),
        };
        let tools = Tools::of(bench.subject);
        let kept = bench.subject.state.path().join("kv.json");
        let values = serde_json::from_slice(&std::fs::read(&kept).unwrap_or_default());
        let (journal, blobs, values) =
            (BTreeMap::new(), BTreeMap::new(), values.unwrap_or_default());
        Ok(Self { journal, values, kept, blobs, tools, service })
    }

    /// A sealed blob of these bytes.
    pub(crate) fn adopt(&mut self, bytes: Vec<u8>) -> String {
        let blob = format!("b{}", self.blobs.len() + 1);
        self.blobs.insert(blob.clone(), bytes);
        blob
    }

    fn save(&self) {
        // A value that could not be kept is missed by the check that asks for it.
        let _ = std::fs::write(&self.kept, json!(self.values).to_string());
    }

    /// The answer to one callback: a `result` or an `error` member.
    pub(crate) fn answer(&mut self, method: &str, params: &Value) -> (&'static str, Value) {
        let answer = match method {
            _ if method.starts_with("host/kv.") => self.keep(method, params),
            _ if method.starts_with("host/blob.") => self.blob(method, params),
            _ => self.recorded(method, params),
        };
        match answer {
            Ok(result) => ("result", result),
            Err(error) => ("error", serde_json::to_value(error).unwrap_or_default()),
        }
    }

    fn recorded(&mut self, method: &str, params: &Value) -> Answer {
        let resource = params["resource"].clone();
        let id = resource["cloudId"].as_str().unwrap_or_default().to_owned();
        match method {
            callback::RESOURCE_RECORD => {
                self.journal.insert(id, resource);
                Ok(json!({}))
            }
            callback::RESOURCE_FORGET => {
                self.journal.remove(&id);
                Ok(json!({}))
            }
            callback::SLEEP => Ok(json!({"woken": "time"})),
            callback::SECRET_REVEAL => {
                self.service.used.secrets.extend(params["name"].as_str().map(str::to_owned));
                Ok(json!({"value": CANARY}))
            }
            callback::EXEC if !self.service.is_recorded() => {
                let run = self.tools.run(&read(params)?);
                run.map_or_else(|(kind, what)| Err(RpcError::of(kind, what)), done)
            }
            _ => self.service.answer(method, params),
        }
    }

    fn keep(&mut self, method: &str, params: &Value) -> Answer {
        let text = |name: &str| params[name].as_str().unwrap_or_default().to_owned();
        Ok(match method {
            callback::KV_PUT => {
                self.values.insert(text("key"), text("value"));
                self.save();
                json!({})
            }
            callback::KV_DELETE => {
                self.values.remove(&text("key"));
                self.save();
                json!({})
            }
            callback::KV_LIST => {
                let prefix = text("key");
                let keys: Vec<_> = self.values.keys().filter(|k| k.starts_with(&prefix)).collect();
                json!({"keys": keys})
            }
            _ => match self.values.get(&text("key")) {
                Some(value) => json!({"value": value}),
                None => json!({}),
            },
        })
    }

    fn blob(&mut self, method: &str, params: &Value) -> Answer {
        let missing = || RpcError::of(ErrorKind::NotFound, "no such blob");
        match method {
            callback::BLOB_CREATE => {
                let blob = format!("b{}", self.blobs.len() + 1);
                self.blobs.insert(blob.clone(), Vec::new());
                done(BlobFacts { blob, size: 0, sha256: None })
            }
            callback::BLOB_WRITE => {
                let params: BlobWriteParams = read(params)?;
                let bytes = payload::unpack(params.text, params.b64)
                    .map_err(|what| RpcError::of(ErrorKind::InvalidRequest, what))?;
                self.blobs.get_mut(&params.blob).ok_or_else(missing)?.extend(bytes);
                Ok(json!({}))
            }
            callback::BLOB_READ => {
                let params: BlobReadParams = read(params)?;
                let all = self.blobs.get(&params.blob).ok_or_else(missing)?;
                let from = usize::try_from(params.off).unwrap_or(usize::MAX).min(all.len());
                let max = usize::try_from(params.max).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
                let bytes = &all[from..(from + max).min(all.len())];
                let (text, b64) =
                    if bytes.is_empty() { (None, None) } else { payload::pack(bytes) };
                done(BlobBytes { text, b64 })
            }
            callback::BLOB_SEAL => {
                let blob = read::<BlobParams>(params)?.blob.unwrap_or_default();
                let size = self.blobs.get(&blob).ok_or_else(missing)?.len() as u64;
                done(BlobFacts { blob, size, sha256: None })
            }
            _ => {
                let blob = read::<BlobParams>(params)?.blob.unwrap_or_default();
                self.blobs.remove(&blob);
                Ok(json!({}))
            }
        }
    }
}

pub(crate) fn read<T: DeserializeOwned>(params: &Value) -> Result<T, RpcError> {
    serde_json::from_value(params.clone())
        .map_err(|e| RpcError::of(ErrorKind::InvalidRequest, e.to_string()))
}

pub(crate) fn done(result: impl Serialize) -> Answer {
    serde_json::to_value(result).map_err(|e| RpcError::of(ErrorKind::Internal, e.to_string()))
}

/// An error object of the protocol.
pub(crate) fn error(kind: ErrorKind, message: &str) -> Value {
    json!({"code": kind.rpc_code(), "message": message, "data": {"kind": kind}})
}

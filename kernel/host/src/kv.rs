//! Small values a plugin keeps between sessions, in one JSON file of its private folder.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;

use crabbox_kernel::state::write_atomic;
use crabbox_net::open_plain;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{KvParams, KvResult, callback};
use serde::{Deserialize, Serialize};

use crate::broker::NowMs;
use crate::fault::refuse;
use crate::spawn::lock;

const MAX_VALUE: usize = 64 * 1024;
const MAX_ALL: usize = 1024 * 1024;
const MAX_KEY: usize = 256;
/// Most that is read of the file: every value, however it is escaped.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The values of one plugin.
pub(crate) struct Store {
    path: PathBuf,
    now_ms: NowMs,
    /// Held while the file is read, changed and replaced.
    turn: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
}

type All = BTreeMap<String, Kept>;

impl Store {
    pub(crate) fn new(path: PathBuf, now_ms: NowMs) -> Self {
        Self { path, now_ms, turn: Mutex::new(()) }
    }

    /// Answers `host/kv.*`.
    pub(crate) fn answer(&self, method: &str, params: KvParams) -> Result<KvResult, RpcError> {
        let _turn = lock(&self.turn);
        let mut all = self.load();
        let KvParams { key, value, ttl_ms, .. } = params;
        match method {
            callback::KV_GET => {
                return Ok(KvResult {
                    value: all.remove(&key).map(|kept| kept.value),
                    keys: vec![],
                });
            }
            callback::KV_LIST => {
                let keys = all.into_keys().filter(|name| name.starts_with(&key)).collect();
                return Ok(KvResult { value: None, keys });
            }
            callback::KV_DELETE => {
                all.remove(&key);
            }
            _ => {
                let value = value.ok_or_else(|| refuse(ErrorKind::InvalidRequest, "no value"))?;
                let until_ms = ttl_ms.map(|ttl| (self.now_ms)().saturating_add(ttl));
                put(&mut all, key, Kept { value, until_ms })?;
            }
        }
        self.save(&all)?;
        Ok(KvResult::default())
    }

    /// What is stored and not outdated; a file that cannot be read is an empty cache.
    fn load(&self) -> All {
        let now = (self.now_ms)();
        let mut bytes = Vec::new();
        // The plugin can write here too: neither a pipe nor a mountain of bytes must hold us up.
        let read =
            open_plain(&self.path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
        let mut all: All =
            read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        all.retain(|_, kept| kept.until_ms.is_none_or(|until| until > now));
        all
    }

    fn save(&self, all: &All) -> Result<(), RpcError> {
        let internal = |what: String| refuse(ErrorKind::Internal, what);
        let bytes = serde_json::to_vec(all).map_err(|e| internal(e.to_string()))?;
        write_atomic(&self.path, &bytes).map_err(|e| internal(e.to_string()))
    }
}

fn put(all: &mut All, key: String, kept: Kept) -> Result<(), RpcError> {
    if key.len() > MAX_KEY || kept.value.len() > MAX_VALUE {
        return Err(refuse(ErrorKind::Quota, "a value may have 64 KiB and a key 256 bytes"));
    }
    all.insert(key, kept);
    if all.iter().map(|(key, kept)| key.len() + kept.value.len()).sum::<usize>() > MAX_ALL {
        return Err(refuse(ErrorKind::Quota, "all values together may have 1 MiB"));
    }
    Ok(())
}

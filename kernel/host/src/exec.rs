//! Runs tools named in a plugin's grants: absolute path found once, own process group, bounded output.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_kernel::lease::trail::Trail;
use crabbox_net::Vault;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{ExecParams, ExecResult, SecretText};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fault::refuse;
use crate::process::Process;
use crate::spawn::{self, Group, Program, lock};

/// Bytes kept of each output.
const TAIL: usize = 256 * 1024;
/// Longest a tool may run, whatever it asks for.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// The same for one that is talked with; its call ends earlier.
const MAX_OPEN: Duration = Duration::from_secs(7 * 86_400);
/// How long output is read after the tool ended.
const DRAIN: Duration = Duration::from_millis(200);

/// The tools of one plugin.
pub(crate) struct Tools {
    /// Where they are looked for: the user's search path.
    pub(crate) path: String,
    pub(crate) env: BTreeMap<String, OsString>,
    pub(crate) cwd: PathBuf,
    pub(crate) found: Mutex<HashMap<String, PathBuf>>,
    /// Names of the tools the plugin may run, and paths of those the user's settings name.
    pub(crate) granted: Vec<String>,
    /// The user's home, for `~/`.
    pub(crate) home: PathBuf,
    /// Where a tool runs that works on the user's tree, and where the keys of leases are: for plugins with these powers.
    pub(crate) checkout: Option<PathBuf>,
    pub(crate) keys: Option<Keys>,
}

/// The keys of a plugin's own leases.
pub(crate) struct Keys {
    /// A folder for each lease.
    pub(crate) folder: PathBuf,
    /// Where trails say whose a lease is.
    pub(crate) journal: PathBuf,
    /// The plugin's id.
    pub(crate) plugin: String,
}

/// The argument that stands for the path of a lease's private key.
const LEASE_KEY: &str = "{lease-key}";

/// Names that change what a tool is, not what it does.
const KEPT: &[&str] = &["PATH", "HOME", "IFS", "ENV", "BASH_ENV"];
/// Names that begin like this make the loader run something else.
const LOADER: &[&str] = &["LD_", "DYLD_"];

/// Kills a process group when it is dropped.
pub(crate) struct KillOnDrop(pub(crate) Arc<Group>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}

impl Tools {
    /// Runs a tool to its end or to its time limit.
    pub(crate) async fn run(
        &self,
        vault: &Arc<Vault>,
        params: ExecParams,
    ) -> Result<ExecResult, RpcError> {
        let running = self.start(vault, &params).await?;
        let _guard = KillOnDrop(Arc::clone(&running.group));
        let limit = limit(&params);
        let result = timeout(limit, finish(running, params.stdin)).await.map_err(|_| {
            let message = format!("{} ran longer than {} ms", params.tool, limit.as_millis());
            refuse(ErrorKind::Timeout, message)
        })?;
        let redactor = vault.redactor();
        let clean = |text: &str| redactor.text(text).into_owned();
        Ok(ExecResult { stdout: clean(&result.stdout), stderr: clean(&result.stderr), ..result })
    }

    /// Starts a tool to talk with; what is given as its input is written first.
    pub(crate) async fn open(
        &self,
        vault: &Arc<Vault>,
        params: ExecParams,
    ) -> Result<Process, RpcError> {
        let running = self.start(vault, &params).await?;
        let limit = Duration::from_millis(params.timeout_ms).min(MAX_OPEN);
        Ok(Process::new(running, params.stdin.unwrap_or_default(), limit, Arc::clone(vault)))
    }

    async fn start(&self, vault: &Vault, params: &ExecParams) -> Result<spawn::Running, RpcError> {
        let tool = &params.tool;
        if !self.granted.contains(tool) {
            let message = format!("the manifest asks for no tool called {tool}");
            return Err(refuse(ErrorKind::GrantDenied, message));
        }
        let redactor = vault.redactor();
        if params.args.iter().any(|arg| redactor.finds(arg)) {
            let message = "a secret stands in no argument, which others can read: use `env`";
            return Err(refuse(ErrorKind::GrantDenied, message));
        }
        let path = self.find(tool).ok_or_else(|| {
            let message = match tool.contains('/') {
                true => format!("{tool} is not a program with an absolute path"),
                false => format!("{tool} is not installed (looked in {})", self.path),
            };
            refuse(ErrorKind::Unsupported, message)
        })?;
        let cwd = match (&self.checkout, params.checkout) {
            (_, false) => self.cwd.clone(),
            (Some(checkout), true) => checkout.clone(),
            (None, true) => return Err(powerless("checkout")),
        };
        let args = self.args(params)?;
        let mut env = self.env.clone();
        for (name, value) in &params.env {
            if !may_set(name) {
                let message = format!("{name:?} may not be set for a tool");
                return Err(refuse(ErrorKind::GrantDenied, message));
            }
            let value = match value {
                SecretText::Plain(text) => text.into(),
                SecretText::Secret(name) => vault.lend(name).await?.expose().into(),
            };
            env.insert(name.clone(), value);
        }
        spawn::start(Program { path, args, env, cwd, confined: None })
            .await
            .map_err(|e| refuse(ErrorKind::Unsupported, format!("{tool} cannot be started: {e}")))
    }

    /// The arguments, with the path of the lease's key where that is meant.
    fn args(&self, params: &ExecParams) -> Result<Vec<String>, RpcError> {
        let Some(lease) = &params.lease_key else { return Ok(params.args.clone()) };
        let keys = self.keys.as_ref().ok_or_else(|| powerless("lease-key"))?;
        let file = keys.folder.join(lease.as_str()).join("id_ed25519");
        let own = || Trail::plugin(&keys.journal, lease).is_some_and(|pin| pin.id == keys.plugin);
        if !lease.is_canonical() || !own() || !file.is_file() {
            let message = format!("there is no lease {lease} of this plugin with a key here");
            return Err(refuse(ErrorKind::Precondition, message));
        }
        let file = file.to_string_lossy().into_owned();
        let put = |arg: &String| if arg == LEASE_KEY { file.clone() } else { arg.clone() };
        Ok(params.args.iter().map(put).collect())
    }

    fn find(&self, tool: &str) -> Option<PathBuf> {
        let mut found = lock(&self.found);
        if let Some(path) = found.get(tool) {
            return Some(path.clone());
        }
        let path = match tool.strip_prefix("~/") {
            Some(rest) => Some(self.home.join(rest)).filter(|path| is_executable(path))?,
            None => std::env::split_paths(&self.path)
                .filter(|dir| dir.is_absolute() && (!tool.contains('/') || tool.starts_with('/')))
                .map(|dir| dir.join(tool))
                .find(|path| is_executable(path))?,
        };
        found.insert(tool.to_owned(), path.clone());
        Some(path)
    }
}

fn powerless(power: &str) -> RpcError {
    refuse(ErrorKind::GrantDenied, format!("the manifest does not ask for the power `{power}`"))
}

fn limit(params: &ExecParams) -> Duration {
    Duration::from_millis(params.timeout_ms).min(MAX_TIME)
}

fn may_set(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty()
        && name.chars().all(plain)
        && !KEPT.contains(&name)
        && !LOADER.iter().any(|begin| name.starts_with(begin))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

async fn finish(running: spawn::Running, input: Option<String>) -> ExecResult {
    let spawn::Running { mut stdin, mut stdout, mut stderr, group } = running;
    let feed = async move {
        // A tool need not read all of its input.
        let _ = stdin.write_all(input.unwrap_or_default().as_bytes()).await;
    };
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let exit = {
        let reading = async { tokio::join!(feed, out.read(&mut stdout), err.read(&mut stderr)) };
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            _ = &mut reading => group.ended().await,
            exit = group.ended() => {
                let _ = timeout(DRAIN, &mut reading).await; // a stray grandchild may hold the pipe
                exit
            }
        }
    };
    let truncated = out.cut || err.cut;
    ExecResult { exit_code: exit.code, stdout: out.text(), stderr: err.text(), truncated }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            self.bytes.extend(&buffer[..n]);
            let excess = self.bytes.len().saturating_sub(TAIL);
            self.cut |= excess > 0;
            self.bytes.drain(..excess);
        }
    }

    fn text(mut self) -> String {
        String::from_utf8_lossy(self.bytes.make_contiguous()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(lease: &str) -> ExecParams {
        let args = ["-i", LEASE_KEY, "x{lease-key}"];
        let wanted =
            json!({"call": 1, "tool": "t", "args": args, "leaseKey": lease, "timeoutMs": 1});
        serde_json::from_value(wanted).unwrap()
    }

    #[test]
    fn the_path_of_a_leases_key_is_put_in_only_with_the_power_and_only_of_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cbx_0123456789ab");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("id_ed25519"), "").unwrap();
        let tools = |keys: Option<Keys>| Tools {
            path: String::new(),
            env: BTreeMap::new(),
            cwd: dir.path().to_owned(),
            found: Mutex::default(),
            granted: vec![],
            home: dir.path().to_owned(),
            checkout: None,
            keys,
        };
        let journal = dir.path().join("journal");
        std::fs::create_dir(&journal).unwrap();
        let intent = json!({"type": "intent", "at": "2026-01-01T00:00:00Z", "desired": {"leaseId":
            "cbx_0123456789ab", "slug": "a-b", "name": "n"}, "provider": "p", "plugin": {"id":
            "a/own", "version": "1.0.0", "digest": "sha256:x"}, "idem": "k", "repoRoot": "/", "keep": false,
            "pid": 1});
        std::fs::write(journal.join("cbx_0123456789ab.jsonl"), format!("{intent}\n")).unwrap();
        let of = |plugin: &str| {
            let (folder, plugin) = (dir.path().to_owned(), plugin.to_owned());
            tools(Some(Keys { folder, journal: journal.clone(), plugin }))
        };
        let granted = of("a/own");
        let file = folder.join("id_ed25519").display().to_string();
        let args = granted.args(&asked("cbx_0123456789ab")).unwrap();
        assert_eq!(args, ["-i", &file, "x{lease-key}"]);
        let kind = |tools: &Tools, lease: &str| {
            tools.args(&asked(lease)).unwrap_err().data.map(|data| data.kind)
        };
        assert_eq!(kind(&granted, "cbx_0123456789ff"), Some(ErrorKind::Precondition));
        assert_eq!(kind(&granted, "static_host"), Some(ErrorKind::Precondition));
        assert_eq!(kind(&of("b/other"), "cbx_0123456789ab"), Some(ErrorKind::Precondition));
        assert_eq!(kind(&tools(None), "cbx_0123456789ab"), Some(ErrorKind::GrantDenied));
    }
}

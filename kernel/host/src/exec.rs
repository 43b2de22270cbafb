//! Runs tools named in a plugin's grants: absolute path found once, own process group, bounded output.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{ExecParams, ExecResult};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fault::refuse;
use crate::spawn::{self, Group, Program, lock};

/// Bytes kept of each output.
const TAIL: usize = 256 * 1024;
/// Longest a tool may run, whatever it asks for.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// How long output is read after the tool ended.
const DRAIN: Duration = Duration::from_millis(200);

/// The tools of one plugin.
pub(crate) struct Tools {
    /// Where they are looked for: the user's search path.
    pub(crate) path: String,
    pub(crate) env: BTreeMap<String, OsString>,
    pub(crate) cwd: PathBuf,
    pub(crate) found: Mutex<HashMap<String, PathBuf>>,
}

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
        granted: &[String],
        params: ExecParams,
    ) -> Result<ExecResult, RpcError> {
        let tool = params.tool;
        if !granted.contains(&tool) || tool.contains('/') {
            let message = format!("the manifest asks for no tool called {tool}");
            return Err(refuse(ErrorKind::GrantDenied, message));
        }
        let path = self.find(&tool).ok_or_else(|| {
            refuse(
                ErrorKind::Unsupported,
                format!("{tool} is not installed (looked in {})", self.path),
            )
        })?;
        let (env, cwd) = (self.env.clone(), self.cwd.clone());
        let running =
            spawn::start(Program { path, args: params.args, env, cwd }).await.map_err(|e| {
                refuse(ErrorKind::Unsupported, format!("{tool} cannot be started: {e}"))
            })?;
        let _guard = KillOnDrop(Arc::clone(&running.group));
        let limit = Duration::from_millis(params.timeout_ms).min(MAX_TIME);
        timeout(limit, finish(running, params.stdin)).await.map_err(|_| {
            refuse(ErrorKind::Timeout, format!("{tool} ran longer than {} ms", limit.as_millis()))
        })
    }

    fn find(&self, tool: &str) -> Option<PathBuf> {
        let mut found = lock(&self.found);
        if let Some(path) = found.get(tool) {
            return Some(path.clone());
        }
        let path = std::env::split_paths(&self.path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(tool))
            .find(|path| is_executable(path))?;
        found.insert(tool.to_owned(), path.clone());
        Some(path)
    }
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

//! A command as the helper starts it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use crabbox_schemas::helper::{self, Blob, RunSpec, Terminal};
use crabbox_wire::payload;

use crate::plan::Plan;
use crate::run::command::{Action, Command};
use crate::sync::flight::Launch;

/// The command of a run, with its script when it has one.
pub(super) fn launch(command: &Command, plan: &Plan) -> Launch {
    let (action, script) = match &command.action {
        Action::Exec(words) => (helper::Action::Exec(blobs(words)), None),
        Action::Shell(text) => (helper::Action::Shell(blob(text)), None),
        Action::Script { body, args } => {
            (helper::Action::Script(blobs(args)), Some(Bytes::from(body.clone())))
        }
    };
    let env: BTreeMap<String, Blob> =
        command.env.iter().map(|(name, value)| (name.clone(), blob(value))).collect();
    let pty = command.pty.as_ref().map(|pty| Terminal {
        term: pty.term.clone(),
        columns: pty.columns,
        rows: pty.rows,
    });
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let spec = RunSpec {
        run_id: plan.run_id.to_string(),
        action,
        env,
        pty,
        stdin: !plan.detach,
        timeout_ms: plan.timeout.map(ms),
        spool_bytes: plan.spool_bytes,
    };
    Launch { spec, script }
}

fn blobs(words: &[impl AsRef<OsStr>]) -> Vec<Blob> {
    words.iter().map(|word| blob(word.as_ref())).collect()
}

fn blob(text: &OsStr) -> Blob {
    match payload::pack(text.as_bytes()) {
        (Some(text), _) => Blob::Text(text),
        (None, b64) => Blob::Bytes { b64: b64.unwrap_or_default() },
    }
}

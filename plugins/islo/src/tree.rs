//! The archive of the tree, on its way into the sandbox.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::{Call, ErrorKind, Failure, Level, Part, Repeat, Workspace};

use crate::api::Api;
use crate::sandboxes::path;

/// Bytes of the archive in one command, when it has to go that way: an argument has 128 KiB.
const PIECE: usize = 48 * 1024;

/// Appends a piece of the archive.
const APPEND: &str = r#"printf %s "$2" | base64 -d >>"$1""#;

/// Sends the archive whole, else in pieces.
pub(crate) fn send<S: Fn(&str, &[&str]) -> Result<String, Failure>>(
    api: &Api,
    workspace: &Workspace<'_, S>,
    blob: &str,
) -> Result<(), Failure> {
    let call = workspace.call;
    match upload(api, call, &workspace.params.lease.cloud_id, &workspace.tree, blob) {
        Err(failure) if has_other_way(&failure) => {
            let message = format!("the archive goes in pieces: {}", failure.message());
            call.log(Level::Info, &message);
            in_pieces(workspace, blob)?;
            workspace.unpack()
        }
        sent => sent,
    }
}

/// Sends the archive whole; Islo unpacks it. The host reads it from its own disk.
fn upload(api: &Api, call: &Call, sandbox: &str, tree: &str, blob: &str) -> Result<(), Failure> {
    let url = format!("{}/files-archive", path(sandbox));
    let part = Part {
        name: "file".to_owned(),
        text: None,
        blob: Some(blob.to_owned()),
        file_name: Some("archive.tar.gz".to_owned()),
        content_type: Some("application/gzip".to_owned()),
    };
    api.ask(call, "POST", &url, Repeat::Never, |request| {
        let time = call.time_left();
        request.query("path", tree).multipart(vec![part.clone()]).timeout(time)
    })
    .map(drop)
}

/// Whether the archive may be taken in pieces by commands instead: where Islo's way for archives fails, commands
/// often work.
fn has_other_way(failure: &Failure) -> bool {
    let kinds = [ErrorKind::Transient, ErrorKind::InvalidRequest, ErrorKind::Timeout];
    kinds.contains(&failure.kind())
}

fn in_pieces<S: Fn(&str, &[&str]) -> Result<String, Failure>>(
    workspace: &Workspace<'_, S>,
    blob: &str,
) -> Result<(), Failure> {
    let place = workspace.archive();
    (workspace.sh)(r#"rm -f "$1""#, &[&place])?;
    let mut archive = workspace.call.read_blob(blob);
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        workspace.call.check()?;
        piece.clear();
        let unreadable = |e| Failure::internal("the archive cannot be read").because(&e);
        (&mut archive).take(PIECE as u64).read_to_end(&mut piece).map_err(unreadable)?;
        if piece.is_empty() {
            return Ok(());
        }
        (workspace.sh)(APPEND, &[&place, &STANDARD.encode(&piece)])?;
    }
}

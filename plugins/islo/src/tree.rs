//! The tree in the sandbox: proven to be there, or cleared and sent anew.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::{Call, ErrorKind, Failure, Level, Part, Progress, Repeat, RunStartParams};

use crate::api::Api;
use crate::exec::Exec;
use crate::sandbox::path;

/// What the box says when it holds the tree, and when a run of before has not ended.
const SAME: &str = "same";
const BUSY: &str = "busy";
/// Bytes of the archive in one command, when it has to go that way: an argument has 128 KiB.
const PIECE: usize = 48 * 1024;

/// Says which run goes on there, if one does: the tree is its own. Else what time it is, and `same` when every file that was sent for this digest is as it was left then, by name, size, times, inode and
/// mode. Else it makes room: nothing is remembered of the old tree, and with `clear` nothing is left of it.
const LOOK: &str = r#"d=$1 c=$2 want=$3 clear=$4
for f in "$c"/run_*.pid; do
  p=$(cat "$f" 2>/dev/null); case $p in ''|*[!0-9]*) continue;; esac
  if kill -0 "-$p" 2>/dev/null; then r=${f##*/}; echo "busy ${r%.pid}"; exit 0; fi
done
if [ -n "$want" ] && [ "$(cat "$c/digest" 2>/dev/null)" = "$want" ] && cd "$d" 2>/dev/null &&
   xargs -0 -r stat -c '%n %s %y %z %i %f' <"$c/list" 2>/dev/null | cmp -s - "$c/stats"; then
  echo "same $(date +%s)"; exit 0
fi
cd / && rm -f "$c/digest" "$c/list" "$c/stats" && mkdir -p "$c" "$d" || exit 1
[ "$clear" = keep ] || find "$d" -mindepth 1 -maxdepth 1 -exec rm -rf {} + || exit 1
echo "other $(date +%s)""#;

/// Unpacks the archive that came in pieces.
const UNPACK: &str = r#"tar -xzf "$2/tree.tgz" -C "$1" && rm -f "$2/tree.tgz""#;

/// Appends a piece of the archive.
const APPEND: &str = r#"printf %s "$2" | base64 -d >>"$1/tree.tgz""#;

/// How the tree came to be there.
#[derive(Default)]
pub(crate) struct Placed {
    /// What the run has to note of the tree when it starts: its digest, once it was sent.
    pub(crate) note: Option<String>,
    /// Seconds since 1970 there, when it was asked.
    pub(crate) now: Option<u64>,
}

/// Brings the tree into the sandbox. Without an archive nothing is touched.
pub(crate) fn bring(api: &Api, call: &Call, params: &RunStartParams) -> Result<Placed, Failure> {
    let Some(blob) = &params.workspace_blob else { return Ok(Placed::default()) };
    let sandbox = &params.lease.cloud_id;
    let (tree, notes) = (api.config.tree(), api.config.notes());
    let step = |phase| call.progress(&Progress { phase, ..Progress::default() });
    step("compare");
    let digest = params.workspace_digest.as_deref().unwrap_or_default();
    let clear = if params.workspace_keeps { "keep" } else { "clear" };
    let seen = Exec::sh(sandbox, LOOK, &[&tree, &notes, digest, clear]).step(api, call)?;
    let (said, now) = seen.trim().split_once(' ').unwrap_or((seen.trim(), ""));
    if said == BUSY {
        let what = format!("{now} has not ended in {sandbox}: nobody waits for it any more");
        return Err(Failure::conflict(what).hint(
            "wait until it has, use another box, or give this one back with `crabbox stop`",
        ));
    }
    let now = now.parse().ok();
    if said == SAME {
        in_place(call, Some("unchanged"));
        return Ok(Placed { note: None, now });
    }
    step("upload");
    match upload(api, call, sandbox, &tree, blob) {
        Ok(()) => {}
        Err(failure) if has_other_way(&failure) => {
            let message = format!("the archive goes in pieces: {}", failure.message());
            call.log(Level::Info, &message);
            in_pieces(api, call, sandbox, blob)?;
            step("unpack");
            Exec::sh(sandbox, UNPACK, &[&tree, &notes]).step(api, call)?;
        }
        Err(failure) => return Err(failure),
    }
    in_place(call, None);
    Ok(Placed { note: params.workspace_digest.clone(), now })
}

fn in_place(call: &Call, message: Option<&str>) {
    call.progress(&Progress { phase: "workspace", done: Some(1), total: Some(1), message });
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

fn in_pieces(api: &Api, call: &Call, sandbox: &str, blob: &str) -> Result<(), Failure> {
    let notes = api.config.notes();
    Exec::sh(sandbox, r#"rm -f "$1/tree.tgz""#, &[&notes]).step(api, call)?;
    let mut archive = call.read_blob(blob);
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        call.check()?;
        piece.clear();
        let unreadable = |e| Failure::internal("the archive cannot be read").because(&e);
        (&mut archive).take(PIECE as u64).read_to_end(&mut piece).map_err(unreadable)?;
        if piece.is_empty() {
            return Ok(());
        }
        Exec::sh(sandbox, APPEND, &[&notes, &STANDARD.encode(&piece)]).step(api, call)?;
    }
}

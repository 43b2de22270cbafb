//! The tree and the command of a provider that runs commands itself, in steps that any POSIX sh can take.
//!
//! The tree is proven to be there or sent anew; the command starts at most once, in a session of its own, and ends when
//! it is told to. How a step gets into the box and how output comes back is the provider's.

use std::time::{Duration, Instant};

use crate::{
    Call, Channel, ErrorKind, Failure, Outcome, Output, Progress, RunStartParams, RunStartResult,
};

/// What the box says when it holds the tree, and when a run of before has not ended.
const SAME: &str = "same";
const BUSY: &str = "busy";
/// How long one look at the output may wait; a cancel ends it early.
const WAIT: Duration = Duration::from_secs(30);
/// How long the last output and the exit status may take once the command was stopped.
const LAST: Duration = Duration::from_secs(5);

/// Says which run goes on there, if one does: the tree is its own. Else what time it is, and `same` when every file
/// that was sent for this digest is as it was left then, by name, size, times, inode and mode. Else it makes room:
/// nothing is remembered of the old tree, and with `clear` nothing is left of it.
const LOOK: &str = r#"d=$1 c=$2 want=$3 clear=$4
for f in "$c"/run_*.pid; do
  p=$(cat "$f" 2>/dev/null); case $p in ''|*[!0-9]*) continue;; esac
  if kill -0 "-$p" 2>/dev/null; then r=${f##*/}; echo "busy ${r%.pid}"; exit 0; fi
done
if [ -n "$want" ] && [ "$(cat "$c/digest" 2>/dev/null)" = "$want" ] && cd "$d" 2>/dev/null &&
   xargs -0 -r stat -c '%n %s %y %z %i %f' <"$c/list" 2>/dev/null | cmp -s - "$c/stats"; then
  echo "same $(date +%s)"; exit 0
fi
cd / && rm -f "$c/digest" "$c/list" "$c/stats" && mkdir -p "$c" "$d" && chmod 700 "$c" || exit 1
[ "$clear" = keep ] || find "$d" -mindepth 1 -maxdepth 1 -exec rm -rf {} + || exit 1
echo "other $(date +%s)""#;

/// Unpacks the archive that lies beside the tree.
const UNPACK: &str = r#"tar -xzf "$2/tree.tgz" -C "$1" && rm -f "$2/tree.tgz""#;

/// Starts the command in the tree's folder, in a session of its own whose id is noted, unless a run of this name was
/// started or stopped before. `note` is the digest of a tree that was just sent: first everything that proves it later
/// is noted.
const START: &str = r#"d=$1 c=$2 r=$3 note=$4; shift 4
mkdir -p "$d" "$c" && cd "$d" || exit 126
if [ -n "$note" ]; then
  find . ! -type d -print0 >"$c/list" &&
  xargs -0 -r stat -c '%n %s %y %z %i %f' <"$c/list" >"$c/stats" && printf %s "$note" >"$c/digest"
fi 2>/dev/null
if ! (set -C; : >"$c/$r.pid") 2>/dev/null; then
  echo 'crabbox: this run was started or stopped before' >&2; exit 126
fi
if command -v setsid >/dev/null 2>&1; then own=setsid; else own=; fi
$own sh -c 'echo $$ >"$1"; shift; exec "$@"' sh "$c/$r.pid" "$@" </dev/null
s=$?; echo ended >"$c/$r.pid"; exit $s"#;

/// Ends the run's whole session, kindly and then not; a run that has not started never will.
const STOP: &str = r#"c=$1 f=$1/$2.pid
mkdir -p "$c"
(set -C; echo stopped >"$f") 2>/dev/null && exit 0
nap() { sleep 0.1 2>/dev/null || sleep 1; }
i=0; while [ ! -s "$f" ] && [ $i -lt 20 ]; do i=$((i+1)); nap; done
p=$(cat "$f" 2>/dev/null)
case $p in ''|*[!0-9]*) exit 0;; esac
for s in TERM KILL; do
  kill -$s "-$p" 2>/dev/null || kill -$s "$p" 2>/dev/null || exit 0
  i=0; while [ $i -lt 30 ] && { kill -0 "-$p" 2>/dev/null || kill -0 "$p" 2>/dev/null; }; do i=$((i+1)); nap; done
done
exit 0"#;

/// One piece of news of a command in a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It printed.
    Stdout(Vec<u8>),
    /// It complained.
    Stderr(Vec<u8>),
    /// It ended.
    Exit(i32),
    /// Nothing that matters.
    Nothing,
}

/// A command in a box that was started.
pub trait RemoteCommand {
    /// What comes next; none when nothing came in time. Without an exit status its end is an error.
    fn next(&mut self, wait: Duration) -> Result<Option<Said>, Failure>;
}

/// How the tree came to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// What the run has to note of the tree when it starts: its digest, once it was sent.
    pub note: Option<String>,
    /// Seconds since 1970 there, when it was asked.
    pub now: Option<u64>,
}

/// One run's folders in a box, and the way to take a small step there.
pub struct Workspace<'a, S> {
    /// The run.
    pub call: &'a Call,
    /// What is to run.
    pub params: &'a RunStartParams,
    /// The folder that holds the tree.
    pub tree: String,
    /// The folder beside it for what crabbox notes.
    pub notes: String,
    /// Runs a small program for sh with arguments; what it printed, when it succeeded.
    pub sh: S,
}

impl<S: Fn(&str, &[&str]) -> Result<String, Failure>> Workspace<'_, S> {
    /// Brings the tree into the box, when it does not prove that it has it. `send` takes the archive's blob. Without
    /// an archive nothing is touched. When this fails, nothing has run.
    pub fn bring(&self, send: impl FnOnce(&str) -> Result<(), Failure>) -> Result<Placed, Failure> {
        self.brought(send).map_err(|failure| failure.outcome(Outcome::NotStarted))
    }

    fn brought(&self, send: impl FnOnce(&str) -> Result<(), Failure>) -> Result<Placed, Failure> {
        let params = self.params;
        let Some(blob) = &params.workspace_blob else { return Ok(Placed::default()) };
        self.step("compare");
        let digest = params.workspace_digest.as_deref().unwrap_or_default();
        let clear = if params.workspace_keeps { "keep" } else { "clear" };
        let seen = (self.sh)(LOOK, &[&self.tree, &self.notes, digest, clear])?;
        let (said, now) = seen.trim().split_once(' ').unwrap_or((seen.trim(), ""));
        if said == BUSY {
            let what = format!("{now} has not ended in {}", params.lease.cloud_id);
            return Err(Failure::conflict(format!("{what}: nobody waits for it any more")).hint(
                "wait until it has, use another box, or give this one back with `crabbox stop`",
            ));
        }
        let now = now.parse().ok();
        if said == SAME {
            self.in_place(Some("unchanged"));
            return Ok(Placed { note: None, now });
        }
        self.step("upload");
        send(blob)?;
        self.in_place(None);
        self.call.check()?;
        Ok(Placed { note: params.workspace_digest.clone(), now })
    }

    /// Where an archive goes that is unpacked by [`unpack`](Self::unpack).
    pub fn archive(&self) -> String {
        format!("{}/tree.tgz", self.notes)
    }

    /// Unpacks the archive that was put beside the tree.
    pub fn unpack(&self) -> Result<(), Failure> {
        self.step("unpack");
        (self.sh)(UNPACK, &[&self.tree, &self.notes]).map(drop)
    }

    fn step(&self, phase: &str) {
        self.call.progress(&Progress { phase, ..Progress::default() });
    }

    fn in_place(&self, message: Option<&str>) {
        let (done, total) = (Some(1), Some(1));
        self.call.progress(&Progress { phase: "workspace", done, total, message });
    }

    /// Runs the command to its end, or until it is told to end. `begin` starts these words, once.
    pub fn run<C: RemoteCommand>(
        &self,
        placed: &Placed,
        output: &Output<'_>,
        begin: impl FnOnce(Vec<String>) -> Result<C, Failure>,
    ) -> Result<RunStartResult, Failure> {
        let params = self.params;
        self.call.check().map_err(|failure| failure.outcome(Outcome::NotStarted))?;
        let note = placed.note.as_deref().unwrap_or_default();
        let ours = ["sh", "-c", START, "crabbox", &self.tree, &self.notes, &params.run_id, note];
        let words = ours.into_iter().map(str::to_owned).chain(params.command.clone()).collect();
        let mut command = begin(words).map_err(maybe_begun)?;
        let limit =
            params.timeout_secs.map(|secs| (secs, Instant::now() + Duration::from_secs(secs)));
        loop {
            match relayed(command.next(WAIT), output) {
                Ok(Some(exit_code)) => return Ok(RunStartResult { exit_code, signal: None }),
                Ok(None) => {}
                Err(failure) if failure.kind() == ErrorKind::Cancelled => {
                    return Err(self.ended(&mut command, output, None));
                }
                Err(failure) => return Err(failure),
            }
            match limit {
                _ if self.call.cancelled() => return Err(self.ended(&mut command, output, None)),
                Some((secs, end)) if Instant::now() >= end => {
                    return Err(self.ended(&mut command, output, Some(secs)));
                }
                _ => {}
            }
        }
    }

    /// Ends the command, hears it out, and says what became of it.
    fn ended(
        &self,
        command: &mut impl RemoteCommand,
        output: &Output<'_>,
        limit: Option<u64>,
    ) -> Failure {
        let stopped = (self.sh)(STOP, &[&self.notes, &self.params.run_id]).is_ok();
        let until = Instant::now() + LAST;
        while Instant::now() < until {
            match relayed(command.next(Duration::from_millis(500)), output) {
                Ok(None) => {}
                Err(failure) if failure.kind() == ErrorKind::Cancelled => {}
                Ok(Some(_)) | Err(_) => break,
            }
        }
        let outcome = if stopped { Outcome::Completed } else { Outcome::Uncertain };
        let what = if stopped { "was stopped" } else { "could not be stopped" };
        match limit {
            None => Failure::cancelled(format!("the command {what}"), outcome),
            Some(secs) => {
                Failure::timeout(format!("the command {what} after {secs} s")).outcome(outcome)
            }
        }
    }
}

/// A start that was refused did not happen; of any other failure nobody knows.
fn maybe_begun(failure: Failure) -> Failure {
    match failure.kind() {
        ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Cancelled => {
            let outcome = failure.data().outcome.unwrap_or(Outcome::Uncertain);
            failure.outcome(outcome)
        }
        _ => failure.outcome(Outcome::NotStarted),
    }
}

/// Passes on what was said; the exit status, when that is it.
fn relayed(
    said: Result<Option<Said>, Failure>,
    output: &Output<'_>,
) -> Result<Option<i32>, Failure> {
    match said? {
        Some(Said::Stdout(bytes)) => output.write(Channel::Stdout, &bytes)?,
        Some(Said::Stderr(bytes)) => output.write(Channel::Stderr, &bytes)?,
        Some(Said::Exit(code)) => return Ok(Some(code)),
        Some(Said::Nothing) | None => {}
    }
    Ok(None)
}

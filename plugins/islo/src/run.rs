//! One run: the tree, then the command, which starts at most once and ends when it is told to.

use std::time::{Duration, Instant};

use crabbox_plugin_sdk::{
    Call, Channel, ErrorKind, Failure, HttpStream, LeaseId, Outcome, Output, RunStartParams,
    RunStartResult,
};
use serde_json::json;

use crate::api::Api;
use crate::exec::{Exec, Said, next, next_of_command};
use crate::sandbox::touch;
use crate::tree;

/// How long the last output and the exit status may take once the command was stopped.
const LAST: Duration = Duration::from_secs(5);

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

/// Why a command is ended before its time.
enum Ending {
    Cancelled,
    TimeOut(u64),
}

pub(crate) fn run(
    api: &Api,
    call: &Call,
    params: &RunStartParams,
    output: &Output<'_>,
) -> Result<RunStartResult, Failure> {
    // Nothing ran yet, whatever goes wrong until here.
    let placed = tree::bring(api, call, params).map_err(|f| f.outcome(Outcome::NotStarted))?;
    call.check().map_err(|failure| failure.outcome(Outcome::NotStarted))?;
    let (tree, notes) = (api.config.tree(), api.config.notes());
    let note = placed.note.unwrap_or_default();
    let _use = placed.now.map(|now| InUse::begin(call, &params.lease.lease_id, now));
    let ours = ["sh", "-c", START, "crabbox", &tree, &notes, &params.run_id, &note];
    let words: Vec<&str> =
        ours.into_iter().chain(params.command.iter().map(String::as_str)).collect();
    let mut body = json!({ "command": words, "env": params.env });
    if let Some(secs) = params.timeout_secs {
        body["timeout_secs"] = secs.into();
    }
    let exec = Exec { sandbox: &params.lease.cloud_id, body };
    let mut stream = exec.begin(api, call).map_err(maybe_begun)?;
    let until = params.timeout_secs.map(|secs| (secs, Instant::now() + Duration::from_secs(secs)));
    let ending = loop {
        match relayed(next_of_command(&mut stream), output) {
            Ok(Some(exit_code)) => return Ok(RunStartResult { exit_code, signal: None }),
            Ok(None) => {}
            Err(failure) if failure.kind() == ErrorKind::Cancelled => break Ending::Cancelled,
            Err(failure) => return Err(failure),
        }
        match until {
            _ if call.cancelled() => break Ending::Cancelled,
            Some((secs, end)) if Instant::now() >= end => break Ending::TimeOut(secs),
            _ => {}
        }
    };
    ended(api, call, params, &mut stream, output, &ending)
}

/// Says while it exists that the lease is used, and then that it was.
struct InUse<'a> {
    call: &'a Call,
    lease: &'a LeaseId,
    now: u64,
    since: Instant,
}

impl<'a> InUse<'a> {
    fn begin(call: &'a Call, lease: &'a LeaseId, now: u64) -> Self {
        touch(call, lease, "running", now);
        Self { call, lease, now, since: Instant::now() }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        touch(self.call, self.lease, "ready", self.now + self.since.elapsed().as_secs());
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

/// Passes on what an event says; the exit status, when that is it.
fn relayed(
    said: Result<Option<Said>, Failure>,
    output: &Output<'_>,
) -> Result<Option<i32>, Failure> {
    match said? {
        Some(Said::Stdout(text)) => output.write(Channel::Stdout, text.as_bytes())?,
        Some(Said::Stderr(text)) => output.write(Channel::Stderr, text.as_bytes())?,
        Some(Said::Exit(code)) => return Ok(Some(code)),
        Some(Said::Nothing) | None => {}
    }
    Ok(None)
}

/// Ends the command and says what became of it.
fn ended(
    api: &Api,
    call: &Call,
    params: &RunStartParams,
    stream: &mut HttpStream<'_>,
    output: &Output<'_>,
    why: &Ending,
) -> Result<RunStartResult, Failure> {
    let stop = Exec::sh(&params.lease.cloud_id, STOP, &[&api.config.notes(), &params.run_id]);
    let stopped = stop.step(api, call).is_ok();
    let until = Instant::now() + LAST;
    let mut seen = None;
    while seen.is_none() && Instant::now() < until {
        match relayed(next(stream, Duration::from_millis(500)), output) {
            Ok(code) => seen = code,
            Err(failure) if failure.kind() == ErrorKind::Cancelled => {}
            Err(_) => break,
        }
    }
    let outcome = if stopped { Outcome::Completed } else { Outcome::Uncertain };
    let what = if stopped { "was stopped" } else { "could not be stopped" };
    Err(match why {
        Ending::Cancelled => Failure::cancelled(format!("the command {what}"), outcome),
        Ending::TimeOut(secs) => {
            Failure::timeout(format!("the command {what} after {secs} s")).outcome(outcome)
        }
    })
}

//! A testbox from nothing: asked for, waited for, and found again when its id was lost.

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Call, Channel, ErrorKind, Failure, LeaseId, Level, Outcome, Progress,
    ReleaseOutcome, Woken,
};

use crate::Blacksmith;
use crate::cli::{self, follow, list, missing, refused};
use crate::list::{Row, State, ids};
use crate::note::{Note, QUEUED, resource};

/// Seconds between looks at a testbox that comes; the last for as long as it takes.
const LOOKS: &[u64] = &[1, 1, 2, 3, 5];
/// Looks after which a testbox that the list does not show is believed to be there all the same.
const UNSEEN: usize = 6;
/// Most that is kept of what the tool says while it makes one.
const PRINTED: usize = 64 * 1024;
/// How often, and how far apart, a box is looked for whose id nobody saw.
const SEARCHES: usize = 3;
const APART: Duration = Duration::from_secs(3);
/// How long one testbox may take to show whose it is, and how many are asked.
const PROOF: Duration = Duration::from_secs(15);
const ASKED: usize = 4;

/// What a testbox says when it holds the key it is asked for, and when it does not.
const OURS: &str = "crabbox-ours-";
const OTHERS: &str = "crabbox-others-";
/// What tools say of a key that a box does not let in.
const SHUT_OUT: &[&str] = &[
    "permission denied",
    "unable to authenticate",
    "authentication failed",
    "too many authentication",
];

impl Blacksmith {
    /// Asks for a testbox. Its id is on record as soon as it is printed.
    pub(crate) fn dispatch(
        &self,
        call: &Call,
        params: &AcquireParams,
        note: &mut Note,
    ) -> Result<(), Failure> {
        let config = &self.0;
        let minutes = config.idle_minutes(params.request.idle_timeout_secs).to_string();
        let optional = [("--job", &note.job), ("--ref", &note.reference)];
        let optional = optional.iter().filter_map(|(flag, value)| Some([*flag, value.as_deref()?]));
        let tool = config.testbox(call, "warmup").args([&note.workflow]).args(optional.flatten());
        let tool = tool.args(["--ssh-public-key", params.ssh_public_key.trim()]);
        let tool = tool.args(["--idle-timeout", &minutes]).timeout(call.time_left());
        let lease = &params.desired.lease_id;
        let mut process = tool.open().map_err(|f| missing(f).outcome(Outcome::NotStarted))?;
        process.end_input()?;
        let mut said = [String::new(), String::new()];
        let ended = follow(call, &mut process, |channel, bytes| {
            let text = &mut said[usize::from(channel == Channel::Stderr)];
            if text.len() < PRINTED {
                text.push_str(&String::from_utf8_lossy(bytes));
            }
            seen(call, lease, note, text, true)
        })?;
        said.iter().try_for_each(|text| seen(call, lease, note, text, false))?;
        if ended.code == 0 && note.id.is_some() && !ended.stopped {
            return Ok(());
        }
        let said = said.concat();
        let failure = match (ended.stopped, ended.signal, ended.code) {
            (true, ..) => {
                Failure::cancelled("stopped while a testbox was asked for", Outcome::Uncertain)
            }
            (_, Some(signal), _) => Failure::transient(format!(
                "Blacksmith's command line was killed by signal {signal}"
            )),
            (.., 0) => Failure::transient("Blacksmith's command line printed no id of a testbox"),
            (.., code) => refused(code, &said),
        };
        note.refused =
            note.id.is_none() && failure.kind() != ErrorKind::Transient && !ended.stopped;
        if note.refused {
            note.write(call, lease)?;
        }
        call.attempt(&Attempt {
            category: Some(failure.kind()),
            message: failure.message(),
            ..Attempt::default()
        });
        Err(failure.outcome(Outcome::Uncertain))
    }

    /// Waits until commands can be run in it.
    pub(crate) fn awaited(&self, call: &Call, id: &str) -> Result<Option<Row>, Failure> {
        let mut looks = 0;
        loop {
            call.check()?;
            let row = match list(&self.0, call) {
                Ok(listing) => listing.rows.into_iter().find(|row| row.id == id),
                Err(failure) if failure.kind() == ErrorKind::Transient && looks < UNSEEN => None,
                Err(failure) => return Err(failure),
            };
            let phase = match row.as_ref().map(Row::state) {
                Some(State::Ready) => return Ok(row),
                Some(State::Queued) => "queued",
                Some(State::Hydrating) => "hydrating",
                Some(State::Failed | State::Gone) => {
                    let what = format!("Blacksmith says that {id} ended before it was ready");
                    return Err(Failure::bootstrap(what)
                        .hint("look at the run of its workflow on the repository's Actions page"));
                }
                None if looks >= UNSEEN => {
                    let what = format!(
                        "Blacksmith's list does not show {id}; its first command waits until it is ready"
                    );
                    call.log(Level::Warn, &what);
                    return Ok(None);
                }
                None => "dispatched",
            };
            let message = (phase == "queued" && looks + 1 == LOOKS.len()).then_some(QUEUED);
            call.progress(&Progress { phase, message, ..Progress::default() });
            let wait = LOOKS.get(looks).or(LOOKS.last()).copied().unwrap_or(5);
            looks += 1;
            if call.sleep(Duration::from_secs(wait))? == Woken::Cancel {
                return Err(given_up(call, phase));
            }
        }
    }

    /// Takes back what was begun.
    pub(crate) fn undone(
        &self,
        call: &Call,
        lease: &LeaseId,
        id: &str,
        failure: Failure,
    ) -> Failure {
        match self.end(call, lease, id) {
            Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
                failure.outcome(Outcome::RolledBack)
            }
            Ok(_) | Err(_) => failure.outcome(Outcome::Uncertain).left_behind(resource(id)),
        }
    }

    /// The testbox of a lease whose id nobody saw: one that is new, is no other lease's, is of the same workflow, job
    /// and reference, and holds the key of this lease, which no other does. None when there is surely none.
    pub(crate) fn recover(
        &self,
        call: &Call,
        lease: &LeaseId,
        note: &mut Note,
    ) -> Result<bool, Failure> {
        let searches = if note.refused { 1 } else { SEARCHES };
        let taken = Note::taken(call, lease)?;
        for search in 0..searches {
            let listing = list(&self.0, call)?;
            let new = |row: &&Row| {
                !note.before.contains(&row.id)
                    && !taken.contains(&row.id)
                    && !matches!(row.state(), State::Gone | State::Failed)
                    && row.is_of(&note.workflow, note.job.as_deref(), note.reference.as_deref())
            };
            let (mut unknown, mut asked) = (Vec::new(), 0);
            for row in listing.rows.iter().filter(new) {
                let told = match row.state() {
                    State::Ready if asked < ASKED => {
                        asked += 1;
                        self.whose(call, lease, note, &row.id)?
                    }
                    _ => None,
                };
                match told {
                    Some(true) => {
                        note.id = Some(row.id.clone());
                        return note.write(call, lease).map(|()| true);
                    }
                    Some(false) => {}
                    None => unknown.push(row.id.clone()),
                }
            }
            let last = search + 1 == searches;
            match (unknown.is_empty(), listing.complete) {
                _ if !last => drop(call.sleep(APART)?),
                (false, _) => return Err(may_be_ours(&unknown.join(", "))),
                (true, false) => {
                    let what = "Blacksmith's list of testboxes was not understood";
                    return Err(Failure::transient(what));
                }
                (true, true) => {}
            }
        }
        Ok(false)
    }

    /// Asks a testbox whether it holds this lease's key. Only that key is offered: without the agent's. None when it
    /// does not say.
    fn whose(
        &self,
        call: &Call,
        lease: &LeaseId,
        note: &Note,
        id: &str,
    ) -> Result<Option<bool>, Failure> {
        let Some(key) = note.public_key.split_whitespace().nth(1) else { return Ok(None) };
        let look = format!(
            "if grep -qF '{key}' ~/.ssh/authorized_keys; then echo {OURS}{lease}; else echo {OTHERS}{lease}; fi"
        );
        let tool = self.0.testbox(call, "run").args(["--id", id, "--ssh-private-key"]);
        let asked =
            tool.lease_key(lease).args([look]).env("SSH_AUTH_SOCK", "").timeout(PROOF).run();
        let ran = match asked {
            Ok(ran) => ran,
            Err(failure) if failure.kind() == ErrorKind::Timeout => return Ok(None),
            Err(failure) => return Err(cli::missing(failure)),
        };
        let complaint = ran.stderr.to_ascii_lowercase();
        Ok(match ran.exit_code {
            0 if ran.stdout.contains(&format!("{OURS}{lease}")) => Some(true),
            0 if ran.stdout.contains(&format!("{OTHERS}{lease}")) => Some(false),
            0 => None,
            _ => SHUT_OUT.iter().any(|words| complaint.contains(words)).then_some(false),
        })
    }
}

/// Notes the first id in a text that is not one of those that were there before.
fn seen(
    call: &Call,
    lease: &LeaseId,
    note: &mut Note,
    text: &str,
    open: bool,
) -> Result<(), Failure> {
    if note.id.is_some() {
        return Ok(());
    }
    let new = ids(text, open).find(|id| !note.before.iter().any(|before| before == id));
    new.map_or(Ok(()), |id| note.own(call, lease, id))
}

fn given_up(call: &Call, phase: &str) -> Failure {
    let failure = call.check().err().unwrap_or_else(|| Failure::timeout("it was woken"));
    match phase {
        "queued" if failure.kind() == ErrorKind::Timeout => {
            Failure::capacity("the testbox stayed in the queue").hint(QUEUED)
        }
        _ => failure,
    }
}

fn may_be_ours(ids: &str) -> Failure {
    let what = format!(
        "{ids} may have been left behind: new, of the same workflow, and not ready to show whose it is; it was not touched"
    );
    Failure::conflict(what)
        .hint("run `crabbox cleanup` when it is ready; if it is yours, `blacksmith testbox stop --id ID` ends it now")
}

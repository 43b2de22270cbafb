//! Testboxes of Blacksmith: made, listed and ended through its own command line, which also sends the checkout and
//! runs commands.
//!
//! Its login is its own and never seen here. The private key of a lease is made by the kernel; only its path is told,
//! and only to Blacksmith's command line.

mod cli;
mod config;
mod list;
mod note;
mod warm;

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, CheckStatus, DelegatedRun, ErrorKind, Failure, Lease, LeaseId,
    ListParams, ListResult, Outcome, Output, Plugin, Purpose, ReleaseOutcome, ReleaseParams,
    ResolveParams, RunStartParams, RunStartResult, Woken,
};

use cli::{ask, follow, list, missing};
use config::Config;
use list::{Listing, State};
use note::Note;

/// How often, and how far apart, a testbox is looked at that was told to end.
const WATCHED: usize = 8;
const POLL: Duration = Duration::from_secs(2);

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::delegated_run(include_str!("../crabbox-plugin.toml"), |instance| {
        Config::read(&instance).map(Blacksmith)
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Blacksmith(Config);

impl DelegatedRun for Blacksmith {
    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let (lease, mut note) = (params.desired.lease_id.clone(), self.wanted(&params)?);
        if call.dry_run() {
            return Ok(note.lease(&lease, None));
        }
        let there = list(&self.0, call).map_err(|f| f.outcome(Outcome::NotStarted))?;
        let live = |state| !matches!(state, State::Gone | State::Failed);
        let live = there.rows.into_iter().filter(|row| live(row.state()));
        note.before = live.map(|row| row.id).collect();
        // Before anything is made: from here on the note leads to it.
        note.write(call, &lease)?;
        let dispatched = self.dispatch(call, &params, &mut note);
        let Some(id) = note.id.clone() else {
            return dispatched.map(|()| note.lease(&lease, None));
        };
        match dispatched.and_then(|()| self.awaited(call, &id)) {
            Ok(row) => Ok(note.lease(&lease, row.as_ref())),
            Err(failure) => Err(self.undone(call, &lease, &id, failure)),
        }
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        if !params.env.is_empty() {
            let what = "Blacksmith's command line hands on no variables";
            return Err(Failure::unsupported(what));
        }
        let (lease, id) = (&params.lease.lease_id, &params.lease.cloud_id);
        let mut note = self.owned(call, lease, id)?;
        let tool = self.0.testbox(call, "run").args(["--id", id, "--ssh-private-key"]);
        let tool = tool.lease_key(lease).args(self.0.debug.then_some("--debug"));
        let tool = tool.args([cli::line(&params.command)]).timeout(call.time_left());
        note.touch(call, lease, "running");
        let began = tool.open().map_err(|f| missing(f).outcome(Outcome::NotStarted));
        let ended = began.and_then(|mut process| {
            process.end_input()?;
            follow(call, &mut process, |channel, bytes| output.write(channel, bytes))
        });
        note.touch(call, lease, "ready");
        let ended = ended?;
        match (ended.stopped, ended.signal) {
            (false, None) => Ok(RunStartResult { exit_code: ended.code, signal: None }),
            (true, None) => Err(Failure::cancelled("the command was stopped", Outcome::Completed)),
            (stopped, Some(signal)) => {
                let what = format!(
                    "Blacksmith's command line was ended by signal {signal}: the command may go on in {id}"
                );
                let failure = match stopped {
                    true => Failure::cancelled(what, Outcome::Uncertain),
                    false => Failure::transient(what).outcome(Outcome::Uncertain),
                };
                Err(failure.hint("`crabbox stop` ends the testbox and what runs in it"))
            }
        }
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let notes = Note::all(call)?;
        let Listing { rows, complete } = list(&self.0, call)?;
        let leases = notes.iter().filter_map(|(lease, note)| {
            let row = rows.iter().find(|row| note.id.as_ref() == Some(&row.id))?;
            (row.state() != State::Gone).then(|| note.lease(lease, Some(row)))
        });
        Ok(ListResult { leases: leases.collect(), next_cursor: None, complete })
    }

    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let absent = || Failure::not_found(format!("there is no testbox of {}", params.id));
        let (lease, mut note) = Note::find(call, &params)?.ok_or_else(absent)?;
        if params.purpose == Purpose::Reconcile {
            self.reconciled(call, &lease, &mut note)?;
        }
        if note.id.is_none() {
            return Err(absent());
        }
        let Listing { rows, complete } = list(&self.0, call)?;
        match rows.iter().find(|row| note.id.as_ref() == Some(&row.id)) {
            Some(row) if row.state() != State::Gone => Ok(note.lease(&lease, Some(row))),
            None if !complete => Err(Failure::transient(format!(
                "Blacksmith's list of testboxes was not understood, and does not show {}",
                params.id
            ))),
            _ => Err(absent()),
        }
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (lease, expected) = (&params.lease, &params.expected);
        let id = expected.cloud_id.as_deref().unwrap_or(&lease.cloud_id);
        if lease.lease_id != expected.lease_id || lease.cloud_id != id {
            return Err(foreign(id, &expected.lease_id));
        }
        match Note::read(call, &expected.lease_id)? {
            Some(note) if note.id.as_deref() == Some(id) => {}
            // Nothing is known of what was given back before.
            None if self.is_gone(call, id) => return Ok(ReleaseOutcome::AlreadyGone),
            Some(_) | None => return Err(foreign(id, &expected.lease_id)),
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        self.end(call, &expected.lease_id, id)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        let workflow = match self.0.workflow() {
            Ok(workflow) => check("blacksmith.workflow", CheckStatus::Ok, workflow),
            Err(failure) => failed("blacksmith.workflow", CheckStatus::Warn, &failure),
        };
        let listed = match list(&self.0, call) {
            Ok(Listing { rows, complete: true }) => {
                let ours = Note::all(call)?;
                let is_ours =
                    |id: &String| ours.iter().any(|(_, note)| note.id.as_ref() == Some(id));
                let ours = rows.iter().filter(|row| is_ours(&row.id)).count();
                let what = format!("{ours} of {} testboxes are leases of this machine", rows.len());
                check("blacksmith.testboxes", CheckStatus::Ok, &what)
            }
            Ok(_) => {
                check("blacksmith.testboxes", CheckStatus::Warn, "the list was not understood")
            }
            Err(failure) => failed("blacksmith.testboxes", CheckStatus::Fail, &failure),
        };
        Ok(vec![workflow, listed])
    }
}

impl Blacksmith {
    /// What is asked for; an error when Blacksmith does not have it.
    fn wanted(&self, params: &AcquireParams) -> Result<Note, Failure> {
        let request = &params.request;
        if !matches!(&*request.target, "" | "linux") {
            let what = format!("Blacksmith has no testboxes with {}", request.target);
            return Err(Failure::unsupported(what));
        }
        if let Some(wanted) = &request.machine_type {
            let what = format!("a testbox is what its workflow says, so it cannot be a {wanted}");
            return Err(Failure::unsupported(what).hint("say it with runs-on in the workflow"));
        }
        Ok(Note {
            slug: params.desired.slug.clone(),
            name: params.desired.name.clone(),
            labels: params.labels.clone(),
            workflow: self.0.workflow()?.to_owned(),
            job: self.0.job().map(str::to_owned),
            reference: self.0.reference().map(str::to_owned),
            public_key: params.ssh_public_key.clone(),
            ..Note::default()
        })
    }

    /// Learns which testbox is the lease's after a making that nobody saw the end of.
    fn reconciled(&self, call: &Call, lease: &LeaseId, note: &mut Note) -> Result<(), Failure> {
        if note.id.is_some() {
            // What only the journal knew is known here from now on.
            return note.write(call, lease);
        }
        if !self.recover(call, lease, note)? {
            Note::forget(call, lease, "");
        }
        Ok(())
    }

    /// The note of a lease, when this testbox is its.
    fn owned(&self, call: &Call, lease: &LeaseId, id: &str) -> Result<Note, Failure> {
        let note = Note::read(call, lease)?;
        note.filter(|note| note.id.as_deref() == Some(id)).ok_or_else(|| foreign(id, lease))
    }

    /// Whether Blacksmith surely has no such testbox any more.
    fn is_gone(&self, call: &Call, id: &str) -> bool {
        list(&self.0, call).is_ok_and(|listing| {
            match listing.rows.iter().find(|row| row.id == id) {
                Some(row) => row.state() == State::Gone,
                None => listing.complete,
            }
        })
    }

    /// Ends a testbox that is the lease's, and watches until Blacksmith says that it is gone.
    fn end(&self, call: &Call, lease: &LeaseId, id: &str) -> Result<ReleaseOutcome, Failure> {
        let done = |outcome| {
            Note::forget(call, lease, id);
            Ok(outcome)
        };
        if self.is_gone(call, id) {
            return done(ReleaseOutcome::AlreadyGone);
        }
        match ask(self.0.testbox(call, "stop").args(["--id", id])) {
            Err(failure) if failure.kind() == ErrorKind::NotFound && self.is_gone(call, id) => {
                return done(ReleaseOutcome::AlreadyGone);
            }
            asked => drop(asked?),
        }
        for _ in 0..WATCHED {
            if self.is_gone(call, id) {
                return done(ReleaseOutcome::Released);
            }
            if call.sleep(POLL)? == Woken::Cancel {
                break;
            }
        }
        Ok(ReleaseOutcome::Pending)
    }
}

fn foreign(id: &str, lease: &LeaseId) -> Failure {
    Failure::precondition(format!("{id:?} is not the testbox of {lease}; nothing was touched"))
}

fn check(id: &str, status: CheckStatus, message: &str) -> Check {
    Check { id: id.to_owned(), status, message: message.to_owned(), hint: None }
}

fn failed(id: &str, status: CheckStatus, failure: &Failure) -> Check {
    Check { hint: failure.data().hint.clone(), ..check(id, status, failure.message()) }
}

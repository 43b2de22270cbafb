//! Boxes in Docker or Podman: any image with a shell, reached over SSH through a server of crabbox's own.
//!
//! Every container is made, looked at and removed by the runtime's own command line, which the kernel runs. The
//! box's server is copied into the container and is its first process; it ends the container when the lease is over,
//! so nothing has to stay on this machine for that.

mod container;
mod create;
mod doctor;
mod engine;
mod fault;
mod notes;
mod settings;

use std::path::{Path, PathBuf};

use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, ErrorKind, Failure, Instance, Lease, Level, ListParams, ListResult,
    Outcome, Plugin, Purpose, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams,
    settings,
};

use container::{LIMIT, lease, resource};
use engine::{Container, ENGINES, Engine};
use settings::{Runtime, Settings};

/// The plugin, ready to serve; `programs` is where crabbox's own programs are.
pub fn plugin(programs: &Path) -> Plugin {
    let programs = programs.to_owned();
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        Containers::open(&instance, programs)
    })
}

/// What all runtimes hold, and why one of them did not say.
struct Seen {
    found: Vec<(Engine, Container)>,
    missed: Option<Failure>,
}

/// The provider.
struct Containers {
    settings: Settings,
    programs: PathBuf,
}

impl Containers {
    fn open(instance: &Instance, programs: PathBuf) -> Result<Self, Failure> {
        let settings: Settings = settings(instance)?;
        settings.check()?;
        Ok(Self { settings, programs })
    }

    /// The runtimes that may hold boxes of ours, the preferred one first.
    fn candidates(&self) -> Vec<Engine> {
        let chosen = match self.settings.runtime {
            Runtime::Auto => None,
            Runtime::Docker => Some("docker"),
            Runtime::Podman => Some("podman"),
        };
        ENGINES.into_iter().filter(|engine| chosen.is_none_or(|name| engine.0 == name)).collect()
    }

    /// The runtime that makes new boxes: the first that answers.
    fn engine(&self, call: &Call) -> Result<Engine, Failure> {
        let mut first = None;
        for engine in self.candidates() {
            match engine.version(call) {
                Ok(_) => return Ok(engine),
                Err(failure) if failure.kind() == ErrorKind::Cancelled => return Err(failure),
                // Not installed says less than why an installed one does not answer.
                Err(failure) => match failure.kind() {
                    ErrorKind::Unsupported => drop(first.get_or_insert(failure)),
                    _ => first = Some(failure),
                },
            }
        }
        let failure =
            first.unwrap_or_else(|| Failure::unsupported("no container runtime is known"));
        Err(failure
            .hint("install Docker or Podman and start it; `crabbox doctor` says what it sees"))
    }

    /// Asks every runtime, and says whether each one that is installed answered.
    fn everywhere(
        &self,
        call: &Call,
        ask: impl Fn(Engine) -> Result<Vec<Container>, Failure>,
    ) -> Result<Seen, Failure> {
        let (mut found, mut missed) = (Vec::new(), None);
        for engine in self.candidates() {
            match ask(engine) {
                Ok(some) => found.extend(some.into_iter().map(|one| (engine, one))),
                // What is not installed holds no boxes.
                Err(failure) if failure.kind() == ErrorKind::Unsupported => {}
                Err(failure) if failure.kind() == ErrorKind::Cancelled => return Err(failure),
                Err(failure) => {
                    call.log(Level::Warn, &format!("{}: {failure}", engine.0));
                    missed = Some(failure);
                }
            }
        }
        call.check()?;
        Ok(Seen { found, missed })
    }

    /// The one box a condition holds for; absence is proven only when every runtime answered.
    fn find(
        &self,
        call: &Call,
        known: Option<&Lease>,
        holds: impl Fn(&Container) -> bool,
    ) -> Result<Option<(Engine, Container)>, Failure> {
        let made_by = known.and_then(|lease| lease.labels.get("runtime"));
        let ours = [("crabbox", "true"), ("provider", "container")];
        let ask = |engine: Engine| {
            // A lease says which runtime it is in.
            match made_by.is_none_or(|name| name == engine.0) {
                true => engine.labelled(call, &ours),
                false => Ok(Vec::new()),
            }
        };
        let Seen { found, missed } = self.everywhere(call, ask)?;
        match (found.into_iter().find(|(_, one)| holds(one)), missed) {
            (Some(found), _) => Ok(Some(found)),
            (None, None) => Ok(None),
            (None, Some(failure)) => {
                Err(failure
                    .hint("set container.runtime to the runtime you use, if it is another one"))
            }
        }
    }
}

impl SshLease for Containers {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        create::check_request(&params)?;
        if call.dry_run() {
            return Ok(container::planned(&self.settings, &params));
        }
        let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
        call.check().map_err(not_started)?;
        let engine = self.engine(call).map_err(not_started)?;
        create::acquire(call, engine, &self.settings, &self.programs, params)
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let known = params.known.as_ref();
        let mut names = vec![params.id.as_str()];
        names.extend(known.map(|lease| lease.lease_id.as_str()));
        names.extend(params.resources.iter().map(|resource| resource.cloud_id.as_str()));
        let holds = |one: &Container| names.iter().any(|name| container::answers_to(one, name));
        let Some((engine, found)) = self.find(call, known, holds)? else {
            return Err(Failure::not_found(format!("no container box {}", params.id)));
        };
        let usable = found.is_running();
        if params.purpose == Purpose::Use && !usable {
            let message = format!("the container of {} has ended", found.label("lease"));
            return Err(Failure::expired(message).hint("stop it, and take a new one"));
        }
        let notes = match usable {
            true => notes::seen(call, engine, &found)?,
            false => None,
        };
        lease(engine, &found, notes.as_ref())
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let ours = [("crabbox", "true"), ("provider", "container")];
        let seen = self.everywhere(call, |engine| engine.labelled(call, &ours))?;
        let mut leases = Vec::new();
        for (engine, found) in seen.found.iter().take(LIMIT) {
            let notes = notes::kept(call, found.label("lease"))?;
            leases.extend(lease(*engine, found, notes.as_ref()));
        }
        let complete = seen.missed.is_none() && seen.found.len() <= LIMIT;
        Ok(ListResult { leases, next_cursor: None, complete })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let expected = &params.expected;
        let cloud_ids = [expected.cloud_id.as_deref(), Some(&*params.lease.cloud_id)];
        let holds = |one: &Container| {
            one.label("lease") == expected.lease_id.as_str() || cloud_ids.contains(&Some(&*one.id))
        };
        let Some((engine, found)) = self.find(call, Some(&params.lease), holds)? else {
            return Ok(ReleaseOutcome::AlreadyGone);
        };
        let same_id = cloud_ids.iter().flatten().all(|id| id.is_empty() || *id == found.id);
        if found.label("lease") != expected.lease_id.as_str() || !same_id {
            let message = format!("container {} is not the box of {}", found.id, expected.lease_id);
            return Err(Failure::precondition(message));
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        create::remove(call, engine, &found.id)?;
        notes::drop(call, expected.lease_id.as_str());
        // The journal may be about another lease by now; what is gone needs no entry either way.
        let _ = call.forget(&resource(&found.id));
        Ok(ReleaseOutcome::Released)
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let id = &params.lease.lease_id;
        let holds = |one: &Container| one.label("lease") == id.as_str();
        let found =
            self.find(call, Some(&params.lease), holds)?.filter(|(_, one)| one.is_running());
        let Some((engine, found)) = found else {
            return Err(Failure::not_found(format!("no container box {id}")));
        };
        let notes = notes::touch(call, engine, &found, &params.state)?;
        lease(engine, &found, Some(&notes))
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(call, &self.candidates(), &self.settings, &self.programs)
    }
}

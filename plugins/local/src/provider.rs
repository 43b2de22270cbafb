//! The provider: boxes as leases.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_box_server::program::{self, Start, Streams};
use crabbox_box_server::server::HostKey;
use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, CheckStatus, Desired, Failure, Instance, Lease, LeaseId,
    ListParams, ListResult, Outcome, Purpose, ReleaseOutcome, ReleaseParams, ResolveParams,
    Resource, SshLease, TouchParams, UserFacts, Woken,
};
use russh::keys::PublicKey;

use crate::boxes::{self, Boxes};
use crate::environment;
use crate::isolation::{self, Level, Wanted};
use crate::record::{BoxDir, BoxRecord};
use crate::settings::Settings;
use crate::surroundings;

/// How often to look whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Boxes on this machine.
#[derive(Debug)]
pub(crate) struct Local {
    settings: Settings,
    user: UserFacts,
    boxes: Boxes,
    /// Held while boxes are made or ended, so that two calls do not work on one box.
    changing: Mutex<()>,
}

impl Local {
    pub(crate) fn open(instance: Instance) -> Result<Self, Failure> {
        let settings = Settings::read(&instance)?;
        let state = surroundings::state_dir()
            .ok_or_else(|| Failure::internal("CRABBOX_STATE_DIR is not set"))?;
        Ok(Self {
            settings,
            user: instance.user,
            boxes: Boxes::new(&state),
            changing: Mutex::new(()),
        })
    }

    /// Makes the directory with everything the keeper needs.
    fn prepare(&self, dir: &BoxDir, params: &AcquireParams) -> io::Result<BoxRecord> {
        dir.create()?;
        let key = HostKey::new()?;
        dir.write("host_key", key.private.as_bytes())?;
        let lease_id = params.desired.lease_id.as_str();
        let record = BoxRecord {
            lease_id: lease_id.to_owned(),
            slug: params.desired.slug.clone(),
            name: params.desired.name.clone(),
            labels: params.labels.clone(),
            authorized_key: params.ssh_public_key.clone(),
            host_key: key.public,
            user: environment::login(&self.user).to_owned(),
            created_at: boxes::now(),
            last_touched_at: boxes::now(),
            ttl_secs: params.request.ttl_secs,
            idle_timeout_secs: params.request.idle_timeout_secs,
            shell: environment::shell().to_owned(),
            env: environment::environment(dir, &self.user, surroundings::variable),
            isolation: self.settings.isolation,
            network: self.settings.network,
            limits: self.settings.limits(),
        };
        dir.write("home/.profile", environment::profile(&self.user).as_bytes())?;
        dir.write_record(&record)?;
        Ok(record)
    }

    /// Makes a box and waits until it answers.
    fn start(&self, call: &Call, dir: &BoxDir, params: &AcquireParams) -> Result<Lease, Failure> {
        let broken = |error: io::Error| cannot("make the box", &error);
        let record = self.prepare(dir, params).map_err(broken)?;
        launch(dir).map_err(broken)?;
        wait_ready(call, dir)?;
        boxes::lease(dir, &record).ok_or_else(|| Failure::bootstrap("the box ended at once"))
    }

    fn find(&self, params: &ResolveParams) -> Result<Option<(BoxDir, BoxRecord)>, Failure> {
        let known = params.known.as_ref().map(|lease| lease.lease_id.as_str());
        let recorded = params.resources.iter().map(|resource| resource.cloud_id.as_str());
        let names = std::iter::once(params.id.as_str()).chain(known).chain(recorded);
        for name in names {
            let found = self.boxes.find(name).map_err(|error| cannot("read the boxes", &error))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What an interrupted acquire left behind before it wrote its record.
    fn remains(&self, params: &ResolveParams) -> Option<Lease> {
        let known = params.known.as_ref().map(|lease| &lease.lease_id).cloned();
        let id = known.or_else(|| {
            let id = params.id.strip_prefix("local-").unwrap_or(&params.id);
            LeaseId::parse(id)
        })?;
        let dir = self.boxes.dir(&id);
        dir.path().exists().then(|| Lease {
            cloud_id: boxes::cloud_id(id.as_str()),
            lease_id: id.clone(),
            slug: String::new(),
            name: String::new(),
            status: "failed".to_owned(),
            server_type: "process".to_owned(),
            labels: [("crabbox", "true"), ("lease", id.as_str()), ("state", "failed")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            work_root: None,
            ssh: None,
        })
    }

    fn isolation_check(&self) -> Check {
        let id = "isolation.level".to_owned();
        let install = Some("install bubblewrap, or set local.isolation to `none`".to_owned());
        if self.settings.isolation == Wanted::None {
            let message = "none, as configured".to_owned();
            return Check { id, status: CheckStatus::Ok, message, hint: None };
        }
        match self.prove() {
            Ok(()) => Check {
                id,
                status: CheckStatus::Ok,
                message: format!("{}, proven by trying", Level::Namespace.name()),
                hint: None,
            },
            Err(reason) if self.settings.isolation == Wanted::Auto => {
                let message = format!("none: {reason}");
                Check { id, status: CheckStatus::Warn, message, hint: install }
            }
            Err(reason) => Check { id, status: CheckStatus::Fail, message: reason, hint: install },
        }
    }

    /// Tries the fence on a directory that is gone afterwards.
    fn prove(&self) -> Result<(), String> {
        let trial = tempfile::Builder::new()
            .prefix(".trial-")
            .tempdir_in(self.boxes.root())
            .map_err(|error| error.to_string())?;
        let dir = BoxDir::new(trial.path().to_owned());
        dir.create().map_err(|error| error.to_string())?;
        isolation::settle(Wanted::Namespace, self.settings.network, &dir).map(drop)
    }

    fn state_check(&self) -> Check {
        let root = self.boxes.root();
        let tried = fs::create_dir_all(root).and_then(|()| tempfile::tempfile_in(root));
        let (status, message) = match tried {
            Ok(_) => (CheckStatus::Ok, format!("{} can be written", root.display())),
            Err(error) => (CheckStatus::Fail, format!("{}: {error}", root.display())),
        };
        Check { id: "state-dir.writable".to_owned(), status, message, hint: None }
    }
}

impl SshLease for Local {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        check_request(&params)?;
        let id = params.desired.lease_id.clone();
        let dir = self.boxes.dir(&id);
        if call.dry_run() {
            return Ok(planned(&dir, &params));
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        call.check().map_err(|failure| failure.outcome(Outcome::NotStarted))?;
        if let Some(lease) = same_box(call, &dir, &params)? {
            return Ok(lease);
        }
        let resource = resource(&id);
        call.record(&resource).map_err(|failure| failure.outcome(Outcome::NotStarted))?;
        boxes::end(&dir)
            .map_err(|error| cannot("clear away what an earlier attempt left", &error))?;
        match self.start(call, &dir, &params) {
            Ok(lease) => Ok(lease),
            Err(failure) => Err(roll_back(call, &dir, &resource, failure)),
        }
    }

    fn resolve(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let absent = || Failure::not_found(format!("no local box {}", params.id));
        let Some((dir, record)) = self.find(&params)? else {
            return match params.purpose {
                Purpose::Release | Purpose::Reconcile => self.remains(&params).ok_or_else(absent),
                Purpose::Use | Purpose::Status => Err(absent()),
            };
        };
        let lease = boxes::lease(&dir, &record).ok_or_else(absent)?;
        if lease.ssh.is_none() && params.purpose == Purpose::Use {
            let message = format!("the local box {} has ended", record.lease_id);
            return Err(Failure::expired(message).hint("stop it, and take a new one"));
        }
        Ok(lease)
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let (all, unread) = self.boxes.all().map_err(|error| cannot("read the boxes", &error))?;
        let leases = all.iter().filter_map(|(dir, record)| boxes::lease(dir, record)).collect();
        Ok(ListResult { leases, next_cursor: None, complete: unread == 0 })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let id = &params.expected.lease_id;
        let cloud_id = boxes::cloud_id(id.as_str());
        let wrong = |what: &str| Failure::precondition(format!("{what} is not the box of {id}"));
        if params.expected.cloud_id.as_ref().is_some_and(|expected| *expected != cloud_id) {
            return Err(wrong(params.expected.cloud_id.as_deref().unwrap_or_default()));
        }
        if !params.lease.cloud_id.is_empty() && params.lease.cloud_id != cloud_id {
            return Err(wrong(&params.lease.cloud_id));
        }
        let dir = self.boxes.dir(id);
        if !dir.path().exists() {
            return Ok(ReleaseOutcome::AlreadyGone);
        }
        if dir.record().is_ok_and(|record| record.lease_id != id.as_str()) {
            return Err(wrong(&dir.path().display().to_string()));
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = boxes::end(&dir);
        let existed = ended.map_err(|error| cannot("end the box", &error))?;
        // The journal may be about another lease by now; what is gone needs no entry either way.
        let _ = call.forget(&resource(id));
        Ok(if existed { ReleaseOutcome::Released } else { ReleaseOutcome::AlreadyGone })
    }

    fn touch(&self, _call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let id = &params.lease.lease_id;
        let absent = || Failure::not_found(format!("no local box {id}"));
        let dir = self.boxes.dir(id);
        let record = dir.record().map_err(|_| absent())?;
        let noted = boxes::touch(&dir, record, &params.state);
        let record = noted.map_err(|error| cannot("note the use of the box", &error))?;
        boxes::lease(&dir, &record).ok_or_else(absent)
    }

    fn doctor(&self, _call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(vec![self.state_check(), self.isolation_check()])
    }
}

fn check_request(params: &AcquireParams) -> Result<(), Failure> {
    let ours = if cfg!(target_os = "macos") { "macos" } else { "linux" };
    let target = params.request.target.as_str();
    if !target.is_empty() && target != ours {
        let message = format!("a local box has this machine's system: {ours}, not {target}");
        return Err(Failure::unsupported(message));
    }
    PublicKey::from_openssh(&params.ssh_public_key).map(drop).map_err(|error| {
        Failure::invalid_request("the lease's public key cannot be read").because(&error)
    })
}

/// The box an earlier attempt with the same id made, when it lives.
fn same_box(call: &Call, dir: &BoxDir, params: &AcquireParams) -> Result<Option<Lease>, Failure> {
    let Ok(record) = dir.record() else { return Ok(None) };
    if !dir.kept() {
        return Ok(None);
    }
    if record.authorized_key != params.ssh_public_key {
        let id = &params.desired.lease_id;
        return Err(Failure::conflict(format!("{id} exists already, with another key")));
    }
    wait_ready(call, dir)?;
    Ok(boxes::lease(dir, &record).filter(|lease| lease.ssh.is_some()))
}

fn planned(dir: &BoxDir, params: &AcquireParams) -> Lease {
    let Desired { lease_id, slug, name } = params.desired.clone();
    Lease {
        cloud_id: boxes::cloud_id(lease_id.as_str()),
        lease_id,
        slug,
        name,
        status: "leased".to_owned(),
        server_type: "process".to_owned(),
        labels: params.labels.clone(),
        work_root: Some(dir.part("work").to_string_lossy().into_owned()),
        ssh: None,
    }
}

/// Starts the keeper by way of a short-lived process, so that nobody here is its parent.
fn launch(dir: &BoxDir) -> io::Result<()> {
    let file = program::ourselves()?;
    let args = ["--launch".into(), dir.path().into()];
    let streams = Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::piped() };
    let start =
        Start { file: &file, args: &args, env: &[], dir: Path::new("/"), streams, owner: None };
    match program::finish(start)? {
        (true, _) => Ok(()),
        (false, reason) => Err(io::Error::other(reason)),
    }
}

fn wait_ready(call: &Call, dir: &BoxDir) -> Result<(), Failure> {
    let until = Instant::now() + boxes::START_PATIENCE;
    loop {
        if boxes::running(dir).is_some() {
            return Ok(());
        }
        if let Ok(reason) = fs::read_to_string(dir.part("failed")) {
            return Err(refusal(&reason));
        }
        if Instant::now() >= until {
            return Err(Failure::bootstrap("the box did not start in time"));
        }
        call.check()?;
        if call.sleep(LOOK)? == Woken::Cancel {
            call.check()?;
        }
    }
}

/// What the keeper wrote before it gave up.
fn refusal(reason: &str) -> Failure {
    match reason.strip_prefix("isolation: ") {
        Some(reason) => Failure::unsupported(format!("isolation is not possible: {reason}"))
            .hint("install bubblewrap and allow user namespaces, or set local.isolation to `none`"),
        None => Failure::bootstrap(format!("the box did not start: {reason}")),
    }
}

/// Removes what a failed acquire made; only then it says so.
fn roll_back(call: &Call, dir: &BoxDir, resource: &Resource, failure: Failure) -> Failure {
    match boxes::end(dir) {
        Ok(_) => {
            let _ = call.forget(resource);
            failure.outcome(Outcome::RolledBack)
        }
        Err(_) => failure.outcome(Outcome::Uncertain).left_behind(resource.clone()),
    }
}

fn resource(id: &LeaseId) -> Resource {
    Resource {
        kind: "process-box".to_owned(),
        cloud_id: boxes::cloud_id(id.as_str()),
        region: None,
        billable: false,
    }
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    let failure = Failure::transient(format!("cannot {what}")).because(error);
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::permission(format!("cannot {what}")).because(error)
        }
        io::ErrorKind::StorageFull => failure.hint("free some space on this machine's disk"),
        _ => failure,
    }
}

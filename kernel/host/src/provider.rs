//! The kernel's `Provider` door: each method is one call, and each answer is compared with the question.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::{About, DelegatedRun, EventSink, Provider, Query, Stop, Wanted};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::{Desired, Expected, Lease, ReleaseOutcome, SshEndpoint};
use crabbox_schemas::plugin::{
    AccessParams, AccessResult, AcquireParams, BareParams, Check, DoctorResult, EvidenceParams,
    EvidenceResult, LeaseResult, ListParams, ListResult, ProviderKind, ReleaseParams,
    ReleaseResult, ResolveParams, RunStartParams, RunStartResult, TouchParams, method,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::{Call, Hands};
use crate::fault::{broken, one_line};
use crate::handshake::context;
use crate::session::Session;

/// A provider with this power names leases itself: the box existed before crabbox.
const OWN_LEASE_IDS: &str = "own-lease-ids";
/// A provider that runs commands itself and has this power notes when its boxes are used.
const TOUCH: &str = "lease-touch";
/// Most pages of one listing.
const MAX_PAGES: usize = 1000;
/// Most boxes of one listing; more are not looked at.
const MAX_LEASES: usize = 10_000;

/// One call's fixed properties.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    method: &'static str,
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    mutating: bool,
}

impl Session {
    /// The name of a method for this provider's kind.
    fn pick(&self, ssh: &'static str, delegated: &'static str) -> &'static str {
        match self.about.kind {
            ProviderKind::SshLease => ssh,
            ProviderKind::DelegatedRun => delegated,
        }
    }

    /// Whether the plugin said that it has an optional method.
    pub(crate) fn answers(&self, method: &str) -> bool {
        self.methods.iter().any(|known| known == method)
    }

    pub(crate) fn read(&self, method: &'static str) -> Shape {
        let grace = self.timeouts.grace.1;
        Shape { method, deadline: self.timeouts.read, grace, mutating: false }
    }

    fn change(&self, method: &'static str) -> Shape {
        let grace = self.timeouts.grace.1;
        Shape { method, deadline: self.timeouts.touch, grace, mutating: true }
    }

    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        shape: Shape,
        params: &impl Serialize,
        hands: Hands<'_>,
        stop: &Stop,
    ) -> Result<T> {
        let Shape { method, deadline, grace, mutating } = shape;
        let mut params = serde_json::to_value(params).map_err(|e| {
            KernelError::new(ErrorCode::Internal, format!("cannot encode {method}")).because(&e)
        })?;
        keep_lent(&mut params);
        let call = Call { method, params, deadline, grace, mutating, stop };
        let answer = crate::call::call(&self.link, call, hands).await?;
        serde_json::from_value(answer)
            .map_err(|e| self.lie(shape, format!("its answer to {method} cannot be read ({e})")))
    }

    /// The user names that were lent for a lease.
    fn take_lent(&self, id: &LeaseId) -> Vec<Option<String>> {
        let mut lent = self.lent();
        lent.extract_if(.., |(lease, _)| lease == id).map(|(_, user)| Some(user)).collect()
    }

    fn lent(&self) -> MutexGuard<'_, Vec<(LeaseId, String)>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lie(&self, shape: Shape, what: String) -> KernelError {
        let error = broken(&self.about.provider, what);
        if shape.mutating { error.outcome(Outcome::Uncertain) } else { error }
    }

    /// Whether a lease is the one that was asked for and can be used.
    fn checked(&self, shape: Shape, lease: Lease, id: Option<&LeaseId>) -> Result<Lease> {
        let method = shape.method;
        if let Some(id) = id.filter(|id| **id != lease.lease_id) {
            let what =
                format!("{method} was about lease {id}, its answer is about {}", lease.lease_id);
            return Err(self.lie(shape, what));
        }
        if let Some(ssh) = &lease.ssh {
            let bad = |text: &String| text.starts_with('-') || text.chars().any(char::is_control);
            if [&ssh.host, &ssh.user].into_iter().any(bad) {
                return Err(self.lie(shape, format!("{method} gave an impossible SSH address")));
            }
        }
        Ok(lease)
    }

    /// Whether a new box has the identity it was asked for, and one of the provider's own to be found by.
    fn as_desired(&self, shape: Shape, lease: &Lease, desired: &Desired) -> Result<()> {
        let method = shape.method;
        for (what, said, wanted) in
            [("slug", &lease.slug, &desired.slug), ("name", &lease.name, &desired.name)]
        {
            if said != wanted {
                let what =
                    format!("{method} was to use the {what} {wanted}, it used {}", one_line(said));
                return Err(self.lie(shape, what));
            }
        }
        if lease.cloud_id.is_empty() {
            return Err(self.lie(shape, format!("{method} gave no id of the provider's own")));
        }
        Ok(())
    }

    fn owns_ids(&self) -> bool {
        self.about.features.iter().any(|feature| feature == OWN_LEASE_IDS)
    }
}

impl Provider for Session {
    fn about(&self) -> &About {
        &self.about
    }

    fn pin(&self) -> Result<PluginPin> {
        Ok(self.plugin.clone())
    }

    async fn acquire(
        &self,
        wanted: &Wanted,
        trail: &mut Trail,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Lease> {
        let shape = Shape {
            method: self.pick(method::LEASE_ACQUIRE, method::RUN_WARMUP),
            deadline: self.timeouts.acquire,
            grace: self.timeouts.grace.0,
            mutating: true,
        };
        let params = AcquireParams {
            ctx: context(shape.deadline, shape.grace, &wanted.idem),
            desired: wanted.desired.clone(),
            request: wanted.request.clone(),
            ssh_public_key: wanted.ssh_public_key.clone(),
            labels: wanted.labels.clone(),
            bootstrap: wanted.bootstrap.clone(),
        };
        let hands = Hands { trail: Some(trail), events: Some(events) };
        // A machine's own private key is in it.
        if let Some(bootstrap) = &params.bootstrap {
            self.link.broker.net.vault().watch(&bootstrap.user_data);
        }
        let LeaseResult { lease } = self.ask(shape, &params, hands, stop).await?;
        let id = (!self.owns_ids()).then_some(&wanted.desired.lease_id);
        let lease = self.checked(shape, lease, id)?;
        if id.is_some() {
            self.as_desired(shape, &lease, &wanted.desired)?;
        }
        if self.about.kind == ProviderKind::SshLease && lease.ssh.is_none() {
            return Err(self.lie(shape, "lease.acquire gave no SSH address".to_owned()));
        }
        Ok(lease)
    }

    async fn resolve(&self, query: &Query) -> Result<Option<Lease>> {
        let shape = self.read(self.pick(method::LEASE_RESOLVE, method::RUN_STATUS));
        let params = ResolveParams {
            ctx: context(shape.deadline, shape.grace, &format!("resolve-{}", query.id)),
            id: query.id.clone(),
            known: query.known.clone(),
            resources: query.resources.clone(),
            purpose: query.purpose,
        };
        let answer = self.ask(shape, &params, Hands::default(), &Stop::never()).await;
        let LeaseResult { lease } = match answer {
            Err(error) if error.code == ErrorCode::NotFound => return Ok(None),
            answer => answer?,
        };
        let typed = LeaseId::parse(&query.id);
        let id = query.known.as_ref().map(|known| &known.lease_id).or(typed.as_ref());
        self.checked(shape, lease, id).map(Some)
    }

    async fn list(&self) -> Result<(Vec<Lease>, bool)> {
        let mut shape = self.read(self.pick(method::LEASE_LIST, method::RUN_LIST));
        let until = Instant::now() + shape.deadline;
        let (mut leases, mut complete, mut cursor) = (Vec::new(), true, None);
        for _ in 0..MAX_PAGES {
            let params = ListParams { ctx: context(shape.deadline, shape.grace, "list"), cursor };
            let page: ListResult =
                self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
            for lease in page.leases {
                leases.push(self.checked(shape, lease, None)?);
            }
            complete &= page.complete;
            match page.next_cursor {
                Some(next) if Some(&next) != params.cursor.as_ref() => cursor = Some(next),
                Some(_) => return Err(self.lie(shape, "a listing turns in circles".to_owned())),
                None => return Ok((leases, complete)),
            }
            // All pages together have the time of one call.
            shape.deadline = until.saturating_duration_since(Instant::now());
            if leases.len() > MAX_LEASES {
                break;
            }
        }
        Ok((leases, false))
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome> {
        let shape = Shape {
            method: self.pick(method::LEASE_RELEASE, method::RUN_STOP),
            deadline: self.timeouts.release,
            grace: self.timeouts.grace.1,
            mutating: true,
        };
        let cloud_id = (!lease.cloud_id.is_empty()).then(|| lease.cloud_id.clone());
        let params = ReleaseParams {
            ctx: context(shape.deadline, shape.grace, &format!("release-{}", lease.lease_id)),
            lease: lease.clone(),
            expected: Expected { lease_id: lease.lease_id.clone(), cloud_id },
        };
        let answer: ReleaseResult =
            self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
        Ok(answer.outcome)
    }

    async fn touch(&self, lease: &Lease, state: &str) -> Result<Lease> {
        let noted = self.about.features.iter().any(|feature| feature == TOUCH);
        if self.about.kind == ProviderKind::DelegatedRun && !noted {
            return Ok(lease.clone()); // its own runs keep it in use
        }
        let shape = self.change(method::LEASE_TOUCH);
        let params = TouchParams {
            ctx: context(shape.deadline, shape.grace, &format!("touch-{}", lease.lease_id)),
            lease: lease.clone(),
            state: state.to_owned(),
        };
        let LeaseResult { lease: answer } =
            self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
        let answer = self.checked(shape, answer, Some(&lease.lease_id))?;
        if !lease.cloud_id.is_empty() && answer.cloud_id != lease.cloud_id {
            return Err(self.lie(shape, "lease.touch changed the box's own id".to_owned()));
        }
        Ok(answer)
    }

    async fn doctor(&self) -> Result<Vec<Check>> {
        let shape = self.read(method::DOCTOR);
        let params = BareParams { ctx: context(shape.deadline, shape.grace, "doctor") };
        let answer: DoctorResult =
            self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
        Ok(answer.checks)
    }

    async fn run(
        &self,
        run: &DelegatedRun,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<RunStartResult> {
        if self.about.kind == ProviderKind::SshLease {
            let what = format!("provider {} runs no commands itself", self.about.provider);
            return Err(KernelError::new(ErrorCode::Unsupported, what));
        }
        let (most, extra) = self.timeouts.run;
        let sync = run.workspace.as_ref().map_or(Duration::ZERO, |tree| tree.limit);
        let extra = extra.saturating_add(sync);
        let limit = run.timeout_secs.map(|secs| Duration::from_secs(secs).saturating_add(extra));
        let shape = Shape {
            method: method::RUN_START,
            deadline: limit.unwrap_or(most),
            grace: self.timeouts.grace.0,
            mutating: true,
        };
        let blobs = &self.link.broker.blobs;
        let tree = run.workspace.as_ref();
        let archive = tree.map(|tree| blobs.adopt(&tree.archive)).transpose();
        let workspace_blob = archive.map_err(|e| {
            KernelError::new(ErrorCode::State, "cannot read the archive of the tree").because(&e)
        })?;
        let params = RunStartParams {
            ctx: context(shape.deadline, shape.grace, &run.run_id),
            run_id: run.run_id.clone(),
            lease: run.lease.clone(),
            command: run.command.clone(),
            env: run.env.clone(),
            workspace: tree.map(|tree| tree.archive.to_string_lossy().into_owned()),
            workspace_blob: workspace_blob.clone(),
            workspace_digest: tree.and_then(|tree| tree.digest.clone()),
            workspace_keeps: tree.is_some_and(|tree| tree.keeps),
            timeout_secs: run.timeout_secs,
        };
        let hands = Hands { trail: None, events: Some(events) };
        let result = self.ask(shape, &params, hands, stop).await;
        if let Some(blob) = workspace_blob {
            blobs.remove(&blob);
        }
        result
    }

    async fn evidence(&self, lease: &Lease) -> Result<Option<EvidenceResult>> {
        if !self.answers(method::EVIDENCE_COLLECT) {
            return Ok(None);
        }
        let shape = self.read(method::EVIDENCE_COLLECT);
        let ctx = context(shape.deadline, shape.grace, &attempt("evidence", lease));
        let params = EvidenceParams { ctx, lease: lease.clone() };
        self.ask(shape, &params, Hands::default(), &Stop::never()).await.map(Some)
    }

    async fn grant_access(&self, lease: &Lease) -> Result<SshEndpoint> {
        let shape = self.change(method::ACCESS_GRANT);
        let params = AccessParams {
            ctx: context(shape.deadline, shape.grace, &attempt("access", lease)),
            lease: lease.clone(),
            user: None,
        };
        let AccessResult { ssh, .. } =
            self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
        let mut lease = Lease { ssh: Some(ssh), ..lease.clone() };
        lease = self.checked(shape, lease, None)?;
        let ssh = lease.ssh.take().unwrap_or_default();
        if !ssh.user_secret {
            return Ok(ssh);
        }
        // The plugin has only the handle of it.
        let user = self.link.broker.net.vault().login(&ssh.user, &ssh.host);
        let user = user.map_err(|error| self.lie(shape, error.message))?;
        self.lent().push((lease.lease_id, ssh.user.clone()));
        Ok(SshEndpoint { user: user.expose().to_owned(), ..ssh })
    }

    async fn revoke_access(&self, lease: &Lease) -> Result<()> {
        let shape = self.change(method::ACCESS_REVOKE);
        // Of a user name that is a secret exactly what this session was lent; others stay in.
        let is_secret = lease.ssh.as_ref().is_some_and(|ssh| ssh.user_secret);
        let users = match is_secret {
            true => self.take_lent(&lease.lease_id),
            false => vec![None],
        };
        for user in users {
            let ctx = context(shape.deadline, shape.grace, &attempt("revoke", lease));
            let params = AccessParams { ctx, lease: lease.clone(), user };
            let _: Value = self.ask(shape, &params, Hands::default(), &Stop::never()).await?;
        }
        Ok(())
    }
}

/// Each access is one of its own: whoever asks twice is let in twice.
fn attempt(what: &str, lease: &Lease) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}.{next}", lease.lease_id, std::process::id())
}

/// What is lent goes to no plugin: it is the connection's alone.
fn keep_lent(params: &mut Value) {
    for lease in ["lease", "known"] {
        let Some(Value::Object(lease)) = params.get_mut(lease) else { continue };
        if lease.get("ssh").is_some_and(|ssh| ssh["userSecret"] == true) {
            lease.remove("ssh");
        }
    }
}

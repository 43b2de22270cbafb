//! A provider whose plugin is started when something is first asked of it.

use crabbox_kernel::error::Result;
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::{About, DelegatedRun, EventSink, Provider, Query, Stop, Wanted};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::lease::{Lease, ReleaseOutcome, SshEndpoint};
use crabbox_schemas::plugin::{Check, EvidenceResult, RunStartResult};
use tokio::sync::OnceCell;

use crate::session::{OpenOptions, Session, open};

/// One provider, not yet running. What its manifest says is known without it.
pub struct Lazy<'a> {
    options: OpenOptions<'a>,
    about: About,
    session: OnceCell<Session>,
}

impl<'a> Lazy<'a> {
    /// Nothing is started and nothing is checked.
    pub fn new(options: OpenOptions<'a>) -> Self {
        let about = options.entry.about(&options.config);
        Self { options, about, session: OnceCell::new() }
    }

    /// The live session; started by the first who asks. A start that failed is tried again by the next.
    pub async fn session(&self) -> Result<&Session> {
        let start = async || open(self.options.clone()).await.map_err(|e| e.at("provider"));
        self.session.get_or_try_init(start).await
    }

    /// Ends the plugin, if it was started.
    pub async fn close(self) {
        if let Some(session) = self.session.into_inner() {
            session.close().await;
        }
    }
}

impl Provider for Lazy<'_> {
    fn about(&self) -> &About {
        &self.about
    }

    fn pin(&self) -> Result<PluginPin> {
        self.options.entry.pin()
    }

    async fn acquire(
        &self,
        wanted: &Wanted,
        trail: &mut Trail,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Lease> {
        self.session().await?.acquire(wanted, trail, events, stop).await
    }

    async fn resolve(&self, query: &Query) -> Result<Option<Lease>> {
        self.session().await?.resolve(query).await
    }

    async fn list(&self) -> Result<(Vec<Lease>, bool)> {
        self.session().await?.list().await
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome> {
        self.session().await?.release(lease).await
    }

    async fn touch(&self, lease: &Lease, state: &str) -> Result<Lease> {
        self.session().await?.touch(lease, state).await
    }

    async fn doctor(&self) -> Result<Vec<Check>> {
        self.session().await?.doctor().await
    }

    async fn run(
        &self,
        run: &DelegatedRun,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<RunStartResult> {
        self.session().await?.run(run, events, stop).await
    }

    async fn evidence(&self, lease: &Lease) -> Result<Option<EvidenceResult>> {
        self.session().await?.evidence(lease).await
    }

    async fn grant_access(&self, lease: &Lease) -> Result<SshEndpoint> {
        self.session().await?.grant_access(lease).await
    }

    async fn revoke_access(&self, lease: &Lease) -> Result<()> {
        self.session().await?.revoke_access(lease).await
    }
}

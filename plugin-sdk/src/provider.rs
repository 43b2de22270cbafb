//! The two roles a provider may have: it hands out boxes, or it runs commands itself.

use crabbox_schemas::lease::{Lease, ReleaseOutcome};
use crabbox_schemas::plugin::{
    AccessParams, AccessResult, AcquireParams, CatalogParams, CatalogResult, Check, EvidenceParams,
    EvidenceResult, Instance, ListParams, ListResult, QuoteParams, QuoteResult, ReleaseParams,
    ResolveParams, RunStartParams, RunStartResult, TouchParams,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Call, Failure, Output};

/// A provider that hands out boxes the kernel connects to over SSH.
///
/// Methods may run at the same time on several threads. Every one is bounded by its call's deadline
/// and should look at [`Call::check`] between steps.
pub trait SshLease: Send + Sync + 'static {
    /// Whether acquiring twice with one lease id yields one resource.
    fn idempotent_acquire(&self) -> bool {
        false
    }

    /// Makes a box. Each resource goes to [`Call::record`] before anything else happens.
    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure>;

    /// Looks a box up. [`Failure::not_found`] proves that it does not exist.
    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure>;

    /// Every box that carries crabbox's label.
    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure>;

    /// Gives a box back; repeatable. Touches nothing unless `expected` holds.
    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure>;

    /// Which of the optional methods below are there: `catalog.sizes`, `catalog.regions`, `pricing.quote`,
    /// `evidence.collect`.
    fn facts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Machine types that can be asked for.
    fn sizes(&self, _call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        Err(Failure::unsupported("this provider lists no machine types"))
    }

    /// Regions that can be asked for.
    fn regions(&self, _call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        Err(Failure::unsupported("this provider lists no regions"))
    }

    /// What a box like this would cost.
    fn quote(&self, _call: &Call, _params: QuoteParams) -> Result<QuoteResult, Failure> {
        Err(Failure::unsupported("this provider knows no prices"))
    }

    /// Why a box died.
    fn evidence(&self, _call: &Call, _params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        Err(Failure::unsupported("this provider cannot say how a box died"))
    }

    /// Notes that the box is still in use. Says what is known when there is nothing to note.
    fn touch(&self, _call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        Ok(params.lease)
    }

    /// Looks at credentials and prerequisites; creates nothing.
    fn doctor(&self, _call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }

    /// Checks what a schema cannot say of the settings.
    fn validate(&self, _call: &Call) -> Result<(), Failure> {
        Ok(())
    }
}

/// A provider that takes the tree and the command and runs it itself.
pub trait DelegatedRun: Send + Sync + 'static {
    /// Whether warming up twice with one lease id yields one resource.
    fn idempotent_acquire(&self) -> bool {
        false
    }

    /// Makes a box ready for commands.
    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure>;

    /// Runs one command, at most once, and passes on what it prints.
    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure>;

    /// Every box that carries crabbox's label.
    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure>;

    /// Looks a box up. [`Failure::not_found`] proves that it does not exist.
    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure>;

    /// Gives a box back; repeatable. Touches nothing unless `expected` holds.
    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure>;

    /// Which of the optional methods below are there: `lease.touch`, `access.grant`, `access.revoke`.
    fn facts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Notes that the box is still in use. Says what is known when there is nothing to note.
    fn touch(&self, _call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        Ok(params.lease)
    }

    /// Lets crabbox into a box over SSH for a while; for providers with the feature `ssh-access`. A secret user name is
    /// the handle that [`capture_for`](crate::HttpRequest::capture_for) left, for the host's `https` origin.
    fn access(&self, _call: &Call, _params: AccessParams) -> Result<AccessResult, Failure> {
        Err(Failure::unsupported("this provider lets nobody in over SSH"))
    }

    /// Ends every access to a box that was granted.
    fn revoke(&self, _call: &Call, _params: AccessParams) -> Result<(), Failure> {
        Ok(())
    }

    /// Looks at credentials and prerequisites; creates nothing.
    fn doctor(&self, _call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }

    /// Checks what a schema cannot say of the settings.
    fn validate(&self, _call: &Call) -> Result<(), Failure> {
        Ok(())
    }
}

/// A secret as it appears in the settings: its name, never its value. See [`Call::secret`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SecretRef {
    /// The name to ask for.
    #[serde(rename = "$secret")]
    pub name: String,
}

impl From<&SecretRef> for String {
    fn from(secret: &SecretRef) -> Self {
        secret.name.clone()
    }
}

/// Reads the instance's settings into the provider's own type.
pub fn settings<T: DeserializeOwned>(instance: &Instance) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(instance.config.clone())).map_err(|error| {
        Failure::invalid_config("", format!("the settings of {} do not fit", instance.provider))
            .because(&error)
    })
}

/// The same where what the user did not set has the value that the provider's schema of settings says: defaults are
/// written once.
pub fn settings_with_defaults<T: DeserializeOwned>(
    schema: &str,
    mut instance: Instance,
) -> Result<T, Failure> {
    let schema: Value = serde_json::from_str(schema)
        .map_err(|error| Failure::internal("the schema of settings is broken").because(&error))?;
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, property) in properties {
        if let Some(value) = property.get("default") {
            instance.config.entry(name).or_insert_with(|| value.clone());
        }
    }
    settings(&instance)
}

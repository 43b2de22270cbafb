//! From a method's name to the provider's own method, for both roles.

use crabbox_schemas::plugin::{
    Check, DoctorResult, LeaseResult, ProviderKind, ReleaseResult, RunStartParams, method,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Call, DelegatedRun, Failure, Output, SshLease};

/// A provider as the session sees it.
pub(crate) trait Behaviour: Send + Sync {
    /// Runs one of the methods that were offered.
    fn answer(&self, call: &Call, name: &str, params: Value) -> Result<Value, Failure>;
}

/// What one of the two roles offers.
pub(crate) struct Role {
    pub(crate) kind: ProviderKind,
    pub(crate) methods: &'static [&'static str],
}

pub(crate) struct Boxes<P>(pub(crate) P);
pub(crate) struct Runs<P>(pub(crate) P);

pub(crate) const BOXES: Role = Role {
    kind: ProviderKind::SshLease,
    methods: &[
        method::CONFIG_VALIDATE,
        method::DOCTOR,
        method::LEASE_ACQUIRE,
        method::LEASE_RESOLVE,
        method::LEASE_LIST,
        method::LEASE_RELEASE,
        method::LEASE_TOUCH,
    ],
};

pub(crate) const RUNS: Role = Role {
    kind: ProviderKind::DelegatedRun,
    methods: &[
        method::CONFIG_VALIDATE,
        method::DOCTOR,
        method::RUN_WARMUP,
        method::RUN_START,
        method::RUN_LIST,
        method::RUN_STATUS,
        method::RUN_STOP,
    ],
};

impl<P: SshLease> Behaviour for Boxes<P> {
    fn answer(&self, call: &Call, name: &str, params: Value) -> Result<Value, Failure> {
        let provider = &self.0;
        match name {
            method::CONFIG_VALIDATE => provider.validate(call).map(|()| json!({})),
            method::DOCTOR => doctor(provider.doctor(call)?),
            method::LEASE_ACQUIRE => {
                pack(LeaseResult { lease: provider.acquire(call, read(params)?)? })
            }
            method::LEASE_RESOLVE => {
                pack(LeaseResult { lease: provider.resolve(call, read(params)?)? })
            }
            method::LEASE_LIST => pack(provider.list(call, read(params)?)?),
            method::LEASE_RELEASE => {
                pack(ReleaseResult { outcome: provider.release(call, read(params)?)? })
            }
            method::LEASE_TOUCH => {
                pack(LeaseResult { lease: provider.touch(call, read(params)?)? })
            }
            method::CATALOG_SIZES => pack(provider.sizes(call, read(params)?)?),
            method::CATALOG_REGIONS => pack(provider.regions(call, read(params)?)?),
            method::PRICING_QUOTE => pack(provider.quote(call, read(params)?)?),
            method::EVIDENCE_COLLECT => pack(provider.evidence(call, read(params)?)?),
            _ => Err(Failure::unsupported(format!("no method {name}"))),
        }
    }
}

impl<P: DelegatedRun> Behaviour for Runs<P> {
    fn answer(&self, call: &Call, name: &str, params: Value) -> Result<Value, Failure> {
        let provider = &self.0;
        match name {
            method::CONFIG_VALIDATE => provider.validate(call).map(|()| json!({})),
            method::DOCTOR => doctor(provider.doctor(call)?),
            method::RUN_WARMUP => {
                pack(LeaseResult { lease: provider.warmup(call, read(params)?)? })
            }
            method::RUN_START => {
                let params: RunStartParams = read(params)?;
                pack(provider.run(call, params, &Output::new(call))?)
            }
            method::RUN_LIST => pack(provider.list(call, read(params)?)?),
            method::RUN_STATUS => {
                pack(LeaseResult { lease: provider.status(call, read(params)?)? })
            }
            method::RUN_STOP => {
                pack(ReleaseResult { outcome: provider.stop(call, read(params)?)? })
            }
            method::LEASE_TOUCH => {
                pack(LeaseResult { lease: provider.touch(call, read(params)?)? })
            }
            method::ACCESS_GRANT => pack(provider.access(call, read(params)?)?),
            method::ACCESS_REVOKE => provider.revoke(call, read(params)?).map(|()| json!({})),
            _ => Err(Failure::unsupported(format!("no method {name}"))),
        }
    }
}

fn doctor(checks: Vec<Check>) -> Result<Value, Failure> {
    pack(DoctorResult { checks })
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Failure> {
    serde_json::from_value(params)
        .map_err(|error| Failure::invalid_request(format!("the params do not fit: {error}")))
}

pub(crate) fn pack(result: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result)
        .map_err(|error| Failure::internal("cannot encode the result").because(&error))
}

//! The user's settings.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    AcquireParams, Failure, Instance, SecretRef, label_value, own_labels, settings,
};
use serde::Deserialize;

/// `daytona:` in the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Config {
    api_key: Option<SecretRef>,
    jwt_token: Option<SecretRef>,
    pub(crate) organization_id: Option<String>,
    pub(crate) api_url: String,
    pub(crate) toolbox_url: Option<String>,
    snapshot: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) user: String,
    work_root: String,
    pub(crate) ssh_gateway_host: String,
    pub(crate) ssh_access_minutes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_key: None,
            jwt_token: None,
            organization_id: None,
            api_url: "https://app.daytona.io/api".to_owned(),
            toolbox_url: None,
            snapshot: None,
            target: None,
            user: "daytona".to_owned(),
            work_root: "/home/daytona/crabbox".to_owned(),
            ssh_gateway_host: "ssh.app.daytona.io".to_owned(),
            ssh_access_minutes: 30,
        }
    }
}

impl Config {
    /// Reads and checks them: nothing is asked of Daytona before they make sense.
    pub(crate) fn read(instance: &Instance) -> Result<Self, Failure> {
        let mut config: Self = settings(instance)?;
        for url in [Some(&mut config.api_url), config.toolbox_url.as_mut()].into_iter().flatten() {
            url.truncate(url.trim_end_matches('/').len());
        }
        if config.uses_jwt() && config.organization_id.is_none() {
            let what = "a JWT says nothing of the organization it is for";
            return Err(Failure::invalid_config("/organization-id", what)
                .hint("set daytona.organizationId or DAYTONA_ORGANIZATION_ID"));
        }
        let root = &config.work_root;
        if !root.starts_with('/') || root.split('/').any(|part| part == "..") {
            let what = format!("{root:?} is no absolute path");
            return Err(Failure::invalid_config("/work-root", what));
        }
        Ok(config)
    }

    fn uses_jwt(&self) -> bool {
        self.api_key.is_none() && self.jwt_token.is_some()
    }

    /// The secret requests are authorised with; without one the host says which it misses.
    pub(crate) fn credential(&self) -> &'static str {
        if self.uses_jwt() { "jwt-token" } else { "api-key" }
    }

    pub(crate) fn snapshot(&self) -> Result<&str, Failure> {
        self.snapshot.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| {
            Failure::invalid_config(
                "/snapshot",
                "a sandbox is made from a snapshot, and none is named",
            )
            .hint(
                "set daytona.snapshot, or pass --daytona-snapshot; Daytona's dashboard lists them",
            )
        })
    }

    /// Refuses what Daytona does not have, before anything is made.
    pub(crate) fn check(&self, params: &AcquireParams) -> Result<(), Failure> {
        let request = &params.request;
        let refused = |what: String| {
            Err(Failure::unsupported(what)
                .hint("the snapshot says how big a sandbox is: set daytona.snapshot"))
        };
        // `beast` is what is wanted when nobody said anything, `standard` when somebody wants nothing special.
        match (&*request.target, &request.machine_type, &*request.class) {
            ("" | "linux", None, "" | "standard" | "beast") => self.snapshot().map(drop),
            ("" | "linux", Some(wanted), _) => {
                refused(format!("Daytona has no machine type {wanted}"))
            }
            ("" | "linux", None, class) => refused(format!("Daytona has no class {class}")),
            (other, ..) => {
                Err(Failure::unsupported(format!("Daytona has no sandboxes with {other}")))
            }
        }
    }

    /// The folder that holds the tree.
    pub(crate) fn tree(&self) -> String {
        format!("{}/tree", self.work_root.trim_end_matches('/'))
    }

    /// The folder beside it for what crabbox remembers there.
    pub(crate) fn notes(&self) -> String {
        format!("{}/.crabbox", self.work_root.trim_end_matches('/'))
    }

    pub(crate) fn work_root(&self) -> &str {
        &self.work_root
    }
}

/// A number among labels.
pub(crate) fn minutes(secs: u64) -> u64 {
    secs.div_ceil(60).max(1)
}

/// The labels of a lease's sandbox. Its name is another one than the lease's.
pub(crate) fn labels(params: &AcquireParams) -> BTreeMap<String, String> {
    let mut labels = own_labels(params, "daytona");
    let own = [("created_by", "crabbox"), ("lease_name", &params.desired.name)];
    labels.extend(own.map(|(name, value)| (name.to_owned(), label_value(value))));
    labels
}

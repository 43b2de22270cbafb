//! A plugin before it is opened: its manifest, and how to make the provider from its settings.

use std::fmt;
use std::sync::Arc;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::manifest::{Grants, Manifest, ProviderEntry};
use crabbox_schemas::plugin::{
    InitializeParams, InitializeResult, Instance, PROTOCOLS, PluginIdentity, ProviderOffer,
};

use serde_json::Value;

use crate::behaviour::{BOXES, Behaviour, Boxes, RUNS, Role, Runs, pack};
use crate::{DelegatedRun, Failure, SshLease};

/// A provider that was opened, and what it says of itself.
pub(crate) struct Opened {
    pub(crate) provider: Arc<dyn Behaviour>,
    #[cfg_attr(
        target_family = "wasm",
        expect(dead_code, reason = "the runner looks at the hello")
    )]
    pub(crate) methods: Vec<String>,
    /// The result of `initialize`.
    pub(crate) hello: Value,
}

type Opener = dyn FnOnce(Value) -> Result<Opened, Failure> + Send;

/// A plugin that is ready to serve one kernel.
pub struct Plugin {
    /// Takes the params of `initialize`.
    pub(crate) open: Box<Opener>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plugin")
    }
}

impl Plugin {
    /// A plugin whose provider hands out boxes. `manifest` is the text of its `crabbox-plugin.toml`.
    pub fn ssh_lease<P: SshLease>(
        manifest: &str,
        open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
    ) -> Self {
        let manifest = toml::from_str(manifest);
        Self::new(move |params| {
            introduce(manifest, params, &BOXES, |instance| {
                let provider = open(instance)?;
                let (idempotent, facts) = (provider.idempotent_acquire(), provider.facts());
                Ok((Arc::new(Boxes(provider)) as Arc<dyn Behaviour>, idempotent, facts))
            })
        })
    }

    /// A plugin whose provider runs commands itself. `manifest` is the text of its `crabbox-plugin.toml`.
    pub fn delegated_run<P: DelegatedRun>(
        manifest: &str,
        open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
    ) -> Self {
        let manifest = toml::from_str(manifest);
        Self::new(move |params| {
            introduce(manifest, params, &RUNS, |instance| {
                let provider = open(instance)?;
                let (idempotent, facts) = (provider.idempotent_acquire(), provider.facts());
                Ok((Arc::new(Runs(provider)) as Arc<dyn Behaviour>, idempotent, facts))
            })
        })
    }

    pub(crate) fn new(
        open: impl FnOnce(Value) -> Result<Opened, Failure> + Send + 'static,
    ) -> Self {
        Self { open: Box::new(open) }
    }

    /// Serves one kernel over any pair of pipes until it closes its end. An error means that the
    /// kernel broke the protocol.
    #[cfg(not(target_family = "wasm"))]
    pub fn serve(
        self,
        input: impl std::io::Read,
        output: impl std::io::Write + Send + 'static,
    ) -> Result<(), Failure> {
        crate::session::run(self, input, output)
    }
}

/// Opens the provider that is wanted, in the role its manifest gives it.
fn introduce(
    manifest: Result<Manifest, toml::de::Error>,
    params: Value,
    role: &Role,
    open: impl FnOnce(Instance) -> Result<(Arc<dyn Behaviour>, bool, &'static [&'static str]), Failure>,
) -> Result<Opened, Failure> {
    let params: InitializeParams = serde_json::from_value(params).map_err(|e| unfit(&e))?;
    let manifest = manifest
        .map_err(|error| Failure::internal("the plugin's manifest is broken").because(&error))?;
    let protocol = choose(&params.protocols)?;
    let entry = entry(&manifest, &params.instance.provider)?;
    let (provider, idempotent_acquire, facts) = open(params.instance)?;
    if role.kind != entry.kind {
        let message = format!("{} is not what the manifest says it is", entry.name);
        return Err(Failure::internal(message));
    }
    let methods: Vec<String> =
        role.methods.iter().chain(facts).map(|&name| name.to_owned()).collect();
    let hello = InitializeResult {
        protocol,
        plugin: PluginIdentity { id: manifest.id.clone(), version: manifest.version.clone() },
        provider: ProviderOffer {
            name: entry.name.clone(),
            kind: entry.kind,
            features: entry.features.clone(),
            idempotent_acquire,
        },
        methods: methods.clone(),
        requires: requires(&manifest.grants),
    };
    Ok(Opened { provider, methods, hello: pack(hello)? })
}

/// Params that are not what they should be.
pub(crate) fn unfit(error: &serde_json::Error) -> Failure {
    let message = format!("the params do not fit: {error}");
    Failure::breach(-32602, ErrorKind::InvalidRequest, message)
}

/// The newest version both sides know.
fn choose(offered: &[String]) -> Result<String, Failure> {
    let common = PROTOCOLS.iter().find(|ours| offered.iter().any(|theirs| theirs == *ours));
    common.map(|&version| version.to_owned()).ok_or_else(|| {
        Failure::unsupported(format!(
            "no common protocol: the kernel offers {}, the plugin speaks {}",
            offered.join(", "),
            PROTOCOLS.join(", ")
        ))
        .hint("update the older of the two")
    })
}

fn entry<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a ProviderEntry, Failure> {
    manifest
        .providers
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| Failure::unsupported(format!("{} has no provider {name}", manifest.id)))
}

/// The callback groups a plugin with these grants cannot work without.
fn requires(grants: &Grants) -> Vec<String> {
    let groups = [("http", grants.http.is_empty()), ("exec", grants.exec.is_empty())];
    groups.iter().filter(|group| !group.1).map(|group| group.0.to_owned()).collect()
}

//! A plugin before it is opened: its manifest, and how to make the provider from its settings.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use crabbox_schemas::manifest::{Grants, Manifest, ProviderEntry};
use crabbox_schemas::plugin::{
    InitializeParams, InitializeResult, Instance, Limits, PROTOCOLS, PluginIdentity, ProviderOffer,
};

use crate::behaviour::{Behaviour, Boxes, Runs};
use crate::{DelegatedRun, Failure, SshLease, session};

type Opener = dyn FnOnce(Instance) -> Result<Arc<dyn Behaviour>, Failure> + Send;

/// A plugin that is ready to serve one kernel.
pub struct Plugin {
    manifest: Result<Manifest, toml::de::Error>,
    open: Box<Opener>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Plugin {
    /// A plugin whose provider hands out boxes. `manifest` is the text of its `crabbox-plugin.toml`.
    pub fn ssh_lease<P: SshLease>(
        manifest: &str,
        open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
    ) -> Self {
        let open = |instance| open(instance).map(|p| Arc::new(Boxes(p)) as Arc<dyn Behaviour>);
        Self { manifest: toml::from_str(manifest), open: Box::new(open) }
    }

    /// A plugin whose provider runs commands itself. `manifest` is the text of its `crabbox-plugin.toml`.
    pub fn delegated_run<P: DelegatedRun>(
        manifest: &str,
        open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
    ) -> Self {
        let open = |instance| open(instance).map(|p| Arc::new(Runs(p)) as Arc<dyn Behaviour>);
        Self { manifest: toml::from_str(manifest), open: Box::new(open) }
    }

    /// Serves one kernel over any pair of pipes until it closes its end. An error means that the
    /// kernel broke the protocol.
    pub fn serve(
        self,
        input: impl Read,
        output: impl Write + Send + 'static,
    ) -> Result<(), Failure> {
        session::run(self, input, output)
    }

    pub(crate) fn initialize(
        self,
        params: InitializeParams,
    ) -> Result<(Arc<dyn Behaviour>, Limits, InitializeResult), Failure> {
        let manifest = self.manifest.map_err(|error| {
            Failure::internal("the plugin's manifest is broken").because(&error)
        })?;
        let protocol = choose(&params.protocols)?;
        let entry = entry(&manifest, &params.instance.provider)?;
        let provider = (self.open)(params.instance)?;
        if provider.kind() != entry.kind {
            let message = format!("{} is not what the manifest says it is", entry.name);
            return Err(Failure::internal(message));
        }
        let result = InitializeResult {
            protocol,
            plugin: PluginIdentity { id: manifest.id.clone(), version: manifest.version.clone() },
            provider: ProviderOffer {
                name: entry.name.clone(),
                kind: entry.kind,
                features: entry.features.clone(),
                idempotent_acquire: provider.idempotent_acquire(),
            },
            methods: provider.methods().iter().map(|&name| name.to_owned()).collect(),
            requires: requires(&manifest.grants),
        };
        Ok((provider, params.limits, result))
    }
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

//! The settings as the user writes them, and what must be true of them.

use crabbox_plugin_sdk::Failure;
use serde::Deserialize;

/// Which program makes boxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runtime {
    /// The first that answers.
    #[default]
    Auto,
    Docker,
    Podman,
}

/// The block `providers.container`, or `localContainer`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) runtime: Runtime,
    pub(crate) image: String,
    pub(crate) user: String,
    pub(crate) work_root: String,
    pub(crate) cpus: Option<f64>,
    pub(crate) memory: String,
    pub(crate) pids: Option<u64>,
    pub(crate) network: String,
    pub(crate) env: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) docker_socket: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime: Runtime::Auto,
            image: "docker.io/library/debian:bookworm".to_owned(),
            user: String::new(),
            work_root: String::new(),
            cpus: None,
            memory: String::new(),
            pids: None,
            network: "bridge".to_owned(),
            env: Vec::new(),
            volumes: Vec::new(),
            docker_socket: false,
        }
    }
}

impl Settings {
    /// Refuses what the runtime could take for an option or a second word, and networks nobody could reach.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let words = [
            ("image", &self.image),
            ("user", &self.user),
            ("work-root", &self.work_root),
            ("network", &self.network),
        ];
        for (name, value) in words {
            if value.starts_with('-')
                || value.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                let message = format!("{name} {value:?} begins with a dash or holds a blank");
                return Err(Failure::invalid_config(format!("/{name}"), message));
            }
        }
        let unreachable = self.network == "none" || self.network.contains(':');
        if unreachable {
            let message = format!("a box with network {:?} could not be reached", self.network);
            return Err(Failure::invalid_config("/network", message).hint(
                "use `bridge`, `host`, or a network made with `docker network create`; the local provider has boxes without network",
            ));
        }
        if self.work_root.split('/').any(|part| part == "..") {
            let message = format!("work root {:?} climbs out of itself", self.work_root);
            return Err(Failure::invalid_config("/work-root", message));
        }
        Ok(())
    }

    /// Whether the box listens on this machine's own network.
    pub(crate) fn on_host(&self) -> bool {
        self.network == "host"
    }

    /// The folder for work: configured here, else the general one, else the usual.
    pub(crate) fn work_root(&self, asked: Option<&str>) -> String {
        let own = Some(&*self.work_root).filter(|root| !root.is_empty());
        let asked = asked.filter(|root| root.starts_with('/'));
        own.or(asked).unwrap_or("/work/crabbox").to_owned()
    }
}

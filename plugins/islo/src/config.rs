//! The user's settings.

use crabbox_plugin_sdk::{Failure, Instance, settings};
use serde::Deserialize;

/// Islo's own control API, and the compute API that belongs to it.
const CONTROL: &str = "https://api.islo.dev";
const COMPUTE: &str = "https://ca.compute.islo.dev";

/// `islo:` in the configuration.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) base_url: String,
    compute_url: Option<String>,
    pub(crate) image: String,
    pub(crate) workdir: String,
    pub(crate) gateway_profile: Option<String>,
    pub(crate) snapshot_name: Option<String>,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) disk_gb: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_url: CONTROL.to_owned(),
            compute_url: None,
            image: "docker.io/library/ubuntu:24.04".to_owned(),
            workdir: "crabbox".to_owned(),
            gateway_profile: None,
            snapshot_name: None,
            vcpus: 2,
            memory_mb: 4096,
            disk_gb: 20,
        }
    }
}

impl Config {
    /// Reads and checks them: nothing is asked of Islo before they make sense.
    pub(crate) fn read(instance: &Instance) -> Result<Self, Failure> {
        let mut config: Self = settings(instance)?;
        config.base_url = config.base_url.trim_end_matches('/').to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let folder = &config.workdir;
        if folder.is_empty() || folder.starts_with(['.', '-']) || !folder.chars().all(plain) {
            let what = format!("{folder:?} is no name for a folder below /workspace");
            return Err(Failure::invalid_config("/workdir", what));
        }
        for (field, url) in
            [("/base-url", &config.base_url), ("/compute-url", &config.compute().to_owned())]
        {
            if origin(url).is_none() {
                return Err(Failure::invalid_config(field, format!("{url:?} is no web address")));
            }
        }
        Ok(config)
    }

    /// Where the sandboxes are. Whoever has another control API has both in one place, unless they say otherwise.
    pub(crate) fn compute(&self) -> &str {
        match &self.compute_url {
            Some(url) => url.trim_end_matches('/'),
            None if self.base_url == CONTROL => COMPUTE,
            None => &self.base_url,
        }
    }

    /// The folder that holds the tree.
    pub(crate) fn tree(&self) -> String {
        format!("/workspace/{}", self.workdir)
    }

    /// The folder beside it for what crabbox remembers there.
    pub(crate) fn notes(&self) -> String {
        format!("/workspace/.crabbox-{}", self.workdir)
    }

    /// How big the sandbox is, in one word.
    pub(crate) fn size(&self) -> String {
        size(self.vcpus, self.memory_mb)
    }
}

/// A size in one word.
pub(crate) fn size(vcpus: u32, memory_mb: u32) -> String {
    format!("{vcpus}cpu-{memory_mb}mb")
}

/// Scheme, host and port of an address.
pub(crate) fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let scheme = url.len() - rest.len();
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (host > 0).then(|| &url[..scheme + host])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_control_api_has_the_sandboxes_too_unless_somebody_says_otherwise() {
        let own = |url: &str, compute: Option<&str>| Config {
            base_url: url.to_owned(),
            compute_url: compute.map(str::to_owned),
            ..Config::default()
        };
        assert_eq!(Config::default().compute(), COMPUTE);
        assert_eq!(own("http://127.0.0.1:9", None).compute(), "http://127.0.0.1:9");
        assert_eq!(
            own(CONTROL, Some("https://eu.example.dev/")).compute(),
            "https://eu.example.dev"
        );
        assert_eq!(origin("https://a.dev:8443/v1?x"), Some("https://a.dev:8443"));
        assert_eq!(origin("ftp://a.dev"), None);
        assert_eq!(origin("https:///x"), None);
    }
}

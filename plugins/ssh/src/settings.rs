//! The settings as the user writes them, and what must be true of them.

use std::path::Path;

use crabbox_plugin_sdk::Failure;
use serde::Deserialize;

/// The block `providers.ssh`, or `static`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) user: String,
    pub(crate) port: u16,
    #[serde(alias = "fallbackPorts")]
    pub(crate) fallback_ports: Vec<String>,
    pub(crate) key: String,
    #[serde(alias = "workRoot")]
    pub(crate) work_root: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) target: String,
}

impl Settings {
    /// Refuses what could be taken for an option, split a line, or leave the work root.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.host.is_empty() {
            return Err(Failure::invalid_config("/host", "no host is configured")
                .hint("set static.host, or give --static-host HOST"));
        }
        word("host", &self.host)?;
        if self.host.contains(['@', '/']) {
            return Err(Failure::invalid_config(
                "/host",
                format!("host {:?} is not a plain host name", self.host),
            )
            .hint("a login name goes into static.user, a port into static.port"));
        }
        word("user", &self.user)?;
        plain("key", &self.key)?;
        plain("name", &self.name)?;
        plain("id", &self.id)?;
        plain("work-root", &self.work_root)?;
        let root = Path::new(&self.work_root);
        let climbs = root.components().any(|part| part == std::path::Component::ParentDir);
        if !self.work_root.is_empty() && (!self.work_root.starts_with('/') || climbs) {
            return Err(Failure::invalid_config(
                "/work-root",
                format!("work root {:?} is not an absolute path", self.work_root),
            ));
        }
        Ok(())
    }

    /// The further ports as numbers; only useful with a first port.
    pub(crate) fn fallback(&self) -> Result<Vec<u16>, Failure> {
        let ports: Result<Vec<u16>, _> =
            self.fallback_ports.iter().map(|port| port.trim().parse()).collect();
        match ports {
            Ok(ports) if ports.contains(&0) => {
                Err(Failure::invalid_config("/fallback-ports", "0 is not a port"))
            }
            Ok(ports) if self.port == 0 && !ports.is_empty() => {
                Err(Failure::invalid_config("/fallback-ports", "fallback ports need a first port")
                    .hint("set static.port as well"))
            }
            Ok(ports) => Ok(ports),
            Err(error) => {
                Err(Failure::invalid_config("/fallback-ports", "a fallback port is no port number")
                    .because(&error))
            }
        }
    }
}

/// A value that may end up beside other words: no option, no blanks, no control characters.
fn word(field: &str, value: &str) -> Result<(), Failure> {
    plain(field, value)?;
    if value.starts_with('-') || value.contains(char::is_whitespace) {
        let message = format!("{field} {value:?} begins with a dash or holds a blank");
        return Err(Failure::invalid_config(format!("/{field}"), message));
    }
    Ok(())
}

fn plain(field: &str, value: &str) -> Result<(), Failure> {
    if value.chars().any(char::is_control) {
        let message = format!("{field} {value:?} holds a control character");
        return Err(Failure::invalid_config(format!("/{field}"), message));
    }
    Ok(())
}

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

    /// The further ports as numbers; the word `none` stands for none of them.
    pub(crate) fn fallback(&self) -> Result<Vec<u16>, Failure> {
        let words = self.fallback_ports.iter().map(|port| port.trim());
        words.filter(|word| *word != "none").map(port).collect()
    }
}

fn port(word: &str) -> Result<u16, Failure> {
    word.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
        Failure::invalid_config("/fallback-ports", format!("{word:?} is not a port number"))
    })
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

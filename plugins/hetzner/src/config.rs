//! The settings as the user writes them, what must be true of them, and which machines a class means.

use crabbox_plugin_sdk::Failure;
use crabbox_plugin_sdk::cloud::{Classes, distinct};
use serde::Deserialize;

/// Machine types of each class, the best first.
pub(crate) const CLASSES: Classes = Classes(&[
    ("standard", &["ccx33", "cpx62", "cx53"]),
    ("fast", &["ccx43", "cpx62", "cx53"]),
    ("large", &["ccx53", "ccx43", "cpx62", "cx53"]),
    ("beast", &["ccx63", "ccx53", "ccx43", "cpx62", "cx53"]),
]);

/// Locations of one network zone; elsewhere only what the user names is tried.
const NEIGHBOURS: &[&str] = &["fsn1", "nbg1", "hel1"];

/// What the schema says of each; the block `providers.hetzner`, or `hetzner`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) location: String,
    pub(crate) fallback_locations: Option<Vec<String>>,
    pub(crate) image: String,
    pub(crate) ssh_key: Option<String>,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) api_url: String,
}

impl Settings {
    /// Refuses servers that nobody could reach.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.ipv4 || self.ipv6 {
            return Ok(());
        }
        let what = "a server without IPv4 and IPv6 could not be reached";
        Err(Failure::invalid_config("/ipv4", what).hint("set hetzner.ipv4 or hetzner.ipv6 to true"))
    }

    /// Where to look for room, in order.
    pub(crate) fn locations(&self) -> Vec<&str> {
        let first = self.location.as_str();
        let others: Vec<&str> = match &self.fallback_locations {
            Some(chosen) => chosen.iter().map(String::as_str).collect(),
            None if NEIGHBOURS.contains(&first) => NEIGHBOURS.to_vec(),
            None => Vec::new(),
        };
        distinct([first].into_iter().chain(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(location: &str, fallback: Option<&[&str]>) -> Settings {
        let fallback_locations = fallback.map(|all| all.iter().map(|&l| l.to_owned()).collect());
        Settings { location: location.to_owned(), fallback_locations, ..Settings::default() }
    }

    #[test]
    fn room_is_looked_for_nearby_and_where_the_user_says() {
        assert_eq!(at("nbg1", None).locations(), ["nbg1", "fsn1", "hel1"]);
        assert_eq!(at("ash", None).locations(), ["ash"]);
        assert_eq!(at("fsn1", Some(&[])).locations(), ["fsn1"]);
        assert_eq!(at("ash", Some(&["hil", "ash"])).locations(), ["ash", "hil"]);
    }

    #[test]
    fn a_server_nobody_could_reach_is_refused() {
        assert!(Settings::default().check().is_err());
        assert!(Settings { ipv6: true, ..Settings::default() }.check().is_ok());
    }
}

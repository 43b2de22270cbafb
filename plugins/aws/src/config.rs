//! The settings as the user writes them, what must be true of them, and which machines a class means.

use crabbox_plugin_sdk::cloud::{Classes, Market, distinct};
use crabbox_plugin_sdk::{BoxRequest, Failure};
use serde::Deserialize;

use crate::system::System;

/// Instance types of each class, the best first.
pub(crate) const CLASSES: Classes = Classes(&[
    ("standard", &["c7a.8xlarge", "c7i.8xlarge", "m7a.8xlarge", "m7i.8xlarge", "c7a.4xlarge"]),
    (
        "fast",
        &[
            "c7a.16xlarge",
            "c7i.16xlarge",
            "m7a.16xlarge",
            "m7i.16xlarge",
            "c7a.12xlarge",
            "c7a.8xlarge",
        ],
    ),
    (
        "large",
        &[
            "c7a.24xlarge",
            "c7i.24xlarge",
            "m7a.24xlarge",
            "m7i.24xlarge",
            "r7a.24xlarge",
            "c7a.16xlarge",
            "c7a.12xlarge",
        ],
    ),
    (
        "beast",
        &[
            "c7a.48xlarge",
            "c7i.48xlarge",
            "m7a.48xlarge",
            "m7i.48xlarge",
            "r7a.48xlarge",
            "c7a.32xlarge",
            "m7a.32xlarge",
            "c7a.24xlarge",
            "c7a.16xlarge",
        ],
    ),
]);
/// The instance families whose vCPUs are counted together, which all classes are of.
const STANDARD: &[u8] = b"acdhimrtz";

/// What the schema says of each; the block `providers.aws`, or `aws`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) region: String,
    regions: Vec<String>,
    pub(crate) zones: Vec<String>,
    pub(crate) fallback: String,
    pub(crate) ami: Option<String>,
    mac_host_id: Option<String>,
    pub(crate) root_gb: u32,
    pub(crate) security_group_id: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) ssh_cidrs: Vec<String>,
    pub(crate) instance_profile: Option<String>,
    pub(crate) endpoint_url: Option<String>,
    pub(crate) address_url: String,
}

impl Settings {
    /// The user's own host for a Mac; none for anything else. crabbox makes no hosts and releases none.
    pub(crate) fn host(&self, system: System) -> Result<Option<&str>, Failure> {
        match (system, &self.mac_host_id) {
            (System::Mac, Some(host)) => Ok(Some(host)),
            (System::Mac, None) => {
                let what = "a Mac runs on a dedicated host, and aws.macHostId names none";
                Err(Failure::invalid_config("/mac-host-id", what).hint(
                    "allocate one in aws.region, which AWS bills for 24 hours at least, and set aws.macHostId to it",
                ))
            }
            _ => Ok(None),
        }
    }

    /// How to pay, the preferred way first; hosts for Macs are nobody's spare.
    pub(crate) fn markets(&self, request: &BoxRequest) -> &'static [Market] {
        match System::of(request) {
            System::Mac => &[Market::OnDemand],
            _ => Market::order_of(request, &self.fallback),
        }
    }

    /// Every region that may hold something of ours, after those that are likely to.
    pub(crate) fn regions<'a>(&'a self, likely: &[&'a str]) -> Vec<&'a str> {
        let own = [&self.region].into_iter().chain(&self.regions).map(String::as_str);
        distinct(likely.iter().copied().chain(own))
    }

    /// Whether instances can only be made in the first region, since something of the settings is there.
    pub(crate) fn is_bound(&self) -> bool {
        self.ami.is_some() || self.subnet_id.is_some() || self.security_group_id.is_some()
    }

    /// The zones to ask for in a region; the region itself leaves the choice to AWS.
    pub(crate) fn zones<'a>(&'a self, region: &'a str) -> Vec<&'a str> {
        let there = |zone: &&str| zone.strip_prefix(region).is_some_and(|rest| rest.len() <= 1);
        let all: Vec<_> = self.zones.iter().map(String::as_str).filter(there).collect();
        if all.is_empty() || self.subnet_id.is_some() { vec![region] } else { all }
    }
}

/// The vCPUs of a type whose family is counted in the account's standard limit; none where that is not known.
pub(crate) fn vcpus(machine: &str) -> Option<u32> {
    let (family, size) = machine.split_once('.')?;
    // Families such as `inf2`, `trn1`, `dl1` and `hpc7` have limits of their own.
    let plain = family.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if !plain || !STANDARD.contains(family.as_bytes().first()?) {
        return None;
    }
    match size {
        "nano" | "micro" | "small" | "medium" | "large" => Some(2),
        "xlarge" => Some(4),
        size => Some(size.strip_suffix("xlarge")?.parse::<u32>().ok()? * 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_in_a_types_name_says_how_many_vcpus_it_has() {
        for (machine, vcpus) in [
            ("c7a.48xlarge", Some(192)),
            ("m7i.xlarge", Some(4)),
            ("t3.small", Some(2)),
            ("mac2.metal", None),
            ("p5.48xlarge", None),
            ("inf2.xlarge", None),
        ] {
            assert_eq!(super::vcpus(machine), vcpus, "{machine}");
        }
    }

    #[test]
    fn zones_are_asked_for_in_their_own_region() {
        let zones = ["eu-west-1a", "us-east-1b", "eu-west-1c"].map(str::to_owned).to_vec();
        let settings = Settings { zones, ..Settings::default() };
        assert_eq!(settings.zones("eu-west-1"), ["eu-west-1a", "eu-west-1c"]);
        assert_eq!(settings.zones("eu-west-2"), ["eu-west-2"]);
    }
}

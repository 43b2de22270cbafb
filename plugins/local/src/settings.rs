//! The provider's settings.

use crabbox_box_server::session::Limits;
use crabbox_plugin_sdk::{Failure, Instance};
use serde::Deserialize;

use crate::isolation::{Network, Wanted};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) isolation: Wanted,
    pub(crate) network: Network,
    open_files: Option<u64>,
    processes: Option<u64>,
    file_size_mib: Option<u64>,
}

impl Settings {
    pub(crate) fn read(instance: &Instance) -> Result<Self, Failure> {
        let settings: Self = crabbox_plugin_sdk::settings(instance)?;
        if settings.network == Network::None && settings.isolation == Wanted::None {
            let message = "a box without isolation cannot be kept off the network";
            return Err(Failure::invalid_config("/network", message)
                .hint("set isolation to `namespace`, or network to `host`"));
        }
        Ok(settings)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            open_files: self.open_files,
            processes: self.processes,
            file_size_mib: self.file_size_mib,
        }
    }
}

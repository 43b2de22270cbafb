//! Which of its addresses a box is dialled at: its own, or the one it has in the user's tailnet.

use std::net::IpAddr;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;

use crate::error::{KernelError, Result};
use crate::state::{State, write_atomic};

/// The label that says a box's address in a tailnet, where whoever made the box wrote it there.
const LABEL: &str = "tailscale_ipv4";
/// Stands behind the address of a box that was made to be dialled there.
const DIALLED: &str = "dialled";

/// `network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Its own address, unless the box was made to be dialled in the tailnet.
    #[default]
    Auto,
    /// Its own address.
    Public,
    /// Its address in the tailnet.
    Tailscale,
}

impl Network {
    /// What a setting means.
    pub fn of(word: &str) -> Self {
        match word {
            "public" => Self::Public,
            "tailscale" => Self::Tailscale,
            _ => Self::Auto,
        }
    }

    /// The address to dial instead of a box's own.
    pub fn host(self, state: &State, lease: &Lease) -> Result<Option<String>> {
        self.choose(Inside::of(state, lease)).ok_or_else(|| {
            let what = format!("nobody here knows {}'s address in a tailnet", lease.slug);
            KernelError::new(ErrorCode::Unsupported, what).at("connect").hint(
                "only a box made with --tailscale has one; --network public dials its own address",
            )
        })
    }

    /// The address to dial: none when the box's own is meant, nothing at all when there is none.
    fn choose(self, inside: Inside) -> Option<Option<String>> {
        let address = inside.address.map(|address| address.to_string());
        match self {
            Self::Public => Some(None),
            Self::Auto => Some(address.filter(|_| inside.dialled)),
            Self::Tailscale => address.map(Some),
        }
    }

    /// Remembers the address of a box that joined, and whether it was made to be dialled there.
    pub fn note(self, state: &State, lease: &Lease, address: IpAddr) -> Result<()> {
        let more = if self == Self::Tailscale { DIALLED } else { "" };
        write_atomic(&state.tailnet(&lease.lease_id), format!("{address} {more}\n").as_bytes())
    }
}

/// A box's place in the user's tailnet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inside {
    /// Its address there, where that is known.
    pub address: Option<IpAddr>,
    /// It was made to be dialled there.
    pub dialled: bool,
}

impl Inside {
    /// What is known here of a box.
    pub fn of(state: &State, lease: &Lease) -> Self {
        let noted = std::fs::read_to_string(state.tailnet(&lease.lease_id)).unwrap_or_default();
        Self::read(&noted, lease.labels.get(LABEL).map(String::as_str).unwrap_or_default())
    }

    fn read(noted: &str, label: &str) -> Self {
        let mut words = noted.split_whitespace();
        let either = [words.next().unwrap_or_default(), label];
        let address = either.into_iter().find_map(|word| word.parse().ok());
        Self { address, dialled: words.next() == Some(DIALLED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_dialled_where_the_setting_says_and_where_it_can_be() {
        use Network::{Auto, Public, Tailscale};
        let (own, there) = (Some(None), |host: &str| Some(Some(host.to_owned())));
        for (network, noted, label, dialled) in [
            (Auto, "", "", own.clone()),
            (Auto, "100.64.0.7 \n", "100.64.0.8", own.clone()),
            (Auto, "100.64.0.7 dialled\n", "", there("100.64.0.7")),
            (Public, "100.64.0.7 dialled\n", "100.64.0.8", own.clone()),
            (Tailscale, "100.64.0.7 \n", "100.64.0.8", there("100.64.0.7")),
            (Tailscale, "", "100.64.0.8", there("100.64.0.8")),
            (Tailscale, "", "elsewhere.example", None),
            (Tailscale, "", "", None),
        ] {
            let chosen = network.choose(Inside::read(noted, label));
            assert_eq!(chosen, dialled, "{network:?} {noted:?} {label:?}");
        }
        assert_eq!(["auto", "public", "tailscale"].map(Network::of), [Auto, Public, Tailscale]);
    }
}

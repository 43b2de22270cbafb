//! Networks as people write them, and those that may log in.

use std::net::IpAddr;
use std::time::Duration;

use crate::{Call, Failure};

/// How long the service may take that tells our own address.
const ADDRESS: Duration = Duration::from_secs(5);

/// Whether a text is a network in CIDR notation, such as `10.0.0.0/8` (RFC 4632, RFC 4291).
pub fn is_network(cidr: &str) -> bool {
    cidr.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

/// Refuses what is no network in the setting `ssh-cidrs`.
pub fn check_networks(cidrs: &[String]) -> Result<(), Failure> {
    match cidrs.iter().find(|cidr| !is_network(cidr)) {
        Some(cidr) => Err(Failure::invalid_config("/ssh-cidrs", format!("{cidr} is no network"))
            .hint("write 203.0.113.7/32, or 0.0.0.0/0 for everybody")),
        None => Ok(()),
    }
}

/// The networks that may log in: the user's, else only the user's own address, which a service at `url` tells.
pub fn admitted(
    call: &Call,
    provider: &str,
    cidrs: &[String],
    url: &str,
) -> Result<Vec<String>, Failure> {
    if !cidrs.is_empty() {
        return Ok(cidrs.to_vec());
    }
    let url = url.trim_end_matches('/');
    let unknown = |why: &str| {
        Failure::precondition(format!("your own address is not known: {url}{why}"))
            .hint(format!("set {provider}.sshCIDRs to the networks that may log in"))
    };
    let asked = call.http("GET", format!("{url}/")).timeout(ADDRESS).send();
    let reply = asked.and_then(|reply| reply.ok()).map_err(|error| unknown("").because(&error))?;
    match reply.text().unwrap_or_default().trim().parse() {
        Ok(IpAddr::V4(address)) => Ok(vec![format!("{address}/32")]),
        Ok(IpAddr::V6(address)) => Ok(vec![format!("{address}/128")]),
        Err(_) => Err(unknown(" told no address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_its_length_and_no_more_bits_than_it_has() {
        for good in ["203.0.113.7/32", "0.0.0.0/0", "2001:db8::/64"] {
            assert!(check_networks(&[good.to_owned()]).is_ok(), "{good}");
        }
        for bad in ["203.0.113.7", "203.0.113.7/33", "2001:db8::/129", "1.2.3/8", "x/8"] {
            assert!(check_networks(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

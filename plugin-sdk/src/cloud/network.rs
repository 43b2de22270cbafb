//! Networks as people write them.

use std::net::IpAddr;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_its_length_and_no_more_bits_than_it_has() {
        for good in ["203.0.113.7/32", "0.0.0.0/0", "2001:db8::/64"] {
            assert!(is_network(good), "{good}");
        }
        for bad in ["203.0.113.7", "203.0.113.7/33", "2001:db8::/129", "1.2.3/8", "x/8"] {
            assert!(!is_network(bad), "{bad}");
        }
    }
}

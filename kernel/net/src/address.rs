//! Which addresses belong to the public internet, and may be reached without the user's own word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 blocks that are not the public internet: network, bits.
const PRIVATE_V4: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10), // carriers, and one cloud's metadata
    ([127, 0, 0, 0], 8),
    ([168, 63, 129, 16], 32), // a cloud's own services, metadata among them
    ([169, 254, 0, 0], 16),   // link-local, and most clouds' metadata
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24), // protocol assignments, and one cloud's metadata
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// IPv6 blocks inside the global range that are not the public internet.
const PRIVATE_V6: &[(u128, u32)] = &[
    (0x2001 << 112, 23),                    // tunnels and protocol assignments
    ((0x2001 << 112) | (0x0db8 << 96), 32), // documentation
    (0x2002 << 112, 16),                    // holds any IPv4 address
    ((0x3fff << 112), 20),                  // documentation
];

/// Everything that is routed on the public internet: 2000::/3.
const GLOBAL_V6: (u128, u32) = (0x2000 << 112, 3);
/// NAT64: the last four bytes are the IPv4 address that is meant.
const NAT64: (u128, u32) = ((0x0064 << 112) | (0xff9b << 96), 96);

/// Whether an address is the public internet's: no loopback, link-local, private, metadata or special one.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    !PRIVATE_V4
        .iter()
        .any(|&(network, len)| (bits ^ u32::from_be_bytes(network)) >> (32 - len) == 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = u128::from(address);
    let within = |(network, len): (u128, u32)| (bits ^ network) >> (128 - len) == 0;
    if within(NAT64) {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    within(GLOBAL_V6) && !PRIVATE_V6.iter().copied().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_loopback_link_local_metadata_and_disguised_addresses_are_not_public() {
        let refused = [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ];
        for address in refused {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        let open = [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "168.63.129.17",
            "2606:4700:4700::1111",
            "2a01:4f8::1",
            "64:ff9b::808:808",
        ];
        for address in open {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}

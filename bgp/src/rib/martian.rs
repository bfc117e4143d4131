//! What is never taken from a neighbour, whatever its policy is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::PeerFacts;
use super::path::Refusal;
use crate::types::Prefix;

/// What has no meaning beyond one link or one machine, with all that is in it (RFC 6890).
const IPV4: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
const IPV6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::UNSPECIFIED, 127),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Why no neighbour, or not this one, may say anything of `prefix`.
pub(super) fn refusal(prefix: Prefix, facts: &PeerFacts) -> Option<Refusal> {
    if prefix.length() == 0 {
        return (!facts.default_route).then_some(Refusal::DefaultRoute);
    }
    // How many leading bits are shared: a prefix is asked about each time it is said.
    let inside = match prefix.addr() {
        IpAddr::V4(addr) => IPV4.iter().any(|(net, length)| {
            prefix.length() >= *length
                && (addr.to_bits() ^ net.to_bits()).leading_zeros() >= u32::from(*length)
        }),
        IpAddr::V6(addr) => IPV6.iter().any(|(net, length)| {
            prefix.length() >= *length
                && (addr.to_bits() ^ net.to_bits()).leading_zeros() >= u32::from(*length)
        }),
    };
    inside.then_some(Refusal::Martian)
}

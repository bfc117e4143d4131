//! What is never taken from a neighbour, whatever its policy is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::PeerFacts;
use super::path::Refusal;
use crate::types::Prefix;

/// What has no meaning beyond one link or one machine, with all that is in it (RFC 6890).
const MARTIANS: [(IpAddr, u8); 9] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 127),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Why no neighbour, or not this one, may say anything of `prefix`.
pub(super) fn refusal(prefix: Prefix, facts: &PeerFacts) -> Option<Refusal> {
    if prefix.length() == 0 {
        return (!facts.default_route).then_some(Refusal::DefaultRoute);
    }
    let inside =
        |(net, length): (IpAddr, u8)| prefix.length() >= length && shared(net, prefix.addr()) >= length;
    MARTIANS.into_iter().any(inside).then_some(Refusal::Martian)
}

/// How many leading bits two addresses share; none where they are of different families.
fn shared(one: IpAddr, other: IpAddr) -> u8 {
    let bits = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    };
    bits as u8
}

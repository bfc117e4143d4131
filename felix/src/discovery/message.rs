//! Router solicitations and advertisements (RFC 4861, section 4), as far as one neighbour must know of another. Pure.

use std::net::Ipv6Addr;

/// ICMPv6 types (<https://www.iana.org/assignments/icmpv6-parameters>).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Someone asks for routers.
    Solicitation,
    /// A router is there.
    Advertisement,
}

/// Router lifetime 0: no default router. All else is left to whoever hears it. The kernel fills the checksum in.
pub fn advertisement() -> [u8; 16] {
    // type, code, checksum, hop limit, flags, lifetime, reachable time, retransmission timer.
    [ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Asks routers to advertise themselves now.
pub fn solicitation() -> [u8; 8] {
    [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]
}

/// What a message is, if RFC 4861, sections 6.1.1 and 6.1.2, lets it pass: from the link itself, whole, and of options
/// whose length is not 0. The kernel has looked at the checksum.
pub fn parse(octets: &[u8], from: Ipv6Addr, hop_limit: u8) -> Option<Message> {
    let (message, fixed) = match octets {
        [ROUTER_SOLICITATION, 0, ..] => (Message::Solicitation, 8),
        [ROUTER_ADVERTISEMENT, 0, ..] if from.is_unicast_link_local() => (Message::Advertisement, 16),
        _ => return None,
    };
    let mut options = octets.get(fixed..)?;
    while let [_, length, ..] = options {
        let length = usize::from(*length) * 8;
        options = options.get(length..).filter(|_| length > 0)?;
    }
    (hop_limit == 255 && options.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn only_what_comes_from_the_link_itself_is_heard() {
        assert_eq!(parse(&advertisement(), LINK_LOCAL, 255), Some(Message::Advertisement));
        assert_eq!(parse(&advertisement(), LINK_LOCAL, 64), None);
        assert_eq!(parse(&advertisement(), "2001:db8::1".parse().unwrap(), 255), None);
        assert_eq!(parse(&advertisement()[..15], LINK_LOCAL, 255), None);
        assert_eq!(parse(&solicitation(), Ipv6Addr::UNSPECIFIED, 255), Some(Message::Solicitation));
        let with = |option: &[u8]| parse(&[&advertisement()[..], option].concat(), LINK_LOCAL, 255);
        assert_eq!(with(&[1, 1, 2, 0, 0, 0, 0, 1]), Some(Message::Advertisement));
        assert_eq!(with(&[1, 0, 2, 0, 0, 0, 0, 1]), None);
        assert_eq!(with(&[1, 2, 2, 0, 0, 0, 0, 1]), None);
        assert_eq!(with(&[1]), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_fail(octets in prop::collection::vec(any::<u8>(), 0..64), hops: u8) {
            let _ = parse(&octets, LINK_LOCAL, hops);
        }
    }
}

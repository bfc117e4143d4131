//! NEXT_HOP (3): RFC 4271, sections 5.1.3 and 6.3; RFC 7606, section 7.3. The next hop inside
//! MP_REACH_NLRI is judged here too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::combinator::map;

use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::TRANSITIVE};
use crate::wire::Session;
use crate::wire::parse::{all, octets};

/// NEXT_HOP or the next hop of MP_REACH_NLRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// RFC 4271, section 5.1.3.
    V4(Ipv4Addr),
    /// RFC 2545: a global address, with the link-local one if it was given too.
    V6 {
        /// The global address (or the link-local one where it is alone).
        global: Ipv6Addr,
        /// The link-local address.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address routes are resolved by.
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(addr) => addr.into(),
            Self::V6 { global, .. } => global.into(),
        }
    }

    /// RFC 4271, section 6.3: whether it can be a host's address. Prefixes come only after that.
    pub(in crate::wire) fn is_host(self) -> bool {
        match self {
            Self::V4(addr) => {
                let first = addr.octets()[0];
                first != 0 && first < 224 && !addr.is_loopback()
            }
            Self::V6 { global, .. } => {
                !global.is_unspecified()
                    && !global.is_loopback()
                    && !global.is_multicast()
                    && global.to_ipv4_mapped().is_none()
            }
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(global) => Self::V6 { global, link_local: None },
        }
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.next_hop = Some(all(value, map(octets, Ipv4Addr::from))?);
    Ok(())
}

pub(super) fn write(addr: Ipv4Addr, out: &mut Vec<u8>) {
    put(TRANSITIVE, attribute::NEXT_HOP, out, |out| out.extend(addr.octets()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_hosts_address_is_a_next_hop() {
        let is_host = |addr: &str| NextHop::from(addr.parse::<IpAddr>().unwrap()).is_host();
        for good in ["10.0.0.1", "169.254.1.1", "223.255.255.255", "fd00::1", "fe80::1"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255"] {
            assert!(!is_host(bad), "{bad}");
        }
        for bad in ["::", "::1", "ff02::1", "::ffff:10.0.0.1"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}

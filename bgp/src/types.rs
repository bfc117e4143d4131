//! The nouns every part of the speaker shares.

mod scoped;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

pub use scoped::{Interface, InterfaceError, ScopedAddr, ScopedAddrError, is_link_local};

use crate::iana::{afi, safi};

/// An autonomous system number, two or four octets (RFC 6793). Zero is refused on the wire (RFC 7607).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

/// AS_TRANS: what a four-octet AS calls itself to a two-octet peer (RFC 6793, section 9).
pub const AS_TRANS: Asn = Asn(23456);

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// A BGP Identifier: any non-zero 32-bit number unique within the AS (RFC 6286), written as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address families spoken: unicast IPv4 and IPv6 (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in wire order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The longest prefix, in bits.
    pub fn width(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// The Address Family Identifier.
    pub fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => afi::IPV4,
            Self::Ipv6 => afi::IPV6,
        }
    }

    /// The family of a pair from the wire, if it is one of ours.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| (family.afi(), safi::UNICAST) == (afi, safi))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4 unicast",
            Self::Ipv6 => "IPv6 unicast",
        })
    }
}

/// A route's destination. Host bits are always zero: [`Prefix::truncated`] cuts them (what RFC 4271,
/// section 4.3 asks of a receiver), [`FromStr`] refuses them (what a person who typed them wants to hear).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpNetwork", into = "IpNetwork")]
pub struct Prefix(IpNetwork);

/// A prefix with bits set behind its length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not `address/length` at all.
    #[error("\"{0}\" is not a prefix: expected address/length, as in 10.0.0.0/26")]
    Syntax(String),
    /// Bits behind the length are set.
    #[error("{0} has host bits set: did you mean {1}?")]
    HostBits(IpNetwork, Prefix),
}

impl Prefix {
    /// Cuts host bits. `None` when `length` exceeds the family's width.
    pub fn truncated(addr: IpAddr, length: u8) -> Option<Self> {
        let host_bits = u32::from(Family::of(addr).width().checked_sub(length)?);
        let net = match addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv4Network::new(Ipv4Addr::from_bits(addr.to_bits() & mask), length).ok()?.into()
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Network::new(Ipv6Addr::from_bits(addr.to_bits() & mask), length).ok()?.into()
            }
        };
        Some(Self(net))
    }

    /// The single address, as /32 or /128.
    pub fn host(addr: IpAddr) -> Self {
        Self(IpNetwork::from(addr))
    }

    /// The network address.
    pub fn addr(self) -> IpAddr {
        self.0.ip()
    }

    /// The length in bits: 0–32 or 0–128.
    pub fn length(self) -> u8 {
        self.0.prefix()
    }

    /// Which family it belongs to.
    pub fn family(self) -> Family {
        Family::of(self.0.ip())
    }

    /// Whether `other` is this prefix or a more specific of it.
    pub fn covers(self, other: Self) -> bool {
        self.length() <= other.length() && self.0.contains(other.addr())
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        prefix.0
    }
}

impl From<Ipv4Network> for Prefix {
    fn from(net: Ipv4Network) -> Self {
        Self(IpNetwork::V4(Ipv4Network::new(net.network(), net.prefix()).unwrap_or(net)))
    }
}

impl From<Ipv6Network> for Prefix {
    fn from(net: Ipv6Network) -> Self {
        Self(IpNetwork::V6(Ipv6Network::new(net.network(), net.prefix()).unwrap_or(net)))
    }
}

impl TryFrom<IpNetwork> for Prefix {
    type Error = PrefixError;

    fn try_from(net: IpNetwork) -> Result<Self, PrefixError> {
        let cut = match net {
            IpNetwork::V4(net) => Self::from(net),
            IpNetwork::V6(net) => Self::from(net),
        };
        if cut.0 == net { Ok(cut) } else { Err(PrefixError::HostBits(net, cut)) }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net: IpNetwork = text.parse().map_err(|_| PrefixError::Syntax(text.to_owned()))?;
        if !text.contains('/') {
            return Err(PrefixError::Syntax(text.to_owned()));
        }
        net.try_into()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_prefix_with_host_bits_is_refused_and_told_what_would_be_right() {
        let error = "10.0.0.5/24".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.5/24 has host bits set: did you mean 10.0.0.0/24?");
        assert!("10.0.0.0".parse::<Prefix>().is_err());
    }

    #[test]
    fn host_bits_from_the_wire_are_cut() {
        let prefix = Prefix::truncated("10.0.0.5".parse().unwrap(), 24).unwrap();
        assert_eq!(prefix.to_string(), "10.0.0.0/24");
        assert!(Prefix::truncated("10.0.0.5".parse().unwrap(), 33).is_none());
    }

    #[test]
    fn a_prefix_covers_itself_and_its_more_specifics_only() {
        let block: Prefix = "10.0.0.0/26".parse().unwrap();
        assert!(block.covers(block));
        assert!(block.covers("10.0.0.7/32".parse().unwrap()));
        assert!(!block.covers("10.0.0.0/24".parse().unwrap()));
        assert!(!block.covers("fd00::/64".parse().unwrap()));
    }
}

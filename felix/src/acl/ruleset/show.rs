//! What things are called, by people and in the kernel.

use std::fmt;
use std::str::FromStr;

use manx_bgp::types::Family;

use super::{Direction, Ifname, PolicyId, PortRange, Protocol, SetId, SetKind, Tier};

/// `addresses4-` and 32 hexadecimal digits: kind, family and digest, at most 43 characters.
impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SetKind::Addresses => "addresses",
            SetKind::Networks => "networks",
            SetKind::Ports => "ports",
        };
        let family = match self.family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        };
        write!(f, "{kind}{family}-{:032x}", self.digest)
    }
}

/// As it is shown.
impl FromStr for SetId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (_, digest) = text.split_once('-').ok_or(())?;
        let digest = u128::from_str_radix(digest, 16).map_err(|_| ())?;
        let kinds = [SetKind::Addresses, SetKind::Networks, SetKind::Ports];
        let mut all =
            kinds.into_iter().flat_map(|kind| Family::ALL.map(|family| Self { kind, family, digest }));
        all.find(|id| id.to_string() == text).ok_or(())
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ifname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// `NetworkPolicy shop/web`, `ClusterNetworkPolicy deny-all`; the direction is not said.
impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.tier {
            Tier::Network => "NetworkPolicy",
            Tier::Admin | Tier::Baseline => "ClusterNetworkPolicy",
        };
        write!(f, "{kind} {}", self.name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `TCP 80`, `UDP 8000–8080`, `SCTP`.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { protocol, .. } if self.is_all() => protocol.fmt(f),
            Self { protocol, first, last } if first == last => write!(f, "{protocol} {first}"),
            Self { protocol, first, last } => write!(f, "{protocol} {first}–{last}"),
        }
    }
}

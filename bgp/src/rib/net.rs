//! Prefixes as keys: one family a type, so that one code serves both and a table holds no tags.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::types::{Family, Prefix};

/// A prefix of one family.
pub(super) trait Net: Copy + Debug + Eq + Hash + Ord {
    /// Which.
    const FAMILY: Family;

    /// `None` for a prefix of another family.
    fn new(prefix: Prefix) -> Option<Self>;

    fn prefix(self) -> Prefix;
}

/// Five octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Net4(Ipv4Network);

/// Seventeen octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Net6(Ipv6Network);

impl Net for Net4 {
    const FAMILY: Family = Family::Ipv4;

    fn new(prefix: Prefix) -> Option<Self> {
        match prefix.into() {
            IpNetwork::V4(net) => Some(Self(net)),
            IpNetwork::V6(_) => None,
        }
    }

    fn prefix(self) -> Prefix {
        self.0.into()
    }
}

impl Net for Net6 {
    const FAMILY: Family = Family::Ipv6;

    fn new(prefix: Prefix) -> Option<Self> {
        match prefix.into() {
            IpNetwork::V6(net) => Some(Self(net)),
            IpNetwork::V4(_) => None,
        }
    }

    fn prefix(self) -> Prefix {
        self.0.into()
    }
}

/// One word instead of five octets one by one.
impl Hash for Net4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0.ip().to_bits()) << 8 | u64::from(self.0.prefix()));
    }
}

impl Hash for Net6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = self.0.ip().to_bits();
        state.write_u64((bits >> 64) as u64);
        state.write_u64(bits as u64 ^ u64::from(self.0.prefix()));
    }
}

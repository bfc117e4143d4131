//! The kernel's side: routes, links and sysctls, made to be what is wanted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// All routes wanted, by destination (no host bits).
pub type Fib = BTreeMap<IpNetwork, Route>;

/// One wanted route in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A pod's address: on-link by its veth.
    Pod {
        /// The host's end.
        ifindex: u32,
    },
    /// An owned block: what no pod holds is dropped here, not sent back to a default route.
    Blackhole,
    /// Learned: by these next hops together (ECMP), sorted, at least one.
    Via(Vec<IpAddr>),
}

/// What to change. A destination is in at most one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FibDelta {
    /// Add or replace.
    pub set: Fib,
    /// Remove.
    pub remove: Vec<IpNetwork>,
}

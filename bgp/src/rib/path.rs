//! A path: attributes and next hop, whom they came from, and why it may not be used.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::wire::{Attributes, NextHop};

/// A peer, as the RIB's owner numbers it; a number may be used again after [`super::Rib::peer_down`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(NonZeroU32);

impl PeerId {
    /// The peer numbered `n`, counted from zero.
    pub fn new(n: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(n))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0.get() - 1)
    }
}

/// What the prefixes of one announcement share. Interned: equal ones are one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) attributes: Arc<Attributes>,
    /// Unspecified where the route is originated here: each neighbour is told an own address of ours.
    pub(super) next_hop: NextHop,
}

/// One way to a destination. Sixteen octets: a table holds a million of them.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) route: Arc<Route>,
    /// The peer it came from; none: originated here.
    pub(super) source: Option<PeerId>,
    /// Why it is held but not used.
    pub(super) refusal: Option<Refusal>,
}

impl Path {
    /// Whether nothing is different.
    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.route, &other.route) && self.source == other.source && self.refusal == other.refusal
    }
}

/// Why a path in an Adj-RIB-In does not take part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RFC 4271, section 9.1.2.
    AsLoop,
    /// RFC 4456, section 8.
    OriginatorLoop,
    /// RFC 4456, section 8.
    ClusterLoop,
    /// RFC 4271, section 5.1.3.
    OwnNextHop,
    /// RFC 8212.
    NoPolicy,
    /// The policy refuses everything.
    Policy,
    /// The policy refuses this prefix.
    Excepted,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsLoop => "refused: our own AS is in its AS path",
            Self::OriginatorLoop => "refused: we are its originator",
            Self::ClusterLoop => "refused: it has been through our own cluster",
            Self::OwnNextHop => "refused: its next hop is our own address",
            Self::NoPolicy => "refused: an external peer without an import policy",
            Self::Policy => "refused: the import policy takes nothing",
            Self::Excepted => "refused: the import policy excepts the prefix",
        })
    }
}

/// Keeps one of each.
#[derive(Debug, Default)]
pub(super) struct Interner {
    routes: FxHashSet<Arc<Route>>,
    sweep_at: usize,
}

/// Below this many there is nothing worth sweeping.
const FEW: usize = 1024;

impl Interner {
    /// Routes held, with those that nobody uses any more and that have not been swept.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    pub(super) fn intern(&mut self, route: Route) -> Arc<Route> {
        if let Some(known) = self.routes.get(&route) {
            return known.clone();
        }
        if self.routes.len() >= self.sweep_at {
            self.routes.retain(|route| Arc::strong_count(route) > 1);
            self.sweep_at = (2 * self.routes.len()).max(FEW);
        }
        let route = Arc::new(route);
        self.routes.insert(route.clone());
        route
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::rib::originate::attributes;

    fn route(last: u8) -> Route {
        Route {
            attributes: Arc::new(attributes(Vec::new())),
            next_hop: IpAddr::from([10, 0, 0, last]).into(),
        }
    }

    #[test]
    fn a_path_stays_small() {
        assert_eq!(size_of::<Path>(), 16);
    }

    #[test]
    fn equal_routes_are_one_and_unused_ones_go_away() {
        let mut interner = Interner::default();
        let first = interner.intern(route(1));
        assert!(Arc::ptr_eq(&first, &interner.intern(route(1))));
        for n in 0..3 * FEW {
            let addr = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            drop(interner.intern(Route { next_hop: addr.into(), ..route(0) }));
        }
        assert!(interner.routes.len() <= 2 * FEW, "{} are kept", interner.routes.len());
        assert!(Arc::ptr_eq(&first, &interner.intern(route(1))));
    }
}

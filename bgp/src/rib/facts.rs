//! What the RIB has to know of an established peer.

use std::net::IpAddr;

use super::Policy;
use crate::api::{NextHopMode, PathCount};
use crate::types::{Asn, Interface, RouterId, ScopedAddr};
use crate::wire::Session;

/// What the RIB has to know of an established peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// Its address: the last tie-break.
    pub address: IpAddr,
    /// Where that is link-local, the interface it is on: link-local next hops it tells are there.
    pub zone: Option<Interface>,
    /// Its name, for people.
    pub name: String,
    /// Its AS.
    pub asn: Asn,
    /// Its BGP Identifier.
    pub router_id: RouterId,
    /// What was negotiated, and whether it is an external peer.
    pub session: Session,
    /// Our own addresses towards it: what is announced as "next hop self", the first of the family
    /// counts, and what is refused as a learned next hop. Without one of a family nothing that needs
    /// it is exported.
    pub next_hops: Vec<IpAddr>,
    /// It takes IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// How many paths to a destination it is told (RFC 7911), in the families whose prefixes have path
    /// identifiers; one in others.
    pub add_paths: Option<PathCount>,
    /// It marks where a route refresh begins and ends, and takes such marks (RFC 7313).
    pub enhanced_refresh: bool,
    /// It knows of routes that are the last resort (RFC 9494).
    pub long_lived: bool,
    /// Its routes with GRACEFUL_SHUTDOWN have LOCAL_PREF 0, if it is an external peer (RFC 8326).
    pub graceful_shutdown: bool,
    /// How far it is to do without us, and we without it.
    pub drain: Drain,
    /// It is a client of ours (RFC 4456): routes are reflected to and from it.
    pub client: bool,
    /// It is an external peer by a bilateral agreement, who is not told of NOPEER routes (RFC 3765).
    pub bilateral: bool,
    /// What it is told as next hop of learned routes.
    pub next_hop: NextHopMode,
    /// It is known to be more than one hop away.
    pub multihop: bool,
    /// The AS we are to it.
    pub local_asn: Asn,
    /// How many times our AS may be in what it says.
    pub allow_own_as: u8,
    /// Whether a default route is taken from it.
    pub default_route: bool,
    /// What is taken from it; see [`crate::api::PeerConfig::import`].
    pub import: Option<Policy>,
    /// What is told to it; see [`crate::api::PeerConfig::export`].
    pub export: Option<Policy>,
}

impl PeerFacts {
    /// What tells it from others.
    pub(super) fn scoped(&self) -> ScopedAddr {
        ScopedAddr { addr: self.address, zone: self.zone }
    }

    /// Those its routes are likely to have: its own address, and what its import policy sets.
    pub(super) fn names_next_hops(&self) -> impl Iterator<Item = IpAddr> {
        let set = self.import.iter().flat_map(Policy::next_hops);
        std::iter::once(self.address).chain(set)
    }
}

/// How far a peer and we are to do without each other before a session or the speaker ends (RFC 8326).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// What it is told.
    pub told: Leaving,
    /// What it says is used only where there is nothing else (LOCAL_PREF 0).
    pub avoided: bool,
}

/// What a peer is told of our leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaving {
    /// Nothing: we stay.
    #[default]
    Stays,
    /// All routes have GRACEFUL_SHUTDOWN, and LOCAL_PREF 0 inside our AS.
    Announced,
    /// No routes any more.
    Withdrawn,
}

//! What decides what a peer hears, whoever it is.

use std::net::IpAddr;

use super::peers::Peers;
use super::{Leaving, PeerFacts, Policy};
use crate::api::{NextHopMode, PathCount};
use crate::types::{Asn, Family, Prefix};
use crate::wire::{AddPath, Session};

/// Peers of whom all of this is the same are told the same octets, each path's own source apart. What may
/// go out and in which form looks at nothing else of a peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Audience {
    /// What it is sent is written in; what it sends is not looked at.
    pub(super) session: Session,
    /// See [`PeerFacts::add_paths`].
    add_paths: Option<PathCount>,
    /// See [`PeerFacts::next_hops`].
    pub(super) next_hops: Vec<IpAddr>,
    /// See [`PeerFacts::extended_next_hop`].
    pub(super) extended_next_hop: bool,
    /// See [`PeerFacts::long_lived`].
    pub(super) long_lived: bool,
    /// What it is told of our leaving.
    pub(super) leaving: Leaving,
    /// See [`PeerFacts::client`].
    pub(super) client: bool,
    /// See [`PeerFacts::bilateral`].
    pub(super) bilateral: bool,
    /// See [`PeerFacts::next_hop`].
    pub(super) next_hop: NextHopMode,
    /// What we share with it, where that matters.
    pub(super) network: Option<Prefix>,
    /// See [`PeerFacts::local_asn`].
    pub(super) local_asn: Asn,
    pub(super) export: Option<Policy>,
}

impl Audience {
    pub(super) fn of(facts: &PeerFacts, peers: &Peers) -> Self {
        let add_path = AddPath { receive: Vec::new(), ..facts.session.add_path.clone() };
        Self {
            session: Session { add_path, ..facts.session.clone() },
            add_paths: facts.add_paths,
            next_hops: facts.next_hops.clone(),
            extended_next_hop: facts.extended_next_hop,
            long_lived: facts.long_lived,
            leaving: facts.drain.told,
            client: facts.client,
            bilateral: facts.bilateral,
            next_hop: facts.next_hop,
            network: (facts.next_hop == NextHopMode::Direct)
                .then(|| peers.next_hops.network_of(facts.address))
                .flatten(),
            local_asn: facts.local_asn,
            export: facts.export.clone(),
        }
    }

    /// How many paths to a destination of `family` are told; none: the best, without an identifier.
    pub(super) fn several(&self, family: Family) -> Option<PathCount> {
        self.add_paths.filter(|_| self.session.sends_path_ids(family))
    }
}

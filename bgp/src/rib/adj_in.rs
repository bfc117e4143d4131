//! What a peer's announcement is before the decision: usable or refused. Refused paths are held, so that
//! a new policy needs no word from the peer.

use super::path::Refusal;
use super::peers::Peers;
use super::{PeerFacts, policy};
use crate::types::Prefix;
use crate::wire::{Attributes, NextHop};

/// What is true of an announcement whatever its prefixes are.
pub(super) fn loops(
    attributes: &Attributes,
    next_hop: NextHop,
    facts: &PeerFacts,
    peers: &Peers,
) -> Option<Refusal> {
    if attributes.as_path.contains(peers.asn) {
        Some(Refusal::AsLoop)
    } else if attributes.originator_id == Some(peers.router_id) {
        Some(Refusal::OriginatorLoop)
    } else if attributes.cluster_list.contains(&peers.cluster_id.0) {
        Some(Refusal::ClusterLoop)
    } else if facts.next_hops.contains(&next_hop.addr()) {
        Some(Refusal::OwnNextHop)
    } else {
        None
    }
}

/// The whole judgement of one prefix, given that of its announcement.
pub(super) fn refusal(loops: Option<Refusal>, facts: &PeerFacts, prefix: Prefix) -> Option<Refusal> {
    loops.or_else(|| policy::import(facts, prefix))
}

//! Who we are and whom we speak with: what every judgement about a path needs.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::PeerFacts;
use super::decision::{Candidate, DEFAULT_LOCAL_PREF};
use super::next_hops::NextHops;
use super::path::{Hop, Path, PeerId};
use crate::types::{Asn, RouterId, ScopedAddr};
use crate::wire::Community;

#[derive(Debug)]
pub(super) struct Peers {
    pub(super) asn: Asn,
    pub(super) router_id: RouterId,
    /// RFC 4456, section 7.
    pub(super) cluster_id: RouterId,
    pub(super) facts: BTreeMap<PeerId, PeerFacts>,
    pub(super) next_hops: NextHops,
}

impl Peers {
    pub(super) fn new(asn: Asn, router_id: RouterId) -> Self {
        let (facts, next_hops) = Default::default();
        Self { asn, router_id, cluster_id: router_id, facts, next_hops }
    }

    /// Whom a path came from; none: originated here.
    pub(super) fn source(&self, path: &Path) -> Option<&PeerFacts> {
        self.facts.get(&path.source?)
    }

    /// By whom these next hops are reached, as it is told; sorted.
    pub(super) fn hops(&self, hops: &[Hop]) -> Vec<ScopedAddr> {
        let on_link = |hop: &Hop| Some(ScopedAddr { addr: hop.addr, zone: self.facts.get(&hop.via?)?.zone });
        let mut told: Vec<_> = hops.iter().filter_map(on_link).collect();
        let elsewhere = hops.iter().filter(|hop| hop.via.is_none());
        let elsewhere: SmallVec<[_; 1]> = elsewhere.map(|hop| hop.addr).collect();
        told.extend(self.next_hops.neighbours(&elsewhere).into_iter().map(ScopedAddr::from));
        if told.len() > 1 {
            told.sort_unstable();
            told.dedup();
        }
        told
    }

    /// What the decision process compares of a path.
    pub(super) fn candidate(&self, path: &Path) -> Candidate {
        let attributes = &path.attributes;
        let source = self.source(path);
        Candidate {
            originated: path.source.is_none(),
            last_resort: attributes.has(Community::LLGR_STALE),
            local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
            path_length: attributes.as_path.length(),
            origin: attributes.origin,
            neighbour: attributes.as_path.neighbour(),
            med: attributes.med.unwrap_or(0),
            metric: source.map_or(0, |_| self.next_hops.metric(path.next_hop.addr())),
            external: source.is_some_and(|facts| facts.session.ebgp),
            router_id: attributes
                .originator_id
                .or(source.map(|facts| facts.router_id))
                .unwrap_or(self.router_id),
            clusters: attributes.cluster_list.len(),
            address: source.map(|facts| facts.address),
            path_id: path.path_id,
        }
    }
}

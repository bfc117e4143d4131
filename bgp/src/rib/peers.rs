//! Who we are and whom we speak with: what every judgement about a path needs.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::decision::{Candidate, DEFAULT_LOCAL_PREF};
use super::next_hops::NextHops;
use super::path::{Hop, Path, PeerId, Refusal};
use super::{PeerFacts, aggregate};
use crate::api::Decision;
use crate::types::{Asn, Prefix, RouterId, ScopedAddr};
use crate::wire::Community;

#[derive(Debug)]
pub(super) struct Peers {
    pub(super) asn: Asn,
    pub(super) router_id: RouterId,
    /// RFC 4456, section 7.
    pub(super) cluster_id: RouterId,
    pub(super) facts: BTreeMap<PeerId, PeerFacts>,
    pub(super) next_hops: NextHops,
    /// Aggregates whose parts are not told to external peers at present.
    pub(super) suppressing: BTreeSet<Prefix>,
    pub(super) decision: Decision,
}

impl Peers {
    pub(super) fn new(asn: Asn, router_id: RouterId) -> Self {
        let (facts, next_hops, suppressing, decision) = Default::default();
        Self { asn, router_id, cluster_id: router_id, facts, next_hops, suppressing, decision }
    }

    /// Whom a path came from; none: originated here.
    pub(super) fn source(&self, path: &Path) -> Option<&PeerFacts> {
        self.facts.get(&path.source?)
    }

    /// By whom these next hops are reached, as it is told, sorted; and the shares of each, if they are not alike.
    pub(super) fn hops(&self, hops: &[Hop]) -> (Vec<ScopedAddr>, Vec<u8>) {
        if hops.iter().all(|hop| hop.bandwidth.is_none()) {
            return (self.neighbours(hops), Vec::new());
        }
        let mut shares: BTreeMap<ScopedAddr, f64> = BTreeMap::new();
        for hop in hops {
            let neighbours = self.neighbours(std::slice::from_ref(hop));
            #[expect(clippy::cast_precision_loss, reason = "some neighbours")]
            let share = hop.bandwidth.map_or(0.0, |it| f64::from(it.octets())) / neighbours.len() as f64;
            neighbours.into_iter().for_each(|neighbour| *shares.entry(neighbour).or_default() += share);
        }
        (shares.keys().copied().collect(), weights(shares.values().copied()))
    }

    fn neighbours(&self, hops: &[Hop]) -> Vec<ScopedAddr> {
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

    /// Whether a path is for this audience at all: aggregates and their parts are told instead of each other to
    /// external peers, and the parts alone to internal ones.
    pub(super) fn shows(&self, ebgp: bool, prefix: Prefix, path: &Path) -> bool {
        if path.key() == aggregate::KEY {
            return ebgp;
        }
        let hides = |whole: &Prefix| whole.length() < prefix.length() && whole.covers(prefix);
        !ebgp || !self.suppressing.iter().any(hides)
    }

    /// Why a path's next hop is of no use: RFC 4271, sections 5.1.3 and 9.1.2. What an external peer one hop away
    /// names is itself or a neighbour of ours; how many hops away it is shows where our networks are known. What a
    /// policy of ours names is its own affair.
    pub(super) fn unreached(&self, path: &Path) -> Option<Refusal> {
        let next_hop = path.next_hop.addr();
        let source = self.source(path)?;
        if !self.next_hops.is_reached(next_hop) {
            return Some(Refusal::Unreachable);
        }
        let named = path.received.as_ref().is_none_or(|received| received.next_hop == path.next_hop);
        let one_hop = source.session.ebgp && !source.multihop && self.next_hops.is_connected(source.address);
        let far = one_hop && named && next_hop != source.address && !self.next_hops.is_connected(next_hop);
        far.then_some(Refusal::OffLink)
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
            neighbour: attributes.as_path.neighbour().filter(|_| !self.decision.always_compare_med),
            shares: attributes.as_path.neighbour().filter(|_| self.decision.multipath_same_as),
            med: attributes.med.unwrap_or(if self.decision.missing_med_as_worst { u32::MAX } else { 0 }),
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

/// The weight of the largest share: halves, thirds, quarters, fifths and sixths of it are whole numbers, and the kernel
/// takes it.
const MOST: f64 = 240.0;

/// Shares as whole numbers from 1 to [`MOST`], the smallest there are; empty: they are alike.
fn weights(shares: impl Iterator<Item = f64> + Clone) -> Vec<u8> {
    let most = shares.clone().fold(f64::MIN_POSITIVE, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 1 to 240")]
    let scaled = shares.map(|share| (share / most * MOST).round().clamp(1.0, MOST) as u8);
    let mut weights: Vec<u8> = scaled.collect();
    let common = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|weight| *weight /= common);
    if weights.iter().all(|weight| *weight == 1) {
        weights.clear();
    }
    weights
}

fn gcd(one: u8, other: u8) -> u8 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_smallest_whole_numbers_next_to_them() {
        let weights = |shares: &[f64]| weights(shares.iter().copied());
        assert_eq!(weights(&[125e6, 125e6]), [0; 0]);
        assert_eq!(weights(&[125e6, 375e6]), [1, 3]);
        assert_eq!(weights(&[1e9, 1e9, 5e8]), [2, 2, 1]);
        assert_eq!(weights(&[1.0, 1e12]), [1, 240], "none has no share at all");
        assert_eq!(weights(&[]), [0; 0]);
    }
}

//! What one peer has been told of one family, and what it is still to be told.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::PeerFacts;
use super::decision::DEFAULT_LOCAL_PREF;
use super::net::Net;
use super::path::{Path, Route};
use super::peers::Peers;
use crate::iana::attribute_flag::PARTIAL;
use crate::types::{Family, RouterId};
use crate::wire::update::Packer;
use crate::wire::{NextHop, Update};

/// Changes are only noted; they are worked out a batch at a time, when the peer can take more:
///
/// ```text
///   noted ──begin──▶ queue: withdrawals, then groups of one route each, [End-of-RIB] ──take──▶ told
/// ```
///
/// What is noted again while it waits in the queue is left out there: the next batch says it as it is then.
#[derive(Debug)]
pub(super) struct AdjOut<K> {
    /// What the peer holds from us; without a route where it is to be told again whatever it holds.
    told: FxHashMap<K, Option<Arc<Route>>>,
    noted: FxHashSet<K>,
    queue: VecDeque<Item<K>>,
    end_of_rib: EndOfRib,
}

#[derive(Debug)]
enum Item<K> {
    /// Without a route: withdrawals.
    Group {
        route: Option<Arc<Route>>,
        packer: Packer,
        keys: Vec<K>,
    },
    EndOfRib,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndOfRib {
    /// It follows the first batch.
    Owed,
    /// It is in the queue, and the batch before it is complete: nothing is left out.
    Queued,
    Said,
}

impl<K: Net> AdjOut<K> {
    /// `initial` is all the peer may hear at first.
    pub(super) fn new(initial: impl Iterator<Item = K>) -> Self {
        Self {
            told: FxHashMap::default(),
            noted: initial.collect(),
            queue: VecDeque::new(),
            end_of_rib: EndOfRib::Owed,
        }
    }

    pub(super) fn note(&mut self, key: K) {
        self.noted.insert(key);
    }

    /// Everything is to be worked out anew; what comes out as it was is not said again.
    pub(super) fn note_all(&mut self, keys: impl Iterator<Item = K>) {
        self.noted.extend(self.told.keys().copied().chain(keys));
    }

    /// Everything is to be said again.
    pub(super) fn refresh(&mut self, keys: impl Iterator<Item = K>) {
        self.told.values_mut().for_each(|route| *route = None);
        self.note_all(keys);
    }

    pub(super) fn told(&self) -> usize {
        self.told.len()
    }

    /// What the peer holds from us of these, as it was told.
    pub(super) fn routes(&self) -> impl Iterator<Item = (K, &Route)> {
        self.told.iter().filter_map(|(key, route)| Some((*key, route.as_deref()?)))
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.noted.is_empty() || !self.queue.is_empty() || self.end_of_rib == EndOfRib::Owed
    }

    /// Works out everything noted. `wanted` gives what the peer should hear of a key, interned.
    pub(super) fn begin(&mut self, facts: &PeerFacts, mut wanted: impl FnMut(K) -> Option<Arc<Route>>) {
        let mut withdrawn = Vec::new();
        let mut groups: Vec<(Arc<Route>, Vec<K>)> = Vec::new();
        let mut places: FxHashMap<*const Route, usize> = FxHashMap::default();
        for key in std::mem::take(&mut self.noted) {
            match (wanted(key), self.told.get(&key)) {
                (None, None) => {}
                (None, Some(_)) => withdrawn.push(key),
                (Some(route), Some(Some(told))) if Arc::ptr_eq(&route, told) => {}
                (Some(route), _) => {
                    let place = *places.entry(Arc::as_ptr(&route)).or_insert(groups.len());
                    match groups.get_mut(place) {
                        Some((_, keys)) => keys.push(key),
                        None => groups.push((route, vec![key])),
                    }
                }
            }
        }
        if !withdrawn.is_empty() {
            let packer = Packer::withdrawals(K::FAMILY, &facts.session);
            self.queue.push_back(Item::Group { route: None, packer, keys: withdrawn });
        }
        for (route, keys) in groups {
            // There is room for a prefix, or it had not been exported.
            if let Some(packer) =
                Packer::announcements(&route.attributes, route.next_hop, K::FAMILY, &facts.session)
            {
                self.queue.push_back(Item::Group { route: Some(route), packer, keys });
            }
        }
        if self.end_of_rib == EndOfRib::Owed {
            self.end_of_rib = EndOfRib::Queued;
            self.queue.push_back(Item::EndOfRib);
        }
    }

    /// Moves messages out of the queue until `out` holds `limit`.
    pub(super) fn take(&mut self, limit: usize, out: &mut Vec<Update>) {
        while out.len() < limit {
            match self.queue.front_mut() {
                None => return,
                Some(Item::EndOfRib) => {
                    out.push(Update::end_of_rib(K::FAMILY));
                    self.end_of_rib = EndOfRib::Said;
                    self.queue.pop_front();
                }
                Some(Item::Group { route, packer, keys }) => {
                    let leave_out = self.end_of_rib == EndOfRib::Said;
                    while let Some(key) = keys.pop_if(|key| packer.has_room(key.prefix())) {
                        if leave_out && self.noted.contains(&key) {
                            continue;
                        }
                        packer.push(key.prefix());
                        match route {
                            Some(route) => drop(self.told.insert(key, Some(route.clone()))),
                            None => drop(self.told.remove(&key)),
                        }
                    }
                    out.extend(packer.take());
                    if keys.is_empty() {
                        self.queue.pop_front();
                    }
                }
            }
        }
    }
}

/// What of a best route is told to a peer: RFC 4271, sections 5.1 and 9.1.3. `None` where there is no
/// address of ours to name as next hop, or the attributes leave no room for a prefix (RFC 8654,
/// section 5 has it withdrawn then).
pub(super) fn exported(
    route: &Route,
    origin: RouteOrigin,
    family: Family,
    peers: &Peers,
    facts: &PeerFacts,
) -> Option<Route> {
    let mut attributes = (*route.attributes).clone();
    for unknown in &mut attributes.unknown {
        unknown.flags |= PARTIAL;
    }
    let own = || facts.next_hops.iter().copied().find(|addr| Family::of(*addr) == family);
    let next_hop = if facts.session.ebgp {
        attributes.as_path.prepend(peers.asn);
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        if origin != RouteOrigin::Here {
            attributes.med = None;
        }
        own()?.into()
    } else {
        attributes.local_pref = attributes.local_pref.or(Some(DEFAULT_LOCAL_PREF));
        if let RouteOrigin::Internal(source) = origin {
            // RFC 4456, section 8.
            attributes.originator_id = attributes.originator_id.or(Some(source));
            attributes.cluster_list.insert(0, peers.cluster_id.0);
        }
        match origin {
            RouteOrigin::Here => own()?.into(),
            RouteOrigin::External | RouteOrigin::Internal(_) => passed_on(route.next_hop)?,
        }
    };
    let attributes = Arc::new(attributes);
    Packer::announcements(&attributes, next_hop, family, &facts.session)?;
    Some(Route { attributes, next_hop })
}

/// A link-local next hop is of one link only (RFC 2545, section 3): without it, and not without a global one.
fn passed_on(next_hop: NextHop) -> Option<NextHop> {
    match next_hop {
        NextHop::V6 { global, .. } if global.is_unicast_link_local() => None,
        other => Some(other.addr().into()),
    }
}

/// Where a route begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RouteOrigin {
    Here,
    /// Learned from another AS.
    External,
    /// Learned from the internal peer with this identifier.
    Internal(RouterId),
}

impl RouteOrigin {
    /// Where `path` begins.
    pub(super) fn of(path: &Path, peers: &Peers) -> Self {
        match peers.source(path) {
            None => Self::Here,
            Some(source) if source.session.ebgp => Self::External,
            Some(source) => Self::Internal(source.router_id),
        }
    }
}

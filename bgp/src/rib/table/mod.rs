//! The tables of one family: the Adj-RIBs-In and the Loc-RIB in one, and the Adj-RIBs-Out.

mod aggregates;
mod anew;
mod emptied;
mod followers;
mod hearers;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::adj_in::Judge;
use super::audience::Audience;
use super::destination::Steps;
use super::destinations::{Destinations, Slot};
use super::group::Group;
use super::net::Net;
use super::path::{Generation, Path, PathKey, PeerId, Received};
use super::peers::Peers;
use super::{Counts, PeerFacts};
use crate::wire::Nlri;

use emptied::Emptied;
use followers::Followers;

/// Paths a peer may have to one destination; what it tells beyond them is as if it had not been told. Each
/// change of a destination looks at all of its paths.
const PATHS: usize = 256;

/// Destinations looked up one after the other before any is looked at: the machine fetches them side by side.
const AHEAD: usize = 32;

#[derive(Debug)]
pub(super) struct Table<K> {
    /// One that has no path stays while somebody remembers it.
    destinations: Destinations<K>,
    followers: Followers<K>,
}

#[derive(Debug)]
struct PeerTable {
    received: usize,
    accepted: usize,
    /// Of the received, those not of the present generation.
    stale: usize,
    generation: Generation,
    /// The stale ones are the last resort (RFC 9494).
    long_lived: bool,
    /// Index of its group; none while the session is gone and its routes are held as stale.
    group: Option<usize>,
}

impl<K: Net> Table<K> {
    pub(in crate::rib) fn new() -> Self {
        let followers = Followers {
            listed: Vec::new(),
            emptied: Emptied::default(),
            usable: 0,
            peers: BTreeMap::new(),
            groups: Vec::new(),
            moved: false,
            aggregates: Vec::new(),
            stirred: false,
        };
        Self { destinations: Destinations::new(), followers }
    }

    /// Destinations with a best path.
    pub(in crate::rib) fn len(&self) -> usize {
        self.followers.usable
    }

    /// Whether nothing at all is held.
    pub(in crate::rib) fn is_vacant(&self) -> bool {
        self.destinations.slots() == 0
    }

    pub(in crate::rib) fn peer_up(&mut self, peer: PeerId, facts: &PeerFacts, peers: &Peers) {
        let slots = self.destinations.iter().map(|(slot, _)| slot);
        let group = Group::new(peer, Audience::of(facts, peers), slots);
        self.followers.groups.push(group);
        let group = Some(self.followers.groups.len() - 1);
        match self.followers.peers.get_mut(&peer) {
            Some(table) => table.group = group,
            None => {
                let generation = Generation::default();
                let long_lived = false;
                let table = PeerTable { received: 0, accepted: 0, stale: 0, generation, long_lived, group };
                self.followers.peers.insert(peer, table);
            }
        }
    }

    /// Nothing more is told to the peer.
    pub(in crate::rib) fn silence(&mut self, peer: PeerId) {
        if let Some(group) = self.followers.peers.get_mut(&peer).and_then(|table| table.group.take()) {
            self.followers.leave(peer, group);
        }
    }

    /// Whether anything is told to the peer.
    pub(in crate::rib) fn hears(&self, peer: PeerId) -> bool {
        self.followers.peers.get(&peer).is_some_and(|table| table.group.is_some())
    }

    /// Whether a route that next hops may hang on is another.
    pub(in crate::rib) fn moved(&self) -> bool {
        self.followers.moved
    }

    pub(in crate::rib) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.followers.moved)
    }

    /// To be called while `peers` still knows the peer: others may have heard its paths.
    pub(in crate::rib) fn peer_down(&mut self, peer: PeerId, peers: &Peers) {
        let Some(table) = self.followers.peers.remove(&peer) else { return };
        if let Some(group) = table.group {
            self.followers.leave(peer, group);
        }
        if table.received == 0 {
            return;
        }
        let mut steps = Steps::default();
        for (slot, destination) in self.destinations.iter_mut() {
            if destination.paths().from(peer).next().is_some() {
                let gone = |path: &Path| path.source == Some(peer);
                let step = steps.step(destination.paths(), |paths| paths.without(gone, peers));
                self.followers.follow(slot, destination, peers, step);
            }
        }
    }

    /// What a peer says of `prefixes`, refused or not.
    pub(in crate::rib) fn learn(&mut self, received: &Received, prefixes: &[Nlri], judge: &mut Judge<'_>) {
        let standing = self.standing(judge.peer());
        let mut steps = Steps::default();
        let mut last: Option<Arc<Path>> = None;
        for some in prefixes.chunks(AHEAD) {
            let slot = |nlri: &Nlri| Some((self.destinations.find_or_add(K::new(nlri.prefix)?), *nlri));
            let slots: SmallVec<[_; AHEAD]> = some.iter().filter_map(slot).collect();
            for (slot, nlri) in slots {
                let path = judge.path(received, nlri, standing);
                if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &path)) {
                    steps = Steps::default();
                }
                self.set(slot, &path, &mut steps, judge.peers());
                last = Some(path);
            }
        }
    }

    /// A path that begins here.
    pub(in crate::rib) fn originate(&mut self, key: K, path: Arc<Path>, peers: &Peers) {
        let slot = self.destinations.find_or_add(key);
        self.set(slot, &path, &mut Steps::default(), peers);
    }

    /// `steps` are of this very path.
    fn set(&mut self, slot: Slot, path: &Arc<Path>, steps: &mut Steps, peers: &Peers) {
        let destination = self.destinations.get_mut(slot);
        let before = destination.paths().get(path.key());
        if before.is_some_and(|before| Arc::ptr_eq(before, path)) {
            return;
        }
        if let (None, Some(source)) = (before, path.source)
            && destination.paths().all().len() >= PATHS
            && destination.paths().from(source).count() >= PATHS
        {
            return;
        }
        if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(before);
            table.count(path);
        }
        let step = steps.step(destination.paths(), |paths| paths.with([path.clone()], peers));
        self.followers.follow(slot, destination, peers, step);
    }

    /// What a peer says it can reach no more.
    pub(in crate::rib) fn withdraw(&mut self, peer: PeerId, prefixes: &[Nlri], peers: &Peers) {
        let mut steps = Steps::default();
        let mut last = None;
        for some in prefixes.chunks(AHEAD) {
            let slot = |nlri: &Nlri| Some((self.destinations.find(K::new(nlri.prefix)?)?, nlri.path_id));
            let slots: SmallVec<[_; AHEAD]> = some.iter().filter_map(slot).collect();
            for (slot, path_id) in slots {
                if last.replace(path_id) != Some(path_id) {
                    steps = Steps::default();
                }
                self.unset(slot, PathKey { source: Some(peer), path_id }, &mut steps, peers);
            }
        }
    }

    /// What began here does so no more.
    pub(in crate::rib) fn abandon(&mut self, key: K, path: PathKey, peers: &Peers) {
        if let Some(slot) = self.destinations.find(key) {
            self.unset(slot, path, &mut Steps::default(), peers);
        }
    }

    /// `steps` are of this very key.
    fn unset(&mut self, slot: Slot, path: PathKey, steps: &mut Steps, peers: &Peers) {
        let destination = self.destinations.get_mut(slot);
        let Some(before) = destination.paths().get(path) else { return };
        if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(Some(before));
        }
        let step = steps.step(destination.paths(), |paths| paths.without(|other| other.key() == path, peers));
        self.followers.follow(slot, destination, peers, step);
    }

    pub(in crate::rib) fn counts(&self, peer: PeerId) -> Counts {
        self.followers.peers.get(&peer).map_or(Counts::default(), |table| Counts {
            received: table.received,
            accepted: table.accepted,
            stale: table.stale,
            long_lived: if table.long_lived { table.stale } else { 0 },
            advertised: self.followers.of(peer).map_or(0, |group| group.advertised(peer)),
        })
    }

    pub(in crate::rib) fn held(&self, peer: PeerId) -> usize {
        self.followers.peers.get(&peer).map_or(0, |table| table.received)
    }
}

impl PeerTable {
    fn count(&mut self, path: &Path) {
        self.received += 1;
        self.accepted += usize::from(path.refusal.is_none());
        self.stale += usize::from(path.generation != self.generation);
    }

    fn uncount(&mut self, path: Option<&Arc<Path>>) {
        if let Some(path) = path {
            self.received -= 1;
            self.accepted -= usize::from(path.refusal.is_none());
            self.stale -= usize::from(path.generation != self.generation);
        }
    }
}

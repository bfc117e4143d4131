//! The tables of one family: the Adj-RIBs-In and the Loc-RIB in one, and each peer's Adj-RIB-Out.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::adj_out::{AdjOut, RouteOrigin, exported};
use super::destination::{Destination, Listed};
use super::net::Net;
use super::path::{Interner, Path, PeerId, Refusal, Route};
use super::peers::Peers;
use super::{Counts, adj_in, policy};
use crate::api::RouteChange;
use crate::types::Prefix;
use crate::wire::Update;

#[derive(Debug)]
pub(super) struct Table<K> {
    /// One that has no path stays until its change is taken.
    destinations: FxHashMap<K, Destination>,
    followers: Followers<K>,
}

/// Those who follow the best paths.
#[derive(Debug)]
struct Followers<K> {
    /// Each once: those whose [`Destination::listed`] says so.
    listed: Vec<K>,
    /// Destinations with a best path.
    usable: usize,
    /// Peers that speak the family.
    peers: BTreeMap<PeerId, PeerTable<K>>,
}

#[derive(Debug)]
struct PeerTable<K> {
    received: usize,
    accepted: usize,
    out: AdjOut<K>,
}

impl<K: Net> Table<K> {
    pub(super) fn new() -> Self {
        let followers = Followers { listed: Vec::new(), usable: 0, peers: BTreeMap::new() };
        Self { destinations: FxHashMap::default(), followers }
    }

    /// Destinations with a best path.
    pub(super) fn len(&self) -> usize {
        self.followers.usable
    }

    pub(super) fn peer_up(&mut self, peer: PeerId) {
        let out = AdjOut::new(self.destinations.keys().copied());
        self.followers.peers.insert(peer, PeerTable { received: 0, accepted: 0, out });
    }

    /// To be called while `peers` still knows the peer: others may have heard its paths.
    pub(super) fn peer_down(&mut self, peer: PeerId, peers: &Peers) {
        if self.followers.peers.remove(&peer).is_none_or(|table| table.received == 0) {
            return;
        }
        for (key, destination) in &mut self.destinations {
            if destination.paths.from(Some(peer)).is_some() {
                self.followers.follow(*key, destination, peers, |destination| {
                    destination.paths.remove(Some(peer), peers);
                });
            }
        }
    }

    /// A path as its source gives it, refused or not.
    pub(super) fn learn(&mut self, key: K, path: Path, peers: &Peers) {
        let destination = self.destinations.entry(key).or_default();
        let before = destination.paths.from(path.source);
        if before.is_some_and(|before| before.same(&path)) {
            return;
        }
        if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(before);
            table.count(&path);
        }
        self.followers.follow(key, destination, peers, |destination| destination.paths.set(path, peers));
    }

    pub(super) fn withdraw(&mut self, key: K, source: Option<PeerId>, peers: &Peers) {
        let Some(destination) = self.destinations.get_mut(&key) else { return };
        let Some(before) = destination.paths.from(source) else { return };
        if let Some(table) = source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(Some(before));
        }
        self.followers.follow(key, destination, peers, |destination| destination.paths.remove(source, peers));
    }

    /// A peer's import policy is another: all it said is judged again.
    pub(super) fn judge_again(&mut self, peer: PeerId, peers: &Peers) {
        let Some(facts) = peers.facts.get(&peer) else { return };
        let mut loops: FxHashMap<*const Route, Option<Refusal>> = FxHashMap::default();
        for (key, destination) in &mut self.destinations {
            let Some(before) = destination.paths.from(Some(peer)) else { continue };
            let route = &before.route;
            let loops =
                *loops.entry(Arc::as_ptr(route)).or_insert_with(|| adj_in::loops(route, facts, peers));
            let path = Path { refusal: adj_in::refusal(loops, facts, key.prefix()), ..before.clone() };
            if path.refusal == before.refusal {
                continue;
            }
            if let Some(table) = self.followers.peers.get_mut(&peer) {
                table.uncount(Some(before));
                table.count(&path);
            }
            self.followers.follow(*key, destination, peers, |destination| destination.paths.set(path, peers));
        }
    }

    /// A peer's export policy is another.
    pub(super) fn tell_anew(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer) {
            table.out.note_all(self.destinations.keys().copied());
        }
    }

    pub(super) fn refresh(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer) {
            table.out.refresh(self.destinations.keys().copied());
        }
    }

    pub(super) fn take_changes(&mut self, changes: &mut Vec<RouteChange>) {
        let mut listed = std::mem::take(&mut self.followers.listed);
        listed.sort_unstable();
        for key in listed {
            let Some(destination) = self.destinations.get_mut(&key) else { continue };
            if std::mem::take(&mut destination.listed) == Listed::ToTell {
                let next_hops = destination.paths.next_hops().into_vec();
                changes.push(RouteChange { prefix: key.prefix(), next_hops });
            }
            if destination.paths.all().is_empty() {
                self.destinations.remove(&key);
            }
        }
    }

    pub(super) fn snapshot(&self, routes: &mut Vec<RouteChange>) {
        let hops = self.destinations.iter().map(|(key, destination)| (key, destination.paths.next_hops()));
        let start = routes.len();
        routes.extend(
            hops.filter(|(_, hops)| !hops.is_empty())
                .map(|(key, hops)| RouteChange { prefix: key.prefix(), next_hops: hops.into_vec() }),
        );
        routes[start..].sort_unstable_by_key(|route| route.prefix);
    }

    /// Those with a path, in order of prefix.
    pub(super) fn destinations(&self, only: Option<Prefix>) -> Vec<(Prefix, &Destination)> {
        let mut found: Vec<_> = match only {
            Some(prefix) => {
                K::new(prefix).and_then(|key| self.destinations.get_key_value(&key)).into_iter().collect()
            }
            None => self.destinations.iter().collect(),
        };
        found.retain(|(_, destination)| !destination.paths.all().is_empty());
        found.sort_unstable_by_key(|(key, _)| **key);
        found.into_iter().map(|(key, destination)| (key.prefix(), destination)).collect()
    }

    /// What `peer` has been told, in order of prefix.
    pub(super) fn told(&self, peer: PeerId, only: Option<Prefix>) -> Vec<(Prefix, &Route)> {
        let Some(table) = self.followers.peers.get(&peer) else { return Vec::new() };
        let routes = table.out.routes().map(|(key, route)| (key.prefix(), route));
        let mut routes: Vec<_> =
            routes.filter(|(prefix, _)| only.is_none_or(|only| only == *prefix)).collect();
        routes.sort_unstable_by_key(|(prefix, _)| *prefix);
        routes
    }

    pub(super) fn counts(&self, peer: PeerId) -> Counts {
        self.followers.peers.get(&peer).map_or(Counts::default(), |table| Counts {
            received: table.received,
            accepted: table.accepted,
            advertised: table.out.told(),
        })
    }

    pub(super) fn has_pending(&self, peer: PeerId) -> bool {
        self.followers.peers.get(&peer).is_some_and(|table| table.out.has_pending())
    }

    /// Appends messages of the present batch for `peer` until `out` holds `limit`.
    pub(super) fn take_updates(&mut self, peer: PeerId, limit: usize, out: &mut Vec<Update>) {
        if let Some(table) = self.followers.peers.get_mut(&peer) {
            table.out.take(limit, out);
        }
    }

    /// Works out what `peer` is to be told of all that was noted for it.
    pub(super) fn begin_batch(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        let (Some(table), Some(facts)) = (self.followers.peers.get_mut(&peer), peers.facts.get(&peer)) else {
            return;
        };
        let destinations = &self.destinations;
        let mut known: FxHashMap<(*const Route, RouteOrigin), Option<Arc<Route>>> = FxHashMap::default();
        table.out.begin(facts, |key| {
            let best = destinations.get(&key)?.paths.best()?;
            if !policy::export(peer, facts, best, peers.source(best)) {
                return None;
            }
            let origin = RouteOrigin::of(best, peers);
            known
                .entry((Arc::as_ptr(&best.route), origin))
                .or_insert_with(|| {
                    let route = exported(&best.route, origin, K::FAMILY, peers, facts)?;
                    Some(interner.intern(route))
                })
                .clone()
        });
    }
}

impl<K: Net> Followers<K> {
    /// Makes `change` and notes what follows from it.
    fn follow(
        &mut self,
        key: K,
        destination: &mut Destination,
        peers: &Peers,
        change: impl FnOnce(&mut Destination),
    ) {
        let best = destination.paths.best().cloned();
        let hops = destination.paths.next_hops();
        change(destination);
        let now = destination.paths.best();
        self.usable = self.usable + usize::from(now.is_some()) - usize::from(best.is_some());
        let listed = if destination.paths.next_hops() != hops {
            Listed::ToTell
        } else if destination.paths.all().is_empty() {
            Listed::ToSweep
        } else {
            Listed::No
        };
        if listed != Listed::No && destination.listed == Listed::No {
            self.listed.push(key);
        }
        destination.listed = destination.listed.max(listed);
        let same = match (&best, now) {
            (Some(best), Some(now)) => best.same(now),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        for (peer, table) in &mut self.peers {
            let Some(facts) = peers.facts.get(peer) else { continue };
            let hears = |path: &Path| policy::export(*peer, facts, path, peers.source(path));
            if best.as_ref().is_some_and(hears) || now.is_some_and(hears) {
                table.out.note(key);
            }
        }
    }
}

impl<K> PeerTable<K> {
    fn count(&mut self, path: &Path) {
        self.received += 1;
        self.accepted += usize::from(path.refusal.is_none());
    }

    fn uncount(&mut self, path: Option<&Path>) {
        if let Some(path) = path {
            self.received -= 1;
            self.accepted -= usize::from(path.refusal.is_none());
        }
    }
}

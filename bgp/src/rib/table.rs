//! The tables of one family: the Adj-RIBs-In and the Loc-RIB in one, and the Adj-RIBs-Out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::adj_in::Judge;
use super::adj_out::Run;
use super::aggregate::{self, Aggregate, Wanted};
use super::audience::Audience;
use super::destination::{Destination, Paths};
use super::destinations::{Destinations, Slot};
use super::group::{Group, Marks, Said};
use super::net::Net;
use super::originate;
use super::path::{Generation, Hop, Interner, Path, PathKey, PeerId, Standing};
use super::peers::Peers;
use super::{Counts, PeerFacts};
use crate::api::RouteChange;
use crate::types::Prefix;
use crate::wire::Nlri;

/// Below this many there is nothing worth tidying up.
const FEW: usize = 1024;

/// Above this many they are not worth listing.
const MANY: usize = 64 * FEW;

/// Paths a peer may have to one destination; what it tells beyond them is as if it had not been told. Each
/// change of a destination looks at all of its paths.
const PATHS: usize = 256;

#[derive(Debug)]
pub(super) struct Table<K> {
    /// One that has no path stays while somebody remembers it.
    destinations: Destinations<K>,
    followers: Followers<K>,
}

/// Those who follow the best paths.
#[derive(Debug)]
struct Followers<K> {
    /// Each once: those whose [`Destination::listed`] says so.
    listed: Vec<Slot>,
    emptied: Emptied,
    /// Destinations with a best path.
    usable: usize,
    /// Peers that speak the family.
    peers: BTreeMap<PeerId, PeerTable>,
    groups: Vec<Group<K>>,
    /// A route that next hops may hang on is another.
    moved: bool,
    aggregates: Vec<Aggregate<K>>,
    /// Something in one of them is another.
    stirred: bool,
}

/// Destinations that had no path at last; one may be here more than once.
#[derive(Debug)]
struct Emptied {
    /// All, or so many that it is better to look for them.
    slots: Vec<Slot>,
    count: usize,
    tidy_at: usize,
}

impl Default for Emptied {
    fn default() -> Self {
        Self { slots: Vec::new(), count: 0, tidy_at: FEW }
    }
}

impl Emptied {
    fn push(&mut self, slot: Slot) {
        self.count += 1;
        if self.slots.len() < MANY {
            self.slots.push(slot);
        }
    }
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
    pub(super) fn new() -> Self {
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
    pub(super) fn len(&self) -> usize {
        self.followers.usable
    }

    /// Whether nothing at all is held.
    pub(super) fn is_vacant(&self) -> bool {
        self.destinations.slots() == 0
    }

    pub(super) fn peer_up(&mut self, peer: PeerId, facts: &PeerFacts, peers: &Peers) {
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
    pub(super) fn silence(&mut self, peer: PeerId) {
        if let Some(group) = self.followers.peers.get_mut(&peer).and_then(|table| table.group.take()) {
            self.followers.leave(peer, group);
        }
    }

    /// Whether anything is told to the peer.
    pub(super) fn hears(&self, peer: PeerId) -> bool {
        self.followers.peers.get(&peer).is_some_and(|table| table.group.is_some())
    }

    /// Of what the peer says now.
    pub(super) fn standing(&self, peer: PeerId) -> Standing {
        let generation = self.followers.peers.get(&peer).map(|table| table.generation).unwrap_or_default();
        Standing { generation, long_lived: false }
    }

    /// All the peer has said becomes stale. What was stale before is to be swept or made fresh first.
    pub(super) fn mark_stale(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer)
            && table.stale == 0
        {
            table.generation = table.generation.next();
            table.stale = table.received;
        }
    }

    /// What is stale counts as said just now.
    pub(super) fn freshen(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        if self.has_stale(peer) {
            let standing = self.standing(peer);
            self.judge(peer, peers, interner, |_| standing);
            self.settle(peer);
        }
    }

    /// What is stale is the last resort from now on.
    pub(super) fn live_long(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        if self.has_stale(peer) {
            if let Some(table) = self.followers.peers.get_mut(&peer) {
                table.long_lived = true;
            }
            self.judge_again(peer, peers, interner);
        }
    }

    fn has_stale(&self, peer: PeerId) -> bool {
        self.followers.peers.get(&peer).is_some_and(|table| table.stale > 0)
    }

    /// Nothing is stale any more.
    fn settle(&mut self, peer: PeerId) {
        if let Some(table) = self.followers.peers.get_mut(&peer) {
            table.long_lived = false;
        }
    }

    /// What is stale goes.
    pub(super) fn sweep(&mut self, peer: PeerId, peers: &Peers) {
        if !self.has_stale(peer) {
            return;
        }
        let generation = self.standing(peer).generation;
        for (slot, destination) in self.destinations.iter_mut() {
            let stale = |path: &Path| path.source == Some(peer) && path.generation != generation;
            let before = destination.paths.all().iter().filter(|path| stale(path));
            if self.followers.uncount(peer, before) {
                self.followers.follow(slot, destination, peers, |destination| {
                    destination.paths.remove(stale, peers);
                });
            }
        }
        self.settle(peer);
    }

    pub(super) fn is_stale(&self, path: &Path) -> bool {
        path.source.is_some_and(|source| self.standing(source).generation != path.generation)
    }

    /// To be called while `peers` still knows the peer: others may have heard its paths.
    pub(super) fn peer_down(&mut self, peer: PeerId, peers: &Peers) {
        let Some(table) = self.followers.peers.remove(&peer) else { return };
        if let Some(group) = table.group {
            self.followers.leave(peer, group);
        }
        if table.received == 0 {
            return;
        }
        for (slot, destination) in self.destinations.iter_mut() {
            if destination.paths.from(peer).next().is_some() {
                self.followers.follow(slot, destination, peers, |destination| {
                    destination.paths.remove(|path| path.source == Some(peer), peers);
                });
            }
        }
    }

    /// A path as its source gives it, refused or not.
    pub(super) fn learn(&mut self, key: K, path: Arc<Path>, peers: &Peers) {
        let slot = self.destinations.find_or_add(key);
        let destination = self.destinations.get_mut(slot);
        let before = destination.paths.get(path.key());
        if before.is_some_and(|before| Arc::ptr_eq(before, &path)) {
            return;
        }
        if let (None, Some(source)) = (before, path.source)
            && destination.paths.all().len() >= PATHS
            && destination.paths.from(source).count() >= PATHS
        {
            return;
        }
        if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(before);
            table.count(&path);
        }
        self.followers.follow(slot, destination, peers, |destination| destination.paths.set(path, peers));
    }

    pub(super) fn withdraw(&mut self, key: K, path: PathKey, peers: &Peers) {
        let Some(slot) = self.destinations.find(key) else { return };
        let destination = self.destinations.get_mut(slot);
        let Some(before) = destination.paths.get(path) else { return };
        if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
            table.uncount(Some(before));
        }
        self.followers.follow(slot, destination, peers, |destination| {
            destination.paths.remove(|other| other.key() == path, peers);
        });
    }

    /// What decides about what a peer said is other than it was: all of it is judged again.
    pub(super) fn judge_again(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        let Some(table) = self.followers.peers.get(&peer) else { return };
        let (now, long_lived) = (table.generation, table.long_lived);
        self.judge(peer, peers, interner, |generation| Standing {
            generation,
            long_lived: long_lived && generation != now,
        });
    }

    fn judge(
        &mut self,
        peer: PeerId,
        peers: &Peers,
        interner: &mut Interner,
        standing: impl Fn(Generation) -> Standing,
    ) {
        let Some(mut judge) = Judge::new(peer, peers, interner) else { return };
        for (slot, destination) in self.destinations.iter_mut() {
            let prefix = destination.key.prefix();
            let mut changed: SmallVec<[Arc<Path>; 1]> = SmallVec::new();
            for before in destination.paths.from(peer) {
                let nlri = Nlri { prefix, path_id: before.path_id };
                let path = judge.path(&before.received(), nlri, standing(before.generation));
                if Arc::ptr_eq(&path, before) {
                    continue;
                }
                if let Some(table) = self.followers.peers.get_mut(&peer) {
                    table.uncount(Some(before));
                    table.count(&path);
                }
                changed.push(path);
            }
            if !changed.is_empty() {
                self.followers.follow(slot, destination, peers, |destination| {
                    changed.into_iter().for_each(|path| destination.paths.set(path, peers));
                });
            }
        }
    }

    /// Something else is true of these next hops than before.
    pub(super) fn reach_anew(&mut self, changed: &BTreeSet<IpAddr>, peers: &Peers, interner: &mut Interner) {
        // With what they were, so that an address is not given to another meanwhile.
        let mut known: FxHashMap<*const Path, (Arc<Path>, Option<Arc<Path>>)> = FxHashMap::default();
        let has_changed = |path: &Path| path.source.is_some() && changed.contains(&path.next_hop.addr());
        for (slot, destination) in self.destinations.iter_mut() {
            if !destination.paths.all().iter().any(|path| has_changed(path)) {
                continue;
            }
            let mut others: SmallVec<[Arc<Path>; 1]> = SmallVec::new();
            for before in destination.paths.all().iter().filter(|path| has_changed(path)) {
                let (_, path) = known.entry(Arc::as_ptr(before)).or_insert_with(|| {
                    let other = before.with_next_hop(peers.unreached(before));
                    let other = other.map(|path| interner.intern(path));
                    (before.clone(), other)
                });
                let Some(path) = path else { continue };
                if let Some(table) = path.source.and_then(|source| self.followers.peers.get_mut(&source)) {
                    table.uncount(Some(before));
                    table.count(path);
                }
                others.push(path.clone());
            }
            self.followers.follow(slot, destination, peers, |destination| {
                others.into_iter().for_each(|path| destination.paths.set(path, peers));
                destination.paths.rank(peers);
            });
            // The same next hops may be reached by other neighbours.
            if destination.paths.next_hops().iter().any(|hop| changed.contains(&hop.addr)) {
                self.followers.list(slot, &mut destination.listed);
            }
        }
    }

    /// Next hops of the learned route in use to a prefix that `next_hop` is in. None where a path to that prefix
    /// has this very next hop: it would come and go with itself.
    pub(super) fn way_to(&self, next_hop: IpAddr, key: K) -> SmallVec<[IpAddr; 1]> {
        let paths = self.destinations.find(key).map(|slot| &self.destinations.get(slot).paths);
        let circular = |paths: &&Paths| {
            paths.all().iter().any(|path| path.source.is_some() && path.next_hop.addr() == next_hop)
        };
        let hops = paths.filter(|paths| !circular(paths)).map(Paths::next_hops).unwrap_or_default();
        hops.iter().map(|hop| hop.addr).collect()
    }

    /// Ranks all paths again: they are compared otherwise.
    pub(super) fn rank_anew(&mut self, peers: &Peers) {
        for (slot, destination) in self.destinations.iter_mut() {
            if destination.paths.are_many() {
                self.followers.follow(slot, destination, peers, |destination| destination.paths.rank(peers));
            }
        }
    }

    /// Originates exactly these, as far as there is something in them.
    pub(super) fn set_aggregates(&mut self, wanted: &BTreeMap<Prefix, Wanted>, peers: &Peers) {
        let wanted: Vec<_> =
            wanted.iter().filter_map(|(prefix, wanted)| Some((K::new(*prefix)?, wanted.clone()))).collect();
        let stays =
            |one: &Aggregate<K>| wanted.iter().any(|(key, wanted)| (*key, wanted) == (one.key, &one.wanted));
        let before = std::mem::take(&mut self.followers.aggregates);
        let (kept, gone): (Vec<_>, Vec<_>) = before.into_iter().partition(stays);
        for (key, wanted) in wanted {
            if kept.iter().any(|one| one.key == key) {
                continue;
            }
            let mut new = Aggregate::new(key, wanted);
            for (_, destination) in self.destinations.iter() {
                if new.hides(destination.key.prefix()) {
                    destination.paths.best().into_iter().for_each(|path| new.add(path));
                }
            }
            self.followers.aggregates.push(new);
        }
        self.followers.aggregates.extend(kept);
        self.followers.stirred = true;
        for one in gone {
            self.withdraw(one.key, aggregate::KEY, peers);
        }
    }

    /// Whether something in an aggregate is another.
    pub(super) fn stirred(&self) -> bool {
        self.followers.stirred
    }

    /// Originates aggregates as what is in them has it.
    pub(super) fn aggregate(&mut self, peers: &Peers, interner: &mut Interner) {
        // One may be in another.
        while std::mem::take(&mut self.followers.stirred) {
            let news = self.followers.aggregates.iter_mut().filter_map(|one| {
                let form = one.news()?;
                Some((one.key, form.map(|form| one.attributes(form, peers))))
            });
            for (key, attributes) in news.collect::<Vec<_>>() {
                match attributes {
                    Some(attributes) => {
                        let path = originate::path(key.prefix(), aggregate::PATH_ID, attributes);
                        self.learn(key, interner.intern(path), peers);
                    }
                    None => self.withdraw(key, aggregate::KEY, peers),
                }
            }
        }
    }

    /// Those whose parts are not told to external peers.
    pub(super) fn suppressing(&self) -> impl Iterator<Item = Prefix> {
        let aggregates =
            self.followers.aggregates.iter().filter(|one| one.wanted.suppress && one.is_originated());
        aggregates.map(|one| one.key.prefix())
    }

    /// Has everything in `prefix` looked at again.
    pub(super) fn note_within(&mut self, prefix: Prefix) {
        for (slot, destination) in self.destinations.iter().filter(|(_, one)| prefix.covers(one.key.prefix()))
        {
            for group in &mut self.followers.groups {
                group.note(slot, destination.paths.best());
            }
        }
    }

    /// Whether a route that next hops may hang on is another.
    pub(super) fn moved(&self) -> bool {
        self.followers.moved
    }

    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.followers.moved)
    }

    /// What a peer hears is to be worked out anew: what decides it is other than it was.
    pub(super) fn tell_anew(&mut self, peer: PeerId, peers: &Peers) {
        let Some(facts) = peers.facts.get(&peer) else { return };
        if let Some(group) = self.followers.alone(peer) {
            group.address(Audience::of(facts, peers), &self.destinations, peers);
        }
    }

    /// Says everything to a peer again.
    pub(super) fn refresh(&mut self, peer: PeerId, marks: Marks) {
        if let Some(group) = self.followers.alone(peer) {
            group.refresh(self.destinations.iter().map(|(slot, _)| slot), marks);
        }
    }

    /// What others heard of a peer's paths is to be said again: it is another speaker now.
    pub(super) fn forget(&mut self, source: PeerId) {
        self.followers.groups.iter_mut().for_each(|group| group.forget(source));
    }

    pub(super) fn part(&mut self, peer: PeerId) {
        self.followers.alone(peer);
    }

    pub(super) fn take_changes(&mut self, changes: &mut Vec<RouteChange>, peers: &Peers) {
        let start = changes.len();
        for slot in std::mem::take(&mut self.followers.listed) {
            let destination = self.destinations.get_mut(slot);
            destination.listed = false;
            let next_hops = peers.hops(&destination.paths.next_hops());
            changes.push(RouteChange { prefix: destination.key.prefix(), next_hops });
        }
        changes[start..].sort_unstable_by_key(|change| change.prefix);
    }

    pub(super) fn drop_changes(&mut self) {
        for slot in self.followers.listed.drain(..) {
            self.destinations.get_mut(slot).listed = false;
        }
    }

    /// Removes destinations nobody remembers, once they are many or nothing is left to be done.
    pub(super) fn tidy(&mut self) {
        let Followers { listed, emptied, groups, usable, .. } = &mut self.followers;
        let idle = listed.is_empty() && groups.iter().all(Group::is_idle);
        if emptied.count == 0 || !idle && emptied.count < emptied.tidy_at {
            return;
        }
        let emptied = std::mem::take(emptied);
        let slots = if emptied.slots.len() < emptied.count {
            self.destinations.empty().collect()
        } else {
            emptied.slots
        };
        let mut left = Emptied::default();
        for slot in slots {
            let destination = self.destinations.get(slot);
            if !destination.paths.all().is_empty() {
                continue;
            }
            if destination.listed || groups.iter().any(|group| group.remembers(slot)) {
                left.push(slot);
            } else {
                self.destinations.remove(slot);
            }
        }
        left.tidy_at = FEW.max(2 * left.count).max(*usable);
        self.followers.emptied = left;
        if self.destinations.is_empty() {
            self.destinations = Destinations::new();
        }
    }

    pub(super) fn snapshot(&self, routes: &mut Vec<RouteChange>, peers: &Peers) {
        let start = routes.len();
        routes.extend(
            self.destinations
                .iter()
                .map(|(_, destination)| (destination.key, destination.paths.next_hops()))
                .filter(|(_, hops)| !hops.is_empty())
                .map(|(key, hops)| RouteChange { prefix: key.prefix(), next_hops: peers.hops(&hops) }),
        );
        routes[start..].sort_unstable_by_key(|route| route.prefix);
    }

    /// Those with a path, in order of prefix.
    pub(super) fn destinations(&self, only: Option<Prefix>) -> Vec<(Prefix, &Paths)> {
        let mut found: Vec<_> = match only {
            Some(prefix) => {
                let slot = K::new(prefix).and_then(|key| self.destinations.find(key));
                slot.map(|slot| self.destinations.get(slot)).into_iter().collect()
            }
            None => self.destinations.iter().map(|(_, destination)| destination).collect(),
        };
        found.retain(|destination| !destination.paths.all().is_empty());
        found.sort_unstable_by_key(|destination| destination.key);
        found.into_iter().map(|destination| (destination.key.prefix(), &destination.paths)).collect()
    }

    /// What `peer` has been told, in order of prefix.
    pub(super) fn told(
        &self,
        peer: PeerId,
        only: Option<Prefix>,
        peers: &Peers,
        interner: &Interner,
    ) -> Vec<(Prefix, Said)> {
        let Some(group) = self.followers.of(peer) else { return Vec::new() };
        let slots = 0..self.destinations.slots() as Slot;
        let mut routes: Vec<_> = slots
            .map(|slot| (slot, self.destinations.get(slot).key.prefix()))
            .filter(|(_, prefix)| only.is_none_or(|only| only == *prefix))
            .flat_map(|(slot, prefix)| {
                group.said(peer, slot, prefix, peers, interner).into_iter().map(move |said| (prefix, said))
            })
            .collect();
        routes.sort_unstable_by_key(|(prefix, said)| (*prefix, said.path_id));
        routes
    }

    pub(super) fn counts(&self, peer: PeerId) -> Counts {
        self.followers.peers.get(&peer).map_or(Counts::default(), |table| Counts {
            received: table.received,
            accepted: table.accepted,
            stale: table.stale,
            long_lived: if table.long_lived { table.stale } else { 0 },
            advertised: self.followers.of(peer).map_or(0, |group| group.advertised(peer)),
        })
    }

    pub(super) fn held(&self, peer: PeerId) -> usize {
        self.followers.peers.get(&peer).map_or(0, |table| table.received)
    }

    pub(super) fn has_pending(&self, peer: PeerId) -> bool {
        self.followers.of(peer).is_some_and(|group| group.has_pending(peer))
    }

    /// The next run of the present batch for `peer`.
    pub(super) fn take_run(&mut self, peer: PeerId) -> Option<Run> {
        let group = self.followers.peers.get(&peer)?.group?;
        let run = self.followers.groups[group].take(peer);
        if run.is_none() && self.followers.groups[group].is_idle() {
            self.followers.merge(group);
        }
        run
    }

    /// Works out the next batch of what was noted for `peer`; false where there is nothing to be done.
    pub(super) fn begin(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) -> bool {
        let Some(group) = self.followers.peers.get(&peer).and_then(|table| table.group) else {
            return false;
        };
        let group = &mut self.followers.groups[group];
        let can = group.can_begin();
        if can {
            group.begin(&self.destinations, peers, interner);
        }
        can
    }
}

impl<K: Net> Followers<K> {
    /// Makes `change` and notes what follows from it.
    fn follow(
        &mut self,
        slot: Slot,
        destination: &mut Destination<K>,
        peers: &Peers,
        change: impl FnOnce(&mut Destination<K>),
    ) {
        let best = destination.paths.best().cloned();
        let hops = destination.paths.are_many().then(|| destination.paths.next_hops());
        change(destination);
        let now = destination.paths.best();
        self.usable = self.usable + usize::from(now.is_some()) - usize::from(best.is_some());
        // Nothing runs more often: lists of next hops are made only where there is more than one path.
        let moved = match hops {
            None if !destination.paths.are_many() => hop(best.as_ref()) != hop(now),
            None => destination.paths.next_hops()[..] != *hop(best.as_ref()).as_slice(),
            Some(hops) => destination.paths.next_hops() != hops,
        };
        if moved {
            self.list(slot, &mut destination.listed);
        }
        self.moved |= peers.next_hops.covers(destination.key.prefix());
        if destination.paths.all().is_empty() {
            self.emptied.push(slot);
        }
        let same = match (&best, now) {
            (Some(best), Some(now)) => Arc::ptr_eq(best, now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let prefix = destination.key.prefix();
            for aggregate in self.aggregates.iter_mut().filter(|aggregate| aggregate.hides(prefix)) {
                best.iter().for_each(|path| aggregate.take(path));
                now.into_iter().for_each(|path| aggregate.add(path));
                self.stirred = true;
            }
        }
        for group in &mut self.groups {
            if !same || group.hears_several() {
                group.note(slot, now);
            }
        }
    }

    /// Watchers are to be told.
    fn list(&mut self, slot: Slot, listed: &mut bool) {
        if !std::mem::replace(listed, true) {
            self.listed.push(slot);
        }
    }

    /// Counts no more what is about to go; false where that is nothing.
    fn uncount<'a>(&mut self, peer: PeerId, paths: impl Iterator<Item = &'a Arc<Path>>) -> bool {
        let mut some = false;
        for path in paths {
            some = true;
            if let Some(table) = self.peers.get_mut(&peer) {
                table.uncount(Some(path));
            }
        }
        some
    }

    /// The group of a peer.
    fn of(&self, peer: PeerId) -> Option<&Group<K>> {
        self.groups.get(self.peers.get(&peer)?.group?)
    }

    /// The group of a peer, which is alone in it from now on.
    fn alone(&mut self, peer: PeerId) -> Option<&mut Group<K>> {
        let table = self.peers.get_mut(&peer)?;
        let mut group = table.group?;
        if self.groups[group].is_shared()
            && let Some(parted) = self.groups[group].part(peer)
        {
            self.groups.push(parted);
            group = self.groups.len() - 1;
            table.group = Some(group);
        }
        self.groups.get_mut(group)
    }

    fn leave(&mut self, peer: PeerId, group: usize) {
        if self.groups[group].is_shared() {
            self.groups[group].remove(peer);
        } else {
            self.drop_group(group);
        }
    }

    /// Lets a group in which everybody knows everything join another such of the same audience.
    fn merge(&mut self, group: usize) {
        let fits = |other: &Group<K>| other.is_idle() && other.audience() == self.groups[group].audience();
        let Some(other) = (0..self.groups.len()).find(|i| *i != group && fits(&self.groups[*i])) else {
            return;
        };
        let members: Vec<_> = self.groups[group].members().collect();
        for peer in members {
            if let Some(table) = self.peers.get_mut(&peer) {
                table.group = Some(other);
            }
        }
        if let Ok([group, other]) = self.groups.get_disjoint_mut([group, other]) {
            other.join(group);
        }
        self.drop_group(group);
    }

    fn drop_group(&mut self, group: usize) {
        self.groups.swap_remove(group);
        if let Some(moved) = self.groups.get(group) {
            for peer in moved.members() {
                if let Some(table) = self.peers.get_mut(&peer) {
                    table.group = Some(group);
                }
            }
        }
    }
}

/// Where the only path to a destination leads.
fn hop(path: Option<&Arc<Path>>) -> Option<Hop> {
    Hop::of(path?)
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

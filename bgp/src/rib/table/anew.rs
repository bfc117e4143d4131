//! What was said is looked at again, because something it is judged or ranked by is another.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Table;
use crate::rib::adj_in::Judge;
use crate::rib::destination::{Paths, Step, Steps};
use crate::rib::net::Net;
use crate::rib::path::{Generation, Interner, Path, PeerId, Standing};
use crate::rib::peers::Peers;
use crate::wire::Nlri;

impl<K: Net> Table<K> {
    /// What decides about what a peer said is other than it was: all of it is judged again.
    pub(in crate::rib) fn judge_again(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) {
        let Some(table) = self.followers.peers.get(&peer) else { return };
        let (now, long_lived) = (table.generation, table.long_lived);
        self.judge(peer, peers, interner, |generation| Standing {
            generation,
            long_lived: long_lived && generation != now,
        });
    }

    pub(super) fn judge(
        &mut self,
        peer: PeerId,
        peers: &Peers,
        interner: &mut Interner,
        standing: impl Fn(Generation) -> Standing,
    ) {
        let Some(mut judge) = Judge::new(peer, peers, interner) else { return };
        for (slot, destination) in self.destinations.iter_mut() {
            let prefix = destination.key().prefix();
            let mut changed: SmallVec<[Arc<Path>; 1]> = SmallVec::new();
            for before in destination.paths().from(peer) {
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
                let after = destination.paths().with(changed, peers);
                let step = Step::new(destination.paths().of(()), after);
                self.followers.follow(slot, destination, peers, &step);
            }
        }
    }

    /// Something else is true of these next hops than before.
    pub(in crate::rib) fn reach_anew(
        &mut self,
        changed: &BTreeSet<IpAddr>,
        peers: &Peers,
        interner: &mut Interner,
    ) {
        // With what they were, so that an address is not given to another meanwhile.
        let mut known: FxHashMap<*const Path, (Arc<Path>, Option<Arc<Path>>)> = FxHashMap::default();
        let mut steps = Steps::default();
        let has_changed = |path: &Path| path.source.is_some() && changed.contains(&path.next_hop.addr());
        for (slot, destination) in self.destinations.iter_mut() {
            if !destination.paths().all().iter().any(|path| has_changed(path)) {
                continue;
            }
            let mut others: SmallVec<[Arc<Path>; 1]> = SmallVec::new();
            for before in destination.paths().all().iter().filter(|path| has_changed(path)) {
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
            let step = steps.step(destination.paths(), |paths| paths.with(others, peers).ranked_anew(peers));
            self.followers.follow(slot, destination, peers, step);
            // The same next hops may be reached by other neighbours.
            if destination.paths().next_hops().iter().any(|hop| changed.contains(&hop.addr)) {
                self.followers.list(slot, destination);
            }
        }
    }

    /// Next hops of the learned route in use to a prefix that `next_hop` is in. None where a path to that prefix
    /// has this very next hop: it would come and go with itself.
    pub(in crate::rib) fn way_to(&self, next_hop: IpAddr, key: K) -> SmallVec<[IpAddr; 1]> {
        let paths = self.destinations.find(key).map(|slot| self.destinations.get(slot).paths());
        let circular = |paths: &&Paths<_>| {
            paths.all().iter().any(|path| path.source.is_some() && path.next_hop.addr() == next_hop)
        };
        let hops = paths.filter(|paths| !circular(paths)).map(|paths| paths.next_hops()).unwrap_or_default();
        hops.iter().map(|hop| hop.addr).collect()
    }

    /// Ranks all paths again: they are compared otherwise.
    pub(in crate::rib) fn rank_anew(&mut self, peers: &Peers) {
        let mut steps = Steps::default();
        for (slot, destination) in self.destinations.iter_mut() {
            if destination.paths().are_many() {
                let step = steps.step(destination.paths(), |paths| paths.ranked_anew(peers));
                self.followers.follow(slot, destination, peers, step);
            }
        }
    }
}

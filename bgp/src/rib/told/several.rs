//! Several paths a destination (RFC 7911), each under an identifier that stays its own as long as it is told.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::{Members, Tally, Work};
use crate::api::PathCount;
use crate::rib::destination::Destination;
use crate::rib::destinations::Slot;
use crate::rib::net::Net;
use crate::rib::path::{Path, PeerId};

#[derive(Clone, Debug)]
pub(in crate::rib) struct Several {
    count: PathCount,
    /// By slot.
    told: Vec<Box<[Arc<Path>]>>,
    /// Destinations of which everything is said again.
    again: FxHashSet<Slot>,
    pub(super) tally: Tally,
}

impl Several {
    pub(super) fn new(count: PathCount) -> Self {
        Self { count, told: Vec::new(), again: FxHashSet::default(), tally: Tally::default() }
    }

    pub(super) fn get(&self, slot: Slot) -> &[Arc<Path>] {
        self.told.get(slot as usize).map_or(&[], |paths| paths)
    }

    /// Nothing where it is being told again.
    pub(super) fn fresh(&self, slot: Slot) -> &[Arc<Path>] {
        if self.again.contains(&slot) { &[] } else { self.get(slot) }
    }

    pub(super) fn retell(&mut self, members: &Members, mut keep: impl FnMut(Slot, &Arc<Path>) -> bool) {
        for (slot, told) in (0..).zip(&mut self.told) {
            if told.is_empty() {
                continue;
            }
            let own = |path: &Arc<Path>| path.source.is_some_and(|source| members.contains_key(&source));
            *told = told.iter().filter(|path| !own(path)).cloned().collect();
            if !told.iter().all(|path| keep(slot, path)) {
                self.again.insert(slot);
            }
        }
        self.tally = Tally::of(self.told.iter().flatten());
    }

    pub(super) fn forget(&mut self, source: PeerId) -> Vec<Slot> {
        let of = |paths: &[Arc<Path>]| paths.iter().any(|path| path.source == Some(source));
        let slots: Vec<_> =
            (0..).zip(&self.told).filter(|(_, told)| of(told)).map(|(slot, _)| slot).collect();
        self.again.extend(&slots);
        slots
    }

    pub(super) fn work_out<K: Net>(
        &mut self,
        slot: Slot,
        destination: &Destination<K>,
        work: &mut Work<'_, '_, K>,
    ) {
        let key = destination.key();
        let ranked = destination.paths().ranked(self.count.limit(), work.peers);
        let placed =
            ranked.into_iter().filter_map(|path| Some((path, work.exports.place(path, key.prefix())?)));
        let wanted: SmallVec<[_; 4]> = placed.take(self.count.limit()).collect();
        let again = self.again.remove(&slot);
        let told = self.get(slot);
        if wanted.is_empty() && told.is_empty() {
            return;
        }
        for path in told {
            if !wanted.iter().any(|(wanted, _)| wanted.key() == path.key()) {
                let entry = (work.all_but_source(path), key, work.number(path));
                work.outbox.withdrawn.push(entry);
            }
        }
        for (path, place) in &wanted {
            let before = told.iter().find(|told| told.key() == path.key()).filter(|_| !again);
            let same = before
                .is_some_and(|told| Arc::ptr_eq(told, path) || work.exports.alike(told, path, key.prefix()));
            if !same {
                let entry = (*place, work.all_but_source(path), key, work.number(path));
                work.outbox.announced.push(entry);
            }
        }
        self.tell(slot, wanted.into_iter().map(|(path, _)| path.clone()).collect());
    }

    fn tell(&mut self, slot: Slot, paths: Box<[Arc<Path>]>) {
        if self.told.len() <= slot as usize {
            self.told.resize(slot as usize + 1, Box::default());
        }
        paths.iter().for_each(|path| self.tally.add(path));
        let before = std::mem::replace(&mut self.told[slot as usize], paths);
        before.iter().for_each(|path| self.tally.take(path));
        if self.tally.count == 0 {
            *self = Self::new(self.count);
        }
    }
}

//! One path a destination: what most neighbours are told, so it is small. That something is told of a destination is a
//! bit; what is told is its best path, unless it is noted: then it is what was told, kept beside the note.

use std::sync::Arc;

use super::{Members, Tally, Work};
use crate::rib::adj_out::{self, Whom};
use crate::rib::destination::Destination;
use crate::rib::destinations::{Destinations, Slot};
use crate::rib::net::Net;
use crate::rib::noted::{Noted, Slots};
use crate::rib::path::{Path, PeerId};

#[derive(Clone, Debug, Default)]
pub(in crate::rib) struct One {
    told: Slots,
    pub(super) tally: Tally,
}

impl One {
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.told.contains(slot)
    }

    /// All that is told is noted then.
    pub(super) fn retell<K: Net>(
        &mut self,
        noted: &mut Noted,
        destinations: &Destinations<K>,
        members: &Members,
        mut keep: impl FnMut(Slot, &Arc<Path>) -> bool,
    ) {
        let something = adj_out::something();
        for slot in self.told.iter() {
            noted.insert(slot, || destinations.get(slot).paths().best().cloned());
        }
        for (slot, told) in noted.iter_mut() {
            let Some(path) = told else { continue };
            if path.source.is_some_and(|source| members.contains_key(&source)) {
                *told = None;
                self.told.remove(slot);
            } else if !keep(slot, path) {
                *told = Some(something.clone());
            }
        }
        self.tally = Tally::of(noted.iter().filter_map(|(_, told)| told));
    }

    /// Its paths are gone: what is told of them is noted.
    pub(super) fn forget(&mut self, noted: &mut Noted, source: PeerId) {
        let something = adj_out::something();
        for (_, told) in noted.iter_mut() {
            if let Some(path) = told.as_mut().filter(|path| path.source == Some(source)) {
                self.tally.take(path);
                self.tally.add(&something);
                *path = something.clone();
            }
        }
    }

    /// Instead of what was told before.
    fn tell(&mut self, slot: Slot, before: Option<&Path>, path: Option<&Path>) {
        match path {
            Some(path) => {
                self.told.insert(slot);
                self.tally.add(path);
            }
            None => self.told.remove(slot),
        }
        let Some(before) = before else { return };
        self.tally.take(before);
        if self.tally.count == 0 {
            *self = Self::default();
        }
    }

    /// `told` is what is told of it until now.
    pub(super) fn work_out<K: Net>(
        &mut self,
        slot: Slot,
        told: Option<&Arc<Path>>,
        destination: &Destination<K>,
        work: &mut Work<'_, '_, K>,
    ) {
        let key = destination.key();
        let best = destination.paths().best();
        let wanted = best.and_then(|path| Some((path, work.exports.place(path, key.prefix())?)));
        match (wanted, told) {
            (None, None) => {}
            (None, Some(told)) => {
                work.outbox.withdrawn.push((work.all_but_source(told), key, 0));
                self.tell(slot, Some(told), None);
            }
            (Some((path, _)), Some(told)) if Arc::ptr_eq(path, told) => {}
            (Some((path, place)), told) => {
                let whom = work.all_but_source(path);
                let same_source = told.is_some_and(|told| told.source == path.source);
                if let (Some(_), Whom::AllBut(source), false) = (told, whom, same_source) {
                    work.outbox.withdrawn.push((Whom::Only(source), key, 0));
                }
                if !(same_source && told.is_some_and(|told| work.exports.alike(told, path, key.prefix()))) {
                    work.outbox.announced.push((place, whom, key, 0));
                }
                self.tell(slot, told.map(Arc::as_ref), Some(path));
            }
        }
    }
}

//! One path a destination: what most neighbours are told, so it is small.

use std::sync::Arc;

use super::{Members, Tally, Work};
use crate::rib::adj_out::{self, Whom};
use crate::rib::destination::Destination;
use crate::rib::destinations::Slot;
use crate::rib::net::Net;
use crate::rib::path::{Path, PeerId};

#[derive(Clone, Debug, Default)]
pub(in crate::rib) struct One {
    /// By slot.
    told: Vec<Option<Arc<Path>>>,
    pub(super) tally: Tally,
}

impl One {
    pub(super) fn get(&self, slot: Slot) -> Option<&Arc<Path>> {
        self.told.get(slot as usize)?.as_ref()
    }

    pub(super) fn slots(&self) -> Slot {
        self.told.len() as Slot
    }

    pub(super) fn retell(&mut self, members: &Members, mut keep: impl FnMut(Slot, &Arc<Path>) -> bool) {
        let something = adj_out::something();
        for (slot, told) in (0..).zip(&mut self.told) {
            let Some(path) = told else { continue };
            if path.source.is_some_and(|source| members.contains_key(&source)) {
                *told = None;
            } else if !keep(slot, path) {
                *told = Some(something.clone());
            }
        }
        self.tally = Tally::of(self.told.iter().flatten());
    }

    pub(super) fn forget(&mut self, source: PeerId) -> Vec<Slot> {
        let something = adj_out::something();
        let mut slots = Vec::new();
        for (slot, told) in (0..).zip(&mut self.told) {
            if told.as_ref().is_some_and(|path| path.source == Some(source)) {
                *told = Some(something.clone());
                slots.push(slot);
            }
        }
        self.tally = Tally::of(self.told.iter().flatten());
        slots
    }

    fn tell(&mut self, slot: Slot, path: Option<Arc<Path>>) {
        if self.told.len() <= slot as usize {
            self.told.resize(slot as usize + 1, None);
        }
        if let Some(path) = &path {
            self.tally.add(path);
        }
        let Some(before) = std::mem::replace(&mut self.told[slot as usize], path) else { return };
        self.tally.take(&before);
        if self.tally.count == 0 {
            *self = Self::default();
        }
    }

    pub(super) fn work_out<K: Net>(
        &mut self,
        slot: Slot,
        destination: &Destination<K>,
        work: &mut Work<'_, '_, K>,
    ) {
        let key = destination.key;
        let best = destination.paths.best();
        let wanted = best.and_then(|path| Some((path, work.exports.place(path, key.prefix())?)));
        match (wanted, self.get(slot)) {
            (None, None) => {}
            (None, Some(told)) => {
                work.outbox.withdrawn.push((work.all_but_source(told), key, 0));
                self.tell(slot, None);
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
                self.tell(slot, Some(path.clone()));
            }
        }
    }
}

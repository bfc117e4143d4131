//! All destinations of a family: numbered, so that what others remember of them is a list and not a map.

use std::hash::{BuildHasher, BuildHasherDefault};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxHasher;

use super::destination::Destination;
use super::net::Net;

/// A destination's number; given again once it was removed.
pub(super) type Slot = u32;

#[derive(Debug)]
pub(super) struct Destinations<K> {
    slots: Vec<Destination<K>>,
    /// Slots by the hash of their key.
    index: HashTable<Slot>,
    free: Vec<Slot>,
}

fn hash<K: Net>(key: K) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(key)
}

impl<K: Net> Destinations<K> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), index: HashTable::new(), free: Vec::new() }
    }

    pub(super) fn find(&self, key: K) -> Option<Slot> {
        self.index.find(hash(key), |slot| self.slots[*slot as usize].key() == key).copied()
    }

    /// That of `key`, new and without paths if need be.
    pub(super) fn find_or_add(&mut self, key: K) -> Slot {
        let Self { slots, index, free } = self;
        let of = |slot: &Slot| slots[*slot as usize].key();
        match index.entry(hash(key), |slot| of(slot) == key, |slot| hash(of(slot))) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let slot = match free.pop() {
                    Some(slot) => {
                        slots[slot as usize] = Destination::new(key);
                        slot
                    }
                    None => {
                        slots.push(Destination::new(key));
                        (slots.len() - 1) as Slot
                    }
                };
                entry.insert(slot);
                slot
            }
        }
    }

    pub(super) fn get(&self, slot: Slot) -> &Destination<K> {
        &self.slots[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Destination<K> {
        &mut self.slots[slot as usize]
    }

    /// Those with a path, in the order they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Destination<K>)> {
        (0..).zip(&self.slots).filter(|(_, destination)| !destination.paths().all().is_empty())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Destination<K>)> {
        (0..).zip(&mut self.slots).filter(|(_, destination)| !destination.paths().all().is_empty())
    }

    /// Those without a path: not yet removed, or long ago.
    pub(super) fn empty(&self) -> impl Iterator<Item = Slot> {
        (0..).zip(&self.slots).filter(|(_, one)| one.paths().all().is_empty()).map(|(slot, _)| slot)
    }

    /// For one that nobody remembers any more.
    pub(super) fn remove(&mut self, slot: Slot) {
        let key = self.slots[slot as usize].key();
        if let Ok(entry) = self.index.find_entry(hash(key), |other| *other == slot) {
            entry.remove();
            self.free.push(slot);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Slots given so far, removed ones too.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}

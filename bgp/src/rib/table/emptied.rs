//! Destinations that had no path at last.

use super::Table;
use super::followers::Followers;
use crate::rib::destinations::{Destinations, Slot};
use crate::rib::group::Group;
use crate::rib::net::Net;

/// Below this many there is nothing worth tidying up.
const FEW: usize = 1024;

/// Above this many they are not worth listing.
const MANY: usize = 64 * FEW;

/// One may be here more than once.
#[derive(Debug)]
pub(super) struct Emptied {
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
    pub(super) fn push(&mut self, slot: Slot) {
        self.count += 1;
        if self.slots.len() < MANY {
            self.slots.push(slot);
        }
    }
}

impl<K: Net> Table<K> {
    /// Removes destinations nobody remembers, once they are many or nothing is left to be done.
    pub(in crate::rib) fn tidy(&mut self) {
        let Followers { listed, emptied, groups, usable, .. } = &mut self.followers;
        let idle = listed.is_empty() && groups.iter().all(Group::is_idle);
        if emptied.count == 0 || !idle && emptied.count < emptied.tidy_at {
            return;
        }
        let emptied = std::mem::take(emptied);
        if idle && self.destinations.iter().next().is_none() {
            // Nothing is said and all have heard so: nobody remembers anything.
            self.destinations = Destinations::new();
            return;
        }
        let slots = if emptied.slots.len() < emptied.count {
            self.destinations.empty().collect()
        } else {
            emptied.slots
        };
        let mut left = Emptied::default();
        for slot in slots {
            let destination = self.destinations.get(slot);
            if !destination.paths().all().is_empty() {
                continue;
            }
            if destination.is_listed() || groups.iter().any(|group| group.remembers(slot)) {
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
}

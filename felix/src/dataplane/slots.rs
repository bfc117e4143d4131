//! A table by destination that never stands still: one map would, whenever it grows, for as long as it takes to move all
//! of half a million entries.

use std::hash::BuildHasher;

use ipnetwork::IpNetwork;
use rustc_hash::{FxBuildHasher, FxHashMap};

/// So many maps, each of which grows by itself.
const PARTS: usize = 256;

/// What is kept of each destination, in no order.
#[derive(Debug)]
pub struct Slots<T>(Vec<FxHashMap<IpNetwork, T>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self((0..PARTS).map(|_| FxHashMap::default()).collect())
    }
}

impl<T> Slots<T> {
    /// Of a destination.
    pub fn get(&self, destination: &IpNetwork) -> Option<&T> {
        self.0.get(part(destination))?.get(destination)
    }

    /// Of a destination.
    pub fn get_mut(&mut self, destination: &IpNetwork) -> Option<&mut T> {
        self.0.get_mut(part(destination))?.get_mut(destination)
    }

    /// The map a destination belongs in.
    pub fn part_of(&mut self, destination: &IpNetwork) -> &mut FxHashMap<IpNetwork, T> {
        &mut self.0[part(destination)]
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNetwork, &T)> {
        self.0.iter().flatten()
    }
}

/// By bits of the hash that a map of this size does not go by.
fn part(destination: &IpNetwork) -> usize {
    let [.., part, _, _, _, _] = FxBuildHasher.hash_one(destination).to_be_bytes();
    usize::from(part)
}

//! Path identifiers (RFC 7911) as we give them out: a number a path, its own on every session as long as
//! anybody holds the path.

use std::collections::{HashMap, HashSet};

use super::path::PathKey;

#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Neighbours choose what is in a key: it is hashed with a seed.
    given: HashMap<PathKey, u32>,
    free: Vec<u32>,
    sweep_at: usize,
}

/// Below this many there is nothing worth sweeping.
const FEW: usize = 1024;

impl Numbers {
    /// That of a path, if it has one.
    pub(super) fn get(&self, key: PathKey) -> Option<u32> {
        self.given.get(&key).copied()
    }

    /// That of a path, a new one if need be. `held` are the keys of all paths that anybody holds.
    pub(super) fn of(&mut self, key: PathKey, held: impl FnOnce() -> HashSet<PathKey>) -> u32 {
        if let Some(known) = self.given.get(&key) {
            return *known;
        }
        if self.given.len() >= self.sweep_at.max(FEW) {
            let held = held();
            let Self { given, free, .. } = self;
            given.retain(|key, number| {
                let stays = held.contains(key);
                if !stays {
                    free.push(*number);
                }
                stays
            });
            self.sweep_at = 2 * self.given.len();
        }
        // 0 is what others say where they have none.
        let number = self.free.pop().unwrap_or(self.given.len() as u32 + 1);
        self.given.insert(key, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::PeerId;

    fn key(path_id: u32) -> PathKey {
        PathKey { source: Some(PeerId::new(1)), path_id }
    }

    #[test]
    fn a_path_keeps_its_number_and_no_two_have_the_same_while_both_are_held() {
        let mut numbers = Numbers::default();
        let held: HashSet<_> = (0..10).map(key).collect();
        let first: Vec<_> = (0..10).map(|n| numbers.of(key(n), || held.clone())).collect();
        for n in 10..5 * FEW as u32 {
            let number = numbers.of(key(n), || held.clone());
            assert!(!first.contains(&number), "{number} is still that of another");
        }
        assert!(numbers.given.len() <= 2 * FEW, "{} are kept", numbers.given.len());
        assert_eq!((0..10).map(|n| numbers.of(key(n), || held.clone())).collect::<Vec<_>>(), first);
    }
}

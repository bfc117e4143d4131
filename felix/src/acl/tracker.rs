//! What is wanted against what is there, and the smallest change from one to the other.
//!
//! A value in memory: it touches no kernel. The caller makes the changes it is told of, and says which were done.

use std::collections::{BTreeMap, BTreeSet};

/// Wanted and actual values by key.
#[derive(Clone, Debug)]
pub struct Tracker<K, V> {
    wanted: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    /// Removed on purpose and still there; told apart from what was there before us only until the sweep.
    unwanted: BTreeSet<K>,
    swept: bool,
}

/// What to do about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a, V> {
    /// Nothing is there.
    Add(&'a V),
    /// Something else is there.
    Replace(&'a V),
    /// Nothing should be there.
    Remove,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Tracker<K, V> {
    /// Nothing wanted yet, `actual` there, and none of it removed before [`Tracker::sweep`].
    pub fn new(actual: BTreeMap<K, V>) -> Self {
        Self { wanted: BTreeMap::new(), actual, unwanted: BTreeSet::new(), swept: false }
    }

    /// Wants `value` at `key`.
    pub fn want(&mut self, key: K, value: V) {
        self.unwanted.remove(&key);
        self.wanted.insert(key, value);
    }

    /// Wants nothing at `key`.
    pub fn unwant(&mut self, key: &K) {
        self.wanted.remove(key);
        if self.actual.contains_key(key) {
            self.unwanted.insert(key.clone());
        }
    }

    /// From now on what nobody wants is to be removed.
    pub fn sweep(&mut self) {
        self.swept = true;
    }

    /// What is to be done about `key`; `None` when it is as it should be.
    pub fn change(&self, key: &K) -> Option<Change<'_, V>> {
        match (self.wanted.get(key), self.actual.get(key)) {
            (Some(wanted), None) => Some(Change::Add(wanted)),
            (Some(wanted), Some(actual)) if wanted != actual => Some(Change::Replace(wanted)),
            (None, Some(_)) if self.swept || self.unwanted.contains(key) => Some(Change::Remove),
            _ => None,
        }
    }

    /// All keys with a change, in order.
    pub fn pending(&self) -> impl Iterator<Item = &K> {
        let missing = self.wanted.keys().filter(|key| !self.actual.contains_key(key));
        self.actual.keys().chain(missing).filter(|key| self.change(key).is_some())
    }

    /// The change of `key` was made.
    pub fn done(&mut self, key: &K) {
        match self.wanted.get(key) {
            Some(value) => self.actual.insert(key.clone(), value.clone()),
            None => self.actual.remove(key),
        };
        self.unwanted.remove(key);
    }

    /// All of what is there was read again.
    pub fn observe(&mut self, actual: BTreeMap<K, V>) {
        self.unwanted.retain(|key| actual.contains_key(key));
        self.actual = actual;
    }

    /// What is there.
    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    /// What is wanted.
    pub fn wanted(&self) -> &BTreeMap<K, V> {
        &self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Want(u8, u8),
        Unwant(u8),
        Sweep,
        Observe(BTreeMap<u8, u8>),
        Apply(u8),
    }

    fn world() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        prop::collection::btree_map(0..12u8, 0..3u8, 0..8)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..12u8, 0..3u8).prop_map(|(key, value)| Step::Want(key, value)),
            4 => (0..12u8).prop_map(Step::Unwant),
            1 => Just(Step::Sweep),
            1 => world().prop_map(Step::Observe),
            6 => (0..12u8).prop_map(Step::Apply),
        ]
    }

    /// Makes the change of `key` in `kernel`, as a driver would; whether there was one.
    fn apply(tracker: &mut Tracker<u8, u8>, kernel: &mut BTreeMap<u8, u8>, key: u8) -> bool {
        match tracker.change(&key) {
            None => return false,
            Some(Change::Add(value)) => assert_eq!(kernel.insert(key, *value), None),
            Some(Change::Replace(value)) => assert_ne!(kernel.insert(key, *value), Some(*value)),
            Some(Change::Remove) => assert!(kernel.remove(&key).is_some()),
        }
        tracker.done(&key);
        true
    }

    proptest! {
        #[test]
        fn applying_what_is_pending_makes_it_so_and_touches_nothing_else(
            start in world(),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut tracker = Tracker::new(start.clone());
            let mut kernel = start;
            let mut wanted = BTreeMap::new();
            let mut swept = false;
            // What a fresh start must not touch: there, never wanted, never removed on purpose.
            let mut foreign: BTreeSet<u8> = kernel.keys().copied().collect();
            for step in steps {
                match step {
                    Step::Want(key, value) => {
                        tracker.want(key, value);
                        wanted.insert(key, value);
                        foreign.remove(&key);
                    }
                    Step::Unwant(key) => {
                        tracker.unwant(&key);
                        wanted.remove(&key);
                        foreign.remove(&key);
                    }
                    Step::Sweep => {
                        tracker.sweep();
                        swept = true;
                    }
                    Step::Observe(world) => {
                        for key in world.keys().filter(|key| !kernel.contains_key(key) && !wanted.contains_key(key)) {
                            foreign.insert(*key);
                        }
                        foreign.retain(|key| world.contains_key(key));
                        kernel = world.clone();
                        tracker.observe(world);
                    }
                    Step::Apply(key) => {
                        apply(&mut tracker, &mut kernel, key);
                    }
                }
                prop_assert_eq!(tracker.actual(), &kernel);
            }
            for key in tracker.pending().copied().collect::<Vec<_>>() {
                prop_assert!(apply(&mut tracker, &mut kernel, key));
            }
            prop_assert_eq!(tracker.pending().count(), 0);
            if !swept {
                wanted.extend(kernel.iter().filter(|(key, _)| foreign.contains(key)));
            }
            prop_assert_eq!(kernel, wanted);
        }
    }

    #[test]
    fn before_the_sweep_only_what_was_removed_on_purpose_goes() {
        let mut tracker = Tracker::new(BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]));
        tracker.want(1, 'a');
        tracker.unwant(&2);
        assert_eq!(tracker.pending().collect::<Vec<_>>(), [&2]);
        tracker.sweep();
        assert_eq!(tracker.pending().collect::<Vec<_>>(), [&2, &3]);
    }
}

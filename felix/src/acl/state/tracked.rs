//! Wanted against actual, and which keys may differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::acl::tracker::{Change, Tracker};

/// A tracker, and the keys that may have a change.
#[derive(Debug)]
pub struct Tracked<K, V> {
    /// Wanted and actual.
    pub tracker: Tracker<K, V>,
    dirty: BTreeSet<K>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Tracked<K, V> {
    /// Nothing wanted, nothing there.
    pub fn new() -> Self {
        Self { tracker: Tracker::new(BTreeMap::new()), dirty: BTreeSet::new() }
    }

    /// A key is to have this value.
    pub fn want(&mut self, key: K, value: V) {
        self.dirty.insert(key.clone());
        self.tracker.want(key, value);
    }

    /// A key is to go.
    pub fn unwant(&mut self, key: &K) {
        self.dirty.insert(key.clone());
        self.tracker.unwant(key);
    }

    /// What is there has been read.
    pub fn observe(&mut self, actual: BTreeMap<K, V>) {
        self.tracker.observe(actual);
        self.dirty = self.tracker.pending().cloned().collect();
    }

    /// What is to be done.
    pub fn changes(&self) -> impl Iterator<Item = (&K, Change<'_, V>)> {
        self.dirty.iter().filter_map(|key| Some((key, self.tracker.change(key)?)))
    }

    /// Whether nothing is.
    pub fn is_clean(&self) -> bool {
        self.changes().next().is_none()
    }

    /// Whether a key is to be there, and is not so.
    pub fn lacks(&self) -> bool {
        self.changes().any(|(_, change)| change != Change::Remove)
    }

    /// These changes have been made.
    pub fn done(&mut self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            self.tracker.done(&key);
            self.dirty.remove(&key);
        }
    }

    /// Takes every change as made.
    pub fn all_done(&mut self) {
        let keys: Vec<_> = self.changes().map(|(key, _)| key.clone()).collect();
        self.done(keys);
        self.dirty.clear();
    }

    /// Keys that are wanted and not there.
    pub fn added(&self) -> Vec<K> {
        self.changes()
            .filter(|(_, change)| matches!(change, Change::Add(_)))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

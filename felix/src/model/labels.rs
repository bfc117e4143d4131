//! Labels of many objects, and named ports of pods: each string and each set of either kept once.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::policy::NamedPort;

/// Labels of an object, in order of key. Cloned by reference; equal where the labels are, whoever interned them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

/// What a selector looks at.
pub trait Labelled {
    /// The value of a label, if it is there.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels {
    /// Keys and values, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl Labelled for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        // Few labels: looking at each is quicker than halving.
        self.0.iter().find(|(mine, _)| **mine == *key).map(|(_, value)| &**value)
    }
}

impl Labelled for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Without an interner; for one object.
impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let sorted: BTreeMap<String, String> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Interner::default().labels(&sorted)
    }
}

/// Gives equal strings and equal label sets one place in memory: of a hundred thousand pods most differ in nothing.
#[derive(Debug, Default)]
pub struct Interner {
    strings: HashSet<Arc<str>, FxBuildHasher>,
    labels: HashSet<Labels, FxBuildHasher>,
    ports: HashSet<Arc<[NamedPort]>, FxBuildHasher>,
    /// At this many strings and sets together, what nobody holds any more is let go.
    limit: usize,
}

/// The fewest entries worth a look for what is unused.
const SMALLEST_LIMIT: usize = 1024;

impl Interner {
    /// One string.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        self.tidy();
        let new: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&new));
        new
    }

    /// One object's labels.
    pub fn labels(&mut self, labels: &BTreeMap<String, String>) -> Labels {
        let labels = labels.iter().map(|(key, value)| (self.string(key), self.string(value)));
        let labels = Labels(labels.collect());
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }

    /// The ports of one pod that have names.
    pub fn ports(&mut self, ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
        if let Some(known) = self.ports.get(ports.as_slice()) {
            return Arc::clone(known);
        }
        let new: Arc<[NamedPort]> = ports.into();
        self.ports.insert(Arc::clone(&new));
        new
    }

    /// Lets go of what only this table holds, each time it has doubled since.
    fn tidy(&mut self) {
        if self.strings.len() + self.labels.len() < self.limit.max(SMALLEST_LIMIT) {
            return;
        }
        self.labels.retain(|labels| Arc::strong_count(&labels.0) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.strings.retain(|string| Arc::strong_count(string) > 1);
        self.limit = 2 * (self.strings.len() + self.labels.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn equal_labels_are_one_and_equal_whoever_interned_them() {
        let mut interner = Interner::default();
        let first = interner.labels(&labels(&[("app", "web"), ("tier", "front")]));
        let second = interner.labels(&labels(&[("app", "web"), ("tier", "front")]));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(first, [("tier", "front"), ("app", "web")].into_iter().collect());
        assert_eq!((first.label("app"), first.label("none")), (Some("web"), None));
    }

    #[test]
    fn what_nobody_holds_any_more_is_let_go() {
        let mut interner = Interner::default();
        let kept = interner.labels(&labels(&[("app", "web")]));
        for round in 0..10 * SMALLEST_LIMIT {
            interner.labels(&labels(&[("hash", &round.to_string())]));
        }
        assert!(interner.strings.len() <= SMALLEST_LIMIT + 1, "{}", interner.strings.len());
        let again = interner.labels(&labels(&[("app", "web")]));
        assert!(Arc::ptr_eq(&kept.0, &again.0));
    }
}

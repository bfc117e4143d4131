//! Pod selectors by what a pod must have to be selected, so that a pod's labels lead to the few that may select it.
//!
//! Of each selector one requirement is chosen as its anchor: a label with a value, a label, or nothing at all. A pod is
//! led to the selectors anchored at its labels and its namespace's; each of them is then asked.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::graph::{Requirement, Selector};
use crate::model::labels::{Labelled, Labels};
use crate::model::policy::{Namespaces, PodSelector};

/// The label every namespace has, and no two the same.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Selectors under the keys of those who want to know.
#[derive(Debug)]
pub struct Index<K> {
    /// Selectors of pods of one namespace, by its name.
    named: FxHashMap<Arc<str>, Table<K>>,
    /// Those of any namespace, anchored at a pod's label or at nothing.
    by_pod: Table<K>,
    /// Those of any namespace, anchored at the namespace's label.
    by_namespace: Table<K>,
}

#[derive(Debug)]
struct Table<K> {
    anywhere: Vec<K>,
    keys: FxHashMap<String, Vec<K>>,
    pairs: FxHashMap<String, FxHashMap<String, Vec<K>>>,
}

/// What leads to a selector.
enum Anchor<'a> {
    Pairs(&'a str, Vec<&'a str>),
    Key(&'a str),
    Anywhere,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { named: FxHashMap::default(), by_pod: Table::default(), by_namespace: Table::default() }
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { anywhere: Vec::new(), keys: FxHashMap::default(), pairs: FxHashMap::default() }
    }
}

impl<K: Clone + Eq + Hash> Index<K> {
    /// Adds one; a key may have one selector.
    pub fn insert(&mut self, selector: &PodSelector, key: K) {
        let (table, anchor) = self.place(selector);
        table.insert(anchor, key);
    }

    /// Takes back what [`Index::insert`] added, by the same selector.
    pub fn remove(&mut self, selector: &PodSelector, key: &K) {
        let (table, anchor) = self.place(selector);
        table.remove(anchor, key);
        if let Namespaces::Named(name) = &selector.namespaces
            && self.named.get(name).is_some_and(Table::is_empty)
        {
            self.named.remove(name);
        }
    }

    /// Tells of every selector that may select such a pod; none twice. `namespace_labels` is none where they are not
    /// known: then no selector by namespace labels is meant.
    pub fn candidates<'a>(
        &'a self,
        namespace: &str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
        mut found: impl FnMut(&'a K),
    ) {
        if let Some(table) = self.named.get(namespace) {
            table.candidates(labels, &mut found);
        }
        if let Some(namespace_labels) = namespace_labels {
            self.by_pod.candidates(labels, &mut found);
            self.by_namespace.candidates(namespace_labels, &mut found);
        }
    }

    fn place<'a>(&mut self, selector: &'a PodSelector) -> (&mut Table<K>, Anchor<'a>) {
        let anchor = anchor(&selector.pods);
        match &selector.namespaces {
            Namespaces::Named(name) => (self.named.entry(Arc::clone(name)).or_default(), anchor),
            Namespaces::Labelled(namespaces) => {
                let of_namespace = match self::anchor(namespaces) {
                    Anchor::Pairs(NAMESPACE_NAME, _) => true,
                    Anchor::Pairs(..) => !matches!(anchor, Anchor::Pairs(..)),
                    Anchor::Key(_) => matches!(anchor, Anchor::Anywhere),
                    Anchor::Anywhere => false,
                };
                if of_namespace {
                    (&mut self.by_namespace, self::anchor(namespaces))
                } else {
                    (&mut self.by_pod, anchor)
                }
            }
        }
    }
}

impl<K: Clone + Eq> Table<K> {
    fn insert(&mut self, anchor: Anchor<'_>, key: K) {
        match anchor {
            Anchor::Anywhere => self.anywhere.push(key),
            Anchor::Key(label) => self.keys.entry(label.to_owned()).or_default().push(key),
            Anchor::Pairs(label, values) => {
                let by_value = self.pairs.entry(label.to_owned()).or_default();
                for value in values {
                    by_value.entry(value.to_owned()).or_default().push(key.clone());
                }
            }
        }
    }

    fn remove(&mut self, anchor: Anchor<'_>, key: &K) {
        match anchor {
            Anchor::Anywhere => self.anywhere.retain(|held| held != key),
            Anchor::Key(label) => forget(&mut self.keys, label, key),
            Anchor::Pairs(label, values) => {
                if let Some(by_value) = self.pairs.get_mut(label) {
                    values.iter().for_each(|value| forget(by_value, value, key));
                    if by_value.is_empty() {
                        self.pairs.remove(label);
                    }
                }
            }
        }
    }

    fn candidates<'a>(&'a self, labels: &Labels, found: &mut impl FnMut(&'a K)) {
        self.anywhere.iter().for_each(&mut *found);
        if self.keys.is_empty() && self.pairs.is_empty() {
            return;
        }
        for (label, value) in labels.iter() {
            let with_value = self.pairs.get(&**label).and_then(|by_value| by_value.get(&**value));
            let with_key = self.keys.get(&**label);
            with_value.into_iter().chain(with_key).flatten().for_each(&mut *found);
        }
    }

    fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.keys.is_empty() && self.pairs.is_empty()
    }
}

fn forget<K: Eq>(lists: &mut FxHashMap<String, Vec<K>>, at: &str, key: &K) {
    if let Some(list) = lists.get_mut(at) {
        list.retain(|held| held != key);
        if list.is_empty() {
            lists.remove(at);
        }
    }
}

/// The requirement the fewest pods meet, as far as that can be told from the selector alone.
fn anchor(selector: &Selector) -> Anchor<'_> {
    let mut best = Anchor::Anywhere;
    for requirement in selector.requirements() {
        best = match (requirement, best) {
            (Requirement::In(_, values), Anchor::Pairs(label, others)) if others.len() <= values.len() => {
                Anchor::Pairs(label, others)
            }
            (Requirement::In(label, values), _) => {
                Anchor::Pairs(label, values.iter().map(|value| &**value).collect())
            }
            (Requirement::Exists(label), Anchor::Anywhere) => Anchor::Key(label),
            (
                Requirement::Exists(_) | Requirement::NotIn(..) | Requirement::DoesNotExist(_),
                best @ (Anchor::Pairs(..) | Anchor::Key(_) | Anchor::Anywhere),
            ) => best,
        };
    }
    best
}

impl PodSelector {
    /// Whether it selects such a pod. `namespace_labels` is none where they are not known: then it must name the
    /// namespace to select from it.
    pub fn matches(
        &self,
        namespace: &str,
        namespace_labels: Option<&Labels>,
        labels: &impl Labelled,
    ) -> bool {
        let there = match &self.namespaces {
            Namespaces::Named(name) => **name == *namespace,
            Namespaces::Labelled(selector) => namespace_labels.is_some_and(|labels| selector.matches(labels)),
        };
        there && self.pods.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = prop::sample::select(vec!["a", "b", NAMESPACE_NAME]).prop_map(Box::from);
        let values = prop::collection::vec(prop::sample::select(vec!["1", "2", "3"]), 1..3);
        (key, values, 0..4_u8).prop_map(|(key, values, kind)| match kind {
            0 => Requirement::In(key, values.into_iter().collect()),
            1 => Requirement::NotIn(key, values.into_iter().collect()),
            2 => Requirement::Exists(key),
            _ => Requirement::DoesNotExist(key),
        })
    }

    fn selector() -> impl Strategy<Value = Selector> {
        prop::collection::vec(requirement(), 0..3).prop_map(|all| all.into_iter().collect())
    }

    fn pod_selector() -> impl Strategy<Value = PodSelector> {
        let named = prop::sample::select(vec!["x", "y"]).prop_map(|name| Namespaces::Named(name.into()));
        let namespaces = prop_oneof![named, selector().prop_map(Namespaces::Labelled)];
        (namespaces, selector()).prop_map(|(namespaces, pods)| PodSelector { namespaces, pods })
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let key = prop::sample::select(vec!["a", "b", "c", NAMESPACE_NAME]);
        prop::collection::btree_map(key, prop::sample::select(vec!["1", "2", "4"]), 0..3)
            .prop_map(|pairs| pairs.into_iter().collect())
    }

    proptest! {
        #[test]
        fn whoever_selects_a_pod_is_a_candidate_once_and_who_is_removed_is_none(
            selectors in prop::collection::vec(pod_selector(), 0..12),
            removed in any::<u16>(),
            namespace in prop::sample::select(vec!["x", "y", "z"]),
            namespace_labels in prop::option::of(labels()),
            labels in labels(),
        ) {
            let mut index = Index::default();
            selectors.iter().enumerate().for_each(|(key, selector)| index.insert(selector, key));
            let gone = |key: usize| removed >> key & 1 == 1;
            for (key, selector) in selectors.iter().enumerate().filter(|(key, _)| gone(*key)) {
                index.remove(selector, &key);
            }
            let mut found = Vec::new();
            index.candidates(namespace, namespace_labels.as_ref(), &labels, |key| found.push(*key));
            found.sort_unstable();
            let once = found.clone();
            found.dedup();
            prop_assert_eq!(&found, &once);
            prop_assert!(found.iter().all(|key| !gone(*key)));
            for (key, selector) in selectors.iter().enumerate().filter(|(key, _)| !gone(*key)) {
                if selector.matches(namespace, namespace_labels.as_ref(), &labels) {
                    prop_assert!(found.contains(&key), "{selector:?} selects {labels:?} and is not found");
                }
            }
            for (key, selector) in selectors.iter().enumerate().filter(|(key, _)| !gone(*key)) {
                index.remove(selector, &key);
            }
            prop_assert!(index.named.is_empty() && index.by_pod.is_empty() && index.by_namespace.is_empty());
        }
    }
}

//! From one ruleset to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Endpoint, Ifname, Members, Policy, PolicyId, Ruleset, Set, SetId};

/// From one ruleset to the next. Made by the graph so that, applied to the one, it gives the other; what both have is
/// not in it.
///
/// A driver that cannot put it in force at once adds sets and members before the policies that name them, those before
/// the endpoints, and removes in reverse. Members removed are of pods that are gone, or no longer selected: to be
/// removed soon, not at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a change not acted on is lost"]
pub struct Delta {
    /// The node's addresses, if they differ.
    pub node: Option<BTreeSet<IpAddr>>,
    /// Each set that differs.
    pub sets: BTreeMap<SetId, SetChange>,
    /// Each policy that differs; none: gone.
    pub policies: BTreeMap<PolicyId, Option<Arc<Policy>>>,
    /// Each endpoint that differs; none: gone.
    pub endpoints: BTreeMap<Ifname, Option<Arc<Endpoint>>>,
}

/// What becomes of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetChange {
    /// It is new.
    Add(Set),
    /// Members come and go; both of the set's kind, no member in both.
    Members {
        /// Were not in it.
        add: Members,
        /// Were in it.
        remove: Members,
    },
    /// No rule names it any more.
    Remove,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Ruleset {
    /// Takes one step.
    pub fn apply(&mut self, delta: Delta) {
        let Delta { node, sets, policies, endpoints } = delta;
        if let Some(node) = node {
            self.node = node;
        }
        for (id, change) in sets {
            match change {
                SetChange::Add(set) => _ = self.sets.insert(id, set),
                SetChange::Remove => _ = self.sets.remove(&id),
                SetChange::Members { add, remove } => {
                    if let Some(set) = self.sets.get_mut(&id) {
                        set.members.change(add, &remove);
                    }
                }
            }
        }
        step(&mut self.policies, policies);
        step(&mut self.endpoints, endpoints);
    }
}

fn step<K: Ord, V>(map: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => _ = map.insert(key, value),
            None => _ = map.remove(&key),
        }
    }
}

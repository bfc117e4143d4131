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

    /// Whether, applied to `before`, it takes nothing away: all it holds is new there.
    pub fn only_adds(&self, before: &Ruleset) -> bool {
        let sets = self.sets.values().all(|change| match change {
            SetChange::Add(_) => true,
            SetChange::Members { remove, .. } => remove.is_empty(),
            SetChange::Remove => false,
        });
        self.node.is_none()
            && sets
            && self.policies.iter().all(|(id, policy)| policy.is_some() && !before.policies.contains_key(id))
            && self.endpoints.iter().all(|(name, now)| now.is_some() && !before.endpoints.contains_key(name))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Chain, Direction, SetKind, Spoofing, Tier};
    use super::*;

    fn endpoint(address: &str) -> Option<Arc<Endpoint>> {
        let chain = Arc::new(Chain::default());
        Some(Arc::new(Endpoint {
            pod: "default/web".into(),
            addresses: [address.parse().unwrap()].into(),
            spoofing: Spoofing::Denied,
            ingress: Arc::clone(&chain),
            egress: chain,
        }))
    }

    #[test]
    fn what_is_new_takes_nothing_away_and_what_changes_or_goes_may() {
        let (name, other) = (Ifname("manxa".into()), Ifname("manxb".into()));
        let mut before = Ruleset::default();
        before.apply(Delta { endpoints: [(name.clone(), endpoint("10.0.0.1"))].into(), ..Delta::default() });
        let endpoints = |name: &Ifname, endpoint| Delta {
            endpoints: [(name.clone(), endpoint)].into(),
            ..Delta::default()
        };
        let set = SetId { kind: SetKind::Addresses, family: manx_bgp::types::Family::Ipv4, digest: 1 };
        let members = |remove: &[&str]| {
            let of =
                |texts: &[&str]| Members::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect());
            let change = SetChange::Members { add: of(&["10.0.0.9"]), remove: of(remove) };
            Delta { sets: [(set, change)].into(), ..Delta::default() }
        };
        let id = PolicyId { tier: Tier::Network, name: "default/p".into(), direction: Direction::Ingress };
        let gone = Delta { policies: [(id, None)].into(), ..Delta::default() };
        let node = Delta { node: Some(BTreeSet::new()), ..Delta::default() };
        let cases = [
            (Delta::default(), true),
            (endpoints(&other, endpoint("10.0.0.2")), true),
            (endpoints(&name, endpoint("10.0.0.2")), false),
            (endpoints(&name, None), false),
            (members(&[]), true),
            (members(&["10.0.0.8"]), false),
            (Delta { sets: [(set, SetChange::Remove)].into(), ..Delta::default() }, false),
            (gone, false),
            (node, false),
        ];
        for (delta, only_adds) in cases {
            assert_eq!(delta.only_adds(&before), only_adds, "{delta:?}");
        }
    }
}

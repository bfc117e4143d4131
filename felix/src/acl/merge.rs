//! Many policies of one pod, found by the other end's address instead of one after the other. Pure.
//!
//! NetworkPolicies let a packet through or say nothing, so their order means nothing. Of those whose rules all name
//! sets of addresses only the ones need be looked at that some set leads to from this packet's address: a map has for
//! each address the chain of just those. The policies themselves are the same chains as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ruleset::{Chain, Members, Peer, Policy, PolicyId, Set, SetId, SetKind};

/// Policies that are looked at one after the other; more are found by address.
const FEW: usize = 16;

/// Which policies of a chain are found by which address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    by_set: BTreeMap<SetId, BTreeSet<PolicyId>>,
    /// Policies in order, and how many sets of each hold it.
    by_address: BTreeMap<IpAddr, Vec<(PolicyId, usize)>>,
}

impl Merged {
    /// Those of a chain; `None` where there are few. `policy` and `set` know what it names.
    pub fn new<'a>(
        chain: &Chain,
        policy: impl Fn(&PolicyId) -> Option<&'a Policy>,
        set: impl Fn(&SetId) -> Option<&'a Set>,
    ) -> Option<Self> {
        let named = chain.network.as_ref().filter(|_| Self::may_be(chain))?;
        let mut merged = Self::default();
        for id in &named.policies {
            for set in policy(id).and_then(sets).unwrap_or_default() {
                merged.by_set.entry(set).or_default().insert(id.clone());
            }
        }
        if merged.policies().len() <= FEW {
            return None;
        }
        let of = |id: &SetId| set(id).map(|set| set.members.clone());
        let all: Vec<_> = merged.by_set.keys().filter_map(|id| Some((*id, of(id)?))).collect();
        for (id, members) in all {
            merged.change(id, &members, &Members::empty(SetKind::Addresses));
        }
        Some(merged)
    }

    /// Whether a chain names enough policies for some to be found by address.
    pub fn may_be(chain: &Chain) -> bool {
        chain.network.as_ref().is_some_and(|network| network.policies.len() > FEW)
    }

    /// The policies that are found by address, and need not be looked at otherwise.
    pub fn policies(&self) -> BTreeSet<PolicyId> {
        self.by_set.values().flatten().cloned().collect()
    }

    /// Takes a change of a set; the addresses that other policies are found by now.
    pub fn change(&mut self, set: SetId, add: &Members, remove: &Members) -> BTreeSet<IpAddr> {
        let (Some(policies), Members::Addresses(add), Members::Addresses(remove)) =
            (self.by_set.get(&set), add, remove)
        else {
            return BTreeSet::new();
        };
        for address in add {
            let found = self.by_address.entry(*address).or_default();
            for policy in policies {
                match found.binary_search_by(|(other, _)| other.cmp(policy)) {
                    Ok(place) => found[place].1 += 1,
                    Err(place) => {
                        // Most addresses lead to one or two of thousands of policies.
                        found.reserve_exact(1);
                        found.insert(place, (policy.clone(), 1));
                    }
                }
            }
        }
        for address in remove {
            let Some(found) = self.by_address.get_mut(address) else { continue };
            for (_, sets) in found.iter_mut().filter(|(policy, _)| policies.contains(policy)) {
                *sets -= 1;
            }
            found.retain(|(_, sets)| *sets > 0);
            if found.is_empty() {
                self.by_address.remove(address);
            }
        }
        add | remove
    }

    /// Addresses by which some policy is found.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// The policies an address leads to; none: it leads to none.
    pub fn found_by(&self, address: IpAddr) -> Option<Vec<PolicyId>> {
        self.by_address.get(&address).map(|found| found.iter().map(|(policy, _)| policy.clone()).collect())
    }
}

/// The sets of addresses that all rules of a policy name; `None` where a rule may match without one.
fn sets(policy: &Policy) -> Option<BTreeSet<SetId>> {
    let mut sets = BTreeSet::new();
    for rule in &policy.rules {
        match &rule.peer {
            Peer::In(ids) if ids.iter().all(|id| id.kind == SetKind::Addresses) => sets.extend(ids),
            Peer::In(_) | Peer::Any => return None,
        }
    }
    Some(sets)
}

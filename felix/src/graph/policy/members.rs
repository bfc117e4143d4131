//! Members of sets: found when a set is first named, then as addresses come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use rustc_hash::{FxHashMap, FxHashSet};

use super::index::Index;
use super::pods::{ClassId, Membership};
use super::sets::{Description, Families, Place};
use super::{Matcher, Policies};
use crate::acl::ruleset::{Delta, Members, Port, Set, SetChange, SetId};
use crate::model::policy::{Namespaces, Peer};

/// Sets the ruleset has since this flush: their members are told whole.
pub type Fresh = FxHashMap<Place, Families>;

impl Policies {
    /// Tells every class of the sets nobody named before.
    pub(super) fn match_new_sets(&mut self) {
        let (mut index, mut unselective) = (Index::default(), Vec::new());
        let mut reach = Reach::default();
        for place in std::mem::take(&mut self.sets.new) {
            let Some(entry) = self.sets.get(place).filter(|entry| entry.uses > 0) else { continue };
            let what = Arc::clone(&entry.what);
            reach.add(&what);
            if let Some(selector) = what.selector() {
                index.insert(selector, place);
                self.peers.insert(selector, place);
            } else if what.is_of_pods() {
                unselective.push(place);
                self.unselective.push(place);
            } else if let Description::Peer(Peer::Nodes(_)) = &*what {
                self.of_nodes.insert(place, self.nodes_in(&what));
            }
        }
        let matcher = Matcher {
            namespaces: &self.namespaces,
            sets: &self.sets,
            peers: &index,
            unselective: &unselective,
        };
        let mut found: Vec<(ClassId, Vec<Membership>)> = Vec::new();
        for id in self.classes_in(&reach) {
            let Some(class) = self.pods.class(id) else { continue };
            let mut sets = matcher.sets(&class.kind);
            if !sets.is_empty() {
                sets.extend_from_slice(&class.sets);
                sets.sort_unstable();
                found.push((id, sets));
            }
        }
        for (id, sets) in found {
            self.pods.put_sets(id, sets);
        }
    }

    /// Tells of sets, or families of them, the ruleset has not got yet, and takes back those it shall not have.
    pub(super) fn show_sets(&mut self, other_families: bool, delta: &mut Delta) -> Fresh {
        let mut fresh = Fresh::default();
        let mut reach = Reach::default();
        if !other_families && !self.sets.grown {
            return fresh;
        }
        self.sets.grown = false;
        let mut whole: BTreeMap<Place, [Option<Members>; 2]> = BTreeMap::new();
        for (place, entry) in self.sets.iter_mut().filter(|(_, entry)| entry.uses > 0) {
            let wanted: Vec<Family> = entry.wanted(self.families).collect();
            for family in Family::ALL {
                match (wanted.contains(&family), entry.shown.has(family)) {
                    (true, false) => {
                        fresh.entry(place).or_default().set(family, true);
                        whole.entry(place).or_default()[family as usize] =
                            Some(Members::empty(entry.what.kind()));
                        reach.add(&entry.what);
                    }
                    (false, true) => _ = delta.sets.insert(entry.id(family), SetChange::Remove),
                    (true, true) | (false, false) => {}
                }
                entry.shown.set(family, wanted.contains(&family));
            }
        }
        for id in self.classes_in(&reach) {
            let Some(class) = self.pods.class(id) else { continue };
            let addresses: Vec<(IpAddr, bool)> =
                self.pods.addresses(class).map(|address| (address, self.pods.is_here(address))).collect();
            for membership in &class.sets {
                let Some(members) = whole.get_mut(&membership.set) else { continue };
                for (address, here) in addresses.iter().copied() {
                    if let Some(members) = &mut members[usize::from(address.is_ipv6())]
                        && self.sets.get(membership.set).is_some_and(|entry| entry.what.admits(address, here))
                    {
                        insert(members, address, *membership);
                    }
                }
            }
        }
        for (place, members) in whole {
            let Some(entry) = self.sets.get(place) else { continue };
            for (family, members) in Family::ALL.into_iter().zip(members) {
                let of_family = |address: &IpAddr| Family::of(*address) == family;
                let members = match (&*entry.what, members) {
                    (_, None) => continue,
                    (Description::Peer(Peer::Networks(ranges)), Some(_)) => Members::Networks(
                        ranges.iter().copied().filter(|range| of_family(&range.first)).collect(),
                    ),
                    (Description::Peer(Peer::Nodes(_)), Some(_)) => {
                        let nodes = self.of_nodes.get(&place).into_iter().flatten();
                        Members::Addresses(nodes.copied().filter(of_family).collect())
                    }
                    (Description::Peer(Peer::Pods(_)) | Description::Ports { .. }, Some(members)) => members,
                };
                let set = Set { of: entry.what.to_string().into(), members };
                delta.sets.insert(entry.id(family), SetChange::Add(set));
            }
        }
        fresh
    }

    /// Tells of addresses that are in other sets than at the last flush.
    pub(super) fn flush_members(&mut self, fresh: &Fresh, delta: &mut Delta) {
        for (address, before) in self.pods.take_dirty() {
            let (now, here) = (self.pods.memberships(address), self.pods.is_here(address));
            if now == before.sets && here == before.here {
                continue;
            }
            let was = |membership: &Membership| self.admits(membership, address, before.here);
            let is = |membership: &Membership| self.admits(membership, address, here);
            let before: FxHashSet<Membership> = before.sets.iter().copied().filter(was).collect();
            let now: FxHashSet<Membership> = now.iter().copied().filter(is).collect();
            for (membership, comes) in now
                .difference(&before)
                .map(|new| (new, true))
                .chain(before.difference(&now).map(|old| (old, false)))
            {
                let family = Family::of(address);
                let told = fresh.get(&membership.set).is_some_and(|families| families.has(family));
                let Some(entry) = self.sets.get(membership.set).filter(|entry| entry.shown.has(family))
                else {
                    continue;
                };
                if !told {
                    change(delta, entry.id(family), comes, |members| insert(members, address, *membership));
                }
            }
        }
    }

    fn admits(&self, membership: &Membership, address: IpAddr, here: bool) -> bool {
        self.sets.get(membership.set).is_some_and(|entry| entry.what.admits(address, here))
    }

    /// Tells of nodes that are in other sets than at the last flush.
    pub(super) fn flush_node_sets(&mut self, fresh: &Fresh, delta: &mut Delta) {
        let places: Vec<Place> = self.of_nodes.keys().copied().collect();
        for place in places {
            let Some(entry) = self.sets.get(place) else { continue };
            let now = self.nodes_in(&entry.what);
            let before = self.of_nodes.get(&place).cloned().unwrap_or_default();
            for address in now.symmetric_difference(&before) {
                let family = Family::of(*address);
                let told = fresh.get(&place).is_some_and(|families| families.has(family));
                if entry.shown.has(family) && !told {
                    let membership = Membership { set: place, port: None };
                    let comes = now.contains(address);
                    change(delta, entry.id(family), comes, |members| insert(members, *address, membership));
                }
            }
            self.of_nodes.insert(place, now);
        }
    }

    pub(super) fn nodes_in(&self, what: &Description) -> BTreeSet<IpAddr> {
        let Description::Peer(Peer::Nodes(selector)) = what else { return BTreeSet::new() };
        let nodes = self.nodes.values().filter(|node| selector.matches(&node.labels));
        nodes.flat_map(|node| &node.addresses).copied().collect()
    }

    /// Takes out sets no rule names any more.
    pub(super) fn remove_unused_sets(&mut self, delta: &mut Delta) {
        let unused = std::mem::take(&mut self.sets.unused);
        let (mut gone, mut reach) = (FxHashSet::default(), Reach::default());
        for place in unused {
            if self.sets.get(place).is_none_or(|entry| entry.uses > 0) {
                continue;
            }
            let Some(entry) = self.sets.remove(place) else { continue };
            for family in Family::ALL.into_iter().filter(|family| entry.shown.has(*family)) {
                delta.sets.insert(entry.id(family), SetChange::Remove);
            }
            if let Some(selector) = entry.what.selector() {
                self.peers.remove(selector, &place);
            }
            self.unselective.retain(|held| *held != place);
            self.of_nodes.remove(&place);
            reach.add(&entry.what);
            gone.insert(place);
        }
        for id in self.classes_in(&reach) {
            let Some(class) = self.pods.class(id) else { continue };
            if class.sets.iter().any(|membership| gone.contains(&membership.set)) {
                let left = class.sets.iter().copied().filter(|membership| !gone.contains(&membership.set));
                let left = left.collect();
                self.pods.put_sets(id, left);
            }
        }
    }

    fn classes_in(&self, reach: &Reach) -> Vec<ClassId> {
        if reach.everywhere {
            self.pods.classes().collect()
        } else {
            reach.namespaces.iter().flat_map(|name| self.pods.classes_of(name)).collect()
        }
    }
}

/// Where pods in some sets may live.
#[derive(Default)]
struct Reach {
    everywhere: bool,
    namespaces: BTreeSet<Arc<str>>,
}

impl Reach {
    fn add(&mut self, what: &Description) {
        match what.selector().map(|selector| &selector.namespaces) {
            Some(Namespaces::Named(name)) => _ = self.namespaces.insert(Arc::clone(name)),
            Some(Namespaces::Labelled(_)) => self.everywhere = true,
            None => self.everywhere |= what.is_of_pods(),
        }
    }
}

fn insert(members: &mut Members, address: IpAddr, membership: Membership) {
    match (members, membership.port) {
        (Members::Addresses(members), _) => _ = members.insert(address),
        (Members::Ports(members), Some((protocol, port))) => {
            _ = members.insert(Port { address, protocol, port })
        }
        (Members::Ports(_), None) | (Members::Networks(_), _) => {}
    }
}

fn change(delta: &mut Delta, id: SetId, comes: bool, put: impl FnOnce(&mut Members)) {
    let none = || SetChange::Members { add: Members::empty(id.kind), remove: Members::empty(id.kind) };
    if let SetChange::Members { add, remove } = delta.sets.entry(id).or_insert_with(none) {
        put(if comes { add } else { remove });
    }
}

//! The cluster's pods: who holds which address, and pods that differ in nothing policies look at, together.
//!
//! There are many: of each is kept what there is to know of it, once, and everything else names it by its place.

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::sets::Place;
use super::slots::Slots;
use crate::acl::ruleset::{Ifname, Protocol, Spoofing};
use crate::model::labels::Labels;
use crate::model::policy::{NamedPort, Pod};

/// Pods by `namespace/name`, and addresses.
#[derive(Debug, Default)]
pub struct Pods {
    names: FxHashMap<Arc<str>, PodId>,
    pods: Slots<Known>,
    classes: Slots<Class>,
    by_kind: FxHashMap<Arc<Kind>, ClassId>,
    by_namespace: FxHashMap<Arc<str>, FxHashSet<ClassId>>,
    /// Who says an address is its own: the first of them ...
    claims: FxHashMap<IpAddr, PodId>,
    /// ... and, of the few addresses that have any, the others.
    rivals: FxHashMap<IpAddr, Vec<PodId>>,
    /// Endpoints of this node by what they hold. Before all claims: the address was handed out here.
    endpoints: FxHashMap<IpAddr, SmallVec<[Holder; 1]>>,
    /// Addresses endpoints of this node hold, by the name of their pod.
    here: FxHashMap<Arc<str>, Vec<IpAddr>>,
    /// How many addresses of each family have an owner.
    owned: [usize; 2],
    /// What touched addresses were at the last flush; none before the first, which tells all there is.
    dirty: Option<FxHashMap<IpAddr, Before>>,
}

/// A pod's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PodId(u32);

/// A class's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u32);

/// A pod.
#[derive(Debug)]
pub struct Known {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// What policies look at.
    pub kind: Arc<Kind>,
    /// Where it runs; empty while that is not decided.
    pub node: Arc<str>,
    /// Tells it from an earlier pod of its name.
    pub uid: Arc<str>,
    created: i64,
    addresses: SmallVec<[IpAddr; 2]>,
    class: ClassId,
    /// Whether it asks to send from addresses it does not hold.
    pub spoofing: Spoofing,
}

/// All that policies look at in a pod, but for its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Where it lives.
    pub namespace: Arc<str>,
    /// What selectors look at.
    pub labels: Labels,
    /// What port names mean.
    pub ports: Arc<[NamedPort]>,
}

/// Pods that differ in nothing policies look at.
#[derive(Debug)]
pub struct Class {
    /// What they have in common.
    pub kind: Arc<Kind>,
    pods: Vec<PodId>,
    /// The sets their addresses are in, sorted.
    pub sets: Vec<Membership>,
}

/// In a set; by a port in a set of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    /// Which.
    pub set: Place,
    /// The member beside the address.
    pub port: Option<(Protocol, u16)>,
}

/// What an address was.
#[derive(Debug)]
pub struct Before {
    /// What its owner's class was in.
    pub sets: Vec<Membership>,
    /// Whether it was that of an endpoint of this node.
    pub here: bool,
}

/// An endpoint of this node, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The host's end.
    pub ifname: Ifname,
    /// `namespace/name`.
    pub pod: Arc<str>,
    /// Tells its pod from another of its name; empty: the runtime did not say.
    pub uid: Arc<str>,
}

impl Holder {
    /// Whether this is its pod.
    fn is_of(&self, pod: &Known) -> bool {
        self.uid.is_empty() || self.uid == pod.uid
    }
}

impl Known {
    /// Whether this is what is told of it.
    fn is(&self, pod: &Pod) -> bool {
        let Pod { namespace, node, labels, addresses, ports, spoofing, created, uid } = pod;
        let Kind { namespace: my_namespace, labels: my_labels, ports: my_ports } = &*self.kind;
        (my_namespace, my_labels, my_ports) == (namespace, labels, ports)
            && (&self.node, &self.addresses, &self.uid) == (node, addresses, uid)
            && (self.spoofing, self.created) == (*spoofing, *created)
    }
}

impl Pods {
    /// A pod by name.
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.at(*self.names.get(name)?)
    }

    /// The pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Known> {
        if let Some(holder) = self.endpoints.get(&address).and_then(|endpoints| endpoints.first()) {
            return self.get(&holder.pod).filter(|known| holder.is_of(known));
        }
        let first = self.claims.get(&address).into_iter();
        let claims = first.chain(self.rivals.get(&address).into_iter().flatten());
        let claimants = claims.filter_map(|id| self.at(*id));
        claimants.max_by_key(|known| (known.created, &known.uid, &known.name))
    }

    /// The addresses a pod has, whoever said so.
    pub fn addresses_of(&self, known: &Known) -> SmallVec<[IpAddr; 2]> {
        let here = self.here.get(&known.name).into_iter().flatten();
        let mut addresses: SmallVec<[IpAddr; 2]> = known.addresses.iter().chain(here).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.retain(|address| self.owner(*address).is_some_and(|owner| std::ptr::eq(owner, known)));
        addresses
    }

    /// Whether an address is that of an endpoint of this node.
    pub fn is_here(&self, address: IpAddr) -> bool {
        self.endpoints.contains_key(&address)
    }

    /// Whether any pod has an address of a family.
    pub fn has(&self, family: Family) -> bool {
        self.owned[usize::from(family == Family::Ipv6)] > 0
    }

    fn at(&self, id: PodId) -> Option<&Known> {
        self.pods.get(id.0)
    }

    /// A class.
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0)
    }

    /// Every class.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> {
        self.classes.places().map(ClassId)
    }

    /// The classes of one namespace, in no order.
    pub fn classes_of(&self, namespace: &str) -> impl Iterator<Item = ClassId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Addresses of a class's pods.
    pub fn addresses(&self, class: &Class) -> impl Iterator<Item = IpAddr> {
        class.pods.iter().filter_map(|id| self.at(*id)).flat_map(|known| self.addresses_of(known))
    }

    /// Takes a pod as it is now, or takes it out. `sets` computes what a class that is new is in.
    pub fn set(&mut self, name: Arc<str>, pod: Option<Pod>, sets: impl FnOnce(&Kind) -> Vec<Membership>) {
        let before = self.names.get(&name).copied();
        let known = before.and_then(|id| self.at(id));
        let same = match (known, &pod) {
            (Some(known), Some(pod)) => known.is(pod),
            (known, pod) => known.is_none() && pod.is_none(),
        };
        if same {
            return;
        }
        // An endpoint may have come before its pod.
        let here = self.here.get(&name).into_iter().flatten();
        let told = known.iter().flat_map(|known| &known.addresses);
        let told = told.chain(pod.iter().flat_map(|pod| &pod.addresses));
        let affected = told.chain(here).copied().collect();
        self.step(affected, |pods| {
            if let Some(id) = before {
                pods.take_out(id);
            }
            if let Some(pod) = pod {
                pods.put_in(name, pod, sets);
            }
        });
    }

    /// An endpoint of this node holds an address from now on.
    pub fn hold(&mut self, holder: &Holder, address: IpAddr) {
        self.step([address].into_iter().collect(), |pods| {
            let endpoints = pods.endpoints.entry(address).or_default();
            endpoints.push(holder.clone());
            endpoints.sort_unstable();
            pods.here.entry(Arc::clone(&holder.pod)).or_default().push(address);
        });
    }

    /// It does so no longer.
    pub fn let_go(&mut self, holder: &Holder, address: IpAddr) {
        self.step([address].into_iter().collect(), |pods| {
            if let Some(endpoints) = pods.endpoints.get_mut(&address) {
                endpoints.retain(|other| other != holder);
                if endpoints.is_empty() {
                    pods.endpoints.remove(&address);
                }
            }
            if let Some(held) = pods.here.get_mut(&holder.pod) {
                if let Some(at) = held.iter().position(|held| *held == address) {
                    held.swap_remove(at);
                }
                if held.is_empty() {
                    pods.here.remove(&holder.pod);
                }
            }
        });
    }

    /// What an address is in, by its owner.
    pub fn memberships(&self, address: IpAddr) -> &[Membership] {
        let class = self.owner(address).and_then(|known| self.class(known.class));
        class.map_or(&[], |class| &class.sets)
    }

    /// Remembers what an address was in, once between two flushes.
    fn touch(&mut self, address: IpAddr) {
        if self.dirty.as_ref().is_some_and(|dirty| !dirty.contains_key(&address)) {
            let before = Before { sets: self.memberships(address).to_vec(), here: self.is_here(address) };
            self.dirty.get_or_insert_default().insert(address, before);
        }
    }

    /// What the touched addresses were.
    pub fn take_dirty(&mut self) -> FxHashMap<IpAddr, Before> {
        self.dirty.replace(FxHashMap::default()).unwrap_or_default()
    }

    /// Gives a class other sets; its pods' addresses are touched if they differ.
    pub fn set_sets(&mut self, id: ClassId, sets: Vec<Membership>) {
        let Some(class) = self.class(id).filter(|class| class.sets != sets) else { return };
        let addresses: Vec<IpAddr> = self.addresses(class).collect();
        addresses.into_iter().for_each(|address| self.touch(address));
        self.put_sets(id, sets);
    }

    /// The same where the difference is in sets that are new or unused: addresses need not be touched.
    pub fn put_sets(&mut self, id: ClassId, mut sets: Vec<Membership>) {
        if let Some(class) = self.classes.get_mut(id.0) {
            sets.shrink_to_fit();
            class.sets = sets;
        }
    }

    /// Makes a change that may give these addresses another owner.
    fn step(&mut self, mut addresses: SmallVec<[IpAddr; 4]>, change: impl FnOnce(&mut Self)) {
        addresses.sort_unstable();
        addresses.dedup();
        let owned = |pods: &Self, address: &IpAddr| usize::from(pods.owner(*address).is_some());
        for address in &addresses {
            self.touch(*address);
            self.owned[usize::from(address.is_ipv6())] -= owned(self, address);
        }
        change(self);
        for address in &addresses {
            self.owned[usize::from(address.is_ipv6())] += owned(self, address);
        }
    }

    fn put_in(&mut self, name: Arc<str>, pod: Pod, sets: impl FnOnce(&Kind) -> Vec<Membership>) {
        let Pod { namespace, node, labels, addresses, ports, spoofing, created, uid } = pod;
        let (class, kind) = self.class_like(Kind { namespace, labels, ports }, sets);
        let known = Known { name: Arc::clone(&name), kind, node, uid, created, addresses, class, spoofing };
        let claimed = known.addresses.clone();
        let id = PodId(self.pods.insert(known));
        for address in claimed {
            match self.claims.entry(address) {
                Entry::Vacant(entry) => _ = entry.insert(id),
                Entry::Occupied(_) => self.rivals.entry(address).or_default().push(id),
            }
        }
        if let Some(class) = self.classes.get_mut(class.0) {
            class.pods.push(id);
        }
        self.names.insert(name, id);
    }

    fn take_out(&mut self, id: PodId) {
        let Some(known) = self.pods.remove(id.0) else { return };
        self.names.remove(&known.name);
        for address in &known.addresses {
            let rivals = self.rivals.get_mut(address);
            if self.claims.get(address) != Some(&id) {
                rivals.into_iter().for_each(|rivals| rivals.retain(|rival| *rival != id));
            } else if let Some(rival) = rivals.and_then(Vec::pop) {
                self.claims.insert(*address, rival);
            } else {
                self.claims.remove(address);
            }
            if self.rivals.get(address).is_some_and(Vec::is_empty) {
                self.rivals.remove(address);
            }
        }
        self.leave(known.class, id);
    }

    fn class_like(
        &mut self,
        kind: Kind,
        sets: impl FnOnce(&Kind) -> Vec<Membership>,
    ) -> (ClassId, Arc<Kind>) {
        if let Some((kind, id)) = self.by_kind.get_key_value(&kind) {
            return (*id, Arc::clone(kind));
        }
        let sets = sets(&kind);
        let kind = Arc::new(kind);
        let class = Class { kind: Arc::clone(&kind), pods: Vec::new(), sets };
        let id = ClassId(self.classes.insert(class));
        self.by_kind.insert(Arc::clone(&kind), id);
        self.by_namespace.entry(Arc::clone(&kind.namespace)).or_default().insert(id);
        (id, kind)
    }

    fn leave(&mut self, id: ClassId, pod: PodId) {
        let Some(class) = self.classes.get_mut(id.0) else { return };
        if let Some(at) = class.pods.iter().position(|other| *other == pod) {
            class.pods.swap_remove(at);
        }
        if !class.pods.is_empty() {
            return;
        }
        let Some(Class { kind, .. }) = self.classes.remove(id.0) else { return };
        self.by_kind.remove(&kind);
        if let Some(of_namespace) = self.by_namespace.get_mut(&kind.namespace) {
            of_namespace.remove(&id);
            if of_namespace.is_empty() {
                self.by_namespace.remove(&kind.namespace);
            }
        }
    }
}

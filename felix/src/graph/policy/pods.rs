//! The cluster's pods: who holds which address, and pods that differ in nothing policies look at, together.

use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::sets::Place;
use crate::acl::ruleset::{Ifname, Protocol};
use crate::model::labels::Labels;
use crate::model::policy::{NamedPort, Pod};

/// Pods by `namespace/name`, and addresses.
#[derive(Debug, Default)]
pub struct Pods {
    pods: FxHashMap<Arc<str>, Known>,
    classes: Vec<Option<Class>>,
    free: Vec<ClassId>,
    by_kind: FxHashMap<Arc<Kind>, ClassId>,
    by_namespace: FxHashMap<Arc<str>, FxHashSet<ClassId>>,
    addresses: FxHashMap<IpAddr, Address>,
    /// Endpoints of this node by what they hold. Before all claims: the address was handed out here.
    endpoints: FxHashMap<IpAddr, SmallVec<[Holder; 1]>>,
    /// Addresses endpoints of this node hold, by the name of their pod.
    here: FxHashMap<Arc<str>, Vec<IpAddr>>,
    /// How many addresses of each family have an owner.
    owned: [usize; 2],
    /// What touched addresses were at the last flush.
    dirty: FxHashMap<IpAddr, Before>,
}

/// A pod and where it stands.
#[derive(Debug)]
pub struct Known {
    /// As it is told.
    pub pod: Pod,
    /// Of pods like it.
    pub class: ClassId,
    /// Addresses it has, whoever said so.
    pub holds: SmallVec<[IpAddr; 2]>,
}

/// A class's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u32);

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
    /// By name.
    pub pods: Vec<Arc<str>>,
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

/// Who says an address is whose.
#[derive(Debug, Default)]
struct Address {
    /// Pods that say it is theirs.
    claims: SmallVec<[Arc<str>; 1]>,
    owner: Option<Arc<str>>,
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
    pub fn is_of(&self, pod: &Pod) -> bool {
        self.uid.is_empty() || self.uid == pod.uid
    }
}

impl Pods {
    /// A pod by name.
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.pods.get(name)
    }

    /// The pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.addresses.get(&address)?.owner.as_ref()
    }

    /// Whether an address is that of an endpoint of this node.
    pub fn is_here(&self, address: IpAddr) -> bool {
        self.endpoints.contains_key(&address)
    }

    /// Whether any pod has an address of a family.
    pub fn has(&self, family: Family) -> bool {
        self.owned.get(family as usize).is_some_and(|count| *count > 0)
    }

    /// A class.
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    fn class_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id.0 as usize)?.as_mut()
    }

    /// Every class.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> {
        let classes = self.classes.iter().enumerate().filter(|(_, class)| class.is_some());
        classes.filter_map(|(id, _)| Some(ClassId(u32::try_from(id).ok()?)))
    }

    /// The classes of one namespace, in no order.
    pub fn classes_of(&self, namespace: &str) -> impl Iterator<Item = ClassId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Addresses of a class's pods.
    pub fn addresses(&self, class: &Class) -> impl Iterator<Item = IpAddr> {
        class.pods.iter().filter_map(|name| self.pods.get(name)).flat_map(|known| known.holds.iter().copied())
    }

    /// Takes a pod as it is now, or takes it out. `sets` computes what a class that is new is in.
    pub fn set(&mut self, name: Arc<str>, pod: Option<Pod>, sets: impl FnOnce(&Kind) -> Vec<Membership>) {
        if self.pods.get(&name).map(|known| &known.pod) == pod.as_ref() {
            return;
        }
        let mut affected: SmallVec<[IpAddr; 4]> = SmallVec::new();
        if let Some(known) = self.pods.get(&name) {
            affected.extend(known.holds.iter().copied());
            affected.extend(known.pod.addresses.iter().copied());
            for address in affected.clone() {
                self.touch(address);
            }
        }
        if let Some(Known { pod, class, .. }) = self.pods.remove(&name) {
            for address in pod.addresses {
                if let Some(entry) = self.addresses.get_mut(&address) {
                    entry.claims.retain(|claimant| *claimant != name);
                }
            }
            self.leave(class, &name);
        }
        if let Some(pod) = pod {
            let kind = Kind {
                namespace: Arc::clone(&pod.namespace),
                labels: pod.labels.clone(),
                ports: Arc::clone(&pod.ports),
            };
            let class = self.join(kind, &name, sets);
            for address in &pod.addresses {
                self.addresses.entry(*address).or_default().claims.push(Arc::clone(&name));
                affected.push(*address);
            }
            // An endpoint may have come before its pod.
            affected.extend(self.here.get(&name).into_iter().flatten().copied());
            self.pods.insert(Arc::clone(&name), Known { pod, class, holds: SmallVec::new() });
        }
        for address in affected {
            self.settle(address);
        }
    }

    /// An endpoint of this node holds an address from now on.
    pub fn hold(&mut self, holder: &Holder, address: IpAddr) {
        self.touch(address);
        self.addresses.entry(address).or_default();
        let endpoints = self.endpoints.entry(address).or_default();
        endpoints.push(holder.clone());
        endpoints.sort_unstable();
        self.here.entry(Arc::clone(&holder.pod)).or_default().push(address);
        self.settle(address);
    }

    /// It does so no longer.
    pub fn let_go(&mut self, holder: &Holder, address: IpAddr) {
        self.touch(address);
        if let Some(endpoints) = self.endpoints.get_mut(&address) {
            endpoints.retain(|other| other != holder);
            if endpoints.is_empty() {
                self.endpoints.remove(&address);
            }
        }
        if let Some(held) = self.here.get_mut(&holder.pod) {
            if let Some(at) = held.iter().position(|held| *held == address) {
                held.swap_remove(at);
            }
            if held.is_empty() {
                self.here.remove(&holder.pod);
            }
        }
        self.settle(address);
    }

    /// What an address is in, by its owner.
    pub fn memberships(&self, address: IpAddr) -> &[Membership] {
        let class = self.owner(address).and_then(|owner| self.pods.get(owner)).map(|known| known.class);
        class.and_then(|class| self.class(class)).map_or(&[], |class| &class.sets)
    }

    /// Remembers what an address was in, once between two flushes.
    pub fn touch(&mut self, address: IpAddr) {
        if !self.dirty.contains_key(&address) {
            let before = Before { sets: self.memberships(address).to_vec(), here: self.is_here(address) };
            self.dirty.insert(address, before);
        }
    }

    /// What the touched addresses were.
    pub fn take_dirty(&mut self) -> FxHashMap<IpAddr, Before> {
        std::mem::take(&mut self.dirty)
    }

    /// Gives a class other sets; its pods' addresses are touched if they differ.
    pub fn set_sets(&mut self, id: ClassId, sets: Vec<Membership>) {
        let Some(class) = self.class(id).filter(|class| class.sets != sets) else { return };
        let addresses: Vec<IpAddr> = self.addresses(class).collect();
        addresses.into_iter().for_each(|address| self.touch(address));
        self.put_sets(id, sets);
    }

    /// The same where the difference is in sets that are new or unused: addresses need not be touched.
    pub fn put_sets(&mut self, id: ClassId, sets: Vec<Membership>) {
        if let Some(class) = self.class_mut(id) {
            class.sets = sets;
        }
    }

    /// Finds the owner of an address anew.
    fn settle(&mut self, address: IpAddr) {
        let Some(entry) = self.addresses.get(&address) else { return };
        let endpoint = self.endpoints.get(&address).and_then(|endpoints| endpoints.first());
        let owner = match endpoint {
            Some(holder) => Some(&holder.pod)
                .filter(|name| self.pods.get(*name).is_some_and(|known| holder.is_of(&known.pod))),
            None => entry.claims.iter().filter(|name| self.pods.contains_key(*name)).max_by_key(|name| {
                let pod = self.pods.get(*name).map(|known| &known.pod);
                (pod.map(|pod| (pod.created, &pod.uid)), *name)
            }),
        }
        .cloned();
        let abandoned = endpoint.is_none() && entry.claims.is_empty();
        self.touch(address);
        let before = self.addresses.get_mut(&address).and_then(|entry| entry.owner.take());
        if let Some(known) = before.as_ref().and_then(|name| self.pods.get_mut(name)) {
            known.holds.retain(|held| *held != address);
        }
        if let Some(known) = owner.as_ref().and_then(|name| self.pods.get_mut(name)) {
            known.holds.push(address);
        }
        let family = usize::from(address.is_ipv6());
        if let Some(count) = self.owned.get_mut(family) {
            *count = *count + usize::from(owner.is_some()) - usize::from(before.is_some());
        }
        match self.addresses.get_mut(&address) {
            Some(_) if abandoned => drop(self.addresses.remove(&address)),
            Some(entry) => entry.owner = owner,
            None => {}
        }
    }

    fn join(&mut self, kind: Kind, name: &Arc<str>, sets: impl FnOnce(&Kind) -> Vec<Membership>) -> ClassId {
        let id = match self.by_kind.get(&kind) {
            Some(id) => *id,
            None => {
                let class = Class { sets: sets(&kind), kind: Arc::new(kind), pods: Vec::new() };
                let id = self.free.pop().unwrap_or_else(|| {
                    self.classes.push(None);
                    ClassId(u32::try_from(self.classes.len() - 1).unwrap_or(u32::MAX))
                });
                self.by_kind.insert(Arc::clone(&class.kind), id);
                self.by_namespace.entry(Arc::clone(&class.kind.namespace)).or_default().insert(id);
                if let Some(slot) = self.classes.get_mut(id.0 as usize) {
                    *slot = Some(class);
                }
                id
            }
        };
        if let Some(class) = self.class_mut(id) {
            class.pods.push(Arc::clone(name));
        }
        id
    }

    fn leave(&mut self, id: ClassId, name: &Arc<str>) {
        let Some(class) = self.class_mut(id) else { return };
        if let Some(at) = class.pods.iter().position(|pod| pod == name) {
            class.pods.swap_remove(at);
        }
        if !class.pods.is_empty() {
            return;
        }
        let kind = Arc::clone(&class.kind);
        if let Some(slot) = self.classes.get_mut(id.0 as usize) {
            *slot = None;
        }
        self.free.push(id);
        self.by_kind.remove(&kind);
        if let Some(of_namespace) = self.by_namespace.get_mut(&kind.namespace) {
            of_namespace.remove(&id);
            if of_namespace.is_empty() {
                self.by_namespace.remove(&kind.namespace);
            }
        }
    }
}

//! Which packets this node lets through, as a function of the cluster's pods, namespaces, nodes and policies.
//!
//! ```text
//!   endpoints of this node ─┐
//!   pods ─▶ classes ────────┼─ subjects (index) ─▶ chains ─▶ policies that select an endpoint ─▶ compile
//!   namespaces ─────────────┘                                                                      │ names sets
//!                  classes ─── peers (index) ◀───────────────────────────────────────── sets ◀─────┘
//!                     └─ addresses ─▶ members that come and go
//! ```
//!
//! Only policies that select an endpoint of this node are compiled, and only the sets they name are kept. A pod's
//! change costs a look at the selectors its labels lead to; pods that differ in nothing policies look at are one
//! class, looked at once. What an address was in is noted when it is first touched, and compared at the flush.

mod compile;
mod explain;
mod index;
mod members;
mod pods;
mod sets;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use rustc_hash::{FxBuildHasher, FxHashMap};

use self::compile::compile;
pub use self::explain::{End, Explanation, Party, Question};
use self::index::Index;
use self::pods::{ClassId, Holder, Kind, Known, Membership, Pods};
use self::sets::{Families, Place, Table};
use crate::acl::denied::Denial;
use crate::acl::ruleset::{
    Chain, Delta, Direction, Endpoint, Ifname, Mode, Network, Policy as Compiled, PolicyId, SetKind,
    Spoofing, Tier,
};
use crate::model::labels::Labels;
use crate::model::policy::{Namespace, Namespaces, Pod, Policy, PolicyName};

/// The host's end of a pod's interface, and who is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `namespace/name`; none where the runtime did not say: then no policy can mean it.
    pub pod: Option<Arc<str>>,
    /// Tells its pod from an earlier one of its name; empty where the runtime did not say.
    pub uid: Arc<str>,
    /// What it holds.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether an earlier agent attached it: what that agent had put in force for it is there still.
    pub restored: bool,
}

/// Addresses and labels of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    /// What node selectors look at.
    pub labels: Labels,
    /// All of them, internal and external.
    pub addresses: BTreeSet<IpAddr>,
}

/// One change of what is known.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyInput {
    /// A pod by `namespace/name`; none: it is gone, has ended, or has the network of its node.
    Pod(Arc<str>, Option<Pod>),
    /// A namespace by name.
    Namespace(Arc<str>, Option<Namespace>),
    /// A node by name.
    Node(Arc<str>, Option<NodeAddresses>),
    /// A policy.
    Policy(PolicyName, Option<Arc<Policy>>),
    /// An interface of ours.
    Endpoint(Ifname, Option<Attached>),
}

/// All inputs, and what they have changed since the last flush.
#[derive(Debug)]
pub struct Policies {
    me: Arc<str>,
    pods: Pods,
    namespaces: FxHashMap<Arc<str>, Namespace>,
    nodes: BTreeMap<Arc<str>, NodeAddresses>,
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    endpoints: BTreeMap<Ifname, Attached>,
    /// Policies by whom they are about.
    subjects: Index<PolicyName>,
    sets: Table,
    /// Sets by the pods they select.
    peers: Index<Place>,
    /// Sets of ports of pods, whatever their labels.
    unselective: Vec<Place>,
    /// Sets of nodes, and what was in them at the last flush.
    of_nodes: BTreeMap<Place, BTreeSet<IpAddr>>,
    /// As they were at the last flush.
    shown: BTreeMap<Ifname, Arc<Endpoint>>,
    active: BTreeMap<PolicyId, Active>,
    families: Families,
    node_families: Families,
    node: BTreeSet<IpAddr>,
    chains: HashSet<Arc<Chain>, FxBuildHasher>,
    dirty_endpoints: BTreeSet<Ifname>,
    dirty_policies: BTreeSet<PolicyName>,
    dirty_nodes: bool,
}

/// One direction of a policy that an endpoint's chain names.
#[derive(Debug, Default)]
struct Active {
    chains: usize,
    compiled: Option<Arc<Compiled>>,
    sets: Vec<Place>,
}

/// What it takes to say which sets a class is in.
struct Matcher<'a> {
    namespaces: &'a FxHashMap<Arc<str>, Namespace>,
    sets: &'a Table,
    peers: &'a Index<Place>,
    unselective: &'a [Place],
}

impl Matcher<'_> {
    fn sets(&self, kind: &Kind) -> Vec<Membership> {
        let mut found = Vec::new();
        let mut add = |place: Place| {
            let Some(entry) = self.sets.get(place) else { return };
            if entry.what.kind() == SetKind::Addresses {
                found.push(Membership { set: place, port: None });
            }
            let ports = kind.ports.iter().filter(|port| entry.what.means(port));
            found.extend(ports.map(|port| Membership { set: place, port: Some((port.protocol, port.port)) }));
        };
        let namespace = self.namespaces.get(&kind.namespace).map(|namespace| &namespace.labels);
        self.peers.candidates(&kind.namespace, namespace, &kind.labels, |place| {
            let selector = self.sets.get(*place).and_then(|entry| entry.what.selector());
            if selector.is_some_and(|selector| selector.matches(&kind.namespace, namespace, &kind.labels)) {
                add(*place);
            }
        });
        self.unselective.iter().copied().for_each(&mut add);
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Policies {
    /// Of the node of this name, knowing nothing.
    pub fn new(me: &str) -> Self {
        Self {
            me: me.into(),
            pods: Pods::default(),
            namespaces: FxHashMap::default(),
            nodes: BTreeMap::new(),
            policies: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            subjects: Index::default(),
            sets: Table::default(),
            peers: Index::default(),
            unselective: Vec::new(),
            of_nodes: BTreeMap::new(),
            shown: BTreeMap::new(),
            active: BTreeMap::new(),
            families: Families::default(),
            node_families: Families::default(),
            node: BTreeSet::new(),
            chains: HashSet::default(),
            dirty_endpoints: BTreeSet::new(),
            dirty_policies: BTreeSet::new(),
            dirty_nodes: false,
        }
    }

    /// Takes one change.
    pub fn apply(&mut self, input: PolicyInput) {
        match input {
            PolicyInput::Pod(name, pod) => self.pod(name, pod),
            PolicyInput::Namespace(name, namespace) => self.namespace(name, namespace),
            PolicyInput::Node(name, node) => {
                self.dirty_nodes |= self.nodes.get(&name) != node.as_ref();
                match node {
                    Some(node) => _ = self.nodes.insert(name, node),
                    None => _ = self.nodes.remove(&name),
                }
            }
            PolicyInput::Policy(name, policy) => self.policy(name, policy),
            PolicyInput::Endpoint(ifname, attached) => self.endpoint(ifname, attached),
        }
    }

    fn pod(&mut self, name: Arc<str>, pod: Option<Pod>) {
        // Few endpoints: looking at each is quicker than keeping them by pod.
        let here = self.endpoints.iter().filter(|(_, attached)| attached.pod.as_ref() == Some(&name));
        self.dirty_endpoints.extend(here.map(|(ifname, _)| ifname.clone()));
        let Self { pods, namespaces, sets, peers, unselective, .. } = self;
        let matcher = Matcher { namespaces, sets, peers, unselective };
        pods.set(name, pod, |kind| matcher.sets(kind));
    }

    fn namespace(&mut self, name: Arc<str>, namespace: Option<Namespace>) {
        let before = self.namespaces.get(&name);
        if before == namespace.as_ref() {
            return;
        }
        let relabelled = before.map(|before| &before.labels) != namespace.as_ref().map(|now| &now.labels);
        match namespace {
            Some(namespace) => _ = self.namespaces.insert(Arc::clone(&name), namespace),
            None => _ = self.namespaces.remove(&name),
        }
        let prefix = format!("{name}/");
        let from = PolicyName::Network(prefix.as_str().into());
        let in_it = self.policies.range(from..).take_while(|(policy, _)| policy.name().starts_with(&prefix));
        self.dirty_policies.extend(in_it.map(|(policy, _)| policy.clone()));
        let in_it = |attached: &Attached| attached.pod.as_ref().is_some_and(|pod| pod.starts_with(&prefix));
        let here = self.endpoints.iter().filter(|(_, attached)| in_it(attached));
        self.dirty_endpoints.extend(here.map(|(ifname, _)| ifname.clone()));
        if relabelled {
            let classes: Vec<ClassId> = self.pods.classes_of(&name).collect();
            let Self { pods, namespaces, sets, peers, unselective, .. } = self;
            let matcher = Matcher { namespaces, sets, peers, unselective };
            for id in classes {
                if let Some(sets) = pods.class(id).map(|class| matcher.sets(&class.kind)) {
                    pods.set_sets(id, sets);
                }
            }
        }
    }

    fn policy(&mut self, name: PolicyName, policy: Option<Arc<Policy>>) {
        let before = self.policies.remove(&name);
        if before == policy {
            if let Some(policy) = policy {
                self.policies.insert(name, policy);
            }
            return;
        }
        for policy in before.iter().chain(&policy) {
            let selected = self.endpoints.iter().filter(|(_, attached)| {
                let known = self.known(attached);
                known.is_some_and(|(pod, namespace)| {
                    policy.subject.matches(&pod.kind.namespace, Some(&namespace.labels), &pod.kind.labels)
                })
            });
            let selected: Vec<Ifname> = selected.map(|(ifname, _)| ifname.clone()).collect();
            self.dirty_endpoints.extend(selected);
        }
        if let Some(before) = before {
            self.subjects.remove(&before.subject, &name);
        }
        if let Some(policy) = policy {
            self.subjects.insert(&policy.subject, name.clone());
            self.policies.insert(name.clone(), policy);
        }
        self.dirty_policies.insert(name);
    }

    fn endpoint(&mut self, ifname: Ifname, attached: Option<Attached>) {
        if self.endpoints.get(&ifname) == attached.as_ref() {
            return;
        }
        if let Some(before) = self.endpoints.remove(&ifname) {
            let holder = holder(&ifname, &before);
            before.addresses.into_iter().for_each(|address| self.pods.let_go(&holder, address));
        }
        if let Some(attached) = attached {
            let holder = holder(&ifname, &attached);
            attached.addresses.iter().for_each(|address| self.pods.hold(&holder, *address));
            self.endpoints.insert(ifname.clone(), attached);
        }
        self.dirty_endpoints.insert(ifname);
    }

    /// What the cluster says of an endpoint's pod: all of it, or nothing.
    fn known(&self, attached: &Attached) -> Option<(&Known, &Namespace)> {
        let pod = self.pods.get(attached.pod.as_ref()?)?;
        let same = attached.uid.is_empty() || attached.uid == pod.uid;
        Some((pod, self.namespaces.get(&pod.kind.namespace)?)).filter(|_| same)
    }

    /// Whether what this endpoint may send and receive is known: of one that is not, nothing passes.
    pub fn is_known(&self, ifname: &Ifname) -> bool {
        self.endpoints.get(ifname).is_some_and(|attached| self.knows(attached))
    }

    /// Whether what an endpoint like this may send and receive is known.
    pub fn knows(&self, attached: &Attached) -> bool {
        attached.pod.is_none() || self.known(attached).is_some()
    }

    /// Fills in whose a denied packet's addresses are, of pods of any node.
    pub fn name(&self, denial: &mut Denial) {
        let owner = |address| self.pods.owner(address).map(|pod| pod.name.to_string());
        denial.source_pod = denial.source_pod.take().or_else(|| owner(denial.source));
        denial.destination_pod = denial.destination_pod.take().or_else(|| owner(denial.destination));
    }

    /// Pods of endpoints that are closed because they are not known.
    pub fn unknown(&self) -> impl Iterator<Item = &Arc<str>> {
        let unknown = self.endpoints.values().filter(|attached| self.known(attached).is_none());
        unknown.filter_map(|attached| attached.pod.as_ref())
    }

    /// The same while not all is read: endpoints that are new are closed, and nothing else is said.
    pub fn flush_unread(&mut self) -> Delta {
        let mut delta = Delta::default();
        for ifname in &self.dirty_endpoints {
            match self.endpoints.get(ifname) {
                Some(attached) if !attached.restored && !self.shown.contains_key(ifname) => {
                    let endpoint = Endpoint {
                        pod: attached.pod.clone().unwrap_or_default(),
                        addresses: attached.addresses.clone(),
                        spoofing: Spoofing::Denied,
                        ingress: Arc::new(closed()),
                        egress: Arc::new(closed()),
                    };
                    let endpoint = Arc::new(endpoint);
                    self.shown.insert(ifname.clone(), Arc::clone(&endpoint));
                    delta.endpoints.insert(ifname.clone(), Some(endpoint));
                }
                Some(_) => {}
                None => {
                    if self.shown.remove(ifname).is_some() {
                        delta.endpoints.insert(ifname.clone(), None);
                    }
                }
            }
        }
        delta
    }

    /// What has changed since the last call.
    pub fn flush(&mut self) -> Delta {
        let mut delta = Delta::default();
        let nodes_changed = std::mem::take(&mut self.dirty_nodes);
        if nodes_changed {
            self.flush_node(&mut delta);
        }
        let mut touched = self.flush_endpoints(&mut delta);
        let dirty = std::mem::take(&mut self.dirty_policies);
        let dirty: BTreeSet<PolicyId> = dirty.iter().flat_map(|name| self.ids(name)).collect();
        touched.extend(dirty.iter().cloned());
        let families = Families {
            ipv4: self.node_families.ipv4 || self.pods.has(Family::Ipv4),
            ipv6: self.node_families.ipv6 || self.pods.has(Family::Ipv6),
        };
        let other_families = std::mem::replace(&mut self.families, families) != families;
        if other_families {
            touched.extend(self.active.keys().cloned());
        }
        for id in touched {
            let anew = other_families || dirty.contains(&id);
            self.flush_policy(id, anew, &mut delta);
        }
        self.match_new_sets();
        let fresh = self.show_sets(other_families, &mut delta);
        self.flush_members(&fresh, &mut delta);
        if nodes_changed {
            self.flush_node_sets(&fresh, &mut delta);
        }
        self.remove_unused_sets(&mut delta);
        delta
    }

    fn flush_node(&mut self, delta: &mut Delta) {
        let mine = self.nodes.get(&self.me).map(|node| node.addresses.clone()).unwrap_or_default();
        if mine != self.node {
            self.node.clone_from(&mine);
            delta.node = Some(mine);
        }
        let mut of_nodes = self.nodes.values().flat_map(|node| &node.addresses);
        self.node_families =
            Families { ipv4: of_nodes.clone().any(IpAddr::is_ipv4), ipv6: of_nodes.any(IpAddr::is_ipv6) };
    }

    /// Returns policies whose use has changed.
    fn flush_endpoints(&mut self, delta: &mut Delta) -> BTreeSet<PolicyId> {
        let mut touched = BTreeSet::new();
        for ifname in std::mem::take(&mut self.dirty_endpoints) {
            let now = self.endpoints.get(&ifname).map(|attached| self.judge(attached));
            let before = self.shown.get(&ifname).cloned();
            if now.as_ref() == before.as_deref() {
                continue;
            }
            let now = now.map(|endpoint| self.share(endpoint));
            for (endpoint, more) in
                now.iter().map(|now| (now, true)).chain(before.iter().map(|before| (before, false)))
            {
                for id in endpoint.ingress.policies().chain(endpoint.egress.policies()) {
                    let active = self.active.entry(id.clone()).or_default();
                    if more {
                        active.chains += 1;
                    } else {
                        active.chains -= 1;
                    }
                    if active.chains == usize::from(more) {
                        touched.insert(id.clone());
                    }
                }
            }
            match &now {
                Some(endpoint) => _ = self.shown.insert(ifname.clone(), Arc::clone(endpoint)),
                None => _ = self.shown.remove(&ifname),
            }
            delta.endpoints.insert(ifname, now);
        }
        touched
    }

    /// What an endpoint is judged by.
    fn judge(&self, attached: &Attached) -> Endpoint {
        let name = attached.pod.clone().unwrap_or_default();
        let (ingress, egress, spoofing) = match (&attached.pod, self.known(attached)) {
            (_, Some((pod, namespace))) => {
                let kind = &pod.kind;
                let policies = self.selecting(&kind.namespace, &namespace.labels, &kind.labels);
                let spoofing = pod.spoofing.min(namespace.spoofing);
                (
                    self.chain(&policies, Direction::Ingress),
                    self.chain(&policies, Direction::Egress),
                    spoofing,
                )
            }
            (None, None) => (Chain::default(), Chain::default(), Spoofing::Denied),
            (Some(_), None) => (closed(), closed(), Spoofing::Denied),
        };
        Endpoint {
            pod: name,
            addresses: attached.addresses.clone(),
            spoofing,
            ingress: Arc::new(ingress),
            egress: Arc::new(egress),
        }
    }

    /// The policies about such a pod, in order of name.
    fn selecting(
        &self,
        namespace: &str,
        namespace_labels: &Labels,
        labels: &Labels,
    ) -> Vec<(&PolicyName, &Policy)> {
        let (namespace_labels, mut found) = (Some(namespace_labels), Vec::new());
        self.subjects.candidates(namespace, namespace_labels, labels, |name| {
            if let Some((name, policy)) = self.policies.get_key_value(name)
                && policy.subject.matches(namespace, namespace_labels, labels)
            {
                found.push((name, &**policy));
            }
        });
        found.sort_unstable_by_key(|(name, policy)| (policy.priority, *name));
        found
    }

    fn chain(&self, policies: &[(&PolicyName, &Policy)], direction: Direction) -> Chain {
        let mut chain = Chain::default();
        for (name, policy) in policies {
            let says = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let Some(rules) = says else { continue };
            let id = PolicyId { tier: policy.tier, name: Arc::clone(name.name()), direction };
            match policy.tier {
                Tier::Admin | Tier::Baseline if rules.is_empty() => {}
                Tier::Admin => chain.admin.push(id),
                Tier::Baseline => chain.baseline.push(id),
                Tier::Network => {
                    let network =
                        chain.network.get_or_insert(Network { policies: Vec::new(), otherwise: Mode::Audit });
                    network.policies.push(id);
                    network.otherwise = network.otherwise.min(self.mode(policy));
                }
            }
        }
        chain
    }

    /// Whether a policy's denials are.
    fn mode(&self, policy: &Policy) -> Mode {
        let of_namespace = match (&policy.tier, &policy.subject.namespaces) {
            (Tier::Network, Namespaces::Named(namespace)) => {
                self.namespaces.get(namespace).map_or(Mode::Enforce, |namespace| namespace.mode)
            }
            (Tier::Network | Tier::Admin | Tier::Baseline, _) => Mode::Enforce,
        };
        policy.mode.max(of_namespace)
    }

    /// Equal chains are one.
    fn share(&mut self, endpoint: Endpoint) -> Arc<Endpoint> {
        let mut shared = |chain: Arc<Chain>| match self.chains.get(&chain) {
            Some(known) => Arc::clone(known),
            None => {
                self.chains.insert(Arc::clone(&chain));
                chain
            }
        };
        let (ingress, egress) = (shared(endpoint.ingress), shared(endpoint.egress));
        if self.chains.len() > 16 + 4 * self.endpoints.len() {
            self.chains.retain(|chain| Arc::strong_count(chain) > 1);
        }
        Arc::new(Endpoint { ingress, egress, ..endpoint })
    }

    /// What a policy can be in the ruleset.
    fn ids(&self, name: &PolicyName) -> Vec<PolicyId> {
        let tiers: &[Tier] = match name {
            PolicyName::Network(_) => &[Tier::Network],
            PolicyName::Cluster(_) => &[Tier::Admin, Tier::Baseline],
        };
        let directions = [Direction::Ingress, Direction::Egress];
        let ids = tiers.iter().flat_map(|tier| directions.map(|direction| (*tier, direction)));
        ids.map(|(tier, direction)| PolicyId { tier, name: Arc::clone(name.name()), direction })
            .filter(|id| self.active.contains_key(id))
            .collect()
    }

    fn flush_policy(&mut self, id: PolicyId, anew: bool, delta: &mut Delta) {
        let Some(active) = self.active.get(&id) else { return };
        if active.chains == 0 {
            if let Some(active) = self.active.remove(&id) {
                active.sets.into_iter().for_each(|place| self.sets.release(place));
                if active.compiled.is_some() {
                    delta.policies.insert(id, None);
                }
            }
            return;
        }
        if active.compiled.is_some() && !anew {
            return;
        }
        let name = match id.tier {
            Tier::Network => PolicyName::Network(Arc::clone(&id.name)),
            Tier::Admin | Tier::Baseline => PolicyName::Cluster(Arc::clone(&id.name)),
        };
        let Some(policy) = self.policies.get(&name) else { return };
        let mode = self.mode(policy);
        let (families, sets, mut named) = (self.families, &mut self.sets, Vec::new());
        let compiled = compile(policy, id.direction, mode, |what| {
            let place = sets.acquire(&what);
            named.push(place);
            sets.get(place).map_or_else(Vec::new, |entry| {
                entry.wanted(families).map(|family| entry.id(family)).collect()
            })
        });
        let Some(active) = self.active.get_mut(&id) else { return };
        let before = std::mem::replace(&mut active.sets, named);
        if active.compiled.as_deref() != Some(&compiled) {
            let compiled = Arc::new(compiled);
            active.compiled = Some(Arc::clone(&compiled));
            delta.policies.insert(id, Some(compiled));
        }
        before.into_iter().for_each(|place| self.sets.release(place));
    }
}

fn holder(ifname: &Ifname, attached: &Attached) -> Holder {
    Holder {
        ifname: ifname.clone(),
        pod: attached.pod.clone().unwrap_or_default(),
        uid: Arc::clone(&attached.uid),
    }
}

/// Nothing passes.
fn closed() -> Chain {
    Chain { network: Some(Network { policies: Vec::new(), otherwise: Mode::Enforce }), ..Chain::default() }
}

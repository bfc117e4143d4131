//! What the watches have said, each object with its last good content.
//!
//! An object that turns bad keeps what it last said well in force, and is answered with a condition. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use manx_bgp::types::Prefix;
use manx_ipam::claim::Taken;
use manx_ipam::crd::IPPool;
use manx_ipam::pool::check_overlaps;
use manx_ipam::{BlockCidr, Cidr, Pool};

use crate::graph::policy::{NodeAddresses, PolicyInput};
use crate::graph::{Input, Known, PoolRanges, Selector};
use crate::model::labels::Labels;
use crate::model::policy::{Policy, PolicyName};
use crate::model::service::{Service, Slice};
use crate::model::{Bad, BgpConfig, Block, Filter, Namespace, Node, Object, Peer, Pod, Request, Reservation};
use crate::nat::Nat;
use crate::watch::bgp::DEFAULT_CONFIGURATION;
use crate::watch::{Change, Keys, Kind, Update};

/// The cluster as it is known.
#[derive(Debug, Default)]
pub struct Cluster {
    me: String,
    /// Kinds of which all has been read.
    pub synced: BTreeSet<Kind>,
    /// Kinds the API does not let us read, and why.
    pub refused: BTreeMap<Kind, String>,
    /// Whether the API answers; none: not known yet.
    pub api: Option<Result<(), String>>,
    /// By name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Pods of this node, by `namespace/name`; of others the graph has what is needed.
    pub pods: BTreeMap<String, Pod>,
    /// All that policies may mean, of any node.
    policed: HashSet<Arc<str>>,
    /// As they are.
    pub policies: BTreeMap<PolicyName, Object<Arc<Policy>>>,
    /// As they are.
    pub pools: BTreeMap<String, Object<IPPool>>,
    /// What each pool means, or why it cannot be used.
    pub verdicts: BTreeMap<String, Result<Pool, Bad>>,
    /// Pools as they were when they last could be used.
    good_pools: BTreeMap<String, GoodPool>,
    /// By name of the object.
    pub blocks: BTreeMap<String, Block>,
    /// As they are.
    pub reservations: BTreeMap<String, Object<Reservation>>,
    good_reservations: BTreeMap<String, Reservation>,
    /// By name of the object.
    pub requests: BTreeMap<String, Request>,
    /// As they are.
    pub configurations: BTreeMap<String, Object<BgpConfig>>,
    good_configuration: Option<BgpConfig>,
    /// As they are.
    pub peers: BTreeMap<String, Object<Peer>>,
    /// As they are.
    pub filters: BTreeMap<String, Object<Filter>>,
    /// Those that sessions name, as far as they have been read.
    secrets: BTreeMap<String, Known>,
    /// By `namespace/name`, each with the last marks that could be read.
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
    /// What is wrong with the marks of some.
    pub unmarked: BTreeMap<Arc<str>, Bad>,
    slices: HashSet<Arc<str>>,
}

/// A pool and its selectors, parsed.
#[derive(Debug)]
struct GoodPool {
    pool: Pool,
    nodes: Selector,
    namespaces: Selector,
    services: Selector,
}

/// What an update means to the agent.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// Something for the graph.
    Input(Input),
    /// Something for the graph of policies.
    Policy(PolicyInput),
    /// The pools this node may use may be others.
    Pools,
    /// This node's own Node is another.
    Me,
    /// The API shows a block of ours, by the name of its object.
    Owned(String),
    /// Parts of blocks may belong to others than before.
    Parts,
    /// Others ranges may be kept back.
    Reserved,
    /// The API showed a block of ours before, and does so no longer, or not as ours.
    Lost(BlockCidr),
    /// All there is of this kind has been read; for the first time or anew.
    Read(Kind),
}

impl Cluster {
    /// Of the node of this name, knowing nothing.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), ..Self::default() }
    }

    /// Takes an update, and says what it means.
    pub fn update(&mut self, update: Update) -> Vec<Told> {
        let mut told = Vec::new();
        match update {
            Update::Node(change) => self.nodes(change, &mut told),
            Update::Pod(change) => self.pods(change, &mut told),
            Update::Namespace(change) => self.namespaces(change, &mut told),
            Update::NetworkPolicy(change) => self.policies(Kind::NetworkPolicy, change, &mut told),
            Update::ClusterNetworkPolicy(change) => {
                self.policies(Kind::ClusterNetworkPolicy, change, &mut told)
            }
            Update::Reservation(change) => self.reservations(change, &mut told),
            Update::Request(change) => {
                let changes =
                    self.changes(Kind::IPAMRequest, change, |cluster| cluster.requests.keys(), &mut told);
                keep(&mut self.requests, changes);
            }
            Update::Pool(change) => self.pools(*change, &mut told),
            Update::Block(change) => self.blocks(change, &mut told),
            Update::Bgp(change) => self.configurations(change, &mut told),
            Update::Peer(change) => self.peers(change, &mut told),
            Update::Filter(change) => self.filters(change, &mut told),
            Update::Secret(name, keys) => self.secret(name, keys, &mut told),
            Update::Service(change) => self.services(change, &mut told),
            Update::Slice(change) => self.slices(change, &mut told),
            Update::Refused(kind, reason) => self.refused(kind, reason),
            Update::Api(answer) => self.api(answer),
        }
        told
    }

    /// Whether all of these have been read.
    pub fn has_read(&self, kinds: &[Kind]) -> bool {
        kinds.iter().all(|kind| self.synced.contains(kind))
    }

    /// The node whose name is first: it alone writes what is said once for the whole cluster.
    pub fn leads(&self) -> bool {
        self.nodes.keys().next() == Some(&self.me)
    }

    /// The pools whose node selector selects this node, in order of name; disabled ones included.
    pub fn usable_pools(&self) -> Vec<Pool> {
        let Some(me) = self.nodes.get(&self.me) else { return Vec::new() };
        let mine = self.good_pools.values().filter(|good| good.nodes.matches(&me.labels));
        mine.map(|good| good.pool.clone()).collect()
    }

    /// Whether a pool's addresses are for pods of a namespace with these labels.
    pub fn serves(&self, pool: &Pool, labels: &BTreeMap<String, String>) -> bool {
        self.good_pools.get(&pool.name).is_some_and(|good| good.namespaces.matches(labels))
    }

    /// A pool as it was when it last could be used.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.good_pools.get(name).map(|good| &good.pool)
    }

    /// Ranges of pools whose blocks are not announced.
    pub fn unexported(&self) -> BTreeSet<Prefix> {
        let hidden = self.good_pools.values().filter(|good| !good.pool.bgp_export);
        hidden.filter_map(|good| Prefix::try_from(ipnetwork::IpNetwork::from(good.pool.cidr)).ok()).collect()
    }

    /// Pools for Services, disabled ones included.
    pub fn service_pools(&self) -> impl Iterator<Item = &Pool> {
        self.good_pools.values().map(|good| &good.pool).filter(|pool| pool.for_services)
    }

    /// Names of the pools a Service of a namespace, with these labels, has addresses of if it names none: those that
    /// select Services or namespaces, and it, or else those that select all.
    pub fn pools_for_service(&self, namespace: &str, labels: &Labels) -> Vec<String> {
        let none = BTreeMap::new();
        let of = self.namespaces.get(namespace).map_or(&none, |namespace| &namespace.labels);
        let pools = self.good_pools.values().filter(|good| good.pool.for_services && !good.pool.disabled);
        let pools: Vec<_> =
            pools.filter(|good| good.namespaces.matches(of) && good.services.matches(labels)).collect();
        let is_own = |good: &GoodPool| !(good.namespaces.is_everything() && good.services.is_everything());
        let own = pools.iter().any(|good| is_own(good));
        let chosen = pools.into_iter().filter(|good| is_own(good) == own);
        chosen.map(|good| good.pool.name.clone()).collect()
    }

    /// Whether Services that name no class are ours.
    pub fn takes_classless(&self) -> bool {
        self.good_configuration.as_ref().is_some_and(|configuration| configuration.services.classless)
    }

    /// Which ranges are for pods and which for Services.
    fn pool_ranges(&self) -> PoolRanges {
        let of = |wanted: fn(&Pool) -> bool| {
            let pools = self.good_pools.values().map(|good| &good.pool).filter(|pool| wanted(pool));
            pools.filter_map(|pool| Prefix::try_from(ipnetwork::IpNetwork::from(pool.cidr)).ok()).collect()
        };
        PoolRanges {
            pods: of(|pool| !pool.for_services),
            services: of(|pool| pool.for_services),
            announced: of(|pool| pool.for_services && pool.bgp_export),
        }
    }

    /// What pods send under the node's address.
    pub fn nat(&self) -> Nat {
        let pools = || self.good_pools.values().map(|good| &good.pool);
        let outgoing = pools().filter_map(|pool| {
            let excluded = pool.nat_outgoing.as_ref()?.iter().map(|range| IpNetwork::from(*range));
            Some((IpNetwork::from(pool.cidr), excluded.collect()))
        });
        Nat {
            outgoing: outgoing.collect(),
            pools: pools().map(|pool| IpNetwork::from(pool.cidr)).collect(),
            nodes: self.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect(),
        }
    }

    /// Ranges that are kept back.
    pub fn reserved(&self) -> Vec<Cidr> {
        self.good_reservations.values().flat_map(|reservation| reservation.0.iter().copied()).collect()
    }

    /// Addresses of a range that are kept back.
    pub fn reserved_of(&self, range: Cidr) -> u128 {
        let mut taken = Taken::default();
        for reserved in self.reserved().into_iter().filter(|reserved| reserved.overlaps(range)) {
            taken.insert(if reserved.covers(range) { range } else { reserved });
        }
        taken.size()
    }

    /// The blocks the API shows as ours, with their pools.
    pub fn own_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values().filter(|block| block.claim.node == self.me)
    }

    /// Normalises a change into objects that are there or gone, in order of name.
    fn changes<'a, T, K: Iterator<Item = &'a String>>(
        &'a mut self,
        kind: Kind,
        change: Change<T>,
        known: impl FnOnce(&'a Self) -> K,
        told: &mut Vec<Told>,
    ) -> BTreeMap<String, Option<Object<T>>> {
        match change {
            Change::Apply(object) => [(object.name.clone(), Some(object))].into(),
            Change::Delete(name) => [(name, None)].into(),
            Change::Part(objects) => {
                objects.into_iter().map(|object| (object.name.clone(), Some(object))).collect()
            }
            Change::Told(names) => {
                self.synced.insert(kind);
                told.push(Told::Read(kind));
                let gone = known(self).filter(|name| !names.contains(name.as_str()));
                gone.map(|name| (name.clone(), None)).collect()
            }
            Change::Replace(objects) => {
                self.synced.insert(kind);
                told.push(Told::Read(kind));
                let mut all: BTreeMap<_, _> = known(self).map(|name| (name.clone(), None)).collect();
                all.extend(objects.into_iter().map(|object| (object.name.clone(), Some(object))));
                all
            }
        }
    }

    fn nodes(&mut self, change: Change<Node>, told: &mut Vec<Told>) {
        for (name, object) in self.changes(Kind::Node, change, |cluster| cluster.nodes.keys(), told) {
            let node = object.and_then(|object| object.spec.ok()).map(Arc::new);
            if self.nodes.get(&name) == node.as_ref() {
                continue;
            }
            match &node {
                Some(node) => _ = self.nodes.insert(name.clone(), Arc::clone(node)),
                None => _ = self.nodes.remove(&name),
            }
            let me = name == self.me;
            let addresses = node
                .as_ref()
                .map(|node| NodeAddresses { labels: node.labels.clone(), addresses: node.addresses.clone() });
            told.push(Told::Policy(PolicyInput::Node(name.as_str().into(), addresses)));
            told.push(Told::Input(Input::Node(name, node)));
            if me {
                told.extend([Told::Me, Told::Pools]);
            }
        }
    }

    /// Pods are many: what is not of this node goes through.
    fn pods(&mut self, change: Change<Pod>, told: &mut Vec<Told>) {
        let objects: Vec<(Arc<str>, Option<Pod>)> = match change {
            Change::Apply(object) => vec![(object.name.into(), object.spec.ok())],
            Change::Delete(name) => vec![(name.into(), None)],
            Change::Part(objects) => named(objects),
            Change::Told(names) => {
                self.synced.insert(Kind::Pod);
                told.push(Told::Read(Kind::Pod));
                self.pods.retain(|name, _| names.contains(name.as_str()));
                let gone = self.policed.iter().filter(|name| !names.contains(&***name));
                gone.map(|name| (Arc::clone(name), None)).collect()
            }
            Change::Replace(objects) => {
                self.synced.insert(Kind::Pod);
                told.push(Told::Read(Kind::Pod));
                let listed: HashSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
                self.pods.retain(|name, _| listed.contains(name.as_str()));
                let gone = self.policed.iter().filter(|name| !listed.contains(&***name));
                let gone: Vec<_> = gone.map(|name| (Arc::clone(name), None)).collect();
                gone.into_iter().chain(named(objects)).collect()
            }
        };
        for (name, pod) in objects {
            let policed = pod.as_ref().and_then(|pod| pod.policed.clone());
            if policed.is_some() {
                self.policed.insert(Arc::clone(&name));
            }
            if policed.is_some() || self.policed.contains(&name) {
                if policed.is_none() {
                    self.policed.remove(&name);
                }
                told.push(Told::Policy(PolicyInput::Pod(Arc::clone(&name), policed)));
            }
            match pod.filter(|pod| pod.here) {
                Some(pod) => _ = self.pods.insert(name.to_string(), pod),
                None => _ = self.pods.remove(&*name),
            }
        }
    }

    fn namespaces(&mut self, change: Change<Namespace>, told: &mut Vec<Told>) {
        let changes = self.changes(Kind::Namespace, change, |cluster| cluster.namespaces.keys(), told);
        for (name, object) in &changes {
            let namespace = object.as_ref().and_then(|object| object.spec.as_ref().ok());
            let policed = namespace.map(|namespace| namespace.policed.clone());
            told.push(Told::Policy(PolicyInput::Namespace(name.as_str().into(), policed)));
        }
        keep(&mut self.namespaces, changes);
    }

    fn policies(&mut self, kind: Kind, change: Change<Policy>, told: &mut Vec<Told>) {
        let of = |name: &str| match kind {
            Kind::NetworkPolicy => PolicyName::Network(name.into()),
            _ => PolicyName::Cluster(name.into()),
        };
        let known: Vec<String> = match change {
            Change::Replace(_) | Change::Told(_) => {
                let of_kind = self.policies.keys().filter(|name| of(name.name()) == **name);
                of_kind.map(|name| name.name().to_string()).collect()
            }
            Change::Part(_) | Change::Apply(_) | Change::Delete(_) => Vec::new(),
        };
        for (name, object) in self.changes(kind, change, |_| known.iter(), told) {
            let name = of(&name);
            let object = object.map(|object| Object {
                name: object.name,
                uid: object.uid,
                generation: object.generation,
                conditions: object.conditions,
                spec: object.spec.map(Arc::new),
            });
            let before = self.policies.get(&name).and_then(|object| object.spec.as_ref().err());
            match object.as_ref().map(|object| &object.spec) {
                Some(Ok(policy)) => {
                    told.push(Told::Policy(PolicyInput::Policy(name.clone(), Some(Arc::clone(policy)))));
                }
                // The graph keeps what it was told before.
                Some(Err(bad)) => complain(&kind.to_string(), name.name(), bad, before),
                None => told.push(Told::Policy(PolicyInput::Policy(name.clone(), None))),
            }
            match object {
                Some(object) => _ = self.policies.insert(name, object),
                None => _ = self.policies.remove(&name),
            }
        }
    }

    fn pools(&mut self, change: Change<IPPool>, told: &mut Vec<Told>) {
        for (name, object) in self.changes(Kind::IPPool, change, |cluster| cluster.pools.keys(), told) {
            match object {
                Some(object) => _ = self.pools.insert(name, object),
                None => {
                    self.pools.remove(&name);
                    self.good_pools.remove(&name);
                }
            }
        }
        let readable = self.pools.values().filter_map(|object| object.spec.as_ref().ok());
        let mut verdicts: BTreeMap<String, Result<Pool, Bad>> = check_overlaps(readable)
            .into_iter()
            .map(|(name, verdict)| (name, verdict.map_err(|error| Bad::new(error.reason(), error))))
            .collect();
        for (name, object) in &self.pools {
            if let Err(bad) = &object.spec {
                verdicts.insert(name.clone(), Err(bad.clone()));
            }
        }
        for (name, verdict) in &mut verdicts {
            match verdict.clone().and_then(selected) {
                Ok(good) => _ = self.good_pools.insert(name.clone(), good),
                Err(bad) => {
                    complain(
                        "IPPool",
                        name,
                        &bad,
                        self.verdicts.get(name).and_then(|before| before.as_ref().err()),
                    );
                    *verdict = Err(bad);
                }
            }
        }
        self.verdicts = verdicts;
        told.extend([Told::Pools, Told::Input(Input::Pools(self.pool_ranges()))]);
    }

    fn blocks(&mut self, change: Change<Block>, told: &mut Vec<Told>) {
        let mut changed = false;
        for (name, object) in self.changes(Kind::IPAMBlock, change, |cluster| cluster.blocks.keys(), told) {
            let block = object.and_then(|object| match object.spec {
                Ok(block) => Some(block),
                Err(bad) => {
                    complain("IPAMBlock", &name, &bad, None);
                    None
                }
            });
            let ours = |block: &&Block| block.claim.node == self.me;
            match (self.blocks.get(&name).filter(ours), block.as_ref().filter(ours)) {
                (_, Some(_)) => told.push(Told::Owned(name.clone())),
                (Some(before), None) => told.push(Told::Lost(before.claim.cidr)),
                (None, None) => {}
            }
            changed |= block.as_ref().map(|it| &it.claim) != self.blocks.get(&name).map(|it| &it.claim);
            match block {
                Some(block) => _ = self.blocks.insert(name, block),
                None => _ = self.blocks.remove(&name),
            }
        }
        if changed {
            told.push(Told::Parts);
        }
    }

    fn reservations(&mut self, change: Change<Reservation>, told: &mut Vec<Told>) {
        let changes = self.changes(Kind::IPReservation, change, |cluster| cluster.reservations.keys(), told);
        for (name, object) in changes {
            let before = self.reservations.get(&name).and_then(|object| object.spec.as_ref().err());
            match object.as_ref().map(|object| object.spec.clone()) {
                Some(Ok(good)) => _ = self.good_reservations.insert(name.clone(), good),
                // What it said before stays in force.
                Some(Err(bad)) => complain("IPReservation", &name, &bad, before),
                None => _ = self.good_reservations.remove(&name),
            }
            match object {
                Some(object) => _ = self.reservations.insert(name, object),
                None => _ = self.reservations.remove(&name),
            }
        }
        told.push(Told::Reserved);
    }

    fn configurations(&mut self, change: Change<BgpConfig>, told: &mut Vec<Told>) {
        let changes =
            self.changes(Kind::BGPConfiguration, change, |cluster| cluster.configurations.keys(), told);
        for (name, object) in changes {
            let before = self.configurations.get(&name).and_then(|object| object.spec.as_ref().err());
            if let Some(Err(bad)) = object.as_ref().map(|object| &object.spec) {
                complain("BGPConfiguration", &name, bad, before);
            }
            match object {
                Some(object) => _ = self.configurations.insert(name, object),
                None => _ = self.configurations.remove(&name),
            }
        }
        self.good_configuration =
            match self.configurations.get(DEFAULT_CONFIGURATION).map(|object| &object.spec) {
                None => Some(BgpConfig::default()),
                Some(Ok(configuration)) => Some(configuration.clone()),
                Some(Err(_)) => self.good_configuration.take(),
            };
        if self.synced.contains(&Kind::BGPConfiguration) {
            told.push(Told::Input(Input::Bgp(self.good_configuration.clone())));
        }
    }

    fn peers(&mut self, change: Change<Peer>, told: &mut Vec<Told>) {
        for (name, object) in self.changes(Kind::BGPPeer, change, |cluster| cluster.peers.keys(), told) {
            let before = self.peers.get(&name).and_then(|object| object.spec.as_ref().err());
            match object.as_ref().map(|object| object.spec.clone()) {
                Some(Ok(peer)) => told.push(Told::Input(Input::Peer(name.clone(), Some(peer)))),
                // The graph keeps what it was told before.
                Some(Err(bad)) => complain("BGPPeer", &name, &bad, before),
                None => told.push(Told::Input(Input::Peer(name.clone(), None))),
            }
            match object {
                Some(object) => _ = self.peers.insert(name, object),
                None => _ = self.peers.remove(&name),
            }
        }
    }

    fn filters(&mut self, change: Change<Filter>, told: &mut Vec<Told>) {
        for (name, object) in self.changes(Kind::BGPFilter, change, |cluster| cluster.filters.keys(), told) {
            let before = self.filters.get(&name).and_then(|object| object.spec.as_ref().err());
            match object.as_ref().map(|object| object.spec.clone()) {
                Some(Ok(filter)) => told.push(Told::Input(Input::Filter(name.clone(), Some(filter)))),
                // The graph keeps what it was told before.
                Some(Err(bad)) => complain("BGPFilter", &name, &bad, before),
                None => told.push(Told::Input(Input::Filter(name.clone(), None))),
            }
            match object {
                Some(object) => _ = self.filters.insert(name, object),
                None => _ = self.filters.remove(&name),
            }
        }
    }

    fn services(&mut self, change: Change<Service>, told: &mut Vec<Told>) {
        let objects: Vec<(Arc<str>, Option<Service>)> = match change {
            Change::Apply(object) => vec![(object.name.into(), object.spec.ok())],
            Change::Delete(name) => vec![(name.into(), None)],
            Change::Part(objects) => named(objects),
            Change::Told(names) => {
                self.synced.insert(Kind::Service);
                told.push(Told::Read(Kind::Service));
                let gone = self.services.keys().filter(|name| !names.contains(&***name)).cloned();
                gone.map(|name| (name, None)).collect()
            }
            Change::Replace(objects) => {
                self.synced.insert(Kind::Service);
                told.push(Told::Read(Kind::Service));
                let there: BTreeMap<Arc<str>, Option<Service>> =
                    objects.into_iter().map(|object| (object.name.into(), object.spec.ok())).collect();
                let gone = self.services.keys().filter(|name| !there.contains_key(*name)).cloned();
                let gone: Vec<_> = gone.map(|name| (name, None)).collect();
                gone.into_iter().chain(there).collect()
            }
        };
        for (name, service) in objects {
            let before = self.services.get(&name);
            let service = service.map(|mut service| {
                match &service.marks {
                    Ok(_) => _ = self.unmarked.remove(&name),
                    Err(bad) => {
                        complain("Service", &name, bad, self.unmarked.get(&name));
                        self.unmarked.insert(Arc::clone(&name), bad.clone());
                        if let Some(before) = before {
                            service.marks = before.marks.clone();
                        }
                    }
                }
                Arc::new(service)
            });
            match &service {
                Some(service) => _ = self.services.insert(Arc::clone(&name), Arc::clone(service)),
                None => {
                    self.services.remove(&name);
                    self.unmarked.remove(&name);
                }
            }
            told.push(Told::Input(Input::Service(name, service)));
        }
    }

    fn slices(&mut self, change: Change<Slice>, told: &mut Vec<Told>) {
        let objects: Vec<(Arc<str>, Option<Slice>)> = match change {
            Change::Apply(object) => vec![(object.name.into(), object.spec.ok())],
            Change::Delete(name) => vec![(name.into(), None)],
            Change::Part(objects) => named(objects),
            Change::Told(names) => {
                self.synced.insert(Kind::EndpointSlice);
                told.push(Told::Read(Kind::EndpointSlice));
                let gone = self.slices.iter().filter(|name| !names.contains(&***name));
                gone.map(|name| (Arc::clone(name), None)).collect()
            }
            Change::Replace(objects) => {
                self.synced.insert(Kind::EndpointSlice);
                told.push(Told::Read(Kind::EndpointSlice));
                let listed: HashSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
                let gone = self.slices.iter().filter(|name| !listed.contains(&***name));
                let gone: Vec<_> = gone.map(|name| (Arc::clone(name), None)).collect();
                gone.into_iter().chain(named(objects)).collect()
            }
        };
        for (name, slice) in objects {
            let known = match &slice {
                Some(_) => self.slices.insert(Arc::clone(&name)),
                None => self.slices.remove(&name),
            };
            if known || slice.is_some() {
                told.push(Told::Input(Input::Slice(name, slice)));
            }
        }
    }

    /// What a Secret said last stays in force while it cannot be read.
    fn secret(&mut self, name: String, keys: Result<Keys, String>, told: &mut Vec<Told>) {
        let known = self.secrets.entry(name.clone()).or_default();
        *known = match keys {
            Ok(keys) => Known { keys: Some(keys), fault: None },
            Err(fault) => Known { keys: known.keys.take(), fault: Some(fault) },
        };
        told.push(Told::Input(Input::Secret(name, Some(known.clone()))));
    }

    /// Of these Secrets alone something is to be known.
    pub fn keep_secrets(&mut self, named: &BTreeSet<String>) -> Vec<Input> {
        let gone: Vec<String> = self.secrets.keys().filter(|name| !named.contains(*name)).cloned().collect();
        self.secrets.retain(|name, _| named.contains(name));
        gone.into_iter().map(|name| Input::Secret(name, None)).collect()
    }

    fn refused(&mut self, kind: Kind, reason: Option<String>) {
        match reason {
            Some(reason) => {
                tracing::warn!(%kind, "cannot be watched: {reason}");
                self.refused.insert(kind, reason);
            }
            None => {
                if self.refused.remove(&kind).is_some() {
                    tracing::info!(%kind, "is watched again");
                }
            }
        }
    }

    fn api(&mut self, answer: Result<(), String>) {
        match (&self.api, &answer) {
            (_, Err(reason)) => {
                tracing::warn!("the Kubernetes API does not answer: {reason}; what runs keeps running");
            }
            (Some(Err(_)), Ok(())) => tracing::info!("the Kubernetes API answers again"),
            (_, Ok(())) => {}
        }
        self.api = Some(answer);
    }
}

fn selected(pool: Pool) -> Result<GoodPool, Bad> {
    let nodes = Selector::try_from(pool.node_selector.clone())
        .map_err(|error| Bad::new("InvalidNodeSelector", format_args!("spec.nodeSelector: {error}")))?;
    let namespaces = Selector::try_from(pool.namespace_selector.clone()).map_err(|error| {
        Bad::new("InvalidNamespaceSelector", format_args!("spec.namespaceSelector: {error}"))
    })?;
    let services = Selector::try_from(pool.service_selector.clone())
        .map_err(|error| Bad::new("InvalidServiceSelector", format_args!("spec.serviceSelector: {error}")))?;
    Ok(GoodPool { pool, nodes, namespaces, services })
}

/// Puts what is there in, takes what is gone or cannot be used out.
fn keep<T>(known: &mut BTreeMap<String, T>, changes: BTreeMap<String, Option<Object<T>>>) {
    for (name, object) in changes {
        match object.map(|object| object.spec) {
            Some(Ok(spec)) => _ = known.insert(name, spec),
            Some(Err(_)) | None => _ = known.remove(&name),
        }
    }
}

/// Objects by their names, as far as they can be used.
fn named<T>(objects: Vec<Object<T>>) -> Vec<(Arc<str>, Option<T>)> {
    objects.into_iter().map(|object| (object.name.into(), object.spec.ok())).collect()
}

/// Says once what is wrong with an object.
fn complain(kind: &str, name: &str, bad: &Bad, before: Option<&Bad>) {
    if before != Some(bad) {
        tracing::warn!("{kind} \"{name}\" cannot be used: {bad}");
    }
}

/// A block as the prefix that is announced.
pub fn prefix(cidr: BlockCidr) -> Option<Prefix> {
    Prefix::try_from(ipnetwork::IpNetwork::from(cidr)).ok()
}

#[cfg(test)]
mod tests {
    use manx_ipam::claim::Claim;
    use manx_ipam::crd::IPPoolSpec;

    use super::*;
    use crate::model::Mesh;

    #[test]
    fn a_secret_that_goes_leaves_its_last_keys_in_force() {
        let mut cluster = cluster();
        let keys = Keys::from([("password".to_owned(), "hush".to_owned().into())]);
        cluster.update(Update::Secret("tor".to_owned(), Ok(keys.clone())));
        let told = cluster.update(Update::Secret("tor".to_owned(), Err("gone".to_owned())));
        let known = Known { keys: Some(keys), fault: Some("gone".to_owned()) };
        assert_eq!(told, [Told::Input(Input::Secret("tor".to_owned(), Some(known)))]);
        assert_eq!(cluster.keep_secrets(&BTreeSet::new()), [Input::Secret("tor".to_owned(), None)]);
    }

    fn pool(cidr: &str) -> Update {
        let spec = IPPoolSpec::new(cidr);
        Update::Pool(Box::new(Change::Apply(object("pods", Ok(IPPool::new("pods", spec))))))
    }

    fn object<T>(name: &str, spec: Result<T, Bad>) -> Object<T> {
        Object { name: name.to_owned(), uid: "uid".to_owned(), generation: 1, conditions: Vec::new(), spec }
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new("node1");
        cluster.update(Update::Node(Change::Replace(vec![object("node1", Ok(Node::default()))])));
        cluster
    }

    #[test]
    fn a_pool_that_turns_bad_stays_in_force_and_is_told_why() {
        let mut cluster = cluster();
        cluster.update(pool("10.244.0.0/16"));
        cluster.update(pool("10.244.0.1/16"));
        assert_eq!(cluster.usable_pools()[0].cidr.to_string(), "10.244.0.0/16");
        let bad = cluster.verdicts["pods"].clone().unwrap_err();
        assert_eq!(bad.reason, "InvalidCIDR");
        assert!(bad.message.contains("did you mean 10.244.0.0/16"), "{bad}");
        cluster.update(Update::Pool(Box::new(Change::Delete("pods".to_owned()))));
        assert_eq!(cluster.usable_pools(), []);
    }

    #[test]
    fn a_bad_configuration_is_not_taken_for_none() {
        let mut cluster = cluster();
        let bad = || object("default", Err::<BgpConfig, _>(Bad::new("InvalidASN", "0 is reserved")));
        let told = cluster.update(Update::Bgp(Change::Replace(vec![bad()])));
        assert!(told.contains(&Told::Input(Input::Bgp(None))));
        let good = BgpConfig { mesh: Mesh::None, ..BgpConfig::default() };
        cluster.update(Update::Bgp(Change::Apply(object("default", Ok(good.clone())))));
        for _ in 0..2 {
            let told = cluster.update(Update::Bgp(Change::Apply(bad())));
            assert_eq!(told, [Told::Input(Input::Bgp(Some(good.clone())))]);
        }
        let told = cluster.update(Update::Bgp(Change::Delete("default".to_owned())));
        assert_eq!(told, [Told::Input(Input::Bgp(Some(BgpConfig::default())))]);
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone() {
        let mut cluster = cluster();
        let cidr = BlockCidr::try_from("10.244.3.64/26".parse::<manx_ipam::Cidr>().unwrap()).unwrap();
        let block = |node: &str| Block {
            claim: Claim { cidr, pool: "pods".to_owned(), node: node.to_owned(), parent: None },
            uid: String::new(),
            version: String::new(),
            used: 0,
            free: 64,
            allocations: Vec::new(),
            node_uid: String::new(),
        };
        let listed =
            |node: &str| Update::Block(Change::Replace(vec![object(&cidr.object_name(), Ok(block(node)))]));
        assert!(cluster.update(listed("node1")).contains(&Told::Owned(cidr.object_name())));
        assert!(cluster.update(listed("node2")).contains(&Told::Lost(cidr)), "it has another owner");
        assert!(!cluster.update(Update::Block(Change::Replace(Vec::new()))).contains(&Told::Lost(cidr)));
        let Update::Block(Change::Replace(objects)) = listed("node1") else { unreachable!() };
        assert!(
            cluster.update(Update::Block(Change::Part(objects))).contains(&Told::Owned(cidr.object_name()))
        );
        assert!(cluster.update(Update::Block(Change::Told(HashSet::new()))).contains(&Told::Lost(cidr)));
    }
}

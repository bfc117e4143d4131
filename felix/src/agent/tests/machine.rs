//! One machine: an agent's core, and what outlives it: a kernel that is a map, a directory, a store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use manx_bgp::api::Config;
use manx_cni::protocol::{Attach, Attached, AttachmentKey, PodRef, host_ifname};
use manx_ipam::choice::Wishes;
use manx_ipam::claim::{Claim, claim_this};
use manx_ipam::crd::{IPAMBlock, IPAMBlockStatus, IPPool, IPPoolSpec};
use manx_ipam::store::Store;
use manx_ipam::store::memory::MemoryStore;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::super::balancing::{Grant, Granted};
use super::super::choice::Learned;
use super::super::core::{Core, Effect, Host, Start};
use super::super::election::{Bid, Record};
use super::super::enforced::{Shown, Survey};
use super::super::found::PodLink;
use super::super::known::KnownFile;
use super::super::mirror::Write;
use super::super::vanished::{Collected, Collection};
use super::super::write::merged;
use crate::acl::ruleset::{Endpoint, Ifname, Spoofing};
use crate::acl::{Ruleset, driver};
use crate::attach::files::Files;
use crate::attach::{Asked, Attempt, Command, Refusal};
use crate::crd::PolicyStatusStatus;
use crate::dataplane::{Fib, Route};
use crate::graph::Guard;
use crate::health::Metrics;
use crate::model::labels::Labels;
use crate::model::policy;
use crate::model::service::Service;
use crate::model::{Bad, Block, Namespace, Node, Object, Pod, Wanted};
use crate::speaker::Event;
use crate::watch::{Change, Kind, Update};

pub type Reply<T> = oneshot::Receiver<Result<T, Refusal>>;

/// Interfaces by name, and the pod routes an agent that starts finds; a clone is the same kernel.
#[derive(Clone, Default)]
pub struct Links(
    pub(super) Arc<Mutex<BTreeMap<String, u32>>>,
    pub(super) Arc<Mutex<Vec<PodLink>>>,
    /// Addresses of the machine.
    pub(super) Arc<Mutex<Vec<IpAddr>>>,
);

impl Links {
    pub fn add(&self, name: &str, index: u32) {
        self.0.lock().unwrap().insert(name.to_owned(), index);
    }

    pub fn remove(&self, index: u32) {
        self.0.lock().unwrap().retain(|_, other| *other != index);
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    /// What an agent that starts will find in the kernel.
    pub fn note_routes(&self, fib: &Fib) {
        let names: BTreeMap<u32, String> =
            self.0.lock().unwrap().iter().map(|(name, index)| (*index, name.clone())).collect();
        let routed = fib.iter().filter_map(|(destination, route)| match route {
            Route::Pod { ifindex } => {
                let ifname = names.get(ifindex)?.clone();
                Some(PodLink { address: destination.ip(), ifname, ifindex: *ifindex })
            }
            Route::Blackhole | Route::Unreachable | Route::Via(_) => None,
        });
        *self.1.lock().unwrap() = routed.collect();
    }
}

impl Host for Links {
    fn index_of(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.0.lock().unwrap().get(name).copied())
    }

    fn pod_links(&self) -> io::Result<Vec<PodLink>> {
        Ok(self.1.lock().unwrap().clone())
    }

    fn addresses(&self, _: &Wanted) -> io::Result<Vec<IpAddr>> {
        Ok(self.2.lock().unwrap().clone())
    }

    fn mtu_of(&self, addresses: &[IpAddr]) -> Option<u32> {
        (!addresses.is_empty()).then_some(9000)
    }
}

/// One machine: what outlives an agent is beside it.
pub struct Machine {
    /// Its Node's name.
    pub me: &'static str,
    pub core: Core,
    pub directory: tempfile::TempDir,
    pub links: Links,
    pub fib: Fib,
    pub ruleset: Ruleset,
    /// What the API shows of pods, by `namespace/name`.
    pub pods: BTreeMap<String, Pod>,
    pub swept: bool,
    pub swept_acl: bool,
    /// Packets that are held up.
    pub guard: Guard,
    pub store: Arc<MemoryStore>,
    pub now: Instant,
    pub orders: Vec<Config>,
    pub writes: Vec<Write>,
    /// Secrets that are read.
    pub secrets: BTreeSet<String>,
    /// What the speaker was told of drains.
    pub drains: Vec<Option<u32>>,
    pub attempts: u64,
    /// Interfaces that are down and wait for their removal.
    pub retired: BTreeSet<u32>,
    /// Whether the kernel removes them.
    pub removes: bool,
    /// Whether the watch shows a block as soon as it is claimed.
    pub watching: bool,
    /// Pods the API knows and the watch does not show.
    pub unwatched: BTreeMap<String, Pod>,
    /// Times the API was asked of a pod.
    pub looked_up: u32,
    /// The API's Leases.
    pub leases: BTreeMap<&'static str, Option<Record>>,
    /// The API's Services.
    pub services: BTreeMap<String, Service>,
    /// Whether the watch shows what is written of them.
    pub watching_services: bool,
    /// Why a node that seems gone is not.
    pub alive: Option<String>,
    /// What the packet filter says of itself.
    pub filter: driver::Status,
    /// What the API says of policies.
    pub survey: Survey,
}

impl Machine {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (links, now) = (Links::default(), Instant::now());
        let core = core(directory.path().to_owned(), links.clone(), now);
        Self {
            me: "node1",
            core,
            directory,
            links,
            fib: Fib::new(),
            ruleset: Ruleset::default(),
            pods: BTreeMap::new(),
            swept: false,
            swept_acl: false,
            guard: Guard::default(),
            store: Arc::default(),
            now,
            orders: Vec::new(),
            writes: Vec::new(),
            secrets: BTreeSet::new(),
            drains: Vec::new(),
            attempts: 0,
            retired: BTreeSet::new(),
            removes: true,
            watching: true,
            unwatched: BTreeMap::new(),
            looked_up: 0,
            leases: BTreeMap::new(),
            services: BTreeMap::new(),
            watching_services: true,
            alive: None,
            filter: driver::Status { in_force: true, ..driver::Status::default() },
            survey: Survey { statuses: Some(BTreeMap::new()), ..Survey::default() },
        }
    }

    /// A machine whose agent has read all there is, and whose speaker has told its table.
    pub fn in_sync() -> Self {
        let mut machine = Self::new();
        machine.sync();
        machine
    }

    pub fn sync(&mut self) {
        self.read_all();
        self.hear(Event::Up { daemon: "manx-bgpd test".to_owned() });
        self.hear(Event::Synced);
        self.hear(Event::Applied { changes: Vec::new() });
    }

    pub fn read_all(&mut self) {
        self.read_these(vec![pool("v4", "10.244.0.0/24", 30), pool("v6", "fd00:244::/64", 126)]);
    }

    /// Reads all there is, with these pools.
    pub fn read_these(&mut self, pools: Vec<Object<IPPool>>) {
        self.update(Update::Api(Ok(())));
        self.update(Update::Node(Change::Replace(vec![node("node1"), node("node2")])));
        self.read_policies();
        self.update(Update::Reservation(Change::Replace(Vec::new())));
        self.update(Update::Request(Change::Replace(Vec::new())));
        self.update(Update::Pool(Box::new(Change::Replace(pools))));
        self.list_blocks();
        self.update(Update::Bgp(Change::Replace(Vec::new())));
        let services = self.services.iter();
        let services = services.map(|(name, service)| object(name, Ok(service.clone()))).collect();
        self.update(Update::Service(Change::Replace(services)));
        self.update(Update::Slice(Change::Replace(Vec::new())));
        self.update(Update::Peer(Change::Replace(Vec::new())));
        self.update(Update::Filter(Change::Replace(Vec::new())));
    }

    /// The watch shows a block as it is.
    pub fn see_block(&mut self, name: &str) {
        let found =
            self.store.blocks().into_iter().find(|block| block.metadata.name.as_deref() == Some(name));
        if let Some(found) = found {
            self.update(Update::Block(Change::Apply(block(&found))));
        }
    }

    /// Reads what policies depend on, but for nodes.
    pub fn read_policies(&mut self) {
        let pods = self.pods.iter().map(|(name, pod)| object(name, Ok(pod.clone()))).collect();
        self.update(Update::Pod(Change::Replace(pods)));
        self.update(Update::Namespace(Change::Replace(vec![namespace("default", &[], &[])])));
        self.update(Update::NetworkPolicy(Change::Replace(Vec::new())));
        self.update(Update::ClusterNetworkPolicy(Change::Replace(Vec::new())));
    }

    pub fn list_blocks(&mut self) {
        let blocks = self.store.blocks().iter().map(block).collect();
        self.update(Update::Block(Change::Replace(blocks)));
    }

    /// SIGKILL and start: only what is in memory is lost.
    pub fn kill(&mut self) {
        self.now += Duration::from_secs(1);
        self.remove_retired();
        self.links.note_routes(&self.fib);
        self.core = core_of(self.me, self.directory.path().to_owned(), self.links.clone(), self.now);
        self.swept = false;
        self.swept_acl = false;
        self.act();
    }

    pub fn update(&mut self, update: Update) {
        self.core.update(update, self.now);
        self.act();
    }

    pub fn hear(&mut self, event: Event) {
        self.core.hear(event);
        self.act();
    }

    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.core.see_filter(self.filter.clone(), false, self.now);
            self.core.tick(self.now);
            self.act();
        }
    }

    /// Does what the core wants until it wants nothing.
    pub fn act(&mut self) {
        loop {
            let effects = self.core.effects(self.now);
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    /// The API shows what was written of policies.
    fn show(&mut self, write: &Write) {
        let statuses = self.survey.statuses.get_or_insert_default();
        match write {
            Write::Node { name, status, .. } => {
                self.survey.nodes.extend(status.policies.clone().map(|policies| (name.clone(), policies)));
            }
            Write::Policy { name, owner, status, verdicts } => {
                let conditions = merged(&status.conditions, verdicts);
                let status = PolicyStatusStatus { conditions, ..status.clone() };
                statuses.insert(name.clone(), Shown { owner: owner.clone(), status });
            }
            Write::ForgetPolicy { name } => drop(statuses.remove(name)),
            _ => {}
        }
    }

    pub fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Program { delta, acl, retire, answers, attached, orders } => {
                self.ruleset.apply(*acl);
                for prefix in &delta.remove {
                    assert!(!delta.set.contains_key(prefix), "{prefix} is both set and removed");
                    self.fib.remove(prefix);
                }
                self.fib.extend(delta.set);
                if self.core.in_sync() {
                    self.core.programmed();
                }
                self.retired.extend(retire.iter().map(|link| link.index));
                let answers = answers.into_iter().chain(attached);
                answers.for_each(|answer| drop(answer.send(Ok(()))));
                if !retire.is_empty() {
                    if self.removes {
                        self.remove_retired();
                    }
                    self.core.gone(retire, self.removes, self.now);
                }
                self.orders.extend(orders);
            }
            Effect::Filter(acl) => self.ruleset.apply(*acl),
            Effect::Translate(_) | Effect::Discover(_) => {}
            Effect::Learn(delta) => {
                delta.remove.iter().for_each(|prefix| drop(self.fib.remove(prefix)));
                self.fib.extend(delta.set);
            }
            Effect::Sweep => {
                self.swept = true;
                self.fib = self.core.graph.desired().fib;
            }
            Effect::Guard(guard) => self.guard = guard,
            Effect::SweepAcl => self.swept_acl = true,
            Effect::Claim { want, pools, taken } => {
                let claim = super::super::claim_wanted(self.store.as_ref(), self.me, &want, &pools, taken);
                let outcome = block_on(claim);
                let claimed = outcome.as_ref().ok().map(|claimed| claimed.claim.cidr.object_name());
                self.core.claimed(want, outcome, self.now);
                if let Some(name) = claimed.filter(|_| self.watching) {
                    self.see_block(&name);
                }
            }
            Effect::Reclaim(wanted) => {
                let cidr = wanted.cidr;
                let outcome = block_on(claim_this(self.store.as_ref(), wanted));
                self.core.reclaimed(cidr, outcome, self.now);
            }
            Effect::Return { cidr, uid } => {
                let name = cidr.object_name();
                let outcome = block_on(self.store.delete_block(&name, &uid, None));
                let done = outcome.is_ok();
                self.core.returned(cidr, outcome, self.now);
                if done {
                    self.update(Update::Block(Change::Delete(name)));
                }
            }
            Effect::Grant(part) => {
                let outcome = block_on(self.store.create_block(&IPAMBlock::from(&part)));
                self.core.granted(part.cidr, outcome, self.now);
                self.see_block(&part.cidr.object_name());
            }
            Effect::ListServices => {
                let all = self.services.iter();
                let all = all.map(|(name, service)| object(name, Ok(service.clone()))).collect();
                self.core.listed_services(Some(all), self.now);
            }
            Effect::Give { grants, until } => {
                assert!(self.now < until, "another may give by now");
                let outcomes = grants.into_iter().map(|grant| (Arc::clone(&grant.service), self.give(grant)));
                let outcomes = outcomes.collect();
                self.core.given(outcomes, self.now);
            }
            Effect::Bid(duty, bid) => {
                let lease = self.leases.entry(duty.lease()).or_default();
                let answer = match (&bid, &lease) {
                    (Bid::Read, _) => Ok(lease.clone()),
                    (Bid::Take { version, transitions }, held) => {
                        let current = held.as_ref().map(|lease| lease.version.clone());
                        let holder = self.me.to_owned();
                        let next =
                            Record { holder, transitions: *transitions, version: format!("{:?}", self.now) };
                        (current == *version).then(|| lease.insert(next).clone()).map(Some).ok_or(())
                    }
                };
                self.core.bid_answered((duty, &bid), answer, self.now);
            }
            Effect::Collect { node, blocks, dry_run } => {
                let mut freed = Vec::new();
                for block in blocks {
                    let name = block.cidr.object_name();
                    if !dry_run {
                        block_on(self.store.delete_block(&name, &block.uid, Some(&block.version))).unwrap();
                        self.update(Update::Block(Change::Delete(name)));
                    }
                    freed.push(block.cidr);
                }
                let outcome = self.alive.clone().map_or(Collected::Freed(freed), Collected::Alive);
                self.core.collected(node, outcome, self.now);
            }
            Effect::LookUp { attempt, namespace, name } => {
                let learned = Learned {
                    pod: self.unwatched.get(&format!("{namespace}/{name}")).cloned(),
                    namespace: None,
                };
                self.looked_up += 1;
                self.core.looked_up(attempt, learned, self.now);
            }
            Effect::Survey { statuses } => {
                let known = self.survey.statuses.clone().filter(|_| statuses);
                self.core.surveyed(Some(Survey { statuses: known, ..self.survey.clone() }), self.now);
            }
            Effect::Write(writes) => {
                writes.iter().for_each(|write| self.show(write));
                self.core.written(writes.clone(), None, self.now);
                self.writes.extend(writes);
            }
            Effect::Secrets(named) => self.secrets = named,
            Effect::Drain(wait) => {
                self.drains.push(wait);
                self.core.drained(wait, Ok(()), self.now);
            }
            Effect::Report(answer) => {
                let report = self.core.report(self.now);
                let _ = answer.send(serde_json::to_value(report).unwrap());
            }
        }
    }

    /// The API takes an address for a Service, if it is still what it was.
    fn give(&mut self, grant: Grant) -> Granted {
        let Some(service) = self.services.get_mut(&*grant.service) else { return Granted::Not };
        if service.version != grant.version {
            return Granted::Not;
        }
        service.ingress = grant.addresses;
        self.changed(&grant.service);
        Granted::Done
    }

    /// A Service is changed.
    pub fn changed(&mut self, name: &str) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.version = format!("{}'", service.version);
        let shown = object(name, Ok(service.clone()));
        if self.watching_services {
            self.core.update(Update::Service(Change::Apply(shown)), self.now);
        }
    }

    pub fn allocate(&mut self, container: &str) -> (Attempt, Reply<Attach>) {
        self.allocate_these(container, &[])
    }

    pub fn allocate_these(&mut self, container: &str, ips: &[IpAddr]) -> (Attempt, Reply<Attach>) {
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        let (reply, answer) = oneshot::channel();
        let pod = PodRef { namespace: "default".into(), name: container.into(), uid: String::new() };
        let asked = Asked {
            key: key(container),
            pod,
            netns: format!("/run/netns/{container}"),
            network: "manx".to_owned(),
            ips: ips.to_vec(),
        };
        self.command(Command::Allocate { attempt, asked, reply });
        (attempt, answer)
    }

    pub fn command(&mut self, command: Command) {
        self.core.command(command, self.now);
        self.act();
    }

    /// The plugin's work between "attach" and "ready".
    pub fn make_veth(&mut self, container: &str) -> u32 {
        let mut links = self.links.0.lock().unwrap();
        let index = 100 + u32::try_from(links.len()).unwrap() + u32::try_from(self.attempts).unwrap() * 100;
        links.insert(host_ifname(&key(container)), index);
        index
    }

    pub fn remove_veth(&mut self, container: &str) {
        self.links.0.lock().unwrap().remove(&host_ifname(&key(container)));
    }

    fn remove_retired(&mut self) {
        let retired = std::mem::take(&mut self.retired);
        self.links.0.lock().unwrap().retain(|_, index| !retired.contains(index));
    }

    pub fn ready(&mut self, attempt: Attempt, container: &str, host_ifindex: u32) -> Result<(), Refusal> {
        let name = format!("default/{container}");
        let shown = self.core.cluster.pods.get(&name).cloned();
        let pod = shown.clone().unwrap_or_else(|| pod(&[]));
        self.pods.insert(name.clone(), pod.clone());
        if shown.is_none() && self.core.cluster.has_read(&[Kind::Pod]) {
            self.update(Update::Pod(Change::Apply(object(&name, Ok(pod)))));
        }
        self.ready_later(attempt, container, host_ifindex).try_recv().unwrap()
    }

    pub fn ready_later(&mut self, attempt: Attempt, container: &str, host_ifindex: u32) -> Reply<()> {
        let (reply, answer) = oneshot::channel();
        let command =
            Command::Ready { attempt, key: key(container), pod_mac: [2, 0, 0, 0, 0, 1], host_ifindex, reply };
        self.core.command(command, self.now);
        self.act();
        answer
    }

    /// What is in force for a pod.
    pub fn endpoint(&self, container: &str) -> Option<&Endpoint> {
        self.ruleset.endpoints.get(&Ifname(host_ifname(&key(container)).into())).map(|endpoint| &**endpoint)
    }

    pub fn abort(&mut self, attempt: Attempt, container: &str) {
        self.core.command(Command::Abort { attempt, key: key(container) }, self.now);
        self.act();
    }

    pub fn add(&mut self, container: &str) -> Vec<IpAddr> {
        let (attempt, mut answer) = self.allocate(container);
        let attach = answer.try_recv().unwrap().unwrap();
        let index = self.make_veth(container);
        self.ready(attempt, container, index).unwrap();
        attach.addresses
    }

    pub fn del(&mut self, container: &str) {
        let (reply, mut answer) = oneshot::channel();
        self.core.command(Command::Release { key: key(container), reply }, self.now);
        self.act();
        answer.try_recv().unwrap().unwrap();
    }

    pub fn can_attach(&mut self) -> Result<(), Refusal> {
        let (reply, mut answer) = oneshot::channel();
        self.core.command(Command::CanAttach { reply }, self.now);
        answer.try_recv().unwrap()
    }

    pub fn inspect(&mut self, container: &str) -> Option<Attached> {
        let (reply, mut answer) = oneshot::channel();
        self.core.command(Command::Inspect { key: key(container), reply }, self.now);
        answer.try_recv().unwrap()
    }

    pub fn stale(&mut self, network: &str, valid: &[&str]) -> Vec<AttachmentKey> {
        let (reply, mut answer) = oneshot::channel();
        let valid = valid.iter().map(|container| key(container)).collect();
        self.core.command(Command::Stale { network: network.to_owned(), valid, reply }, self.now);
        answer.try_recv().unwrap()
    }

    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        self.fib.get(&address.into())
    }

    pub fn used(&self) -> usize {
        self.core.allocator.blocks().map(manx_ipam::block::Block::used).sum()
    }
}

pub fn core(directory: PathBuf, links: Links, now: Instant) -> Core {
    core_of("node1", directory, links, now)
}

pub fn core_of(me: &str, directory: PathBuf, links: Links, now: Instant) -> Core {
    let start = Start {
        me: me.to_owned(),
        files: Files::open(&directory).unwrap(),
        socket: directory.join("agent.sock"),
        known: KnownFile::new(&directory),
        host: Box::new(links),
        mtu: None,
        metrics: Metrics::new().unwrap(),
        collection: Collection::default(),
        finds_routes: true,
    };
    Core::start(start, now).unwrap()
}

pub fn key(container: &str) -> AttachmentKey {
    AttachmentKey { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

pub fn object<T>(name: &str, spec: Result<T, Bad>) -> Object<T> {
    Object { name: name.to_owned(), uid: "uid".to_owned(), generation: 1, conditions: Vec::new(), spec }
}

pub fn node(name: &str) -> Object<Node> {
    let last = name.bytes().last().unwrap() - b'0';
    let node = Node { ipv4: Some([192, 0, 2, last].into()), ipv6: None, ..Node::default() };
    object(name, Ok(node))
}

pub fn pool(name: &str, cidr: &str, block_size: u8) -> Object<IPPool> {
    let spec = IPPoolSpec { block_size: Some(block_size), ..IPPoolSpec::new(cidr) };
    object(name, Ok(IPPool::new(name, spec)))
}

pub fn block(seen: &IPAMBlock) -> Object<Block> {
    let claim = Claim::try_from(seen).unwrap();
    let whole = IPAMBlockStatus { free: claim.cidr.size().into(), ..IPAMBlockStatus::default() };
    let IPAMBlockStatus { used, free, allocations, node_uid } = seen.status.clone().unwrap_or(whole);
    let uid = seen.metadata.uid.clone().unwrap_or_default();
    let version = seen.metadata.resource_version.clone().unwrap_or_default();
    object(&claim.cidr.object_name(), Ok(Block { claim, uid, version, used, free, allocations, node_uid }))
}

/// A namespace with these labels and annotations.
pub fn namespace(name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Object<Namespace> {
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let wishes = Ok(Wishes::read(&owned(annotations)).unwrap());
    let policed = policy::Namespace { labels: labels.iter().copied().collect(), ..Default::default() };
    object(name, Ok(Namespace { labels: owned(labels), wishes, policed }))
}

/// A pod of the namespace `default` with these annotations.
pub fn pod(annotations: &[(&str, &str)]) -> Pod {
    let annotations =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let policed = policy::Pod {
        namespace: "default".into(),
        node: "node1".into(),
        labels: Labels::default(),
        addresses: SmallVec::new(),
        ports: Arc::new([]),
        spoofing: Spoofing::Denied,
        created: 0,
        uid: "".into(),
    };
    let wishes = Ok(Wishes::read(&annotations).unwrap());
    Pod { uid: String::new(), wishes, here: true, policed: Some(policed) }
}

//! A cluster of fifty nodes that share a pool too small for them, each with its real core, and an API that loses requests and
//! answers: whatever comes, in whatever order, no address is owned twice, none is lost once all is quiet, and none that is
//! in use is freed.
//!
//! `MANX_MODEL_STEPS` (3,000), `MANX_MODEL_SEED` (one seed, to see a failure again) and `MANX_MODEL_SEEDS` (how many, 2) set how
//! much is tried. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use kube::ResourceExt;
use manx_cni::protocol::{Attach, PodRef, host_ifname};
use manx_ipam::claim::{Claim, claim_this};
use manx_ipam::crd::{IPAMBlock, IPAMBlockStatus};
use manx_ipam::store::{Store, StoreError};
use manx_ipam::{BlockCidr, Pool};
use tokio::sync::oneshot;

use super::super::core::{Core, Effect};
use super::super::election::{Bid, Record};
use super::super::found::PodLink;
use super::super::mirror::Write;
use super::super::vanished::{Collected, Condemned};
use super::machine::{Links, Reply, block, core_of, key, namespace, node, object, pod, pool};
use crate::attach::{Asked, Attempt, Command};
use crate::dataplane::{Fib, Route};
use crate::model::{Object, Request};
use crate::speaker::Event;
use crate::watch::{Change, Kind, Update};

const NODES: usize = 50;
/// 256 addresses: fewer than the pods that are asked for.
const POOL: &str = "10.0.0.0/24";

/// The kinds whose watches may be behind, each for itself.
const WATCHED: [Kind; 4] = [Kind::Node, Kind::IPPool, Kind::IPAMBlock, Kind::IPAMRequest];

/// SplitMix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The API server: objects, and per kind what has changed.
struct Api {
    random: Random,
    /// One request in so many is lost, or its answer; 0: none.
    loses: usize,
    blocks: BTreeMap<String, IPAMBlock>,
    requests: BTreeMap<String, Request>,
    /// With their UIDs.
    nodes: BTreeMap<String, String>,
    /// Pods bound to each node.
    pods: BTreeMap<String, BTreeSet<String>>,
    block_length: u8,
    lease: Option<Record>,
    written: u64,
    log: BTreeMap<Kind, Vec<Logged>>,
}

#[derive(Clone)]
enum Logged {
    Node(String, Option<String>),
    Pool(u8),
    Block(String, Option<Box<IPAMBlock>>),
    Request(String, Option<Request>),
}

impl Api {
    fn version(&mut self) -> String {
        self.written += 1;
        self.written.to_string()
    }

    fn log(&mut self, kind: Kind, logged: Logged) {
        self.log.entry(kind).or_default().push(logged);
    }

    fn set_block(&mut self, name: &str, block: Option<IPAMBlock>) {
        let logged = block.clone().map(Box::new);
        match block {
            Some(block) => _ = self.blocks.insert(name.to_owned(), block),
            None => _ = self.blocks.remove(name),
        }
        self.log(Kind::IPAMBlock, Logged::Block(name.to_owned(), logged));
    }

    fn set_request(&mut self, name: &str, request: Option<Request>) {
        match request.clone() {
            Some(request) => _ = self.requests.insert(name.to_owned(), request),
            None => _ = self.requests.remove(name),
        }
        self.log(Kind::IPAMRequest, Logged::Request(name.to_owned(), request));
    }

    fn set_node(&mut self, name: &str, there: bool) {
        let uid = there.then(|| self.version());
        match uid.clone() {
            Some(uid) => _ = self.nodes.insert(name.to_owned(), uid),
            None => _ = self.nodes.remove(name),
        }
        self.log(Kind::Node, Logged::Node(name.to_owned(), uid));
    }

    /// All there is of a kind.
    fn list(&self, kind: Kind) -> Update {
        match kind {
            Kind::Node => Update::Node(Change::Replace(
                self.nodes.iter().map(|(name, uid)| known_node(name, uid)).collect(),
            )),
            Kind::IPPool => {
                Update::Pool(Box::new(Change::Replace(vec![pool("v4", POOL, self.block_length)])))
            }
            Kind::IPAMBlock => Update::Block(Change::Replace(self.blocks.values().map(block).collect())),
            _ => {
                let all = self.requests.iter().map(|(name, request)| object(name, Ok(request.clone())));
                Update::Request(Change::Replace(all.collect()))
            }
        }
    }
}

fn known_node(name: &str, uid: &str) -> Object<crate::model::Node> {
    let mut node = Object { name: name.to_owned(), ..node("node1") };
    node.spec.as_mut().unwrap().uid = uid.to_owned();
    node
}

fn change(logged: Logged) -> Vec<Update> {
    match logged {
        Logged::Node(name, Some(uid)) => vec![Update::Node(Change::Apply(known_node(&name, &uid)))],
        Logged::Node(name, None) => vec![Update::Node(Change::Delete(name))],
        Logged::Pool(length) => vec![
            Update::Pool(Box::new(Change::Delete("v4".to_owned()))),
            Update::Pool(Box::new(Change::Apply(pool("v4", POOL, length)))),
        ],
        Logged::Block(_, Some(seen)) => vec![Update::Block(Change::Apply(block(&seen)))],
        Logged::Block(name, None) => vec![Update::Block(Change::Delete(name))],
        Logged::Request(name, Some(request)) => {
            vec![Update::Request(Change::Apply(object(&name, Ok(request))))]
        }
        Logged::Request(name, None) => vec![Update::Request(Change::Delete(name))],
    }
}

/// The API as one node reaches it.
struct Reach<'a> {
    api: &'a Mutex<Api>,
    away: bool,
}

impl Reach<'_> {
    fn ask<T>(&self, request: impl FnOnce(&mut Api) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let lost = || Err(StoreError::Unavailable("lost".to_owned()));
        let mut api = self.api.lock().unwrap();
        let fate = if api.loses == 0 {
            2
        } else {
            let loses = api.loses;
            api.random.below(loses)
        };
        if self.away || fate == 0 {
            return lost();
        }
        let answer = request(&mut api);
        if fate == 1 { lost() } else { answer }
    }
}

impl Store for Reach<'_> {
    async fn list_blocks(&self) -> Result<Vec<IPAMBlock>, StoreError> {
        self.ask(|api| Ok(api.blocks.values().cloned().collect()))
    }

    async fn create_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        self.ask(|api| {
            let name = block.name_any();
            if api.blocks.contains_key(&name) {
                return Err(StoreError::Exists(name));
            }
            let (mut block, version) = (block.clone(), api.version());
            block.metadata.uid = Some(format!("uid-{version}"));
            block.metadata.resource_version = Some(version);
            api.set_block(&name, Some(block));
            Ok(())
        })
    }

    async fn update_status(&self, name: &str, status: &IPAMBlockStatus) -> Result<(), StoreError> {
        self.ask(|api| {
            let version = api.version();
            let Some(mut block) = api.blocks.get(name).cloned() else {
                return Err(StoreError::NotFound(name.to_owned()));
            };
            block.status = Some(status.clone());
            block.metadata.resource_version = Some(version);
            api.set_block(name, Some(block));
            Ok(())
        })
    }

    async fn delete_block(&self, name: &str, uid: &str, version: Option<&str>) -> Result<(), StoreError> {
        self.ask(|api| {
            let Some(block) = api.blocks.get(name) else { return Ok(()) };
            let same = block.uid().as_deref() == Some(uid)
                && version.is_none_or(|version| block.resource_version().as_deref() == Some(version));
            if !same {
                return Err(StoreError::Refused("it is another by now".to_owned()));
            }
            api.set_block(name, None);
            Ok(())
        })
    }
}

/// How an agent is told what became of what it asked.
type Answer = Box<dyn FnOnce(&mut Core, Instant)>;

/// An ADD that has not ended.
struct Adding {
    attempt: Attempt,
    container: String,
    answer: Reply<Attach>,
}

struct Machine {
    name: String,
    directory: tempfile::TempDir,
    links: Links,
    fib: Fib,
    core: Option<Core>,
    /// What the agent has asked of the API and has no answer to.
    pending: VecDeque<Effect>,
    /// Blocks of a node it has found to be gone, and is about to free.
    freeing: Option<(String, Vec<Condemned>)>,
    /// How much of each watch it has been told; nothing: not listed yet.
    cursors: BTreeMap<Kind, usize>,
    partitioned: bool,
    adding: Vec<Adding>,
    /// Addresses of pods that run.
    running: BTreeMap<String, Vec<IpAddr>>,
}

struct World {
    api: Mutex<Api>,
    machines: Vec<Machine>,
    now: Instant,
    random: Random,
    attempts: u64,
    outage: bool,
    plugins_die: bool,
    /// Who has an interface with an address.
    held: BTreeMap<IpAddr, (usize, String)>,
    /// How often each thing happened that is worth having happened.
    tally: BTreeMap<&'static str, usize>,
    seed: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: MANX_MODEL_SEED={}, MANX_MODEL_STEPS as it was", self.seed);
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {:?}", self.seed, self.tally)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut api = Api {
            random: Random(seed ^ 1),
            loses: 12,
            blocks: BTreeMap::new(),
            requests: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            block_length: 29,
            lease: None,
            written: 0,
            log: BTreeMap::new(),
        };
        let machines = (0..NODES).map(|number| {
            let name = format!("node{number:02}");
            api.set_node(&name, true);
            Machine {
                name,
                directory: tempfile::tempdir().unwrap(),
                links: Links::default(),
                fib: Fib::new(),
                core: None,
                pending: VecDeque::new(),
                freeing: None,
                cursors: BTreeMap::new(),
                partitioned: false,
                adding: Vec::new(),
                running: BTreeMap::new(),
            }
        });
        let machines = machines.collect();
        Self {
            api: Mutex::new(api),
            machines,
            now: Instant::now(),
            random: Random(seed),
            attempts: 0,
            outage: false,
            plugins_die: true,
            held: BTreeMap::new(),
            tally: BTreeMap::new(),
            seed,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        let who = self.random.below(NODES);
        match self.random.below(1000) {
            0..=219 => self.add(who),
            220..=319 => self.del(who),
            320..=419 => (0..=self.random.below(12)).for_each(|_| self.deliver(who)),
            420..=529 => self.catch_up(who),
            530..=749 => self.perform(who),
            750..=849 => {
                let jump = [1, 1, 2, 5, 30][self.random.below(5)];
                self.now += Duration::from_secs(jump);
                (0..10).for_each(|_| {
                    let who = self.random.below(NODES);
                    self.tick(who);
                });
            }
            850..=869 => self.crash(who),
            870..=872 => self.power_off(who),
            873..=882 => self.machines[who].partitioned = self.random.one_in(3),
            883..=892 => self.outage = self.random.one_in(10),
            893..=902 => self.relist(who),
            903..=905 => self.delete_node(who),
            906 => self.replace_pool(),
            907 => self.long_while(),
            _ => self.register(who),
        }
        self.check(who);
    }

    /// Some nodes go, for long enough to be given up. They return when their blocks are about to be freed, and pods
    /// start there.
    fn long_while(&mut self) {
        self.count("long whiles");
        self.outage = false;
        for _ in 0..5 {
            let who = self.random.below(NODES);
            self.delete_node(who);
        }
        for _ in 0..75 {
            self.now += Duration::from_secs(10);
            for who in 0..NODES {
                self.catch_up(who);
                self.tick(who);
                if let Some((node, _)) = self.machines[who].freeing.clone()
                    && self.random.one_in(2)
                    && let Some(back) = self.machines.iter().position(|machine| machine.name == node)
                {
                    self.machines[back].partitioned = false;
                    self.register(back);
                    (0..self.random.below(20)).for_each(|_| self.deliver(back));
                    (0..self.random.below(4)).for_each(|_| self.perform(back));
                    self.tick(back);
                    self.add(back);
                    (0..self.random.below(4)).for_each(|_| self.perform(back));
                }
                (0..self.random.below(4)).for_each(|_| self.perform(who));
                self.check(who);
            }
        }
    }

    fn away(&self, who: usize) -> bool {
        self.outage || self.machines[who].partitioned
    }

    fn start(&mut self, who: usize) {
        let machine = &mut self.machines[who];
        if machine.core.is_some() {
            return;
        }
        let mut core =
            core_of(&machine.name, machine.directory.path().to_owned(), machine.links.clone(), self.now);
        core.hear(Event::Up { daemon: "manx-bgpd".to_owned() });
        core.hear(Event::Synced);
        core.hear(Event::Applied { changes: Vec::new() });
        for update in [
            Update::Pod(Change::Replace(Vec::new())),
            Update::Namespace(Change::Replace(vec![namespace("default", &[], &[])])),
            Update::Reservation(Change::Replace(Vec::new())),
            Update::Bgp(Change::Replace(Vec::new())),
            Update::Peer(Change::Replace(Vec::new())),
            Update::Filter(Change::Replace(Vec::new())),
            Update::Service(Change::Replace(Vec::new())),
            Update::Slice(Change::Replace(Vec::new())),
            Update::NetworkPolicy(Change::Replace(Vec::new())),
            Update::ClusterNetworkPolicy(Change::Replace(Vec::new())),
        ] {
            core.update(update, self.now);
        }
        machine.core = Some(core);
        machine.cursors.clear();
        self.act(who);
    }

    /// Does at once what is the kernel's; the API's waits.
    fn act(&mut self, who: usize) {
        let now = self.now;
        let machine = &mut self.machines[who];
        let Some(core) = &mut machine.core else { return };
        loop {
            let effects = core.effects(now);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Program { delta, retire, answers, attached, .. } => {
                        delta.remove.iter().for_each(|prefix| drop(machine.fib.remove(prefix)));
                        machine.fib.extend(delta.set);
                        let answers = answers.into_iter().chain(attached);
                        answers.for_each(|answer| drop(answer.send(Ok(()))));
                        for link in &retire {
                            machine.links.remove(link.index);
                        }
                        if core.in_sync() {
                            core.programmed();
                        }
                        core.gone(retire, true, now);
                    }
                    Effect::Learn(delta) => {
                        delta.remove.iter().for_each(|prefix| drop(machine.fib.remove(prefix)));
                        machine.fib.extend(delta.set);
                    }
                    Effect::Sweep => machine.fib = core.graph.desired().fib,
                    Effect::SweepAcl
                    | Effect::Guard(_)
                    | Effect::Report(_)
                    | Effect::Secrets(_)
                    | Effect::Drain(_) => {}
                    Effect::Translate(_) | Effect::Discover(_) => {}
                    effect => machine.pending.push_back(effect),
                }
            }
        }
        self.settle(who);
    }

    /// Interfaces that are gone hold nothing; ADDs that were answered go on.
    fn settle(&mut self, who: usize) {
        let links = self.machines[who].links.names();
        self.held
            .retain(|_, (node, container)| *node != who || links.contains(&host_ifname(&key(container))));
        let adding = std::mem::take(&mut self.machines[who].adding);
        for mut add in adding {
            match add.answer.try_recv() {
                Ok(Ok(attach)) => self.make(who, &add, &attach.addresses),
                Ok(Err(_)) => self.forget_pod(who, &add.container),
                Err(oneshot::error::TryRecvError::Empty) => self.machines[who].adding.push(add),
                Err(oneshot::error::TryRecvError::Closed) => self.forget_pod(who, &add.container),
            }
        }
    }

    fn forget_pod(&mut self, who: usize, container: &str) {
        let mut api = self.api.lock().unwrap();
        api.pods.entry(self.machines[who].name.clone()).or_default().remove(container);
    }

    /// The plugin has addresses: it makes the veth and says so, or dies on the way.
    fn make(&mut self, who: usize, add: &Adding, addresses: &[IpAddr]) {
        self.count("addresses given");
        for address in addresses {
            let other = self.held.get(address).filter(|(_, container)| *container != add.container);
            assert!(
                other.is_none(),
                "{address} is given to {} and held by {other:?} ({self:?})",
                add.container
            );
        }
        let dies = if self.plugins_die { self.random.below(10) } else { 9 };
        if dies > 0 {
            self.attempts += 1;
            let index = u32::try_from(self.attempts).unwrap() + 1000;
            self.machines[who].links.add(&host_ifname(&key(&add.container)), index);
            for address in addresses {
                self.held.insert(*address, (who, add.container.clone()));
            }
            if dies > 1 {
                let shown = object(&format!("default/{}", add.container), Ok(pod(&[])));
                self.update(who, Update::Pod(Change::Apply(shown)));
                let (reply, mut answer) = oneshot::channel();
                let (key, pod_mac) = (key(&add.container), [2, 0, 0, 0, 0, 1]);
                let ready = Command::Ready { attempt: add.attempt, key, pod_mac, host_ifindex: index, reply };
                self.command(who, ready);
                if matches!(answer.try_recv(), Ok(Ok(()))) && dies > 2 {
                    self.machines[who].running.insert(add.container.clone(), addresses.to_vec());
                    return;
                }
            }
        }
        self.command(who, Command::Abort { attempt: add.attempt, key: key(&add.container) });
        self.forget_pod(who, &add.container);
    }

    fn command(&mut self, who: usize, command: Command) {
        let now = self.now;
        if let Some(core) = &mut self.machines[who].core {
            core.command(command, now);
        }
        self.act(who);
    }

    fn add(&mut self, who: usize) {
        // No pod is bound to a node that is not there.
        let there = self.api.lock().unwrap().nodes.contains_key(&self.machines[who].name);
        if self.machines[who].core.is_none() || self.machines[who].running.len() > 11 || !there {
            return;
        }
        self.attempts += 1;
        let (attempt, container) = (Attempt(self.attempts), format!("pod{}", self.attempts));
        let name = self.machines[who].name.clone();
        self.api.lock().unwrap().pods.entry(name).or_default().insert(container.clone());
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            key: key(&container),
            pod: PodRef { namespace: "default".into(), name: container.clone(), uid: String::new() },
            netns: String::new(),
            network: "manx".to_owned(),
            ips: Vec::new(),
        };
        self.machines[who].adding.push(Adding { attempt, container, answer });
        self.command(who, Command::Allocate { attempt, asked, reply });
    }

    fn del(&mut self, who: usize) {
        let running: Vec<String> = self.machines[who].running.keys().cloned().collect();
        if running.is_empty() || self.machines[who].core.is_none() {
            return;
        }
        let container = running[self.random.below(running.len())].clone();
        self.end(who, &container);
    }

    fn end(&mut self, who: usize, container: &str) {
        self.count("pods ended");
        self.machines[who].running.remove(container);
        let (reply, _answer) = oneshot::channel();
        self.command(who, Command::Release { key: key(container), reply });
        self.update(who, Update::Pod(Change::Delete(format!("default/{container}"))));
        self.forget_pod(who, container);
    }

    fn update(&mut self, who: usize, update: Update) {
        let now = self.now;
        if let Some(core) = &mut self.machines[who].core {
            core.update(update, now);
        }
        self.act(who);
    }

    /// The watches are no longer behind.
    fn catch_up(&mut self, who: usize) {
        for kind in WATCHED {
            while !self.away(who) && self.deliver_kind(who, kind) {}
        }
    }

    /// One more change of one kind is told, or all there is where nothing was.
    fn deliver(&mut self, who: usize) {
        let kind = WATCHED[self.random.below(WATCHED.len())];
        let away = self.away(who);
        if away && self.random.one_in(4) {
            return self.update(who, Update::Api(Err("away".to_owned())));
        }
        if !away {
            self.deliver_kind(who, kind);
        }
    }

    /// Returns whether there was anything.
    fn deliver_kind(&mut self, who: usize, kind: Kind) -> bool {
        let next = {
            let api = self.api.lock().unwrap();
            let length = api.log.get(&kind).map_or(0, Vec::len);
            match self.machines[who].cursors.get(&kind).copied() {
                None => Some((length, vec![Update::Api(Ok(())), api.list(kind)])),
                Some(cursor) if cursor < length => Some((cursor + 1, change(api.log[&kind][cursor].clone()))),
                Some(_) => None,
            }
        };
        let Some((cursor, updates)) = next else { return false };
        self.machines[who].cursors.insert(kind, cursor);
        updates.into_iter().for_each(|update| self.update(who, update));
        true
    }

    /// A watch broke off and begins anew with a list.
    fn relist(&mut self, who: usize) {
        let kind = WATCHED[self.random.below(WATCHED.len())];
        if !self.away(who) {
            self.machines[who].cursors.remove(&kind);
            self.deliver_kind(who, kind);
        }
    }

    fn tick(&mut self, who: usize) {
        let now = self.now;
        if let Some(core) = &mut self.machines[who].core {
            core.tick(now);
        }
        self.act(who);
    }

    /// Something the agent asked of the API is done, and answered.
    fn perform(&mut self, who: usize) {
        let frees = self.machines[who].pending.is_empty() || self.random.one_in(2);
        let answer = if let Some((node, blocks)) = self.machines[who].freeing.take_if(|_| frees) {
            let outcome = self.free(who, &node, &blocks);
            Box::new(move |core: &mut Core, now| core.collected(node, outcome, now))
        } else {
            let Some(effect) = self.machines[who].pending.pop_front() else { return };
            self.ask(who, effect)
        };
        if let Some(core) = &mut self.machines[who].core {
            answer(core, self.now);
        }
        self.act(who);
    }

    /// What the API does; and how the agent is told, if it still lives.
    fn ask(&mut self, who: usize, effect: Effect) -> Answer {
        let (away, me) = (self.away(who), self.machines[who].name.clone());
        let reach = Reach { api: &self.api, away };
        match effect {
            Effect::Claim { want, pools, taken } => {
                let outcome = block_on(super::super::claim_wanted(&reach, &me, &want, &pools, taken));
                *self.tally.entry("claims").or_default() += usize::from(outcome.is_ok());
                Box::new(move |core, now| core.claimed(want, outcome, now))
            }
            Effect::Reclaim(wanted) => {
                let (cidr, outcome) = (wanted.cidr, block_on(claim_this(&reach, wanted)));
                *self.tally.entry("blocks put back").or_default() += 1;
                Box::new(move |core, now| core.reclaimed(cidr, outcome, now))
            }
            Effect::Return { cidr, uid } => {
                let outcome = block_on(reach.delete_block(&cidr.object_name(), &uid, None));
                *self.tally.entry("blocks given back").or_default() += usize::from(outcome.is_ok());
                Box::new(move |core, now| core.returned(cidr, outcome, now))
            }
            Effect::Grant(part) => {
                let outcome = block_on(reach.create_block(&IPAMBlock::from(&part)));
                *self.tally.entry("parts granted").or_default() += usize::from(outcome.is_ok());
                Box::new(move |core, now| core.granted(part.cidr, outcome, now))
            }
            Effect::Bid(duty, bid) => {
                let lease = reach.ask(|api| Ok(take_lease(api, &me, &bid))).unwrap_or(Err(()));
                Box::new(move |core, now| core.bid_answered((duty, &bid), lease, now))
            }
            Effect::Collect { node, blocks, .. } => {
                if let Some(life) = self.life(away, &node) {
                    return Box::new(move |core, now| core.collected(node, life, now));
                }
                // Until it is freed, anything may happen.
                self.machines[who].freeing = Some((node, blocks));
                Box::new(|_, _| {})
            }
            Effect::Survey { .. } => Box::new(move |core, now| core.surveyed(None, now)),
            Effect::Write(writes) => {
                let failure = writes.iter().find_map(|write| write_one(&reach, write).err());
                let failure = failure.map(|error| error.to_string());
                let done = if failure.is_none() { writes } else { Vec::new() };
                Box::new(move |core, now| core.written(done, failure, now))
            }
            effect => panic!("{effect:?} is not the API's"),
        }
    }

    /// Why a node's blocks are not freed.
    fn life(&self, away: bool, node: &str) -> Option<Collected> {
        let api = self.api.lock().unwrap();
        let life = api.nodes.contains_key(node) || api.pods.get(node).is_some_and(|pods| !pods.is_empty());
        match (away, life) {
            (true, _) => Some(Collected::Failed("away".to_owned())),
            (false, true) => Some(Collected::Alive("it is there".to_owned())),
            (false, false) => None,
        }
    }

    fn free(&mut self, who: usize, node: &str, blocks: &[Condemned]) -> Collected {
        let away = self.away(who);
        let mut freed = Vec::new();
        for block in blocks {
            let reach = Reach { api: &self.api, away };
            match block_on(reach.delete_block(&block.cidr.object_name(), &block.uid, Some(&block.version))) {
                Ok(()) => freed.push(block.cidr),
                Err(StoreError::Refused(why)) => {
                    self.count("condemned blocks that were not freed");
                    return Collected::Alive(why);
                }
                Err(error) => return Collected::Failed(error.to_string()),
            }
            let live = self.held.iter().find(|(address, (who, container))| {
                let machine = &self.machines[*who];
                block.cidr.contains(**address)
                    && machine.name == node
                    && machine.running.contains_key(container)
            });
            assert!(live.is_none(), "{} of {node} is freed, and {live:?} lives ({self:?})", block.cidr);
        }
        *self.tally.entry("blocks of vanished nodes freed").or_default() += freed.len();
        Collected::Freed(freed)
    }

    /// SIGKILL: what was asked of the API may still be done, and nobody hears of it. Sometimes with the files lost.
    fn crash(&mut self, who: usize) {
        if self.machines[who].core.is_none() {
            return self.start(who);
        }
        self.count("crashes");
        for effect in std::mem::take(&mut self.machines[who].pending) {
            if self.random.one_in(2) {
                drop(self.ask(who, effect));
            }
        }
        let machine = &mut self.machines[who];
        machine.core = None;
        machine.freeing = None;
        machine.adding.clear();
        machine.links.note_routes(&machine.fib);
        let names: Vec<String> =
            self.api.lock().unwrap().pods.get(&machine.name).into_iter().flatten().cloned().collect();
        for container in names {
            // ADDs on their way have lost their agent.
            if !self.machines[who].running.contains_key(&container) {
                self.forget_pod(who, &container);
            }
        }
        if self.random.one_in(8) {
            let _ = std::fs::remove_dir_all(self.machines[who].directory.path().join("attachments"));
        }
        if self.random.one_in(2) {
            self.start(who);
        }
    }

    /// The machine is off: no container, no file, no route is left. The API is not told.
    fn power_off(&mut self, who: usize) {
        self.count("machines off");
        for effect in std::mem::take(&mut self.machines[who].pending) {
            if self.random.one_in(2) {
                drop(self.ask(who, effect));
            }
        }
        let machine = &mut self.machines[who];
        machine.core = None;
        machine.freeing = None;
        machine.directory = tempfile::tempdir().unwrap();
        machine.links = Links::default();
        machine.fib.clear();
        machine.adding.clear();
        machine.running.clear();
        self.held.retain(|_, (node, _)| *node != who);
    }

    /// Its Node is deleted: with the machine for good, or by mistake, while its pods go on.
    fn delete_node(&mut self, who: usize) {
        self.count("nodes deleted");
        if self.random.one_in(2) {
            self.power_off(who);
            self.forget_pods(who);
        }
        let name = self.machines[who].name.clone();
        self.api.lock().unwrap().set_node(&name, false);
    }

    fn forget_pods(&mut self, who: usize) {
        let name = &self.machines[who].name;
        let running = &self.machines[who].running;
        let mut api = self.api.lock().unwrap();
        api.pods.entry(name.clone()).or_default().retain(|pod| running.contains_key(pod));
    }

    /// The kubelet registers its Node, and what does not run any more is told to the API. Of a Node that is new the
    /// agent hears before a pod is bound to it.
    fn register(&mut self, who: usize) {
        let name = self.machines[who].name.clone();
        if self.machines[who].adding.is_empty() {
            self.forget_pods(who);
        }
        self.start(who);
        if !self.away(who) && !self.api.lock().unwrap().nodes.contains_key(&name) {
            self.count("nodes registered anew");
            self.api.lock().unwrap().set_node(&name, true);
            while self.deliver_kind(who, Kind::Node) {}
        }
    }

    /// The pool is deleted and made again with blocks of another size.
    fn replace_pool(&mut self) {
        self.count("pools replaced");
        let mut api = self.api.lock().unwrap();
        api.block_length = 57 - api.block_length;
        let length = api.block_length;
        api.log(Kind::IPPool, Logged::Pool(length));
    }

    /// What must hold of one node at any time.
    fn check(&self, who: usize) {
        let machine = &self.machines[who];
        let Some(core) = &machine.core else { return };
        for (container, addresses) in &machine.running {
            for address in addresses {
                let holder = core.allocator.holder(*address);
                let kept = holder.is_some_and(|holder| {
                    holder.key.container_id == *container || holder.key.ifname == host_ifname(&key(container))
                });
                assert!(kept, "{address} of {container}, which runs, is held by {holder:?} ({self:?})");
                let route = machine.fib.get(&(*address).into());
                assert!(
                    matches!(route, Some(Route::Pod { .. })),
                    "{address} of {container}: {route:?} ({self:?})"
                );
            }
        }
    }

    /// All is well again, and everything is told and done.
    fn quiet(&mut self, seconds: u64) {
        self.outage = false;
        self.api.lock().unwrap().loses = 0;
        for who in 0..NODES {
            self.machines[who].partitioned = false;
            self.register(who);
        }
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for who in 0..NODES {
                while !self.machines[who].pending.is_empty() || self.machines[who].freeing.is_some() {
                    self.perform(who);
                }
                for kind in WATCHED {
                    while self.deliver_kind(who, kind) {}
                }
                self.tick(who);
                self.check(who);
            }
        }
    }

    fn blocks(&self) -> Vec<Claim> {
        self.api.lock().unwrap().blocks.values().map(|block| Claim::try_from(block).unwrap()).collect()
    }

    /// No address is lost: each is free at its block's owner, or in no block at all.
    fn check_all(&self) {
        let blocks = self.blocks();
        for claim in &blocks {
            let others = blocks.iter().filter(|other| other.cidr != claim.cidr);
            let parts: Vec<BlockCidr> = others
                .filter(|other| claim.cidr.cidr().covers(other.cidr.cidr()))
                .map(|it| it.cidr)
                .collect();
            let owner = self.machines.iter().find(|machine| machine.name == claim.node).unwrap();
            let core = owner.core.as_ref().unwrap();
            let block = core.allocator.block(claim.cidr);
            let block = block.unwrap_or_else(|| panic!("{claim:?} is not known to its owner ({self:?})"));
            assert_eq!(block.used() + block.free() + block.resting(), block.size(), "{claim:?}");
            let away: BTreeSet<IpAddr> = (0..claim.cidr.size())
                .filter_map(|n| claim.cidr.nth(n))
                .filter(|ip| parts.iter().any(|it| it.contains(*ip)))
                .collect();
            let size = usize::from(claim.cidr.size());
            assert_eq!(block.size(), size - away.len(), "{claim:?} with {parts:?} ({self:?})");
        }
        for (address, (who, container)) in &self.held {
            let around = blocks.iter().filter(|claim| claim.cidr.contains(*address));
            let inner = around.max_by_key(|claim| claim.cidr.cidr().length());
            let owner = inner.map(|claim| claim.node.as_str());
            assert_eq!(owner, Some(self.machines[*who].name.as_str()), "{address} of {container} ({self:?})");
        }
    }
}

fn take_lease(api: &mut Api, me: &str, bid: &Bid) -> Result<Option<Record>, ()> {
    if let Bid::Take { version, transitions } = bid {
        if api.lease.as_ref().map(|lease| &lease.version) != version.as_ref() {
            return Err(());
        }
        let version = api.version();
        api.lease = Some(Record { holder: me.to_owned(), transitions: *transitions, version });
    }
    Ok(api.lease.clone())
}

fn write_one(reach: &Reach<'_>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Block { name, status } => match block_on(reach.update_status(name, status)) {
            Err(StoreError::NotFound(_)) => Ok(()),
            outcome => outcome,
        },
        Write::Ask { name, node, block } => reach.ask(|api| {
            if !api.requests.contains_key(name) {
                let uid = api.version();
                let request = Request { node: node.clone(), block: *block, uid, refused: None };
                api.set_request(name, Some(request));
            }
            Ok(())
        }),
        Write::Asked { name } => reach.ask(|api| {
            api.set_request(name, None);
            Ok(())
        }),
        Write::Refuse { name, reason } => reach.ask(|api| {
            if let Some(request) = api.requests.get(name).cloned() {
                api.set_request(name, Some(Request { refused: Some(reason.clone()), ..request }));
            }
            Ok(())
        }),
        _ => reach.ask(|_| Ok(())),
    }
}

impl Links {
    fn add(&self, name: &str, index: u32) {
        self.0.lock().unwrap().insert(name.to_owned(), index);
    }

    fn remove(&self, index: u32) {
        self.0.lock().unwrap().retain(|_, other| *other != index);
    }

    fn names(&self) -> BTreeSet<String> {
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

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn run(seed: u64, steps: u64) {
    let mut world = World::new(seed);
    (0..NODES).for_each(|who| world.start(who));
    for _ in 0..steps {
        world.step();
    }
    world.quiet(120);
    world.check_all();
    for who in 0..NODES {
        for container in world.machines[who].running.keys().cloned().collect::<Vec<_>>() {
            world.end(who, &container);
        }
    }
    // Rounds of collection for what died half-way, and the time after which an empty block goes back.
    world.quiet(700);
    world.check_all();
    assert_eq!(world.held, BTreeMap::new(), "{world:?}");
    for machine in &world.machines {
        let core = machine.core.as_ref().unwrap();
        let held: Vec<_> = core.allocator.owners().collect();
        assert!(held.is_empty(), "{} still holds {held:?} ({world:?})", machine.name);
    }
    let api = world.api.lock().unwrap();
    assert!(api.requests.is_empty(), "{:?}", api.requests);
    let statuses = api.blocks.values().filter_map(|block| block.status.as_ref());
    assert_eq!(statuses.map(|status| status.used).sum::<i64>(), 0);
    drop(api);
    eprintln!("{world:?}");
}

#[test]
fn whatever_happens_to_fifty_nodes_no_address_is_owned_twice_lost_or_freed_under_a_pod() {
    let steps = setting("MANX_MODEL_STEPS").unwrap_or(3000);
    match setting("MANX_MODEL_SEED") {
        Some(seed) => run(seed, steps),
        None => (1..=setting("MANX_MODEL_SEEDS").unwrap_or(2)).for_each(|seed| run(seed, steps)),
    }
}

/// The pool is full before a pod is refused for good, however it is cut up.
#[test]
fn an_address_is_found_while_there_is_one_in_the_pool() {
    let mut world = World::new(7);
    world.plugins_die = false;
    world.quiet(10);
    let size = Pool::try_from(&pool("v4", POOL, 29).spec.unwrap()).unwrap().size();
    for round in 0..6 {
        for who in 0..NODES {
            // Later nodes want more: blocks of the others must be divided.
            if who >= 5 * round {
                world.add(who);
            }
        }
        world.quiet(1);
    }
    let running = |world: &World| world.machines.iter().map(|machine| machine.running.len()).sum::<usize>();
    for _ in 0..400 {
        let missing = usize::try_from(size).unwrap().saturating_sub(running(&world));
        if missing == 0 {
            break;
        }
        let who = NODES - 1 - world.random.below(25);
        if world.machines[who].adding.is_empty() {
            world.add(who);
        }
        world.quiet(2);
    }
    world.check_all();
    assert_eq!(u128::try_from(running(&world)).unwrap(), size, "{world:?}");
}

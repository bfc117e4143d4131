//! The core against a store in memory, a kernel that is a map, and plugins that do as they are told, or die.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use manx_bgp::api::{Config, RouteChange};
use manx_cni::protocol::{Attach, AttachmentKey, PodRef, host_ifname};
use manx_cni::spec::code;
use manx_ipam::claim::{Claim, Taken, claim};
use manx_ipam::crd::{IPAMBlock, IPPool, IPPoolSpec};
use manx_ipam::store::Store;
use manx_ipam::store::memory::MemoryStore;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::core::{Core, Effect, Host, Start};
use super::known::KnownFile;
use super::mirror::Write;
use crate::attach::files::Files;
use crate::attach::{Attempt, Command, Refusal};
use crate::dataplane::{self, Fib, Route};
use crate::health::Metrics;
use crate::model::{Bad, BgpConfig, Block, Node, Object, Peer};
use crate::speaker::Event;
use crate::watch::{Change, Update};

type Reply<T> = oneshot::Receiver<Result<T, Refusal>>;

/// Interfaces by name; a clone is the same kernel.
#[derive(Clone, Default)]
struct Links(Arc<Mutex<BTreeMap<String, u32>>>);

impl Host for Links {
    fn index_of(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.0.lock().unwrap().get(name).copied())
    }

    fn mtu_of(&self, addresses: &[IpAddr]) -> Option<u32> {
        (!addresses.is_empty()).then_some(9000)
    }
}

/// One machine: what outlives an agent is beside it.
struct Machine {
    core: Core,
    directory: tempfile::TempDir,
    links: Links,
    fib: Fib,
    swept: bool,
    store: Arc<MemoryStore>,
    now: Instant,
    orders: Vec<Config>,
    writes: Vec<Write>,
    attempts: u64,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (links, now) = (Links::default(), Instant::now());
        let core = core(directory.path().to_owned(), links.clone(), now);
        Self {
            core,
            directory,
            links,
            fib: Fib::new(),
            swept: false,
            store: Arc::default(),
            now,
            orders: Vec::new(),
            writes: Vec::new(),
            attempts: 0,
        }
    }

    /// A machine whose agent has read all there is, and whose speaker has told its table.
    fn in_sync() -> Self {
        let mut machine = Self::new();
        machine.sync();
        machine
    }

    fn sync(&mut self) {
        self.read_all();
        self.hear(Event::Up { daemon: "manx-bgpd test".to_owned() });
        self.hear(Event::Synced);
        self.hear(Event::Applied { changes: Vec::new() });
    }

    fn read_all(&mut self) {
        self.update(Update::Api(Ok(())));
        self.update(Update::Node(Change::Replace(vec![node("node1"), node("node2")])));
        self.update(Update::Pod(Change::Replace(Vec::new())));
        self.update(Update::Pool(Change::Replace(vec![
            pool("v4", "10.244.0.0/24", 30),
            pool("v6", "fd00:244::/64", 126),
        ])));
        self.list_blocks();
        self.update(Update::Bgp(Change::Replace(Vec::new())));
        self.update(Update::Peer(Change::Replace(Vec::new())));
    }

    fn list_blocks(&mut self) {
        let blocks = self.store.blocks().iter().map(block).collect();
        self.update(Update::Block(Change::Replace(blocks)));
    }

    /// SIGKILL and start: only what is in memory is lost.
    fn kill(&mut self) {
        self.now += Duration::from_secs(1);
        self.core = core(self.directory.path().to_owned(), self.links.clone(), self.now);
        self.swept = false;
        self.act();
    }

    fn update(&mut self, update: Update) {
        self.core.update(update, self.now);
        self.act();
    }

    fn hear(&mut self, event: Event) {
        self.core.hear(event);
        self.act();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.core.tick(dataplane::Status::default(), self.now);
            self.act();
        }
    }

    /// Does what the core wants until it wants nothing.
    fn act(&mut self) {
        loop {
            let effects = self.core.effects(self.now);
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Program { delta, answers, orders } => {
                for prefix in &delta.remove {
                    assert!(!delta.set.contains_key(prefix), "{prefix} is both set and removed");
                    self.fib.remove(prefix);
                }
                self.fib.extend(delta.set);
                if self.core.in_sync() {
                    self.core.programmed();
                }
                answers.into_iter().for_each(|answer| drop(answer.send(Ok(()))));
                self.orders.extend(orders);
            }
            Effect::Sweep => {
                self.swept = true;
                self.fib = self.core.graph.desired().fib;
            }
            Effect::Claim { family, pools, taken } => {
                let outcome = block_on(claim(self.store.as_ref(), &pools, "node1", taken));
                self.core.claimed(family, outcome, self.now);
            }
            Effect::Reclaim { cidr, pool } => {
                let outcome = block_on(claim(
                    self.store.as_ref(),
                    &[super::only(cidr, pool)],
                    "node1",
                    Taken::default(),
                ));
                self.core.reclaimed(cidr, outcome, self.now);
            }
            Effect::Write(writes) => {
                self.core.written(writes.clone(), None, self.now);
                self.writes.extend(writes);
            }
            Effect::Report(answer) => {
                let report = self.core.report(self.now);
                let _ = answer.send(serde_json::to_value(report).unwrap());
            }
        }
    }

    fn allocate(&mut self, container: &str) -> (Attempt, Reply<Attach>) {
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        let (reply, answer) = oneshot::channel();
        let pod = PodRef { namespace: "default".into(), name: container.into(), uid: String::new() };
        let command = Command::Allocate {
            attempt,
            key: key(container),
            pod,
            netns: format!("/run/netns/{container}"),
            reply,
        };
        self.core.command(command, self.now);
        self.act();
        (attempt, answer)
    }

    /// The plugin's work between "attach" and "ready".
    fn make_veth(&mut self, container: &str) -> u32 {
        let mut links = self.links.0.lock().unwrap();
        let index = 100 + u32::try_from(links.len()).unwrap() + u32::try_from(self.attempts).unwrap() * 100;
        links.insert(host_ifname(&key(container)), index);
        index
    }

    fn remove_veth(&mut self, container: &str) {
        self.links.0.lock().unwrap().remove(&host_ifname(&key(container)));
    }

    fn ready(&mut self, attempt: Attempt, container: &str, host_ifindex: u32) -> Result<(), Refusal> {
        let (reply, mut answer) = oneshot::channel();
        let command =
            Command::Ready { attempt, key: key(container), pod_mac: [2, 0, 0, 0, 0, 1], host_ifindex, reply };
        self.core.command(command, self.now);
        self.act();
        answer.try_recv().unwrap()
    }

    fn abort(&mut self, attempt: Attempt, container: &str) {
        self.core.command(Command::Abort { attempt, key: key(container) }, self.now);
        self.act();
    }

    fn add(&mut self, container: &str) -> Vec<IpAddr> {
        let (attempt, mut answer) = self.allocate(container);
        let attach = answer.try_recv().unwrap().unwrap();
        let index = self.make_veth(container);
        self.ready(attempt, container, index).unwrap();
        attach.addresses
    }

    fn del(&mut self, container: &str) {
        self.remove_veth(container);
        let (reply, mut answer) = oneshot::channel();
        self.core.command(Command::Release { key: key(container), reply }, self.now);
        self.act();
        answer.try_recv().unwrap().unwrap();
    }

    fn route_to(&self, address: IpAddr) -> Option<&Route> {
        self.fib.get(&address.into())
    }

    fn used(&self) -> usize {
        self.core.allocator.blocks().map(manx_ipam::block::Block::used).sum()
    }
}

fn core(directory: PathBuf, links: Links, now: Instant) -> Core {
    let start = Start {
        me: "node1".to_owned(),
        files: Files::open(&directory).unwrap(),
        socket: directory.join("agent.sock"),
        known: KnownFile::new(&directory),
        host: Box::new(links),
        metrics: Metrics::new().unwrap(),
    };
    Core::start(start, now).unwrap()
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

fn object<T>(name: &str, spec: Result<T, Bad>) -> Object<T> {
    Object { name: name.to_owned(), generation: 1, conditions: Vec::new(), spec }
}

fn node(name: &str) -> Object<Node> {
    let last = name.bytes().last().unwrap() - b'0';
    let node = Node { ipv4: Some([192, 0, 2, last].into()), ipv6: None, ..Node::default() };
    object(name, Ok(node))
}

fn pool(name: &str, cidr: &str, block_size: u8) -> Object<IPPool> {
    let spec = IPPoolSpec {
        cidr: cidr.to_owned(),
        block_size: Some(block_size),
        node_selector: None,
        disabled: false,
    };
    object(name, Ok(IPPool::new(name, spec)))
}

fn block(seen: &IPAMBlock) -> Object<Block> {
    let Claim { cidr, pool, node } = Claim::try_from(seen).unwrap();
    let status = seen.status.clone().unwrap_or_default();
    let block = Block { cidr, pool, node, used: status.used, allocations: status.allocations };
    object(&cidr.object_name(), Ok(block))
}

#[test]
fn a_pod_gets_an_address_of_each_family_and_can_be_reached_when_it_is_told_so() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    let attach = answer.try_recv().unwrap().unwrap();
    assert_eq!(attach.addresses.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
    assert_eq!(attach.mtu, 9000);
    let routes: Vec<String> = attach.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["0.0.0.0/0", "::/0"]);
    assert_eq!(machine.route_to(attach.addresses[0]), None);
    let ifindex = machine.make_veth("web");
    machine.ready(attempt, "web", ifindex).unwrap();
    for address in &attach.addresses {
        assert_eq!(machine.route_to(*address), Some(&Route::Pod { ifindex }));
    }
    machine.del("web");
    assert_eq!((machine.route_to(attach.addresses[0]), machine.used()), (None, 0));
}

#[test]
fn an_add_before_anything_is_known_waits_and_is_then_asked_to_come_back() {
    let mut machine = Machine::new();
    let (_, mut early) = machine.allocate("early");
    machine.pass(9);
    assert!(early.try_recv().is_err(), "it still waits");
    machine.pass(2);
    let refusal = early.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code, code::TRY_AGAIN);
    assert!(refusal.message.contains("still reading"), "{refusal}");

    let (_, mut late) = machine.allocate("late");
    machine.read_all();
    assert!(late.try_recv().unwrap().is_ok());
}

#[test]
fn an_add_without_a_pool_says_so() {
    let mut machine = Machine::in_sync();
    machine.update(Update::Pool(Change::Replace(Vec::new())));
    let (_, mut answer) = machine.allocate("web");
    machine.pass(11);
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert!(refusal.message.contains("no IPPool"), "{refusal}");
}

#[test]
fn the_speaker_is_told_only_of_acknowledged_blocks_and_only_once_all_is_read() {
    let mut machine = Machine::new();
    machine.update(Update::Node(Change::Replace(vec![node("node1"), node("node2")])));
    machine.update(Update::Pool(Change::Replace(vec![pool("v4", "10.244.0.0/24", 30)])));
    machine.update(Update::Block(Change::Replace(Vec::new())));
    machine.update(Update::Bgp(Change::Replace(Vec::new())));
    assert_eq!(machine.orders, [], "a neighbour may still come to light");
    machine.update(Update::Peer(Change::Replace(Vec::new())));
    let announced: Vec<String> =
        machine.orders.last().unwrap().networks.iter().map(|network| network.prefix.to_string()).collect();
    let owned: Vec<String> = machine.store.blocks().iter().map(|block| block.spec.cidr.clone()).collect();
    assert_eq!(announced, owned);
    assert_eq!(owned.len(), 1);
    assert!(machine.fib.values().any(|route| *route == Route::Blackhole));

    machine.store.set_outage(true);
    let orders = machine.orders.len();
    for container in ["a", "b", "c"] {
        machine.add(container);
    }
    machine.pass(5);
    assert_eq!(machine.orders.len(), orders, "the second block is wanted, and not acknowledged");
}

#[test]
fn nothing_is_swept_before_every_watch_and_the_speaker_have_told_all() {
    let mut machine = Machine::new();
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.hear(Event::Synced);
    machine.read_all();
    assert!(!machine.swept, "the speaker has not heard its orders");
    machine.hear(Event::Applied { changes: Vec::new() });
    assert!(machine.swept);

    let mut machine = Machine::new();
    machine.read_all();
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.hear(Event::Applied { changes: Vec::new() });
    assert!(!machine.swept, "the speaker has not told its table");
    assert!(machine.core.ready(), "a node is ready without its neighbours");
    machine.hear(Event::Synced);
    assert!(machine.swept);
}

#[test]
fn learned_routes_outlive_the_speaker() {
    let mut machine = Machine::in_sync();
    let route = RouteChange {
        prefix: "10.244.9.0/26".parse().unwrap(),
        next_hops: vec!["192.0.2.2".parse().unwrap()],
    };
    machine.hear(Event::Routes(vec![route]));
    let learned = "10.244.9.0/26".parse().unwrap();
    assert!(machine.fib.contains_key(&learned));
    machine.hear(Event::Down { reason: "killed".to_owned() });
    machine.hear(Event::Up { daemon: "d".to_owned() });
    machine.pass(60);
    assert!(machine.fib.contains_key(&learned));
    machine.hear(Event::Synced);
    assert!(!machine.fib.contains_key(&learned));
}

#[test]
fn an_agent_that_starts_while_the_api_is_away_serves_from_the_blocks_it_knew() {
    let mut machine = Machine::in_sync();
    let before = machine.add("before");
    machine.kill();
    assert!(machine.route_to(before[0]).is_some());
    let (_, mut answer) = machine.allocate("after");
    assert!(answer.try_recv().is_err(), "the API may still answer");
    machine.update(Update::Api(Err("connection refused".to_owned())));
    let attach = answer.try_recv().unwrap().unwrap();
    assert_eq!(attach.addresses.len(), 2);
    assert!(attach.addresses.iter().all(|address| !before.contains(address)));
    assert!(!machine.swept);
}

#[test]
fn a_block_deleted_under_its_pods_is_put_back_and_an_empty_one_is_let_go() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    machine.list_blocks();
    let blocks = machine.store.blocks();
    for block in &blocks {
        block_on(machine.store.delete_block(block)).unwrap();
    }
    machine.list_blocks();
    let names =
        |store: &MemoryStore| store.blocks().iter().map(|b| b.spec.cidr.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&machine.store), blocks.iter().map(|b| b.spec.cidr.clone()).collect());
    assert!(machine.route_to(address).is_some());
    machine.list_blocks();
    let networks = machine.orders.last().unwrap().networks.len();
    assert_eq!(networks, 2, "both are announced throughout");

    machine.del("web");
    machine.store.set_outage(true);
    machine.update(Update::Block(Change::Replace(Vec::new())));
    assert_eq!(machine.core.allocator.blocks().count(), 0);
    assert_eq!(machine.orders.last().unwrap().networks, []);
}

#[test]
fn a_block_another_node_took_is_announced_no_more() {
    let mut machine = Machine::in_sync();
    machine.add("web");
    machine.list_blocks();
    let stolen = machine.store.blocks().into_iter().find(|block| block.spec.pool == "v4").unwrap();
    block_on(machine.store.delete_block(&stolen)).unwrap();
    let claim = Claim { node: "node2".to_owned(), ..Claim::try_from(&stolen).unwrap() };
    let theirs = IPAMBlock::from(&claim);
    block_on(machine.store.create_block(&theirs)).unwrap();
    machine.update(Update::Block(Change::Apply(block(&theirs))));
    let announced = &machine.orders.last().unwrap().networks;
    assert!(announced.iter().all(|network| network.prefix.to_string() != stolen.spec.cidr), "{announced:?}");
}

#[test]
fn a_claim_the_list_did_not_know_yet_is_not_lost() {
    let mut machine = Machine::in_sync();
    let owned = machine.core.allocator.blocks().count();
    // A list that was read before the claims, and told after them.
    machine.update(Update::Block(Change::Replace(Vec::new())));
    assert_eq!(machine.core.allocator.blocks().count(), owned);
    assert_eq!(owned, 2);
}

#[test]
fn the_end_of_a_dead_plugin_does_not_undo_its_successor() {
    let mut machine = Machine::in_sync();
    let (first, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    let (second, mut answer) = machine.allocate("web");
    assert_eq!(answer.try_recv().unwrap().unwrap().addresses, addresses);
    machine.abort(first, "web");
    let ifindex = machine.make_veth("web");
    assert_eq!(machine.ready(first, "web", ifindex).unwrap_err().code, code::TRY_AGAIN);
    machine.ready(second, "web", ifindex).unwrap();
    let (_, mut third) = machine.allocate("web");
    assert_eq!(third.try_recv().unwrap().unwrap_err().code, Refusal::ALREADY_ATTACHED);
}

#[test]
fn an_address_is_free_only_when_its_interface_is_gone() {
    let mut machine = Machine::in_sync();
    let (attempt, mut answer) = machine.allocate("web");
    let addresses = answer.try_recv().unwrap().unwrap().addresses;
    let ifindex = machine.make_veth("web");
    machine.ready(attempt, "web", ifindex).unwrap();
    machine.abort(attempt, "web");
    assert_eq!(machine.route_to(addresses[0]), None);
    machine.pass(5);
    assert!(machine.core.allocator.holder(addresses[0]).is_some());
    machine.remove_veth("web");
    machine.pass(1);
    assert!(machine.core.allocator.holder(addresses[0]).is_none());
}

#[test]
fn what_was_deleted_or_lost_while_no_agent_answered_is_freed() {
    let mut machine = Machine::in_sync();
    for container in ["noted", "lost", "kept"] {
        machine.add(container);
    }
    let socket = machine.directory.path().join("agent.sock");
    machine.remove_veth("noted");
    manx_cni::released::leave(&socket, &key("noted")).unwrap();
    machine.remove_veth("lost");
    machine.kill();
    machine.sync();
    let held: Vec<&str> = machine.core.attachments.keys().map(|key| key.container_id.as_str()).collect();
    assert_eq!(held, ["kept"]);
    assert_eq!(manx_cni::released::read(&socket).unwrap(), []);
    assert_eq!(machine.used(), 2, "one address of each family");
    assert_eq!(machine.fib.values().filter(|route| matches!(route, Route::Pod { .. })).count(), 2);
}

#[test]
fn an_interface_that_goes_without_a_del_is_collected() {
    let mut machine = Machine::in_sync();
    let address = machine.add("web")[0];
    machine.remove_veth("web");
    machine.pass(90);
    assert!(machine.core.allocator.holder(address).is_some(), "missed once is not gone");
    machine.pass(60);
    assert!(machine.core.allocator.holder(address).is_none());
}

#[test]
fn bad_objects_are_answered_with_a_condition_by_the_first_node_alone() {
    let mut machine = Machine::in_sync();
    machine.update(Update::Pool(Change::Apply(pool("bad", "10.245.0.1/16", 26))));
    let bad = Bad::new("InvalidAddress", "not an address");
    machine.update(Update::Peer(Change::Apply(object::<Peer>("tor", Err(bad.clone())))));
    machine.update(Update::Bgp(Change::Apply(object::<BgpConfig>("other", Err(bad)))));
    machine.pass(1);
    let pool = machine.writes.iter().find_map(|write| match write {
        Write::Pool { name, verdict, .. } if name == "bad" => Some(verdict),
        _ => None,
    });
    let verdict = pool.unwrap();
    assert!(!verdict.holds && verdict.message.contains("did you mean 10.245.0.0/16"), "{verdict:?}");
    let said = |wanted: &str| {
        machine.writes.iter().any(|write| match write {
            Write::Peer { name, verdict, .. } | Write::Configuration { name, verdict, .. } => {
                name == wanted && !verdict.holds
            }
            _ => false,
        })
    };
    assert!(said("tor") && said("other"));

    machine.update(Update::Node(Change::Apply(node("node0"))));
    machine.writes.clear();
    machine.pass(2);
    assert!(machine.writes.iter().all(|write| matches!(write, Write::Block { .. } | Write::Node { .. })));
}

#[test]
fn who_holds_what_is_mirrored_until_the_api_shows_it() {
    let mut machine = Machine::in_sync();
    machine.list_blocks();
    machine.add("web");
    machine.pass(1);
    let mirrored: Vec<&Write> = machine
        .writes
        .iter()
        .filter(|write| matches!(write, Write::Block { status, .. } if status.used == 1))
        .collect();
    assert_eq!(mirrored.len(), 2, "one of each family");
    for write in mirrored {
        let Write::Block { name, status } = write else { continue };
        assert_eq!(status.allocations[0].pod, "web");
        block_on(machine.store.update_status(name, status)).unwrap();
    }
    machine.list_blocks();
    machine.writes.clear();
    machine.pass(3);
    assert!(!machine.writes.iter().any(|write| matches!(write, Write::Block { .. })));
}

/// What happens to a machine.
#[derive(Clone, Debug)]
enum Step {
    /// A pod starts, or dies on the way: after the addresses, after the veth, after "ready", or not at all.
    Add(u8, u8),
    Del(u8),
    /// A DEL that finds no agent, then the agent.
    DelWhileAway(u8),
    Kill,
    Sync,
    Outage(bool),
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..4_u8).prop_map(|(pod, dies)| Step::Add(pod, dies)),
        4 => (0..6_u8).prop_map(Step::Del),
        1 => (0..6_u8).prop_map(Step::DelWhileAway),
        2 => Just(Step::Kill),
        2 => Just(Step::Sync),
        1 => any::<bool>().prop_map(Step::Outage),
        2 => (1..4_u8).prop_map(Step::Pass),
    ]
}

/// Addresses by pod.
#[derive(Default)]
struct Held {
    /// Of pods that run.
    running: BTreeMap<u8, Vec<IpAddr>>,
    /// Of pods that have an interface.
    configured: BTreeMap<u8, Vec<IpAddr>>,
}

fn take(machine: &mut Machine, step: &Step, held: &mut Held) {
    match *step {
        Step::Add(pod, dies) if !held.running.contains_key(&pod) => {
            let container = format!("pod{pod}");
            let (attempt, mut answer) = machine.allocate(&container);
            let Ok(Ok(attach)) = answer.try_recv() else {
                drop(answer);
                return machine.abort(attempt, &container);
            };
            let index = (dies > 0).then(|| machine.make_veth(&container));
            if index.is_some() {
                held.configured.insert(pod, attach.addresses.clone());
            }
            if let Some(index) = index.filter(|_| dies > 1) {
                machine.ready(attempt, &container, index).unwrap();
            }
            if dies == 3 {
                held.running.insert(pod, attach.addresses);
            } else {
                machine.abort(attempt, &container);
            }
        }
        Step::Add(..) => {}
        Step::Del(pod) => {
            held.running.remove(&pod);
            held.configured.remove(&pod);
            machine.del(&format!("pod{pod}"));
        }
        Step::DelWhileAway(pod) => {
            held.running.remove(&pod);
            held.configured.remove(&pod);
            let container = format!("pod{pod}");
            machine.remove_veth(&container);
            let socket = machine.directory.path().join("agent.sock");
            manx_cni::released::leave(&socket, &key(&container)).unwrap();
            machine.kill();
        }
        Step::Kill => machine.kill(),
        Step::Sync => machine.sync(),
        Step::Outage(outage) => machine.store.set_outage(outage),
        Step::Pass(seconds) => machine.pass(seconds.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn whatever_dies_when_no_address_has_two_pods_and_none_is_lost(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut machine = Machine::in_sync();
        let mut held = Held::default();
        for step in &steps {
            take(&mut machine, step, &mut held);
            let mut seen = BTreeSet::new();
            for address in held.configured.values().flatten() {
                prop_assert!(seen.insert(*address), "{} has two pods after {:?}", address, step);
            }
            for (pod, addresses) in &held.running {
                for address in addresses {
                    let index = machine.links.index_of(&host_ifname(&key(&format!("pod{pod}")))).unwrap();
                    let route = machine.route_to(*address).cloned();
                    prop_assert_eq!(route, index.map(|ifindex| Route::Pod { ifindex }), "after {:?}", step);
                }
            }
        }
        machine.store.set_outage(false);
        for pod in 0..6 {
            machine.del(&format!("pod{pod}"));
        }
        machine.kill();
        machine.sync();
        machine.pass(2);
        prop_assert_eq!(machine.used(), 0);
        prop_assert!(machine.core.attachments.is_empty());
        let pods = machine.fib.values().filter(|route| matches!(route, Route::Pod { .. })).count();
        prop_assert_eq!(pods, 0);
        let owners: BTreeSet<String> = machine.store.blocks().iter().map(|block| block.spec.node.clone()).collect();
        prop_assert!(owners.iter().all(|node| node == "node1"));
    }
}

//! A cluster of fifty nodes that share a pool too small for them, each with its real core, and an API that loses requests and
//! answers: whatever comes, in whatever order, no address is owned twice, none is lost once all is quiet, and none that is
//! in use is freed.
//!
//! `MANX_MODEL_STEPS` (3,000), `MANX_MODEL_SEED` (one seed, to see a failure again) and `MANX_MODEL_SEEDS` (how many, 2) set how
//! much is tried. A failure names its seed.

mod api;
mod failures;
mod invariants;
mod pods;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use manx_cni::protocol::Attach;
use manx_ipam::Pool;
use manx_ipam::claim::claim_this;
use manx_ipam::crd::IPAMBlock;
use manx_ipam::store::{Store, StoreError};

use self::api::{Api, Random, Reach, change, take_lease, write_one};
use super::super::core::{Core, Effect};
use super::super::vanished::{Collected, Condemned};
use super::machine::{Links, Reply, core_of, namespace, pool};
use crate::attach::{Attempt, Command};
use crate::dataplane::Fib;
use crate::speaker::Event;
use crate::watch::{Change, Kind, Update};

const NODES: usize = 50;
/// 256 addresses: fewer than the pods that are asked for.
const POOL: &str = "10.0.0.0/24";

/// The kinds whose watches may be behind, each for itself.
const WATCHED: [Kind; 4] = [Kind::Node, Kind::IPPool, Kind::IPAMBlock, Kind::IPAMRequest];

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
                    Effect::Filter(_)
                    | Effect::SweepAcl
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

    fn command(&mut self, who: usize, command: Command) {
        self.with_core(who, |core, now| core.command(command, now));
    }

    fn update(&mut self, who: usize, update: Update) {
        self.with_core(who, |core, now| core.update(update, now));
    }

    /// Something happens to an agent, if there is one.
    fn with_core(&mut self, who: usize, happens: impl FnOnce(&mut Core, Instant)) {
        if let Some(core) = &mut self.machines[who].core {
            happens(core, self.now);
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

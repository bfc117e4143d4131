//! A cluster of nodes that move from one topology to another, each by what it has seen so far: whoever could be reached
//! stays reachable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::graph::reflectors::elect;
use crate::model::BgpConfig;

/// Up to so many nodes all peer with each other, above it with this many.
const LIMIT: usize = 5;
const REFLECTORS: usize = 2;

/// Seconds a node's view of the Nodes may be behind, and an agent be stopped.
const LAG: u64 = 20;

/// Seconds in which a node that joins is a part of the cluster.
const JOINED: u64 = LAG * 2;

/// One agent, and what it has told its speaker.
struct Agent {
    meshing: Meshing,
    topology: Topology,
    view: BTreeMap<String, Node>,
    /// Seconds until it looks again.
    next: u64,
    since: u64,
}

struct Cluster {
    nodes: BTreeMap<String, Node>,
    agents: BTreeMap<String, Agent>,
    start: Instant,
    second: u64,
    /// Of delays; each run has its own.
    seed: u64,
    /// Pairs with a session.
    up: BTreeSet<(String, String)>,
}

fn bgp() -> BgpConfig {
    let mesh = Mesh::Auto { limit: LIMIT, reflectors: REFLECTORS };
    BgpConfig { mesh, ..BgpConfig::default() }
}

impl Cluster {
    fn of(count: u8, seed: u64) -> Self {
        let (nodes, agents) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { nodes, agents, start: Instant::now(), second: 0, seed, up: BTreeSet::new() };
        (1..=count).for_each(|number| cluster.join(number));
        cluster.settle();
        cluster
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn join(&mut self, number: u8) {
        let name = format!("node{number}");
        if self.nodes.contains_key(&name) {
            return;
        }
        let zone = format!("zone{}", number % 2);
        let node = Node { ipv4: Some([192, 0, 2, number].into()), zone, dependable: true, ..Node::default() };
        self.nodes.insert(name.clone(), node);
        let agent = Agent {
            meshing: Meshing::default(),
            topology: Topology::default(),
            view: BTreeMap::new(),
            next: 0,
            since: self.second,
        };
        self.agents.insert(name, agent);
    }

    fn leave(&mut self, name: &str) {
        self.nodes.remove(name);
        self.agents.remove(name);
        self.up.retain(|(a, b)| a != name && b != name);
    }

    fn peers_of(&self, name: &str) -> BTreeSet<String> {
        let other = |(a, b): &(String, String)| match (a == name, b == name) {
            (true, _) => Some(b.clone()),
            (_, true) => Some(a.clone()),
            _ => None,
        };
        self.up.iter().filter_map(other).collect()
    }

    /// Agents that are due look, decide, and say what they say on their Nodes; then sessions are as both ends want them.
    fn pass(&mut self, seconds: u64) {
        self.steps(seconds, 1);
    }

    /// Until nothing changes any more.
    fn settle(&mut self) {
        self.steps(200, 10);
    }

    fn steps(&mut self, count: u64, seconds: u64) {
        for _ in 0..count {
            self.second += seconds;
            let names: Vec<String> = self.agents.keys().cloned().collect();
            for name in names {
                let delay = self.random(LAG);
                let (up, now) = (self.peers_of(&name), self.start + Duration::from_secs(self.second));
                let Some(agent) = self.agents.get_mut(&name) else { continue };
                if agent.next > 0 {
                    agent.next = agent.next.saturating_sub(seconds);
                } else {
                    agent.next = delay;
                    agent.view.clone_from(&self.nodes);
                }
                let Some(elected) = elect(&name, &agent.view, &bgp()) else { continue };
                let of = |of: fn(&Node) -> bool| {
                    agent.view.iter().filter(|(_, node)| of(node)).map(|(name, _)| name.clone()).collect()
                };
                let (reflecting, dependable) = (of(|node| node.reflecting), of(|node| node.dependable));
                let seen = Seen {
                    me: &name,
                    elected: &elected,
                    up: &up,
                    reflecting: &reflecting,
                    dependable: &dependable,
                };
                agent.topology = agent.meshing.step(seen, now);
                let confirms = agent.meshing.confirms();
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.reflecting = confirms;
                }
            }
            self.connect();
        }
    }

    /// A session is up where both want it and know each other.
    fn connect(&mut self) {
        let wants = |a: &str, b: &str| {
            self.agents.get(a).is_some_and(|agent| agent.view.contains_key(b) && agent.topology.has(b))
        };
        let names: Vec<&String> = self.agents.keys().collect();
        let mut up = BTreeSet::new();
        for (index, a) in names.iter().enumerate() {
            for b in &names[index + 1..] {
                if wants(a, b) && wants(b, a) {
                    up.insert(((*a).clone(), (*b).clone()));
                }
            }
        }
        self.up = up;
    }

    /// Nodes that have been here long enough and have no way to each other.
    fn cut_off(&self) -> Vec<(String, String)> {
        let settled = |name: &&String| self.second >= self.agents[*name].since + JOINED;
        let names: Vec<&String> = self.agents.keys().filter(settled).collect();
        let session = |a: &str, b: &str| {
            let pair = if a < b { (a, b) } else { (b, a) };
            self.up.contains(&(pair.0.to_owned(), pair.1.to_owned()))
        };
        let reflects = |by: &String, a: &str, b: &str| {
            self.agents[by].topology.reflecting && session(by, a) && session(by, b)
        };
        let reached = |a: &str, b: &str| session(a, b) || self.agents.keys().any(|by| reflects(by, a, b));
        let pairs =
            names.iter().enumerate().flat_map(|(index, a)| names[index + 1..].iter().map(move |b| (a, b)));
        pairs.filter(|(a, b)| !reached(a, b)).map(|(a, b)| ((*a).clone(), (*b).clone())).collect()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Join(u8),
    Leave(u8),
    /// Its Node is cordoned, or not Ready, and later Ready again.
    Fail(u8),
    Recover(u8),
    /// An agent that is stopped for so long, and starts anew.
    Restart(u8, u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..12_u8).prop_map(Event::Join),
        2 => (1..12_u8).prop_map(Event::Leave),
        2 => (1..12_u8).prop_map(Event::Fail),
        2 => (1..12_u8).prop_map(Event::Recover),
        1 => ((1..12_u8), (0..LAG)).prop_map(|(node, seconds)| Event::Restart(node, seconds)),
        4 => (1..400_u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A node that leaves takes what it reflects with it; so one leaves, or is lost, at a time.
    #[test]
    fn no_pair_of_nodes_loses_its_way_while_the_topology_changes(
        count in 2..9_u8,
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 1..12),
    ) {
        let mut cluster = Cluster::of(count, seed);
        prop_assert_eq!(cluster.cut_off(), []);
        for event in &events {
            match *event {
                Event::Join(number) => cluster.join(number),
                Event::Leave(number) => {
                    cluster.settle();
                    let name = format!("node{number}");
                    let reflecting = cluster.agents.values().filter(|agent| agent.topology.reflecting).count();
                    let alone = cluster.agents.get(&name).is_some_and(|agent| agent.topology.reflecting);
                    if cluster.nodes.len() > 2 && !(alone && reflecting == 1) {
                        cluster.leave(&name);
                    }
                }
                Event::Fail(number) | Event::Recover(number) => {
                    let dependable = matches!(event, Event::Recover(_));
                    if let Some(node) = cluster.nodes.get_mut(&format!("node{number}")) {
                        node.dependable = dependable;
                    }
                }
                Event::Restart(number, seconds) => {
                    if let Some(agent) = cluster.agents.get_mut(&format!("node{number}")) {
                        (agent.meshing, agent.next) = (Meshing::default(), seconds);
                    }
                }
                Event::Pass(seconds) => {
                    for _ in 0..seconds {
                        cluster.pass(1);
                        prop_assert_eq!(cluster.cut_off(), [], "second {}", cluster.second);
                    }
                }
            }
            cluster.pass(1);
            prop_assert_eq!(cluster.cut_off(), [], "after {:?}", event);
        }
        // In the end there is what is wanted and no more.
        cluster.settle();
        let elected = elect(cluster.nodes.keys().next().unwrap(), &cluster.nodes, &bgp()).unwrap();
        for (name, agent) in &cluster.agents {
            prop_assert_eq!(&agent.topology, &wanted(name, &elected), "{}", name);
        }
    }
}

#[test]
fn a_cluster_that_grows_past_its_limit_keeps_its_mesh_until_reflectors_have_taken_over() {
    let mut cluster = Cluster::of(5, 7);
    assert_eq!(cluster.up.len(), 10);
    (6..=9).for_each(|number| cluster.join(number));
    cluster.pass(LAG);
    assert!(cluster.up.len() > 10, "the old sessions are there beside the new");
    cluster.pass(200);
    // Two reflectors with each other and with seven others.
    assert_eq!((cluster.up.len(), cluster.cut_off()), (15, vec![]));
    for name in ["node9", "node8", "node7", "node6", "node5"].map(str::to_owned) {
        cluster.leave(&name);
        cluster.pass(700);
        assert_eq!(cluster.cut_off(), [], "{name} has left");
    }
    cluster.pass(700);
    assert_eq!(cluster.up.len(), 6);
    assert!(cluster.nodes.values().all(|node| !node.reflecting));
}

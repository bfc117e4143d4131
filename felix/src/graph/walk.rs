//! From any state to any other: whatever the way, what the deltas add up to is what is computed from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manx_bgp::api::{Config, Outcome};
use manx_bgp::types::{Asn, Prefix};
use proptest::prelude::*;

use super::*;
use crate::dataplane::Route;

/// All there is to know, at one time.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    nodes: BTreeMap<String, Node>,
    bgp: Option<BgpConfig>,
    peers: BTreeMap<String, Peer>,
    blocks: BTreeSet<Prefix>,
    unexported: BTreeSet<Prefix>,
    parts: BTreeSet<Prefix>,
    pods: BTreeMap<IpAddr, u32>,
    learned: BTreeMap<Prefix, Vec<IpAddr>>,
}

impl World {
    /// The inputs that lead from this world to another.
    fn towards(&self, to: &World) -> Vec<Input> {
        fn names<K: Ord + Clone, V>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
            a.keys().chain(b.keys()).cloned().collect()
        }
        let mut inputs = vec![Input::Bgp(to.bgp)];
        inputs.extend(
            names(&self.nodes, &to.nodes)
                .into_iter()
                .map(|name| Input::Node(name.clone(), to.nodes.get(&name).cloned())),
        );
        inputs.extend(
            names(&self.peers, &to.peers)
                .into_iter()
                .map(|name| Input::Peer(name.clone(), to.peers.get(&name).cloned())),
        );
        inputs.extend(self.blocks.difference(&to.blocks).map(|block| Input::BlockGone(*block)));
        inputs.extend(to.blocks.iter().map(|block| Input::BlockOwned(*block)));
        inputs.extend([Input::Unexported(to.unexported.clone()), Input::Parts(to.parts.clone())]);
        inputs.extend(
            names(&self.pods, &to.pods).into_iter().map(|pod| Input::Pod(pod, to.pods.get(&pod).copied())),
        );
        inputs.extend(
            names(&self.learned, &to.learned)
                .into_iter()
                .map(|prefix| Input::Learned(prefix, to.learned.get(&prefix).cloned().unwrap_or_default())),
        );
        inputs
    }
}

fn node(ipv4: Option<&str>, ipv6: Option<&str>, rack: &str) -> Node {
    Node {
        uid: String::new(),
        exhausted: None,
        labels: [("rack".to_owned(), rack.to_owned())].into(),
        ipv4: ipv4.map(|address| address.parse().unwrap()),
        ipv6: ipv6.map(|address| address.parse().unwrap()),
        ..Node::default()
    }
}

fn peer(address: &str, rack: Option<&str>) -> Peer {
    let selector = rack.map(|rack| LabelSelector {
        match_labels: Some([("rack".to_owned(), rack.to_owned())].into()),
        match_expressions: None,
    });
    Peer {
        nodes: Selector::try_from(selector).unwrap(),
        address: address.parse().unwrap(),
        asn: Asn(65001),
        port: 179,
        hold_time: None,
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rack() -> World {
    World {
        nodes: [
            ("node1".to_owned(), node(Some("192.0.2.11"), Some("fd00::11"), "a")),
            ("node2".to_owned(), node(Some("192.0.2.12"), Some("fd00::12"), "a")),
            ("node3".to_owned(), node(None, Some("fd00::13"), "b")),
        ]
        .into(),
        bgp: Some(BgpConfig::default()),
        ..World::default()
    }
}

/// Each differs from the others in what matters to one rule.
fn states() -> Vec<(&'static str, World)> {
    let full = World {
        peers: [
            ("tor1".to_owned(), peer("192.0.2.1", None)),
            ("tor2".to_owned(), peer("fd00::2", Some("a"))),
            ("other-rack".to_owned(), peer("192.0.2.3", Some("b"))),
        ]
        .into(),
        blocks: [prefix("10.244.3.64/26"), prefix("fd00:10:244::40/122")].into(),
        pods: [("10.244.3.65".parse().unwrap(), 7), ("fd00:10:244::41".parse().unwrap(), 7)].into(),
        learned: [
            (prefix("10.244.9.0/26"), addresses(&["192.0.2.12"])),
            (prefix("0.0.0.0/0"), addresses(&["192.0.2.1", "192.0.2.2"])),
        ]
        .into(),
        ..rack()
    };
    let without_me = World { nodes: full.nodes.clone().into_iter().skip(1).collect(), ..full.clone() };
    let mut nameless = full.clone();
    nameless.nodes.insert("node1".to_owned(), node(None, None, "a"));
    let mut v6_only = full.clone();
    v6_only.nodes.insert("node1".to_owned(), node(None, Some("fd00::11"), "b"));
    let mut duplicates = full.clone();
    duplicates.peers.insert("another-tor1".to_owned(), peer("192.0.2.1", None));
    duplicates.peers.insert("node2-by-hand".to_owned(), peer("192.0.2.12", None));
    duplicates.peers.insert("myself".to_owned(), peer("fd00::11", None));
    let no_mesh = World { bgp: Some(BgpConfig { mesh: false, ..BgpConfig::default() }), ..full.clone() };
    let claims = World {
        pods: [("10.244.9.0".parse().unwrap(), 9)].into(),
        blocks: [prefix("10.244.9.0/32"), prefix("10.244.9.0/26")].into(),
        learned: [
            (prefix("10.244.9.0/32"), addresses(&["192.0.2.12"])),
            (prefix("10.244.9.0/26"), addresses(&["192.0.2.12"])),
        ]
        .into(),
        ..rack()
    };
    let hidden = World {
        unexported: [prefix("10.244.0.0/16")].into(),
        parts: [prefix("10.244.3.96/28")].into(),
        ..full.clone()
    };
    vec![
        ("a pool that is not announced and a block carved", hidden),
        ("nothing", World::default()),
        ("a rack of nodes", rack()),
        ("a node with everything", full.clone()),
        ("my Node deleted", without_me),
        ("my Node without addresses", nameless),
        ("my Node with IPv6 only, in another rack", v6_only),
        ("neighbours with one address", duplicates),
        ("no mesh", no_mesh),
        ("no usable configuration", World { bgp: None, ..full }),
        ("three claims on one destination", claims),
    ]
}

fn state(name: &str) -> Desired {
    let (_, world) = states().into_iter().find(|(state, _)| *state == name).unwrap();
    let mut graph = Graph::new("node1");
    World::default().towards(&world).into_iter().for_each(|input| graph.apply(input));
    graph.desired()
}

fn orders(name: &str) -> Config {
    state(name).speaker.orders.unwrap()
}

fn neighbours(config: &Config) -> Vec<(&str, String)> {
    config.peers.iter().map(|peer| (peer.name.as_str(), peer.address.to_string())).collect()
}

#[test]
fn a_pool_that_is_not_exported_is_not_announced_and_the_owner_of_a_part_may_announce_it() {
    let config = orders("a pool that is not announced and a block carved");
    let announced: Vec<String> = config.networks.iter().map(|network| network.prefix.to_string()).collect();
    assert_eq!(announced, ["fd00:10:244::40/122"]);
    let rules = config.peers[0].import.as_ref().unwrap().rules.iter();
    let rules: Vec<(&str, Outcome)> = rules.map(|rule| (rule.name.as_str(), rule.then.verdict)).collect();
    assert_eq!(rules, [("parts of our own blocks", Outcome::Accept), ("our own blocks", Outcome::Reject)]);
}

#[test]
fn sessions_go_over_ipv4_where_both_have_it_and_neighbours_are_selected_by_label() {
    let config = orders("a node with everything");
    assert_eq!(
        neighbours(&config),
        [
            ("tor1", "192.0.2.1".to_owned()),
            ("node2", "192.0.2.12".to_owned()),
            ("tor2", "fd00::2".to_owned()),
            ("node3", "fd00::13".to_owned()),
        ]
    );
    assert_eq!(config.router_id.to_string(), "192.0.2.11");
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:179", "[::]:179"]);
    let networks: Vec<Prefix> = config.networks.iter().map(|network| network.prefix).collect();
    assert_eq!(networks, [prefix("10.244.3.64/26"), prefix("fd00:10:244::40/122")]);
}

#[test]
fn a_session_carries_our_address_of_the_other_family_as_next_hop() {
    let config = orders("a node with everything");
    let node2 = config.peers.iter().find(|peer| peer.name == "node2").unwrap();
    assert_eq!(node2.local_address, Some("192.0.2.11".parse().unwrap()));
    assert_eq!(node2.next_hops, addresses(&["fd00::11"]));
    let tor2 = config.peers.iter().find(|peer| peer.name == "tor2").unwrap();
    assert_eq!(tor2.local_address, Some("fd00::11".parse().unwrap()));
    assert_eq!(tor2.next_hops, addresses(&["192.0.2.11"]));
    assert_eq!((node2.asn, tor2.asn), (Asn(64512), Asn(65001)));
}

#[test]
fn own_blocks_are_refused_and_a_default_route_is_not() {
    for peer in orders("a node with everything").peers {
        let Some(import) = peer.import else { panic!("{} imports by default", peer.name) };
        let except = &import.rules[0].matches.prefixes;
        let refused = |text: &str| except.iter().any(|refused| refused.prefix().covers(prefix(text)));
        assert!(peer.accept_default_route, "{}", peer.name);
        for text in ["10.244.3.64/26", "10.244.3.70/32"] {
            assert!(refused(text), "{text} from {}", peer.name);
        }
        for text in ["0.0.0.0/0", "::/0", "10.244.9.0/26", "fd00:10:244::/64"] {
            assert!(!refused(text), "{text} from {}", peer.name);
        }
    }
}

#[test]
fn of_neighbours_with_one_address_the_mesh_and_then_the_first_name_wins_and_the_rest_is_reported() {
    let Speaking { orders, problems } = state("neighbours with one address").speaker;
    let names: Vec<&str> = problems.iter().map(|problem| problem.object.as_str()).collect();
    assert_eq!(names, ["BGPPeer/myself", "BGPPeer/node2-by-hand", "BGPPeer/tor1"]);
    assert_eq!(problems[2].message, "192.0.2.1 is already the neighbour another-tor1: this one is not used");
    let orders = orders.unwrap();
    let node2 = orders.peers.iter().find(|peer| peer.address == addresses(&["192.0.2.12"])[0]).unwrap();
    assert_eq!((node2.name.as_str(), node2.asn), ("node2", Asn(64512)));
}

#[test]
fn a_node_that_cannot_speak_has_no_orders() {
    for name in ["nothing", "my Node deleted", "my Node without addresses", "no usable configuration"] {
        assert_eq!(state(name).speaker.orders, None, "{name}");
    }
    let problems = state("my Node without addresses").speaker.problems;
    assert!(problems[0].message.contains("no InternalIP"), "{problems:?}");
}

#[test]
fn a_node_with_ipv6_only_has_a_router_id_of_its_own() {
    let config = orders("my Node with IPv6 only, in another rack");
    assert_ne!(config.router_id.0, std::net::Ipv4Addr::UNSPECIFIED);
    assert_eq!(config.router_id, orders("my Node with IPv6 only, in another rack").router_id);
    // tor1 has an IPv4 address this node cannot call from; it may still be reached over a route.
    assert_eq!(neighbours(&config)[0].0, "tor1");
    assert!(neighbours(&config).iter().any(|(name, _)| *name == "other-rack"));
}

#[test]
fn without_a_mesh_only_neighbours_are_left() {
    let config = orders("no mesh");
    assert_eq!(neighbours(&config).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["tor1", "tor2"]);
}

#[test]
fn of_three_claims_on_one_destination_the_pod_wins() {
    let fib = state("three claims on one destination").fib;
    let routes: Vec<(String, Route)> =
        fib.into_iter().map(|(prefix, route)| (prefix.to_string(), route)).collect();
    assert_eq!(
        routes,
        [
            ("10.244.9.0/26".to_owned(), Route::Blackhole),
            ("10.244.9.0/32".to_owned(), Route::Pod { ifindex: 9 }),
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_walk_ends_where_a_computation_from_nothing_does(
        walk in prop::collection::vec((0..10_usize, any::<u64>(), any::<bool>()), 1..8),
    ) {
        let states = states();
        let mut graph = Graph::new("node1");
        graph.apply(Input::LearnedAll);
        let (mut desired, mut here) = (Desired::default(), World::default());
        for (index, seed, flush_each) in walk {
            let (name, there) = &states[index];
            let mut inputs = here.towards(there);
            inputs.extend(here.towards(there));
            shuffle(&mut inputs, seed);
            for input in inputs {
                graph.apply(input);
                if flush_each {
                    desired.apply(graph.flush());
                }
            }
            desired.apply(graph.flush());
            let mut fresh = Graph::new("node1");
            World::default().towards(there).into_iter().for_each(|input| fresh.apply(input));
            prop_assert_eq!(&desired, &fresh.desired(), "in the state {:?}", name);
            prop_assert_eq!(graph.flush(), Delta::default(), "nothing is left to do in {:?}", name);
            here = there.clone();
        }
    }
}

/// Fisher and Yates, by a generator small enough to read.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for last in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (seed >> 33) as usize % (last + 1));
    }
}

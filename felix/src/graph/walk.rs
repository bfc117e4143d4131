//! From any state to any other: whatever the way, what the deltas add up to is what is computed from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manx_bgp::api::{AsnRange, Config, Match, Outcome, PeerConfig, PrefixRange, Rule, Verdict};
use manx_bgp::types::{Asn, Prefix, RouterId};
use manx_ipam::cidr::Family;
use proptest::prelude::*;

use super::*;
use crate::dataplane::Route;
use crate::dataplane::next_hops::NextHops;
use crate::model::labels::Labels;
use crate::model::service::{Endpoints, Marks, ServiceAddresses, ServiceRange, TrafficPolicy, Unassigned};
use crate::model::{Bad, FilterRule, Mesh, Neighbour, SecretKey, Source};
use crate::watch;

/// All there is to know, at one time.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    nodes: BTreeMap<String, Node>,
    bgp: Option<BgpConfig>,
    peers: BTreeMap<String, Peer>,
    filters: BTreeMap<String, Filter>,
    secrets: BTreeMap<String, Known>,
    topology: Topology,
    blocks: BTreeSet<Prefix>,
    unexported: BTreeSet<Prefix>,
    parts: BTreeSet<Prefix>,
    pods: BTreeMap<IpAddr, u32>,
    learned: BTreeMap<Prefix, NextHops>,
    pools: PoolRanges,
    services: BTreeMap<Arc<str>, Arc<Service>>,
    slices: BTreeMap<Arc<str>, Slice>,
}

impl World {
    /// The inputs that lead from this world to another.
    fn towards(&self, to: &World) -> Vec<Input> {
        fn names<K: Ord + Clone, V>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
            a.keys().chain(b.keys()).cloned().collect()
        }
        let mut inputs = vec![Input::Bgp(to.bgp.clone()), Input::Pools(to.pools.clone())];
        inputs.extend(
            names(&self.nodes, &to.nodes)
                .into_iter()
                .map(|name| Input::Node(name.clone(), to.nodes.get(&name).cloned().map(Arc::new))),
        );
        inputs.extend(
            names(&self.peers, &to.peers)
                .into_iter()
                .map(|name| Input::Peer(name.clone(), to.peers.get(&name).cloned())),
        );
        inputs.extend(
            names(&self.filters, &to.filters)
                .into_iter()
                .map(|name| Input::Filter(name.clone(), to.filters.get(&name).cloned())),
        );
        inputs.extend(
            names(&self.secrets, &to.secrets)
                .into_iter()
                .map(|name| Input::Secret(name.clone(), to.secrets.get(&name).cloned())),
        );
        inputs.push(Input::Topology(to.topology.clone()));
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
        let services = names(&self.services, &to.services).into_iter();
        inputs.extend(services.map(|name| Input::Service(name.clone(), to.services.get(&name).cloned())));
        let slices = names(&self.slices, &to.slices).into_iter();
        inputs.extend(slices.map(|name| Input::Slice(name.clone(), to.slices.get(&name).cloned())));
        inputs
    }
}

fn node(ipv4: Option<&str>, ipv6: Option<&str>, rack: &str) -> Node {
    Node {
        uid: String::new(),
        exhausted: None,
        labels: [("rack", rack)].into_iter().collect(),
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
        neighbour: Neighbour::One,
        settings: Box::new(PeerConfig::new(address.parse().unwrap(), Asn(65001))),
        hold_time: None,
        connect_retry: None,
        graceful_restart: None,
        source: Source::Node,
        password: None,
        tcp_ao: Vec::new(),
        filters: Vec::new(),
    }
}

/// Nodes of this rack reflect for all others.
fn reflectors(rack: &str, cluster: &str) -> Peer {
    let everybody = peer("192.0.2.99", None);
    let Peer { nodes: selector, .. } = peer("192.0.2.99", Some(rack));
    let cluster = Some(RouterId(cluster.parse().unwrap()));
    let settings = Box::default();
    Peer { neighbour: Neighbour::Nodes { selector, cluster }, settings, ..everybody }
}

fn range(prefix: &str, password: Option<SecretKey>) -> Peer {
    let neighbour = Neighbour::Range {
        prefix: prefix.parse().unwrap(),
        asns: vec![AsnRange::from(Asn(65200))],
        limit: 5,
    };
    Peer { neighbour, settings: Box::default(), password, ..peer("192.0.2.99", None) }
}

/// Refuses and hands on what begins in one range.
fn filter() -> Filter {
    let rule = |verdict| {
        let matches = Match { next_hop: vec![prefix("192.0.2.0/24")], ..Match::default() };
        let then = manx_bgp::api::Then { verdict, ..Default::default() };
        FilterRule { interface: None, rule: Rule { name: "f".to_owned(), matches, then } }
    };
    Filter { import: vec![rule(Outcome::Reject)], export: vec![rule(Outcome::Accept)] }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn hops(list: &[&str]) -> NextHops {
    addresses(list).into_iter().collect()
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
            (prefix("10.244.9.0/26"), hops(&["192.0.2.12"])),
            (prefix("0.0.0.0/0"), hops(&["192.0.2.1", "192.0.2.2"])),
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
    let no_mesh = World { bgp: Some(BgpConfig { mesh: Mesh::None, ..BgpConfig::default() }), ..full.clone() };
    let claims = World {
        pods: [("10.244.9.0".parse().unwrap(), 9)].into(),
        blocks: [prefix("10.244.9.0/32"), prefix("10.244.9.0/26")].into(),
        learned: [
            (prefix("10.244.9.0/32"), hops(&["192.0.2.12"])),
            (prefix("10.244.9.0/26"), hops(&["192.0.2.12"])),
        ]
        .into(),
        ..rack()
    };
    let hidden = World {
        unexported: [prefix("10.244.0.0/16")].into(),
        parts: [prefix("10.244.3.96/28")].into(),
        ..full.clone()
    };
    let mut selected = full.clone();
    selected.peers = [("reflectors".to_owned(), reflectors("a", "192.0.2.1"))].into();
    selected.nodes.insert("node4".to_owned(), node(Some("192.0.2.14"), None, "b"));
    let bgp = |mesh| Some(BgpConfig { mesh, ..BgpConfig::default() });
    selected.bgp = bgp(Mesh::None);
    let mut two_clusters = selected.clone();
    two_clusters.peers.insert("second".to_owned(), reflectors("a", "192.0.2.2"));
    let topology = Topology { with: Some(["node3".to_owned()].into()), reflecting: false };
    let elected = World { topology, bgp: bgp(Mesh::Auto { limit: 1, reflectors: 1 }), ..full.clone() };
    let topology = Topology { with: None, reflecting: true };
    let reflecting = World { topology, ..elected.clone() };
    let mut racks = World { bgp: bgp(Mesh::Full), ..full.clone() };
    racks.nodes.get_mut("node3").unwrap().asn = Some(Asn(65103));
    let mut apart = racks.clone();
    apart.bgp = bgp(Mesh::Auto { limit: 100, reflectors: 3 });
    let key = |key: &str| Some(SecretKey { name: "tors".to_owned(), key: key.to_owned() });
    let mut locked = full.clone();
    locked.peers.get_mut("tor1").unwrap().password = key("password");
    locked.peers.get_mut("tor2").unwrap().password = key("other");
    let keys = watch::Keys::from([("password".to_owned(), "hush".to_owned().into())]);
    let unlocked = World {
        secrets: [("tors".to_owned(), Known { keys: Some(keys), fault: None })].into(),
        ..locked.clone()
    };
    let mut filtered = full.clone();
    filtered.peers.get_mut("tor1").unwrap().filters = vec!["both".to_owned()];
    filtered.peers.get_mut("tor2").unwrap().filters = vec!["both".to_owned(), "missing".to_owned()];
    filtered.filters.insert("both".to_owned(), filter());
    let mut timed = full.clone();
    let configured = BgpConfig { hold_time: 30, send_hold_time: Some(60), ..BgpConfig::default() };
    timed.bgp = Some(configured);
    let tor1 = timed.peers.get_mut("tor1").unwrap();
    (tor1.settings.bilateral, tor1.settings.keepalive) = (true, Some(11));
    let tor2 = timed.peers.get_mut("tor2").unwrap();
    (tor2.hold_time, tor2.settings.send_hold_time) = (Some(60), Some(90));
    let mut inside = peer("192.0.2.4", None);
    (inside.settings.asn, inside.settings.bilateral) = (Asn(64512), true);
    (inside.hold_time, inside.settings.send_hold_time) = (None, Some(30));
    timed.peers.insert("inside".to_owned(), inside);
    let mut ranges = full.clone();
    ranges.peers.insert("pods".to_owned(), range("10.244.3.64/26", None));
    ranges.peers.insert("rack".to_owned(), range("192.0.2.0/24", key("password")));
    ranges.secrets.clone_from(&unlocked.secrets);
    let serving = with_services(full.clone());
    let mut unready = serving.clone();
    unready.nodes.get_mut("node2").unwrap().ready = true;
    let mut excluded = serving.clone();
    let label = ("node.kubernetes.io/exclude-from-external-load-balancers", "");
    excluded.nodes.get_mut("node1").unwrap().labels = [label].into_iter().collect();
    let mut selective = serving.clone();
    let rules = &mut selective.bgp.as_mut().unwrap().services;
    rules.selector = [Requirement::Exists("announce".into())].into_iter().collect();
    rules.unassigned = Unassigned::Reject;
    vec![
        ("reflectors selected by label", selected),
        ("reflectors of two clusters", two_clusters),
        ("an elected reflector", elected),
        ("elected to reflect", reflecting),
        ("a mesh over two ASes", racks),
        ("two ASes that mesh by themselves", apart),
        ("passwords that are not known", locked),
        ("passwords of a Secret", unlocked),
        ("filters", filtered),
        ("timers", timed),
        ("ranges", ranges),
        ("Services", serving),
        ("Services, and another node is Ready", unready),
        ("Services, and this node is kept out", excluded),
        ("Services of a label", selective),
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

fn service(ingress: &[&str], external: TrafficPolicy) -> Service {
    Service {
        uid: "".into(),
        version: String::new(),
        labels: Labels::default(),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ingress: addresses(ingress),
        internal: TrafficPolicy::Cluster,
        external,
        marks: Ok(Marks::default()),
        balancer: None,
    }
}

fn slice(service: &str, family: Family, here: Endpoints, anywhere: Endpoints) -> Slice {
    Slice { service: service.into(), family, here, anywhere: anywhere.and(here) }
}

const READY: Endpoints = Endpoints { ready: true, ending: false };
const ENDING: Endpoints = Endpoints { ready: false, ending: true };
const NONE: Endpoints = Endpoints { ready: false, ending: false };

/// Services of every kind: of pools and ranges, with endpoints here, there and nowhere.
fn with_services(world: World) -> World {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    let marked = Marks {
        communities: vec!["64512:7".parse().unwrap(), "64512:1:2".parse().unwrap()],
        local_pref: Some(200),
    };
    let dns = Service {
        cluster_ips: addresses(&["10.96.0.10", "fd00:96::a"]),
        internal: local,
        labels: [("announce", "")].into_iter().collect(),
        ..service(&[], cluster)
    };
    let web = Service {
        cluster_ips: addresses(&["10.96.0.80"]),
        external_ips: addresses(&["203.0.113.80", "192.0.2.11"]),
        marks: Ok(marked.clone()),
        ..service(&["198.51.100.1", "fd00:100::1"], cluster)
    };
    let shared = Marks { communities: vec!["64512:8".parse().unwrap()], local_pref: None };
    let services = [
        ("kube-system/dns", dns),
        ("shop/web", web),
        ("shop/web-udp", Service { marks: Ok(shared), ..service(&["198.51.100.1"], local) }),
        ("shop/local", service(&["198.51.100.2"], local)),
        ("shop/elsewhere", service(&["198.51.100.3"], local)),
        ("shop/ending", service(&["198.51.100.4"], local)),
        ("shop/replaced", service(&["198.51.100.5"], local)),
        ("shop/empty", service(&["198.51.100.6"], cluster)),
        ("shop/hidden", service(&["198.51.101.1"], cluster)),
        ("shop/foreign", service(&["203.0.114.1"], cluster)),
        (
            "shop/unreadable",
            Service { marks: Err(Bad::new("InvalidAnnotation", "")), ..service(&["198.51.100.8"], cluster) },
        ),
    ];
    let (ipv4, ipv6) = (Family::Ipv4, Family::Ipv6);
    let slices = [
        ("kube-system/dns-4", slice("kube-system/dns", ipv4, READY, NONE)),
        ("kube-system/dns-6", slice("kube-system/dns", ipv6, NONE, READY)),
        ("shop/web-4", slice("shop/web", ipv4, NONE, READY)),
        ("shop/web-6", slice("shop/web", ipv6, NONE, NONE)),
        ("shop/web-udp-4", slice("shop/web-udp", ipv4, READY, NONE)),
        ("shop/local-a", slice("shop/local", ipv4, NONE, READY)),
        ("shop/local-b", slice("shop/local", ipv4, READY, NONE)),
        ("shop/elsewhere-4", slice("shop/elsewhere", ipv4, NONE, READY)),
        ("shop/ending-4", slice("shop/ending", ipv4, ENDING, NONE)),
        ("shop/replaced-4", slice("shop/replaced", ipv4, ENDING, READY)),
        ("shop/hidden-4", slice("shop/hidden", ipv4, READY, NONE)),
        ("shop/foreign-4", slice("shop/foreign", ipv4, READY, NONE)),
        ("shop/unreadable-4", slice("shop/unreadable", ipv4, READY, NONE)),
        ("shop/orphan", slice("shop/orphan", ipv4, READY, NONE)),
    ];
    let range = |text: &str, aggregate| ServiceRange { prefix: prefix(text), aggregate };
    let rules = ServiceAddresses {
        ranges: vec![
            range("10.96.0.0/12", true),
            range("10.244.0.0/16", true),
            range("203.0.113.0/24", false),
            range("fd00:96::/108", true),
        ],
        ..ServiceAddresses::default()
    };
    World {
        bgp: Some(BgpConfig { services: rules, ..BgpConfig::default() }),
        pools: PoolRanges {
            pods: [prefix("10.244.0.0/16")].into(),
            services: [prefix("198.51.100.0/24"), prefix("198.51.101.0/24"), prefix("fd00:100::/112")].into(),
            announced: [prefix("198.51.100.0/24"), prefix("fd00:100::/112")].into(),
        },
        services: services.map(|(name, service)| (name.into(), Arc::new(service))).into(),
        slices: slices.map(|(name, slice)| (name.into(), slice)).into(),
        ..world
    }
}

/// What is announced beside blocks, with communities and preference.
fn announced(name: &str) -> Vec<String> {
    let networks = orders(name).networks.into_iter().filter(|network| {
        !prefix("10.244.0.0/16").covers(network.prefix) && !prefix("fd00:10:244::/48").covers(network.prefix)
    });
    let said = networks.map(|network| {
        let preference = network.local_pref.map(|preference| format!(" {preference}")).unwrap_or_default();
        let communities = network.communities.iter().map(|community| format!(" {community}"));
        format!("{}{}{preference}", network.prefix, communities.collect::<String>())
    });
    said.collect()
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
fn own_blocks_are_refused_and_a_default_route_unless_it_is_wanted() {
    for peer in orders("a node with everything").peers {
        let Some(import) = peer.import else { panic!("{} imports by default", peer.name) };
        let except = &import.rules[0].matches.prefixes;
        let refused = |text: &str| except.iter().any(|refused| refused.prefix().covers(prefix(text)));
        assert!(!peer.accept_default_route, "{}", peer.name);
        for text in ["10.244.3.64/26", "10.244.3.70/32"] {
            assert!(refused(text), "{text} from {}", peer.name);
        }
        for text in ["10.244.9.0/26", "fd00:10:244::/64"] {
            assert!(!refused(text), "{text} from {}", peer.name);
        }
    }
}

#[test]
fn what_a_neighbour_says_goes_before_what_the_configuration_says_and_what_does_not_fit_is_told() {
    let Speaking { orders, problems } = state("timers").speaker;
    let peers = orders.unwrap().peers;
    let timers = |name: &str| {
        let peer = peers.iter().find(|peer| peer.name == name).unwrap();
        (peer.hold_time, peer.keepalive, peer.send_hold_time, peer.bilateral)
    };
    assert_eq!(timers("node2"), (30, None, Some(60), false));
    assert_eq!(timers("tor1"), (30, None, Some(60), true));
    assert_eq!(timers("tor2"), (60, None, Some(90), false));
    assert_eq!(timers("inside"), (30, None, None, false));
    let told: Vec<_> = problems.iter().map(|problem| (problem.object.as_str(), &problem.message)).collect();
    let says =
        |words: &str| told.iter().find(|(_, message)| message.contains(words)).map(|(object, _)| *object);
    assert_eq!(says("11 is not 1 to a third of the hold time, which is 30"), Some("BGPPeer/tor1"));
    assert_eq!(says("30 is not more than the hold time, which is 30"), Some("BGPPeer/inside"));
    assert_eq!(says("bilateral is for neighbours of other ASes"), Some("BGPPeer/inside"));
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn a_service_address_is_announced_where_it_can_be_served() {
    assert_eq!(
        announced("Services"),
        [
            "10.96.0.0/12",
            // Local, with an endpoint here; web's cluster address is in the range that is announced whole.
            "10.96.0.10/32",
            // Of two Services, with what is said of both.
            "198.51.100.1/32 64512:1:2 64512:7 64512:8 200",
            "198.51.100.2/32",
            // Its only endpoint ends, and serves; replaced's has a ready one elsewhere.
            "198.51.100.4/32",
            // An external address of a range; the other one is a node's.
            "203.0.113.80/32 64512:1:2 64512:7 200",
            // The endpoint of its family is on another node; and web has none of this family.
            "fd00:96::/108",
        ]
    );
    assert_eq!(announced("Services of a label"), ["10.96.0.0/12", "10.96.0.10/32", "fd00:96::/108"]);
}

#[test]
fn a_node_that_is_out_of_service_announces_no_service_and_says_why() {
    for (name, why) in [
        ("Services, and another node is Ready", "is not Ready"),
        ("Services, and this node is kept out", "exclude-from-external-load-balancers"),
    ] {
        assert_eq!(announced(name), [""; 0], "{name}");
        let problems = state(name).speaker.problems;
        assert!(problems.iter().any(|problem| problem.message.contains(why)), "{problems:?}");
    }
}

#[test]
fn a_range_with_pods_is_not_announced_whole_nor_held_up_and_no_node_is() {
    let Desired { speaker, guard, .. } = state("Services");
    let problem = &speaker.problems[0];
    assert!(problem.message.contains("10.244.0.0/16 has addresses of an IPPool for pods"), "{problem:?}");
    let ranges: Vec<String> = guard.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(
        ranges,
        ["10.96.0.0/12", "198.51.100.0/24", "198.51.101.0/24", "fd00:96::/108", "fd00:100::/112"]
    );
    assert_eq!(state("Services of a label").guard.unassigned, Unassigned::Reject);
}

#[test]
fn nodes_are_not_told_of_service_addresses_and_other_neighbours_are() {
    for peer in orders("Services").peers {
        let rules = peer.export.unwrap().rules;
        let kept: Vec<_> = rules.iter().filter(|rule| rule.then.verdict == Outcome::Reject).collect();
        if peer.name.starts_with("node") {
            let (ranges, hosts): (Vec<PrefixRange>, Vec<PrefixRange>) = kept[0]
                .matches
                .prefixes
                .iter()
                .partition(|range| range.lengths().0 == range.prefix().length());
            assert_eq!((ranges.len(), hosts.len()), (6, 6), "{}", peer.name);
            assert!(hosts.iter().all(|range| range.lengths().0 == range.prefix().family().width()));
        } else {
            assert_eq!(kept, [] as [&manx_bgp::api::Rule; 0], "{}", peer.name);
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
fn nodes_selected_by_label_reflect_and_the_others_peer_with_them_alone() {
    let selected = orders("reflectors selected by label");
    assert_eq!(neighbours(&selected).len(), 3, "this node is in the rack of the reflectors");
    assert_eq!(selected.cluster_id, Some(RouterId([192, 0, 2, 1].into())));
    for peer in &selected.peers {
        assert_eq!(peer.route_reflector_client, peer.name != "node2", "{}", peer.name);
        assert!(peer.export.as_ref().unwrap().takes_learned(), "{}", peer.name);
        assert_eq!(peer.asn, Asn(64512));
    }
    let (_, world) = states().into_iter().find(|(name, _)| *name == "reflectors selected by label").unwrap();
    let mut graph = Graph::new("node4");
    World::default().towards(&world).into_iter().for_each(|input| graph.apply(input));
    let client = graph.desired().speaker.orders.unwrap();
    let names: Vec<&str> = client.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names, ["node1", "node2"]);
    assert!(client.peers.iter().all(|peer| !peer.route_reflector_client && peer.import.is_some()));
    assert!(!client.peers[0].export.as_ref().unwrap().takes_learned() && client.cluster_id.is_none());
}

#[test]
fn a_node_reflects_as_one_cluster() {
    let Speaking { orders, problems } = state("reflectors of two clusters").speaker;
    assert_eq!(orders.unwrap().cluster_id, Some(RouterId([192, 0, 2, 1].into())));
    assert!(problems.iter().any(|problem| problem.object == "BGPPeer/second"), "{problems:?}");
}

#[test]
fn a_node_peers_with_elected_reflectors_and_reflects_without_a_new_session() {
    let names =
        |config: &Config| -> Vec<String> { config.peers.iter().map(|peer| peer.name.clone()).collect() };
    assert_eq!(names(&orders("an elected reflector")), ["tor1", "tor2", "node3"]);
    let reflecting = orders("elected to reflect");
    assert_eq!(names(&reflecting), ["tor1", "node2", "tor2", "node3"]);
    let meshed = orders("a node with everything");
    for (before, after) in meshed.peers.iter().zip(&reflecting.peers) {
        let node = after.name.starts_with("node");
        assert_eq!(after.export.as_ref().unwrap().takes_learned(), node, "{}", after.name);
        assert_eq!(
            *before,
            PeerConfig { export: before.export.clone(), ..after.clone() },
            "only the policy differs"
        );
    }
}

#[test]
fn nodes_of_several_ases_peer_where_the_mesh_is_full_and_else_leave_that_to_routers() {
    let full = orders("a mesh over two ASes");
    let node3 = full.peers.iter().find(|peer| peer.name == "node3").unwrap();
    assert_eq!((node3.asn, node3.route_reflector_client), (Asn(65103), false));
    let apart = orders("two ASes that mesh by themselves");
    assert!(!apart.peers.iter().any(|peer| peer.name == "node3"));
}

#[test]
fn a_session_without_its_password_is_not_opened() {
    let Speaking { orders, problems } = state("passwords that are not known").speaker;
    assert!(!orders.unwrap().peers.iter().any(|peer| peer.name.starts_with("tor")));
    assert_eq!(problems.len(), 2, "{problems:?}");
    let Speaking { orders, problems } = state("passwords of a Secret").speaker;
    let orders = orders.unwrap();
    let tors: Vec<_> = orders.peers.iter().filter(|peer| peer.name.starts_with("tor")).collect();
    assert_eq!((tors.len(), tors[0].password.as_ref().unwrap().reveal()), (1, "hush"));
    assert!(problems[0].message.contains("has no key \"other\""), "{problems:?}");
}

#[test]
fn filters_come_behind_what_always_holds_and_a_missing_one_closes_the_session_to_routes() {
    let Speaking { orders, problems } = state("filters").speaker;
    let orders = orders.unwrap();
    let of = |name: &str| orders.peers.iter().find(|peer| peer.name == name).unwrap();
    let names = |policy: &Option<manx_bgp::api::Policy>| -> Vec<String> {
        policy.as_ref().unwrap().rules.iter().map(|rule| rule.name.clone()).collect()
    };
    assert_eq!(names(&of("tor1").import), ["our own blocks", "f"]);
    assert_eq!(names(&of("tor1").export), ["f", ""]);
    for policy in [&of("tor2").import, &of("tor2").export] {
        let policy = policy.as_ref().unwrap();
        assert_eq!((policy.rules.len(), policy.default), (0, Verdict::Reject));
    }
    assert!(problems[0].message.contains("no BGPFilter missing"), "{problems:?}");
}

#[test]
fn a_range_with_a_password_around_a_neighbour_without_is_not_used() {
    let Speaking { orders, problems } = state("ranges").speaker;
    let ranges = orders.unwrap().ranges;
    assert_eq!(ranges.iter().map(|range| range.settings.name.as_str()).collect::<Vec<_>>(), ["pods"]);
    assert_eq!((ranges[0].limit, ranges[0].settings.address.is_unspecified()), (5, true));
    assert!(
        problems[0].object == "BGPPeer/rack" && problems[0].message.contains("other keys"),
        "{problems:?}"
    );
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
        walk in prop::collection::vec((0..states().len(), any::<u64>(), any::<bool>()), 1..8),
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

//! A cluster at one time, made at random and small: few labels, few ports and few addresses, so that much meets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::super::{Attached, NodeAddresses, PolicyInput};
use crate::acl::ruleset::Ifname;
use crate::cluster_network_policy::ClusterNetworkPolicy;
use crate::model::labels::Interner;
use crate::model::policy::PolicyName;
use crate::watch::policy as convert;

/// All there is to know.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub namespaces: BTreeMap<String, v1::Namespace>,
    pub pods: BTreeMap<String, v1::Pod>,
    pub nodes: BTreeMap<String, Node>,
    pub network_policies: BTreeMap<String, NetworkPolicy>,
    pub cluster_policies: BTreeMap<String, ClusterNetworkPolicy>,
    /// Pods attached on the node "n1", by `namespace/name`, with their addresses.
    pub attached: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub labels: BTreeMap<String, String>,
    pub addresses: BTreeSet<IpAddr>,
}

impl World {
    /// The pod a packet with this address is about: neither ended nor on the node's network; of two the one that holds
    /// it here, or the younger.
    pub fn pod_at(&self, address: IpAddr) -> Option<&v1::Pod> {
        if let Some((name, _)) = self.attached.iter().find(|(_, addresses)| addresses.contains(&address)) {
            return self.pods.get(name).filter(|pod| lives(pod));
        }
        let holds = |pod: &&v1::Pod| {
            let ips = pod.status.as_ref().unwrap().pod_ips.iter().flatten();
            lives(pod) && ips.map(|ip| ip.ip.parse::<IpAddr>().unwrap()).any(|ip| ip == address)
        };
        self.pods.values().filter(holds).max_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().unwrap().0;
            (created, pod.metadata.uid.clone(), pod.metadata.namespace.clone(), pod.metadata.name.clone())
        })
    }

    pub fn namespace_matches(&self, name: &str, selects: impl Fn(&BTreeMap<String, String>) -> bool) -> bool {
        self.namespaces.get(name).is_some_and(|namespace| {
            let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            selects(&labels)
        })
    }

    /// The inputs that lead from this world to another.
    pub fn towards(&self, to: &World) -> Vec<PolicyInput> {
        fn names<'a, V, W>(a: &'a BTreeMap<String, V>, b: &'a BTreeMap<String, W>) -> BTreeSet<&'a String> {
            a.keys().chain(b.keys()).collect()
        }
        let mut interner = Interner::default();
        let mut inputs = Vec::new();
        for name in names(&self.namespaces, &to.namespaces) {
            let namespace = to.namespaces.get(name);
            let namespace = namespace.map(|namespace| convert::namespace(namespace, &mut interner));
            inputs.push(PolicyInput::Namespace(name.as_str().into(), namespace));
        }
        for name in names(&self.pods, &to.pods) {
            let pod = to.pods.get(name).and_then(|pod| convert::pod(pod, &mut interner));
            inputs.push(PolicyInput::Pod(name.as_str().into(), pod));
        }
        for name in names(&self.nodes, &to.nodes) {
            let node = to.nodes.get(name).map(|node| NodeAddresses {
                labels: interner.labels(&node.labels),
                addresses: node.addresses.clone(),
            });
            inputs.push(PolicyInput::Node(name.as_str().into(), node));
        }
        for name in names(&self.network_policies, &to.network_policies) {
            let policy = to.network_policies.get(name).cloned();
            let policy = policy.and_then(|policy| convert::network_policy(policy).spec.ok()).map(Arc::new);
            inputs.push(PolicyInput::Policy(PolicyName::Network(name.as_str().into()), policy));
        }
        for name in names(&self.cluster_policies, &to.cluster_policies) {
            let policy = to.cluster_policies.get(name).map(|policy| serde_json::to_value(policy).unwrap());
            let policy =
                policy.map(|policy| convert::cluster_network_policy(serde_json::from_value(policy).unwrap()));
            let policy = policy.map(|policy| Arc::new(policy.spec.unwrap()));
            inputs.push(PolicyInput::Policy(PolicyName::Cluster(name.as_str().into()), policy));
        }
        // Addresses are handed out again only when they are free.
        for (name, addresses) in &self.attached {
            if to.attached.get(name) != Some(addresses) {
                inputs.push(PolicyInput::Endpoint(ifname(name), None));
            }
        }
        for (name, addresses) in &to.attached {
            let uid = to.pods.get(name).and_then(|pod| pod.metadata.uid.as_deref()).unwrap_or_default();
            let attached = Attached {
                pod: Some(name.as_str().into()),
                uid: uid.into(),
                addresses: addresses.clone(),
                restored: false,
            };
            inputs.push(PolicyInput::Endpoint(ifname(name), Some(attached)));
        }
        inputs
    }
}

pub fn ifname(pod: &str) -> Ifname {
    Ifname(format!("manx{pod}").into())
}

pub fn lives(pod: &v1::Pod) -> bool {
    let ended = matches!(pod.status.as_ref().unwrap().phase.as_deref(), Some("Succeeded" | "Failed"));
    !ended && pod.spec.as_ref().unwrap().host_network != Some(true)
}

/// A generator small enough to read (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn list(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> Value) -> Vec<Value> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 4] = [80, 81, 82, 8080];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NAMES: [&str; 3] = ["web", "dns", "metrics"];
const CIDRS: [&str; 9] = [
    "10.0.0.0/8",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "10.0.0.2/32",
    "0.0.0.0/0",
    "fd00::/64",
    "fd00::4/126",
    "::/0",
    "192.0.2.0/24",
];

/// Addresses packets have: pods', nodes', and others'.
pub fn addresses() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = (1..=10).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    all.extend((1..=10).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])));
    all.extend(
        ["192.0.2.1", "192.0.2.2", "2001:db8::1", "198.51.100.9"]
            .map(|address| address.parse::<IpAddr>().unwrap()),
    );
    all
}

fn labels(dice: &mut Dice) -> Value {
    let mut labels = serde_json::Map::new();
    for key in ["pod", "app"] {
        if !dice.one_in(3) {
            labels.insert(key.to_owned(), dice.one_of(&PODS).into());
        }
    }
    labels.into()
}

fn namespace_labels(dice: &mut Dice) -> Value {
    let mut labels = serde_json::Map::new();
    if !dice.one_in(3) {
        labels.insert("team".to_owned(), dice.one_of(&NAMESPACES).into());
    }
    labels.into()
}

fn selector(dice: &mut Dice, keys: &[&str], values: &[&str]) -> Value {
    match dice.below(5) {
        0 => json!({}),
        1 | 2 => json!({ "matchLabels": { dice.one_of(keys): dice.one_of(values) } }),
        _ => {
            let expressions = dice.list(2, |dice| {
                let operator = dice.one_of(&["In", "NotIn", "Exists", "DoesNotExist"]);
                let values = match operator {
                    "In" | "NotIn" => vec![dice.one_of(values), dice.one_of(values)],
                    _ => vec![],
                };
                json!({ "key": dice.one_of(keys), "operator": operator, "values": values })
            });
            json!({ "matchExpressions": expressions })
        }
    }
}

fn pods(dice: &mut Dice) -> Value {
    selector(dice, &["pod", "app"], &PODS)
}

fn namespaces(dice: &mut Dice) -> Value {
    selector(dice, &["team", "kubernetes.io/metadata.name"], &NAMESPACES)
}

fn np_peer(dice: &mut Dice) -> Value {
    match dice.below(6) {
        0 => json!({ "podSelector": pods(dice) }),
        1 => json!({ "namespaceSelector": namespaces(dice) }),
        2 | 3 => json!({ "podSelector": pods(dice), "namespaceSelector": namespaces(dice) }),
        4 => json!({ "ipBlock": { "cidr": dice.one_of(&CIDRS) } }),
        _ => {
            let cidr = dice.one_of(&CIDRS);
            let except: Vec<&str> = (0..2)
                .map(|_| dice.one_of(&CIDRS))
                .filter(|except| except.contains(':') == cidr.contains(':'))
                .collect();
            json!({ "ipBlock": { "cidr": cidr, "except": except } })
        }
    }
}

fn np_port(dice: &mut Dice) -> Value {
    let mut port = json!({});
    if !dice.one_in(3) {
        port["protocol"] = dice.one_of(&PROTOCOLS).into();
    }
    match dice.below(4) {
        0 => {}
        1 => port["port"] = dice.one_of(&NAMES).into(),
        2 => port["port"] = dice.one_of(&PORTS).into(),
        _ => (port["port"], port["endPort"]) = (80.into(), dice.one_of(&[80, 81, 9000]).into()),
    }
    port
}

fn annotations(dice: &mut Dice) -> Value {
    if dice.one_in(6) { json!({ "manx.io/policy-mode": "audit" }) } else { json!({}) }
}

fn network_policy(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let mut spec = json!({ "podSelector": pods(dice) });
    let types = dice.one_of(&[vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    spec["policyTypes"] = types.into();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        if !dice.one_in(3) {
            spec[list] = dice
                .list(2, |dice| json!({ peers: dice.list(2, np_peer), "ports": dice.list(2, np_port) }))
                .into();
        }
    }
    json!({ "metadata": { "namespace": namespace, "name": name, "annotations": annotations(dice) }, "spec": spec })
}

fn cnp_peer(dice: &mut Dice, egress: bool) -> Value {
    match dice.below(if egress { 7 } else { 3 }) {
        0 => json!({ "namespaces": namespaces(dice) }),
        1 | 2 => json!({ "pods": { "namespaceSelector": namespaces(dice), "podSelector": pods(dice) } }),
        3 => json!({ "nodes": selector(dice, &["zone"], &["1", "2"]) }),
        4 | 5 => json!({ "networks": [dice.one_of(&CIDRS), dice.one_of(&CIDRS)] }),
        _ if dice.one_in(3) => json!({ "domainNames": ["example.org"] }),
        _ => json!({ "namespaces": {} }),
    }
}

fn cnp_port(dice: &mut Dice) -> Value {
    let protocol = dice.one_of(&["tcp", "udp", "sctp"]);
    match dice.below(4) {
        0 => json!({ "destinationNamedPort": dice.one_of(&NAMES) }),
        1 => {
            json!({ protocol: { "destinationPort": { "range": { "start": 80, "end": dice.one_of(&[81, 9000]) } } } })
        }
        _ => json!({ protocol: { "destinationPort": { "number": dice.one_of(&PORTS) } } }),
    }
}

fn cluster_policy(dice: &mut Dice, name: &str) -> Value {
    let subject = match dice.below(2) {
        0 => json!({ "namespaces": namespaces(dice) }),
        _ => json!({ "pods": { "namespaceSelector": namespaces(dice), "podSelector": pods(dice) } }),
    };
    let mut spec = json!({
        "tier": dice.one_of(&["Admin", "Baseline"]),
        "priority": dice.below(3),
        "subject": subject,
    });
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        spec[list] = dice
            .list(3, |dice| {
                let mut all = vec![cnp_peer(dice, list == "egress")];
                all.extend(dice.list(1, |dice| cnp_peer(dice, list == "egress")));
                let action = dice.one_of(&["Accept", "Deny", "Pass"]);
                let mut rule = json!({ "action": action, peers: all });
                if dice.one_in(2) {
                    rule["protocols"] = json!([cnp_port(dice), cnp_port(dice)]);
                }
                rule
            })
            .into();
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name, "annotations": annotations(dice) }, "spec": spec,
    })
}

fn pod(dice: &mut Dice, namespace: &str, name: &str, number: u8) -> Value {
    // Now and then an address another has, too.
    let last = if dice.one_in(5) { 1 + dice.below(10) as u8 } else { number };
    let mut ips = vec![json!({ "ip": format!("10.0.0.{last}") })];
    if !dice.one_in(3) {
        ips.push(json!({ "ip": format!("fd00::{last:x}") }));
    }
    let ports = dice.list(3, |dice| {
        json!({ "name": dice.one_of(&NAMES), "containerPort": dice.one_of(&PORTS), "protocol": dice.one_of(&PROTOCOLS) })
    });
    json!({
        "metadata": {
            "namespace": namespace, "name": name, "labels": labels(dice), "uid": format!("u{}", dice.below(3)),
            "creationTimestamp": format!("2026-01-01T00:00:0{}Z", dice.below(3)),
        },
        "spec": {
            "nodeName": dice.one_of(&["n1", "n1", "n2"]), "hostNetwork": dice.one_in(12),
            "containers": [{ "name": "c", "ports": ports }],
        },
        "status": { "phase": if dice.one_in(10) { "Succeeded" } else { "Running" }, "podIPs": ips },
    })
}

/// A world by number: the same number is the same world.
pub fn world(seed: u64) -> World {
    let dice = &mut Dice(seed);
    let mut world = World::default();
    for (number, namespace) in NAMESPACES.into_iter().enumerate() {
        if !dice.one_in(8) {
            let object = json!({
                "metadata": { "name": namespace, "labels": namespace_labels(dice), "annotations": annotations(dice) },
            });
            world.namespaces.insert(namespace.to_owned(), from(object));
        }
        for (index, name) in PODS.into_iter().enumerate() {
            if dice.one_in(6) {
                continue;
            }
            let pod: v1::Pod = from(pod(dice, namespace, name, (number * PODS.len() + index + 1) as u8));
            world.pods.insert(format!("{namespace}/{name}"), pod);
        }
    }
    let mut taken = BTreeSet::new();
    for (name, pod) in &world.pods {
        let spec = pod.spec.as_ref().unwrap();
        let here = spec.node_name.as_deref() == Some("n1") && spec.host_network != Some(true);
        let ips = pod.status.as_ref().unwrap().pod_ips.iter().flatten();
        let ips: BTreeSet<IpAddr> = ips.map(|ip| ip.ip.parse().unwrap()).collect();
        if here && taken.is_disjoint(&ips) {
            taken.extend(ips.iter().copied());
            world.attached.insert(name.clone(), ips);
        }
    }
    for (name, zone, addresses) in
        [("n1", "1", vec!["192.0.2.1", "2001:db8::1"]), ("n2", "2", vec!["192.0.2.2"])]
    {
        let labels = [("zone".to_owned(), zone.to_owned())].into();
        let addresses = addresses.into_iter().map(|address| address.parse().unwrap()).collect();
        world.nodes.insert(name.to_owned(), Node { labels, addresses });
    }
    for number in 0..dice.below(6) {
        let namespace = dice.one_of(&NAMESPACES);
        let name = format!("np{number}");
        world
            .network_policies
            .insert(format!("{namespace}/{name}"), from(network_policy(dice, namespace, &name)));
    }
    for number in 0..dice.below(4) {
        let name = format!("cnp{number}");
        world.cluster_policies.insert(name.clone(), from(cluster_policy(dice, &name)));
    }
    world
}

fn from<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

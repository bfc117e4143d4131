//! The truth tables of `testbed/policies`, asked of the graph: what two nodes make of the same cluster.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

#[path = "../../testbed/policies/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use manx_felix::acl::Ruleset;
use manx_felix::acl::evaluate::{Flow, Transport};
use manx_felix::acl::ruleset::Ifname;
use manx_felix::graph::policy::{Attached, NodeAddresses, Policies, PolicyInput};
use manx_felix::model::labels::Interner;
use manx_felix::model::policy::PolicyName;
use manx_felix::watch::policy as convert;
use serde_json::{Value, json};

use crate::cases::{Case, NAMESPACES, Object, PODS, PORTS, PROTOCOLS, Packet, port_name};

const NODES: [&str; 2] = ["n1", "n2"];

/// A cluster as each of its nodes sees it.
struct Cluster {
    nodes: Vec<(Policies, Ruleset)>,
    interner: Interner,
}

impl Cluster {
    fn new() -> Self {
        let nodes = NODES.iter().map(|name| (Policies::new(name), Ruleset::default())).collect();
        let mut cluster = Self { nodes, interner: Interner::default() };
        for (index, node) in NODES.into_iter().enumerate() {
            let addresses = [IpAddr::from([192, 0, 2, index as u8])].into();
            let labels = [("node", node)].into_iter().collect();
            cluster.tell(PolicyInput::Node(node.into(), Some(NodeAddresses { labels, addresses })));
        }
        for namespace in NAMESPACES {
            cluster.put(&object(json!({ "namespace": namespace, "labels": { "ns": namespace } })));
            for pod in PODS {
                cluster
                    .put(&object(json!({ "pod": format!("{namespace}/{pod}"), "labels": { "pod": pod } })));
            }
        }
        for (pod, addresses) in pods() {
            let ifname = Ifname(format!("manx{pod}").into());
            let attached = Attached {
                pod: Some(pod.as_str().into()),
                uid: "".into(),
                addresses: addresses.into(),
                restored: false,
            };
            let (policies, _) = &mut cluster.nodes[home(&pod)];
            policies.apply(PolicyInput::Endpoint(ifname, Some(attached)));
        }
        cluster
    }

    fn tell(&mut self, input: PolicyInput) {
        for (policies, _) in &mut self.nodes {
            policies.apply(input.clone());
        }
    }

    fn put(&mut self, object: &Object) {
        let Object { np, cnp, namespace, pod, labels, annotations, .. } = object;
        let spec = addressed(&object.spec);
        if let Some(name) = np {
            let (namespace, short) = name.split_once('/').unwrap();
            let metadata = json!({ "namespace": namespace, "name": short, "annotations": annotations });
            let policy = from(json!({ "metadata": metadata, "spec": spec }));
            let policy = convert::network_policy(policy).spec.unwrap();
            assert!(policy.complaints.is_empty(), "{:?}", policy.complaints);
            self.tell(PolicyInput::Policy(PolicyName::Network(name.as_str().into()), Some(Arc::new(policy))));
        }
        if let Some(name) = cnp {
            let metadata = json!({ "name": name, "annotations": annotations });
            let policy = convert::cluster_network_policy(from(json!({ "metadata": metadata, "spec": spec })));
            let policy = Arc::new(policy.spec.unwrap());
            self.tell(PolicyInput::Policy(PolicyName::Cluster(name.as_str().into()), Some(policy)));
        }
        if let Some(name) = namespace {
            let metadata = json!({ "name": name, "labels": labels, "annotations": annotations });
            let namespace = convert::namespace(&from(json!({ "metadata": metadata })), &mut self.interner);
            self.tell(PolicyInput::Namespace(name.as_str().into(), Some(namespace)));
        }
        if let Some(name) = pod {
            let (namespace, short) = name.split_once('/').unwrap();
            let ports: Vec<Value> = PROTOCOLS
                .iter()
                .flat_map(|protocol| {
                    PORTS.map(|port| {
                        let name = port_name(*protocol, port);
                        json!({ "name": name, "containerPort": port, "protocol": protocol })
                    })
                })
                .collect();
            let ips: Vec<Value> = pods()[name.as_str()].iter().map(|ip| json!({ "ip": ip })).collect();
            let pod = from(json!({
                "metadata": { "namespace": namespace, "name": short, "labels": labels },
                "spec": { "nodeName": NODES[home(name)], "containers": [{ "name": "c", "ports": ports }] },
                "status": { "phase": "Running", "podIPs": ips },
            }));
            let pod = convert::pod(&pod, &mut self.interner);
            self.tell(PolicyInput::Pod(name.as_str().into(), pod));
        }
    }

    fn remove(&mut self, object: &Object) {
        let network = object.np.as_deref().map(|name| PolicyName::Network(name.into()));
        let cluster = object.cnp.as_deref().map(|name| PolicyName::Cluster(name.into()));
        for name in network.into_iter().chain(cluster) {
            self.tell(PolicyInput::Policy(name, None));
        }
    }

    fn settle(&mut self) {
        for (policies, ruleset) in &mut self.nodes {
            ruleset.apply(policies.flush());
        }
    }

    /// Whether the sender's node lets it out and the receiver's lets it in.
    fn passes(&self, packet: &Packet) -> bool {
        let Packet { from, to, family, protocol, port } = packet;
        let address = |pod: &str| pods()[pod][*family as usize];
        let transport = Transport::Port(*protocol, *port);
        let flow = Flow { source: address(from), destination: address(to), transport };
        let sender = Ifname(format!("manx{from}").into());
        let mut verdicts = self.nodes[home(from)].1.judge(Some(&sender), &flow);
        if home(from) != home(to) {
            verdicts.extend(self.nodes[home(to)].1.judge(None, &flow));
        }
        assert_eq!(verdicts.len(), 2, "each side has its say");
        verdicts.iter().all(|(_, verdict)| verdict.passes)
    }
}

/// Where a pod lives: of every namespace some here and some there.
fn home(pod: &str) -> usize {
    pods().keys().position(|name| name == pod).unwrap() % NODES.len()
}

fn pods() -> BTreeMap<String, [IpAddr; 2]> {
    let numbered = cases::pods().into_iter().zip(1..);
    numbered
        .map(|(name, number): (String, u16)| {
            let ipv6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]);
            (name, [IpAddr::from([10, 0, 0, number as u8]), ipv6])
        })
        .collect()
}

/// `{v4 x/a}` and `{v6 x/a}` are addresses.
fn addressed(spec: &Value) -> Value {
    let mut text = spec.to_string();
    for (name, [ipv4, ipv6]) in pods() {
        text = text.replace(&format!("{{v4 {name}}}"), &ipv4.to_string());
        text = text.replace(&format!("{{v6 {name}}}"), &ipv6.to_string());
    }
    serde_json::from_str(&text).unwrap()
}

fn object(json: Value) -> Object {
    from(json)
}

fn from<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn run(file: &str, at_least: usize) {
    let cases = cases::read(file);
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let (mut wrong, packets) = (Vec::new(), cases::packets());
    for Case { case, steps } in &cases {
        let mut cluster = Cluster::new();
        for (number, step) in steps.iter().enumerate() {
            step.remove.iter().for_each(|object| cluster.remove(object));
            step.put.iter().for_each(|object| cluster.put(object));
            cluster.settle();
            for packet in &packets {
                let expected = step.expects(packet);
                if expected.is_some_and(|expected| cluster.passes(packet) != expected) {
                    wrong.push(format!("{case}, step {number}: {packet:?}: not {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cyclonus_generates() {
    run("generated.yaml", 250);
}

#[test]
fn what_kubernetes_own_suite_expects() {
    run("kubernetes_e2e.yaml", 49);
}

#[test]
fn what_no_suite_pins_down() {
    run("rules.yaml", 12);
}

#[test]
fn what_the_conformance_suite_of_cluster_network_policies_expects() {
    run("cluster_network_policy.yaml", 12);
}

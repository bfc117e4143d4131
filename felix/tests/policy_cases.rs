//! The truth tables of `testbed/policies`, asked of the graph: what two nodes make of the same cluster.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use manx_felix::acl::Ruleset;
use manx_felix::acl::evaluate::{Flow, Transport};
use manx_felix::acl::ruleset::{Ifname, Protocol};
use manx_felix::graph::policy::{Attached, NodeAddresses, Policies, PolicyInput};
use manx_felix::model::labels::Interner;
use manx_felix::model::policy::PolicyName;
use manx_felix::watch::policy as convert;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    put: Vec<Object>,
    #[serde(default)]
    remove: Vec<Object>,
    expect: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    np: Option<String>,
    cnp: Option<String>,
    namespace: Option<String>,
    pod: Option<String>,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

const NODES: [&str; 2] = ["n1", "n2"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

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
        for namespace in NAMES {
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
            let ports: Vec<Value> = ["TCP", "UDP", "SCTP"]
                .iter()
                .flat_map(|protocol| {
                    [80, 81].map(|port| {
                        let name = format!("serve-{port}-{}", protocol.to_lowercase());
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
    fn passes(&self, from: &str, to: &str, family: usize, port: (Protocol, u16)) -> bool {
        let transport = Transport::Port(port.0, port.1);
        let flow = Flow { source: pods()[from][family], destination: pods()[to][family], transport };
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
    let names = NAMES.iter().flat_map(|namespace| PODS.map(|pod| format!("{namespace}/{pod}")));
    let numbered = names.zip(1..);
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

/// One line of a truth table.
struct Line {
    from: String,
    to: String,
    port: (Protocol, u16),
    passes: bool,
}

impl Line {
    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (from, to, port, passes) = match words.as_slice() {
            [from, "->", to, passes] => (from, to, "80/TCP", passes),
            [from, "->", to, port, passes] => (from, to, *port, passes),
            _ => panic!("\"{text}\" is no line of a truth table"),
        };
        let (number, protocol) = port.split_once('/').unwrap();
        let protocol = match protocol {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => panic!("{other}"),
        };
        let passes = match *passes {
            "yes" => true,
            "no" => false,
            other => panic!("{other} in \"{text}\""),
        };
        Self {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
            port: (protocol, number.parse().unwrap()),
            passes,
        }
    }

    fn is_about(&self, from: &str, to: &str) -> bool {
        let matches = |pattern: &str, pod: &str| match pattern.strip_suffix('*') {
            Some(prefix) => pod.starts_with(prefix),
            None => pattern == pod,
        };
        matches(&self.from, from) && matches(&self.to, to)
    }
}

fn run(file: &str, at_least: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbed/policies").join(file);
    let cases: Vec<Case> = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for Case { case, steps } in &cases {
        let mut cluster = Cluster::new();
        for (number, step) in steps.iter().enumerate() {
            step.remove.iter().for_each(|object| cluster.remove(object));
            step.put.iter().for_each(|object| cluster.put(object));
            cluster.settle();
            let lines: Vec<Line> = step.expect.iter().map(|line| Line::parse(line)).collect();
            let mut ports: BTreeSet<(Protocol, u16)> = lines.iter().map(|line| line.port).collect();
            ports.insert((Protocol::Tcp, 80));
            for (from, to) in
                pods().keys().flat_map(|from| pods().into_keys().map(move |to| (from.clone(), to)))
            {
                for (port, family) in ports.iter().flat_map(|port| [(*port, 0), (*port, 1)]) {
                    let mut said =
                        lines.iter().rev().filter(|line| line.port == port && line.is_about(&from, &to));
                    let expected = said.next().is_none_or(|line| line.passes);
                    if from != to && cluster.passes(&from, &to, family, port) != expected {
                        wrong.push(format!("{case}, step {number}: {from} -> {to} {port:?}: not {expected}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

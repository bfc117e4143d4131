//! The cases that cyclonus generates for NetworkPolicies, group by group, with what the API's text says of each: the
//! file `testbed/policies/generated.yaml` is what this makes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::reference;
use super::world::{Node, World};
use crate::acl::evaluate::{Flow, Transport};
use crate::acl::ruleset::Protocol;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const PORTS: [u16; 2] = [80, 81];

const HEAD: &str = "\
# The groups of cyclonus' generator (mattfenwick/cyclonus, pkg/generator), in the cluster all cases here share. Made, with
# its tables, by `MANX_WRITE_CASES=1 cargo test -p manx-felix --lib generated`.
";

/// What a step puts or removes, as `testbed/policies/README.md` says.
type Objects = Vec<Value>;

struct Case {
    name: String,
    steps: Vec<(Objects, Objects)>,
}

impl Case {
    fn put(name: String, objects: Objects) -> Self {
        Self { name, steps: vec![(objects, Vec::new())] }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Ingress,
    Egress,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("ingress", "from", "Ingress"),
            Self::Egress => ("egress", "to", "Egress"),
        }
    }
}

/// A policy of one direction for the pods a of namespace x.
fn one_way(name: &str, way: Way, rules: Value) -> Value {
    let (list, _, kind) = way.words();
    let spec =
        json!({ "podSelector": { "matchLabels": { "pod": "a" } }, "policyTypes": [kind], list: rules });
    json!({ "np": format!("x/{name}"), "spec": spec })
}

fn peers(way: Way, peers: Value) -> Value {
    let (_, field, _) = way.words();
    json!([{ field: peers, "ports": [{ "port": 80, "protocol": "TCP" }] }])
}

/// Both families alike.
fn blocks(cidr: [&str; 2], except: [&str; 2]) -> Vec<Value> {
    let each = cidr.iter().zip(except);
    each.map(|(cidr, except)| match except {
        "" => json!({ "ipBlock": { "cidr": cidr } }),
        except => json!({ "ipBlock": { "cidr": cidr, "except": [except] } }),
    })
    .collect()
}

fn peer_kinds() -> Vec<(&'static str, Vec<Value>)> {
    let by_pod = || json!({ "matchLabels": { "pod": "b" } });
    let by_namespace = || json!({ "matchLabels": { "ns": "y" } });
    vec![
        ("an ipBlock", blocks(["{v4 y/b}/32", "{v6 y/b}/128"], ["", ""])),
        ("an ipBlock with an exception", blocks(["0.0.0.0/0", "::/0"], ["{v4 z/c}/32", "{v6 z/c}/128"])),
        ("all pods of its namespace", vec![json!({ "podSelector": {} })]),
        ("pods b of its namespace", vec![json!({ "podSelector": by_pod() })]),
        ("all namespaces", vec![json!({ "namespaceSelector": {} })]),
        ("all pods of all namespaces", vec![json!({ "namespaceSelector": {}, "podSelector": {} })]),
        ("pods b of all namespaces", vec![json!({ "namespaceSelector": {}, "podSelector": by_pod() })]),
        ("namespace y", vec![json!({ "namespaceSelector": by_namespace() })]),
        ("all pods of namespace y", vec![json!({ "namespaceSelector": by_namespace(), "podSelector": {} })]),
        (
            "pods b of namespace y",
            vec![json!({ "namespaceSelector": by_namespace(), "podSelector": by_pod() })],
        ),
    ]
}

fn pairs<T: Clone>(all: &[T]) -> Vec<(T, T)> {
    let each = all.iter().enumerate();
    each.flat_map(|(place, one)| all[place + 1..].iter().map(move |two| (one.clone(), two.clone()))).collect()
}

fn targets() -> Vec<Case> {
    let selectors = [
        ("all pods", json!({})),
        ("pods a", json!({ "matchLabels": { "pod": "a" } })),
        ("no pod", json!({ "matchLabels": { "pod": "nobody" } })),
    ];
    let rule = |field: &str| {
        json!([{ field: [{ "podSelector": { "matchLabels": { "pod": "b" } }, "namespaceSelector": {} }],
                 "ports": [{ "port": 80, "protocol": "TCP" }] }])
    };
    let each = NAMESPACES.iter().flat_map(|namespace| selectors.iter().map(move |it| (*namespace, it)));
    each.map(|(namespace, (words, selector))| {
        let spec = json!({ "podSelector": selector, "policyTypes": ["Ingress", "Egress"],
                           "ingress": rule("from"), "egress": rule("to") });
        Case::put(
            format!("target: {words} of namespace {namespace}"),
            vec![json!({ "np": format!("{namespace}/base"), "spec": spec })],
        )
    })
    .collect()
}

fn directions() -> Vec<Case> {
    let rules = [("deny all", json!([])), ("allow all", json!([{}]))];
    let mut cases = Vec::new();
    for way in Way::BOTH {
        for (words, rules) in &rules {
            let name = format!("direction: {words} {}", way.words().0);
            cases.push(Case::put(name, vec![one_way("base", way, rules.clone())]));
        }
    }
    for ((one, ingress), (two, egress)) in
        rules.iter().flat_map(|one| rules.iter().map(move |two| (one, two)))
    {
        let policies =
            [one_way("in", Way::Ingress, ingress.clone()), one_way("out", Way::Egress, egress.clone())];
        cases.push(Case::put(format!("direction: {one} ingress, {two} egress"), policies.into()));
    }
    cases
}

fn peer_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for way in Way::BOTH {
        let (direction, ..) = way.words();
        let case = |words: String, list: Vec<Value>| {
            let policy = one_way("base", way, peers(way, list.into()));
            Case::put(format!("peers, {direction}: {words}"), vec![policy])
        };
        cases.push(case("an empty list".to_owned(), Vec::new()));
        let kinds = peer_kinds();
        cases.extend(kinds.iter().map(|(words, list)| case((*words).to_owned(), list.clone())));
        cases.extend(
            pairs(&kinds)
                .into_iter()
                .map(|(one, two)| case(format!("{} or {}", one.0, two.0), [one.1, two.1].concat())),
        );
        let by_name = json!({ "matchLabels": { "kubernetes.io/metadata.name": "y" } });
        cases.push(case("a namespace by its name".to_owned(), vec![json!({ "namespaceSelector": by_name })]));
    }
    cases
}

fn port_cases() -> Vec<Case> {
    let mut kinds = Vec::new();
    for protocol in ["TCP", "UDP", "SCTP"] {
        kinds.push((format!("any {protocol}"), json!({ "protocol": protocol })));
        kinds.push((format!("80/{protocol}"), json!({ "protocol": protocol, "port": 80 })));
        let name = format!("serve-81-{}", protocol.to_lowercase());
        kinds.push((name.clone(), json!({ "protocol": protocol, "port": name })));
    }
    let mut more = vec![
        ("a number nobody serves".to_owned(), json!({ "protocol": "TCP", "port": 7981 })),
        ("a name nobody has".to_owned(), json!({ "protocol": "TCP", "port": "nobody" })),
    ];
    for (protocol, other) in [("TCP", "udp"), ("UDP", "sctp"), ("SCTP", "tcp")] {
        let name = format!("serve-80-{other}");
        more.push((format!("{name} by {protocol}"), json!({ "protocol": protocol, "port": name })));
        for (first, last) in [(80, 81), (79, 80), (81, 65535)] {
            let port = json!({ "protocol": protocol, "port": first, "endPort": last });
            more.push((format!("{first} to {last}/{protocol}"), port));
        }
    }
    let mut cases = Vec::new();
    for way in Way::BOTH {
        let (direction, ..) = way.words();
        let case = |words: String, ports: Vec<Value>| {
            let policy = one_way("base", way, json!([{ "ports": ports }]));
            Case::put(format!("ports, {direction}: {words}"), vec![policy])
        };
        cases.push(case("an empty list".to_owned(), Vec::new()));
        cases.extend(kinds.iter().chain(&more).map(|(words, port)| case(words.clone(), vec![port.clone()])));
        cases.extend(
            pairs(&kinds)
                .into_iter()
                .map(|(one, two)| case(format!("{} and {}", one.0, two.0), vec![one.1, two.1])),
        );
    }
    cases
}

/// A policy of one side of the packets from x/a to y/b, and one of the other, or of the same.
fn conflicts() -> Vec<Case> {
    let allowed = |way: Way, pod: &str| {
        let (namespace, name) = pod.split_once('/').unwrap();
        let selector = json!({ "podSelector": { "matchLabels": { "pod": name } },
                               "namespaceSelector": { "matchLabels": { "ns": namespace } } });
        let (v4, v6) = (format!("{{v4 {pod}}}/32"), format!("{{v6 {pod}}}/128"));
        let field = way.words().1;
        vec![
            ("denies all", json!([])),
            ("allows all", json!([{}])),
            ("allows by pod", json!([{ field: [selector] }])),
            ("allows by address", json!([{ field: blocks([&v4, &v6], ["", ""]) }])),
            ("excepts the address", json!([{ field: blocks(["0.0.0.0/0", "::/0"], [&v4, &v6]) }])),
        ]
    };
    let policy = |name: &str, namespace: &str, pod: &str, way: Way, rules: &Value| {
        let (list, _, kind) = way.words();
        let spec =
            json!({ "podSelector": { "matchLabels": { "pod": pod } }, "policyTypes": [kind], list: rules });
        json!({ "np": format!("{namespace}/{name}"), "spec": spec })
    };
    let mut cases = Vec::new();
    for (source, egress) in allowed(Way::Egress, "y/b") {
        for (destination, ingress) in allowed(Way::Ingress, "x/a") {
            let policies = [
                policy("out", "x", "a", Way::Egress, &egress),
                policy("in", "y", "b", Way::Ingress, &ingress),
            ];
            cases.push(Case::put(
                format!("conflict: the source {source}, the destination {destination}"),
                policies.into(),
            ));
        }
    }
    for (way, other) in [(Way::Ingress, "x/a"), (Way::Egress, "y/b")] {
        for ((one, first), (two, second)) in pairs(&allowed(way, other)) {
            let (namespace, pod) = if way == Way::Ingress { ("y", "b") } else { ("x", "a") };
            let policies =
                [policy("one", namespace, pod, way, &first), policy("two", namespace, pod, way, &second)];
            let name = format!("conflict, {}: one policy {one}, another {two}", way.words().0);
            cases.push(Case::put(name, policies.into()));
        }
    }
    cases
}

/// What changes while policies are in force.
fn actions() -> Vec<Case> {
    let mut cases = Vec::new();
    for way in Way::BOTH {
        let (direction, ..) = way.words();
        let deny = || one_way("base", way, json!([]));
        let of = |peer: Value| one_way("base", way, peers(way, json!([peer])));
        let labelled = |labels: Value| json!({ "matchLabels": labels });
        let case = |words: &str, steps: Vec<(Objects, Objects)>| Case {
            name: format!("action, {direction}: {words}"),
            steps,
        };
        cases.push(case(
            "a policy comes and goes",
            vec![(vec![deny()], vec![]), (vec![], vec![json!({ "np": "x/base" })])],
        ));
        cases.push(case(
            "a policy is updated to and fro",
            vec![
                (vec![deny()], vec![]),
                (vec![one_way("base", way, json!([{}]))], vec![]),
                (vec![deny()], vec![]),
            ],
        ));
        let namespace = |labels: Value| json!({ "namespace": "y", "labels": labels });
        cases.push(case(
            "a namespace's labels begin to match, and end to",
            vec![
                (vec![of(json!({ "namespaceSelector": labelled(json!({ "new": "ns" })) }))], vec![]),
                (vec![namespace(json!({ "ns": "y", "new": "ns" }))], vec![]),
                (vec![namespace(json!({ "ns": "y" }))], vec![]),
            ],
        ));
        let pod = |labels: Value| json!({ "pod": "y/b", "labels": labels });
        let selector = json!({ "namespaceSelector": {}, "podSelector": labelled(json!({ "new": "pod" })) });
        cases.push(case(
            "a pod's labels begin to match a peer, and end to",
            vec![
                (vec![of(selector)], vec![]),
                (vec![pod(json!({ "pod": "b", "new": "pod" }))], vec![]),
                (vec![pod(json!({ "pod": "b" }))], vec![]),
            ],
        ));
        let target = |labels: Value| json!({ "pod": "x/a", "labels": labels });
        cases.push(case(
            "a pod's labels end to match the target, and begin to",
            vec![
                (vec![deny()], vec![]),
                (vec![target(json!({ "pod": "other" }))], vec![]),
                (vec![target(json!({ "pod": "a" }))], vec![]),
            ],
        ));
    }
    cases
}

fn place(pod: &str) -> usize {
    let (namespace, name) = pod.split_once('/').unwrap();
    let of = |names: [&str; 3], name: &str| names.iter().position(|it| *it == name).unwrap();
    3 * of(NAMESPACES, namespace) + of(PODS, name)
}

fn addresses(pod: &str) -> [IpAddr; 2] {
    let number = place(pod) as u8 + 1;
    [IpAddr::from([10, 0, 0, number]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)])]
}

fn pods() -> Vec<String> {
    NAMESPACES.iter().flat_map(|namespace| PODS.map(|pod| format!("{namespace}/{pod}"))).collect()
}

fn put(world: &mut World, object: &Value) {
    let mut text = object["spec"].to_string();
    for pod in pods() {
        let [v4, v6] = addresses(&pod);
        text = text.replace(&format!("{{v4 {pod}}}"), &v4.to_string());
        text = text.replace(&format!("{{v6 {pod}}}"), &v6.to_string());
    }
    let spec: Value = serde_json::from_str(&text).unwrap();
    if let Some(name) = object["np"].as_str() {
        let (namespace, short) = name.split_once('/').unwrap();
        let policy = json!({ "metadata": { "namespace": namespace, "name": short }, "spec": spec });
        world.network_policies.insert(name.to_owned(), serde_json::from_value(policy).unwrap());
    }
    if let Some(name) = object["namespace"].as_str() {
        let namespace = json!({ "metadata": { "name": name, "labels": object["labels"] } });
        world.namespaces.insert(name.to_owned(), serde_json::from_value(namespace).unwrap());
    }
    if let Some(name) = object["pod"].as_str() {
        let (namespace, short) = name.split_once('/').unwrap();
        let ports = PROTOCOLS.iter().flat_map(|protocol| {
            PORTS.map(|port| {
                let name = format!("serve-{port}-{}", protocol.to_string().to_lowercase());
                json!({ "name": name, "containerPort": port, "protocol": protocol.to_string() })
            })
        });
        let pod = json!({
            "metadata": { "namespace": namespace, "name": short, "labels": object["labels"],
                          "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": ports.collect::<Vec<_>>() }] },
            "status": { "phase": "Running", "podIPs": addresses(name).map(|ip| json!({ "ip": ip })) },
        });
        world.pods.insert(name.to_owned(), serde_json::from_value(pod).unwrap());
    }
}

fn fresh() -> World {
    let mut world = World::default();
    world.nodes.insert("n1".to_owned(), Node { labels: BTreeMap::new(), addresses: Default::default() });
    for namespace in NAMESPACES {
        put(&mut world, &json!({ "namespace": namespace, "labels": { "ns": namespace } }));
    }
    for pod in pods() {
        put(&mut world, &json!({ "pod": pod, "labels": { "pod": pod.split_once('/').unwrap().1 } }));
    }
    world
}

/// A row a source, a column a destination; the same of both families.
fn table(world: &World, protocol: Protocol, port: u16) -> String {
    let cell = |from: &str, to: &str| {
        let passes = [0, 1].map(|family| {
            let flow = Flow {
                source: addresses(from)[family],
                destination: addresses(to)[family],
                transport: Transport::Port(protocol, port),
            };
            let verdicts = reference::passes(world, &flow, Some(&world.pods[from]), Some(&world.pods[to]));
            verdicts == (true, true)
        });
        assert_eq!(passes[0], passes[1], "the families differ from {from} to {to}: {world:?}");
        if passes[0] { '.' } else { 'X' }
    };
    let rows: Vec<String> =
        pods().iter().map(|from| pods().iter().map(|to| cell(from, to)).collect()).collect();
    rows.join(" ")
}

fn text() -> String {
    let mut text = HEAD.to_owned();
    let groups = [targets(), directions(), peer_cases(), port_cases(), conflicts(), actions()];
    for Case { name, steps } in groups.into_iter().flatten() {
        let mut world = fresh();
        writeln!(text, "- case: \"{name}\"\n  steps:").unwrap();
        for (putting, removing) in steps {
            putting.iter().for_each(|object| put(&mut world, object));
            for object in &removing {
                world.network_policies.remove(object["np"].as_str().unwrap()).unwrap();
            }
            let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (protocol, port) in PROTOCOLS.into_iter().flat_map(|it| PORTS.map(|port| (it, port))) {
                tables.entry(table(&world, protocol, port)).or_default().push(format!("{port}/{protocol}"));
            }
            let mut word = '-';
            for (field, objects) in [("put", putting), ("remove", removing)] {
                if !objects.is_empty() {
                    writeln!(text, "  {word} {field}: {}", Value::from(objects)).unwrap();
                    word = ' ';
                }
            }
            writeln!(text, "    table:").unwrap();
            for (table, ports) in tables {
                writeln!(text, "      {}: {table}", ports.join(" ")).unwrap();
            }
        }
    }
    text
}

#[test]
fn the_generated_cases_are_as_the_apis_text_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbed/policies/generated.yaml");
    let text = text();
    if std::env::var_os("MANX_WRITE_CASES").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(there == text, "write {} anew: MANX_WRITE_CASES=1", file.display());
}

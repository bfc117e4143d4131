//! What packets do, beside what the truth tables say.

use std::net::IpAddr;
use std::time::Instant;

use manx_testbed::netns;
use serde_json::{Value, json};

use crate::cases::{self, Object, Packet, packets};
use crate::cluster::{Cluster, Mouth, NODES, SOON};

async fn run(cluster: &Cluster, file: &str) {
    let (cases, packets) = (cases::read(file), packets());
    let (start, mut steps) = (Instant::now(), 0);
    cluster.settle("nothing is in force", &packets, |_| true);
    for case in &cases {
        for (number, step) in case.steps.iter().enumerate() {
            for object in &step.remove {
                cluster.remove(object).await;
            }
            for object in &step.put {
                cluster.put(object).await;
            }
            let told: Vec<Packet> =
                packets.iter().filter(|packet| step.expects(packet).is_some()).cloned().collect();
            let what = format!("{file}: {}, step {number}", case.case);
            cluster.settle(&what, &told, |packet| step.expects(packet).unwrap());
            steps += 1;
        }
        cluster.clear(case).await;
    }
    println!("{file}: {} cases, {steps} steps, {:.0?}", cases.len(), start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn packets_do_what_the_truth_tables_say() {
    let cluster = Cluster::up("policies").await;
    for file in ["kubernetes_e2e.yaml", "rules.yaml", "cluster_network_policy.yaml", "generated.yaml"] {
        run(&cluster, file).await;
    }
}

/// A NetworkPolicy of a pod of namespace x with one rule.
fn policy(pod: &str, direction: &str, kind: &str, rule: Value) -> Object {
    let spec =
        json!({ "podSelector": { "matchLabels": { "pod": pod } }, "policyTypes": [kind], direction: [rule] });
    serde_json::from_value(json!({ "np": format!("x/{pod}"), "spec": spec })).unwrap()
}

/// What a proxy of Services does to packets comes before their judgement where they go, and behind that where they come
/// from: of a ClusterIP and of a NodePort with `externalTrafficPolicy: Local`. With `Cluster` the node that takes the
/// packet sends it on in its own name, and that name is what a pod on another node is told.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn a_packet_to_a_service_is_judged_by_the_pod_behind_it_and_by_who_sent_it() {
    let cluster = Cluster::up("policy-nat").await;
    let ipv4 = |pod: &str| *cluster.pods[pod].0.addresses.iter().find(|address| address.is_ipv4()).unwrap();
    let (a, b, far) = (ipv4("x/a"), ipv4("y/b"), ipv4("x/b"));
    assert_eq!([&cluster.pods["x/a"].0.node, &cluster.pods["x/b"].0.node], NODES);
    let proxy = format!(
        "add table ip proxy; add chain ip proxy in {{ type nat hook prerouting priority -100; }}; \
         add rule ip proxy in ip daddr 10.96.0.1 udp dport 8080 dnat to {b}:80; \
         add rule ip proxy in ip daddr 10.10.0.1 udp dport 30080 dnat to {a}:80; \
         add rule ip proxy in ip daddr 10.10.0.1 udp dport 30081 dnat to {far}:80; \
         add chain ip proxy out {{ type nat hook postrouting priority 100; }}; \
         add rule ip proxy out ct status dnat ip daddr {far} masquerade"
    );
    cluster.lab.run("node1", &["nft", &proxy]).await.unwrap();
    let settled = |what: &str, expected: bool, reaches: &dyn Fn() -> bool| {
        let end = Instant::now() + SOON;
        // Twice: once may be by what was in force before.
        let mut right = 0;
        while right < 2 {
            right = if reaches() == expected { right + 1 } else { 0 };
            assert!(right > 0 || Instant::now() < end, "{what}: not {expected}");
        }
    };
    let by_service = || cluster.reaches(&cluster.pods["x/a"].1, a, "10.96.0.1:8080".parse().unwrap(), "y/b");
    settled("no policy", true, &by_service);
    let port = |port: u16| json!([{ "protocol": "UDP", "port": port }]);
    let block = |address: IpAddr| json!([{ "ipBlock": { "cidr": format!("{address}/32") } }]);
    let service: IpAddr = "10.96.0.1".parse().unwrap();
    for (what, rule, expected) in [
        ("to the Service's address", json!({ "to": block(service) }), false),
        ("to the pod's address", json!({ "to": block(b) }), true),
        ("to the Service's port", json!({ "ports": port(8080) }), false),
        ("to the pod's port", json!({ "ports": port(80) }), true),
    ] {
        cluster.put(&policy("a", "egress", "Egress", rule)).await;
        settled(what, expected, &by_service);
    }

    let outside = Mouth::of(&netns::of_node(cluster.lab.name(), "kube"));
    let source: IpAddr = "10.10.0.10".parse().unwrap();
    let by_node = || cluster.reaches(&outside, source, "10.10.0.1:30080".parse().unwrap(), "x/a");
    for (what, rule, expected) in [
        ("from the node's address", json!({ "from": block("10.10.0.1".parse().unwrap()) }), false),
        ("from the client's address", json!({ "from": block(source) }), true),
        ("to the node's port", json!({ "ports": port(30080) }), false),
        ("to the pod's port", json!({ "ports": port(80) }), true),
    ] {
        cluster.put(&policy("a", "ingress", "Ingress", rule)).await;
        settled(what, expected, &by_node);
    }

    let by_other = || cluster.reaches(&outside, source, "10.10.0.1:30081".parse().unwrap(), "x/b");
    for (what, rule, expected) in [
        ("from the client's address, which the node has hidden", json!({ "from": block(source) }), false),
        ("from the node's address", json!({ "from": block("10.10.0.1".parse().unwrap()) }), true),
        (
            "from the address of the pod's own node",
            json!({ "from": block("10.10.0.2".parse().unwrap()) }),
            false,
        ),
        ("to the node's port", json!({ "ports": port(30081) }), false),
        ("to the pod's port", json!({ "ports": port(80) }), true),
    ] {
        cluster.put(&policy("b", "ingress", "Ingress", rule)).await;
        settled(what, expected, &by_other);
    }
}

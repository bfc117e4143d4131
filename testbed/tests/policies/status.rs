//! What is told of policies: on how many nodes each is in force, why a packet passes or not, and what was denied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use manx_bgp::types::Family;
use manx_cni::client::Agent;
use manx_cni::protocol::{Reply, Request, VERSION};
use manx_felix::acl::ruleset::Protocol;
use manx_felix::cluster_network_policy::ClusterNetworkPolicy;
use manx_felix::crd::{NodeStatus, PolicyEnforcement};
use manx_felix::graph::policy::{End, Explanation, Question};
use manx_testbed::eventually;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cases::{self, Object, Packet, packets};
use crate::cluster::{Cluster, NODES, SOON, up};

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_api_says_on_how_many_nodes_a_policy_is_in_force() {
    let lab = up("policy-status").await;
    let client = lab.client().await.unwrap();
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let policy = |port: u16| {
        let spec = json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": port }] }] });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "web" }, "spec": spec,
        });
        Patch::Apply(policy)
    };
    let parameters = PatchParams::apply("test").force();
    policies.patch("web", &parameters, &policy(80)).await.unwrap();
    let says = |words: &'static str| {
        let lab = &lab;
        move || async move {
            let said = lab.run("node1", &["manxctl", "policy", "status", "default/web"]).await;
            let said = said.unwrap_or_else(|error| error.to_string());
            if said.contains(words) { Ok(()) } else { Err(said) }
        }
    };
    eventually(SOON, says("enforced on 2 of 2 nodes at generation 1")).await.unwrap();

    lab.kill("node2", "manx-felix", Signal::SIGKILL).unwrap();
    policies.patch("web", &parameters, &policy(81)).await.unwrap();
    eventually(SOON, says("enforced on 1 of 2 nodes at generation 2; not yet on node2")).await.unwrap();
    lab.start_daemon("node2", "manx-felix").await.unwrap();
    eventually(2 * SOON, says("enforced on 2 of 2 nodes at generation 2")).await.unwrap();

    policies.delete("web", &DeleteParams::default()).await.unwrap();
    let statuses: Api<manx_felix::crd::PolicyStatus> = Api::all(client);
    let gone = || async {
        let left = statuses.list(&Default::default()).await.unwrap().items;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    };
    eventually(2 * SOON, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn a_denied_packet_is_told_with_both_pods_and_explained_by_service_too() {
    let cluster = Cluster::up("policy-told").await;
    let deny: Object = serde_json::from_value(json!({
        "np": "x/quiet", "spec": { "podSelector": { "matchLabels": { "pod": "a" } }, "policyTypes": ["Ingress"] },
    }))
    .unwrap();
    cluster.put(&deny).await;
    // From another node.
    let packet = Packet {
        from: "y/a".to_owned(),
        to: "x/a".to_owned(),
        family: Family::Ipv4,
        protocol: Protocol::Tcp,
        port: 80,
    };
    cluster.settle("the policy is in force", std::slice::from_ref(&packet), |_| false);
    let (source, destination) = (&cluster.pods["y/a"].0, &cluster.pods["x/a"].0);
    assert_ne!(source.node, destination.node);
    let told = || async {
        let said = cluster.lab.run(&destination.node, &["manxctl", "flows", "--denied", "-o", "json"]).await;
        let said = said.map_err(|error| error.to_string())?;
        let flows = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut named = flows.filter(|flow| flow["sourcePod"] == "y/a" && flow["destinationPod"] == "x/a");
        named.find(|flow| flow["isolatedBy"][0]["name"] == "x/quiet").ok_or(said)
    };
    assert_eq!(eventually(SOON, told).await.unwrap()["destinationPort"], 80);
    let counted = || async {
        let script = "exec 3<>/dev/tcp/127.0.0.1/9098 && printf 'GET /metrics HTTP/1.0\\r\\nhost: x\\r\\n\\r\\n' >&3 && cat <&3";
        let said = cluster
            .lab
            .run(&destination.node, &["bash", "-c", script])
            .await
            .map_err(|error| error.to_string())?;
        let mut denied = said
            .lines()
            .filter(|line| line.starts_with("manx_policy_packets_total") && line.contains("denied"));
        if denied.any(|line| !line.ends_with(" 0")) { Ok(()) } else { Err(said) }
    };
    eventually(SOON, counted).await.unwrap();

    let client = &cluster.client;
    let service =
        json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 8080, "targetPort": 80 }] } });
    let services: Api<Service> = Api::namespaced(client.clone(), "x");
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let address = destination.addresses.iter().find(|address| address.is_ipv4()).unwrap();
    let slice = json!({
        "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4",
        "endpoints": [{ "addresses": [address] }], "ports": [{ "port": 80 }],
    });
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "x");
    slices.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
    let ask = ["manxctl", "policy", "explain", "--from", "y/a", "--to", "svc/x/web", "--port", "8080"];
    let said = cluster.lab.run("node2", &ask).await.unwrap();
    assert!(said.contains(&format!("{address} TCP 80: denied")) && said.contains("x/quiet"), "{said}");
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// Policies in force at once, how often they are others, and packets asked of each time.
const POLICIES: usize = 6;
const WORLDS: usize = 20;
const ASKED: usize = 400;

/// Waits until both nodes say that their kernels have every policy there is.
async fn in_force(cluster: &Cluster) {
    let newest = |policies: Vec<DynamicObject>| -> u64 {
        let versions = policies.iter().map(|policy| policy.resource_version().unwrap().parse().unwrap());
        versions.max().unwrap_or(0)
    };
    let network = ApiResource::erase::<NetworkPolicy>(&());
    let of_cluster = ApiResource::erase::<ClusterNetworkPolicy>(&());
    let mut wanted = Vec::new();
    for kind in [network, of_cluster] {
        let all: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &kind);
        wanted.push(newest(all.list(&ListParams::default()).await.unwrap().items));
    }
    let nodes: Api<NodeStatus> = Api::all(cluster.client.clone());
    let there = || async {
        let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
        let said = nodes.into_iter().filter_map(|node| node.status?.policies);
        let has_all = |said: &PolicyEnforcement| {
            let of = [&said.network_policies, &said.cluster_network_policies];
            of.iter().zip(&wanted).all(|(version, wanted)| version.parse::<u64>().unwrap_or(0) >= *wanted)
        };
        let count = said.filter(has_all).count();
        if count == NODES.len() { Ok(()) } else { Err(format!("{count} nodes")) }
    };
    eventually(SOON, there).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn what_is_explained_is_what_the_kernels_do() {
    let cluster = Cluster::up("policy-explain").await;
    let files = ["kubernetes_e2e.yaml", "rules.yaml", "cluster_network_policy.yaml", "generated.yaml"];
    let steps = files.into_iter().flat_map(cases::read).flat_map(|case| case.steps);
    let policies: Vec<Object> =
        steps.flat_map(|step| step.put).filter(|put| put.np.is_some() || put.cnp.is_some()).collect();
    // As often of the cluster as of a namespace.
    let (network, of_cluster): (Vec<Object>, Vec<Object>) =
        policies.into_iter().partition(|it| it.np.is_some());
    let (mut dice, packets) = (Dice(6), packets());
    let socket = cluster.lab.node_folder("node1").join("run/manx/agent.sock");
    let (mut passed, mut denied) = (0, 0);
    for world in 0..WORLDS {
        let mut put = Vec::new();
        for number in 0..POLICIES {
            let mut policy = if dice.below(3) == 0 {
                of_cluster[dice.below(of_cluster.len())].clone()
            } else {
                network[dice.below(network.len())].clone()
            };
            policy.np = policy.np.map(|_| format!("{}/p{number}", cases::NAMESPACES[dice.below(3)]));
            policy.cnp = policy.cnp.map(|_| format!("p{number}"));
            cluster.put(&policy).await;
            put.push(policy);
        }
        in_force(&cluster).await;
        let asked: Vec<Packet> = (0..ASKED).map(|_| packets[dice.below(packets.len())].clone()).collect();
        let asked: Vec<Packet> = asked.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let explained: BTreeMap<Packet, Vec<Explanation>> =
            asked.iter().map(|packet| (packet.clone(), explain(&cluster, &socket, packet))).collect();
        let passes = |packet: &Packet| explained[packet].iter().all(|it| it.passes);
        let came = cluster.ask(&asked, passes);
        for packet in &asked {
            assert_eq!(came.contains(packet), passes(packet), "world {world}: {:?}", explained[packet]);
        }
        passed += came.len();
        denied += asked.len() - came.len();
        for policy in &put {
            cluster.remove(policy).await;
        }
    }
    println!("{passed} packets passed, {denied} were denied, each as explained");
    assert!(passed > 1000 && denied > 1000, "{passed} {denied}");
}

fn explain(cluster: &Cluster, socket: &Path, packet: &Packet) -> Vec<Explanation> {
    let question = Question {
        from: End::Address(cluster.address(packet, &packet.from)),
        to: End::Address(cluster.address(packet, &packet.to)),
        port: Some((packet.protocol, packet.port)),
    };
    let request = Request::Explain { version: VERSION, question: serde_json::to_value(question).unwrap() };
    match Agent::connect(socket, SOON).unwrap().ask(&request).unwrap() {
        Reply::Explained { explanations } => serde_json::from_value(explanations).unwrap(),
        reply => panic!("{reply:?}"),
    }
}

//! What agents ask of the Kubernetes API is what their roles grant: nothing more, nothing less.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use manx_testbed::apiserver::Call;
use manx_testbed::kubelet::Kubelet;
use manx_testbed::{Lab, Options, Topology, eventually};

const SOON: Duration = Duration::from_secs(60);
/// A node that is gone is let go after half a minute, and a minute's look at it.
const LATE: Duration = Duration::from_secs(180);
const AGENT: &str = "system:serviceaccount:manx-system:manx-felix";

/// Verb, group, resource, and the namespace of a Role's.
type Right = (String, String, String, String);

fn granted(rules: &[PolicyRule], namespace: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let verbs = rule.verbs.iter().cloned();
                rights
                    .extend(verbs.map(|verb| (verb, group.clone(), resource.clone(), namespace.to_owned())));
            }
        }
    }
    rights
}

/// What the agents' roles grant.
async fn rights(client: &Client) -> BTreeSet<Right> {
    let cluster = Api::<ClusterRole>::all(client.clone()).get("manx-felix").await.unwrap();
    let own = Api::<Role>::namespaced(client.clone(), "manx-system").get("manx-felix").await.unwrap();
    let mut rights = granted(&cluster.rules.unwrap(), "");
    rights.extend(granted(&own.rules.unwrap(), "manx-system"));
    rights
}

/// What the agents have asked.
async fn used(lab: &Lab) -> BTreeSet<Right> {
    let calls = lab.calls().await.unwrap();
    let of_agents = calls.into_iter().filter(|call| call.user == AGENT);
    // A ClusterRole grants in every namespace.
    let right = |call: Call| {
        let own = call.namespace == "manx-system" && ["leases", "secrets"].contains(&call.resource.as_str());
        (call.verb, call.group, call.resource, if own { call.namespace } else { String::new() })
    };
    of_agents.map(right).collect()
}

async fn apply(client: &Client, documents: &str) {
    for document in serde_saphyr::from_multiple::<DynamicObject>(documents).unwrap() {
        let gvk = GroupVersionKind::try_from(document.types.as_ref().unwrap()).unwrap();
        let known = || async { pinned_kind(client, &gvk).await.map_err(|error| error.to_string()) };
        let (resource, capabilities) = eventually(SOON, known).await.unwrap();
        let api: Api<DynamicObject> = match (capabilities.scope, &document.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
            (_, namespace) => {
                Api::namespaced_with(client.clone(), namespace.as_deref().unwrap_or("default"), &resource)
            }
        };
        let name = document.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&document)).await.unwrap();
    }
}

/// Everything agents answer or act on.
const CLUSTER: &str = r#"
{apiVersion: manx.io/v1alpha1, kind: IPPool, metadata: {name: pods-v4}, spec: {cidr: 10.244.0.0/16}}
---
{apiVersion: manx.io/v1alpha1, kind: IPPool, metadata: {name: services-v4}, spec: {cidr: 198.51.100.0/24, allowedUses: [Services]}}
---
{apiVersion: manx.io/v1alpha1, kind: IPReservation, metadata: {name: gateway}, spec: {addresses: [10.244.0.1]}}
---
{apiVersion: manx.io/v1alpha1, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 64512, nodeAddress: {interface: eth1}}}
---
{apiVersion: manx.io/v1alpha1, kind: BGPFilter, metadata: {name: all}, spec: {}}
---
{apiVersion: v1, kind: Secret, metadata: {name: bgp, namespace: manx-system}, data: {password: c2VjcmV0}}
---
{apiVersion: manx.io/v1alpha1, kind: BGPPeer, metadata: {name: nobody}, spec: {address: 10.10.0.251, asNumber: 65001, password: {name: bgp}}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: some},
 spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: some, namespace: default}, spec: {podSelector: {}, ingress: [{}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}, spec: {type: LoadBalancer, ports: [{port: 80}]}}
"#;

/// A pool of one block, and a namespace whose pods have their addresses of it.
const SMALL: &str = r#"
{apiVersion: manx.io/v1alpha1, kind: IPPool, metadata: {name: small}, spec: {cidr: 10.245.0.0/28, blockSize: 28}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: small, annotations: {manx.io/ip-pools: small}}}
"#;

/// One more, whose address is given by who leads already.
const LATER: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: later, namespace: default}, spec: {type: LoadBalancer, ports: [{port: 80}]}}
"#;

/// What the agent of a node that is gone has asked for.
const ASKED: &str = r#"
{apiVersion: manx.io/v1alpha1, kind: IPAMRequest, metadata: {name: gone.10.245.0.0-28}, spec: {node: gone, block: 10.245.0.0/28}}
"#;

/// As a runtime asks when it is faster than the watch: of a pod the agent has not seen, which it asks the API for.
async fn add_of_a_pod_no_watch_shows(lab: &Lab, node: &str) {
    let netns = format!("/run/netns/{}", lab.pod("default", &format!("of-{node}")).unwrap().netns);
    for command in ["ADD", "DEL"] {
        let script = format!(
            "CNI_COMMAND={command} CNI_CONTAINERID=unseen CNI_NETNS={netns} CNI_IFNAME=net1 CNI_PATH=/opt/cni/bin \
             CNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME=unseen' /opt/cni/bin/manx"
        );
        let network = r#"{"cniVersion":"1.1.0","name":"manx","type":"manx"}"#;
        // What comes of it is for other tests to say: it is asked for.
        let said = lab.exec(node, &["sh", "-c", &format!("echo '{network}' | {script}")]).await.unwrap();
        println!("{command}: {}", String::from_utf8_lossy(&said.stdout));
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn agents_use_every_right_they_have_and_miss_none() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/rights.clab.yml");
    let lab = Lab::up(&Topology::read(&file).unwrap(), Options::default()).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    apply(&client, include_str!("../labs/nodes/manifests/clusternetworkpolicies.yaml")).await;
    let one = Kubelet::start(&lab, "node1", None).await.unwrap();
    let two = Kubelet::start(&lab, "node2", None).await.unwrap();
    apply(&client, CLUSTER).await;
    for node in ["node1", "node2"] {
        eventually(SOON, || async { lab.pod_add(node, "default", &format!("of-{node}")).await })
            .await
            .unwrap();
    }
    // Two nodes want the one block there is.
    apply(&client, SMALL).await;
    for node in ["node1", "node2"] {
        eventually(SOON, || async { lab.pod_add(node, "small", &format!("of-{node}")).await }).await.unwrap();
    }
    add_of_a_pod_no_watch_shows(&lab, "node1").await;
    let all = rights(&client).await;
    let short = || async {
        let used = used(&lab).await;
        let unused: Vec<_> = all.difference(&used).collect();
        if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?}")) }
    };
    let has_used = async |verb: &str, resource: &str| {
        let asked = || async {
            let used = used(&lab).await;
            let found = used.iter().any(|right| (right.0.as_str(), right.2.as_str()) == (verb, resource));
            if found { Ok(()) } else { Err(format!("no {verb} of {resource}")) }
        };
        eventually(SOON, asked).await.unwrap();
    };
    // A policy that goes, and a node with its pods.
    has_used("patch", "policystatuses/status").await;
    let at_once = DeleteParams::default().grace_period(0);
    Api::<NetworkPolicy>::namespaced(client.clone(), "default").delete("some", &at_once).await.unwrap();
    apply(&client, ASKED).await;
    has_used("patch", "ipamrequests/status").await;
    // A Node made anew under its name: what its earlier self said of itself goes.
    let nodes: Api<Node> = Api::all(client.clone());
    let mut node = nodes.get("node1").await.unwrap();
    nodes.delete("node1", &at_once).await.unwrap();
    (node.metadata.uid, node.metadata.resource_version, node.metadata.managed_fields) = (None, None, None);
    let status = node.status.take();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = Patch::Merge(serde_json::json!({ "status": status }));
    nodes.patch_status("node1", &PatchParams::default(), &status).await.unwrap();
    // Who leads asks for the lease again when there is something to do and it was not asked for just now.
    let leases: Api<Lease> = Api::namespaced(client.clone(), "manx-system");
    let rested = || async {
        let lease = leases.get("manx-service-addresses").await.map_err(|error| error.to_string())?;
        let renewed = lease.spec.and_then(|spec| spec.renew_time).ok_or("never")?.0;
        let since = Timestamp::now().duration_since(renewed);
        if since.as_secs() >= 10 { Ok(()) } else { Err(format!("{since} ago")) }
    };
    eventually(SOON, rested).await.unwrap();
    apply(&client, LATER).await;
    has_used("update", "leases").await;
    drop(two);
    for (namespace, name) in [
        ("default", "of-node2"),
        ("small", "of-node2"),
        ("manx-system", "manx-felix-node2"),
        ("manx-system", "manx-bgpd-node2"),
    ] {
        Api::<Pod>::namespaced(client.clone(), namespace).delete(name, &at_once).await.unwrap();
    }
    Api::<Node>::all(client.clone()).delete("node2", &at_once).await.unwrap();
    eventually(LATE, short).await.unwrap_or_else(|late| panic!("rights that nothing used: {late}"));
    let missing: Vec<Right> = used(&lab).await.difference(&all).cloned().collect();
    assert_eq!(missing, Vec::<Right>::new(), "asked, and granted by no rule of theirs");
    let said = one.log("manx-felix");
    assert!(!said.contains("forbidden"), "{said}");
}

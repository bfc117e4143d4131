//! What agents ask of the Kubernetes API is what their roles grant: nothing more, nothing less.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
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
async fn used(client: &Client) -> BTreeSet<Right> {
    let request = http::Request::get("/testbed/calls").body(Vec::new()).unwrap();
    let calls: Vec<Call> = client.request(request).await.unwrap();
    let of_agents = calls.into_iter().filter(|call| call.user == AGENT);
    // A ClusterRole grants in every namespace.
    let right = |call: Call| {
        let own = call.namespace == "manx-system" && ["leases", "secrets"].contains(&call.resource.as_str());
        (call.verb, call.group, call.resource, if own { call.namespace } else { String::new() })
    };
    of_agents.map(right).collect()
}

/// What this lab does not come to: an ADD asks for its pod when the watch is behind it, a Node made anew has the
/// NodeStatus of the earlier one deleted, a node that has no part to give says so, and who leads for long renews its lease.
fn is_for_another_day((verb, _, resource, _): &Right) -> bool {
    let others = [
        ("get", "pods"),
        ("get", "namespaces"),
        ("delete", "nodestatuses"),
        ("patch", "ipamrequests/status"),
        ("update", "leases"),
    ];
    others.contains(&(verb.as_str(), resource.as_str()))
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

#[tokio::test]
#[ignore = "needs root: make test"]
async fn agents_use_every_right_they_have_and_miss_none() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/rights.clab.yml");
    let lab = Lab::up(&Topology::read(&file).unwrap(), Options::default()).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    if client.request_text(http::Request::get("/testbed/calls").body(Vec::new()).unwrap()).await.is_err() {
        println!("not run: a real kube-apiserver does not tell what it was asked");
        return;
    }
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
    let all = rights(&client).await;
    let short = || async {
        let used = used(&client).await;
        let unused: Vec<_> = all.difference(&used).filter(|right| !is_for_another_day(right)).collect();
        if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?}")) }
    };
    // A policy that goes, and a node with its pods.
    let enforced = || async {
        let used = used(&client).await;
        match used
            .iter()
            .any(|right| (right.0.as_str(), right.2.as_str()) == ("patch", "policystatuses/status"))
        {
            true => Ok(()),
            false => Err("no PolicyStatus"),
        }
    };
    eventually(SOON, enforced).await.unwrap();
    let at_once = DeleteParams::default().grace_period(0);
    Api::<NetworkPolicy>::namespaced(client.clone(), "default").delete("some", &at_once).await.unwrap();
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
    let missing: Vec<Right> = used(&client).await.difference(&all).cloned().collect();
    assert_eq!(missing, Vec::<Right>::new(), "asked, and granted by no rule of theirs");
    let said = one.log("manx-felix");
    assert!(!said.contains("forbidden"), "{said}");
}

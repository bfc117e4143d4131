//! What Kubernetes' own suite asks of the API of NetworkPolicies (`network_policy_api.go`), with agents that take part.

use futures::TryStreamExt;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use manx_testbed::eventually;
use serde_json::json;

use crate::cases::{Packet, packets};
use crate::cluster::{Cluster, SOON};

const LABEL: &str = "special-label=api";

fn policy(ports: serde_json::Value) -> NetworkPolicy {
    let spec = json!({ "podSelector": { "matchLabels": { "pod": "a" } }, "ingress": [{ "ports": ports }] });
    let metadata = json!({ "generateName": "e2e-example-netpol-", "labels": { "special-label": "api" } });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

/// "should support creating NetworkPolicy API operations".
async fn operations(client: &Client) {
    let group = client.list_api_groups().await.unwrap().groups;
    assert!(group.iter().any(|group| group.name == "networking.k8s.io"));
    let resources = client.list_api_group_resources("networking.k8s.io/v1").await.unwrap().resources;
    assert!(resources.iter().any(|resource| resource.name == "networkpolicies" && resource.namespaced));

    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "x");
    let (make, of_ours) = (PostParams::default(), ListParams::default().labels(LABEL));
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(policies.create(&make, &policy(json!([{ "port": 80 }]))).await.unwrap());
    }
    let name = made[0].name_any();
    assert!(name.starts_with("e2e-example-netpol-") && name != made[1].name_any(), "{name}");
    let read = policies.get(&name).await.unwrap();
    assert_eq!((read.uid(), &read.spec), (made[0].uid(), &made[0].spec));
    let list = policies.list(&of_ours).await.unwrap();
    assert_eq!(list.items.len(), 3);
    let everywhere = Api::<NetworkPolicy>::all(client.clone()).list(&of_ours).await.unwrap();
    assert_eq!(everywhere.items.len(), 3);

    let version = list.metadata.resource_version.unwrap();
    let watching = policies.watch(&WatchParams::default().labels(LABEL), &version).await.unwrap();
    let mut events = Box::pin(watching);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "patched": "true" } } }));
    let patched = policies.patch(&name, &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.annotations()["patched"], "true");
    let mut updated = patched.clone();
    updated.annotations_mut().insert("updated".to_owned(), "true".to_owned());
    let updated = policies.replace(&name, &make, &updated).await.unwrap();
    assert_eq!(updated.annotations().len(), 2);
    for expected in [&patched, &updated] {
        let event = tokio::time::timeout(SOON, events.try_next()).await.unwrap().unwrap();
        let Some(WatchEvent::Modified(seen)) = event else { panic!("{event:?}") };
        assert_eq!((seen.name_any(), seen.annotations()), (name.clone(), expected.annotations()));
    }

    policies.delete(&name, &DeleteParams::default()).await.unwrap();
    let gone = || async {
        match policies.get_opt(&name).await.unwrap() {
            None => Ok(()),
            Some(left) => Err(format!("{left:?}")),
        }
    };
    eventually(SOON, gone).await.unwrap();
    assert_eq!(policies.list(&of_ours).await.unwrap().items.len(), 2);
    policies.delete_collection(&DeleteParams::default(), &of_ours).await.unwrap();
    let all_gone = || async {
        let left = policies.list(&of_ours).await.unwrap().items;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    };
    eventually(SOON, all_gone).await.unwrap();
}

/// "should support creating NetworkPolicy API with endport field", and what it does.
async fn end_port(cluster: &Cluster, packets: &[Packet]) {
    let policies: Api<NetworkPolicy> = Api::namespaced(cluster.client.clone(), "x");
    let ports = json!([{ "protocol": "TCP", "port": 81, "endPort": 85 }]);
    let made = policies.create(&PostParams::default(), &policy(ports)).await.unwrap();
    let read = policies.get(&made.name_any()).await.unwrap().spec.unwrap().ingress.unwrap();
    assert_eq!(read[0].ports.as_ref().unwrap()[0].end_port, Some(85));
    cluster.settle("a range of ports", packets, |packet| {
        packet.to != "x/a" || packet.port == 81 && packet.protocol.to_string() == "TCP"
    });
    policies.delete(&made.name_any(), &DeleteParams::default()).await.unwrap();
    cluster.settle("it is gone", packets, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: make test"]
async fn the_api_of_network_policies_is_what_the_suite_of_kubernetes_asks() {
    let cluster = Cluster::up("policy-api").await;
    let packets: Vec<Packet> = packets().into_iter().filter(|packet| packet.to.starts_with("x/")).collect();
    operations(&cluster.client).await;
    cluster.settle("nothing is left of them", &packets, |_| true);
    end_port(&cluster, &packets).await;
}

//! Every node peers with every other; nodes leave for good, and come back as others under their name.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use manx_felix::crd::NodeStatus;
use manx_ipam::crd::IPAMBlock;
use manx_testbed::{Lab, TemporaryLab, eventually};
use serde_json::json;

use super::{SOON, blocks, has_sessions, knows, pings, pod, routes, up};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

async fn meshed(name: &str) -> TemporaryLab {
    let lab = up("mesh", name).await;
    all_mesh(&lab).await;
    lab
}

async fn all_mesh(lab: &Lab) {
    for node in NODES {
        let others: Vec<&str> = NODES.into_iter().filter(|other| *other != node).collect();
        eventually(SOON, || async { has_sessions(lab, node, &others).await }).await.unwrap();
        eventually(SOON, || async { knows(lab, node, &others).await }).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn nodes_of_a_full_mesh_reach_each_others_pods_and_forget_a_node_that_leaves() {
    let lab = meshed("peering-mesh").await;
    let mut pods = Vec::new();
    for node in NODES {
        pods.push(pod(&lab, node, &format!("on-{node}")).await);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert_eq!(pods[to].addresses.len(), 2, "one of each family");
        for address in &pods[to].addresses {
            let ping = ["ping", "-n", "-c1", "-W1", &address.to_string()];
            eventually(SOON, || async { lab.pod_run(&pods[from], &ping).await }).await.unwrap();
        }
    }
    let gone = blocks(&lab, "node3").await;
    let nodes: Api<Node> = Api::all(lab.client().await.unwrap());
    lab.stop_node("node3").await.unwrap();
    nodes.delete("node3", &DeleteParams::default()).await.unwrap();
    for (node, other) in [("node1", "node2"), ("node2", "node1")] {
        eventually(SOON, || async { has_sessions(&lab, node, &[other]).await }).await.unwrap();
        let forgotten = || async {
            let routes = routes(&lab, node).await;
            let left = gone.iter().find(|block| routes.contains_key(*block));
            left.map_or(Ok(()), |block| Err(format!("{node} still has {block}")))
        };
        eventually(SOON, forgotten).await.unwrap();
    }
    pings(&lab, &pods[0], &pods[1]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_deleted_and_made_anew_under_its_name_has_its_blocks_and_speaks_for_itself() {
    let lab = meshed("peering-anew").await;
    let client = lab.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let (one, two) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "two").await);
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
    let own = blocks(&lab, "node2").await;
    let before = nodes.get("node2").await.unwrap();
    nodes.delete("node2", &DeleteParams::default()).await.unwrap();
    eventually(SOON, || async { has_sessions(&lab, "node1", &["node3"]).await }).await.unwrap();

    let labels = before.metadata.labels.clone();
    let metadata = ObjectMeta { name: Some("node2".to_owned()), labels, ..ObjectMeta::default() };
    let anew = Node { metadata, ..Node::default() };
    let anew = nodes.create(&PostParams::default(), &anew).await.unwrap();
    let status = Patch::Merge(json!({ "status": before.status }));
    nodes.patch_status("node2", &PatchParams::default(), &status).await.unwrap();
    let uid = anew.uid().unwrap();
    assert_ne!(before.uid(), anew.uid());
    all_mesh(&lab).await;
    assert_eq!(blocks(&lab, "node2").await, own);
    eventually(SOON, || pings(&lab, &one, &two)).await.unwrap();
    let late = pod(&lab, "node2", "late").await;
    eventually(SOON, || pings(&lab, &one, &late)).await.unwrap();

    // What is known of it is known of this Node: what was said of the one before goes with that one.
    let statuses: Api<NodeStatus> = Api::all(client.clone());
    let owned = || async {
        let status = statuses.get("node2").await.map_err(|error| error.to_string())?;
        let owners: Vec<&String> = status.owner_references().iter().map(|owner| &owner.uid).collect();
        if owners == [&uid] { Ok(()) } else { Err(format!("of {owners:?}, not of {uid}")) }
    };
    eventually(SOON, owned).await.unwrap();
    let all: Api<IPAMBlock> = Api::all(client);
    let written = || async {
        let blocks = all.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?;
        let of_node2 = blocks.items.into_iter().filter(|block| block.spec.node == "node2");
        let uids: Vec<String> = of_node2.map(|block| block.status.unwrap_or_default().node_uid).collect();
        if uids.len() == own.len() && uids.iter().all(|of| *of == uid) {
            Ok(())
        } else {
            Err(format!("{uids:?}"))
        }
    };
    eventually(SOON, written).await.unwrap();
}

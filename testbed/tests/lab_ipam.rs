//! Addresses in a lab of two nodes, by the real programs: a pool that is divided until it is full, and what is said then.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use manx_ipam::crd::{IPAMBlock, IPPool, IPPoolSpec};
use manx_testbed::{Lab, Options, PodInfo, Topology, eventually};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(150);

async fn start(lab: &Lab, node: &str, name: &str) -> PodInfo {
    let pod = eventually(SOON, || async { lab.pod_add(node, "default", name).await }).await.unwrap();
    assert!(pod.addresses[0].to_string().starts_with("10.9.0."), "{pod:?}");
    pod
}

/// What the Node's condition says, when it says this.
async fn condition(client: &Client, node: &str, status: &str) -> String {
    let nodes: Api<Node> = Api::all(client.clone());
    let said = || async {
        let node = nodes.get(node).await.unwrap();
        let conditions = node.status.unwrap_or_default().conditions.unwrap_or_default();
        let ours = conditions.into_iter().find(|it| it.type_ == "manx.io/IPAddressesExhausted");
        ours.filter(|it| it.status == status).and_then(|it| it.message).ok_or("not said")
    };
    eventually(SOON, said).await.unwrap()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_pool_is_divided_by_its_owners_until_it_is_full_and_that_is_said() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some("ipam".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    let pool = IPPool::new("tiny", IPPoolSpec { block_size: Some(30), ..IPPoolSpec::new("10.9.0.0/29") });
    Api::all(client.clone()).create(&PostParams::default(), &pool).await.unwrap();
    let annotated = Patch::Merge(json!({"metadata": {"annotations": {"manx.io/ip-pools": "tiny"}}}));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch("default", &PatchParams::default(), &annotated).await.unwrap();
    let seen = || async {
        let shown = lab.run("node1", &["manxctl", "ipam", "show", "tiny"]).await?;
        shown
            .contains("10.9.0.0/29")
            .then_some(())
            .ok_or_else(|| manx_testbed::LabError::Answer { of: "show".into(), why: shown })
    };
    eventually(SOON, seen).await.unwrap();

    // Each node has a block of four; node2 uses one address of its own.
    let other = start(&lab, "node2", "other").await;
    let mut pods = Vec::new();
    for number in 0..7 {
        pods.push(start(&lab, "node1", &format!("pod{number}")).await);
    }
    let blocks: Api<IPAMBlock> = Api::all(client.clone());
    let blocks = blocks.list(&ListParams::default()).await.unwrap().items;
    let parts = blocks.iter().filter(|block| block.spec.parent.is_some() && block.spec.node == "node1");
    assert!(parts.count() >= 2, "{blocks:#?}");
    for pod in &pods {
        let ping = ["ping", "-c1", "-W2", &pod.addresses[0].to_string()];
        eventually(SOON, || async { lab.pod_run(&other, &ping).await }).await.unwrap();
    }

    let error = lab.pod_add("node1", "default", "late").await.unwrap_err().to_string();
    assert!(
        error.contains("no free IPv4 address on this node: IPPool \"tiny\" (10.9.0.0/29, 8 addresses"),
        "{error}"
    );
    let late = || async {
        let adding = lab.pod_add("node1", "default", "late");
        let said = condition(&client, "node1", "True");
        let (_, said) = tokio::join!(adding, said);
        Ok::<_, std::convert::Infallible>(said)
    };
    let words = eventually(SOON, late).await.unwrap();
    assert!(words.contains("IPPool \"tiny\""), "{words}");
    let events: Api<Event> = Api::all(client.clone());
    let told = || async {
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let kinds: Vec<Option<String>> =
            events.into_iter().filter_map(|event| event.regarding).map(|object| object.kind).collect();
        let both = ["Node", "IPPool"].iter().all(|kind| kinds.contains(&Some((*kind).to_owned())));
        both.then_some(()).ok_or(format!("{kinds:?}"))
    };
    eventually(SOON, told).await.unwrap();

    lab.pod_del("default", "pod0").await.unwrap();
    condition(&client, "node1", "False").await;
    start(&lab, "node1", "late").await;
    eventually(SOON, || async { lab.run("node1", &["manxctl", "ipam", "check"]).await }).await.unwrap();
    let shown = lab.run("node2", &["manxctl", "ipam", "show", "default/other"]).await.unwrap();
    assert!(shown.contains(&other.addresses[0].to_string()), "{shown}");
}

async fn owners(client: &Client) -> Vec<String> {
    let blocks: Api<IPAMBlock> = Api::all(client.clone());
    let blocks = blocks.list(&ListParams::default()).await.unwrap().items;
    blocks.into_iter().map(|block| block.spec.node).collect()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_blocks_of_a_node_that_is_gone_are_freed_by_one_agent_and_the_node_starts_anew_when_it_is_back() {
    let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let text = std::fs::read_to_string(labs.join("nodes.clab.yml")).unwrap();
    let text = text.replace("nodes/manifests", labs.join("nodes/manifests").to_str().unwrap());
    let patient = "manx.io/runs: manx\n";
    assert!(text.contains(patient));
    let hasty = text.replace(patient, "manx.io/runs: manx\n      env: {MANX_GC_GRACE: '30'}\n");
    let file = tempfile::Builder::new().suffix(".clab.yml").tempfile().unwrap();
    std::fs::write(file.path(), hasty).unwrap();
    let options = Options { name: Some("gone".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(file.path()).unwrap(), options).await.unwrap().temporary();
    let client = lab.client().await.unwrap();
    let stays = eventually(SOON, || async { lab.pod_add("node1", "default", "stays").await }).await.unwrap();
    eventually(SOON, || async { lab.pod_add("node2", "default", "goes").await }).await.unwrap();
    let release = ["manxctl", "ipam", "release", "--node", "node2"];
    let refused = lab.run("node1", &release).await.unwrap_err().to_string();
    assert!(refused.contains("there is a Node \"node2\""), "{refused}");
    let held = stays.addresses[0].to_string();
    let refused = lab.run("node1", &["manxctl", "ipam", "release", &held]).await.unwrap_err().to_string();
    assert!(refused.contains("kubectl -n default delete pod stays"), "{refused}");

    lab.stop_node("node2").await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let node2 = nodes.get("node2").await.unwrap();
    nodes.delete("node2", &DeleteParams::default()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    // As the collector of pods does for a node that is gone.
    pods.delete("goes", &DeleteParams::default().grace_period(0)).await.unwrap();
    let freed = || async {
        let owners = owners(&client).await;
        if owners.contains(&"node2".to_owned()) { Err(format!("{owners:?}")) } else { Ok(owners) }
    };
    assert!(eventually(LATER, freed).await.unwrap().contains(&"node1".to_owned()));
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease = leases.get("manx-ipam-collection").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("node1"));

    let mut anew = node2;
    anew.metadata.resource_version = None;
    anew.metadata.uid = None;
    nodes.create(&PostParams::default(), &anew).await.unwrap();
    nodes.replace_status("node2", &PostParams::default(), &anew).await.unwrap();
    lab.start_node("node2").await.unwrap();
    let back = eventually(SOON, || async { lab.pod_add("node2", "default", "back").await }).await.unwrap();
    let ping = ["ping", "-c1", "-W2", &held];
    eventually(SOON, || async { lab.pod_run(&back, &ping).await }).await.unwrap();
    let uid = nodes.get("node2").await.unwrap().metadata.uid;
    let confirmed = || async {
        let blocks: Api<IPAMBlock> = Api::all(client.clone());
        let blocks = blocks.list(&ListParams::default()).await.unwrap().items;
        let mut own = blocks.iter().filter(|block| block.spec.node == "node2");
        let written = own.all(|block| block.status.as_ref().map(|status| &status.node_uid) == uid.as_ref());
        if written { Ok(()) } else { Err(format!("{blocks:#?}")) }
    };
    eventually(SOON, confirmed).await.unwrap();
}

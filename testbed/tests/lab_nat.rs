//! What pods send out of the cluster leaves with the node's address where the pool says so, in both families; among
//! themselves and to nodes they keep their own.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use manx_ipam::crd::IPPool;
use manx_testbed::{Lab, Options, PodInfo, Topology, echo, eventually};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

/// Of each family: a machine outside the cluster, that of the other node, that of this one, and the pool.
const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("10.10.0.10", "10.10.0.2", "10.10.0.1", "pods-v4"),
    ("fd00:10::10", "fd00:10::2", "fd00:10::1", "pods-v6"),
];

fn of_family(pod: &PodInfo, like: &str) -> IpAddr {
    let is_v4 = like.parse::<IpAddr>().unwrap().is_ipv4();
    *pod.addresses.iter().find(|address| address.is_ipv4() == is_v4).unwrap()
}

/// The address `to` sees the pod call from, once it is `expected`.
async fn is_seen_as(lab: &Lab, pod: &PodInfo, to: IpAddr, expected: IpAddr) {
    let service = SocketAddr::new(to, echo::PORT).to_string();
    let seen = || async {
        let seen =
            lab.pod_run(pod, &["manx-lab", "probe", &service]).await.map_err(|error| error.to_string())?;
        if seen.trim() == expected.to_string() { Ok(()) } else { Err(format!("{to} saw {seen}")) }
    };
    eventually(SOON, seen).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn pods_leave_the_cluster_with_the_nodes_address_where_their_pool_says_so_and_nowhere_else() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some("nat".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let pools: Api<IPPool> = Api::all(lab.client().await.unwrap());
    let pod = eventually(SOON, || async { lab.pod_add("node1", "default", "client").await }).await.unwrap();
    let other = eventually(SOON, || async { lab.pod_add("node2", "default", "server").await }).await.unwrap();
    let _services = [
        lab.spawn("kube", &["manx-lab", "echo"]).unwrap(),
        lab.spawn("node2", &["manx-lab", "echo"]).unwrap(),
        lab.pod_spawn(&other, &["manx-lab", "echo"]).unwrap(),
    ];
    for (outside, node2, node1, pool) in FAMILIES {
        let [outside, node2, node1] = [outside, node2, node1].map(|text| text.parse::<IpAddr>().unwrap());
        let (own, beyond) = (of_family(&pod, &outside.to_string()), of_family(&other, &outside.to_string()));
        let set = async |spec| {
            let patch = Patch::Merge(json!({ "spec": spec }));
            pools.patch(pool, &PatchParams::default(), &patch).await.unwrap();
        };
        set(json!({"natOutgoing": true})).await;
        // The machine outside knows no way to pods: it answers the node alone.
        is_seen_as(&lab, &pod, outside, node1).await;
        is_seen_as(&lab, &pod, beyond, own).await;
        is_seen_as(&lab, &pod, node2, own).await;

        // Someone removes our table: it is put back.
        lab.run("node1", &["nft", "delete", "table", "inet", "manx-nat"]).await.unwrap();
        is_seen_as(&lab, &pod, outside, node1).await;

        // A network that knows the pods, and is told to Manx.
        let width = if own.is_ipv4() { "32" } else { "128" };
        let (to, by) = (format!("{own}/{width}"), node1.to_string());
        lab.run("kube", &["ip", "route", "add", &to, "via", &by]).await.unwrap();
        set(json!({"natExclusions": [format!("{outside}/{width}")]})).await;
        is_seen_as(&lab, &pod, outside, own).await;
        set(json!({"natExclusions": null})).await;
        is_seen_as(&lab, &pod, outside, node1).await;
        set(json!({"natOutgoing": false})).await;
        is_seen_as(&lab, &pod, outside, own).await;
    }
    let absent = || async {
        let tables = lab.run("node1", &["nft", "list", "tables"]).await.map_err(|error| error.to_string())?;
        if tables.contains("manx-nat") { Err(tables) } else { Ok(()) }
    };
    eventually(SOON, absent).await.unwrap();
}

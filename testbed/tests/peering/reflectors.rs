//! Nodes that reflect routes: named by a BGPPeer, or elected by the cluster itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use manx_felix::crd::BGPConfiguration;
use manx_testbed::{Lab, PodInfo, TemporaryLab, eventually};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::process::Child;

use super::{SOON, change, has_sessions, knows, pings, pod, routes, sessions, up};

const NODES: [&str; 4] = ["node1", "node2", "node3", "node4"];

async fn all_know_all(lab: &Lab) -> Result<(), String> {
    for node in NODES {
        let others: Vec<&str> = NODES.into_iter().filter(|other| *other != node).collect();
        knows(lab, node, &others).await?;
    }
    Ok(())
}

async fn gone(lab: &Lab, node: &str) {
    let gone =
        || async { lab.pid(node, "manx-bgpd").unwrap().map_or(Ok(()), |pid| Err(format!("{pid} lives"))) };
    eventually(SOON, gone).await.unwrap();
}

/// Pings at ten a second until it is stopped.
struct Ping(Child);

impl Ping {
    fn start(lab: &Lab, from: &PodInfo, to: &PodInfo) -> Self {
        let to = to.addresses[0].to_string();
        Self(lab.pod_spawn(from, &["ping", "-n", "-q", "-i", "0.1", &to]).unwrap())
    }

    /// What it says in the end.
    async fn stop(mut self) -> String {
        let pid = nix::unistd::Pid::from_raw(self.0.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        self.0.wait().await.unwrap();
        said
    }
}

/// Follows a node's routes, and tells which went.
struct Monitor(Child);

impl Monitor {
    fn start(lab: &Lab, node: &str) -> Self {
        Self(lab.spawn(node, &["ip", "monitor", "route"]).unwrap())
    }

    async fn withdrawn(mut self) -> Vec<String> {
        let pid = nix::unistd::Pid::from_raw(self.0.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        self.0.wait().await.unwrap();
        said.lines().filter(|line| line.starts_with("Deleted 10.244.")).map(str::to_owned).collect()
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn routes_stay_when_one_reflector_is_lost_and_when_all_are() {
    let lab: TemporaryLab = up("reflectors", "peering-reflectors").await;
    for (node, others) in [
        ("node1", &["node2", "node3", "node4"][..]),
        ("node2", &["node1", "node3", "node4"][..]),
        ("node3", &["node1", "node2"][..]),
        ("node4", &["node1", "node2"][..]),
    ] {
        eventually(SOON, || async { has_sessions(&lab, node, others).await }).await.unwrap();
    }
    eventually(SOON, || all_know_all(&lab)).await.unwrap();
    let (three, four) = (pod(&lab, "node3", "three").await, pod(&lab, "node4", "four").await);
    eventually(SOON, || pings(&lab, &three, &four)).await.unwrap();
    let (ping, monitor) = (Ping::start(&lab, &three, &four), Monitor::start(&lab, "node3"));

    lab.kill("node1", "manx-bgpd", Signal::SIGKILL).unwrap();
    gone(&lab, "node1").await;
    let by_the_other = || async {
        let sessions = sessions(&lab, "node3").await?;
        let (lost, left) = (&sessions["node1"], &sessions["node2"]);
        let stale = lost.stale == 0 && left.received > 0 || lost.long_lived > 0;
        if stale { Ok(()) } else { Err(format!("{lost:?}")) }
    };
    eventually(SOON, by_the_other).await.unwrap();
    all_know_all(&lab).await.unwrap();

    lab.kill("node2", "manx-bgpd", Signal::SIGKILL).unwrap();
    gone(&lab, "node2").await;
    let long_lived = || async {
        let sessions = sessions(&lab, "node3").await?;
        let kept = sessions["node1"].long_lived + sessions["node2"].long_lived;
        if kept > 0 && sessions["node2"].long_lived > 0 { Ok(()) } else { Err(format!("{sessions:?}")) }
    };
    eventually(SOON, long_lived).await.unwrap();
    knows(&lab, "node3", &["node1", "node2", "node4"]).await.unwrap();
    knows(&lab, "node4", &["node1", "node2", "node3"]).await.unwrap();
    for node in ["node1", "node2"] {
        lab.start_daemon(node, "manx-bgpd").await.unwrap();
    }
    eventually(SOON, || async { has_sessions(&lab, "node3", &["node1", "node2"]).await }).await.unwrap();
    let fresh = || async {
        let sessions = sessions(&lab, "node3").await?;
        let stale: usize = sessions.values().map(|session| session.stale).sum();
        if stale == 0 { Ok(()) } else { Err(format!("{stale} stale")) }
    };
    eventually(SOON, fresh).await.unwrap();
    assert_eq!(monitor.withdrawn().await, [""; 0]);
    let said = ping.stop().await;
    assert!(said.contains(" 0% packet loss"), "{said}");
}

/// Nodes that say of themselves that they reflect.
async fn reflecting(lab: &Lab) -> Vec<String> {
    let api: Api<Node> = Api::all(lab.client().await.unwrap());
    let nodes = api.list(&ListParams::default()).await.unwrap().items;
    let says = |node: &Node| {
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|one| one.type_ == "manx.io/RouteReflector" && one.status == "True")
    };
    nodes.iter().filter(|node| says(node)).filter_map(|node| node.metadata.name.clone()).collect()
}

/// Just these reflect, and every other node has a session with each of them and nobody else.
async fn settled(lab: &Lab, count: usize, without: Option<&str>) -> Result<Vec<String>, String> {
    let reflecting = reflecting(lab).await;
    let left: Vec<String> =
        reflecting.iter().filter(|name| Some(name.as_str()) != without).cloned().collect();
    if left.len() != count {
        return Err(format!("{reflecting:?} reflect"));
    }
    for node in NODES.into_iter().filter(|node| !reflecting.iter().any(|name| name == node)) {
        has_sessions(lab, node, &left.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    }
    Ok(left)
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_cluster_elects_reflectors_and_others_when_they_fail_without_losing_a_route() {
    // The new topology stands for half a minute before the old one goes.
    const MOVED: Duration = Duration::from_secs(240);
    let lab = up("elected", "peering-elected").await;
    eventually(SOON, || async { has_sessions(&lab, "node1", &["node2", "node3", "node4"]).await })
        .await
        .unwrap();
    eventually(SOON, || all_know_all(&lab)).await.unwrap();
    assert_eq!(reflecting(&lab).await, [""; 0]);
    let mut pods = Vec::new();
    for node in NODES {
        pods.push(pod(&lab, node, &format!("on-{node}")).await);
    }
    eventually(SOON, || pings(&lab, &pods[0], &pods[3])).await.unwrap();
    let pings: Vec<Ping> = [(0, 1), (0, 2), (1, 3), (2, 3)]
        .into_iter()
        .map(|(from, to)| Ping::start(&lab, &pods[from], &pods[to]))
        .collect();
    let monitors: Vec<Monitor> = NODES.into_iter().map(|node| Monitor::start(&lab, node)).collect();

    change::<BGPConfiguration>(&lab, "default", json!({"spec": {"meshLimit": 3}})).await;
    let elected = eventually(MOVED, || settled(&lab, 2, None)).await.unwrap();
    // One in each zone.
    let zone = |name: &str| name.bytes().last().unwrap() % 2;
    assert_ne!(zone(&elected[0]), zone(&elected[1]), "{elected:?}");

    let api: Api<Node> = Api::all(lab.client().await.unwrap());
    let cordon = kube::api::Patch::Merge(json!({"spec": {"unschedulable": true}}));
    api.patch(&elected[0], &kube::api::PatchParams::default(), &cordon).await.unwrap();
    let others = eventually(MOVED, || settled(&lab, 2, Some(&elected[0]))).await.unwrap();
    assert!(others.contains(&elected[1]) && !others.contains(&elected[0]), "{elected:?}, then {others:?}");

    change::<BGPConfiguration>(&lab, "default", json!({"spec": {"meshLimit": 10}})).await;
    for node in NODES {
        let others: Vec<&str> = NODES.into_iter().filter(|other| *other != node).collect();
        eventually(MOVED, || async { has_sessions(&lab, node, &others).await }).await.unwrap();
    }
    for (node, monitor) in NODES.into_iter().zip(monitors) {
        assert_eq!(monitor.withdrawn().await, [""; 0], "{node}: {:?}", routes(&lab, node).await);
    }
    for ping in pings {
        let said = ping.stop().await;
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}

//! Agents and speakers of all nodes are replaced as their DaemonSets say, under traffic: to a newer release, and back.
//!
//! `MANX_OLDER_IMAGE` names the unpacked image of another release to begin with and to go back to; without it the other
//! release is this one, and every pod is replaced all the same.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manx_testbed::kubelet::{Kubelet, rollout};
use manx_testbed::traffic::{Stream, flood};
use manx_testbed::{Lab, Options, PodInfo, Topology, eventually};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(90);
const NODES: [&str; 2] = ["node1", "node2"];

/// What a node says of itself.
async fn node_status(lab: &Lab, node: &str) -> Result<Value, String> {
    let argv = ["manxctl", "status", "-o", "json"];
    let said = lab.run(node, &argv).await.map_err(|error| error.to_string())?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    Ok(said["node"].clone())
}

/// Its routes have been swept, and its sessions, with the other node and the router, are up.
async fn settled(lab: &Lab, node: &str) -> Result<(), String> {
    let said = node_status(lab, node).await?;
    let sessions = said["speaker"]["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let up = sessions.iter().filter(|session| session["state"] == "Established").count();
    match said["ready"] == true && said["routes"]["swept"] == true && up == 2 {
        true => Ok(()),
        false => Err(said.to_string()),
    }
}

/// What becomes of a kernel's routes from now on.
fn watch(lab: &Lab, node: &str) -> Child {
    lab.spawn(node, &["ip", "-4", "monitor", "route"]).unwrap()
}

/// The routes to pods it has lost meanwhile.
async fn lost(mut watcher: Child) -> Vec<String> {
    let mut said = Vec::new();
    let mut stdout = watcher.stdout.take().unwrap();
    while let Ok(Ok(1..)) = timeout(Duration::from_secs(1), stdout.read_buf(&mut said)).await {}
    let said = String::from_utf8(said).unwrap();
    said.lines()
        .filter(|line| line.starts_with("Deleted") && line.contains(" 10.244."))
        .map(str::to_owned)
        .collect()
}

/// Withdrawals that the BIRD behind the router has been told.
async fn withdrawals(lab: &Lab) -> u64 {
    let shown = lab.run("watcher", &["birdc", "show", "protocols", "all", "by_tor"]).await.unwrap();
    let line = shown.lines().find_map(|line| line.trim().strip_prefix("Import withdraws:"));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

async fn pod(lab: &Lab, node: &str, name: &str) -> PodInfo {
    eventually(SOON, || async { lab.pod_add(node, "default", name).await }).await.unwrap()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_release_is_rolled_out_and_back_without_a_packet_lost() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/upgrade.clab.yml");
    let lab = Lab::up(&Topology::read(&file).unwrap(), Options::default()).await.unwrap().temporary();
    let older: Option<PathBuf> =
        std::env::var_os("MANX_OLDER_IMAGE").filter(|root| !root.is_empty()).map(Into::into);
    println!("the other release: {}", older.as_deref().map_or("this one".into(), Path::to_string_lossy));
    let mut nodes = Vec::new();
    for node in NODES {
        nodes.push(Kubelet::start(&lab, node, older.clone()).await.unwrap());
    }
    let (one, other) = (pod(&lab, "node1", "one").await, pod(&lab, "node2", "other").await);
    for node in NODES {
        eventually(SOON, || settled(&lab, node)).await.unwrap();
    }
    let to = other.addresses[0];
    let argv = ["ping", "-c1", "-W1", &to.to_string()];
    eventually(SOON, || async { lab.pod_run(&one, &argv).await }).await.unwrap();
    let argv = ["ping", "-c1", "-W1", &one.addresses[0].to_string()];
    for from in ["tor", "watcher"] {
        eventually(SOON, || async { lab.run(from, &argv).await }).await.unwrap();
    }

    let mut stream = Stream::begin(&lab, &one, &other).await.unwrap();
    let watched: Vec<Child> = ["node1", "node2", "tor", "watcher"].map(|node| watch(&lab, node)).into();
    let told = withdrawals(&lab).await;
    let (place, stop) = (one.place(), AtomicBool::new(false));
    let rollouts = async {
        // Newer, agents first; then back, speakers first: each order leaves one of them ahead of the other meanwhile.
        for (set, image) in [
            ("manx-felix", None),
            ("manx-bgpd", None),
            ("manx-bgpd", older.as_deref()),
            ("manx-felix", older.as_deref()),
        ] {
            rollout(&mut nodes, set, image).await.unwrap();
            for node in NODES {
                eventually(SOON, || settled(&lab, node)).await.unwrap_or_else(|late| panic!("{set}: {late}"));
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((), between, inbound, far) = tokio::join!(
        rollouts,
        flood(&lab, &place, to, &stop),
        flood(&lab, "tor", to, &stop),
        flood(&lab, "watcher", one.addresses[0], &stop),
    );
    for (what, packets) in [("pod to pod", between), ("router to pod", inbound), ("from behind it", far)] {
        let packets = packets.unwrap();
        println!("{what}: {packets:?}");
        assert_eq!(packets.sent, packets.received, "{what}: packets were lost");
        assert!(packets.sent > 1000, "{what}: {packets:?}");
    }
    stream.whole().await.unwrap();
    assert_eq!(withdrawals(&lab).await, told, "a withdrawal went on behind the router");
    for (node, watcher) in ["node1", "node2", "tor", "watcher"].into_iter().zip(watched) {
        assert_eq!(lost(watcher).await, Vec::<String>::new(), "{node} has lost routes to pods");
    }
    // Pods start as before, on both.
    let late = pod(&lab, "node1", "late").await;
    let to = late.addresses[0].to_string();
    eventually(SOON, || async { lab.pod_run(&other, &["ping", "-c1", "-W1", &to]).await }).await.unwrap();
}

//! Real container runtimes on a lab's node: what the agent installs is all they are told of Manx.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod containerd;
mod cri;
mod grpc;
mod image;
mod machine;
mod podman;

use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};

use machine::PATIENCE;

/// The pools of the lab.
const POOLS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// Two nodes; once this returns, the agent of node1 has installed plugin and configuration.
async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let installed = || lab.run("node1", &["cat", "/etc/cni/net.d/10-manx.conflist", "/opt/cni/bin/manx"]);
    eventually(PATIENCE, installed).await.unwrap();
    lab
}

/// A pod on the other node, to be reached.
async fn far(lab: &Lab) -> Vec<IpAddr> {
    let added = || lab.pod_add("node2", "default", "far");
    eventually(PATIENCE, added).await.unwrap().addresses
}

/// One address of each of the lab's pools.
fn assert_of_the_pools(addresses: &[IpAddr]) {
    let pools = POOLS.map(|pool| pool.parse::<IpNetwork>().unwrap());
    let holds = |pool: &IpNetwork| addresses.iter().any(|address| pool.contains(*address));
    assert!(addresses.len() == 2 && pools.iter().all(holds), "{addresses:?}");
}

/// What node1 has of Manx's pods: interfaces, routes to single addresses, files, and the agent's own word.
async fn pods_of(lab: &Lab) -> Result<String, String> {
    let links = lab.run("node1", &["sh", "-c", "ip -o link | grep ' manx' || true"]);
    let routes = lab.run("node1", &["sh", "-c", "ip route show proto 77; ip -6 route show proto 77"]);
    let (links, routes) = (links.await.map_err(|error| error.to_string())?, routes.await.unwrap());
    let routes: Vec<&str> = routes.lines().filter(|line| line.contains("dev manx")).collect();
    let files = lab.node_folder("node1").join("run/manx/attachments");
    let files = std::fs::read_dir(files).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
    if links.is_empty() && routes.is_empty() && files.is_empty() {
        return Ok(lab.run("node1", &["manxctl", "status"]).await.unwrap());
    }
    Err(format!("links {links:?}, routes {routes:?}, files {files:?}"))
}

/// Waits until nothing of a pod is on node1.
async fn assert_nothing_left(lab: &Lab) {
    let report = eventually(PATIENCE, || pods_of(lab)).await.unwrap();
    assert!(report.contains("PODS\nnone\n"), "{report}");
}

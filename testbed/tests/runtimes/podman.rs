//! podman with its CNI backend: containers that Kubernetes knows nothing of.

use std::net::IpAddr;
use std::path::PathBuf;

use manx_testbed::{Lab, eventually};
use serde_json::{Value, json};

use super::machine::{Machine, PATIENCE};
use super::{assert_nothing_left, assert_of_the_pools, far, image, up};

/// What it is told besides its own defaults: CNI for networks, and limits that a machine without CAP_SYS_RESOURCE
/// can set.
const CONFIG: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
"#;

/// A node on which people use podman.
struct Node<'a>(Machine<'a>);

impl<'a> Node<'a> {
    async fn boot(lab: &'a Lab) -> Self {
        let run: PathBuf = lab.node_folder("node1").join("run");
        std::fs::write(run.join("containers.conf"), CONFIG).unwrap();
        image::write(&run.join("image.tar"));
        let node = Self(Machine::boot(lab, "node1", &["sleep", "infinity"]).await);
        node.podman(&["load", "-i", "/run/image.tar"]).await;
        node
    }

    async fn try_podman(&self, args: &[&str]) -> Result<String, String> {
        let argv = [&["env", "CONTAINERS_CONF=/run/containers.conf", "podman"], args].concat();
        self.0.exec(&argv).await
    }

    async fn podman(&self, args: &[&str]) -> String {
        self.try_podman(args).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a container that stays; returns its addresses.
    async fn run(&self, name: &str, network: &str) -> Vec<IpAddr> {
        let parent = format!("--cgroup-parent={}", self.0.cgroup());
        self.podman(&["run", "-d", "--name", name, "--network", network, &parent, image::NAME]).await;
        let said =
            self.podman(&["exec", name, "busybox", "ip", "-o", "address", "show", "dev", "eth0"]).await;
        let global = said.lines().filter(|line| line.contains("scope global"));
        let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
        global.map(|line| address(line).unwrap_or_else(|| panic!("{said}"))).collect()
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_container_of_podman_reaches_a_pod_and_is_cleaned_up() {
    let lab = up("podman").await;
    let far = far(&lab).await;
    let node = Node::boot(&lab).await;
    let addresses = node.run("web", "manx").await;
    assert_of_the_pools(&addresses);
    for address in &far {
        let address = address.to_string();
        let ping = ["exec", "web", "ping", "-c1", "-W2", &address];
        eventually(PATIENCE, || node.try_podman(&ping)).await.unwrap();
    }
    // A name and no namespace: a container of this node, not a pod.
    let report = lab.run("node1", &["manxctl", "status", "--output", "json"]).await.unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let pod = &report["node"]["pods"][0];
    assert_eq!((&pod["namespace"], &pod["name"], &pod["known"]), (&json!(""), &json!("web"), &json!(false)));

    node.podman(&["rm", "-f", "-t0", "web"]).await;
    assert_nothing_left(&lab).await;

    // By CNI_ARGS, which is how podman asks for them.
    let (ip, mac) = (addresses.iter().find(|address| address.is_ipv4()).unwrap(), "02:00:00:00:00:77");
    let network = format!("manx:ip={ip},mac={mac}");
    let again = node.run("again", &network).await;
    assert!(again.contains(ip), "{again:?}");
    let link = node.podman(&["exec", "again", "busybox", "ip", "link", "show", "eth0"]).await;
    assert!(link.contains(mac), "{link}");
    node.podman(&["rm", "-f", "-t0", "again"]).await;
    assert_nothing_left(&lab).await;
}

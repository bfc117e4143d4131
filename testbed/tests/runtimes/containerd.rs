//! containerd's CRI plugin, as a kubelet drives it: the distribution's, or another whose programs lie in the folder
//! `MANX_CONTAINERD`.

use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use manx_testbed::{Lab, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

use super::cri::{Cri, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata};
use super::machine::{Machine, PATIENCE};
use super::{assert_nothing_left, assert_of_the_pools, far, image, up};

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What it is told besides its own defaults. No kubelet's pause image is at hand, and neither rights nor modules that
/// AppArmor and the OOM score want.
const CONFIG: &str = r#"
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/busybox:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// A node that runs containerd.
struct Node<'a> {
    lab: &'a Lab,
    machine: Machine<'a>,
    cri: Cri,
}

impl<'a> Node<'a> {
    async fn boot(lab: &'a Lab) -> Self {
        let run: PathBuf = lab.node_folder("node1").join("run");
        std::fs::write(run.join("containerd.toml"), CONFIG).unwrap();
        image::write(&run.join("image.tar"));
        // containerd 1 has this plugin bring up every sandbox's lo, besides the network's own.
        lab.run("node1", &["cp", "/usr/lib/cni/loopback", "/opt/cni/bin/"]).await.unwrap();
        let path =
            env::var("MANX_CONTAINERD").map_or_else(|_| PATH.to_owned(), |other| format!("{other}:{PATH}"));
        let path = format!("PATH={path}");
        let containerd = ["env", &path, "containerd", "--config", "/run/containerd.toml"];
        let machine = Machine::boot(lab, "node1", &containerd).await;
        let cri = Cri::connect(&run.join("containerd/containerd.sock"), PATIENCE).await;
        let cri = cri.unwrap_or_else(|late| panic!("{late}\n{}", machine.log()));
        let socket = "/run/containerd/containerd.sock";
        machine
            .run(&["env", &path, "ctr", "-a", socket, "-n", "k8s.io", "images", "import", "/run/image.tar"])
            .await;
        Self { lab, machine, cri }
    }

    /// A pod as the scheduler gives it to the kubelet, and what that asks of the runtime.
    async fn pod(&self, name: &str) -> PodSandboxConfig {
        let pods: Api<Pod> = Api::default_namespaced(self.lab.client().await.unwrap());
        let container = json!({"name": "busybox", "image": image::NAME});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "node1", "containers": [container]},
        });
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: pod.metadata.uid.unwrap(),
                namespace: "default".to_owned(),
            }),
            hostname: name.to_owned(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: self.machine.cgroup() }),
        }
    }

    /// Whether the runtime takes the network for ready, and why not.
    async fn network_ready(&self) -> Result<(), String> {
        let conditions = self.cri.conditions().await.map_err(|error| error.to_string())?;
        match conditions.into_iter().find(|one| one.r#type == "NetworkReady") {
            Some(condition) if condition.status => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    async fn reaches(&self, container: &str, addresses: &[IpAddr]) {
        for address in addresses {
            let ping = ["ping", "-c1", "-W2", &address.to_string()];
            let pinged = || async { self.cri.exec(container, &ping).await };
            eventually(PATIENCE, pinged).await.unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_pod_of_containerd_reaches_another_nodes_and_its_two_dels_leave_nothing() {
    let lab = up("containerd").await;
    let far = far(&lab).await;
    let node = Node::boot(&lab).await;
    eventually(PATIENCE, || node.network_ready()).await.unwrap();

    let config = node.pod("web").await;
    let sandbox = node.cri.run_pod_sandbox(&config).await.unwrap();
    let addresses = node.cri.addresses(&sandbox).await.unwrap();
    assert_of_the_pools(&addresses);
    let container = node.cri.run_container(&sandbox, &config, "busybox").await.unwrap();
    node.reaches(&container, &far).await;
    let report = lab.run("node1", &["manxctl", "status"]).await.unwrap();
    assert!(report.contains("default/web"), "{report}");

    node.cri.stop_pod_sandbox(&sandbox).await.unwrap();
    assert_nothing_left(&lab).await;
    let next = node.pod("next").await;
    let after = node.cri.run_pod_sandbox(&next).await.unwrap();
    let container = node.cri.run_container(&after, &next, "busybox").await.unwrap();
    node.cri.remove_pod_sandbox(&sandbox).await.unwrap();
    node.reaches(&container, &far).await;
    node.cri.stop_pod_sandbox(&after).await.unwrap();
    node.cri.remove_pod_sandbox(&after).await.unwrap();
    assert_nothing_left(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn pods_of_containerd_end_with_the_agent_away_and_start_when_it_is_back() {
    let lab = up("containerd-alone").await;
    let node = Node::boot(&lab).await;
    eventually(PATIENCE, || node.network_ready()).await.unwrap();
    let first = node.pod("first").await;
    let sandbox = node.cri.run_pod_sandbox(&first).await.unwrap();

    lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
    let second = node.pod("second").await;
    let refused = node.cri.run_pod_sandbox(&second).await.unwrap_err().to_string();
    assert!(refused.contains("the agent is not running"), "{refused}");
    node.cri.stop_pod_sandbox(&sandbox).await.unwrap();
    node.cri.remove_pod_sandbox(&sandbox).await.unwrap();
    let links = lab.run("node1", &["ip", "-o", "link"]).await.unwrap();
    assert!(!links.contains(" manx"), "{links}");

    lab.start_daemon("node1", "manx-felix").await.unwrap();
    assert_nothing_left(&lab).await;
    let started = || node.cri.run_pod_sandbox(&second);
    let sandbox = eventually(PATIENCE, started).await.unwrap();
    assert_of_the_pools(&node.cri.addresses(&sandbox).await.unwrap());
    node.cri.stop_pod_sandbox(&sandbox).await.unwrap();
    node.cri.remove_pod_sandbox(&sandbox).await.unwrap();
    assert_nothing_left(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_network_is_as_ready_as_the_agent_says_where_containerd_asks_it() {
    let lab = up("containerd-status").await;
    let node = Node::boot(&lab).await;
    eventually(PATIENCE, || node.network_ready()).await.unwrap();
    lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
    if node.cri.version().await.unwrap().starts_with("1.") {
        // It does not know STATUS: a configuration is all it looks for.
        node.network_ready().await.unwrap();
        return;
    }
    let away = || async {
        match node.network_ready().await {
            Err(why) if why.contains("the agent is not running") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(PATIENCE, away).await.unwrap();
    lab.start_daemon("node1", "manx-felix").await.unwrap();
    eventually(PATIENCE, || node.network_ready()).await.unwrap();
}

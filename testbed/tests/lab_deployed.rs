//! Nodes set up by the manifests of `deploy/` alone, by a real container runtime; and nodes cleaned up again.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use manx_testbed::kubelet::Kubelet;
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/deployed.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary()
}

/// An unpacked image to run instead of the programs built here: `MANX_IMAGE_ROOT`.
fn image() -> Option<std::path::PathBuf> {
    std::env::var_os("MANX_IMAGE_ROOT").filter(|root| !root.is_empty()).map(Into::into)
}

async fn start(lab: &Lab, node: &str, name: &str) -> PodInfo {
    let added = || async { lab.pod_add(node, "default", name).await };
    eventually(SOON, added).await.unwrap()
}

/// A line of a process's status, of proc(5).
fn status(kubelet: &Kubelet<'_>, container: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", kubelet.pid(container).unwrap())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().trim().to_owned()
}

async fn reaches(lab: &Lab, from: &PodInfo, to: &PodInfo) {
    for address in &to.addresses {
        let version = if matches!(address, IpAddr::V4(_)) { "-4" } else { "-6" };
        let ping = || async {
            lab.pod_run(from, &["ping", version, "-c1", "-W1", &address.to_string()]).await.map(drop)
        };
        eventually(SOON, ping).await.unwrap_or_else(|late| panic!("{} to {address}: {late}", from.name));
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_manifests_alone_make_nodes_whose_pods_reach_each_other() {
    let lab = up("deployed").await;
    // The one node's speaker is there first, the other's agent.
    let (mut one, mut two) = (Kubelet::idle(&lab, "node1").unwrap(), Kubelet::idle(&lab, "node2").unwrap());
    for set in ["manx-bgpd", "manx-felix"] {
        one.begin(set, image().as_deref()).await.unwrap();
    }
    for set in ["manx-felix", "manx-bgpd"] {
        two.begin(set, image().as_deref()).await.unwrap();
    }
    let (a, b) = (start(&lab, "node1", "a").await, start(&lab, "node2", "b").await);
    assert_eq!(a.addresses.len(), 2);
    reaches(&lab, &a, &b).await;
    reaches(&lab, &b, &a).await;

    // No more rights than the manifests give, and all of what they take away.
    for kubelet in [&one, &two] {
        for (container, capabilities) in [("manx-felix", 1_u64 << 12 | 1 << 13), ("manx-bgpd", 1 << 10)] {
            for set in ["CapBnd", "CapEff", "CapPrm"] {
                let held = u64::from_str_radix(&status(kubelet, container, set), 16).unwrap();
                assert_eq!(held, capabilities, "{set} of {container}");
            }
            assert_eq!(u64::from_str_radix(&status(kubelet, container, "CapAmb"), 16).unwrap(), 0);
            assert_eq!(status(kubelet, container, "NoNewPrivs"), "1");
            assert_eq!(status(kubelet, container, "Seccomp"), "2");
            println!("{container}: resident {}", status(kubelet, container, "VmRSS"));
        }
        // What they have done with them: all that they wanted.
        let said = kubelet.log("manx-felix") + &kubelet.log("manx-bgpd");
        for bad in ["forbidden", "cannot be written", "cannot install", "denied", "not permitted", "ERROR"] {
            assert!(!said.contains(bad), "{bad}: {said}");
        }
    }
    let forwarding = lab.run("node1", &["cat", "/proc/sys/net/ipv4/ip_forward"]).await.unwrap();
    assert_eq!(forwarding.trim(), "1");
    let conflist = lab.run("node1", &["cat", "/etc/cni/net.d/10-manx.conflist"]).await.unwrap();
    assert!(conflist.contains("\"manx\""), "{conflist}");
    lab.run("node1", &["cmp", "/opt/cni/bin/manx", &plugin(&lab)]).await.unwrap();

    // The speaker sees nothing of the agent's state, and holds no token.
    let root = |container: &str| format!("/proc/{}/root", one.pid(container).unwrap());
    assert!(!Path::new(&root("manx-bgpd")).join("run/manx/attachments").exists());
    assert!(Path::new(&root("manx-felix")).join("run/manx/attachments").exists());
    assert!(!Path::new(&root("manx-bgpd")).join("var/run/secrets").exists());
    for container in ["manx-felix", "manx-bgpd"] {
        let written = fs::write(format!("{}/written", root(container)), "");
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{container}");
    }
}

fn plugin(lab: &Lab) -> String {
    let built = lab.programs().join("manx");
    image().map_or(built, |root| root.join("manx")).to_string_lossy().into_owned()
}

/// What is left of Manx in a node's kernel and files.
async fn left(lab: &Lab, node: &str) -> Vec<String> {
    let mut left = Vec::new();
    for argv in [
        &["ip", "-4", "route", "show", "table", "all", "proto", "77"][..],
        &["ip", "-6", "route", "show", "table", "all", "proto", "77"],
        &["sh", "-c", "ip -o link | grep -o ' manx[^:@]*' || true"],
        &["sh", "-c", "nft list tables | grep manx || true"],
        &["sh", "-c", "find /run/manx /opt/cni/bin/manx /etc/cni/net.d/10-manx.conflist 2>/dev/null || true"],
    ] {
        left.extend(lab.run(node, argv).await.unwrap().lines().map(|line| line.trim().to_owned()));
    }
    left
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_node_is_clean_after_uninstall_and_its_pods_are_asked_for_first() {
    let lab = up("uninstalled").await;
    let mut one = Kubelet::start(&lab, "node1", image()).await.unwrap();
    let mut two = Kubelet::start(&lab, "node2", image()).await.unwrap();
    let (a, b) = (start(&lab, "node1", "a").await, start(&lab, "node2", "b").await);
    reaches(&lab, &a, &b).await;
    let uninstall = |more: &'static [&'static str]| {
        let socket = "--speaker-socket=/run/manx/bgpd/bgpd.sock";
        let argv = [&["manxctl", "uninstall", socket], more].concat();
        let lab = &lab;
        async move { lab.run("node1", &argv).await }
    };
    let refused = uninstall(&[]).await.unwrap_err().to_string();
    assert!(
        refused.contains("another manx-felix") && refused.contains("deleting its DaemonSet"),
        "{refused}"
    );
    one.stop("manx-felix").await.unwrap();
    let refused = uninstall(&[]).await.unwrap_err().to_string();
    assert!(refused.contains("manx-bgpd runs"), "{refused}");
    one.stop("manx-bgpd").await.unwrap();
    let refused = uninstall(&[]).await.unwrap_err().to_string();
    assert!(refused.contains("default/a") && refused.contains("--force"), "{refused}");
    assert!(!left(&lab, "node1").await.is_empty());
    // A table of ours, whether or not the agent had made it, and what is another's.
    lab.run("node1", &["nft", "add table inet manx; add table inet other"]).await.unwrap();
    lab.run("node1", &["ip", "route", "add", "blackhole", "198.18.0.0/24"]).await.unwrap();

    let said = uninstall(&["--force"]).await.unwrap();
    assert!(said.ends_with("this node is clean\n"), "{said}");
    for what in [
        "IPv4 routes",
        "IPv6 routes",
        "interface manx",
        "10-manx.conflist",
        "/opt/cni/bin/manx",
        "attachments",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    assert_eq!(left(&lab, "node1").await, Vec::<String>::new());
    assert_eq!(lab.run("node1", &["nft", "list", "tables"]).await.unwrap().trim(), "table inet other");
    assert!(!lab.run("node1", &["ip", "route", "show", "198.18.0.0/24"]).await.unwrap().is_empty());
    assert_eq!(uninstall(&[]).await.unwrap(), "this node is clean\n");

    // The other by the DaemonSet that is there for it.
    two.stop("manx-felix").await.unwrap();
    two.stop("manx-bgpd").await.unwrap();
    assert!(!left(&lab, "node2").await.is_empty());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/uninstall");
    let applied = Command::new("kubectl")
        .args([
            "--kubeconfig".as_ref(),
            lab.kubeconfig().as_os_str(),
            "apply".as_ref(),
            "-k".as_ref(),
            folder.as_os_str(),
        ])
        .output()
        .await
        .unwrap();
    assert!(applied.status.success(), "{applied:?}");
    two.begin("manx-uninstall", image().as_deref()).await.unwrap();
    let clean = || async {
        // The folder itself is what its container has mounted.
        let mut left = left(&lab, "node2").await;
        left.retain(|line| line != "/run/manx");
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}: {}", two.log("manx-uninstall"))) }
    };
    eventually(SOON, clean).await.unwrap();
}

//! Pods of a lab, by the real programs: what is told when something is wrong, and what stays.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use manx_testbed::{Lab, LabError, Options, TemporaryLab, Topology, eventually, netns};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/demo.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary()
}

/// A pod started as soon as its node has blocks to give it addresses of.
async fn start(lab: &Lab, node: &str, name: &str) {
    let added = || async { lab.pod_add(node, "default", name).await };
    let pod = eventually(SOON, added).await.unwrap();
    assert_eq!(pod.addresses.iter().filter(|address| address.is_ipv4()).count(), 1);
    assert_eq!(pod.addresses.iter().filter(|address| address.is_ipv6()).count(), 1);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_pod_is_what_kubernetes_and_the_kernel_say_it_is() {
    let lab = up("pods-live").await;
    start(&lab, "node1", "web").await;
    let pod = lab.pod("default", "web").unwrap();
    let api: Api<Pod> = Api::default_namespaced(lab.client().await.unwrap());
    let status = api.get("web").await.unwrap().status.unwrap();
    let told: Vec<String> = status.pod_ips.unwrap().into_iter().map(|ip| ip.ip).collect();
    assert_eq!(told, pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    let shown = lab.pod_run(&pod, &["ip", "-o", "address", "show", "dev", "eth0"]).await.unwrap();
    assert!(told.iter().all(|address| shown.contains(address)), "{shown}");

    let error = lab.pod_add("node2", "default", "web").await.unwrap_err();
    assert_eq!(error.to_string(), "pod default/web exists already, on node1");
    lab.pod_del("default", "web").await.unwrap();
    let error = lab.pod_del("default", "web").await.unwrap_err();
    assert_eq!(error.to_string(), "no pod default/web: see \"manx-lab pod list\"");
    assert!(!netns::path(&pod.netns).exists());
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_pod_whose_node_has_no_agent_is_refused_in_the_plugins_words_and_leaves_nothing() {
    let lab = up("pods-no-agent").await;
    lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
    let dead =
        || async { lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(pid.to_string())) };
    eventually(SOON, dead).await.unwrap();
    let error = lab.pod_add("node1", "default", "web").await.unwrap_err();
    assert!(matches!(error, LabError::Cni { code: 11, .. }), "{error}");
    assert!(error.to_string().starts_with("manx ADD for default/web: "), "{error}");
    assert!(lab.pods().is_empty());
    assert_eq!(netns::of_lab(lab.name()).into_iter().filter(|name| name.ends_with(".web")).count(), 0);
    let api: Api<Pod> = Api::default_namespaced(lab.client().await.unwrap());
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());

    lab.start_daemon("node1", "manx-felix").await.unwrap();
    start(&lab, "node1", "web").await;
}

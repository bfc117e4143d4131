//! What others do to a node's kernel is told, and put right where it is ours: settings, routes; and what manxctl says of a
//! node and of the way of a packet, on it and from elsewhere.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use manx_felix::crd::NodeStatus;
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(2);

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary()
}

async fn sh(lab: &Lab, node: &str, script: &str) -> Result<String, String> {
    lab.run(node, &["sh", "-c", script]).await.map_err(|error| error.to_string())
}

/// What `script` prints has these words, or why not.
async fn says(lab: &Lab, node: &str, script: &str, words: &[&str]) -> Result<String, String> {
    // A verdict that is bad is what is asked for.
    let said = sh(lab, node, &format!("{script} || true")).await?;
    match words.iter().find(|word| !said.contains(**word)) {
        Some(missing) => Err(format!("no {missing} in {said}")),
        None => Ok(said),
    }
}

/// What a node has written of itself.
async fn node_status(lab: &Lab, node: &str) -> Result<NodeStatus, String> {
    let api: Api<NodeStatus> = Api::all(lab.client().await.unwrap());
    api.get(node).await.map_err(|error| error.to_string())
}

/// A condition of a node's NodeStatus, once it is this.
async fn condition(lab: &Lab, node: &str, type_: &str, status: &str) -> Result<Condition, String> {
    let written = node_status(lab, node).await?.status.unwrap_or_default();
    let found = written.conditions.into_iter().find(|it| it.type_ == type_).ok_or("not there")?;
    if found.status == status { Ok(found) } else { Err(format!("{found:?}")) }
}

/// The block a node owns, of IPv4.
async fn block(lab: &Lab, node: &str) -> Result<String, String> {
    let shown = sh(lab, node, "ip -4 route show type blackhole proto 77").await?;
    shown.split_whitespace().nth(1).map(str::to_owned).ok_or(shown)
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_setting_that_someone_changes_is_put_back_told_and_counted() {
    let lab = up("upkeep-settings").await;
    eventually(SOON, || condition(&lab, "node1", "KernelPrepared", "True")).await.unwrap();
    // Whose interface is as the agent wants it from the beginning.
    eventually(SOON, || async { lab.pod_add("node1", "default", "some").await }).await.unwrap();
    for (setting, wrong, right) in
        [("ip_forward", "0", "1"), ("conf/eth1/rp_filter", "1", "2"), ("fib_multipath_hash_policy", "0", "1")]
    {
        let file = format!("/proc/sys/net/ipv4/{setting}");
        sh(&lab, "node1", &format!("echo {wrong} > {file}")).await.unwrap();
        let back = || async {
            let now = sh(&lab, "node1", &format!("cat {file}")).await?;
            if now.trim() == right { Ok(()) } else { Err(format!("{setting} is {now}")) }
        };
        eventually(SOON, back).await.unwrap();
        let told =
            format!("{} was {wrong}, which someone else has set", file.trim_start_matches("/proc/sys/"));
        let logged = || async {
            let log = fs::read_to_string(lab.log("node1", "manx-felix").unwrap()).unwrap();
            if log.contains(&told) { Ok(()) } else { Err(format!("no \"{told}\" in {log}")) }
        };
        eventually(SOON, logged).await.unwrap();
        let counted = format!("manx_sysctl_repairs_total{{name=\"net/ipv4/{setting}\"}} 1");
        let metrics = "busybox wget -qO- http://127.0.0.1:9098/metrics";
        let wanted = [counted.as_str()];
        eventually(SOON, || says(&lab, "node1", metrics, &wanted)).await.unwrap();
        let counts = sh(&lab, "node1", metrics).await.unwrap();
        assert!(!counts.contains("manx_sysctl_repairs_total{name=\"net/ipv4/conf/manx"), "{counts}");
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn another_programs_route_in_our_way_is_told_where_the_way_of_a_packet_is_asked_for_and_in_the_api() {
    let lab = up("upkeep-overlap").await;
    let blocks = || async { Ok::<_, String>((block(&lab, "node1").await?, block(&lab, "node2").await?)) };
    let (own, others) = eventually(SOON, blocks).await.unwrap();
    let there = others.replace("/26", "");
    let knows = format!("ip route show {others} proto 77");
    eventually(SOON, || says(&lab, "node1", &knows, &["10.10.0.2"])).await.unwrap();

    // On the node, all four are asked.
    let here = format!("manxctl route {there}");
    let agreed = ["owned by node node2", "by 10.10.0.2", "of Manx", "all agree"];
    eventually(SOON, || says(&lab, "node1", &here, &agreed)).await.unwrap();
    sh(&lab, "node1", &here).await.unwrap();
    // From another, what the cluster's objects tell of it, and that the kernel is not among it.
    let afar = format!("manxctl route {there} --from node1");
    let has = format!("node2 has {others}");
    let told = [has.as_str(), "with node2: Established", "known there alone"];
    eventually(SOON, || says(&lab, "node2", &afar, &told)).await.unwrap();
    let unknown = sh(&lab, "node2", &format!("manxctl route {there} --from nobody")).await.unwrap_err();
    assert!(unknown.contains("there is no node \"nobody\""), "{unknown}");
    let own_way = format!("manxctl route {own} --from node1");
    says(&lab, "node2", &own_way, &["owned by node node1"]).await.unwrap();

    // Of itself a node tells by its agent, of another by what that one wrote.
    says(&lab, "node1", "manxctl node status", &["NODE node1", "up", &own]).await.unwrap();
    says(&lab, "node1", "manxctl node status node1", &["agent"]).await.unwrap();
    let written = [others.as_str(), "as its agent wrote it", "RouteOverlap", "False"];
    eventually(SOON, || says(&lab, "node1", "manxctl node status node2", &written)).await.unwrap();
    let unknown = sh(&lab, "node1", "manxctl node status nobody").await.unwrap_err();
    assert!(unknown.contains("there is no NodeStatus \"nobody\""), "{unknown}");

    // Someone puts a route in the way.
    sh(&lab, "node1", &format!("ip route add {others} via 10.10.0.10 metric 5")).await.unwrap();
    let overlap = eventually(SOON, || condition(&lab, "node1", "RouteOverlap", "True")).await.unwrap();
    assert_eq!(overlap.reason, "ForeignRoute");
    assert!(overlap.message.contains(&others), "{overlap:?}");
    let shown = says(&lab, "node1", &here, &["whoever made it must remove it"]).await.unwrap();
    assert!(!shown.contains("all agree"), "{shown}");
    assert!(sh(&lab, "node1", &here).await.is_err(), "manxctl fails where not all agree");
    eventually(SOON, || says(&lab, "node2", &afar, &["which is not Manx's"])).await.unwrap();
    sh(&lab, "node1", &format!("ip route show {others} metric 5 | grep -q 10.10.0.10")).await.unwrap();

    // Its time is not that of an agent that has been restarted. Times are of whole seconds.
    let since = overlap.last_transition_time.0;
    let is_past = || async { if Timestamp::now() >= since + LATER { Ok(()) } else { Err("too soon") } };
    eventually(SOON, is_past).await.unwrap();
    let written = node_status(&lab, "node1").await.unwrap().metadata.resource_version;
    lab.kill("node1", "manx-felix", Signal::SIGTERM).unwrap();
    let dead =
        || async { lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(pid.to_string())) };
    eventually(SOON, dead).await.unwrap();
    lab.start_daemon("node1", "manx-felix").await.unwrap();
    let said_anew = || async {
        says(&lab, "node1", "manxctl status", &["whoever made it must remove it"]).await?;
        let found = condition(&lab, "node1", "RouteOverlap", "True").await?;
        let now = node_status(&lab, "node1").await?.metadata.resource_version;
        if now == written { Err("it has not been written yet".to_owned()) } else { Ok(found) }
    };
    let still = eventually(SOON, said_anew).await.unwrap();
    assert_eq!(still.last_transition_time.0, since);

    sh(&lab, "node1", &format!("ip route del {others} metric 5")).await.unwrap();
    let gone = eventually(SOON, || condition(&lab, "node1", "RouteOverlap", "False")).await.unwrap();
    assert!(gone.last_transition_time.0 >= overlap.last_transition_time.0);
    eventually(SOON, || says(&lab, "node1", &here, &["all agree"])).await.unwrap();
}

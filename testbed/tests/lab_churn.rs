//! Many pods on one node, by the real plugin and the real agent: at once, and one after the other while the agent is
//! killed again and again. How many is said by `MANX_CHURN_CYCLES`.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Api;
use kube::api::ListParams;
use manx_ipam::crd::IPAMBlock;
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);

/// Pods that start and end unless `MANX_CHURN_CYCLES` says otherwise, and how many of them at once.
const CYCLES: usize = 500;
const AT_ONCE: usize = 16;

/// Defines `attach` and `detach`, which call the plugin in a node as a runtime does, for a pod in the network namespace
/// and of the container id `$1`. They are no pods of Kubernetes: for one of those an ADD waits until the API shows it. Who holds an address makes a folder of its name: one that is there already has two pods.
const PLUGIN: &str = r#"
set -u
dir=/run/churn
mkdir -p $dir/held
plugin() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
        CNI_ARGS="IgnoreUnknown=1" \
        /opt/cni/bin/manx <$dir/conf >$dir/$2.out
}
addresses() { tr ',' '\n' <$dir/$1.out | sed -n 's/.*"address":"\([^/]*\).*/\1/p'; }
attach() {
    ip netns add $1
    plugin ADD $1 || return 1
    for address in $(addresses $1); do mkdir $dir/held/$address 2>/dev/null || echo $1 $address >>$dir/twice; done
    echo >>$dir/added
}
release() { for address in $(addresses $1); do rmdir $dir/held/$address 2>/dev/null; done; }
detach() {
    until plugin DEL $1; do sleep 0.1; done
    ip netns del $1
    rm $dir/$1.out
}
"#;

/// One worker of the churn: `$1` pods, `$2` in the name of each. What was refused is ended all the same, as the
/// specification asks.
const WORKER: &str = r#"
for i in $(seq $1); do
    if attach $2-$i; then release $2-$i; else cat $dir/$2-$i.out >>$dir/refused; fi
    detach $2-$i
done
"#;

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nodes.clab.yml");
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let installed = || lab.run("node1", &["test", "-e", "/etc/cni/net.d/10-manx.conflist"]);
    eventually(SOON, installed).await.unwrap();
    fs::create_dir(folder(&lab)).unwrap();
    fs::write(folder(&lab).join("conf"), r#"{"cniVersion":"1.0.0","name":"manx","type":"manx"}"#).unwrap();
    lab
}

/// Where the pods' scripts keep their files, seen from here.
fn folder(lab: &Lab) -> PathBuf {
    lab.node_folder("node1").join("run/churn")
}

/// A pod's namespace begins like this, so that it goes with the lab whatever becomes of it.
fn prefix(lab: &Lab) -> String {
    format!("mx-{}.node1.churn", lab.name())
}

async fn script(lab: &Lab, text: &str, args: &[&str]) -> String {
    let text = [PLUGIN, text].concat();
    let argv = [&["sh", "-c", text.as_str(), "sh"], args].concat();
    lab.run("node1", &argv).await.unwrap()
}

fn lines(lab: &Lab, file: &str) -> Vec<String> {
    let text = fs::read_to_string(folder(lab).join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What node1 has of pods, in words; nothing of it is an empty text.
async fn left(lab: &Lab) -> Result<(), String> {
    let shown = [
        "ip -o link | grep ' manx'",
        "ip route | grep ' manx'; ip -6 route | grep ' manx'",
        "ip neigh | grep ' manx'",
        "ls /run/manx/attachments /run/manx/released 2>/dev/null | grep json",
    ];
    let command = format!("{}; ls /run/netns | grep -F {}; true", shown.join("; "), prefix(lab));
    let mut left = lab.run("node1", &["sh", "-c", &command]).await.unwrap();
    let blocks: Api<IPAMBlock> = Api::all(lab.client().await.unwrap());
    for block in blocks.list(&ListParams::default()).await.map_err(|error| error.to_string())? {
        let used = block.status.map_or(0, |status| status.used);
        if used > 0 {
            left += &format!("IPAMBlock {}: {used} used\n", block.spec.cidr);
        }
    }
    if left.is_empty() { Ok(()) } else { Err(left) }
}

/// The revision of the API's store: every write adds one.
async fn revision(lab: &Lab) -> u64 {
    let blocks: Api<IPAMBlock> = Api::all(lab.client().await.unwrap());
    let list = blocks.list(&ListParams::default()).await.unwrap();
    list.metadata.resource_version.unwrap().parse().unwrap()
}

/// Some time, at most this many milliseconds.
fn a_while(most: u64) -> Duration {
    Duration::from_millis(RandomState::new().build_hasher().finish() % most)
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn pods_come_and_go_while_the_agent_is_killed_and_nothing_is_left() {
    let cycles = env::var("MANX_CHURN_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let lab = up("churn").await;
    let each = cycles.div_ceil(AT_ONCE).to_string();
    let names: Vec<String> = (0..AT_ONCE).map(|worker| format!("{}{worker}", prefix(&lab))).collect();
    let workers = names.iter().map(|name| async { script(&lab, WORKER, &[&each, name]).await });
    let mut work = std::pin::pin!(futures::future::join_all(workers));
    let mut kills = 0;
    loop {
        tokio::select! {
            _ = &mut work => break,
            () = tokio::time::sleep(a_while(1500)) => {}
        }
        lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
        kills += 1;
        let gone = || async {
            lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(format!("{pid} lives")))
        };
        eventually(SOON, gone).await.unwrap();
        tokio::time::sleep(a_while(500)).await;
        lab.start_daemon("node1", "manx-felix").await.unwrap();
    }
    let (added, refused) = (lines(&lab, "added").len(), lines(&lab, "refused"));
    println!("{added} pods of {cycles} started, {} refused, {kills} agents killed", refused.len());
    assert_eq!(lines(&lab, "twice"), [""; 0], "an address has two pods");
    // An agent that is killed loses those on their way, and they come back to the runtime as code 11.
    let other: Vec<_> = refused.iter().filter(|line| !line.contains(r#""code":11,"#)).collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(kills > 0 && added > cycles / 10, "{added} of {cycles}, {kills} kills");
    eventually(SOON, || left(&lab)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn two_hundred_pods_at_once_all_start_and_the_api_is_not_asked_for_each() {
    const PODS: usize = 200;
    let lab = up("churn-at-once").await;
    let before = revision(&lab).await;
    let (name, pods) = (prefix(&lab), PODS.to_string());
    script(
        &lab,
        "for i in $(seq $2); do attach $1$i || cat $dir/$1$i.out >>$dir/refused & done; wait",
        &[&name, &pods],
    )
    .await;
    let writes = revision(&lab).await - before;
    assert_eq!((lines(&lab, "refused"), lines(&lab, "added").len()), (Vec::new(), PODS));
    assert_eq!(lines(&lab, "twice"), [""; 0], "an address has two pods");
    // Some blocks, and of each and of the node now and then how they are.
    assert!(writes < PODS as u64 / 2, "{writes} writes for {PODS} pods");
    println!("{writes} writes for {PODS} pods");

    script(&lab, "for i in $(seq $2); do detach $1$i & done; wait", &[&name, &pods]).await;
    eventually(SOON, || left(&lab)).await.unwrap();
}

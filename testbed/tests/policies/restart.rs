//! Agents that are killed and started again, and an API that is away: what may pass passes, and nothing else does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use manx_bgp::types::Family;
use manx_felix::acl::ruleset::Protocol;
use manx_testbed::eventually;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cases::{Object, Packet, packets};
use crate::cluster::{Cluster, Mouth, SOON, pod};

/// Times the agent ends, while packets flow.
const RESTARTS: usize = 6;

/// Tells the flood to end, also when a test panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn object(json: Value) -> Object {
    serde_json::from_value(json).unwrap()
}

/// To x/a on port 80 from namespace y; more ports change from time to time.
fn policy(more: u16) -> Object {
    let ports = json!([{ "port": 80, "protocol": "UDP" }, { "port": more, "protocol": "TCP" }]);
    let peer = json!({ "namespaceSelector": { "matchLabels": { "ns": "y" } } });
    let ingress = json!([{ "from": [peer], "ports": ports }]);
    object(
        json!({ "np": "x/web", "spec": { "podSelector": { "matchLabels": { "pod": "a" } }, "ingress": ingress } }),
    )
}

fn may(packet: &Packet) -> bool {
    packet.port == 80 && packet.from.starts_with("y/")
}

#[test]
#[ignore = "needs root: make test"]
fn nothing_opens_or_closes_for_a_moment_while_agents_end_and_start() {
    let runtime = Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::up("policy-restart"));
    let all = packets();
    let to_it = |packet: &&Packet| packet.to == "x/a" && packet.protocol == Protocol::Udp;
    let flood: Vec<Packet> = all.iter().filter(to_it).cloned().collect();
    runtime.block_on(cluster.put(&policy(1000)));
    cluster.settle("the policy is in force", &flood, may);
    let expected: BTreeSet<Packet> = flood.iter().filter(|packet| may(packet)).cloned().collect();
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let came = cluster.ask(&flood, may);
                let (lost, leaked): (Vec<_>, Vec<_>) =
                    (expected.difference(&came).collect(), came.difference(&expected).collect());
                assert!(lost.is_empty() && leaked.is_empty(), "lost {lost:?}, leaked {leaked:?}");
                rounds += 1;
            }
            rounds
        });
        let stopping = Stop(&stop);
        runtime.block_on(async {
            for round in 0..RESTARTS {
                if flooding.is_finished() {
                    break;
                }
                let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
                cluster.lab.kill("node1", "manx-felix", signal).unwrap();
                let gone = || async {
                    let pid = cluster.lab.pid("node1", "manx-felix").unwrap();
                    pid.map_or(Ok(()), |pid| Err(format!("{pid} lives")))
                };
                eventually(SOON, gone).await.unwrap();
                cluster.put(&policy(1001 + round as u16)).await;
                let spec = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] });
                cluster.put(&object(json!({ "np": format!("z/other-{round}"), "spec": spec }))).await;
                cluster.lab.start_daemon("node1", "manx-felix").await.unwrap();
                let port = format!("dport {}", 1001 + round);
                let in_force = || async {
                    // One that starts before the last has let go of its lock ends again.
                    if cluster.lab.pid("node1", "manx-felix").unwrap().is_none() {
                        let _ = cluster.lab.start_daemon("node1", "manx-felix").await;
                    }
                    let dump = cluster.lab.run("node1", &["manxctl", "policy", "dump"]).await;
                    let dump = dump.map_err(|error| error.to_string())?;
                    if dump.contains(&port) { Ok(()) } else { Err(dump) }
                };
                eventually(SOON, in_force).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        drop(stopping);
        flooding.join().unwrap()
    });
    println!("{rounds} rounds of {} packets while the agent was started {RESTARTS} times", flood.len());
    assert!(rounds > 50, "{rounds}");
}

#[test]
#[ignore = "needs root: make test"]
fn a_pod_that_starts_while_the_api_is_away_is_closed_until_it_is_back() {
    let runtime = Runtime::new().unwrap();
    let mut cluster = runtime.block_on(Cluster::up("policy-away"));
    runtime.block_on(cluster.put(&policy(1000)));
    let udp = |from: &str, to: &str| {
        let packet =
            |family| Packet { from: from.into(), to: to.into(), family, protocol: Protocol::Udp, port: 80 };
        Family::ALL.map(packet)
    };
    let before = [udp("y/a", "x/a"), udp("z/a", "x/a")].concat();
    cluster.settle("the policy is in force", &before, may);

    let lab = &cluster.lab;
    let pod = runtime.block_on(async {
        lab.run("kube", &["ip", "link", "set", "eth1", "down"]).await.unwrap();
        lab.kill("node1", "manx-felix", Signal::SIGKILL).unwrap();
        let gone = || async {
            lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(format!("{pid} lives")))
        };
        eventually(SOON, gone).await.unwrap();
        lab.start_daemon("node1", "manx-felix").await.unwrap();
        let create = || lab.pod_create("node1", "x", pod("node1", "new"));
        eventually(2 * SOON, create).await.unwrap()
    });
    let mouth = Mouth::open(&pod);
    cluster.pods.insert("x/new".to_owned(), (pod, mouth));
    // What ran keeps what it had, and the new pod has nothing.
    let new = [udp("y/a", "x/new"), udp("x/new", "y/a"), udp("x/a", "x/new")].concat();
    let both = [before.clone(), new.clone()].concat();
    cluster.settle("the API is away", &both, |packet| before.contains(packet) && may(packet));

    runtime.block_on(cluster.lab.run("kube", &["ip", "link", "set", "eth1", "up"])).unwrap();
    cluster.settle("the API is back", &both, |packet| new.contains(packet) || may(packet));
}

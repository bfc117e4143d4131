//! The agent is stopped, killed and started again under traffic: pods lose no packet, and the router hears nothing.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manx_testbed::{Lab, Options, PodInfo, Topology, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// As an upgrade ends an agent, and as a crash does.
const ENDS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL];

/// Floods until told to stop; how many were sent, and how many came back.
async fn flood(lab: &Lab, from: &PodInfo, to: &str, stop: &AtomicBool) -> (u64, u64) {
    let (mut sent, mut received) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let said =
            lab.pod_run(from, &["ping", "-q", "-i", "0.002", "-c", "500", "-W", "2", to]).await.unwrap();
        let line = said.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        sent += numbers[0];
        received += numbers[1];
    }
    (sent, received)
}

/// A pod's counts of TCP segments sent, and of those sent again.
async fn segments(lab: &Lab, pod: &PodInfo) -> (u64, u64) {
    let said = lab.pod_run(pod, &["cat", "/proc/net/snmp"]).await.unwrap();
    let lines: Vec<Vec<&str>> =
        said.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' ').collect()).collect();
    let of = |name: &str| {
        let place = lines[0].iter().position(|it| *it == name).unwrap();
        lines[1][place].parse().unwrap()
    };
    (of("OutSegs"), of("RetransSegs"))
}

/// UPDATE messages the router has had of each node.
async fn updates(lab: &Lab) -> Vec<Value> {
    let said = lab.run("router", &["vtysh", "-c", "show bgp neighbors json"]).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    ["10.10.1.1", "10.10.2.1"].map(|node| said[node]["messageStats"]["updatesRecv"].clone()).to_vec()
}

async fn ready(lab: &Lab) -> Result<(), String> {
    let said =
        lab.run("node1", &["manxctl", "status", "-o", "json"]).await.map_err(|error| error.to_string())?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let swept = said["node"]["routes"]["swept"] == true;
    if said["node"]["ready"] == true && swept { Ok(()) } else { Err("not ready".to_owned()) }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn an_agent_that_ends_in_any_way_loses_no_packet_and_withdraws_nothing() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/racks.clab.yml");
    let options = Options { name: Some("restart-agent".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let one = eventually(SOON, || async { lab.pod_add("node1", "default", "one").await }).await.unwrap();
    let other = eventually(SOON, || async { lab.pod_add("node2", "default", "other").await }).await.unwrap();
    let to = other.addresses.iter().find(|address| address.is_ipv4()).unwrap().to_string();
    eventually(SOON, || async { lab.pod_run(&one, &["ping", "-c1", "-W1", &to]).await }).await.unwrap();
    eventually(SOON, || ready(&lab)).await.unwrap();

    let _listener =
        lab.pod_spawn(&other, &["sh", "-c", "sleep 600 | busybox nc -l -p 9000 >/dev/null"]).unwrap();
    let listens = || async { lab.pod_run(&other, &["sh", "-c", "grep -q :2328 /proc/net/tcp*"]).await };
    eventually(SOON, listens).await.unwrap();
    let stream = format!("while :; do head -c 20000 /dev/zero; sleep 0.01; done | busybox nc {to} 9000");
    let mut stream = lab.pod_spawn(&one, &["sh", "-c", &stream]).unwrap();
    let flows = || async { if segments(&lab, &one).await.0 > 100 { Ok(()) } else { Err("no stream") } };
    eventually(SOON, flows).await.unwrap();
    let (before, heard) = (segments(&lab, &one).await, updates(&lab).await);

    let stop = AtomicBool::new(false);
    let restarts = async {
        for signal in ENDS {
            lab.kill("node1", "manx-felix", signal).unwrap();
            let gone = || async {
                lab.pid("node1", "manx-felix").unwrap().map_or(Ok(()), |pid| Err(format!("{pid} lives")))
            };
            eventually(SOON, gone).await.unwrap();
            lab.start_daemon("node1", "manx-felix").await.unwrap();
            eventually(SOON, || ready(&lab)).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((), (sent, received)) = tokio::join!(restarts, flood(&lab, &one, &to, &stop));
    assert_eq!(sent, received, "packets were lost");
    assert!(sent >= 500, "{sent}");

    let after = segments(&lab, &one).await;
    assert!(after.0 > before.0, "the stream has stopped");
    assert_eq!(after.1, before.1, "segments were sent again");
    assert!(stream.try_wait().unwrap().is_none(), "the stream has ended");
    assert_eq!(updates(&lab).await, heard, "the router heard of changes");
}

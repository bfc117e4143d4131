//! The agent is stopped, killed and started again under traffic: pods lose no packet, and the router hears nothing.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manx_testbed::traffic::{Stream, flood};
use manx_testbed::{Lab, Options, Topology, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// As an upgrade ends an agent, and as a crash does.
const ENDS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL];

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

    let mut stream = Stream::begin(&lab, &one, &other).await.unwrap();
    let heard = updates(&lab).await;

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
    let (place, to) = (one.place(), to.parse().unwrap());
    let ((), packets) = tokio::join!(restarts, flood(&lab, &place, to, &stop));
    let packets = packets.unwrap();
    assert_eq!(packets.sent, packets.received, "packets were lost");
    assert!(packets.sent >= 500, "{packets:?}");
    stream.whole().await.unwrap();
    assert_eq!(updates(&lab).await, heard, "the router heard of changes");
}

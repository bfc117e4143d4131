//! Nodes whose links to the router have no addresses: each end finds the other by router advertisements, and pods reach
//! each other in both families by link-local next hops.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_testbed::{Lab, Options, PodInfo, Topology, eventually};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

async fn reach_each_other(lab: &Lab, pods: &[PodInfo; 2]) {
    let [one, other] = pods;
    for address in &other.addresses {
        let ping = ["ping", "-c1", "-W2", &address.to_string()];
        eventually(SOON, || async { lab.pod_run(one, &ping).await }).await.unwrap();
    }
}

/// Routes to the other node's blocks in this one's kernel, each by the router's link-local address.
async fn by_the_link(lab: &Lab) -> Result<(), String> {
    for family in ["-4", "-6"] {
        let shown = lab.run("node1", &["ip", "-j", family, "route", "show", "proto", "77"]).await.unwrap();
        let routes: Value = serde_json::from_str(&shown).unwrap();
        let leads = |route: &Value| {
            // A route of one next hop is shown with it, or as a list of one.
            let legs = route["nexthops"].as_array().into_iter().flatten().chain([route]);
            let mut gateways = legs
                .filter(|leg| leg["dev"] == "eth2")
                .map(|leg| leg["gateway"].as_str().or(leg["via"]["host"].as_str()).unwrap_or_default());
            gateways.any(|gateway| gateway.starts_with("fe80::"))
        };
        if !routes.as_array().unwrap().iter().any(leads) {
            return Err(format!("{family}: {shown}"));
        }
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn pods_reach_each_other_over_links_without_addresses() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/unnumbered.clab.yml");
    let lab = Lab::up(&Topology::read(&file).unwrap(), Options::default()).await.unwrap().temporary();
    let mut pods = Vec::new();
    for (node, name) in [("node1", "one"), ("node2", "other")] {
        pods.push(eventually(SOON, || async { lab.pod_add(node, "default", name).await }).await.unwrap());
    }
    let pods: [PodInfo; 2] = pods.try_into().unwrap();
    eventually(SOON, || by_the_link(&lab)).await.unwrap();
    reach_each_other(&lab, &pods).await;

    // The router sees neighbours on its interfaces, up, without any address of theirs in its configuration.
    let up = || async {
        let shown = lab.run("tor", &["vtysh", "-c", "show bgp ipv4 unicast summary json"]).await.unwrap();
        let said: Value = serde_json::from_str(&shown).unwrap();
        let established = |name: &str| said["peers"][name]["state"] == "Established";
        if established("eth1") && established("eth2") { Ok(()) } else { Err(shown) }
    };
    eventually(SOON, up).await.unwrap();

    // The link goes and comes back.
    lab.run("tor", &["ip", "link", "set", "eth1", "down"]).await.unwrap();
    let gone = || async { by_the_link(&lab).await.err().map_or(Err("still there".to_owned()), |_| Ok(())) };
    eventually(SOON, gone).await.unwrap();
    lab.run("tor", &["ip", "link", "set", "eth1", "up"]).await.unwrap();
    eventually(SOON, || by_the_link(&lab)).await.unwrap();
    reach_each_other(&lab, &pods).await;
}

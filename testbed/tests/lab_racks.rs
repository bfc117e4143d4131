//! Nodes that know the way to each other only by what a router tells them: what a node announces is in the other's
//! kernel by way of the router, and goes and comes with the router's word.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{PathInfo, Reply, Request};
use manx_bgp::types::ScopedAddr;
use manx_testbed::{Lab, Options, Topology, eventually};
use serde_json::Value;

/// Long enough for agents to claim blocks and sessions to come up on a machine that builds something else.
const SOON: Duration = Duration::from_secs(90);

/// Rack networks as a node sees them: its name, the other's network, the router here, the other's address.
const NODES: [(&str, &str, &str, &str); 2] = [
    ("node1", "10.10.2.0/24", "10.10.1.254", "10.10.2.1"),
    ("node2", "10.10.1.0/24", "10.10.2.254", "10.10.1.1"),
];

/// Destinations of Manx's routes in a node's kernel that have a gateway, with it.
async fn routes(lab: &Lab, node: &str) -> Vec<(String, String)> {
    let shown: Value =
        serde_json::from_str(&lab.run(node, &["ip", "-j", "route", "show", "proto", "77"]).await.unwrap())
            .unwrap();
    let of = |route: &Value| Some((route["dst"].as_str()?.to_owned(), route["gateway"].as_str()?.to_owned()));
    shown.as_array().unwrap().iter().filter_map(of).collect()
}

/// The paths a node's speaker has whose next hop is the other node, to the blocks of that one.
async fn paths(lab: &Lab, node: &str, other: &str) -> Vec<PathInfo> {
    let other = ScopedAddr::from(other.parse::<IpAddr>().unwrap());
    match lab.ask_bgpd(node, &Request::Routes { prefix: None }).await {
        Ok(Reply::Table { destinations }) => {
            let paths = destinations.into_iter().flat_map(|destination| destination.paths);
            paths.filter(|path| path.next_hop == Some(other)).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn by_the_router(lab: &Lab) -> Result<(), String> {
    for (node, network, router, other) in NODES {
        let routes = routes(lab, node).await;
        let has = |wanted: &dyn Fn(&str) -> bool| {
            routes.iter().any(|(dst, gateway)| wanted(dst) && gateway == router)
        };
        let paths = paths(lab, node, other).await;
        let used = paths.iter().any(|path| path.verdict == "best");
        if !(has(&|dst| dst == network) && has(&|dst| dst.starts_with("10.244.")) && used) {
            return Err(format!("{node} has {routes:?} and {paths:?}"));
        }
    }
    Ok(())
}

/// Of the other nothing is left in the first node's kernel; its speaker, as long as the session lasts, says why.
async fn cut_off(lab: &Lab) -> Result<(), String> {
    let (node, network, _, other) = NODES[0];
    let (routes, paths) = (routes(lab, node).await, paths(lab, node, other).await);
    let left = routes.iter().any(|(dst, _)| dst == network || dst.starts_with("10.244."));
    match !left && paths.iter().all(|path| path.verdict == "refused: next hop unreachable") {
        true => Ok(()),
        false => Err(format!("{node} has {routes:?} and {paths:?}")),
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_nodes_routes_follow_what_the_router_says_of_its_address() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/racks.clab.yml");
    let lab = Lab::up(&Topology::read(&file).unwrap(), Options::default()).await.unwrap().temporary();
    eventually(SOON, || by_the_router(&lab)).await.unwrap();

    let say = |network: &'static str| {
        let words = ["configure terminal", "router bgp 65001", "address-family ipv4 unicast", network];
        let argv = ["vtysh"].into_iter().chain(words.into_iter().flat_map(|word| ["-c", word]));
        let argv: Vec<_> = argv.collect();
        let lab = &lab;
        async move { lab.run("router", &argv).await.unwrap() }
    };
    say("no network 10.10.2.0/24").await;
    eventually(SOON, || cut_off(&lab)).await.unwrap();
    say("network 10.10.2.0/24").await;
    eventually(SOON, || by_the_router(&lab)).await.unwrap();
}

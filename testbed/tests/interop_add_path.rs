//! manx-bgpd and BIRD, FRR and GoBGP with several paths to one destination (RFC 7911): asserted on what each of them
//! holds, and on what manx-bgpd tells.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Reply, Request};
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use serde_json::Value;

/// Long enough for a few retries, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(60);

const NET: &str = "203.0.113.0/24";

/// The routers with their ASes, and those of the two that originate.
const ROUTERS: [(&str, u32); 3] = [("bird", 65001), ("frr", 65002), ("gobgp", 65003)];
const ORIGINS: [u32; 2] = [65011, 65012];

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-add-path.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&topology, options).await.unwrap().temporary()
}

/// The AS paths manx-bgpd holds of all, or those it has told one.
async fn ours(lab: &Lab, request: &Request) -> Vec<String> {
    match lab.ask_bgpd("manx", request).await {
        Ok(Reply::Table { destinations }) => {
            let paths = destinations.into_iter().flat_map(|destination| destination.paths);
            // The routers say what they have of us back to us.
            sorted(paths.filter(|path| !path.verdict.starts_with("refused")).map(|path| path.as_path))
        }
        other => panic!("{other:?}"),
    }
}

/// The AS paths a router holds of manx-bgpd.
async fn theirs(lab: &Lab, router: &str) -> Vec<String> {
    match router {
        "bird" => {
            let argv = ["birdc", "show", "route", NET, "protocol", "manx", "all"];
            let shown = String::from_utf8(lab.exec(router, &argv).await.unwrap().stdout).unwrap();
            let paths = shown.lines().filter_map(|line| line.trim().strip_prefix("BGP.as_path: "));
            sorted(paths.map(str::to_owned))
        }
        "frr" => {
            let command = format!("show bgp ipv4 unicast {NET} json");
            let shown: Value =
                serde_json::from_str(&lab.run(router, &["vtysh", "-c", &command]).await.unwrap()).unwrap();
            let paths = shown["paths"].as_array().cloned().unwrap_or_default();
            let text = |path: &Value| path["aspath"]["string"].as_str().unwrap_or_default().to_owned();
            sorted(paths.iter().map(text).filter(|path| path.starts_with("64512")))
        }
        _ => {
            let argv = ["gobgp", "neighbor", "192.0.2.100", "adj-in", "--json"];
            let shown: Value = serde_json::from_str(&lab.run(router, &argv).await.unwrap()).unwrap();
            let paths = shown[NET].as_array().cloned().unwrap_or_default();
            sorted(paths.iter().map(|path| {
                let attributes = path["attrs"].as_array().cloned().unwrap_or_default();
                let segments = attributes.iter().find(|attribute| attribute["type"] == 2);
                let asns = segments.and_then(|path| path["as_paths"][0]["asns"].as_array().cloned());
                let words: Vec<_> = asns.unwrap_or_default().iter().map(Value::to_string).collect();
                words.join(" ")
            }))
        }
    }
}

fn sorted(paths: impl Iterator<Item = String>) -> Vec<String> {
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    paths
}

/// All have all paths to `origins` but their own.
async fn all_have_all(lab: &Lab, origins: &[u32]) -> Result<(), String> {
    let through =
        |(_, router): &(&str, u32)| origins.iter().map(|origin| format!("{router} {origin}")).collect();
    let expected = sorted(ROUTERS.iter().flat_map(|router| -> Vec<String> { through(router) }));
    let held = ours(lab, &Request::Routes { prefix: Some(NET.parse().unwrap()) }).await;
    if held != expected {
        return Err(format!("manx-bgpd has {held:?}, expected {expected:?}"));
    }
    for (router, asn) in ROUTERS {
        let others = expected.iter().filter(|path| !path.starts_with(&asn.to_string()));
        let expected = sorted(others.map(|path| format!("64512 {path}")));
        let held = theirs(lab, router).await;
        if held != expected {
            return Err(format!("{router} has {held:?}, expected {expected:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn several_paths_go_both_ways_and_are_withdrawn_one_by_one() {
    let lab = up("interop-add-path").await;
    eventually(SOON, || all_have_all(&lab, &ORIGINS)).await.unwrap();
    lab.run("two", &["birdc", "disable", "origin"]).await.unwrap();
    eventually(SOON, || all_have_all(&lab, &ORIGINS[..1])).await.unwrap();
    lab.run("two", &["birdc", "enable", "origin"]).await.unwrap();
    eventually(SOON, || all_have_all(&lab, &ORIGINS)).await.unwrap();
}

//! Whom nodes peer with and what comes of it, with real agents, speakers and routers: all of them, reflectors named and elected, racks
//! of their own AS, two routers a node, IPv6 alone, routers that say what they should not, changes of everything.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod fabric;
mod mesh;
mod reflectors;
mod tor;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use manx_bgp::api::{Reply, Request, Session, SessionState};
use manx_felix::crd::BGPPeer;
use manx_testbed::{Lab, Options, PodInfo, TemporaryLab, Topology, eventually};
use serde_json::Value;

/// Long enough for agents to claim blocks and sessions to come up on a machine that builds something else.
const SOON: Duration = Duration::from_secs(120);

async fn up(lab: &str, name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("labs/{lab}.clab.yml"));
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary()
}

/// Manx's routes in a node's kernel that have gateways, with them, sorted.
async fn routes(lab: &Lab, node: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for family in ["-4", "-6"] {
        let shown = lab.run(node, &["ip", family, "-j", "route", "show", "proto", "77"]).await.unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
        for route in shown.as_array().into_iter().flatten() {
            let hops = route["nexthops"].as_array().cloned().unwrap_or_else(|| vec![route.clone()]);
            let mut gateways: Vec<String> =
                hops.iter().filter_map(|hop| Some(hop["gateway"].as_str()?.to_owned())).collect();
            gateways.sort();
            if let Some(destination) = route["dst"].as_str().filter(|_| !gateways.is_empty()) {
                found.insert(destination.to_owned(), gateways);
            }
        }
    }
    found
}

/// The blocks a node owns: they are blackholes in its kernel.
async fn blocks(lab: &Lab, node: &str) -> Vec<String> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let argv = ["ip", family, "-j", "route", "show", "type", "blackhole"];
        let shown: Value = serde_json::from_str(&lab.run(node, &argv).await.unwrap()).unwrap_or_default();
        let destinations = shown.as_array().into_iter().flatten().filter_map(|route| route["dst"].as_str());
        found.extend(destinations.map(str::to_owned));
    }
    found
}

async fn sessions(lab: &Lab, node: &str) -> Result<BTreeMap<String, Session>, String> {
    match lab.ask_bgpd(node, &Request::Status).await {
        Ok(Reply::Status(status)) => {
            Ok(status.sessions.into_iter().map(|session| (session.name.clone(), session)).collect())
        }
        other => Err(format!("{node}: {other:?}")),
    }
}

/// Waits until a node has just these sessions, all up.
async fn has_sessions(lab: &Lab, node: &str, wanted: &[&str]) -> Result<(), String> {
    let sessions = sessions(lab, node).await?;
    let up: Vec<&str> = sessions
        .values()
        .filter(|session| session.state == SessionState::Established)
        .map(|session| session.name.as_str())
        .collect();
    let all: Vec<&str> = sessions.keys().map(String::as_str).collect();
    if up == wanted && all == wanted { Ok(()) } else { Err(format!("{node} has {all:?}, up are {up:?}")) }
}

/// Waits until a node's kernel knows the way to the blocks of these nodes.
async fn knows(lab: &Lab, node: &str, others: &[&str]) -> Result<(), String> {
    let routes = routes(lab, node).await;
    for other in others {
        let blocks = blocks(lab, other).await;
        if blocks.is_empty() {
            return Err(format!("{other} has no block yet"));
        }
        if let Some(missing) = blocks.iter().find(|block| !routes.contains_key(*block)) {
            return Err(format!("{node} knows no way to {missing} of {other}: {routes:?}"));
        }
    }
    Ok(())
}

async fn pod(lab: &Lab, node: &str, name: &str) -> PodInfo {
    let added = || async { lab.pod_add(node, "default", name).await };
    eventually(SOON, added).await.unwrap()
}

async fn pings(lab: &Lab, from: &PodInfo, to: &PodInfo) -> Result<(), String> {
    let to = to.addresses[0].to_string();
    let pinged = lab.pod_run(from, &["ping", "-n", "-c1", "-W1", &to]).await;
    pinged.map(drop).map_err(|error| error.to_string())
}

/// Merges a change into a custom resource.
async fn change<K>(lab: &Lab, name: &str, change: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(lab.client().await.unwrap());
    api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// What a BGPPeer's condition of this type says: whether it holds, and why.
async fn condition(lab: &Lab, peer: &str, type_: &str) -> Result<(bool, String), String> {
    let api: Api<BGPPeer> = Api::all(lab.client().await.unwrap());
    let object = api.get(peer).await.map_err(|error| error.to_string())?;
    let conditions = object.status.unwrap_or_default().conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == type_);
    found.map(|found| (found.status == "True", found.message)).ok_or_else(|| format!("{peer} has no {type_}"))
}

/// What FRR answers, as JSON.
async fn vtysh(lab: &Lab, router: &str, command: &str) -> Value {
    serde_json::from_str(&lab.run(router, &["vtysh", "-c", command]).await.unwrap()).unwrap_or_default()
}

/// Has FRR's configuration of BGP changed.
async fn configure(lab: &Lab, router: &str, asn: u32, words: &[&str]) {
    let bgp = format!("router bgp {asn}");
    let lines = ["configure terminal", &bgp].into_iter().chain(words.iter().copied());
    let argv: Vec<&str> = ["vtysh"].into_iter().chain(lines.flat_map(|line| ["-c", line])).collect();
    lab.run(router, &argv).await.unwrap();
}

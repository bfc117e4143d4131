//! What is tried with manx-bgpd and every router alike; asserted on the router's own table and on
//! what manx-bgpd tells.

#![allow(dead_code, reason = "each test file uses what its routers do")]

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Config, Network, PathInfo, Reply, Request, SessionState};
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;

/// Long enough for a hold time of 3 s, a retry, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(20);

/// What manx-bgpd originates, and the next hop it gives.
const OURS: [(&str, &str); 2] = [("10.244.0.0/26", "10.0.0.1"), ("fd00:10:244::/122", "fd00::1")];
/// What the router originates, and the next hop it gives.
const THEIRS: [(&str, &str); 2] = [("203.0.113.0/24", "10.0.0.2"), ("2001:db8:c::/64", "fd00::2")];

/// A route as a router shows it.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub next_hop: IpAddr,
    pub as_path: String,
    pub communities: Vec<String>,
}

/// How one kind of router is asked and told.
pub trait Router {
    /// The lab's topology file, without its folder.
    const TOPOLOGY: &'static str;

    /// The route it has for a prefix.
    fn route(lab: &Lab, prefix: &str) -> impl Future<Output = Option<Seen>>;

    /// Makes it announce its IPv4 prefix, or stop it.
    fn announce(lab: &Lab, yes: bool) -> impl Future<Output = ()>;
}

pub async fn up<R: Router>(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs").join(R::TOPOLOGY);
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&topology, options).await.unwrap().temporary()
}

async fn best_path(lab: &Lab, prefix: &str) -> Option<PathInfo> {
    let request = Request::Routes { prefix: Some(prefix.parse().unwrap()) };
    match lab.ask_bgpd("manx", &request).await {
        Ok(Reply::Table { destinations }) => destinations.into_iter().next()?.paths.into_iter().next(),
        other => panic!("{other:?}"),
    }
}

async fn router_has<R: Router>(lab: &Lab, prefix: &str, next_hop: &str) -> Result<(), String> {
    let expected = Seen {
        next_hop: next_hop.parse().unwrap(),
        as_path: "64512".into(),
        communities: vec!["64512:100".into()],
    };
    match R::route(lab, prefix).await {
        Some(seen) if seen == expected => Ok(()),
        other => Err(format!("the router has {other:?} for {prefix}, expected {expected:?}")),
    }
}

async fn router_lacks<R: Router>(lab: &Lab, prefix: &str) -> Result<(), String> {
    match R::route(lab, prefix).await {
        None => Ok(()),
        Some(seen) => Err(format!("the router still has {seen:?} for {prefix}")),
    }
}

async fn manx_has(lab: &Lab, prefix: &str, next_hop: &str) -> Result<(), String> {
    match best_path(lab, prefix).await {
        Some(path) if path.next_hop == Some(next_hop.parse().unwrap()) && path.as_path == "65001" => Ok(()),
        other => Err(format!("manx-bgpd has {other:?} for {prefix}")),
    }
}

async fn manx_lacks(lab: &Lab, prefix: &str) -> Result<(), String> {
    match best_path(lab, prefix).await {
        None => Ok(()),
        Some(path) => Err(format!("manx-bgpd still has {path:?} for {prefix}")),
    }
}

/// Both have all of the other's prefixes, with the right attributes.
pub async fn both_know_all<R: Router>(lab: &Lab) {
    for (prefix, next_hop) in OURS {
        eventually(SOON, || router_has::<R>(lab, prefix, next_hop)).await.unwrap();
    }
    for (prefix, next_hop) in THEIRS {
        eventually(SOON, || manx_has(lab, prefix, next_hop)).await.unwrap();
    }
}

async fn both_know_nothing<R: Router>(lab: &Lab) {
    router_knows_nothing::<R>(lab).await;
    for (prefix, _) in THEIRS {
        eventually(SOON, || manx_lacks(lab, prefix)).await.unwrap();
    }
}

async fn router_knows_nothing<R: Router>(lab: &Lab) {
    for (prefix, _) in OURS {
        eventually(SOON, || router_lacks::<R>(lab, prefix)).await.unwrap();
    }
}

pub async fn withdrawals_travel_both_ways<R: Router>(lab: &Lab) {
    both_know_all::<R>(lab).await;
    R::announce(lab, false).await;
    eventually(SOON, || manx_lacks(lab, THEIRS[0].0)).await.unwrap();
    manx_has(lab, THEIRS[1].0, THEIRS[1].1).await.unwrap();
    R::announce(lab, true).await;

    let file = lab.topology().nodes["manx"].binds[0].source.clone();
    let text = std::fs::read_to_string(file).unwrap();
    let all: manx_bgp::api::Config = toml::from_str(&text).unwrap();
    let mut fewer = all.clone();
    fewer.networks.retain(|network| network.prefix.to_string() != OURS[1].0);
    lab.ask_bgpd("manx", &Request::Apply { config: fewer }).await.unwrap();
    eventually(SOON, || router_lacks::<R>(lab, OURS[1].0)).await.unwrap();
    router_has::<R>(lab, OURS[0].0, OURS[0].1).await.unwrap();
    lab.ask_bgpd("manx", &Request::Apply { config: all }).await.unwrap();
    both_know_all::<R>(lab).await;
}

pub async fn a_cut_cable_empties_both_tables_and_heals<R: Router>(lab: &Lab) {
    both_know_all::<R>(lab).await;
    lab.run("router", &["ip", "link", "set", "eth1", "down"]).await.unwrap();
    both_know_nothing::<R>(lab).await;
    lab.run("router", &["ip", "link", "set", "eth1", "up"]).await.unwrap();
    both_know_all::<R>(lab).await;
}

pub async fn a_killed_speaker_is_missed_and_found_again<R: Router>(lab: &Lab) {
    both_know_all::<R>(lab).await;
    lab.kill("manx", "manx-bgpd", Signal::SIGKILL).unwrap();
    router_knows_nothing::<R>(lab).await;
    lab.start_daemon("manx", "manx-bgpd").await.unwrap();
    both_know_all::<R>(lab).await;
}

/// The router takes fewer prefixes than manx-bgpd comes to announce, and says so.
pub async fn past_the_routers_limit_it_ends_the_session_and_the_reason_is_told<R: Router>(lab: &Lab) {
    let file = lab.topology().nodes["manx"].binds[0].source.clone();
    let mut config: Config = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    // FRR counts what it has before it takes one more, so that one past its limit is not too many yet.
    for n in 1..=3 {
        let prefix = format!("10.244.{n}.0/26").parse().unwrap();
        config.networks.push(Network::new(prefix));
    }
    // BIRD 2.0.12 takes seconds to say it, in which it says nothing else: longer than the lab's hold time.
    config.peers[0].hold_time = 60;
    lab.ask_bgpd("manx", &Request::Apply { config }).await.unwrap();
    let told = || async {
        let Ok(Reply::Status(status)) = lab.ask_bgpd("manx", &Request::Status).await else { panic!() };
        let session = status.sessions.into_iter().next().unwrap();
        let reason = session.reason.clone().unwrap_or_default();
        match session.state != SessionState::Established
            && reason.contains("maximum number of prefixes reached (6/1)")
        {
            true => Ok(()),
            false => Err(format!("{session:?}")),
        }
    };
    eventually(2 * SOON, told).await.unwrap();
    router_knows_nothing::<R>(lab).await;
}

//! manx-bgpd and FRR: asserted on FRR's table.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod interop;

use interop::{Router, Seen, up};
use manx_testbed::Lab;
use serde_json::Value;

struct Frr;

impl Router for Frr {
    const TOPOLOGY: &'static str = "interop-frr.clab.yml";

    async fn route(lab: &Lab, prefix: &str) -> Option<Seen> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let command = format!("show bgp {family} unicast {prefix} json");
        let shown: Value =
            serde_json::from_str(&lab.run("router", &["vtysh", "-c", &command]).await.unwrap()).unwrap();
        let path = shown["paths"].as_array()?.first()?;
        let communities = path["community"]["string"].as_str().unwrap_or_default();
        Some(Seen {
            next_hop: path["nexthops"][0]["ip"].as_str()?.parse().ok()?,
            as_path: path["aspath"]["string"].as_str()?.to_owned(),
            communities: communities.split_whitespace().map(str::to_owned).collect(),
        })
    }

    async fn announce(lab: &Lab, yes: bool) {
        let network = if yes { "network 203.0.113.0/24" } else { "no network 203.0.113.0/24" };
        let words = ["configure terminal", "router bgp 65001", "address-family ipv4 unicast", network];
        let words = words.iter().flat_map(|word| ["-c", word]);
        let argv: Vec<&str> = ["vtysh"].into_iter().chain(words).collect();
        lab.run("router", &argv).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn each_has_the_others_prefixes_of_both_families() {
    let lab = up::<Frr>("interop-frr-all").await;
    interop::both_know_all::<Frr>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn withdrawals_travel_both_ways() {
    let lab = up::<Frr>("interop-frr-withdraw").await;
    interop::withdrawals_travel_both_ways::<Frr>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_cut_cable_empties_both_tables_and_heals() {
    let lab = up::<Frr>("interop-frr-cable").await;
    interop::a_cut_cable_empties_both_tables_and_heals::<Frr>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_killed_speaker_is_missed_and_found_again() {
    let lab = up::<Frr>("interop-frr-kill").await;
    interop::a_killed_speaker_is_missed_and_found_again::<Frr>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn past_frrs_maximum_prefix_it_ends_the_session_and_the_reason_is_told() {
    let lab = up::<Frr>("interop-frr-limit").await;
    interop::both_know_all::<Frr>(&lab).await;
    let commands = ["router bgp 65001", "address-family ipv4 unicast", "neighbor 10.0.0.1 maximum-prefix 1"];
    let commands = ["configure terminal"].into_iter().chain(commands).flat_map(|command| ["-c", command]);
    let argv: Vec<&str> = ["vtysh"].into_iter().chain(commands).collect();
    lab.run("router", &argv).await.unwrap();
    interop::past_the_routers_limit_it_ends_the_session_and_the_reason_is_told::<Frr>(&lab).await;
    let shown = lab.run("router", &["vtysh", "-c", "show bgp neighbors 10.0.0.1 json"]).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["10.0.0.1"]["bgpState"], "Idle", "{shown:#}");
    let why = shown["10.0.0.1"]["lastNotificationReason"].as_str().unwrap();
    assert!(why.starts_with("Cease/Maximum Number of Prefixes Reached"), "{why}");
}

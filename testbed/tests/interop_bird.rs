//! manx-bgpd and BIRD: asserted on BIRD's table.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod interop;

use std::time::Duration;

use interop::{Router, Seen, up};
use manx_bgp::api::{Config, Network, Request};
use manx_testbed::{Lab, eventually};

struct Bird;

impl Router for Bird {
    const TOPOLOGY: &'static str = "interop-bird.clab.yml";

    async fn route(lab: &Lab, prefix: &str) -> Option<Seen> {
        let shown = lab.exec("router", &["birdc", "show", "route", prefix, "all"]).await.unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let value = |name: &str| {
            let lines = shown.lines().filter_map(|line| line.trim().split_once(": "));
            lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
        };
        let communities = value("BGP.community").unwrap_or_default().split_whitespace();
        Some(Seen {
            next_hop: value("BGP.next_hop")?.split_whitespace().next()?.parse().ok()?,
            as_path: value("BGP.as_path")?.to_owned(),
            communities: communities.map(|pair| pair.trim_matches(['(', ')']).replace(',', ":")).collect(),
        })
    }

    async fn announce(lab: &Lab, yes: bool) {
        lab.run("router", &["birdc", if yes { "enable" } else { "disable" }, "client4"]).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn each_has_the_others_prefixes_of_both_families() {
    let lab = up::<Bird>("interop-bird-all").await;
    interop::both_know_all::<Bird>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn withdrawals_travel_both_ways() {
    let lab = up::<Bird>("interop-bird-withdraw").await;
    interop::withdrawals_travel_both_ways::<Bird>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_cut_cable_empties_both_tables_and_heals() {
    let lab = up::<Bird>("interop-bird-cable").await;
    interop::a_cut_cable_empties_both_tables_and_heals::<Bird>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_killed_speaker_is_missed_and_found_again() {
    let lab = up::<Bird>("interop-bird-kill").await;
    interop::a_killed_speaker_is_missed_and_found_again::<Bird>(&lab).await;
}

/// Has it read its configuration with a limit on what it imports over IPv4.
async fn limit(lab: &Lab, limit: &str) {
    let limited = format!(
        "sed 's/ipv4 {{ import all;/ipv4 {{ {limit}; import all;/' /etc/bird/bird.conf >/run/limited.conf && \
         birdc configure '\"/run/limited.conf\"'"
    );
    let said = lab.run("router", &["sh", "-c", &limited]).await.unwrap();
    assert!(said.contains("Reconfigured"), "{said}");
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn past_birds_import_limit_it_ends_the_session_and_the_reason_is_told() {
    let lab = up::<Bird>("interop-bird-limit").await;
    interop::both_know_all::<Bird>(&lab).await;
    limit(&lab, "import limit 1 action disable").await;
    interop::both_know_all::<Bird>(&lab).await;
    interop::past_the_routers_limit_it_ends_the_session_and_the_reason_is_told::<Bird>(&lab).await;
    let shown = lab.run("router", &["birdc", "show", "protocols", "all", "manx"]).await.unwrap();
    assert!(shown.contains("Automatic shutdown: Route limit exceeded") && shown.contains("[HIT]"), "{shown}");
    // Its operator takes the limit away and lets it speak again.
    limit(&lab, "import limit 9 action disable").await;
    lab.run("router", &["birdc", "enable", "manx"]).await.unwrap();
    interop::both_know_all::<Bird>(&lab).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn past_an_import_limit_that_blocks_the_session_stays() {
    let lab = up::<Bird>("interop-bird-block").await;
    interop::both_know_all::<Bird>(&lab).await;
    limit(&lab, "import limit 1 action block").await;
    let file = lab.topology().nodes["manx"].binds[0].source.clone();
    let mut config: Config = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let prefix = "10.244.9.0/26".parse().unwrap();
    config.networks.push(Network::new(prefix));
    lab.ask_bgpd("manx", &Request::Apply { config }).await.unwrap();
    let hit = || async {
        let shown = lab.run("router", &["birdc", "show", "protocols", "all", "manx"]).await.unwrap();
        if shown.contains("1 [HIT]") && shown.contains("Established") { Ok(()) } else { Err(shown) }
    };
    eventually(Duration::from_secs(20), hit).await.unwrap();
    assert_eq!(Bird::route(&lab, "10.244.9.0/26").await, None);
    interop::both_know_all::<Bird>(&lab).await;
}

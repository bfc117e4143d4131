//! manx-bgpd and BIRD: asserted on BIRD's table.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

mod interop;

use interop::{Router, Seen, up};
use manx_testbed::Lab;

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

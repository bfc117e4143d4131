//! manx-bgpd and routers it knows by range and by link, what each tells the other when a session ends, and IPv4 over
//! IPv6 next hops: asserted on the routers' own view.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Config, MaxPrefixes, Reply, Request, Session, SessionState};
use manx_bgp::types::Family;
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use serde_json::Value;

/// Long enough for a retry after an error, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(60);

/// As manx-bgpd knows them.
const FRR: &str = "10.0.1.2";
const BIRD: &str = "10.0.2.2";

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-peers.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(format!("interop-peers-{name}")), ..Options::default() };
    Lab::up(&topology, options).await.unwrap().temporary()
}

async fn ask(lab: &Lab, request: Request) -> Reply {
    lab.ask_bgpd("manx", &request).await.unwrap()
}

fn config(lab: &Lab) -> Config {
    let file = &lab.topology().nodes["manx"].binds[0].source;
    toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

async fn session(lab: &Lab, peer: &str) -> Option<Session> {
    match ask(lab, Request::Status).await {
        Reply::Status(status) => {
            status.sessions.into_iter().find(|session| session.address.to_string() == peer)
        }
        other => panic!("{other:?}"),
    }
}

/// Until what manx-bgpd shows of a neighbour is as wanted.
async fn shows(lab: &Lab, peer: &str, wanted: impl Fn(&Session) -> bool) -> Session {
    let shown = || async {
        let shown = session(lab, peer).await;
        shown.clone().filter(&wanted).ok_or(format!("{peer}: {shown:?}"))
    };
    eventually(SOON, shown).await.unwrap()
}

fn is_up(session: &Session) -> bool {
    session.state == SessionState::Established && session.accepted > 0
}

async fn vtysh(lab: &Lab, commands: &[&str]) -> String {
    let words = commands.iter().flat_map(|command| ["-c", command]);
    let argv: Vec<&str> = ["vtysh"].into_iter().chain(words).collect();
    lab.run("frr", &argv).await.unwrap()
}

async fn frr_is_told(lab: &Lab, commands: &[&str]) {
    let all: Vec<&str> = ["configure terminal", "router bgp 65001"].iter().chain(commands).copied().collect();
    vtysh(lab, &all).await;
}

/// FRR's JSON of one neighbour.
async fn frr_says(lab: &Lab, peer: &str) -> Value {
    let shown = vtysh(lab, &[&format!("show bgp neighbors {peer} json")]).await;
    serde_json::from_str::<Value>(&shown).unwrap()[peer].take()
}

/// Until it holds.
async fn frr_shows(lab: &Lab, peer: &str, wanted: impl Fn(&Value) -> bool) {
    let shown = || async {
        let said = frr_says(lab, peer).await;
        if wanted(&said) { Ok(()) } else { Err(format!("{said:#}")) }
    };
    eventually(SOON, shown).await.unwrap();
}

/// Until `command` prints all of these.
async fn prints(lab: &Lab, node: &str, command: &[&str], words: &[&str]) {
    let shown = || async {
        let shown = lab.run(node, command).await.map_err(|error| error.to_string())?;
        if words.iter().all(|words| shown.contains(words)) {
            Ok(())
        } else {
            Err(format!("{words:?}: {shown}"))
        }
    };
    eventually(SOON, shown).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn routers_that_call_from_a_range_with_its_password_have_sessions_while_they_are_there() {
    let lab = up("range").await;
    for (peer, asn) in [(FRR, 65001), (BIRD, 65002)] {
        let shown = shows(&lab, peer, is_up).await;
        assert_eq!((shown.asn.0, shown.name.as_str()), (asn, "callers"));
        assert_eq!(shown.range.unwrap().to_string(), "10.0.0.0/16");
    }
    frr_shows(&lab, "10.0.1.1", |said| {
        said["addressFamilyInfo"]["ipv4Unicast"]["acceptedPrefixCounter"] == 1
    })
    .await;
    prints(
        &lab,
        "bird",
        &["birdc", "show", "route", "all", "10.244.0.0/26"],
        &["via 10.0.2.1", "BGP.as_path: 64512"],
    )
    .await;
    // Another password is no answer at all, and its neighbour is forgotten; BIRD never notices.
    frr_is_told(&lab, &["neighbor 10.0.1.1 password another"]).await;
    let gone = || async {
        let shown = session(&lab, FRR).await;
        if shown.is_none() { Ok(()) } else { Err(format!("{shown:?}")) }
    };
    eventually(SOON, gone).await.unwrap();
    frr_shows(&lab, "10.0.1.1", |said| said["bgpState"] != "Established").await;
    assert_eq!(session(&lab, BIRD).await.unwrap().flaps, 0);
    frr_is_told(&lab, &["neighbor 10.0.1.1 password between-us"]).await;
    shows(&lab, FRR, is_up).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn over_a_link_without_addresses_ipv4_goes_by_ipv6_next_hops_both_ways() {
    let lab = up("unnumbered").await;
    let shown = shows(&lab, "eth3", |session| session.reason.is_some()).await;
    assert!(shown.reason.unwrap().contains("no neighbour's address is known on eth3 yet"));
    let [ours, theirs] = [link_local(&lab, "manx").await, link_local(&lab, "frr").await];
    let mut config = config(&lab);
    config.peers[0].address = theirs.parse().unwrap();
    ask(&lab, Request::Apply { config }).await;
    let radv = "bird -c /etc/manx/radv.conf -s /run/radv.ctl -P /run/radv.pid >/dev/null 2>&1 </dev/null";
    lab.run("manx", &["sh", "-c", radv]).await.unwrap();

    let peer = format!("{theirs}%eth3");
    shows(&lab, &peer, |session| is_up(session) && session.accepted == 2).await;
    // FRR's own table, and what it forwards by.
    let routes = || async {
        let said = vtysh(&lab, &["show bgp ipv4 unicast 10.244.0.0/26 json"]).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let hops: Vec<_> = said["paths"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|path| path["nexthops"].as_array().cloned().unwrap_or_default())
            .collect();
        let ours = hops.iter().any(|hop| hop["ip"] == ours.as_str() && hop["afi"] == "ipv6");
        if ours { Ok(()) } else { Err(format!("{said:#}")) }
    };
    eventually(SOON, routes).await.unwrap();
    // The numbered session is taken away, so that only this one is left to forward by.
    frr_is_told(&lab, &["no neighbor 10.0.1.1"]).await;
    let via = format!("via inet6 {ours} dev eth3");
    prints(&lab, "frr", &["ip", "route", "show", "10.244.0.0/26"], &[&via]).await;
    let via = format!("via {ours} dev eth3");
    prints(&lab, "frr", &["ip", "-6", "route", "show", "fd00:10:244::/122"], &[&via]).await;
    // And ours.
    for prefix in ["203.0.113.0/24", "2001:db8:c::/64"] {
        let Reply::Table { destinations } =
            ask(&lab, Request::Routes { prefix: Some(prefix.parse().unwrap()) }).await
        else {
            panic!("no table")
        };
        let path = destinations.first().and_then(|destination| destination.paths.first());
        let hop = path.and_then(|path| path.next_hop).map(|hop| hop.to_string());
        assert_eq!(hop.as_deref(), Some(peer.as_str()), "{prefix}: {destinations:?}");
    }
}

/// A node's own link-local address on eth3, as its kernel has it.
async fn link_local(lab: &Lab, node: &str) -> String {
    let shown =
        lab.run(node, &["ip", "-j", "-6", "address", "show", "dev", "eth3", "scope", "link"]).await.unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let addresses = shown.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array());
    addresses.flatten().find_map(|address| Some(address["local"].as_str()?.to_owned())).unwrap()
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn the_reason_of_an_end_is_read_on_the_other_side() {
    let lab = up("reason").await;
    for peer in [FRR, BIRD] {
        shows(&lab, peer, is_up).await;
        let reason = format!("maintenance of {peer}");
        ask(&lab, Request::Reset { peer: peer.parse().unwrap(), reason }).await;
    }
    frr_shows(&lab, "10.0.1.1", |said| {
        said["lastShutdownDescription"]
            .as_str()
            .is_some_and(|words| words.contains("maintenance of 10.0.1.2"))
    })
    .await;
    let log = || async {
        let log = std::fs::read_to_string(lab.log("bird", "bird").unwrap()).unwrap();
        if log.contains("maintenance of 10.0.2.2") { Ok(()) } else { Err(log) }
    };
    eventually(SOON, log).await.unwrap();
    for peer in [FRR, BIRD] {
        shows(&lab, peer, is_up).await;
    }
    // Their operators' words, in the log: a dynamic neighbour is gone from the table with its session.
    frr_is_told(&lab, &["neighbor 10.0.1.1 shutdown message moving racks"]).await;
    lab.run("bird", &["birdc", "disable", "manx", "\"new line card\""]).await.unwrap();
    let log = || async {
        let log = std::fs::read_to_string(lab.log("manx", "manx-bgpd").unwrap()).unwrap();
        let heard = ["moving racks", "new line card"].iter().all(|words| log.contains(words));
        if heard { Ok(()) } else { Err(log) }
    };
    eventually(SOON, log).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn too_many_prefixes_end_a_session_and_another_limit_brings_it_back() {
    let lab = up("limit").await;
    for peer in [FRR, BIRD] {
        shows(&lab, peer, is_up).await;
    }
    // FRR gives one of its own, and ours back: all that is held counts. It may give as many, and not one more.
    let before = shows(&lab, FRR, |session| is_up(session) && session.received == 2).await;
    let held = before.prefixes.iter().find(|held| held.family == Family::Ipv4).unwrap().held;
    let limit = u32::try_from(held).unwrap();
    let mut config = config(&lab);
    config.ranges[0].settings.max_prefixes = MaxPrefixes { ipv4: limit, ..MaxPrefixes::default() };
    ask(&lab, Request::Apply { config: config.clone() }).await;
    let after = session(&lab, FRR).await.unwrap();
    assert_eq!(after.flaps, before.flaps, "it keeps to the new limit: {after:?}");
    frr_is_told(&lab, &["address-family ipv4 unicast", "network 198.51.100.0/24"]).await;
    frr_shows(&lab, "10.0.1.1", |said| {
        said["lastNotificationReason"] == "Cease/Maximum Number of Prefixes Reached"
    })
    .await;
    let words =
        format!("it gives more than {limit} prefixes of IPv4 unicast (maxPrefixes), down until it is reset");
    shows(&lab, FRR, |session| session.reason.as_ref() == Some(&words) && session.received == 0).await;
    assert!(is_up(&session(&lab, BIRD).await.unwrap()));
    // Other limits, and it is back.
    config.ranges[0].settings.max_prefixes.ipv4 = limit + 1;
    ask(&lab, Request::Apply { config: config.clone() }).await;
    shows(&lab, FRR, |session| is_up(session) && session.accepted == 2).await;
}

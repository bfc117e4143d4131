//! Route reflection (RFC 4456), refreshes between marks (RFC 7313), long-lived graceful restart (RFC 9494) and graceful
//! shutdown (RFC 8326) with BIRD and FRR: asserted on their tables, and where manx-bgpd is the one that is told, on its
//! own and on that of a BIRD behind it.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{AfterDrain, Direction, PathInfo, Reply, Request, Session, SessionState};
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Long enough for a restart time of 2 s, a retry, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(40);

/// What BIRD and FRR originate below manx-bgpd as their reflector.
const BIRDS: &str = "203.0.113.0/24";
const FRRS: &str = "198.51.100.0/24";
const OURS: &str = "10.244.0.0/26";

async fn up(name: &str, file: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs").join(file);
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    Lab::up(&topology, options).await.unwrap().temporary()
}

/// A route as a router shows it; lists as it writes them.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    next_hop: String,
    local_pref: u64,
    communities: String,
    large_communities: String,
    originator: String,
    clusters: String,
}

async fn bird_has(lab: &Lab, node: &str, prefix: &str) -> Option<Seen> {
    let shown = lab.exec(node, &["birdc", "show", "route", prefix, "all"]).await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let value = |name: &str| {
        let mut lines = shown.lines().filter_map(|line| line.trim().split_once(':'));
        let found = lines.find(|(key, _)| *key == name);
        found.map(|(_, value)| value.trim().to_owned())
    };
    Some(Seen {
        next_hop: value("BGP.next_hop")?,
        local_pref: value("BGP.local_pref").and_then(|text| text.parse().ok()).unwrap_or_default(),
        communities: value("BGP.community").unwrap_or_default(),
        large_communities: value("BGP.large_community").unwrap_or_default(),
        originator: value("BGP.originator_id").unwrap_or_default(),
        clusters: value("BGP.cluster_list").unwrap_or_default(),
    })
}

async fn vtysh(lab: &Lab, command: &str) -> Value {
    serde_json::from_str(&lab.run("frr", &["vtysh", "-c", command]).await.unwrap()).unwrap()
}

async fn frr_has(lab: &Lab, prefix: &str) -> Option<Seen> {
    let shown = vtysh(lab, &format!("show bgp ipv4 unicast {prefix} json")).await;
    let path = shown["paths"].as_array()?.first()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Seen {
        next_hop: text(&path["nexthops"][0]["ip"]),
        local_pref: path["locPrf"].as_u64().unwrap_or_default(),
        communities: text(&path["community"]["string"]),
        large_communities: text(&path["largeCommunity"]["string"]),
        originator: text(&path["originatorId"]),
        clusters: path["clusterList"]["list"]
            .as_array()
            .map(|list| list.iter().map(text).collect::<Vec<_>>().join(" "))
            .unwrap_or_default(),
    })
}

async fn session(lab: &Lab, name: &str) -> Result<Session, String> {
    match lab.ask_bgpd("manx", &Request::Status).await {
        Ok(Reply::Status(status)) => {
            let found = status.sessions.into_iter().find(|session| session.name == name);
            found.ok_or_else(|| format!("no session {name}"))
        }
        other => Err(format!("{other:?}")),
    }
}

async fn asked(lab: &Lab, request: Request) {
    assert_eq!(lab.ask_bgpd("manx", &request).await.unwrap(), Reply::Done);
}

/// What BIRD has of FRR and FRR of BIRD, by manx-bgpd.
async fn reflected(lab: &Lab) -> Result<(), String> {
    let frrs = Seen {
        next_hop: "10.0.0.3".into(),
        local_pref: 100,
        communities: "(64512,8)".into(),
        large_communities: "(64512, 3, 4)".into(),
        originator: "10.0.0.3".into(),
        clusters: "10.9.9.9".into(),
    };
    let birds = Seen {
        next_hop: "10.0.0.2".into(),
        local_pref: 100,
        communities: "64512:7".into(),
        large_communities: "64512:1:2".into(),
        originator: "10.0.0.2".into(),
        clusters: "10.9.9.9".into(),
    };
    let seen = (bird_has(lab, "bird", FRRS).await, frr_has(lab, BIRDS).await);
    match seen == (Some(frrs), Some(birds)) {
        true => Ok(()),
        false => Err(format!("{seen:?}")),
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn manx_reflects_between_bird_and_frr_with_originator_cluster_and_communities() {
    let lab = up("graceful-reflect", "interop-graceful.clab.yml").await;
    eventually(SOON, || reflected(&lab)).await.unwrap();
    // What the reflector originates is not reflected.
    let ours = frr_has(&lab, OURS).await.unwrap();
    assert_eq!(
        (ours.next_hop.as_str(), ours.originator.as_str(), ours.clusters.as_str()),
        ("10.0.0.1", "", "")
    );
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_reflector_that_is_gone_for_long_is_the_last_resort_of_bird_and_frr() {
    let lab = up("graceful-restarter", "interop-graceful.clab.yml").await;
    eventually(SOON, || reflected(&lab)).await.unwrap();
    lab.kill("manx", "manx-bgpd", Signal::SIGKILL).unwrap();
    let kept = || async {
        let (bird, frr) = (bird_has(&lab, "bird", FRRS).await, frr_has(&lab, BIRDS).await);
        let (Some(bird), Some(frr)) = (bird, frr) else { panic!("a route is gone") };
        match bird.communities.contains("(65535,6)") && frr.communities.contains("llgr-stale") {
            true => Ok(()),
            false => Err(format!("{bird:?} {frr:?}")),
        }
    };
    eventually(SOON, kept).await.unwrap();
    lab.start_daemon("manx", "manx-bgpd").await.unwrap();
    eventually(SOON, || reflected(&lab)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn refreshes_are_marked_both_ways() {
    let lab = up("graceful-refresh", "interop-graceful.clab.yml").await;
    eventually(SOON, || reflected(&lab)).await.unwrap();
    let capabilities = lab.run("bird", &["birdc", "show", "protocols", "all", "manx"]).await.unwrap();
    let neighbour = capabilities.split_once("Neighbor capabilities").unwrap().1;
    for capability in ["Enhanced refresh", "Graceful restart", "Long-lived graceful restart"] {
        assert!(neighbour.contains(capability), "BIRD does not see {capability}: {capabilities}");
    }
    // Of one UPDATE, at least its marks are more.
    let more = |name: &'static str, what: fn(&Session) -> u64, before: u64| {
        let lab = &lab;
        move || async move {
            let session = session(lab, name).await?;
            match what(&session) >= before + 3 && session.stale == 0 && session.received == 1 {
                true => Ok(()),
                false => Err(format!("{before} before, now {session:?}")),
            }
        }
    };
    let said: fn(&Session) -> u64 = |session| session.messages_out;
    let heard: fn(&Session) -> u64 = |session| session.messages_in;

    let before = session(&lab, "bird").await.unwrap();
    lab.run("bird", &["birdc", "reload", "in", "manx"]).await.unwrap();
    eventually(SOON, more("bird", said, before.messages_out)).await.unwrap();
    let before = session(&lab, "frr").await.unwrap();
    lab.run("frr", &["vtysh", "-c", "clear bgp ipv4 unicast 10.0.0.1 soft in"]).await.unwrap();
    eventually(SOON, more("frr", said, before.messages_out)).await.unwrap();
    let marks = || async {
        let shown = vtysh(&lab, "show bgp neighbors 10.0.0.1 json").await;
        match shown["10.0.0.1"]["messageStats"]["routeRefreshRecv"].as_u64() {
            Some(2..) => Ok(()),
            other => Err(format!("FRR has counted {other:?} ROUTE-REFRESH")),
        }
    };
    eventually(SOON, marks).await.unwrap();

    for (name, address) in [("bird", "10.0.0.2"), ("frr", "10.0.0.3")] {
        let before = session(&lab, name).await.unwrap();
        let (peer, direction) = (address.parse().unwrap(), Direction::In);
        asked(&lab, Request::Refresh { peer, direction }).await;
        eventually(SOON, more(name, heard, before.messages_in)).await.unwrap();
        let before = session(&lab, name).await.unwrap();
        asked(&lab, Request::Refresh { peer, direction: Direction::Out }).await;
        eventually(SOON, more(name, said, before.messages_out)).await.unwrap();
    }
    eventually(SOON, || reflected(&lab)).await.unwrap();
    for name in ["bird", "frr"] {
        assert_eq!(session(&lab, name).await.unwrap().flaps, 0);
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_drain_is_seen_by_bird_and_frr_and_taken_back() {
    let lab = up("graceful-drain", "interop-graceful.clab.yml").await;
    eventually(SOON, || reflected(&lab)).await.unwrap();
    let drain = |wait| Request::Drain { peer: None, wait, then: AfterDrain::Withdraw, reason: String::new() };
    asked(&lab, drain(3600)).await;
    let announced = || async {
        let seen = (bird_has(&lab, "bird", OURS).await.unwrap(), frr_has(&lab, OURS).await.unwrap());
        let (bird, frr) = &seen;
        match bird.communities == "(65535,0)"
            && frr.communities == "graceful-shutdown"
            && (bird.local_pref, frr.local_pref) == (0, 0)
        {
            true => Ok(()),
            false => Err(format!("{seen:?}")),
        }
    };
    eventually(SOON, announced).await.unwrap();
    // As an operator does it.
    let manxctl = |words: &'static [&'static str]| {
        let argv: Vec<&str> = ["manxctl", "bgp"].into_iter().chain(words.iter().copied()).collect();
        let lab = &lab;
        async move { lab.run("manx", &argv).await.unwrap() }
    };
    let shown = manxctl(&["peers"]).await;
    assert_eq!(shown.matches("Established, draining").count(), 2, "{shown}");
    let shown: Value = serde_json::from_str(&manxctl(&["drain", "--wait", "0", "-o", "json"]).await).unwrap();
    assert_eq!(shown["peer"], Value::Null);
    let withdrawn = || async {
        match (bird_has(&lab, "bird", OURS).await, frr_has(&lab, OURS).await) {
            (None, None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(SOON, withdrawn).await.unwrap();
    let shown = manxctl(&["undrain"]).await;
    assert!(shown.starts_with("all peers: not drained"), "{shown}");
    let shown = manxctl(&["refresh"]).await;
    assert_eq!(shown.matches("asked for all its routes").count(), 2, "{shown}");
    let shown = manxctl(&["why", BIRDS]).await;
    assert!(shown.contains("best") && shown.contains("64512:7"), "{shown}");
    eventually(SOON, || reflected(&lab)).await.unwrap();
    assert_eq!(frr_has(&lab, OURS).await.unwrap().communities, "");
    assert_eq!(session(&lab, "bird").await.unwrap().flaps, 0);
}

/// What manx-bgpd on the left has for a prefix.
async fn left(lab: &Lab, prefix: &str) -> Vec<PathInfo> {
    let request = Request::Routes { prefix: Some(prefix.parse().unwrap()) };
    match lab.ask_bgpd("left", &request).await {
        Ok(Reply::Table { destinations }) => destinations.into_iter().flat_map(|found| found.paths).collect(),
        other => panic!("{other:?}"),
    }
}

const RIGHTS: &str = "10.244.2.0/26";
const NO_LLGR: &str = "10.244.2.64/26";

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_all_reflectors_lost_for_long_routes_stay_as_the_last_resort_and_others_hear_it() {
    let lab = up("graceful-reflectors", "interop-reflectors.clab.yml").await;
    let by_both = || async {
        let paths = left(&lab, RIGHTS).await;
        let good = |path: &&PathInfo| {
            let cluster = if path.peer_name == "bird" { "10.8.8.8" } else { "10.7.7.7" };
            path.next_hop == Some("10.0.0.4".parse().unwrap())
                && path.originator_id.map(|id| id.to_string()).as_deref() == Some("10.0.0.4")
                && path.cluster_list == [cluster.parse::<Ipv4Addr>().unwrap()]
                && path.communities == ["64512:9"]
                && !path.stale
        };
        let behind = (bird_has(&lab, "behind", RIGHTS).await, bird_has(&lab, "behind", NO_LLGR).await);
        match (paths.iter().filter(good).count(), &behind) {
            (2, (Some(seen), Some(_))) if seen.communities == "(64512,9)" => Ok(()),
            _ => Err(format!("{paths:?} {behind:?}")),
        }
    };
    eventually(SOON, by_both).await.unwrap();

    lab.kill("bird", "bird", Signal::SIGKILL).unwrap();
    lab.kill("frr", "bgpd", Signal::SIGKILL).unwrap();
    let last_resort = || async {
        let paths = left(&lab, RIGHTS).await;
        assert_eq!(paths.len(), 2, "a route is gone: {paths:?}");
        let stale = |path: &PathInfo| path.stale && path.communities == ["64512:9", "llgr-stale"];
        let behind = (bird_has(&lab, "behind", RIGHTS).await, bird_has(&lab, "behind", NO_LLGR).await);
        let (Some(seen), unwanted) = &behind else { panic!("the route is gone: {behind:?}") };
        let refused =
            left(&lab, NO_LLGR).await.iter().all(|path| path.verdict.starts_with("refused: NO_LLGR"));
        match paths.iter().all(stale)
            && seen.communities == "(64512,9) (65535,6)"
            && unwanted.is_none()
            && refused
        {
            true => Ok(()),
            false => Err(format!("{paths:?} {behind:?}")),
        }
    };
    eventually(SOON, last_resort).await.unwrap();

    // One is back: what it says is better than what the other has left.
    lab.start_daemon("bird", "bird").await.unwrap();
    let fresh = || async {
        let paths = left(&lab, RIGHTS).await;
        let verdicts: Vec<_> = paths.iter().map(|path| (path.peer_name.as_str(), path.step)).collect();
        let behind = bird_has(&lab, "behind", RIGHTS).await;
        match &behind {
            Some(seen)
                if seen.communities == "(64512,9)" && verdicts == [("bird", None), ("frr", Some(2))] =>
            {
                Ok(())
            }
            _ => Err(format!("{paths:?} {behind:?}")),
        }
    };
    eventually(SOON, fresh).await.unwrap();
    let used_again = || async {
        let paths = left(&lab, NO_LLGR).await;
        if paths.iter().any(|path| path.verdict == "best") { Ok(()) } else { Err(format!("{paths:?}")) }
    };
    eventually(SOON, used_again).await.unwrap();
    match lab.ask_bgpd("left", &Request::Status).await {
        Ok(Reply::Status(status)) => {
            let frr = &status.sessions[1];
            // FRR reflects to left what left has said, too.
            assert!(frr.state != SessionState::Established && frr.long_lived >= 2, "{frr:?}");
        }
        other => panic!("{other:?}"),
    }
}

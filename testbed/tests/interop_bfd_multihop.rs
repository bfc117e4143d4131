//! manx-bgpd's BFD over several hops (RFC 5883) with FRR and BIRD: asserted on the routers' own view.
//!
//! The hold times are four minutes, and no cable is cut: the router between stops forwarding.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Reply, Request, Session, SessionState};
use manx_bgp::bfd::State;
use manx_testbed::{Lab, Options, Topology, eventually};
use serde_json::Value;

/// Long enough for a retry of BGP and a machine that builds something else.
const SOON: Duration = Duration::from_secs(30);

/// Thirty times the detection time, and a twentieth of what BGP alone would need.
const DETECTED: Duration = Duration::from_secs(12);

/// manx-bgpd as the routers see it.
const MANX: &str = "10.0.1.1";

/// Both sessions of ours are in this state, and BFD with them.
async fn all_are(lab: &Lab, up: bool) -> Result<Vec<Session>, String> {
    let sessions = match lab.ask_bgpd("manx", &Request::Status).await {
        Ok(Reply::Status(status)) => status.sessions,
        other => panic!("{other:?}"),
    };
    let is_up = |session: &Session| {
        let bfd = session.bfd.as_ref().is_some_and(|bfd| bfd.state == State::Up);
        assert!(bfd || up || session.state != SessionState::Established, "{session:?}");
        bfd && session.state == SessionState::Established
    };
    match sessions.iter().all(|session| is_up(session) == up) {
        true => Ok(sessions),
        false => Err(format!("{sessions:?}")),
    }
}

/// Both routers say that their session over several hops is up, or that it is not.
async fn routers_see(lab: &Lab, up: bool) -> Result<(), String> {
    let shown = lab.run("frr", &["vtysh", "-c", "show bfd peers json"]).await.unwrap();
    let peers: Value = serde_json::from_str(&shown).unwrap();
    let frr = peers.as_array().unwrap().iter().find(|peer| peer["peer"] == MANX && peer["multihop"] == true);
    let frr = frr.is_some_and(|peer| peer["status"] == "up");
    let shown = lab.run("bird", &["birdc", "show", "bfd", "sessions"]).await.unwrap();
    let bird = shown.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Of several hops, there is no interface.
        fields.first() == Some(&MANX) && fields.get(1) == Some(&"---") && fields.get(2) == Some(&"Up")
    });
    if (frr, bird) == (up, up) { Ok(()) } else { Err(format!("FRR {frr}, BIRD {bird}: {peers:#} {shown}")) }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn rfc5883_a_way_over_a_router_that_forwards_no_more_is_lost_and_found_again() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-bfd-multihop.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some("bfd-multihop".to_owned()), ..Options::default() };
    let lab = Lab::up(&topology, options).await.unwrap().temporary();
    eventually(SOON, || all_are(&lab, true)).await.unwrap();
    eventually(SOON, || routers_see(&lab, true)).await.unwrap();
    let forward = async |yes: &str| {
        let setting = format!("net.ipv4.ip_forward={yes}");
        lab.run("between", &["sysctl", "-qw", &setting]).await.unwrap();
    };
    forward("0").await;
    let down = eventually(DETECTED, || all_are(&lab, false)).await.unwrap();
    for session in down {
        assert_eq!(session.flaps, session.bfd.as_ref().unwrap().flaps, "{session:?}");
    }
    eventually(DETECTED, || routers_see(&lab, false)).await.unwrap();
    let log = std::fs::read_to_string(lab.log("manx", "manx-bgpd").unwrap()).unwrap();
    assert!(log.contains("BFD says the neighbour is down: control detection time expired"), "{log}");
    forward("1").await;
    eventually(SOON, || all_are(&lab, true)).await.unwrap();
    eventually(SOON, || routers_see(&lab, true)).await.unwrap();
}

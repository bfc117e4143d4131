//! manx-bgpd's BFD with BIRD and FRR: asserted on the router's own view of the session.
//!
//! The hold times are four minutes, so that nothing but BFD ends a session within seconds; the switch between
//! the two stops forwarding without either losing its carrier.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{Config, Reply, Request, Session, SessionState};
use manx_bgp::bfd::State;
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;

/// Long enough for a retry of BGP and a machine that builds something else.
const SOON: Duration = Duration::from_secs(20);

/// Ten times the slower session's detection time, and a tenth of what BGP alone would need.
const DETECTED: Duration = Duration::from_secs(12);

/// manx-bgpd as the router sees it over each family.
const MANX: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// What the router says of one BFD session.
#[derive(Debug, PartialEq)]
struct Seen {
    up: bool,
    /// Between its packets, in milliseconds, as negotiated.
    interval: u64,
}

#[derive(Clone, Copy)]
enum Router {
    Bird,
    Frr,
}

impl Router {
    async fn up(self, test: &str) -> TemporaryLab {
        let kind = match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
        };
        let file = format!("labs/interop-bfd-{kind}.clab.yml");
        let topology = Topology::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let options = Options { name: Some(format!("bfd-{kind}-{test}")), ..Options::default() };
        Lab::up(&topology, options).await.unwrap().temporary()
    }

    /// Its view of the BFD session with manx-bgpd at this address.
    async fn bfd(self, lab: &Lab, manx: &str) -> Option<Seen> {
        match self {
            Self::Bird => {
                // IP address, interface, state, since, interval, timeout; in seconds.
                let shown = lab.run("router", &["birdc", "show", "bfd", "sessions"]).await.unwrap();
                let line = shown.lines().find(|line| line.split_whitespace().next() == Some(manx))?;
                let fields: Vec<_> = line.split_whitespace().collect();
                let seconds: f64 = fields.get(4)?.parse().ok()?;
                Some(Seen { up: fields[2] == "Up", interval: (seconds * 1000.0).round() as u64 })
            }
            Self::Frr => {
                let shown = lab.run("router", &["vtysh", "-c", "show bfd peers json"]).await.unwrap();
                let peers: serde_json::Value = serde_json::from_str(&shown).unwrap();
                let peer = peers.as_array()?.iter().find(|peer| peer["peer"] == manx)?;
                let ours = peer["remote-receive-interval"].as_u64()?;
                Some(Seen {
                    up: peer["status"] == "up",
                    interval: ours.max(peer["transmit-interval"].as_u64()?),
                })
            }
        }
    }

    /// Why it last ended the BGP session with manx-bgpd over IPv4, in its own words.
    async fn last_end(self, lab: &Lab) -> String {
        match self {
            Self::Bird => lab.run("router", &["birdc", "show", "protocols", "all", "manx"]).await.unwrap(),
            Self::Frr => lab.run("router", &["vtysh", "-c", "show bgp neighbors 10.0.0.1"]).await.unwrap(),
        }
    }

    async fn sees(self, lab: &Lab, manx: &str, up: bool) -> Result<(), String> {
        match self.bfd(lab, manx).await {
            Some(seen) if seen.up == up => Ok(()),
            other => Err(format!("the router has {other:?} for {manx}, expected up: {up}")),
        }
    }
}

async fn sessions(lab: &Lab) -> Vec<Session> {
    match lab.ask_bgpd("manx", &Request::Status).await {
        Ok(Reply::Status(status)) => status.sessions,
        other => panic!("{other:?}"),
    }
}

/// Both sessions of ours: BGP established, BFD up.
async fn all_up(lab: &Lab) -> Result<Vec<Session>, String> {
    let sessions = sessions(lab).await;
    let is_up = |session: &Session| {
        session.state == SessionState::Established
            && session.bfd.as_ref().is_some_and(|bfd| bfd.state == State::Up)
    };
    if sessions.len() == 2 && sessions.iter().all(is_up) {
        Ok(sessions)
    } else {
        Err(format!("{sessions:?}"))
    }
}

/// All are up, and have been for a while: FRR's bgpd gives its BFD session up, in so many words, and makes
/// another one when the BGP session comes up.
async fn settled(lab: &Lab) -> Vec<Session> {
    let settled = || async {
        let sessions = all_up(lab).await?;
        let old = |session: &Session| {
            session.since_seconds >= 3 && session.bfd.as_ref().is_some_and(|bfd| bfd.since_seconds >= 3)
        };
        if sessions.iter().all(old) { Ok(sessions) } else { Err(format!("{sessions:?}")) }
    };
    eventually(SOON, settled).await.unwrap()
}

/// How often each has gone down: BGP, BFD.
fn flaps(sessions: &[Session]) -> Vec<(u64, u64)> {
    sessions.iter().map(|session| (session.flaps, session.bfd.as_ref().map_or(0, |bfd| bfd.flaps))).collect()
}

/// Sets the switch's port towards the router: 0 forwards nothing, 3 everything.
async fn port(lab: &Lab, state: &str) {
    lab.run("switch", &["bridge", "link", "set", "dev", "router", "state", state]).await.unwrap();
}

async fn configure(lab: &Lab, change: impl FnOnce(&mut Config)) {
    let file = lab.topology().nodes["manx"].binds[0].source.clone();
    let mut config: Config = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    change(&mut config);
    let reply = lab.ask_bgpd("manx", &Request::Apply { config }).await.unwrap();
    assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
}

async fn both_come_up_and_agree(router: Router) {
    let lab = router.up("up").await;
    let before = settled(&lab).await;
    // Ours is 50 ms × 3 over IPv4 and 300 ms × 3 over IPv6, theirs 60 ms × 4 over both.
    let agreed = async |fast: u64| {
        for (manx, interval) in [(MANX[0], fast), (MANX[1], 300)] {
            let seen = || async {
                let seen = router.bfd(&lab, manx).await;
                (seen == Some(Seen { up: true, interval })).then_some(()).ok_or(format!("{manx}: {seen:?}"))
            };
            eventually(SOON, seen).await.unwrap();
        }
        let ours = || async {
            let all = all_up(&lab).await?;
            let bfd = all.iter().filter_map(|session| session.bfd.as_ref());
            let got: Vec<_> = bfd.map(|bfd| (bfd.tx_interval_ms, bfd.detection_time_ms)).collect();
            let wanted = [(Some(fast), fast * 4), (Some(300), 1200)];
            if got == wanted { Ok(()) } else { Err(format!("{got:?}")) }
        };
        eventually(SOON, ours).await.unwrap();
    };
    agreed(60).await;
    // Slower and faster again while it runs: by Poll Sequences, and nobody goes down.
    for (ms, fast) in [(500, 500), (50, 60)] {
        configure(&lab, |config| {
            let bfd = config.peers[0].bfd.as_mut().unwrap();
            (bfd.min_rx_ms, bfd.min_tx_ms) = (ms, ms);
        })
        .await;
        agreed(fast).await;
    }
    assert_eq!(flaps(&all_up(&lab).await.unwrap()), flaps(&before));
}

async fn a_silent_way_ends_the_sessions_at_once_and_they_return(router: Router) {
    let lab = router.up("cut").await;
    let before = flaps(&settled(&lab).await);
    port(&lab, "0").await;
    let down = || async {
        let sessions = sessions(&lab).await;
        let up = sessions.iter().any(|session| session.state == SessionState::Established);
        let once: Vec<_> = before.iter().map(|(bgp, bfd)| (bgp + 1, bfd + 1)).collect();
        if !up && flaps(&sessions) == once { Ok(()) } else { Err(format!("{sessions:?}")) }
    };
    eventually(DETECTED, down).await.unwrap();
    let log = std::fs::read_to_string(lab.log("manx", "manx-bgpd").unwrap()).unwrap();
    for after in ["240 ms", "1200 ms"] {
        let words = format!("BFD says the neighbour is down: control detection time expired after {after}");
        assert!(log.contains(&words), "{words}: {log}");
    }
    for manx in MANX {
        eventually(DETECTED, || router.sees(&lab, manx, false)).await.unwrap();
    }
    let end = || async {
        let words = router.last_end(&lab).await;
        (words.contains("BFD")).then_some(()).ok_or(words)
    };
    eventually(SOON, end).await.unwrap();
    port(&lab, "3").await;
    settled(&lab).await;
    for manx in MANX {
        eventually(SOON, || router.sees(&lab, manx, true)).await.unwrap();
    }
}

async fn a_killed_speaker_is_missed_by_the_routers_bfd(router: Router) {
    let lab = router.up("kill").await;
    settled(&lab).await;
    lab.kill("manx", "manx-bgpd", Signal::SIGKILL).unwrap();
    for manx in MANX {
        eventually(DETECTED, || router.sees(&lab, manx, false)).await.unwrap();
    }
    lab.start_daemon("manx", "manx-bgpd").await.unwrap();
    eventually(SOON, || all_up(&lab)).await.unwrap();
    for manx in MANX {
        eventually(SOON, || router.sees(&lab, manx, true)).await.unwrap();
    }
}

/// FRR's operator says AdminDown, which is no failure. BIRD 2.0.12 has no way to say it, and both take ours
/// for a failure.
#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_frr_its_operator_may_disable_bfd_without_losing_a_session() {
    let router = Router::Frr;
    let lab = router.up("admin").await;
    let before = settled(&lab).await;
    let shutdown = ["configure terminal", "bfd", "profile fast", "shutdown"];
    let argv: Vec<&str> =
        std::iter::once("vtysh").chain(shutdown.iter().flat_map(|word| ["-c", word])).collect();
    lab.run("router", &argv).await.unwrap();
    let down = || async {
        let sessions = sessions(&lab).await;
        let is_down = |session: &Session| session.bfd.as_ref().is_some_and(|bfd| bfd.state == State::Down);
        if sessions.iter().all(is_down) { Ok(sessions) } else { Err(format!("{sessions:?}")) }
    };
    let after = eventually(SOON, down).await.unwrap();
    assert_eq!(flaps(&after), flaps(&before), "{after:?}");
    assert!(after.iter().all(|session| session.state == SessionState::Established), "{after:?}");
}

/// Our BFD is taken out of the configuration: the router hears AdminDown at once, and again once it is back.
async fn what_is_not_wanted_any_more_ends_with_a_word(router: Router) {
    let lab = router.up("remove").await;
    settled(&lab).await;
    configure(&lab, |config| config.peers[0].bfd = None).await;
    eventually(SOON, || router.sees(&lab, MANX[0], false)).await.unwrap();
    let after = sessions(&lab).await;
    assert!(after[0].bfd.is_none() && after[1].bfd.is_some(), "{after:?}");
    configure(&lab, |_| {}).await;
    settled(&lab).await;
    eventually(SOON, || router.sees(&lab, MANX[0], true)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_bird_what_is_not_wanted_any_more_ends_with_a_word() {
    what_is_not_wanted_any_more_ends_with_a_word(Router::Bird).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_frr_what_is_not_wanted_any_more_ends_with_a_word() {
    what_is_not_wanted_any_more_ends_with_a_word(Router::Frr).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_bird_both_come_up_and_agree() {
    both_come_up_and_agree(Router::Bird).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_frr_both_come_up_and_agree() {
    both_come_up_and_agree(Router::Frr).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_bird_a_silent_way_ends_the_sessions_at_once_and_they_return() {
    a_silent_way_ends_the_sessions_at_once_and_they_return(Router::Bird).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn with_frr_a_silent_way_ends_the_sessions_at_once_and_they_return() {
    a_silent_way_ends_the_sessions_at_once_and_they_return(Router::Frr).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn bird_misses_a_killed_speaker() {
    a_killed_speaker_is_missed_by_the_routers_bfd(Router::Bird).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn frr_misses_a_killed_speaker() {
    a_killed_speaker_is_missed_by_the_routers_bfd(Router::Frr).await;
}

//! manx-bgpd, BIRD and FRR, over sessions with passwords and GTSM: one of them is killed and starts anew,
//! and who is behind the others sees no withdrawal.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::path::Path;
use std::time::Duration;

use manx_bgp::api::{PathInfo, Reply, Request, Session, SessionState};
use manx_testbed::{Lab, Options, TemporaryLab, Topology, eventually};
use nix::sys::signal::Signal;

/// Long enough for a retry, and a machine that builds something else.
const SOON: Duration = Duration::from_secs(30);

const OURS: &str = "10.244.0.0/26";
const BIRDS: &str = "203.0.113.0/24";
const FRRS: &str = "198.51.100.0/24";

async fn up(name: &str) -> TemporaryLab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/interop-restart.clab.yml");
    let topology = Topology::read(&file).unwrap();
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let lab = Lab::up(&topology, options).await.unwrap().temporary();
    eventually(SOON, || both_ways(&lab)).await.unwrap();
    lab
}

async fn sessions(lab: &Lab) -> Result<Vec<Session>, String> {
    match lab.ask_bgpd("manx", &Request::Status).await {
        Ok(Reply::Status(status)) => Ok(status.sessions),
        other => Err(format!("{other:?}")),
    }
}

async fn path(lab: &Lab, prefix: &str) -> Option<PathInfo> {
    let request = Request::Routes { prefix: Some(prefix.parse().unwrap()) };
    match lab.ask_bgpd("manx", &request).await {
        Ok(Reply::Table { destinations }) => destinations.into_iter().next()?.paths.into_iter().next(),
        other => panic!("{other:?}"),
    }
}

async fn birdc(lab: &Lab, node: &str, words: &[&str]) -> String {
    let argv: Vec<&str> = ["birdc"].iter().chain(words).copied().collect();
    String::from_utf8(lab.exec(node, &argv).await.unwrap().stdout).unwrap()
}

/// All sessions are up, and what manx-bgpd originates has come to the one behind by both ways.
async fn both_ways(lab: &Lab) -> Result<(), String> {
    let sessions = sessions(lab).await?;
    if !sessions.iter().all(|session| session.state == SessionState::Established) {
        return Err(format!("{sessions:?}"));
    }
    behind_has_both(lab).await
}

async fn behind_has_both(lab: &Lab) -> Result<(), String> {
    let shown = birdc(lab, "behind", &["show", "route", OURS, "all"]).await;
    match ["65001 64512", "65003 64512"].iter().all(|path| shown.contains(path)) {
        true => Ok(()),
        false => Err(format!("behind has only {shown}")),
    }
}

/// Withdrawals a BIRD has received of a neighbour.
async fn withdrawals(lab: &Lab, node: &str, neighbour: &str) -> u64 {
    let shown = birdc(lab, node, &["show", "protocols", "all", neighbour]).await;
    let lines = shown.lines().filter_map(|line| line.trim().strip_prefix("Import withdraws:"));
    lines.map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

async fn routers_miss_us(lab: &Lab) -> Result<(), String> {
    let bird = birdc(lab, "bird", &["show", "protocols", "manx"]).await;
    let frr = lab.run("frr", &["vtysh", "-c", "show bgp neighbor 10.0.2.1 json"]).await.unwrap();
    match bird.contains("Established") || frr.contains("\"bgpState\":\"Established\"") {
        true => Err(format!("still there: {bird} {frr}")),
        false => Ok(()),
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_killed_speaker_is_not_missed_behind_bird_and_frr() {
    let lab = up("restart-ours").await;
    let before = [withdrawals(&lab, "behind", "by_bird").await, withdrawals(&lab, "behind", "by_frr").await];
    lab.kill("manx", "manx-bgpd", Signal::SIGKILL).unwrap();
    eventually(SOON, || routers_miss_us(&lab)).await.unwrap();
    behind_has_both(&lab).await.unwrap();
    lab.start_daemon("manx", "manx-bgpd").await.unwrap();
    eventually(SOON, || both_ways(&lab)).await.unwrap();
    // The routers' stale routes would go with our End-of-RIB: by then ours must have been said again.
    let complete = || async {
        match lab.ask_bgpd("manx", &Request::Status).await {
            Ok(Reply::Status(status)) if status.synced => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(Duration::from_secs(15), complete).await.unwrap();
    assert_eq!(
        [withdrawals(&lab, "behind", "by_bird").await, withdrawals(&lab, "behind", "by_frr").await],
        before
    );
    behind_has_both(&lab).await.unwrap();
}

/// A router is killed and comes back: manx-bgpd keeps its route meanwhile, and who hears it of manx-bgpd sees no
/// withdrawal.
async fn is_not_missed_behind_manx(lab: &Lab, n: usize, route: &str, kill: impl Fn(), start: impl AsyncFn()) {
    let told = || async {
        let shown = birdc(lab, "watcher", &["show", "route"]).await;
        if shown.contains(BIRDS) && shown.contains(FRRS) { Ok(()) } else { Err(shown) }
    };
    eventually(SOON, told).await.unwrap();
    let before = withdrawals(lab, "watcher", "by_manx").await;
    kill();
    let missed = || async {
        let router = sessions(lab).await?.remove(n);
        match (router.flaps, router.stale) {
            (1, 1..) => Ok(()),
            _ => Err(format!("{router:?}")),
        }
    };
    eventually(SOON, missed).await.unwrap();
    let kept = path(lab, route).await.unwrap();
    assert!(kept.stale && kept.next_hop.is_some(), "{kept:?}");
    start().await;
    let fresh = || async {
        match (path(lab, route).await, sessions(lab).await?.remove(n)) {
            (Some(path), router) if !path.stale && router.stale == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(SOON, fresh).await.unwrap();
    told().await.unwrap();
    assert_eq!(withdrawals(lab, "watcher", "by_manx").await, before);
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_killed_bird_is_not_missed_behind_manx() {
    let lab = up("restart-bird").await;
    let kill = || lab.kill("bird", "bird", Signal::SIGKILL).unwrap();
    // -R: what it forwarded it forwards still.
    let start =
        async || drop(lab.run("bird", &["sh", "-c", "bird -R >/dev/null 2>&1 </dev/null"]).await.unwrap());
    is_not_missed_behind_manx(&lab, 0, BIRDS, kill, start).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_killed_frr_is_not_missed_behind_manx() {
    let lab = up("restart-frr").await;
    let kill = || lab.kill("frr", "bgpd", Signal::SIGKILL).unwrap();
    let start = async || lab.start_daemon("frr", "bgpd").await.unwrap();
    is_not_missed_behind_manx(&lab, 1, FRRS, kill, start).await;
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_router_with_another_password_is_told_in_words() {
    let lab = up("restart-password").await;
    let words = ["configure terminal", "router bgp 65003", "neighbor 10.0.2.1 password another"];
    let argv: Vec<&str> = ["vtysh"].into_iter().chain(words.iter().flat_map(|word| ["-c", word])).collect();
    lab.run("frr", &argv).await.unwrap();
    let told = || async {
        let frr = sessions(&lab).await?.remove(1);
        match &frr.reason {
            Some(why) if why.starts_with("no answer with this password") => Ok(()),
            _ => Err(format!("{frr:?}")),
        }
    };
    eventually(SOON, told).await.unwrap();
}

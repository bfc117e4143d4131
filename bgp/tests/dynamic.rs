//! Neighbours by range: speakers that call one that knows of them only where they call from. Over loopback addresses;
//! needs no root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use manx_bgp::api::{
    AsnRange, Config, GracefulRestart, Network, PeerConfig, Policy, Range, Session, SessionState, Status,
};
use manx_bgp::speaker::{self, Handle, Options};
use manx_bgp::types::{Asn, Prefix, RouterId};

const PORT: u16 = 1790;
const DEADLINE: Duration = Duration::from_secs(20);

/// The one that is called, in AS 64512.
const CALLED: u8 = 1;

/// `127.TEST.PROCESS.HOST`, so that tests and runs do not meet.
fn address(test: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(127, test, (std::process::id() % 251) as u8, host).into()
}

fn config(test: u8, host: u8, asn: u32) -> Config {
    Config {
        listen: vec![SocketAddr::new(address(test, host), PORT)],
        networks: vec![Network::new(format!("10.1.{host}.0/26").parse().unwrap())],
        ..Config::new(Asn(asn), RouterId(Ipv4Addr::new(10, 0, 0, host)))
    }
}

fn open(peer: PeerConfig) -> PeerConfig {
    PeerConfig {
        import: Some(Policy::accept()),
        export: Some(Policy::accept()),
        hold_time: 9,
        connect_retry: 1,
        ..peer
    }
}

fn prefix(test: u8) -> Prefix {
    Prefix::truncated(address(test, 0), 24).unwrap()
}

/// All of the test's addresses, of AS 65001 and of 65100 to 65199.
fn range(test: u8) -> Range {
    let asns: Vec<AsnRange> = ["65001", "65100-65199"].map(|asns| asns.parse().unwrap()).to_vec();
    let next_hops = vec![Ipv4Addr::new(192, 0, 2, CALLED).into()];
    let settings = PeerConfig { next_hops, ..open(PeerConfig::default()) };
    Range { settings, ..Range::new(prefix(test), asns) }
}

async fn called(test: u8, range: Range) -> (Handle, Config) {
    let (handle, _) = speaker::start(Options::default());
    let config = Config { ranges: vec![range], ..config(test, CALLED, 64512) };
    handle.apply(config.clone()).await.unwrap();
    (handle, config)
}

/// One that calls; `change` is what it says otherwise than the others.
async fn caller(test: u8, host: u8, asn: u32, change: impl FnOnce(&mut PeerConfig)) -> Handle {
    let (handle, _) = speaker::start(Options::default());
    let mut peer = open(PeerConfig::new(address(test, CALLED), Asn(64512)));
    (peer.port, peer.local_address) = (PORT, Some(address(test, host)));
    // Loopback addresses are no next hops.
    peer.next_hops = vec![Ipv4Addr::new(192, 0, 2, host).into()];
    change(&mut peer);
    handle.apply(Config { peers: vec![peer], ..config(test, host, asn) }).await.unwrap();
    handle
}

async fn eventually(what: &str, handle: &Handle, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = handle.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; now {status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn up(session: &Session) -> bool {
    session.state == SessionState::Established
}

fn reason<'a>(status: &'a Status, words: &str) -> Option<&'a str> {
    status.sessions[0].reason.as_deref().filter(|reason| reason.contains(words))
}

#[tokio::test]
async fn who_calls_from_a_range_has_a_session_until_it_is_gone() {
    let (handle, _) = called(51, range(51)).await;
    assert!(handle.status().await.unwrap().sessions.is_empty());
    let [one, other] = [caller(51, 2, 65001, |_| {}).await, caller(51, 3, 65150, |_| {}).await];
    let all = |status: &Status| {
        status.sessions.len() == 2
            && status.sessions.iter().all(|session| up(session) && session.accepted == 1)
    };
    let status = eventually("both are up", &handle, all).await;
    let shown: Vec<_> =
        status.sessions.iter().map(|session| (session.address.addr, session.asn.0, session.range)).collect();
    let from = Some(prefix(51));
    assert_eq!(shown, [(address(51, 2), 65001, from), (address(51, 3), 65150, from)]);
    assert_eq!((status.ranges[0].sessions, status.ranges[0].limit), (2, 100));
    // What one says the other hears.
    eventually("the other's route", &other, |status| status.destinations == 3).await;
    one.shutdown("").await.unwrap();
    let status = eventually("one is gone", &handle, |status| status.sessions.len() == 1).await;
    assert_eq!(status.sessions[0].address, address(51, 3));
    eventually("its route went with it", &other, |status| status.destinations == 2).await;
}

#[tokio::test]
async fn another_as_is_refused_in_words_and_leaves_nothing() {
    let (handle, _) = called(52, range(52)).await;
    let wrong = caller(52, 2, 65002, |_| {}).await;
    eventually("it is told", &wrong, |status| {
        reason(status, "they sent OPEN message error: bad peer AS").is_some()
    })
    .await;
    let status = eventually("it is shown", &handle, |status| !status.sessions.is_empty()).await;
    let words = "peer says AS65002, we expect AS65001 or AS65100 to AS65199";
    if let Some(shown) = &status.sessions[0].reason {
        assert_eq!(shown, words);
    }
    wrong.shutdown("").await.unwrap();
    eventually("nothing is left", &handle, |status| status.sessions.is_empty()).await;
}

#[tokio::test]
async fn a_full_range_refuses_more_and_takes_the_next_when_one_is_gone() {
    let (handle, _) = called(53, Range { limit: 1, ..range(53) }).await;
    let first = caller(53, 2, 65001, |_| {}).await;
    eventually("the first is up", &handle, |status| status.sessions.iter().any(up)).await;
    let second = caller(53, 3, 65001, |_| {}).await;
    eventually("the second is told", &second, |status| reason(status, "out of resources").is_some()).await;
    let status = handle.status().await.unwrap();
    assert_eq!((status.sessions.len(), status.ranges[0].sessions), (1, 1));
    assert!(status.ranges[0].refused > 0);
    first.shutdown("").await.unwrap();
    eventually("the second is up", &second, |status| up(&status.sessions[0])).await;
    let status = handle.status().await.unwrap();
    assert_eq!(status.sessions[0].address, address(53, 3));
}

#[tokio::test]
async fn one_that_restarts_gracefully_is_waited_for() {
    let (handle, _) = called(54, range(54)).await;
    let graceful_restart =
        GracefulRestart { restart_time: 60, preserve_forwarding: true, ..GracefulRestart::default() };
    let again = |peer: &mut PeerConfig| peer.graceful_restart = graceful_restart;
    let first = caller(54, 2, 65001, again).await;
    eventually("it is up", &handle, |status| status.sessions.iter().any(|session| session.accepted == 1))
        .await;
    // It ends without a word.
    first.shutdown("").await.unwrap();
    let stale = |status: &Status| status.sessions.iter().any(|session| session.stale == 1 && !up(session));
    let status = eventually("its route is kept", &handle, stale).await;
    assert_eq!((status.sessions[0].asn, status.destinations), (Asn(65001), 2));
    // Its kernel routes are gone with it, it says when it is back.
    let _back = caller(54, 2, 65001, again).await;
    let fresh = |status: &Status| status.sessions.iter().any(|session| up(session) && session.stale == 0);
    let status = eventually("it is back", &handle, fresh).await;
    assert_eq!((status.sessions.len(), status.sessions[0].flaps), (1, 1));
}

#[tokio::test]
async fn a_range_has_a_password() {
    let with = |password: &str| Some(password.to_owned().into());
    let mut range = range(55);
    range.settings.password = with("hunter2");
    let (handle, mut config) = called(55, range).await;
    let knows = caller(55, 2, 65001, |peer| peer.password = with("hunter2")).await;
    let other = caller(55, 3, 65001, |peer| peer.password = with("hunter3")).await;
    eventually("it knows", &knows, |status| up(&status.sessions[0])).await;
    eventually("it does not", &other, |status| reason(status, "no answer with this password").is_some())
        .await;
    assert_eq!(handle.status().await.unwrap().sessions.len(), 1);
    // Without it all may call again that have none.
    config.ranges[0].settings.password = None;
    handle.apply(config).await.unwrap();
    let plain = caller(55, 4, 65001, |_| {}).await;
    eventually("it needs none", &plain, |status| up(&status.sessions[0])).await;
}

#[tokio::test]
async fn only_what_needs_a_new_session_ends_those_there_are() {
    let (handle, mut config) = called(56, range(56)).await;
    let caller = caller(56, 2, 65001, |_| {}).await;
    eventually("it is up", &handle, |status| status.sessions.iter().any(|session| session.accepted == 1))
        .await;
    config.ranges[0].settings.import = Some(Policy::reject());
    config.ranges[0].settings.name = "rack7".to_owned();
    config.ranges[0].limit = 3;
    let changes = handle.apply(config.clone()).await.unwrap();
    assert_eq!(changes, [format!("range {}: limits, policies or BFD settings changed", prefix(56))]);
    let refused =
        eventually("it says nothing we take", &handle, |status| status.sessions[0].accepted == 0).await;
    assert_eq!((refused.sessions[0].flaps, refused.sessions[0].name.as_str()), (0, "rack7"));
    config.ranges[0].settings.hold_time = 30;
    handle.apply(config.clone()).await.unwrap();
    let told = |status: &Status| reason(status, "other configuration change").is_some();
    eventually("it is told", &caller, told).await;
    let anew =
        |status: &Status| status.sessions.iter().any(|session| session.hold_time == Some(9) && up(session));
    eventually("it has called again", &handle, anew).await;
    // Configured by address it is dynamic no more.
    let peer = PeerConfig { passive: true, ..open(PeerConfig::new(address(56, 2), Asn(65001))) };
    config.peers.push(peer);
    handle.apply(config.clone()).await.unwrap();
    let known = |status: &Status| {
        status.sessions.len() == 1 && up(&status.sessions[0]) && status.sessions[0].range.is_none()
    };
    eventually("it is a neighbour of its own", &handle, known).await;
    config.peers.clear();
    config.ranges.clear();
    handle.apply(config).await.unwrap();
    eventually("it is told", &caller, |status| reason(status, "de-configured").is_some()).await;
    assert!(handle.status().await.unwrap().sessions.is_empty());
}

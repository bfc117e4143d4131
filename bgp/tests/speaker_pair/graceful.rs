//! Refreshes between marks (RFC 7313), drains (RFC 8326), the last resort (RFC 9494), and what a speaker says of its
//! forwarding.

use std::net::Ipv4Addr;
use std::sync::Arc;

use manx_bgp::api::{
    AfterDrain, Config, Direction, DrainPhase, GracefulRestart, PathInfo, SessionState, Status,
};
use manx_bgp::speaker::{self, Handle, Options};
use manx_bgp::types::Family;
use manx_bgp::wire::{
    Announcement, AsPath, Attributes, Capability, LongLived, Message, NextHop, Origin, RouteRefresh, Update,
};

use super::*;

#[tokio::test]
async fn our_routes_are_told_again_on_request_too() {
    let lab = Lab(29);
    let [one, other] = pair(lab, [|_| {}, |_| {}]).await;
    let full = |status: &Status| status.sessions[0].received == 2 && status.synced;
    eventually("established and heard", &one, full).await;
    let before = eventually("established and heard", &other, full).await.sessions[0].messages_in;
    one.refresh(lab.address(2), Direction::Out).await.unwrap();
    // Of each family a BoRR, an UPDATE and an EoRR.
    let status = eventually("told again", &other, |s| s.sessions[0].messages_in >= before + 6).await;
    let session = &status.sessions[0];
    assert_eq!((session.received, session.stale, session.flaps), (2, 0, 0));
}

/// What `handle` has for the first network of host 2, of the neighbour with that name.
async fn path(handle: &Handle) -> Option<PathInfo> {
    let found = handle.routes(Some("10.1.2.0/26".parse().unwrap())).await.unwrap();
    found.into_iter().next()?.paths.into_iter().next()
}

#[tokio::test]
async fn a_drained_speaker_announces_its_end_withdraws_and_comes_back_when_asked() {
    let lab = Lab(30);
    let [one, other] = pair(lab, [|_| {}, |_| {}]).await;
    eventually("established", &one, |status| status.destinations == 4).await;
    let status = eventually("established", &other, |status| status.destinations == 4).await;
    assert_eq!((&status.drain, &status.sessions[0].drain), (&None, &None));

    other.drain(None, Duration::from_secs(3600), AfterDrain::Withdraw, "new kernel").await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let path = path(&one).await.expect("it is still announced");
        if path.communities == ["graceful-shutdown"] {
            assert_eq!(path.local_pref, 0, "inside our AS");
            break;
        }
        assert!(Instant::now() < deadline, "{path:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let drain = other.status().await.unwrap().drain.unwrap();
    assert_eq!((drain.phase, drain.then), (DrainPhase::Announced, AfterDrain::Withdraw));
    assert!(drain.seconds_left.unwrap() > 3500);

    // Whatever is applied meanwhile.
    let peer = PeerConfig { name: "renamed".to_owned(), ..lab.peer(2, 1) };
    let config = Config { peers: vec![peer], networks: networks(2), ..lab.config(2) };
    other.apply(config.clone()).await.unwrap();
    assert_eq!(other.status().await.unwrap().sessions[0].drain.as_ref(), Some(&drain));
    // A neighbour that has to begin anew is drained from the beginning.
    let peer = PeerConfig { hold_time: 12, ..config.peers[0].clone() };
    other.apply(Config { peers: vec![peer], ..config }).await.unwrap();
    eventually("up again", &one, |s| s.sessions[0].flaps == 1 && s.destinations == 4).await;
    assert_eq!(path(&one).await.unwrap().communities, ["graceful-shutdown"]);

    other.drain(None, Duration::ZERO, AfterDrain::Withdraw, "").await.unwrap();
    eventually("withdrawn", &one, |status| status.destinations == 2).await;
    let status = other.status().await.unwrap();
    assert_eq!(status.destinations, 4, "what it hears is used on");
    assert_eq!(status.sessions[0].drain.as_ref().unwrap().phase, DrainPhase::Withdrawn);
    assert_eq!(one.status().await.unwrap().sessions[0].flaps, 1);

    let wrong = other.undrain(Some(lab.address(1).into())).await.unwrap_err().to_string();
    assert!(wrong.contains("drained with all others"), "{wrong}");
    other.undrain(None).await.unwrap();
    eventually("back", &one, |status| status.destinations == 4).await;
    assert_eq!(path(&one).await.unwrap().communities, [""; 0]);
    assert_eq!(other.undrain(None).await.unwrap_err().to_string(), "nothing is drained");
}

#[tokio::test]
async fn a_drained_peer_is_shut_down_with_the_reason_and_stays_so_until_it_is_taken_back() {
    let lab = Lab(31);
    let [one, other] = pair(lab, [|_| {}, |_| {}]).await;
    eventually("established", &one, |status| status.destinations == 4).await;
    eventually("established", &other, |status| status.destinations == 4).await;
    let to = Some(lab.address(1).into());
    other.drain(to, Duration::from_millis(300), AfterDrain::Shutdown, "new kernel").await.unwrap();
    assert_eq!(other.status().await.unwrap().drain, None, "one peer is not all of it");
    let status = eventually("shut down", &one, |s| s.sessions[0].reason.is_some()).await;
    let reason = r#"they sent cease: hard reset (6/9): cease: administrative shutdown (6/2): "new kernel""#;
    assert_eq!(status.sessions[0].reason.as_deref(), Some(reason));
    let refused = other.reset(lab.address(1), "").await.unwrap_err().to_string();
    assert!(refused.contains("undrain it first"), "{refused}");
    // Orders that would begin a new session begin none.
    let peer = PeerConfig { hold_time: 12, ..lab.peer(2, 1) };
    other.apply(Config { peers: vec![peer], networks: networks(2), ..lab.config(2) }).await.unwrap();
    let status = other.status().await.unwrap();
    assert_eq!(status.sessions[0].state, SessionState::Idle);
    assert_eq!(status.sessions[0].drain.as_ref().unwrap().phase, DrainPhase::Shutdown);
    other.undrain(to).await.unwrap();
    eventually("back", &one, |status| status.destinations == 4).await;
    let stranger = other.drain(Some(lab.address(9).into()), Duration::ZERO, AfterDrain::Withdraw, "").await;
    assert!(stranger.unwrap_err().to_string().starts_with("no peer"));
}

/// Graceful restart for IPv4 with that restart time, and the routes as the last resort for an hour after it.
fn long_lived(time: u16) -> Vec<Capability> {
    let family = Family::Ipv4;
    vec![
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::GracefulRestart {
            restarting: false,
            notification: true,
            time,
            families: vec![(family, true)],
        },
        Capability::LongLivedGracefulRestart(vec![LongLived { family, forwarding: true, time: 3600 }]),
    ]
}

impl Raw {
    async fn announce(&mut self, prefixes: &[&str]) {
        let attributes = Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            med: None,
            local_pref: Some(100),
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            ext_communities: Vec::new(),
            large_communities: Vec::new(),
            unknown: Vec::new(),
        };
        let prefixes = prefixes.iter().map(|prefix| prefix.parse::<Prefix>().unwrap().into()).collect();
        let announced = vec![Announcement { next_hop: NextHop::V4(Ipv4Addr::new(192, 0, 2, 9)), prefixes }];
        let update = Update { announced, attributes: Some(Arc::new(attributes)), ..Update::default() };
        self.say(&Message::Update(update)).await;
    }
}

/// A speaker that waits to be called by hosts 2 and 3.
async fn waiting(lab: Lab, restarting: bool) -> (Handle, Config) {
    let (handle, _) = speaker::start(Options::default());
    let graceful_restart = GracefulRestart {
        preserve_forwarding: true,
        long_lived_stale_time: 600,
        ..GracefulRestart::default()
    };
    let peer = |other| PeerConfig { passive: true, hold_time: 0, graceful_restart, ..lab.peer(1, other) };
    let config = Config { peers: vec![peer(2)], restarting, ..lab.config(1) };
    handle.apply(config.clone()).await.unwrap();
    (handle, Config { peers: vec![peer(2), peer(3)], ..config })
}

/// R, and the F bits of both capabilities, which are the same for all families.
async fn bits(lab: Lab, host: u8) -> (bool, bool) {
    let heard = Raw::call(lab, host, 1).await.open_with(host, Vec::new()).await;
    let mut forwarding = Vec::new();
    let mut restarted = None;
    for capability in heard {
        match capability {
            Capability::GracefulRestart { restarting, families, .. } => {
                restarted = Some(restarting);
                forwarding.extend(families.into_iter().map(|(_, kept)| kept));
            }
            Capability::LongLivedGracefulRestart(families) => {
                forwarding.extend(families.into_iter().map(|family| family.forwarding));
            }
            _ => {}
        }
    }
    assert_eq!(forwarding.len(), 4);
    assert!(forwarding.iter().all(|kept| *kept == forwarding[0]), "{forwarding:?}");
    (restarted.unwrap(), forwarding[0])
}

#[tokio::test]
async fn the_first_session_with_each_neighbour_after_a_cold_start_says_that_nothing_was_forwarded() {
    let lab = Lab(32);
    let (handle, with_another) = waiting(lab, false).await;
    let up = |flaps| {
        move |status: &Status| {
            let session = &status.sessions[0];
            session.flaps == flaps || session.state == SessionState::Established
        }
    };
    assert_eq!(bits(lab, 2).await, (false, false));
    eventually("the session is over", &handle, |status| status.sessions[0].flaps == 1).await;
    eventually("it can be called", &handle, up(1)).await;
    assert_eq!(bits(lab, 2).await, (false, true));
    // However late it is configured.
    handle.apply(with_another).await.unwrap();
    assert_eq!(bits(lab, 3).await, (false, false));

    let lab = Lab(33);
    let (handle, with_another) = waiting(lab, true).await;
    assert_eq!(bits(lab, 2).await, (true, true));
    eventually("the session is over", &handle, |status| status.sessions[0].flaps == 1).await;
    assert_eq!(bits(lab, 2).await, (false, true));
    handle.apply(with_another).await.unwrap();
    assert_eq!(bits(lab, 3).await, (false, true));
}

#[tokio::test]
async fn what_is_not_said_again_between_borr_and_eorr_goes_and_a_borr_that_is_too_long_is_7_1() {
    let lab = Lab(34);
    let (handle, _) = waiting(lab, false).await;
    let mut raw = Raw::call(lab, 2, 1).await;
    assert!(raw.open_with(2, long_lived(60)).await.contains(&Capability::EnhancedRouteRefresh));
    raw.announce(&["10.7.0.0/24", "10.7.1.0/24"]).await;
    // Before the End-of-RIB it is ignored.
    raw.say(&Message::RouteRefresh(RouteRefresh::beginning(Family::Ipv4))).await;
    raw.say(&Message::RouteRefresh(RouteRefresh::end(Family::Ipv4))).await;
    raw.say(&Message::Update(Update::end_of_rib(Family::Ipv4))).await;
    raw.say(&Message::RouteRefresh(RouteRefresh::beginning(Family::Ipv4))).await;
    eventually("all of it stale", &handle, |s| s.sessions[0].stale == 2).await;
    raw.announce(&["10.7.0.0/24"]).await;
    raw.say(&Message::RouteRefresh(RouteRefresh::end(Family::Ipv4))).await;
    let status = eventually("one is left", &handle, |s| s.sessions[0].received == 1).await;
    assert_eq!((status.sessions[0].stale, status.destinations), (0, 1));

    let too_long = [&[0xff; 16][..], &[0, 24, 5, 0, 1, 1, 1, 0]].concat();
    raw.stream.write_all(&too_long).await.unwrap();
    loop {
        match raw.hear(Some(&internal())).await {
            Some(Message::Notification(told)) => {
                assert_eq!((told.code, told.subcode, told.data), (7, 1, too_long));
                break;
            }
            Some(Message::Update(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refresh_asked_for_many_times_at_once_is_answered_between_marks() {
    let lab = Lab(35);
    let (handle, config) = waiting(lab, false).await;
    handle.apply(Config { networks: networks(1), ..config }).await.unwrap();
    let mut raw = Raw::call(lab, 2, 1).await;
    raw.open_with(2, long_lived(60)).await;
    for _ in 0..100 {
        raw.say(&Message::RouteRefresh(RouteRefresh::request(Family::Ipv4))).await;
    }
    let mut marks = Vec::new();
    let mut announced = 0;
    while marks.last() != Some(&2) {
        match raw.hear(Some(&internal())).await.unwrap() {
            Message::RouteRefresh(refresh) => {
                assert_eq!(refresh.family(), Some(Family::Ipv4));
                marks.push(refresh.subtype);
            }
            Message::Update(update) => announced += update.announced.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((marks, announced), (vec![1, 2], 2));
}

#[tokio::test]
async fn the_routes_of_a_lost_neighbour_become_the_last_resort_and_fresh_again_when_it_is_back() {
    let lab = Lab(36);
    let (handle, _) = waiting(lab, false).await;
    let mut raw = Raw::call(lab, 2, 1).await;
    raw.open_with(2, long_lived(1)).await;
    raw.announce(&["10.7.0.0/24", "10.7.1.0/24"]).await;
    raw.say(&Message::Update(Update::end_of_rib(Family::Ipv4))).await;
    eventually("received", &handle, |s| s.sessions[0].received == 2).await;
    drop(raw);
    let status = eventually("the last resort", &handle, |s| s.sessions[0].long_lived == 2).await;
    assert_eq!((status.sessions[0].stale, status.destinations), (2, 2));
    let shown = handle.routes(Some("10.7.0.0/24".parse().unwrap())).await.unwrap();
    assert!(shown[0].paths[0].stale && shown[0].paths[0].communities == ["llgr-stale"], "{shown:?}");

    let mut raw = Raw::call(lab, 2, 1).await;
    raw.open_with(2, long_lived(1)).await;
    raw.announce(&["10.7.0.0/24"]).await;
    eventually("one is fresh", &handle, |s| s.sessions[0].long_lived == 1).await;
    raw.say(&Message::Update(Update::end_of_rib(Family::Ipv4))).await;
    let status = eventually("the other is gone", &handle, |s| s.sessions[0].received == 1).await;
    assert_eq!((status.sessions[0].stale, status.sessions[0].long_lived), (0, 0));
}

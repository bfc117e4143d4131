//! Graceful restart (RFC 4724, RFC 8538): speakers that die, come back, or begin anew.

use super::*;

/// Our own, whose forwarding stays while the speaker is away, told to external peers.
fn restartable(peer: PeerConfig) -> PeerConfig {
    let graceful_restart =
        GracefulRestart { restart_time: 60, preserve_forwarding: true, ..GracefulRestart::default() };
    PeerConfig { graceful_restart, import: Some(Policy::accept()), export: Some(Policy::accept()), ..peer }
}

/// Of AS 64512, which restarts; the router before it, of AS 65001; and one behind that, of AS 65002.
async fn line(lab: Lab) -> (Config, tokio::task::JoinHandle<()>, Handle, Handle) {
    let external = |host, other, asn| PeerConfig { asn: Asn(asn), ..restartable(lab.peer(host, other)) };
    let of = |host, asn| Config { asn: Asn(asn), ..lab.config(host) };
    let config = Config { peers: vec![external(1, 2, 65001)], networks: networks(1), ..of(1, 64512) };
    let (first, task) = speaker::start(Options::default());
    let (router, _) = speaker::start(Options::default());
    let (behind, _) = speaker::start(Options::default());
    first.apply(config.clone()).await.unwrap();
    let peers = vec![external(2, 1, 64512), external(2, 3, 65002)];
    router.apply(Config { peers, ..of(2, 65001) }).await.unwrap();
    behind.apply(Config { peers: vec![external(3, 2, 65001)], ..of(3, 65002) }).await.unwrap();
    // The task ends with its last handle, as well as by being aborted.
    std::mem::forget(first);
    (config, task, router, behind)
}

/// A new speaker, as soon as the dead one's port is free.
async fn start_again(config: Config) -> Handle {
    let (handle, _) = speaker::start(Options::default());
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = handle.apply(config.clone()).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle
}

#[tokio::test]
async fn rfc4724_a_speaker_that_dies_and_comes_back_is_not_missed_behind_its_neighbour() {
    let lab = Lab(14);
    let (config, task, router, behind) = line(lab).await;
    let mut table = Table::of(&behind).await;
    table.until("both networks", |t| t.routes.len() == 2 && t.synced).await;

    task.abort();
    let status = eventually("it is missed by its neighbour", &router, |status| {
        status.sessions[0].state != SessionState::Established && status.sessions[0].flaps == 1
    })
    .await;
    assert_eq!((status.sessions[0].stale, status.sessions[0].received), (2, 2));

    // It has one network less when it comes back, and one more.
    let networks = vec![network("10.1.1.0/26"), network("10.9.0.0/16")];
    let _again = start_again(Config { networks, restarting: true, ..config }).await;
    let gone: Prefix = "fd00:1:1::/64".parse().unwrap();
    table
        .until("what it still has was there all the time", |t| {
            assert!(t.routes.contains_key(&"10.1.1.0/26".parse().unwrap()));
            !t.routes.contains_key(&gone) && t.routes.len() == 2
        })
        .await;
    let status = router.status().await.unwrap();
    assert_eq!((status.sessions[0].stale, status.sessions[0].received), (0, 2));
}

#[tokio::test]
async fn what_a_cold_start_finds_stale_at_its_neighbour_goes_at_once() {
    let (config, task, router, behind) = line(Lab(15)).await;
    let mut table = Table::of(&behind).await;
    table.until("both networks", |t| t.routes.len() == 2).await;
    task.abort();
    let _again = start_again(Config { networks: Vec::new(), ..config }).await;
    table.until("gone", |t| t.routes.is_empty()).await;
    assert_eq!(router.status().await.unwrap().sessions[0].stale, 0);
}

#[tokio::test]
async fn a_speaker_that_is_to_be_back_ends_without_a_word_and_any_other_with_one() {
    for (preserve_forwarding, left) in [(true, 2), (false, 0)] {
        let lab = Lab(16 + u8::from(preserve_forwarding));
        let (first, _) = speaker::start(Options::default());
        let (other, _) = speaker::start(Options::default());
        let graceful_restart =
            GracefulRestart { restart_time: 60, preserve_forwarding, ..GracefulRestart::default() };
        let peer = PeerConfig { graceful_restart, ..lab.peer(1, 2) };
        let config = Config { peers: vec![peer], networks: networks(1), ..lab.config(1) };
        first.apply(config).await.unwrap();
        other.apply(Config { peers: vec![lab.peer(2, 1)], ..lab.config(2) }).await.unwrap();
        eventually("networks", &other, |status| status.destinations == 2).await;
        first.shutdown("").await.unwrap();
        let status = eventually("down", &other, |status| status.sessions[0].flaps == 1).await;
        assert_eq!((status.sessions[0].stale, status.destinations), (left, left));
    }
}

#[tokio::test]
async fn rfc4724_two_that_restart_together_do_not_wait_for_each_other() {
    let lab = Lab(18);
    let hour = Options { start_wait: Duration::from_secs(3600) };
    let (left, _) = speaker::start(hour.clone());
    let (right, _) = speaker::start(hour);
    let config = |host, other| Config {
        peers: vec![PeerConfig { export: Some(Policy::accept()), ..lab.peer(host, other) }],
        networks: networks(host),
        restarting: true,
        ..lab.config(host)
    };
    left.apply(config(1, 2)).await.unwrap();
    right.apply(config(2, 1)).await.unwrap();
    Table::of(&left).await.until("complete", |t| t.synced && t.routes.len() == 2).await;
    Table::of(&right).await.until("complete", |t| t.synced && t.routes.len() == 2).await;
}

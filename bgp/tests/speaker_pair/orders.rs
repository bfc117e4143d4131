//! Other orders while sessions run: what notices, what starts anew, what is refused (RFC 4486).

use super::*;

#[tokio::test]
async fn networks_names_and_policies_change_without_a_session_noticing() {
    let speakers = Lab(3).mesh::<2>().await;
    let mut table = Table::of(&speakers[0].0).await;
    table.until("the other's networks", |t| t.routes.len() == 2).await;
    let before = speakers[0].0.status().await.unwrap();

    let (handle, config) = &speakers[0];
    let mut changed = config.clone();
    changed.peers[0].name = "tor1".to_owned();
    changed.peers[0].import = Some(Policy::accept_except("ours", ["10.1.0.0/16".parse().unwrap()]));
    let changes = handle.apply(changed.clone()).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].contains("renamed") && changes[0].contains("import policy"), "{changes:?}");
    table.until("one refused", |t| t.routes.len() == 1 && t.has("fd00:1:2::/64", v6(2))).await;
    assert_eq!(handle.apply(changed.clone()).await.unwrap(), [""; 0]);

    changed.peers[0].import = None;
    handle.apply(changed).await.unwrap();
    table.until("taken again, from memory", |t| t.routes.len() == 2).await;
    let learned = handle.routes(Some("10.1.2.0/26".parse().unwrap())).await.unwrap();
    assert_eq!(learned[0].paths[0].peer_name, "tor1");

    let after = handle.status().await.unwrap();
    assert_eq!(after.sessions[0].state, SessionState::Established);
    assert_eq!((after.sessions[0].flaps, before.sessions[0].flaps), (0, 0));
}

#[tokio::test]
async fn only_the_session_whose_settings_changed_starts_anew() {
    let speakers = Lab(4).mesh::<3>().await;
    let (handle, config) = &speakers[0];
    let mut changed = config.clone();
    changed.peers[1].hold_time = 30;
    handle.apply(changed).await.unwrap();
    let status = eventually("up again with the other side's hold time", handle, |status| {
        status
            .sessions
            .iter()
            .all(|session| session.state == SessionState::Established && session.hold_time == Some(9))
            && status.sessions[1].flaps == 1
    })
    .await;
    assert_eq!(status.sessions[0].flaps, 0);
    let other =
        eventually("the neighbour knows why", &speakers[2].0, |status| status.sessions[0].flaps == 1).await;
    let reason = other.sessions[0].reason.clone().unwrap();
    assert_eq!(reason, "they sent cease: other configuration change (6/6)");
}

#[tokio::test]
async fn a_removed_peer_is_told_and_its_routes_go() {
    let speakers = Lab(5).mesh::<2>().await;
    let mut table = Table::of(&speakers[1].0).await;
    table.until("networks", |t| t.routes.len() == 2).await;
    let (handle, config) = &speakers[0];
    handle.apply(Config { peers: Vec::new(), ..config.clone() }).await.unwrap();
    table.until("gone", |t| t.routes.is_empty()).await;
    eventually("it calls and is refused", &speakers[1].0, |status| {
        status.sessions[0].reason.as_deref()
            == Some("they sent cease: hard reset (6/9): cease: peer de-configured (6/3)")
    })
    .await;
    assert!(handle.status().await.unwrap().sessions.is_empty());
}

#[tokio::test]
async fn another_as_or_identifier_restarts_everything_and_watchers_hear_it() {
    let speakers = Lab(6).mesh::<2>().await;
    let mut table = Table::of(&speakers[0].0).await;
    table.until("networks", |t| t.routes.len() == 2 && t.synced).await;
    let (handle, config) = &speakers[0];
    let router_id = RouterId(Ipv4Addr::new(10, 0, 0, 99));
    let changes = handle.apply(Config { router_id, ..config.clone() }).await.unwrap();
    assert_eq!(
        changes,
        ["now AS64512 with identifier 10.0.0.99, was AS64512 with 10.0.0.1: all sessions restart"]
    );
    table.until("gone", |t| t.routes.is_empty()).await;
    table.until("back", |t| t.routes.len() == 2).await;
    let other = speakers[1].0.status().await.unwrap();
    assert_eq!(other.sessions[0].router_id, Some(router_id));
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named_and_nothing_changes() {
    let lab = Lab(9);
    let taken = SocketAddr::new(lab.address(9), PORT);
    let _other = std::net::TcpListener::bind(taken).unwrap();
    let (handle, _) = speaker::start(Options::default());
    let good = lab.config(1);
    handle.apply(good.clone()).await.unwrap();
    let bad = Config { listen: vec![SocketAddr::new(lab.address(2), PORT), taken], ..good.clone() };
    let error = handle.apply(bad).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken}: another process has the port")), "{error}");
    assert!(error.contains("bird") && error.contains("ss -ltnp sport = :1790"), "{error}");

    assert_eq!(handle.apply(good).await.unwrap(), [""; 0], "as before");
    assert!(TcpStream::connect((lab.address(1), PORT)).await.is_ok(), "listens as before");
    assert!(TcpStream::connect((lab.address(2), PORT)).await.is_err(), "what was opened is closed again");
}

#[tokio::test]
async fn a_config_that_is_wrong_in_itself_is_refused_in_words() {
    let lab = Lab(10);
    let (handle, _) = speaker::start(Options::default());
    let twice = Config { peers: vec![lab.peer(1, 2), lab.peer(1, 2)], ..lab.config(1) };
    let error = handle.apply(twice).await.unwrap_err().to_string();
    assert!(error.contains("listed twice"), "{error}");
    assert_eq!(handle.status().await.unwrap().asn, None);
}

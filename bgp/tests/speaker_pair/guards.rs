//! Passwords (RFC 2385), keys (RFC 5925) and distance (RFC 5082).

use manx_bgp::api::{TcpAoAlgorithm, TcpAoKey};

use super::*;

fn password(peer: &mut PeerConfig) {
    peer.password = Some("hunter2".to_owned().into());
}

#[tokio::test]
async fn rfc2385_two_with_the_same_password_speak_and_whoever_calls() {
    let waits: fn(&mut PeerConfig) = |peer| {
        password(peer);
        peer.passive = true;
    };
    let speaks: fn(&mut PeerConfig) = password;
    for (test, one) in [(19, waits), (20, speaks)] {
        let [one, _other] = pair(Lab(test), [one, password]).await;
        let status = eventually("established", &one, |status| status.destinations == 4).await;
        assert!(!format!("{status:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn rfc2385_another_password_and_none_are_told_in_words() {
    let none: fn(&mut PeerConfig) = |_| {};
    let another: fn(&mut PeerConfig) = |peer| peer.password = Some("x".to_owned().into());
    for (test, other) in [(21, none), (22, another)] {
        let [one, other] = pair(Lab(test), [password, other]).await;
        let told = |reason: &str| reason.starts_with("no answer with this password");
        eventually("why", &one, |status| status.sessions[0].reason.as_deref().is_some_and(told)).await;
        assert_eq!(other.status().await.unwrap().sessions[0].flaps, 0);
    }
}

#[tokio::test]
async fn rfc2385_a_password_that_changes_on_both_sides_brings_a_new_session() {
    let lab = Lab(23);
    let [one, other] = pair(lab, [password, password]).await;
    eventually("established", &one, |status| status.destinations == 4).await;
    for (handle, host, to) in [(&one, 1, 2), (&other, 2, 1)] {
        let peer = PeerConfig { password: Some("new".to_owned().into()), ..lab.peer(host, to) };
        handle
            .apply(Config { peers: vec![peer], networks: networks(host), ..lab.config(host) })
            .await
            .unwrap();
    }
    eventually("established again", &one, |status| status.sessions[0].flaps >= 1 && status.destinations == 4)
        .await;
}

#[tokio::test]
async fn rfc5082_a_neighbour_at_the_other_end_of_the_cable_is_taken_and_one_that_sends_from_afar_is_not() {
    let gtsm: fn(&mut PeerConfig) = |peer| peer.ttl_security = Some(1);
    let [one, _other] = pair(Lab(24), [gtsm, gtsm]).await;
    eventually("established", &one, |status| status.destinations == 4).await;

    let far: fn(&mut PeerConfig) = |peer| peer.multihop = Some(100);
    let [one, _other] = pair(Lab(25), [gtsm, far]).await;
    let is_told =
        |reason: &String| reason.starts_with("its call came with a TTL of 100; ttlSecurity takes nothing");
    let status =
        eventually("why", &one, |status| status.sessions[0].reason.as_ref().is_some_and(is_told)).await;
    assert_eq!((status.sessions[0].messages_in, status.sessions[0].flaps), (0, 0), "nothing is heard");
}

/// A caller whose segments have this TTL.
async fn call_from(lab: Lab, ttl: u32) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_ttl_v4(ttl).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::new(lab.address(2), 0).into()).unwrap();
    socket.connect(&SocketAddr::new(lab.address(1), PORT).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    Raw { stream: TcpStream::from_std(socket.into()).unwrap(), buffer: bytes::BytesMut::new() }
}

/// Of AS 64512, and knows a neighbour of AS 65001 that calls.
async fn external(lab: Lab, more: fn(&mut PeerConfig)) -> Handle {
    let (handle, _) = speaker::start(Options::default());
    let mut peer = PeerConfig { asn: Asn(65001), passive: true, ..lab.peer(1, 2) };
    more(&mut peer);
    handle.apply(Config { peers: vec![peer], ..lab.config(1) }).await.unwrap();
    handle
}

#[tokio::test]
async fn rfc5082_an_external_neighbour_that_has_called_with_a_full_ttl_is_heard_with_nothing_less() {
    let lab = Lab(60);
    let handle = external(lab, |_| {}).await;
    // One that does not know of GTSM is taken as it is, until it shows that it does.
    for ttl in [1, 64, 255] {
        assert!(matches!(call_from(lab, ttl).await.hear(None).await, Some(Message::Open(_))), "{ttl}");
    }
    assert_eq!(handle.status().await.unwrap().sessions[0].least_ttl, Some(255));
    assert_eq!(call_from(lab, 254).await.hear(None).await, None, "not a word");
    let told = "its call came with a TTL of 254; one before came with 255";
    let is_told = |reason: &String| reason.starts_with(told);
    eventually("why", &handle, |status| status.sessions[0].reason.as_ref().is_some_and(is_told)).await;

    // On the connection it has as well.
    let mut near = call_from(lab, 255).await;
    assert!(matches!(near.hear(None).await, Some(Message::Open(_))));
    socket2::SockRef::from(&near.stream).set_ttl_v4(254).unwrap();
    near.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), near.stream.read_u8()).await;
    assert!(answer.is_err(), "what comes from farther is not heard: {answer:?}");
    socket2::SockRef::from(&near.stream).set_ttl_v4(255).unwrap();
    let verdict = Notification::connection_not_synchronized();
    assert_eq!(near.hear(None).await, Some(Message::Notification(verdict)));

    handle.reset(lab.address(2), "").await.unwrap();
    assert!(matches!(call_from(lab, 1).await.hear(None).await, Some(Message::Open(_))), "forgotten");
}

#[tokio::test]
async fn rfc5082_the_connection_that_stays_is_guarded_where_the_callers_other_one_shows_its_ttl() {
    let lab = Lab(61);
    let listener = std::net::TcpListener::bind((lab.address(2), PORT)).unwrap();
    let _handle = external(lab, |peer| peer.passive = false).await;
    let (ours, _) = tokio::task::spawn_blocking(move || listener.accept()).await.unwrap().unwrap();
    let socket = Socket::from(ours);
    socket.set_nonblocking(true).unwrap();
    // Its answers to our call tell nothing; its own call does.
    assert!(matches!(call_from(lab, 255).await.hear(None).await, Some(Message::Open(_))));
    socket.set_ttl_v4(64).unwrap();
    let mut raw = Raw { stream: TcpStream::from_std(socket.into()).unwrap(), buffer: bytes::BytesMut::new() };
    assert!(matches!(raw.hear(None).await, Some(Message::Open(_))));
    raw.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), raw.stream.read_u8()).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn rfc5082_a_call_from_farther_than_ttl_security_allows_is_refused_in_words() {
    let lab = Lab(62);
    let handle = external(lab, |peer| peer.ttl_security = Some(1)).await;
    assert_eq!(call_from(lab, 64).await.hear(None).await, None);
    let is_told = |reason: &String| reason.starts_with("its call came with a TTL of 64; ttlSecurity");
    eventually("why", &handle, |status| status.sessions[0].reason.as_ref().is_some_and(is_told)).await;
}

/// With TCP-AO in the kernel two speak; without it neither opens a connection, nor takes one.
#[tokio::test]
async fn rfc5925_without_tcp_ao_in_the_kernel_no_session_is_opened_and_the_reason_is_told() {
    let keys: fn(&mut PeerConfig) = |peer| {
        let secret = "hunter2".to_owned().into();
        peer.tcp_ao = vec![TcpAoKey { send_id: 1, recv_id: 1, algorithm: TcpAoAlgorithm::HmacSha1, secret }];
    };
    let [one, _other] = pair(Lab(63), [keys, keys]).await;
    let told = "this kernel has no TCP-AO (CONFIG_TCP_AO, Linux 6.7 or later), which tcpAo needs: no session is opened without it";
    let status = eventually("either way", &one, |status| {
        status.destinations == 4 || status.sessions[0].reason.as_deref() == Some(told)
    })
    .await;
    assert!(!format!("{status:?}").contains("hunter2"));
    if status.destinations == 4 {
        return;
    }
    assert_eq!(status.sessions[0].state, SessionState::Idle);
    let mut raw = Raw::call(Lab(63), 2, 1).await;
    let refused = Message::Notification(Notification::connection_rejected());
    assert_eq!(raw.hear(None).await, Some(refused));
    assert_eq!(raw.hear(None).await, None);
    one.reset(Lab(63).address(2), "").await.unwrap();
    let session = one.status().await.unwrap().sessions.remove(0);
    assert_eq!((session.state, session.messages_out), (SessionState::Idle, 0));
    assert_eq!(session.reason.as_deref(), Some(told));
}

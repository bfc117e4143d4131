//! Passwords (RFC 2385) and distance (RFC 5082).

use super::*;

fn password(peer: &mut PeerConfig) {
    peer.password = Some("hunter2".to_owned().into());
}

#[tokio::test]
async fn two_with_the_same_password_speak_and_whoever_calls() {
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
async fn another_password_and_none_are_told_in_words() {
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
async fn a_password_that_changes_on_both_sides_brings_a_new_session() {
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
async fn a_neighbour_at_the_other_end_of_the_cable_is_taken_and_one_that_sends_from_afar_is_not() {
    let gtsm: fn(&mut PeerConfig) = |peer| peer.ttl_security = Some(1);
    let [one, _other] = pair(Lab(24), [gtsm, gtsm]).await;
    eventually("established", &one, |status| status.destinations == 4).await;

    let far: fn(&mut PeerConfig) = |peer| peer.multihop = Some(100);
    let [one, _other] = pair(Lab(25), [gtsm, far]).await;
    let status = eventually("tried and tried again", &one, |s| s.sessions[0].messages_out >= 3).await;
    assert_eq!((status.sessions[0].messages_in, status.sessions[0].flaps), (0, 0), "nothing is heard");
}

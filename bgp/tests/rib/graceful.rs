//! Routes that leave gracefully: the last resort (RFC 9494), a refresh between marks (RFC 7313), a shutdown announced
//! (RFC 8326), and a speaker that is another one than it was.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use manx_bgp::rib::{Drain, Leaving, PeerFacts, PeerId, Rib};
use manx_bgp::types::{Family, RouterId};
use manx_bgp::wire::{Attributes, Community, Message, frame, parse};

use crate::{
    announce, attributes, change, facts, heard, network, policy, prefix, rib, up, up_with, verdicts,
    with_community, withdraw,
};

const NET: &str = "192.0.2.0/24";
const OTHER: &str = "192.0.3.0/24";

fn knowing(rib: &mut Rib, n: u8, asn: u32) -> PeerId {
    up_with(rib, n, PeerFacts { long_lived: true, ..facts(n, asn) })
}

/// Everything a peer is sent, a word each.
fn words(rib: &mut Rib, peer: PeerId) -> Vec<String> {
    let mut words = Vec::new();
    while rib.has_pending(peer) {
        let Some(run) = rib.take_run(peer) else { continue };
        let mut octets = BytesMut::from(&run.octets[..]);
        let before = words.len();
        while let Some(frame) = frame(&mut octets, 65_535).unwrap() {
            assert_eq!(frame.kind, run.kind);
            words.push(match parse(&frame, Some(&facts(1, 65001).session)).unwrap() {
                Message::Update(update) if update.end_of_rib.is_some() => "End-of-RIB".to_owned(),
                Message::Update(update) => {
                    let announced = update.announced.iter().flat_map(|one| &one.prefixes);
                    let gone = update.withdrawn.iter().map(|nlri| format!("-{}", nlri.prefix));
                    gone.chain(announced.map(|nlri| format!("+{}", nlri.prefix)))
                        .collect::<Vec<_>>()
                        .join(" ")
                }
                Message::RouteRefresh(refresh) => {
                    format!("{:?} {}", refresh.family().unwrap(), refresh.subtype)
                }
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(run.messages as usize, words.len() - before);
    }
    words
}

#[test]
fn rfc7313_a_refresh_has_its_beginning_and_its_end_marked_for_those_who_know_them() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let peer = up_with(&mut rib, 1, PeerFacts { enhanced_refresh: true, ..facts(1, 65001) });
    let other = up(&mut rib, 2, 65001);
    for peer in [peer, other] {
        assert_eq!(words(&mut rib, peer), ["+10.1.0.0/26", "End-of-RIB", "+fd01::/64", "End-of-RIB"]);
        rib.refresh(peer, Family::Ipv4);
    }
    assert_eq!(words(&mut rib, peer), ["Ipv4 1", "+10.1.0.0/26", "Ipv4 2"]);
    assert_eq!(words(&mut rib, other), ["+10.1.0.0/26"]);
}

#[test]
fn a_refresh_asked_for_too_soon_comes_after_the_end_of_rib_and_one_asked_for_twice_comes_twice() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let peer = up_with(&mut rib, 1, PeerFacts { enhanced_refresh: true, ..facts(1, 65001) });
    rib.refresh(peer, Family::Ipv4);
    rib.refresh(peer, Family::Ipv4);
    assert_eq!(
        words(&mut rib, peer),
        ["+10.1.0.0/26", "End-of-RIB", "Ipv4 1", "End-of-RIB", "+10.1.0.0/26", "Ipv4 2"],
        "what has not begun is not asked for twice"
    );
    rib.refresh(peer, Family::Ipv4);
    assert!(rib.take_run(peer).is_some(), "it has begun");
    rib.refresh(peer, Family::Ipv4);
    assert_eq!(words(&mut rib, peer), ["+10.1.0.0/26", "Ipv4 2", "Ipv4 1", "+10.1.0.0/26", "Ipv4 2"]);
    rib.set_networks(&[]).unwrap();
    rib.refresh(peer, Family::Ipv4);
    assert_eq!(words(&mut rib, peer), ["Ipv4 1", "-10.1.0.0/26", "Ipv4 2"]);
}

#[test]
fn rfc7313_what_a_peer_does_not_say_again_in_its_refresh_goes_with_the_end() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET, OTHER]));
    assert_eq!(rib.take_changes().len(), 2);
    rib.refreshes(peer, Family::Ipv4);
    assert_eq!(rib.counts(peer).stale, 2);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    // It begins anew: what it has said since it began the first time is to be said again as well.
    rib.refreshes(peer, Family::Ipv4);
    assert_eq!(rib.counts(peer).stale, 2);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[OTHER]));
    assert_eq!(rib.take_changes(), []);
    rib.sweep(peer, Family::Ipv4);
    assert_eq!(rib.take_changes(), [change(NET, &[])]);
    assert_eq!(rib.counts(peer).stale, 0);
}

#[test]
fn what_was_not_said_again_is_kept_when_the_session_is_lost_in_a_refresh() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET, OTHER]));
    rib.refreshes(peer, Family::Ipv4);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    rib.freshen(peer, Family::Ipv4);
    rib.peer_stale(peer, &Family::ALL);
    assert_eq!(rib.snapshot(), [change(NET, &["10.0.0.1"]), change(OTHER, &["10.0.0.1"])]);
    assert_eq!(rib.counts(peer).stale, 2);
}

#[test]
fn rfc9494_the_routes_of_a_peer_that_is_away_for_long_are_the_last_resort() {
    let mut rib = rib();
    let (peer, other) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    let no_llgr = with_community(&[65001], Community::NO_LLGR);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    rib.update(peer, announce("10.0.0.1", no_llgr, &[OTHER]));
    rib.update(other, announce("10.0.0.2", attributes(&[65002, 65003, 65004]), &[NET]));
    rib.peer_stale(peer, &Family::ALL);
    assert_eq!(verdicts(&rib, NET), ["peer1: best", "peer2: lost: longer AS path"]);
    assert_eq!(rib.counts(peer).long_lived, 0);
    rib.live_long(peer, Family::Ipv4);
    assert_eq!(
        verdicts(&rib, NET),
        ["peer2: best", "peer1: lost: its neighbour has been gone for long (LLGR_STALE)"]
    );
    assert_eq!(
        verdicts(&rib, OTHER),
        ["peer1: refused: NO_LLGR, and its neighbour has been gone for longer than its restart time"]
    );
    assert_eq!(rib.counts(peer).long_lived, 2);
    rib.update(other, withdraw(&[NET]));
    assert_eq!(rib.snapshot(), [change(NET, &["10.0.0.1"])], "better than nothing");
    let shown = &rib.destinations(Some(prefix(NET)))[0].paths[0];
    assert!(shown.stale && shown.communities == ["llgr-stale"], "{shown:?}");

    // Back: what it says is fresh, the rest as before until its End-of-RIB.
    rib.peer_up(peer, facts(1, 65001));
    assert!(rib.destinations(Some(prefix(NET)))[0].paths[0].stale);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    let shown = &rib.destinations(Some(prefix(NET)))[0].paths[0];
    assert!(!shown.stale && shown.communities.is_empty(), "{shown:?}");
    assert_eq!(rib.counts(peer).long_lived, 1);
    rib.sweep(peer, Family::Ipv4);
    assert_eq!((rib.counts(peer).received, rib.counts(peer).long_lived), (1, 0));
    rib.peer_stale(peer, &Family::ALL);
    assert_eq!(rib.counts(peer).long_lived, 0, "another restart begins from the beginning");
}

#[test]
fn rfc9494_the_last_resort_is_told_to_those_who_know_it_and_otherwise_inside_only() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    let [inside, outside] = [(2, 64512), (3, 65003)].map(|(n, asn)| up(&mut rib, n, asn));
    let [inside_knowing, outside_knowing] =
        [(4, 64512), (5, 65005)].map(|(n, asn)| knowing(&mut rib, n, asn));
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    let mut told =
        [inside, outside, inside_knowing, outside_knowing].map(|peer| (peer, heard(&mut rib, peer)));
    assert!(told.iter().all(|(_, told)| told.attributes(NET).communities.is_empty()));
    rib.peer_stale(peer, &Family::ALL);
    rib.live_long(peer, Family::Ipv4);
    told.iter_mut().for_each(|(peer, told)| told.drain(&mut rib, *peer));
    let [inside, outside, inside_knowing, outside_knowing] = told.map(|(_, told)| told);
    let stale = [Community::LLGR_STALE];
    let said = inside.attributes(NET);
    assert_eq!(said.communities, [Community::LLGR_STALE, Community::NO_EXPORT]);
    assert_eq!(said.local_pref, Some(0), "RFC 9494, section 4.6");
    assert!(outside.prefixes().is_empty());
    assert_eq!(inside_knowing.attributes(NET).communities, stale);
    assert_eq!(inside_knowing.attributes(NET).local_pref, Some(100));
    assert_eq!(outside_knowing.attributes(NET).communities, stale);
}

#[test]
fn the_last_resort_of_somebody_else_is_ours_too_and_no_policy_makes_more_of_it() {
    let mut rib = rib();
    let none = policy(&serde_json::from_str(
        r#"{"default": "accept", "rules": [{"then": {"verdict": "accept", "setCommunities": [], "localPref": 900}}]}"#,
    ).unwrap());
    let peer = up_with(&mut rib, 1, PeerFacts { import: none.clone(), ..facts(1, 65001) });
    let other = up(&mut rib, 2, 65002);
    let to = up_with(&mut rib, 3, PeerFacts { long_lived: true, export: none, ..facts(3, 64512) });
    rib.update(peer, announce("10.0.0.1", with_community(&[65001], Community::LLGR_STALE), &[NET]));
    assert_eq!(heard(&mut rib, to).attributes(NET).communities, [Community::LLGR_STALE]);
    rib.update(other, announce("10.0.0.2", attributes(&[65002, 65003]), &[NET]));
    assert_eq!(verdicts(&rib, NET)[0], "peer2: best");
}

#[test]
fn rfc8326_routes_of_a_peer_that_announces_its_shutdown_are_used_only_where_there_is_nothing_else() {
    let mut rib = rib();
    let raise = policy(
        &serde_json::from_str(
            r#"{"default": "accept", "rules": [{"then": {"verdict": "accept", "localPref": 200}}]}"#,
        )
        .unwrap(),
    );
    let peer = up_with(&mut rib, 1, PeerFacts { import: raise, ..facts(1, 65001) });
    let inside = up(&mut rib, 2, 64512);
    let leaving = with_community(&[65001], Community::GRACEFUL_SHUTDOWN);
    rib.update(peer, announce("10.0.0.1", leaving, &[NET]));
    assert_eq!(heard(&mut rib, inside).attributes(NET).local_pref, Some(0), "whatever the policy says");
    rib.update(inside, announce("10.0.0.2", attributes(&[65002, 65003]), &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer2: best", "peer1: lost: lower local preference"]);
    rib.set_graceful_shutdown(peer, false);
    assert_eq!(verdicts(&rib, NET), ["peer1: best", "peer2: lost: lower local preference"]);
    // Inside our AS, the LOCAL_PREF says it.
    let inner = with_community(&[65001], Community::GRACEFUL_SHUTDOWN);
    rib.set_graceful_shutdown(peer, true);
    rib.update(inside, announce("10.0.0.2", Attributes { local_pref: Some(7), ..inner }, &[NET]));
    assert_eq!(verdicts(&rib, NET)[0], "peer2: best");
}

#[test]
fn rfc8326_a_drained_peer_is_told_that_we_leave_then_nothing_and_all_again_at_any_moment() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let (outside, inside) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let drain = |told| Drain { told, avoided: false };
    for (peer, local_pref) in [(outside, None), (inside, Some(0))] {
        let mut told = heard(&mut rib, peer);
        let before = told.routes.clone();
        rib.set_drain(peer, drain(Leaving::Announced));
        told.drain(&mut rib, peer);
        let said = told.attributes("10.1.0.0/26");
        assert_eq!(said.communities, [Community::GRACEFUL_SHUTDOWN]);
        assert_eq!(said.local_pref, local_pref);
        rib.set_drain(peer, drain(Leaving::Withdrawn));
        told.drain(&mut rib, peer);
        assert!(told.routes.is_empty());
        rib.set_networks(&[network("10.1.0.0/26"), network("10.1.0.64/26")]).unwrap();
        assert_eq!(words(&mut rib, peer), [""; 0], "nothing new either");
        rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
        rib.set_drain(peer, Drain::default());
        told.drain(&mut rib, peer);
        assert_eq!(told.routes, before);
    }
}

#[test]
fn we_do_without_a_peer_whose_session_is_going_to_end() {
    let mut rib = rib();
    let (peer, other) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    rib.update(other, announce("10.0.0.2", attributes(&[65002, 65003]), &[NET]));
    rib.set_drain(peer, Drain { told: Leaving::Announced, avoided: true });
    assert_eq!(verdicts(&rib, NET), ["peer2: best", "peer1: lost: lower local preference"]);
    rib.set_drain(peer, Drain::default());
    assert_eq!(verdicts(&rib, NET)[0], "peer1: best");
}

#[test]
fn a_client_that_is_another_speaker_now_is_the_originator_of_its_routes_also_for_the_slow() {
    let mut rib = rib();
    let client = |rib: &mut Rib, id: [u8; 4]| {
        let router_id = RouterId(Ipv4Addr::from(id));
        up_with(rib, 1, PeerFacts { client: true, router_id, ..facts(1, 64512) })
    };
    let peer = client(&mut rib, [10, 0, 0, 1]);
    let slow = up(&mut rib, 2, 64512);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    let mut told = heard(&mut rib, slow);
    assert_eq!(told.attributes(NET).originator_id, Some(RouterId(Ipv4Addr::new(10, 0, 0, 1))));
    rib.peer_down(peer);
    let peer = client(&mut rib, [10, 9, 9, 9]);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    told.drain(&mut rib, slow);
    assert_eq!(told.attributes(NET).originator_id, Some(RouterId(Ipv4Addr::new(10, 9, 9, 9))));
}

//! What is taken in, what is decided, and what watchers are told.

use std::net::Ipv4Addr;

use manx_bgp::api::Network;
use manx_bgp::rib::{Counts, NetworkError, PeerFacts, PeerId};
use manx_bgp::types::{Family, RouterId};
use manx_bgp::wire::{Attributes, Community};

use crate::{
    accept, announce, attributes, change, except, facts, network, prefix, prefixes, reject, rib, up, up_with,
    verdicts, withdraw,
};

#[test]
fn a_learned_route_is_told_to_watchers_once_and_its_loss_too() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    rib.update(peer, announce("fd00::1", attributes(&[65001]), &["2001:db8::/32"]));
    let expected = [change("192.0.2.0/24", &["10.0.0.1"]), change("2001:db8::/32", &["fd00::1"])];
    assert_eq!(rib.snapshot(), expected);
    assert_eq!(rib.take_changes(), expected);
    assert_eq!(rib.take_changes(), []);
    rib.update(peer, withdraw(&["192.0.2.0/24", "2001:db8::/32"]));
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &[]), change("2001:db8::/32", &[])]);
    assert!(rib.is_empty());
}

#[test]
fn the_same_announcement_again_changes_nothing() {
    let mut rib = rib();
    let (peer, other) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    for _ in 0..2 {
        rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    }
    assert_eq!(rib.take_changes().len(), 1);
    crate::heard(&mut rib, other);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), []);
    assert!(!rib.has_pending(other));
}

#[test]
fn equal_paths_share_the_load_and_each_loss_is_told() {
    let mut rib = rib();
    let peers: Vec<_> =
        [(2, 65002), (1, 65001), (3, 65003)].map(|(n, asn)| (up(&mut rib, n, asn), n, asn)).into();
    for (peer, n, asn) in &peers {
        rib.update(*peer, announce(&format!("10.0.0.{n}"), attributes(&[*asn, 65010]), &["0.0.0.0/0"]));
    }
    assert_eq!(rib.take_changes(), [change("0.0.0.0/0", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);
    assert_eq!(verdicts(&rib, "0.0.0.0/0"), ["peer1: best", "peer2: multipath", "peer3: multipath"]);
    rib.peer_down(peers[1].0);
    assert_eq!(rib.take_changes(), [change("0.0.0.0/0", &["10.0.0.2", "10.0.0.3"])]);
    // A longer path no longer shares.
    rib.update(peers[2].0, announce("10.0.0.3", attributes(&[65003, 65010, 65010]), &["0.0.0.0/0"]));
    assert_eq!(rib.take_changes(), [change("0.0.0.0/0", &["10.0.0.2"])]);
    assert_eq!(verdicts(&rib, "0.0.0.0/0"), ["peer2: best", "peer3: lost: longer AS path"]);
}

#[test]
fn attributes_alone_are_no_change_to_watchers() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes().len(), 1);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001, 65010]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), []);
}

#[test]
fn a_flapping_route_is_told_once_a_taking() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    for _ in 0..10 {
        rib.update(peer, withdraw(&["192.0.2.0/24"]));
        rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    }
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &["10.0.0.1"])]);
}

#[test]
fn originated_prefixes_win_and_are_never_told_to_watchers() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    assert_eq!(rib.take_changes(), []);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["10.1.0.0/26", "10.1.0.64/26"]));
    assert_eq!(rib.take_changes(), [change("10.1.0.64/26", &["10.0.0.1"])]);
    assert_eq!(verdicts(&rib, "10.1.0.0/26"), [": best", "peer1: lost: the prefix is originated here"]);
    // What was told and is now originated is gone for the watcher, and comes back after.
    rib.set_networks(&[network("10.1.0.64/26")]).unwrap();
    assert_eq!(rib.take_changes(), [change("10.1.0.0/26", &["10.0.0.1"]), change("10.1.0.64/26", &[])]);
    assert_eq!(rib.snapshot(), [change("10.1.0.0/26", &["10.0.0.1"])]);
    assert_eq!(rib.len(), 2);
}

#[test]
fn a_network_that_is_never_learned_comes_and_goes_without_a_word() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    rib.set_networks(&[]).unwrap();
    assert_eq!(rib.take_changes(), []);
    assert!(rib.destinations(None).is_empty());
}

#[test]
fn rfc8212_an_external_peer_without_a_policy_gives_nothing_and_an_internal_one_everything() {
    let mut rib = rib();
    let default = |n, asn| PeerFacts { import: None, export: None, ..facts(n, asn) };
    let external = up_with(&mut rib, 1, default(1, 65001));
    let internal = up_with(&mut rib, 2, default(2, 64512));
    rib.update(external, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), []);
    let refused = "peer1: refused: an external peer without an import policy";
    assert_eq!(verdicts(&rib, "192.0.2.0/24"), [refused]);
    assert_eq!(
        rib.counts(external),
        Counts { received: 1, accepted: 0, stale: 0, long_lived: 0, advertised: 0 }
    );
    rib.update(internal, announce("10.0.0.2", attributes(&[]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &["10.0.0.2"])]);
    assert_eq!(verdicts(&rib, "192.0.2.0/24"), ["peer2: best", refused]);
    assert_eq!(
        rib.counts(internal),
        Counts { received: 1, accepted: 1, stale: 0, long_lived: 0, advertised: 0 }
    );
}

#[test]
fn excepted_prefixes_are_refused_with_their_more_specifics() {
    let mut rib = rib();
    let import = except(&["10.1.0.0/16"]);
    let peer = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    rib.update(
        peer,
        announce("10.0.0.1", attributes(&[65001]), &["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8"]),
    );
    assert_eq!(rib.snapshot(), [change("10.0.0.0/8", &["10.0.0.1"])]);
    assert_eq!(verdicts(&rib, "10.1.2.0/24"), ["peer1: refused: rule 1 of the import policy"]);
}

#[test]
fn a_new_import_policy_applies_to_what_was_said_before() {
    let mut rib = rib();
    let peer = up_with(&mut rib, 1, PeerFacts { import: reject(), ..facts(1, 65001) });
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), []);
    rib.set_policy(peer, accept(), accept());
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &["10.0.0.1"])]);
    assert_eq!(rib.counts(peer).accepted, 1);
    rib.set_policy(peer, except(&["192.0.0.0/8"]), accept());
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &[])]);
    assert_eq!(rib.counts(peer), Counts { received: 1, accepted: 0, stale: 0, long_lived: 0, advertised: 0 });
}

#[test]
fn rfc4271_loops_are_refused_in_words() {
    let mut rib = rib();
    let (external, internal) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    rib.update(external, announce("10.0.0.1", attributes(&[65001, 64512]), &["192.0.2.0/24"]));
    let originator_id = Some(RouterId(Ipv4Addr::new(10, 0, 0, 100)));
    let reflected = Attributes { originator_id, ..attributes(&[]) };
    rib.update(internal, announce("10.0.0.2", reflected, &["192.0.3.0/24"]));
    rib.update(internal, announce("10.0.0.100", attributes(&[]), &["192.0.4.0/24"]));
    assert_eq!(rib.snapshot(), []);
    assert_eq!(verdicts(&rib, "192.0.2.0/24"), ["peer1: refused: our own AS is in its AS path"]);
    assert_eq!(verdicts(&rib, "192.0.3.0/24"), ["peer2: refused: we are its originator"]);
    assert_eq!(verdicts(&rib, "192.0.4.0/24"), ["peer2: refused: its next hop is our own address"]);
}

#[test]
fn a_path_that_becomes_a_loop_is_a_loss() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes().len(), 1);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001, 64512]), &["192.0.2.0/24"]));
    assert_eq!(rib.take_changes(), [change("192.0.2.0/24", &[])]);
    assert_eq!(rib.counts(peer), Counts { received: 1, accepted: 0, stale: 0, long_lived: 0, advertised: 0 });
}

#[test]
fn a_family_that_was_not_negotiated_is_ignored() {
    let mut rib = rib();
    let mut only_ipv6 = facts(1, 65001);
    only_ipv6.session.families = vec![Family::Ipv6];
    let peer = up_with(&mut rib, 1, only_ipv6);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert!(rib.destinations(None).is_empty());
}

#[test]
fn a_lost_peer_takes_all_it_said_along_and_says_nothing_more() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    let update = announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24", "192.0.3.0/24"]);
    rib.update(peer, update.clone());
    rib.peer_down(peer);
    rib.update(peer, update);
    assert!(rib.is_empty());
    assert_eq!(rib.counts(peer), Counts::default());
    assert!(!rib.has_pending(peer));
    rib.peer_down(PeerId::new(77));
}

#[test]
fn a_bad_network_is_refused_in_words_and_nothing_changes() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let bad = Network { communities: vec!["64512".into()], ..network("10.2.0.0/26") };
    let error = rib.set_networks(&[bad]).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().contains("\"64512\" is not a community"), "{cause}");
    let tagged = Network { communities: vec!["no-export".into()], ..network("10.3.0.0/26") };
    let twice = rib.set_networks(&[network("10.3.0.0/26"), tagged]);
    assert_eq!(twice, Err(NetworkError::Repeated(prefix("10.3.0.0/26"))));
    let originated: Vec<_> = rib.destinations(None).iter().map(|destination| destination.prefix).collect();
    assert_eq!(originated, prefixes(&["10.1.0.0/26"]));
}

#[test]
fn destinations_tell_what_people_ask_for() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    let learned =
        Attributes { med: Some(7), communities: vec![Community::NO_EXPORT], ..attributes(&[65001, 65010]) };
    rib.update(peer, announce("10.0.0.1", learned, &["192.0.2.0/24"]));
    let destinations = rib.destinations(None);
    let path = &destinations[0].paths[0];
    assert_eq!(path.peer, Some("10.0.0.1".parse().unwrap()));
    assert_eq!((path.as_path.as_str(), path.local_pref, path.med), ("65001 65010", 100, Some(7)));
    assert_eq!((path.communities[0].as_str(), path.verdict.as_str()), ("no-export", "best"));
}

#[test]
fn what_a_peer_said_and_was_told_is_shown_with_what_became_of_it() {
    let mut rib = rib();
    let (near, far) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    let inside = up(&mut rib, 3, 64512);
    rib.update(near, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24", "198.51.100.0/24"]));
    rib.update(far, announce("10.0.0.2", attributes(&[65002, 65001]), &["192.0.2.0/24"]));
    rib.update(far, announce("10.0.0.2", attributes(&[65002, 64512]), &["203.0.113.0/24"]));
    let shown = |destinations: Vec<manx_bgp::api::Destination>| -> Vec<_> {
        let one = |destination: manx_bgp::api::Destination| {
            let [path] = &destination.paths[..] else { panic!("one path each: {destination:?}") };
            let next_hop = path.next_hop.unwrap();
            format!("{} {next_hop} {} {:?} {}", destination.prefix, path.as_path, path.step, path.verdict)
        };
        destinations.into_iter().map(one).collect()
    };
    assert_eq!(
        shown(rib.received(far, None)),
        [
            "192.0.2.0/24 10.0.0.2 65002 65001 Some(4) lost: longer AS path",
            "203.0.113.0/24 10.0.0.2 65002 64512 None refused: our own AS is in its AS path",
        ]
    );
    assert_eq!(shown(rib.received(far, Some(prefix("203.0.113.0/24")))).len(), 1);
    assert_eq!(rib.advertised(inside, None), [], "nothing was taken");
    crate::heard(&mut rib, inside);
    assert_eq!(
        shown(rib.advertised(inside, None)),
        ["192.0.2.0/24 10.0.0.1 65001 None advertised", "198.51.100.0/24 10.0.0.1 65001 None advertised",]
    );
    crate::heard(&mut rib, far);
    assert_eq!(
        shown(rib.advertised(far, Some(prefix("198.51.100.0/24")))),
        ["198.51.100.0/24 10.0.0.100 64512 65001 None advertised"]
    );
}

#[test]
fn rfc4724_the_routes_of_a_restarting_peer_are_used_until_it_has_said_which_it_still_has() {
    let mut rib = rib();
    let (peer, other) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24", "192.0.3.0/24"]));
    rib.update(peer, announce("fd00::1", attributes(&[65001]), &["2001:db8::/32"]));
    let mut hears = crate::heard(&mut rib, other);
    assert_eq!(rib.take_changes().len(), 3);

    rib.peer_stale(peer, &[Family::Ipv4]);
    assert_eq!(rib.take_changes(), [change("2001:db8::/32", &[])], "the family that is not kept");
    assert_eq!(rib.counts(peer), Counts { received: 2, accepted: 2, stale: 2, long_lived: 0, advertised: 0 });
    assert!(rib.destinations(Some(prefix("192.0.2.0/24")))[0].paths[0].stale);
    assert!(!rib.has_pending(peer), "nothing is told to one that is away");

    rib.peer_up(peer, facts(1, 65001));
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    assert_eq!(rib.counts(peer).stale, 1);
    assert!(!rib.destinations(Some(prefix("192.0.2.0/24")))[0].paths[0].stale);
    assert_eq!(rib.take_changes(), [], "what is said again is no news");
    rib.sweep(peer, Family::Ipv4);
    assert_eq!(rib.take_changes(), [change("192.0.3.0/24", &[])]);
    assert_eq!(rib.counts(peer), Counts { received: 1, accepted: 1, stale: 0, long_lived: 0, advertised: 0 });
    hears.drain(&mut rib, other);
    assert_eq!(hears.prefixes(), ["192.0.2.0/24"]);
}

#[test]
fn what_was_stale_already_goes_when_a_peer_restarts_again() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24", "192.0.3.0/24"]));
    rib.peer_stale(peer, &Family::ALL);
    rib.peer_up(peer, facts(1, 65001));
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    rib.peer_stale(peer, &Family::ALL);
    assert_eq!(rib.snapshot(), [change("192.0.2.0/24", &["10.0.0.1"])]);
    assert_eq!(rib.counts(peer).stale, 1);
    rib.update(peer, withdraw(&["192.0.2.0/24"]));
    assert_eq!(rib.counts(peer), Counts::default());
}

#[test]
fn another_speaker_at_the_same_address_inherits_no_stale_routes() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    rib.peer_stale(peer, &Family::ALL);
    rib.peer_up(peer, PeerFacts { router_id: RouterId(Ipv4Addr::new(10, 9, 9, 9)), ..facts(1, 65001) });
    assert_eq!(rib.snapshot(), []);
}

#[test]
fn stale_routes_are_judged_by_the_policy_in_force_when_their_peer_is_back() {
    let mut rib = rib();
    let peer = up(&mut rib, 1, 65001);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &["192.0.2.0/24"]));
    rib.peer_stale(peer, &Family::ALL);
    rib.peer_up(peer, PeerFacts { import: reject(), ..facts(1, 65001) });
    assert_eq!(rib.snapshot(), []);
    assert_eq!(rib.counts(peer), Counts { received: 1, accepted: 0, stale: 1, long_lived: 0, advertised: 0 });
}

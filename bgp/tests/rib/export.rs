//! What peers are told, and how.

use manx_bgp::api::Network;
use manx_bgp::rib::PeerFacts;
use manx_bgp::types::Family;
use manx_bgp::wire::{Attributes, Community, LargeCommunity, Message, UnknownAttr, Update, write};

use crate::{
    Heard, accept, announce, attributes, facts, heard, network, nlri, originated, prefix, reject, rib, up,
    up_with, with_community, withdraw,
};

const NET: &str = "192.0.2.0/24";

#[test]
fn rfc4271_an_external_peer_hears_our_as_in_front_our_address_and_no_internal_attributes() {
    let mut rib = rib();
    let (internal, external) = (up(&mut rib, 1, 64512), up(&mut rib, 2, 65002));
    let learned = Attributes { local_pref: Some(300), med: Some(9), ..attributes(&[65010]) };
    rib.update(internal, announce("10.0.0.1", learned, &[NET]));
    let heard = heard(&mut rib, external);
    let told = heard.attributes(NET);
    assert_eq!(told.as_path.to_string(), "64512 65010");
    assert_eq!((told.local_pref, told.med), (None, None));
    assert_eq!(heard.next_hop(NET), "10.0.0.100");
}

#[test]
fn an_internal_peer_hears_the_path_and_next_hop_as_they_are_with_a_local_preference() {
    let mut rib = rib();
    let (external, internal) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let learned = Attributes { med: Some(9), ..attributes(&[65001]) };
    rib.update(external, announce("10.0.0.1", learned, &[NET]));
    let heard = heard(&mut rib, internal);
    let told = heard.attributes(NET);
    assert_eq!(told.as_path.to_string(), "65001");
    assert_eq!((told.local_pref, told.med), (Some(100), Some(9)));
    assert_eq!(heard.next_hop(NET), "10.0.0.1");
}

#[test]
fn originated_prefixes_are_told_with_our_own_address_of_their_family() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let (external, internal) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    for (peer, path) in [(external, "64512"), (internal, "")] {
        let heard = heard(&mut rib, peer);
        assert_eq!(heard.next_hop("10.1.0.0/26"), "10.0.0.100");
        assert_eq!(heard.next_hop("fd01::/64"), "fd00::100");
        assert_eq!(heard.attributes("fd01::/64").as_path.to_string(), path);
    }
}

#[test]
fn without_an_own_address_of_the_family_nothing_of_it_is_told() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let next_hops = vec!["10.0.0.100".parse().unwrap()];
    let peer = up_with(&mut rib, 1, PeerFacts { next_hops, ..facts(1, 65001) });
    let heard = heard(&mut rib, peer);
    assert_eq!(heard.prefixes(), ["10.1.0.0/26"]);
    assert_eq!(heard.ends, Family::ALL);
}

#[test]
fn rfc4271_a_path_is_never_told_to_whom_it_came_from_nor_from_one_internal_peer_to_another() {
    let mut rib = rib();
    let external = up(&mut rib, 1, 65001);
    let (internal, other) = (up(&mut rib, 2, 64512), up(&mut rib, 3, 64512));
    rib.update(external, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    rib.update(internal, announce("10.0.0.2", attributes(&[]), &["198.51.100.0/24"]));
    assert_eq!(heard(&mut rib, external).prefixes(), ["198.51.100.0/24"]);
    assert_eq!(heard(&mut rib, internal).prefixes(), [NET]);
    assert_eq!(heard(&mut rib, other).prefixes(), [NET]);
}

#[test]
fn a_peer_whose_own_path_becomes_best_is_told_to_forget_the_other() {
    let mut rib = rib();
    let (first, second) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(first, announce("10.0.0.1", attributes(&[65001, 65010]), &[NET]));
    let mut told = heard(&mut rib, second);
    assert_eq!(told.prefixes(), [NET]);
    rib.update(second, announce("10.0.0.2", attributes(&[65002]), &[NET]));
    told.drain(&mut rib, second);
    assert!(told.prefixes().is_empty());
    assert_eq!(heard(&mut rib, first).attributes(NET).as_path.to_string(), "64512 65002");
}

#[test]
fn rfc1997_well_known_communities_of_learned_routes_are_honoured() {
    for (community, internal_hears, external_hears) in [
        (Community::NO_EXPORT, true, false),
        (Community::NO_EXPORT_SUBCONFED, true, false),
        (Community::NO_ADVERTISE, false, false),
        (Community::BLACKHOLE, true, false),
        (Community::NO_PEER, true, true),
        (Community(1), true, true),
    ] {
        let mut rib = rib();
        let from = up(&mut rib, 1, 65001);
        let (internal, external) = (up(&mut rib, 2, 64512), up(&mut rib, 3, 65003));
        rib.update(from, announce("10.0.0.1", with_community(&[65001], community), &[NET]));
        assert_eq!(heard(&mut rib, internal).routes.len() == 1, internal_hears, "{community}");
        assert_eq!(heard(&mut rib, external).routes.len() == 1, external_hears, "{community}");
    }
}

#[test]
fn rfc3765_nopeer_routes_are_not_told_to_who_is_a_mere_peer() {
    let mut rib = rib();
    let from = up(&mut rib, 1, 65001);
    let bilateral = |n, asn| PeerFacts { bilateral: true, ..facts(n, asn) };
    let mere = up_with(&mut rib, 2, bilateral(2, 65002));
    let transit = up(&mut rib, 3, 65003);
    let internal = up_with(&mut rib, 4, bilateral(4, 64512));
    rib.update(from, announce("10.0.0.1", with_community(&[65001], Community::NO_PEER), &[NET]));
    let told = [mere, transit, internal].map(|peer| heard(&mut rib, peer).routes.len());
    assert_eq!(told, [0, 1, 1]);
    rib.update(from, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    assert_eq!(heard(&mut rib, mere).routes.len(), 1);
}

#[test]
fn an_originated_route_carries_its_communities_to_external_peers_for_them_to_obey() {
    let mut rib = rib();
    let communities = vec!["no-export".into(), "64512:7".into()];
    rib.set_networks(&[Network { communities, ..network(NET) }]).unwrap();
    let external = up(&mut rib, 1, 65001);
    let told = heard(&mut rib, external);
    assert_eq!(told.attributes(NET).communities, [Community(64512 << 16 | 7), Community::NO_EXPORT]);
}

#[test]
fn an_originated_route_has_the_preference_and_large_communities_it_is_given() {
    let mut rib = rib();
    let (internal, external) = (up(&mut rib, 1, 64512), up(&mut rib, 2, 65001));
    let communities = vec!["4200000000:1:2".into()];
    rib.set_networks(&[Network { communities, local_pref: Some(200), ..network(NET) }]).unwrap();
    for (peer, preference) in [(internal, Some(200)), (external, None)] {
        let told = heard(&mut rib, peer);
        assert_eq!(told.attributes(NET).large_communities, [LargeCommunity(4_200_000_000, 1, 2)]);
        assert_eq!(told.attributes(NET).local_pref, preference);
    }
    rib.set_networks(&[Network { local_pref: Some(50), ..network(NET) }]).unwrap();
    let told = heard(&mut rib, internal);
    assert_eq!(
        (told.attributes(NET).local_pref, told.attributes(NET).large_communities.len()),
        (Some(50), 0)
    );
}

#[test]
fn export_policies_choose_what_is_told() {
    for (export, external_hears, internal_hears) in
        [(None, 0, 2), (originated(), 1, 1), (accept(), 2, 2), (reject(), 0, 0)]
    {
        let mut rib = rib();
        rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
        let from = up(&mut rib, 1, 65001);
        rib.update(from, announce("10.0.0.1", attributes(&[65001]), &[NET]));
        let external = up_with(&mut rib, 2, PeerFacts { export: export.clone(), ..facts(2, 65002) });
        let internal = up_with(&mut rib, 3, PeerFacts { export: export.clone(), ..facts(3, 64512) });
        assert_eq!(heard(&mut rib, external).routes.len(), external_hears, "{export:?}");
        assert_eq!(heard(&mut rib, internal).routes.len(), internal_hears, "{export:?}");
    }
}

#[test]
fn a_new_export_policy_tells_the_difference() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let from = up(&mut rib, 1, 65001);
    rib.update(from, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    let peer = up(&mut rib, 2, 65002);
    let mut told = heard(&mut rib, peer);
    rib.set_policy(peer, None, originated());
    let updates = rib.take_updates(peer, 10);
    assert_eq!(updates, [withdraw(&[NET])]);
    updates.into_iter().for_each(|update| told.hear(update));
    assert_eq!(told.prefixes(), ["10.1.0.0/26"]);
    assert_eq!(rib.counts(peer).advertised, 1);
}

#[test]
fn rfc4724_end_of_rib_follows_the_first_exchange_of_each_family_and_only_that() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let peer = up(&mut rib, 1, 65001);
    assert!(rib.has_pending(peer));
    let kinds: Vec<_> = rib.take_updates(peer, 10).iter().map(|update| update.end_of_rib).collect();
    assert_eq!(kinds, [None, Some(Family::Ipv4), None, Some(Family::Ipv6)]);
    assert!(!rib.has_pending(peer));
    rib.set_networks(&[]).unwrap();
    rib.refresh(peer, Family::Ipv4);
    assert_eq!(heard_ends(rib.take_updates(peer, 10)), []);
}

fn heard_ends(updates: Vec<Update>) -> Vec<Family> {
    updates.into_iter().filter_map(|update| update.end_of_rib).collect()
}

#[test]
fn rfc2918_a_refresh_says_all_of_the_family_again() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("10.1.0.64/26"), network("fd01::/64")]).unwrap();
    let peer = up(&mut rib, 1, 65001);
    let first = heard(&mut rib, peer);
    rib.refresh(peer, Family::Ipv4);
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let updates = rib.take_updates(peer, 10);
    assert_eq!(updates[0], withdraw(&["10.1.0.64/26"]));
    assert_eq!(updates[1].announced[0].prefixes, nlri(&["10.1.0.0/26"], 0));
    assert_eq!(updates.len(), 2);
    assert_eq!(updates[1].attributes.as_ref(), Some(&first.routes[&prefix("10.1.0.0/26").into()].1));
}

#[test]
fn what_changes_and_changes_back_before_it_is_taken_is_not_told() {
    let mut rib = rib();
    let (from, to) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let update = announce("10.0.0.1", attributes(&[65001]), &[NET]);
    rib.update(from, update.clone());
    heard(&mut rib, to);
    rib.update(from, withdraw(&[NET]));
    rib.update(from, update);
    assert_eq!(rib.take_updates(to, 10), []);
    assert!(!rib.has_pending(to));
    // Nor is what came and went.
    rib.update(from, announce("10.0.0.1", attributes(&[65001]), &["198.51.100.0/24"]));
    rib.update(from, withdraw(&["198.51.100.0/24"]));
    assert_eq!(rib.take_updates(to, 10), []);
}

#[test]
fn many_prefixes_of_one_route_take_few_messages() {
    let mut rib = rib();
    let networks: Vec<_> =
        (0..10_000_u32).map(|n| network(&format!("10.{}.{}.0/24", n >> 8, n & 255))).collect();
    rib.set_networks(&networks).unwrap();
    let peer = up(&mut rib, 1, 65001);
    let mut told = Heard::default();
    let mut messages = 0;
    while rib.has_pending(peer) {
        let updates = rib.take_updates(peer, 1);
        messages += updates.len();
        updates.into_iter().for_each(|update| told.hear(update));
    }
    assert_eq!(told.routes.len(), 10_000);
    // 4 octets a prefix in messages of 4,096: ten, one more where a batch ends, and two End-of-RIBs.
    assert_eq!(messages, 13);
}

#[test]
fn a_slow_peer_is_told_little_of_what_is_no_longer_true() {
    let mut rib = rib();
    let (from, to) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    heard(&mut rib, to);
    let texts: Vec<_> = (0..60_000_u32).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    rib.update(from, announce("10.0.0.1", attributes(&[65001]), &texts));
    let mut told = Heard::default();
    rib.take_updates(to, 1).into_iter().for_each(|update| told.hear(update));
    let first = told.routes.len();
    assert!((1..10_000).contains(&first), "a batch, not {first}");
    rib.update(from, withdraw(&texts));
    let rest = rib.take_updates(to, 100);
    assert!(rest.iter().all(|update| update.announced.is_empty()));
    assert_eq!(rest.iter().map(|update| update.withdrawn.len()).sum::<usize>(), first);
}

#[test]
fn peers_that_hear_the_same_share_the_octets_but_none_hears_its_own() {
    let mut rib = rib();
    let peers = [1, 2, 3].map(|n| up(&mut rib, n, 65000 + u32::from(n)));
    let mut told = peers.map(|peer| heard(&mut rib, peer));
    for n in [1_u8, 2] {
        let path = attributes(&[65000 + u32::from(n)]);
        rib.update(
            peers[usize::from(n) - 1],
            announce(&format!("10.0.0.{n}"), path, &[&format!("10.{n}.0.0/16")]),
        );
    }
    let runs = peers.map(|peer| std::iter::from_fn(|| rib.take_run(peer)).collect::<Vec<_>>());
    assert_eq!(runs.each_ref().map(Vec::len), [1, 1, 2]);
    assert_eq!(runs[0][0].octets.as_ptr(), runs[2][1].octets.as_ptr());
    assert_eq!(runs[1][0].octets.as_ptr(), runs[2][0].octets.as_ptr());

    // The best path moves from the first to the second: each forgets the one and hears the other.
    rib.update(peers[0], withdraw(&["10.1.0.0/16"]));
    rib.update(peers[1], announce("10.0.0.2", attributes(&[65002]), &["10.1.0.0/16"]));
    for (i, runs) in runs.iter().enumerate() {
        let session = facts(i as u8 + 1, 65001 + i as u32).session;
        runs.iter().for_each(|run| told[i].hear_octets(&run.octets, &session));
        told[i].drain(&mut rib, peers[i]);
    }
    assert_eq!(told[0].prefixes(), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(told[1].prefixes(), [""; 0]);
    assert_eq!(told[2].prefixes(), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(peers.map(|peer| rib.counts(peer).advertised), [2, 0, 2]);
}

#[test]
fn a_peer_that_does_not_read_holds_the_others_up_only_until_it_parts() {
    let mut rib = rib();
    let (slow, other) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    heard(&mut rib, slow);
    let mut told = heard(&mut rib, other);
    // Some hundred octets each: more than the slow one may be behind.
    let networks: Vec<_> = (0..40_000_u32)
        .map(|n| Network {
            communities: vec![format!("{}:{}", n >> 8, n & 255)],
            ..network(&format!("10.{}.{}.0/24", n >> 8, n & 255))
        })
        .collect();
    rib.set_networks(&networks).unwrap();
    told.drain(&mut rib, other);
    assert!(told.routes.len() < 40_000, "it waits");
    rib.part(slow);
    told.drain(&mut rib, other);
    assert_eq!(told.routes.len(), 40_000);
    assert_eq!(heard(&mut rib, slow).routes, told.routes);

    // Together again.
    rib.set_networks(&networks[1..]).unwrap();
    let runs = [slow, other].map(|peer| rib.take_run(peer).unwrap().octets.as_ptr());
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn withdrawals_go_before_announcements() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let peer = up(&mut rib, 1, 65001);
    heard(&mut rib, peer);
    rib.set_networks(&[network("10.1.0.64/26")]).unwrap();
    let updates = rib.take_updates(peer, 10);
    assert_eq!(updates[0], withdraw(&["10.1.0.0/26"]));
    assert_eq!(updates[1].announced[0].prefixes, nlri(&["10.1.0.64/26"], 0));
}

#[test]
fn unknown_attributes_are_passed_on_as_partial() {
    let mut rib = rib();
    let (from, to) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let unknown = vec![UnknownAttr { code: 99, flags: 0xc0, value: vec![7] }];
    rib.update(from, announce("10.0.0.1", Attributes { unknown, ..attributes(&[65001]) }, &[NET]));
    assert_eq!(heard(&mut rib, to).attributes(NET).unknown[0].flags, 0xe0);
}

#[test]
fn rfc8654_a_route_too_large_for_the_session_is_withdrawn_instead() {
    let mut rib = rib();
    let (from, to) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    rib.update(from, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    let mut told = heard(&mut rib, to);
    let unknown = vec![UnknownAttr { code: 99, flags: 0xc0, value: vec![7; 4090] }];
    rib.update(from, announce("10.0.0.1", Attributes { unknown, ..attributes(&[65001]) }, &[NET]));
    told.drain(&mut rib, to);
    assert!(told.routes.is_empty());
}

#[test]
fn rfc6793_every_message_taken_can_be_written_to_a_two_octet_peer() {
    let mut rib = rib();
    let from = up(&mut rib, 1, 4_200_000_001);
    let mut narrow = facts(2, 65002);
    narrow.session.asn4 = false;
    let session = narrow.session.clone();
    let to = up_with(&mut rib, 2, narrow);
    let texts: Vec<_> = (0..3000_u32).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    rib.update(from, announce("10.0.0.1", attributes(&[4_200_000_001]), &texts));
    for update in rib.take_updates(to, 100) {
        let mut out = Vec::new();
        write(&Message::Update(update), Some(&session), &mut out).unwrap();
    }
    assert_eq!(rib.counts(to).advertised, 3000);
}

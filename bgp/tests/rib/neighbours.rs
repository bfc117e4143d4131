//! What differs from neighbour to neighbour: next hops, the AS we are, what is allowed in.

use manx_bgp::api::NextHopMode;
use manx_bgp::rib::PeerFacts;
use manx_bgp::types::Asn;
use manx_bgp::wire::{Attributes, Community, ExtCommunity, LargeCommunity};

use crate::{
    announce, attributes, change, facts, heard, network, rib, up, up_with, verdicts, with_community,
};

const NET: &str = "192.0.2.0/24";

#[test]
fn rfc4271_next_hops_are_kept_or_our_own_as_the_peer_is_set() {
    for (mode, asn, expected) in [
        (NextHopMode::Auto, 64512, "10.0.0.1"),
        (NextHopMode::Auto, 65002, "10.0.0.100"),
        (NextHopMode::Own, 64512, "10.0.0.100"),
        (NextHopMode::Own, 65002, "10.0.0.100"),
        (NextHopMode::Keep, 64512, "10.0.0.1"),
        (NextHopMode::Keep, 65002, "10.0.0.1"),
    ] {
        let mut rib = rib();
        rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
        let from = up(&mut rib, 1, 65001);
        let to = up_with(&mut rib, 2, PeerFacts { next_hop: mode, ..facts(2, asn) });
        rib.update(from, announce("10.0.0.1", attributes(&[65001]), &[NET]));
        let told = heard(&mut rib, to);
        assert_eq!(told.next_hop(NET), expected, "{mode:?} AS{asn}");
        assert_eq!(told.next_hop("10.1.0.0/26"), "10.0.0.100", "{mode:?} AS{asn}");
    }
}

#[test]
fn a_peer_to_whom_we_are_another_as_hears_that_one_and_both_are_loops() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let peer = up_with(&mut rib, 1, PeerFacts { local_asn: Asn(65100), ..facts(1, 65001) });
    assert_eq!(heard(&mut rib, peer).attributes("10.1.0.0/26").as_path.to_string(), "65100");
    for own in [64512, 65100] {
        rib.update(peer, announce("10.0.0.1", attributes(&[65001, own]), &[NET]));
        assert_eq!(verdicts(&rib, NET), ["peer1: refused: our own AS is in its AS path"]);
    }
}

#[test]
fn our_own_as_may_be_in_a_path_as_often_as_the_peer_is_allowed() {
    let mut rib = rib();
    let peer = up_with(&mut rib, 1, PeerFacts { allow_own_as: 1, ..facts(1, 65001) });
    rib.update(peer, announce("10.0.0.1", attributes(&[65001, 64512]), &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer1: best"]);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001, 64512, 64512]), &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer1: refused: our own AS is in its AS path"]);
}

#[test]
fn martians_are_refused_from_everyone_and_a_default_route_unless_the_peer_may_give_it() {
    let mut rib = rib();
    let guarded = up_with(&mut rib, 1, PeerFacts { default_route: false, ..facts(1, 65001) });
    let trusted = up(&mut rib, 2, 65002);
    let martian = "refused: a martian, of no meaning beyond one link or one machine";
    let default = "refused: a default route, and acceptDefaultRoute is not set";
    let four = [
        ("0.0.0.0/8", martian),
        ("127.0.0.1/32", martian),
        ("169.254.7.0/24", martian),
        ("224.0.0.0/4", martian),
        ("255.255.255.255/32", martian),
        ("0.0.0.0/0", default),
        ("0.0.0.0/1", "best"),
        ("126.0.0.0/7", "best"),
        ("10.0.0.0/8", "best"),
    ];
    let six = [
        ("::1/128", martian),
        ("::/128", martian),
        ("::ffff:10.0.0.0/104", martian),
        ("fe80::/64", martian),
        ("ff02::/16", martian),
        ("::/0", default),
        ("fd00::/8", "best"),
    ];
    for (next_hop, cases) in [("10.0.0.1", &four[..]), ("fd00::1", &six[..])] {
        for (text, expected) in cases {
            rib.update(guarded, announce(next_hop, attributes(&[65001]), &[text]));
            assert_eq!(verdicts(&rib, text), [format!("peer1: {expected}")], "{text}");
        }
    }
    rib.update(trusted, announce("10.0.0.2", attributes(&[65002]), &["0.0.0.0/0"]));
    assert_eq!(verdicts(&rib, "0.0.0.0/0"), ["peer2: best".to_owned(), format!("peer1: {default}")]);
}

#[test]
fn rfc7999_a_blackhole_stays_inside_our_as() {
    let mut rib = rib();
    let (from, internal, external) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512), up(&mut rib, 3, 65003));
    rib.update(from, announce("10.0.0.1", with_community(&[65001], Community::BLACKHOLE), &[NET]));
    assert_eq!(heard(&mut rib, internal).prefixes(), [NET]);
    assert!(heard(&mut rib, external).prefixes().is_empty());
}

#[test]
fn rfc4360_extended_communities_are_passed_on_and_non_transitive_ones_not_to_external_peers() {
    let mut rib = rib();
    let (from, internal, external) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512), up(&mut rib, 3, 65003));
    let target = ExtCommunity([0, 2, 0xfc, 0, 0, 0, 0, 7]);
    let bandwidth = ExtCommunity([0x40, 4, 0xfc, 0, 0x47, 0xc3, 0x50, 0]);
    let tagged = Attributes {
        ext_communities: vec![target, bandwidth],
        large_communities: vec![LargeCommunity(1, 2, 3)],
        ..attributes(&[65001])
    };
    rib.update(from, announce("10.0.0.1", tagged, &[NET]));
    assert_eq!(heard(&mut rib, internal).attributes(NET).ext_communities, [target, bandwidth]);
    assert_eq!(heard(&mut rib, external).attributes(NET).ext_communities, [target]);
    let shown = &rib.destinations(None)[0].paths[0].communities;
    assert_eq!(*shown, ["rt:64512:7", "lb:64512:100000", "1:2:3"]);
}

/// A peer of an IPv6 session: we have no IPv4 address towards it.
fn only_ipv6(n: u8, asn: u32, extended_next_hop: bool) -> PeerFacts {
    let next_hops = vec!["fd00::100".parse().unwrap()];
    PeerFacts { next_hops, extended_next_hop, ..facts(n, asn) }
}

#[test]
fn rfc8950_ipv4_routes_have_our_ipv6_address_where_there_is_no_other_and_the_peer_takes_it() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("fd01::/64")]).unwrap();
    let takes = up_with(&mut rib, 1, only_ipv6(1, 65001, true));
    let not = up_with(&mut rib, 2, only_ipv6(2, 65002, false));
    let both = up_with(&mut rib, 3, PeerFacts { extended_next_hop: true, ..facts(3, 65003) });
    let told = heard(&mut rib, takes);
    assert_eq!(told.next_hop("10.1.0.0/26"), "fd00::100");
    assert_eq!(told.next_hop("fd01::/64"), "fd00::100");
    assert_eq!(heard(&mut rib, not).prefixes(), ["fd01::/64"]);
    assert_eq!(heard(&mut rib, both).next_hop("10.1.0.0/26"), "10.0.0.100");
    // Withdrawn as any other.
    let mut told = told;
    rib.set_networks(&[network("fd01::/64")]).unwrap();
    told.drain(&mut rib, takes);
    assert_eq!(told.prefixes(), ["fd01::/64"]);
}

#[test]
fn rfc8950_an_ipv4_route_over_an_ipv6_next_hop_is_decided_watched_and_passed_on_to_those_who_take_it() {
    let mut rib = rib();
    let from = up_with(&mut rib, 1, only_ipv6(1, 65001, true));
    rib.update(from, announce("fd00::1", attributes(&[65001]), &[NET]));
    assert_eq!(rib.take_changes(), [change(NET, &["fd00::1"])]);
    let takes = up_with(&mut rib, 2, only_ipv6(2, 64512, true));
    let not = up_with(&mut rib, 3, facts(3, 64512));
    let external = up(&mut rib, 4, 65004);
    assert_eq!(heard(&mut rib, takes).next_hop(NET), "fd00::1");
    assert!(heard(&mut rib, not).prefixes().is_empty());
    assert_eq!(heard(&mut rib, external).next_hop(NET), "10.0.0.100");
}

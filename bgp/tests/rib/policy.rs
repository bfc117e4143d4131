//! Policies: what they match, what they change, and which rule is told to have refused a route.

use std::sync::Arc;

use manx_bgp::api;
use manx_bgp::rib::{PeerFacts, Policy, Rib};
use manx_bgp::types::Asn;
use manx_bgp::wire::{AsPath, Attributes, Community, LargeCommunity, Segment};

use crate::{
    accept, announce, attributes, change, facts, heard, network, prefix, rib, sequence, up, up_with, verdicts,
};

const NET: &str = "192.0.2.0/24";

fn read(json: &str) -> Option<Policy> {
    crate::policy(&serde_json::from_str::<api::Policy>(json).unwrap())
}

/// Whether a policy of one rule, which accepts what matches, takes a route from 10.0.0.1 (AS 65001).
fn takes(matches: &str, attributes: Attributes, next_hop: &str, text: &str) -> bool {
    let mut rib = rib();
    let import = read(&format!(r#"{{"rules": [{{"match": {matches}}}]}}"#));
    let peer = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    rib.update(peer, announce(next_hop, attributes, &[text]));
    rib.counts(peer).accepted == 1
}

#[test]
fn prefixes_match_with_their_lengths() {
    for (ranges, text, expected) in [
        (r#"{"prefix": "10.0.0.0/8"}"#, "10.0.0.0/8", true),
        (r#"{"prefix": "10.0.0.0/8"}"#, "10.1.0.0/16", false),
        (r#"{"prefix": "10.0.0.0/8", "ge": 16}"#, "10.0.0.0/8", false),
        (r#"{"prefix": "10.0.0.0/8", "ge": 16}"#, "10.1.1.1/32", true),
        (r#"{"prefix": "10.0.0.0/8", "le": 16}"#, "10.0.0.0/8", true),
        (r#"{"prefix": "10.0.0.0/8", "le": 16}"#, "10.1.1.0/24", false),
        (r#"{"prefix": "10.0.0.0/8", "ge": 24}, {"prefix": "10.1.0.0/16", "le": 16}"#, "10.1.0.0/16", true),
        (r#"{"prefix": "10.0.0.0/8", "ge": 24}, {"prefix": "10.1.0.0/16"}"#, "10.1.1.0/24", true),
        (r#"{"prefix": "0.0.0.0/0"}"#, "0.0.0.0/0", true),
    ] {
        let matches = format!(r#"{{"prefixes": [{ranges}]}}"#);
        assert_eq!(takes(&matches, attributes(&[65001]), "10.0.0.1", text), expected, "{ranges} {text}");
    }
}

#[test]
fn communities_of_both_kinds_match_with_wildcards() {
    let tagged = Attributes {
        communities: vec![Community(64512 << 16 | 7)],
        large_communities: vec![LargeCommunity(64512, 1, 2)],
        ..attributes(&[65001])
    };
    for (communities, expected) in [
        (r#""64512:7""#, true),
        (r#""64512:*""#, true),
        (r#""*:7""#, true),
        (r#""64512:8""#, false),
        (r#""64512:*:2""#, true),
        (r#""64512:*:3""#, false),
        (r#""no-export", "64512:1:2""#, true),
        (r#""no-export""#, false),
    ] {
        let matches = format!(r#"{{"communities": [{communities}]}}"#);
        assert_eq!(takes(&matches, tagged.clone(), "10.0.0.1", NET), expected, "{communities}");
    }
}

#[test]
fn as_paths_match_by_what_they_contain_where_they_begin_and_how_long_they_are() {
    for (path, expected) in [
        (r#"{"contains": [65010]}"#, true),
        (r#"{"contains": [65011]}"#, false),
        (r#"{"contains": [65011, 65001]}"#, true),
        (r#"{"originates": [65020]}"#, true),
        (r#"{"originates": [65010]}"#, false),
        (r#"{"minLength": 3}"#, true),
        (r#"{"minLength": 4}"#, false),
        (r#"{"maxLength": 3}"#, true),
        (r#"{"maxLength": 2}"#, false),
        (r#"{"contains": [65010], "originates": [65001]}"#, false),
    ] {
        let matches = format!(r#"{{"asPath": {path}}}"#);
        assert_eq!(takes(&matches, attributes(&[65001, 65010, 65020]), "10.0.0.1", NET), expected, "{path}");
    }
    let set = AsPath::from(vec![sequence(&[65001]).0.remove(0), Segment::Set(vec![Asn(65030), Asn(65031)])]);
    let aggregated = Attributes { as_path: set, ..attributes(&[]) };
    assert!(takes(r#"{"asPath": {"originates": [65031]}}"#, aggregated, "10.0.0.1", NET));
}

#[test]
fn next_hops_neighbours_and_sources_match() {
    for (matches, expected) in [
        (r#"{"nextHop": ["10.0.0.0/24"]}"#, true),
        (r#"{"nextHop": ["10.0.1.0/24", "fd00::/64"]}"#, false),
        (r#"{"peer": ["10.0.0.2", "10.0.0.1"]}"#, true),
        (r#"{"peer": ["10.0.0.2"]}"#, false),
        (r#"{"source": "learned"}"#, true),
        (r#"{"source": "originated"}"#, false),
        (r#"{}"#, true),
    ] {
        assert_eq!(takes(matches, attributes(&[65001]), "10.0.0.9", NET), expected, "{matches}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_is_told() {
    let mut rib = rib();
    let import = read(
        r#"{"rules": [
            {"match": {"prefixes": [{"prefix": "192.0.2.0/24"}]}},
            {"name": "documentation", "match": {"prefixes": [{"prefix": "192.0.0.0/16", "le": 32}]}, "then": {"verdict": "reject"}},
            {"match": {"prefixes": [{"prefix": "10.0.0.0/8", "le": 32}]}, "then": {"verdict": "reject"}}]}"#,
    );
    let peer = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    rib.update(
        peer,
        announce("10.0.0.1", attributes(&[65001]), &[NET, "192.0.3.0/24", "10.0.0.0/8", "172.16.0.0/12"]),
    );
    assert_eq!(verdicts(&rib, NET), ["peer1: best"]);
    assert_eq!(
        verdicts(&rib, "192.0.3.0/24"),
        [r#"peer1: refused: rule 2 "documentation" of the import policy"#]
    );
    assert_eq!(verdicts(&rib, "10.0.0.0/8"), ["peer1: refused: rule 3 of the import policy"]);
    assert_eq!(verdicts(&rib, "172.16.0.0/12"), ["peer1: refused: no rule of the import policy takes it"]);
}

#[test]
fn import_rules_change_what_is_decided_and_passed_on_and_next_goes_on() {
    let mut rib = rib();
    let import = read(
        r#"{"rules": [
            {"then": {"verdict": "next", "localPref": 50, "addCommunities": ["64512:1", "64512:2:3"], "removeCommunities": ["65001:*"]}},
            {"match": {"prefixes": [{"prefix": "192.0.2.0/24"}]}, "then": {"localPref": 300, "med": 7, "prepend": 2, "nextHop": "10.0.0.77"}}],
            "default": "accept"}"#,
    );
    let from = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    let to = up(&mut rib, 2, 64512);
    let came = Attributes { communities: vec![Community(65001 << 16 | 9)], ..attributes(&[65001]) };
    rib.update(from, announce("10.0.0.1", came.clone(), &[NET, "192.0.3.0/24"]));
    assert_eq!(rib.snapshot(), [change(NET, &["10.0.0.77"]), change("192.0.3.0/24", &["10.0.0.1"])]);
    let told = heard(&mut rib, to);
    let (first, second) = (told.attributes(NET), told.attributes("192.0.3.0/24"));
    assert_eq!(
        (first.local_pref, first.med, first.as_path.to_string().as_str()),
        (Some(300), Some(7), "64512 64512 65001")
    );
    assert_eq!((second.local_pref, second.med), (Some(50), None));
    for told in [first, second] {
        assert_eq!(told.communities, [Community(64512 << 16 | 1)]);
        assert_eq!(told.large_communities, [LargeCommunity(64512, 2, 3)]);
    }

    // What came is kept: without the policy it is as it was.
    rib.set_policy(from, accept(), accept());
    let mut told = told;
    told.drain(&mut rib, to);
    assert_eq!(*told.attributes(NET), Attributes { local_pref: Some(100), ..came });
}

#[test]
fn an_import_rule_may_refuse_what_an_earlier_one_would_have_changed() {
    let mut rib = rib();
    let import = read(
        r#"{"rules": [{"then": {"verdict": "next", "addCommunities": ["64512:1"]}},
                      {"match": {"communities": ["64512:1"]}, "then": {"verdict": "reject"}}], "default": "accept"}"#,
    );
    let peer = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    // Rules look at what came, not at what earlier ones made of it.
    assert_eq!(verdicts(&rib, NET), ["peer1: best"]);
    let tagged = Attributes { communities: vec![Community(64512 << 16 | 1)], ..attributes(&[65001]) };
    rib.update(peer, announce("10.0.0.1", tagged, &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer1: refused: rule 2 of the import policy"]);
}

#[test]
fn export_rules_change_what_one_peer_is_told_by_prefix_and_nothing_else() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26"), network("10.1.0.64/26")]).unwrap();
    let export = read(
        r#"{"rules": [
            {"match": {"prefixes": [{"prefix": "10.1.0.0/26"}]},
             "then": {"setCommunities": ["no-export", "64512:5"], "med": 20, "prepend": 2, "localPref": 300, "nextHop": "10.0.0.50"}}],
            "default": "accept"}"#,
    );
    let external = up_with(&mut rib, 1, PeerFacts { export: export.clone(), ..facts(1, 65001) });
    let internal = up_with(&mut rib, 2, PeerFacts { export, ..facts(2, 64512) });
    let plain = up(&mut rib, 3, 65003);
    let told = heard(&mut rib, external);
    let one = told.attributes("10.1.0.0/26");
    assert_eq!(
        (one.as_path.to_string().as_str(), one.med, one.local_pref),
        ("64512 64512 64512", Some(20), None)
    );
    assert_eq!(one.communities, [Community(64512 << 16 | 5), Community::NO_EXPORT]);
    assert_eq!(told.next_hop("10.1.0.0/26"), "10.0.0.50");
    assert_eq!(told.next_hop("10.1.0.64/26"), "10.0.0.100");
    assert_eq!(heard(&mut rib, internal).attributes("10.1.0.0/26").local_pref, Some(300));
    let plain = heard(&mut rib, plain);
    assert_eq!(plain.attributes("10.1.0.0/26"), plain.attributes("10.1.0.64/26"));
}

#[test]
fn an_export_rule_can_choose_by_whom_a_route_came_from() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let (first, second) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(first, announce("10.0.0.1", attributes(&[65001]), &[NET]));
    rib.update(second, announce("10.0.0.2", attributes(&[65002]), &["192.0.3.0/24"]));
    let export = read(r#"{"rules": [{"match": {"peer": ["10.0.0.2"]}}]}"#);
    let to = up_with(&mut rib, 3, PeerFacts { export, ..facts(3, 65003) });
    assert_eq!(heard(&mut rib, to).prefixes(), ["192.0.3.0/24"]);
    let export = read(r#"{"rules": [{"match": {"source": "learned"}}]}"#);
    rib.set_policy(to, accept(), export);
    let told = heard(&mut rib, to);
    assert!(told.prefixes().contains(&NET.to_owned()) && told.routes.len() == 1, "{:?}", told.prefixes());
}

#[test]
fn routes_no_rule_changes_are_kept_once_and_changed_ones_too() {
    let mut rib: Rib = rib();
    let import = read(r#"{"rules": [{"then": {"localPref": 50}}]}"#);
    let peer = up_with(&mut rib, 1, PeerFacts { import, ..facts(1, 65001) });
    let to = up(&mut rib, 2, 64512);
    rib.update(peer, announce("10.0.0.1", attributes(&[65001]), &[NET, "192.0.3.0/24"]));
    let told = heard(&mut rib, to);
    assert!(Arc::ptr_eq(&told.routes[&prefix(NET).into()].1, &told.routes[&prefix("192.0.3.0/24").into()].1));
}

#[test]
fn all_but_nothing_is_everything() {
    assert_eq!(api::Policy::accept_except("our own blocks", []), api::Policy::accept());
}

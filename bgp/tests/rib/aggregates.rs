//! Aggregates, and how paths are compared: what RFC 4271 leaves to an operator.

use std::net::Ipv4Addr;

use manx_bgp::api::{Aggregate, Decision};
use manx_bgp::wire::{Attributes, Origin};

use crate::{OUR_AS, announce, attributes, change, heard, network, prefix, rib, up, verdicts, withdraw};

const WHOLE: &str = "10.1.0.0/16";
const PARTS: [&str; 2] = ["10.1.0.0/26", "10.1.0.64/26"];

fn whole(suppress: bool) -> Aggregate {
    Aggregate { prefix: prefix(WHOLE), suppress, communities: vec!["64512:7".to_owned()] }
}

#[test]
fn rfc4271_an_aggregate_is_told_while_there_is_something_in_it() {
    let mut rib = rib();
    rib.set_aggregates(&[whole(false)]).unwrap();
    let (external, internal) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let mut told = heard(&mut rib, external);
    assert!(told.prefixes().is_empty());
    rib.set_networks(&PARTS.map(network)).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes(), [WHOLE, PARTS[0], PARTS[1]]);
    let shown = told.attributes(WHOLE);
    assert_eq!(shown.aggregator, Some((OUR_AS, Ipv4Addr::new(10, 0, 0, 100))));
    assert_eq!((shown.atomic_aggregate, shown.origin, shown.communities.len()), (false, Origin::Igp, 1));
    // Inside, the parts are enough.
    assert_eq!(heard(&mut rib, internal).prefixes(), PARTS);
    rib.set_networks(&[network(PARTS[1])]).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes(), [WHOLE, PARTS[1]]);
    rib.set_networks(&[network("10.2.0.0/26"), network("10.0.0.0/8")]).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes(), ["10.0.0.0/8", "10.2.0.0/26"]);
}

#[test]
fn parts_are_hidden_from_external_peers_while_the_whole_is_told() {
    let mut rib = rib();
    rib.set_networks(&PARTS.map(network)).unwrap();
    let (external, internal) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 64512));
    let (mut told, mut inside) = (heard(&mut rib, external), heard(&mut rib, internal));
    rib.set_aggregates(&[whole(true)]).unwrap();
    assert!(rib.has_pending(external));
    told.drain(&mut rib, external);
    inside.drain(&mut rib, internal);
    assert_eq!(
        (told.prefixes(), inside.prefixes()),
        (vec![WHOLE.to_owned()], PARTS.map(str::to_owned).to_vec())
    );
    // What comes later is hidden as well.
    rib.set_networks(&[PARTS[0], PARTS[1], "10.1.1.0/26"].map(network)).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes(), [WHOLE]);
    rib.set_aggregates(&[whole(false)]).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes().len(), 4);
    rib.set_aggregates(&[]).unwrap();
    told.drain(&mut rib, external);
    assert_eq!(told.prefixes(), [PARTS[0], PARTS[1], "10.1.1.0/26"]);
}

#[test]
fn what_is_learned_counts_and_shows_in_the_aggregate() {
    let mut rib = rib();
    rib.set_aggregates(&[whole(false), Aggregate { prefix: prefix("10.0.0.0/8"), ..whole(false) }]).unwrap();
    let (from, to) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    let path = Attributes { origin: Origin::Incomplete, ..attributes(&[65001]) };
    rib.update(from, announce("10.0.0.1", path, &[PARTS[0]]));
    let mut told = heard(&mut rib, to);
    assert_eq!(told.prefixes(), ["10.0.0.0/8", WHOLE, PARTS[0]]);
    let shown = told.attributes(WHOLE);
    assert!(shown.atomic_aggregate && shown.origin == Origin::Incomplete, "{shown:?}");
    assert_eq!(rib.take_changes(), [change(PARTS[0], &["10.0.0.1"])]);
    rib.update(from, withdraw(&[PARTS[0]]));
    told.drain(&mut rib, to);
    assert!(told.prefixes().is_empty());
    assert!(rib.is_empty());
}

#[test]
fn a_prefix_is_originated_in_one_way() {
    let mut rib = rib();
    rib.set_networks(&[network(WHOLE)]).unwrap();
    let told = rib.set_aggregates(&[whole(false)]).unwrap_err().to_string();
    assert!(told.contains("10.1.0.0/16 is listed twice, or is a network as well"), "{told}");
    rib.set_networks(&[]).unwrap();
    assert!(rib.set_aggregates(&[whole(false), whole(true)]).is_err());
}

#[test]
fn med_is_compared_as_told_and_load_shared_as_told() {
    let mut rib = rib();
    let net = "192.0.2.0/24";
    let say = |rib: &mut manx_bgp::rib::Rib, n: u8, asn: u32, med: Option<u32>| {
        let peer = up(rib, n, asn);
        rib.update(peer, announce(&format!("10.0.0.{n}"), Attributes { med, ..attributes(&[asn]) }, &[net]));
    };
    say(&mut rib, 1, 65001, Some(5));
    say(&mut rib, 2, 65001, None);
    say(&mut rib, 3, 65002, Some(3));
    let next_hops = |rib: &mut manx_bgp::rib::Rib, decision: Decision| {
        rib.set_decision(decision);
        let route = rib.snapshot().remove(0);
        route.next_hops.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let plain = Decision::default();
    assert_eq!(next_hops(&mut rib, plain), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(next_hops(&mut rib, Decision { multipath_same_as: true, ..plain }), ["10.0.0.2"]);
    let worst = Decision { missing_med_as_worst: true, ..plain };
    assert_eq!(next_hops(&mut rib, worst), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(next_hops(&mut rib, Decision { always_compare_med: true, ..plain }), ["10.0.0.2"]);
    assert_eq!(next_hops(&mut rib, Decision { always_compare_med: true, ..worst }), ["10.0.0.3"]);
    assert_eq!(verdicts(&rib, net)[0], "peer3: best");
    assert_eq!(next_hops(&mut rib, plain), ["10.0.0.2", "10.0.0.3"]);
}

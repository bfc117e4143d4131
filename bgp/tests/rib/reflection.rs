//! RFC 4456: what a route reflector repeats, what it notes on it, and what it refuses to hear.

use std::net::Ipv4Addr;

use manx_bgp::rib::{PeerFacts, PeerId, Rib};
use manx_bgp::types::RouterId;
use manx_bgp::wire::Attributes;

use crate::{announce, attributes, facts, heard, network, rib, up, up_with, verdicts};

const NET: &str = "192.0.2.0/24";

fn client(rib: &mut Rib, n: u8) -> PeerId {
    up_with(rib, n, PeerFacts { client: true, ..facts(n, 64512) })
}

fn id(last: u8) -> RouterId {
    RouterId(Ipv4Addr::new(10, 0, 0, last))
}

#[test]
fn rfc4456_what_a_client_said_goes_to_everyone_else_and_what_the_others_said_to_clients_only() {
    let mut rib = rib();
    let (first, second) = (client(&mut rib, 1), client(&mut rib, 2));
    let (plain, other) = (up(&mut rib, 3, 64512), up(&mut rib, 4, 64512));
    let external = up(&mut rib, 5, 65001);
    rib.update(first, announce("10.0.0.1", attributes(&[]), &["10.1.0.0/24"]));
    rib.update(plain, announce("10.0.0.3", attributes(&[]), &["10.3.0.0/24"]));
    rib.update(external, announce("10.0.0.5", attributes(&[65001]), &["10.5.0.0/24"]));
    for (peer, expected) in [
        (first, vec!["10.3.0.0/24", "10.5.0.0/24"]),
        (second, vec!["10.1.0.0/24", "10.3.0.0/24", "10.5.0.0/24"]),
        (plain, vec!["10.1.0.0/24", "10.5.0.0/24"]),
        (other, vec!["10.1.0.0/24", "10.5.0.0/24"]),
        (external, vec!["10.1.0.0/24", "10.3.0.0/24"]),
    ] {
        assert_eq!(heard(&mut rib, peer).prefixes(), expected, "{peer}");
    }
}

#[test]
fn rfc4456_a_reflected_route_carries_its_originator_and_our_cluster_in_front_and_is_otherwise_as_it_was() {
    let mut rib = rib();
    rib.set_cluster_id(id(77));
    let (from, to) = (client(&mut rib, 1), client(&mut rib, 2));
    let before = Attributes { local_pref: Some(300), med: Some(9), ..attributes(&[65010]) };
    rib.update(from, announce("10.0.0.9", before.clone(), &[NET]));
    let told = heard(&mut rib, to);
    let reflected = Attributes { originator_id: Some(id(1)), cluster_list: vec![id(77).0], ..before.clone() };
    assert_eq!(*told.attributes(NET), reflected);
    assert_eq!(told.next_hop(NET), "10.0.0.9");

    // From another reflector: the originator stays, our cluster is put in front.
    let again = Attributes { originator_id: Some(id(50)), cluster_list: vec![id(51).0], ..before };
    rib.update(from, announce("10.0.0.9", again.clone(), &[NET]));
    let told = heard(&mut rib, to);
    assert_eq!(*told.attributes(NET), Attributes { cluster_list: vec![id(77).0, id(51).0], ..again });
}

#[test]
fn what_is_originated_here_or_learned_outside_is_not_reflected_but_announced() {
    let mut rib = rib();
    rib.set_networks(&[network("10.1.0.0/26")]).unwrap();
    let (to, external) = (client(&mut rib, 1), up(&mut rib, 2, 65001));
    rib.update(external, announce("10.0.0.2", attributes(&[65001]), &[NET]));
    let told = heard(&mut rib, to);
    for net in ["10.1.0.0/26", NET] {
        assert_eq!(told.attributes(net).originator_id, None);
        assert!(told.attributes(net).cluster_list.is_empty());
    }
}

#[test]
fn an_external_peer_hears_nothing_of_reflection() {
    let mut rib = rib();
    let (from, to) = (client(&mut rib, 1), up(&mut rib, 2, 65001));
    let reflected =
        Attributes { originator_id: Some(id(50)), cluster_list: vec![id(51).0], ..attributes(&[]) };
    rib.update(from, announce("10.0.0.9", reflected, &[NET]));
    let told = heard(&mut rib, to);
    assert_eq!((told.attributes(NET).originator_id, told.attributes(NET).cluster_list.len()), (None, 0));
}

#[test]
fn rfc4456_a_route_that_has_been_through_our_cluster_is_refused_and_another_cluster_id_judges_it_again() {
    let mut rib = rib();
    let peer = client(&mut rib, 1);
    let looped = Attributes {
        originator_id: Some(id(50)),
        cluster_list: vec![id(51).0, id(100).0],
        ..attributes(&[])
    };
    rib.update(peer, announce("10.0.0.9", looped, &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer1: refused: it has been through our own cluster"]);
    rib.set_cluster_id(id(77));
    assert_eq!(verdicts(&rib, NET), ["peer1: best"]);
    rib.set_cluster_id(id(51));
    assert_eq!(verdicts(&rib, NET), ["peer1: refused: it has been through our own cluster"]);
}

#[test]
fn another_cluster_id_is_told_to_those_who_heard_the_old_one() {
    let mut rib = rib();
    let (from, to) = (client(&mut rib, 1), client(&mut rib, 2));
    rib.update(from, announce("10.0.0.1", attributes(&[]), &[NET]));
    let mut told = heard(&mut rib, to);
    assert_eq!(told.attributes(NET).cluster_list, [id(100).0]);
    rib.set_cluster_id(id(77));
    told.drain(&mut rib, to);
    assert_eq!(told.attributes(NET).cluster_list, [id(77).0]);
}

#[test]
fn among_equals_the_originator_counts_as_router_id_and_then_the_shorter_cluster_list() {
    let mut rib = rib();
    let (first, second) = (client(&mut rib, 1), client(&mut rib, 2));
    let reflected = |originator: u8, clusters: &[u8]| Attributes {
        originator_id: Some(id(originator)),
        cluster_list: clusters.iter().map(|last| id(*last).0).collect(),
        ..attributes(&[])
    };
    rib.update(first, announce("10.0.0.9", reflected(60, &[51]), &[NET]));
    rib.update(second, announce("10.0.0.8", reflected(50, &[51]), &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer2: best", "peer1: multipath"]);
    rib.update(first, announce("10.0.0.9", reflected(50, &[51]), &[NET]));
    rib.update(second, announce("10.0.0.8", reflected(50, &[52, 51]), &[NET]));
    assert_eq!(verdicts(&rib, NET), ["peer1: best", "peer2: multipath"]);
}

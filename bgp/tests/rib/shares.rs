//! The load is shared by what links take, where every path tells of it (draft-ietf-idr-link-bandwidth).

use manx_bgp::wire::{Attributes, ExtCommunity};

use super::{announce, attributes, facts, prefix, rib, up, up_with, withdraw};

const NET: &str = "192.0.2.0/24";

/// Attributes with a bandwidth of so many octets a second.
fn takes(asn: u32, octets: f32) -> Attributes {
    let mut community = [0x40, 4, 0xfc, 0, 0, 0, 0, 0];
    community[4..].copy_from_slice(&octets.to_be_bytes());
    Attributes { ext_communities: vec![ExtCommunity(community)], ..attributes(&[asn]) }
}

#[test]
fn next_hops_have_the_weights_of_their_links_and_none_where_one_is_not_told() {
    let mut rib = rib();
    let (one, two) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(one, announce("10.0.0.1", takes(65001, 125e6), &[NET]));
    rib.update(two, announce("10.0.0.2", takes(65002, 375e6), &[NET]));
    let mut weights = |said: Option<(_, _, Attributes)>| {
        if let Some((peer, next_hop, attributes)) = said {
            rib.update(peer, announce(next_hop, attributes, &[NET]));
        }
        let changes = rib.take_changes();
        assert!(changes.iter().all(|change| change.prefix == prefix(NET)));
        changes.into_iter().map(|change| (change.next_hops.len(), change.weights)).collect::<Vec<_>>()
    };
    assert_eq!(weights(None), [(2, vec![1, 3])]);
    assert_eq!(
        weights(Some((two, "10.0.0.2", takes(65002, 250e6)))),
        [(2, vec![1, 2])],
        "that alone is news"
    );
    assert_eq!(weights(Some((two, "10.0.0.2", takes(65002, 125e6)))), [(2, vec![])]);
    assert_eq!(weights(Some((two, "10.0.0.2", takes(65002, 1e6)))), [(2, vec![120, 1])]);
    assert_eq!(weights(Some((one, "10.0.0.1", attributes(&[65001])))), [(2, vec![])], "one tells of none");
    assert_eq!(weights(Some((one, "10.0.0.1", takes(65001, 0.0)))), [], "nor is that a share");
}

#[test]
fn a_single_way_has_no_weight_and_that_of_its_link_is_no_news() {
    let mut rib = rib();
    let (one, two) = (up(&mut rib, 1, 65001), up(&mut rib, 2, 65002));
    rib.update(one, announce("10.0.0.1", takes(65001, 125e6), &[NET]));
    assert!(rib.take_changes().remove(0).weights.is_empty());
    rib.update(one, announce("10.0.0.1", takes(65001, 1e6), &[NET]));
    assert_eq!(rib.take_changes(), []);
    rib.update(two, announce("10.0.0.2", takes(65002, 3e6), &[NET]));
    assert_eq!(rib.snapshot().remove(0).weights, [1, 3]);
    rib.update(one, withdraw(&[NET]));
    assert!(rib.take_changes().remove(0).weights.is_empty());
}

#[test]
fn two_paths_by_one_next_hop_are_one_share() {
    let mut rib = rib();
    let inside = |rib: &mut manx_bgp::rib::Rib, n| up_with(rib, n, facts(n, super::OUR_AS.0));
    let peers = [1, 2, 3].map(|n| inside(&mut rib, n));
    for (peer, next_hop, octets) in
        [(peers[0], "10.0.0.1", 1e6), (peers[1], "10.0.0.1", 2e6), (peers[2], "10.0.0.3", 1e6)]
    {
        rib.update(peer, announce(next_hop, takes(65001, octets), &[NET]));
    }
    let route = rib.snapshot().remove(0);
    assert_eq!(
        (route.next_hops.len(), route.weights),
        (2, vec![2, 1]),
        "the larger of two words on one link"
    );
}

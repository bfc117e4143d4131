//! Next hops that are reached or not, at a cost, by others: RFC 4271, sections 5.1.3 and 9.1.2.

use manx_bgp::api::{NextHopMode, Reach};
use manx_bgp::rib::{PeerFacts, PeerId, Rib};

use crate::{announce, attributes, change, facts, heard, policy, rib, up, up_with, verdicts, withdraw};

const NET: &str = "192.0.2.0/24";

fn connected(prefix: &str) -> Reach {
    Reach::connected(prefix.parse().unwrap())
}

fn by(prefix: &str, gateway: &str, metric: u32) -> Reach {
    let gateway = Some(gateway.parse().unwrap());
    Reach { prefix: prefix.parse().unwrap(), gateway, metric }
}

/// Two internal peers that tell the same of next hops far away.
fn two(rib: &mut Rib) -> [PeerId; 2] {
    [1, 2].map(|n| {
        let peer = up(rib, n, 64512);
        rib.update(peer, announce(&format!("10.9.{n}.1"), attributes(&[65001]), &[NET]));
        peer
    })
}

#[test]
fn a_path_whose_next_hop_is_not_reached_is_held_with_the_reason() {
    let mut rib = rib();
    rib.set_underlay(Some(&[connected("10.0.0.0/24")]));
    let (peer, listener) = (up(&mut rib, 1, 64512), up(&mut rib, 2, 65002));
    rib.update(peer, announce("10.9.0.1", attributes(&[65001]), &[NET]));
    assert_eq!(rib.take_changes(), []);
    assert_eq!(verdicts(&rib, NET), ["peer1: refused: next hop unreachable"]);
    assert_eq!((rib.counts(peer).received, rib.counts(peer).accepted, rib.len()), (1, 0, 0));
    assert!(heard(&mut rib, listener).prefixes().is_empty());

    rib.set_underlay(Some(&[connected("10.0.0.0/24"), connected("10.9.0.0/24")]));
    assert_eq!(rib.take_changes(), [change(NET, &["10.9.0.1"])]);
    assert_eq!(heard(&mut rib, listener).prefixes(), [NET]);
    assert_eq!(rib.counts(peer).accepted, 1);

    rib.set_underlay(Some(&[connected("10.0.0.0/24")]));
    assert!(rib.has_pending(listener));
    assert_eq!(rib.take_updates(listener, 10), [withdraw(&[NET])]);
    assert_eq!(rib.take_changes(), [change(NET, &[])]);

    // With nobody to tell, whatever is named counts as a neighbour.
    rib.set_underlay(None);
    assert_eq!(rib.take_changes(), [change(NET, &["10.9.0.1"])]);
    assert_eq!(rib.counts(peer).accepted, 1);
    rib.set_underlay(Some(&[]));
    assert_eq!(rib.take_changes(), [change(NET, &[])]);
    rib.peer_down(peer);
    assert_eq!(rib.destinations(None), []);
}

#[test]
fn the_cheapest_next_hop_wins_and_equal_ones_share_the_load() {
    let mut rib = rib();
    two(&mut rib);
    let ways = |one, two| [by("10.9.1.0/24", "10.0.0.1", one), by("10.9.2.0/24", "10.0.0.2", two)];
    rib.set_underlay(Some(&ways(20, 10)));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.2"])]);
    assert_eq!(verdicts(&rib, NET), ["peer2: best", "peer1: lost: its next hop is farther away"]);
    rib.set_underlay(Some(&ways(10, 10)));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.1", "10.0.0.2"])]);
    rib.set_underlay(Some(&ways(10, 11)));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.1"])]);
    // Another gateway at the same cost is news to who programs it.
    rib.set_underlay(Some(&[by("10.9.1.0/24", "10.0.0.7", 10)]));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.7"])]);
    rib.set_underlay(Some(&[by("10.9.1.0/24", "10.0.0.7", 10)]));
    assert_eq!(rib.take_changes(), []);
}

#[test]
fn a_dead_next_hop_leaves_the_others() {
    let mut rib = rib();
    two(&mut rib);
    let ways = [connected("10.9.1.0/24"), connected("10.9.2.0/24")];
    rib.set_underlay(Some(&ways));
    assert_eq!(rib.take_changes(), [change(NET, &["10.9.1.1", "10.9.2.1"])]);
    rib.set_underlay(Some(&ways[..1]));
    assert_eq!(rib.take_changes(), [change(NET, &["10.9.1.1"])]);
    rib.set_underlay(Some(&ways));
    assert_eq!(rib.take_changes(), [change(NET, &["10.9.1.1", "10.9.2.1"])]);
}

#[test]
fn rfc4271_a_next_hop_that_a_learned_route_covers_follows_it() {
    let mut rib = rib();
    rib.set_underlay(Some(&[connected("10.0.0.0/24")]));
    let tors = [1, 2].map(|n| up(&mut rib, n, 65000 + u32::from(n)));
    let node = up(&mut rib, 3, 64512);
    rib.update(node, announce("10.9.0.5", attributes(&[]), &["10.244.5.0/26"]));
    assert_eq!(rib.take_changes(), []);
    rib.update(tors[0], announce("10.0.0.1", attributes(&[65001]), &["10.9.0.0/24"]));
    let told = [change("10.9.0.0/24", &["10.0.0.1"]), change("10.244.5.0/26", &["10.0.0.1"])];
    assert_eq!(rib.take_changes(), told);
    assert_eq!(rib.snapshot(), told);
    // By both, and then by the other alone.
    rib.update(tors[1], announce("10.0.0.2", attributes(&[65002]), &["10.9.0.0/24"]));
    let both = &["10.0.0.1", "10.0.0.2"];
    assert_eq!(rib.take_changes(), [change("10.9.0.0/24", both), change("10.244.5.0/26", both)]);
    rib.peer_down(tors[0]);
    assert_eq!(
        rib.take_changes(),
        [change("10.9.0.0/24", &["10.0.0.2"]), change("10.244.5.0/26", &["10.0.0.2"])]
    );
    // What people see is as it was learned.
    let shown = &rib.destinations(Some("10.244.5.0/26".parse().unwrap()))[0].paths[0];
    assert_eq!(shown.next_hop, Some("10.9.0.5".parse().unwrap()));
    rib.update(tors[1], withdraw(&["10.9.0.0/24"]));
    assert_eq!(rib.take_changes(), [change("10.9.0.0/24", &[]), change("10.244.5.0/26", &[])]);
    assert_eq!(verdicts(&rib, "10.244.5.0/26"), ["peer3: refused: next hop unreachable"]);
}

#[test]
fn routes_that_lead_to_each_others_next_hops_go_with_what_carried_them() {
    let mut rib = rib();
    rib.set_underlay(Some(&[connected("10.0.0.0/24"), connected("10.8.0.0/24")]));
    let peers = [1, 2].map(|n| up(&mut rib, n, 64512));
    rib.update(peers[0], announce("10.8.0.1", attributes(&[]), &["10.9.0.0/24"]));
    rib.update(peers[1], announce("10.9.0.1", attributes(&[]), &["10.8.0.0/16"]));
    assert_eq!(rib.take_changes().len(), 2);
    assert_eq!(rib.len(), 2);
    // Now each would need the other.
    rib.set_underlay(Some(&[connected("10.0.0.0/24")]));
    assert_eq!(rib.take_changes(), [change("10.8.0.0/16", &[]), change("10.9.0.0/24", &[])]);
    assert_eq!(rib.len(), 0);
}

#[test]
fn a_next_hop_set_by_a_policy_is_looked_at_instead_of_the_learned_one() {
    let mut rib = rib();
    rib.set_underlay(Some(&[connected("10.0.0.0/24")]));
    let peer = up(&mut rib, 1, 64512);
    rib.update(peer, announce("10.9.0.1", attributes(&[65001]), &[NET]));
    assert_eq!(rib.take_changes(), []);
    let set = serde_json::from_str(
        r#"{"default": "accept", "rules": [{"then": {"verdict": "next", "nextHop": "10.0.0.9"}}]}"#,
    );
    rib.set_policy(peer, policy(&set.unwrap()), None);
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.9"])]);
}

#[test]
fn an_external_peer_one_hop_away_names_itself_or_a_neighbour() {
    let mut rib = rib();
    let ways = [connected("10.0.0.0/24"), by("0.0.0.0/0", "10.0.0.254", 0)];
    rib.set_underlay(Some(&ways));
    let peer = up(&mut rib, 1, 65001);
    let far = up_with(&mut rib, 2, PeerFacts { multihop: true, ..facts(2, 65002) });
    let beyond = up_with(&mut rib, 3, PeerFacts { address: "10.7.0.3".parse().unwrap(), ..facts(3, 65003) });
    for (peer, asn, next_hop, net) in [
        (peer, 65001, "10.0.0.1", "192.0.2.0/26"),
        (peer, 65001, "10.0.0.8", "192.0.2.64/26"),
        (peer, 65001, "10.9.0.1", "192.0.2.128/26"),
        (far, 65002, "10.9.0.2", "198.51.100.0/26"),
        (beyond, 65003, "10.9.0.3", "198.51.100.64/26"),
    ] {
        rib.update(peer, announce(next_hop, attributes(&[asn]), &[net]));
    }
    let told = [
        change("192.0.2.0/26", &["10.0.0.1"]),
        change("192.0.2.64/26", &["10.0.0.8"]),
        change("198.51.100.0/26", &["10.0.0.254"]),
        change("198.51.100.64/26", &["10.0.0.254"]),
    ];
    assert_eq!(rib.take_changes(), told);
    let refused = "peer1: refused: next hop on no network we share, though the peer is on one";
    assert_eq!(verdicts(&rib, "192.0.2.128/26"), [refused]);
    // The network is found to be ours as well.
    rib.set_underlay(Some(&[ways[0].clone(), ways[1].clone(), connected("10.9.0.0/24")]));
    assert!(rib.take_changes().contains(&change("192.0.2.128/26", &["10.9.0.1"])));
}

#[test]
fn a_third_partys_next_hop_is_kept_for_who_shares_its_network() {
    let mut rib = rib();
    let network = connected("10.0.0.0/24");
    rib.set_underlay(Some(&[network.clone(), by("10.9.0.0/24", "10.0.0.254", 0)]));
    let from = up(&mut rib, 1, 64512);
    let direct = |n| PeerFacts { next_hop: NextHopMode::Direct, ..facts(n, 65000 + u32::from(n)) };
    let shares = up_with(&mut rib, 2, direct(2));
    let not = up_with(&mut rib, 3, PeerFacts { address: "10.7.0.3".parse().unwrap(), ..direct(3) });
    let plain = up(&mut rib, 4, 65004);
    rib.update(from, announce("10.0.0.1", attributes(&[]), &[NET]));
    rib.update(from, announce("10.9.0.1", attributes(&[]), &["198.51.100.0/24"]));
    let hops = |rib: &mut Rib, peer| {
        let told = heard(rib, peer);
        [told.next_hop(NET), told.next_hop("198.51.100.0/24")]
    };
    assert_eq!(hops(&mut rib, shares), ["10.0.0.1", "10.0.0.100"]);
    assert_eq!(hops(&mut rib, not), ["10.0.0.100", "10.0.0.100"]);
    assert_eq!(hops(&mut rib, plain), ["10.0.0.100", "10.0.0.100"]);
    // Where the network is told to be another, so is what is said.
    rib.set_underlay(Some(&[network, connected("10.0.0.2/32"), by("10.9.0.0/24", "10.0.0.254", 0)]));
    assert_eq!(heard(&mut rib, shares).next_hop(NET), "10.0.0.100");
}

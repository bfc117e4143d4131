//! Several paths to one destination: RFC 7911.

use manx_bgp::api::PathCount;
use manx_bgp::rib::{PeerFacts, PeerId, Rib};
use manx_bgp::types::Family;
use manx_bgp::wire::{AddPath, Attributes, Nlri, Session, Update};

use crate::{
    Heard, announce, attributes, change, facts, heard, nlri, prefix, reject, rib, up, up_with, verdicts,
    withdraw,
};

const NET: &str = "192.0.2.0/24";

/// The peer numbered `n` with path identifiers both ways.
fn several(n: u8, asn: u32, count: PathCount) -> PeerFacts {
    let facts = facts(n, asn);
    let add_path = AddPath { receive: Family::ALL.to_vec(), send: Family::ALL.to_vec() };
    PeerFacts { session: Session { add_path, ..facts.session }, add_paths: Some(count), ..facts }
}

/// As that peer says one of its paths.
fn path(path_id: u32, next_hop: &str, attributes: Attributes) -> Update {
    let mut update = announce(next_hop, attributes, &[NET]);
    update.announced[0].prefixes = nlri(&[NET], path_id);
    update
}

fn gone(path_id: u32) -> Update {
    Update { withdrawn: nlri(&[NET], path_id), ..Update::default() }
}

/// Identifier and AS path of each path a peer holds to the destination.
fn paths(heard: &Heard) -> Vec<(u32, String)> {
    let of = |nlri: &&Nlri| nlri.prefix == prefix(NET);
    heard
        .routes
        .keys()
        .filter(of)
        .map(|nlri| (nlri.path_id, heard.routes[nlri].1.as_path.to_string()))
        .collect()
}

/// Three external peers, each with its path, the first the best.
fn three(rib: &mut Rib) -> [PeerId; 3] {
    [1, 2, 3].map(|n| {
        let peer = up(rib, n, 65000 + u32::from(n));
        let med = Attributes { med: Some(0), ..attributes(&[65000 + u32::from(n)]) };
        rib.update(peer, announce(&format!("10.0.0.{n}"), med, &[NET]));
        peer
    })
}

#[test]
fn rfc7911_paths_of_one_peer_stand_beside_each_other_until_each_is_withdrawn() {
    let mut rib = rib();
    let peer = up_with(&mut rib, 1, several(1, 65001, PathCount::All));
    rib.update(peer, path(7, "10.0.0.1", attributes(&[65001, 65010])));
    rib.update(peer, path(9, "10.0.0.8", attributes(&[65001])));
    assert_eq!(rib.counts(peer).received, 2);
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.8"])]);
    assert_eq!(verdicts(&rib, NET), ["peer1: best", "peer1: lost: longer AS path"]);
    let shown: Vec<_> = rib.received(peer, None)[0].paths.iter().map(|path| path.path_id).collect();
    assert_eq!(shown, [Some(9), Some(7)]);

    // The same identifier again takes the place of what it was.
    rib.update(peer, path(7, "10.0.0.1", attributes(&[65001])));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.1", "10.0.0.8"])]);
    assert_eq!(verdicts(&rib, NET), ["peer1: best", "peer1: multipath"]);
    rib.update(peer, gone(8));
    assert_eq!(rib.take_changes(), []);
    rib.update(peer, gone(7));
    assert_eq!(rib.take_changes(), [change(NET, &["10.0.0.8"])]);
    rib.peer_down(peer);
    assert_eq!(rib.take_changes(), [change(NET, &[])]);
    assert!(rib.is_empty());
}

#[test]
fn all_paths_are_told_under_identifiers_that_stay_theirs() {
    let mut rib = rib();
    let peers = three(&mut rib);
    let listener = up_with(&mut rib, 9, several(9, 65009, PathCount::All));
    let mut told = heard(&mut rib, listener);
    let first = paths(&told);
    assert_eq!(
        first.iter().map(|(_, path)| path.as_str()).collect::<Vec<_>>(),
        ["64512 65001", "64512 65002", "64512 65003"]
    );

    rib.update(peers[1], withdraw(&[NET]));
    told.drain(&mut rib, listener);
    assert_eq!(paths(&told), [first[0].clone(), first[2].clone()]);
    rib.update(peers[2], announce("10.0.0.3", attributes(&[65003, 65010]), &[NET]));
    told.drain(&mut rib, listener);
    assert_eq!(paths(&told), [first[0].clone(), (first[2].0, "64512 65003 65010".to_owned())]);

    // Nothing of the best path changed, so one that hears only that hears nothing.
    let plain = up(&mut rib, 8, 65008);
    heard(&mut rib, plain);
    rib.update(peers[1], announce("10.0.0.2", attributes(&[65002]), &[NET]));
    assert_eq!(rib.take_updates(plain, 10), []);
    told.drain(&mut rib, listener);
    assert_eq!(paths(&told).len(), 3);
}

#[test]
fn so_many_of_the_best_are_told() {
    let mut rib = rib();
    let peers = three(&mut rib);
    rib.update(peers[0], announce("10.0.0.1", attributes(&[65001, 65010, 65011]), &[NET]));
    let listener = up_with(&mut rib, 9, several(9, 65009, PathCount::Best(2)));
    let mut told = heard(&mut rib, listener);
    let ways = |told: &Heard| paths(told).into_iter().map(|(_, path)| path).collect::<Vec<_>>();
    assert_eq!(ways(&told), ["64512 65002", "64512 65003"]);
    rib.update(peers[1], withdraw(&[NET]));
    told.drain(&mut rib, listener);
    let mut now = ways(&told);
    now.sort();
    assert_eq!(now, ["64512 65001 65010 65011", "64512 65003"]);
    assert_eq!(rib.counts(listener).advertised, 2);
}

#[test]
fn a_peer_hears_none_of_its_own_paths_and_shares_the_octets_of_the_others() {
    let mut rib = rib();
    let both = [1, 2].map(|n| up_with(&mut rib, n, several(n, 65000 + u32::from(n), PathCount::All)));
    let mut told = both.map(|peer| heard(&mut rib, peer));
    rib.update(both[0], path(1, "10.0.0.1", attributes(&[65001])));
    rib.update(both[0], path(2, "10.0.0.1", attributes(&[65001, 65010])));
    rib.update(both[1], path(1, "10.0.0.2", attributes(&[65002])));
    for (told, peer) in told.iter_mut().zip(both) {
        told.drain(&mut rib, peer);
    }
    assert_eq!(paths(&told[0]).into_iter().map(|(_, path)| path).collect::<Vec<_>>(), ["64512 65002"]);
    let mut second: Vec<_> = paths(&told[1]).into_iter().map(|(_, path)| path).collect();
    second.sort();
    assert_eq!(second, ["64512 65001", "64512 65001 65010"]);
    assert_eq!(both.map(|peer| rib.counts(peer).advertised), [1, 2]);
}

#[test]
fn a_refresh_and_a_new_policy_keep_the_identifiers() {
    let mut rib = rib();
    three(&mut rib);
    let listener = up_with(&mut rib, 9, several(9, 65009, PathCount::All));
    let mut told = heard(&mut rib, listener);
    let first = paths(&told);
    rib.refresh(listener, Family::Ipv4);
    let mut again = Heard::default();
    again.drain(&mut rib, listener);
    assert_eq!(paths(&again), first);
    let facts = several(9, 65009, PathCount::All);
    rib.set_policy(listener, facts.import.clone(), reject());
    told.drain(&mut rib, listener);
    assert_eq!(paths(&told), []);
    rib.set_policy(listener, facts.import, facts.export);
    told.drain(&mut rib, listener);
    assert_eq!(paths(&told), first);
}

#[test]
fn what_a_peer_tells_of_one_destination_is_bounded() {
    let mut rib = rib();
    let peer = up_with(&mut rib, 1, several(1, 65001, PathCount::All));
    for n in 0..2000_u32 {
        let [_, _, c, d] = n.to_be_bytes();
        rib.update(peer, path(n, &format!("10.1.{c}.{d}"), attributes(&[65001])));
    }
    assert_eq!(rib.counts(peer).received, 256);
    (0..2000).for_each(|n| rib.update(peer, gone(n)));
    assert_eq!((rib.counts(peer).received, rib.len()), (0, 0));
}

#[test]
fn stale_paths_are_swept_one_by_one() {
    let mut rib = rib();
    let facts = several(1, 65001, PathCount::All);
    let peer = up_with(&mut rib, 1, facts.clone());
    rib.update(peer, path(1, "10.0.0.1", attributes(&[65001])));
    rib.update(peer, path(2, "10.0.0.2", attributes(&[65001])));
    rib.peer_stale(peer, &Family::ALL);
    rib.peer_up(peer, facts);
    rib.update(peer, path(2, "10.0.0.2", attributes(&[65001])));
    assert_eq!((rib.counts(peer).received, rib.counts(peer).stale), (2, 1));
    rib.sweep(peer, Family::Ipv4);
    assert_eq!((rib.counts(peer).received, rib.counts(peer).stale), (1, 0));
    assert_eq!(rib.snapshot(), [change(NET, &["10.0.0.2"])]);
}

//! The decision process, step by step.

use std::net::Ipv4Addr;

use manx_bgp::rib::decision::{Candidate, Reason, Verdict, decide};
use manx_bgp::types::{Asn, RouterId};
use manx_bgp::wire::Origin;
use proptest::prelude::*;

/// An external path by the peer 10.0.0.n.
fn base(n: u8) -> Candidate {
    Candidate {
        originated: false,
        last_resort: false,
        local_pref: 100,
        path_length: 2,
        origin: Origin::Igp,
        neighbour: Some(Asn(65001)),
        shares: None,
        med: 0,
        external: true,
        metric: 0,
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, n)),
        clusters: 0,
        address: Some(Ipv4Addr::new(10, 0, 0, n).into()),
        path_id: 0,
    }
}

/// The verdict on each candidate, in their order.
fn verdicts(candidates: &[Candidate]) -> Vec<Verdict> {
    let mut ranked = decide(candidates);
    ranked.sort_by_key(|(i, _)| *i);
    ranked.into_iter().map(|(_, verdict)| verdict).collect()
}

#[test]
fn rfc4271_each_step_decides_what_those_before_it_left_equal() {
    let worse = base(1);
    let same_id = |n| Candidate { router_id: RouterId(Ipv4Addr::new(10, 0, 0, 9)), ..base(n) };
    #[rustfmt::skip]
    let table = [
        (Candidate { originated: true, address: None, ..base(9) }, worse.clone(), Reason::Originated),
        (Candidate { local_pref: 0, path_length: 9, ..base(9) }, Candidate { last_resort: true, ..base(1) }, Reason::LastResort),
        (Candidate { local_pref: 200, path_length: 9, ..base(9) }, worse.clone(), Reason::LocalPref),
        (Candidate { path_length: 1, origin: Origin::Incomplete, ..base(9) }, worse.clone(), Reason::PathLength),
        (base(9), Candidate { origin: Origin::Egp, ..base(1) }, Reason::Origin),
        (Candidate { origin: Origin::Egp, ..base(9) }, Candidate { origin: Origin::Incomplete, ..base(1) }, Reason::Origin),
        (Candidate { med: 5, external: false, ..base(9) }, Candidate { med: 6, ..base(1) }, Reason::Med),
        (base(9), Candidate { external: false, ..base(1) }, Reason::External),
        (base(9), Candidate { metric: 1, ..base(1) }, Reason::Metric),
        (base(1), base(2), Reason::RouterId),
        (same_id(9), Candidate { clusters: 1, ..same_id(1) }, Reason::ClusterList),
        (same_id(1), same_id(2), Reason::PeerAddress),
        (same_id(1), Candidate { path_id: 1, ..same_id(1) }, Reason::PathId),
    ];
    for (better, worse, reason) in table {
        // The last four share the load all the same.
        let lost = if reason >= Reason::RouterId { Verdict::Multipath } else { Verdict::Lost(reason) };
        assert_eq!(verdicts(&[better.clone(), worse.clone()]), [Verdict::Best, lost], "{reason:?}");
        assert_eq!(verdicts(&[worse, better]), [lost, Verdict::Best], "{reason:?}");
    }
}

#[test]
fn rfc4271_med_is_compared_among_paths_of_one_neighbouring_as_only() {
    let other_as = Candidate { neighbour: Some(Asn(65002)), med: 50, ..base(2) };
    assert_eq!(verdicts(&[base(1), other_as]), [Verdict::Best, Verdict::Multipath]);
}

#[test]
fn load_may_be_shared_within_one_neighbouring_as_only() {
    let of = |n: u8, asn: u32| Candidate { neighbour: Some(Asn(asn)), shares: Some(Asn(asn)), ..base(n) };
    assert_eq!(
        verdicts(&[of(1, 65001), of(2, 65002), of(3, 65001)]),
        [Verdict::Best, Verdict::Lost(Reason::RouterId), Verdict::Multipath]
    );
}

#[test]
fn a_path_that_loses_by_med_does_not_shield_others() {
    // Compared two by two in some orders, each of these could win: a loses to b by router id, b to c by
    // being internal, c to a by MED.
    let a = Candidate { med: 10, external: false, ..base(3) };
    let b = Candidate { neighbour: Some(Asn(65002)), external: false, ..base(1) };
    let c = Candidate { med: 20, ..base(2) };
    let expected = [(a, Verdict::Multipath), (b, Verdict::Best), (c, Verdict::Lost(Reason::Med))];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let candidates = order.map(|i| expected[i].0.clone());
        assert_eq!(verdicts(&candidates), order.map(|i| expected[i].1));
    }
}

#[test]
fn load_is_shared_over_neighbouring_ases_but_not_over_path_lengths_nor_with_internal_paths() {
    let other_as = Candidate { neighbour: Some(Asn(65002)), ..base(2) };
    let longer = Candidate { path_length: 3, ..base(3) };
    let internal = Candidate { external: false, ..base(4) };
    assert_eq!(
        verdicts(&[base(1), other_as, longer, internal]),
        [
            Verdict::Best,
            Verdict::Multipath,
            Verdict::Lost(Reason::PathLength),
            Verdict::Lost(Reason::External)
        ]
    );
}

#[test]
fn losers_are_ranked_by_how_far_they_came() {
    let early = Candidate { local_pref: 50, ..base(1) };
    let late = Candidate { med: 7, ..base(2) };
    let order: Vec<_> = decide(&[early, late, base(3)]).into_iter().map(|(i, _)| i).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn nothing_is_decided_about_nothing() {
    assert_eq!(decide(&[]), []);
}

prop_compose! {
    fn candidate()(
        (originated, last_resort) in (prop::bool::weighted(0.1), any::<bool>()),
        local_pref in 100..102_u32,
        path_length in 1..3_usize,
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Incomplete)],
        neighbour in prop::option::of((65001..65003_u32).prop_map(Asn)),
        med in 0..3_u32,
        external: bool,
        metric in 0..2_u32,
        router_id in 1..3_u8,
        clusters in 0..2_usize,
    ) -> Candidate {
        let router_id = RouterId(Ipv4Addr::new(10, 0, 0, router_id));
        let (address, path_id, shares) = (None, 0, None);
        Candidate {
            originated, last_resort, local_pref, path_length, origin, neighbour, shares, med, external, metric, router_id,
            clusters, address, path_id,
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_the_candidates_does_not_matter(
        (sorted, shuffled) in prop::collection::vec(candidate(), 1..8).prop_flat_map(|mut candidates| {
            for (n, candidate) in candidates.iter_mut().enumerate() {
                candidate.address = Some(Ipv4Addr::new(10, 0, 0, n as u8).into());
            }
            (Just(candidates.clone()), Just(candidates).prop_shuffle())
        })
    ) {
        let ranked = |candidates: &[Candidate]| -> Vec<_> {
            decide(candidates).into_iter().map(|(i, verdict)| (candidates[i].address, verdict)).collect()
        };
        let ranked_sorted = ranked(&sorted);
        prop_assert_eq!(ranked_sorted.len(), sorted.len());
        prop_assert_eq!(ranked_sorted.iter().filter(|(_, verdict)| *verdict == Verdict::Best).count(), 1);
        prop_assert_eq!(ranked_sorted, ranked(&shuffled));
    }
}

//! The decision process: RFC 4271, section 9.1.2.2, as a pure function.
//!
//! Each step keeps the best of what the steps before it kept; a path that is dropped has lost by that
//! step. Because a step looks at the whole set, never at two paths alone, the outcome does not depend on
//! the order of the candidates, MED included.
//!
//! | step | keeps | |
//! |---|---|---|
//! | 1 | what is originated here | |
//! | 2 | what is not LLGR_STALE, the last resort | RFC 9494, section 4.4 |
//! | 3 | highest LOCAL_PREF; 100 where there is none | 9.1.1 |
//! | 4 | shortest AS path | a |
//! | 5 | lowest ORIGIN | b |
//! | 6 | lowest MED among those of one neighbouring AS; 0 where there is none | c |
//! | 7 | external over internal | d |
//! | 8 | lowest interior cost of the next hop; 0 where nobody tells | e |
//! | | *what is left here shares the load: different neighbouring ASes may, path lengths may not* | |
//! | 9 | lowest router id, or ORIGINATOR_ID | f; RFC 4456, section 9 |
//! | 10 | shortest CLUSTER_LIST | RFC 4456, section 9 |
//! | 11 | lowest peer address | g |
//! | 12 | lowest path identifier of that peer | RFC 7911 |
//!
//! No two peers share an address and no two paths of one an identifier, so step 12 leaves one.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::types::{Asn, RouterId};
use crate::wire::Origin;

/// LOCAL_PREF of a path that has none.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// What the steps compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Not learned at all.
    pub originated: bool,
    /// It has LLGR_STALE.
    pub last_resort: bool,
    /// LOCAL_PREF in force.
    pub local_pref: u32,
    /// Of the AS path, as [`crate::wire::AsPath::length`] counts.
    pub path_length: usize,
    /// ORIGIN.
    pub origin: Origin,
    /// The neighbouring AS, among whose paths MED is compared; none: the path begins in our own, or MED is compared
    /// among all.
    pub neighbour: Option<Asn>,
    /// Paths that differ in this do not share the load: none in all, unless only those of one AS are to.
    pub shares: Option<Asn>,
    /// MULTI_EXIT_DISC in force.
    pub med: u32,
    /// Learned from another AS.
    pub external: bool,
    /// What its next hop costs to reach.
    pub metric: u32,
    /// ORIGINATOR_ID, or the peer's identifier.
    pub router_id: RouterId,
    /// Of the CLUSTER_LIST.
    pub clusters: usize,
    /// The peer's address; none: originated here.
    pub address: Option<IpAddr>,
    /// The peer's identifier of the path; 0 where there is none.
    pub path_id: u32,
}

/// The step a path lost by, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// 1.
    Originated,
    /// 2.
    LastResort,
    /// 3.
    LocalPref,
    /// 4.
    PathLength,
    /// 5.
    Origin,
    /// 6.
    Med,
    /// 7.
    External,
    /// 8.
    Metric,
    /// 9.
    RouterId,
    /// 10.
    ClusterList,
    /// 11.
    PeerAddress,
    /// 12.
    PathId,
}

impl Reason {
    /// Its number in the table.
    pub fn step(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Originated => "lost: the prefix is originated here",
            Self::LastResort => "lost: its neighbour has been gone for long (LLGR_STALE)",
            Self::LocalPref => "lost: lower local preference",
            Self::PathLength => "lost: longer AS path",
            Self::Origin => "lost: worse origin",
            Self::Med => "lost: higher MED from the same neighbouring AS",
            Self::External => "lost: internal, and there is an external one",
            Self::Metric => "lost: its next hop is farther away",
            Self::RouterId => "lost: higher router id",
            Self::ClusterList => "lost: longer cluster list",
            Self::PeerAddress => "lost: higher peer address",
            Self::PathId => "lost: higher path identifier",
        })
    }
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The one that is announced.
    Best,
    /// As good as the best down to step 8.
    Multipath,
    /// It lost by this step.
    Lost(Reason),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Multipath => f.write_str("multipath"),
            Self::Lost(reason) => reason.fmt(f),
        }
    }
}

/// What [`decide`] finds best, and all that share its load, itself among them: without a word on the others, and
/// without allocating. None of no candidates.
pub(super) fn best(candidates: &[Candidate]) -> Option<(usize, SmallVec<[usize; 8]>)> {
    let first =
        |c: &Candidate| (!c.originated, c.last_resort, Reverse(c.local_pref), c.path_length, c.origin as u8);
    let last = |c: &Candidate| (c.router_id, c.clusters, c.address, c.path_id);
    let least = candidates.iter().map(first).min()?;
    let mut left: SmallVec<[usize; 8]> = (0..candidates.len()).collect();
    left.retain(|i| first(&candidates[*i]) == least);
    let before = left.clone();
    left.retain(|i| {
        let one = &candidates[*i];
        let others = before.iter().map(|other| &candidates[*other]);
        others.filter(|other| other.neighbour == one.neighbour).all(|other| one.med <= other.med)
    });
    if left.iter().any(|i| candidates[*i].external) {
        left.retain(|i| candidates[*i].external);
    }
    let metric = left.iter().map(|i| candidates[*i].metric).min()?;
    left.retain(|i| candidates[*i].metric == metric);
    let best = left.iter().copied().min_by_key(|i| last(&candidates[*i]))?;
    left.retain(|i| candidates[*i].shares == candidates[best].shares);
    Some((best, left))
}

/// Ranks `candidates`: their indices with their verdicts, the best first, then those that share its load,
/// then the losers, the later they lost the earlier; by peer address and path identifier among equals.
pub fn decide(candidates: &[Candidate]) -> Vec<(usize, Verdict)> {
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    let mut lost: Vec<(Reason, usize)> = Vec::new();
    let mut step = |reason: Reason, keep: &dyn Fn(&[usize], &Candidate) -> bool| {
        let before = left.clone();
        left.retain(|&i| keep(&before, &candidates[i]));
        lost.extend(before.into_iter().filter(|i| !left.contains(i)).map(|i| (reason, i)));
    };
    let best = |left: &[usize], key: &dyn Fn(&Candidate) -> u128, one: &Candidate| {
        left.iter().all(|&i| key(one) <= key(&candidates[i]))
    };

    step(Reason::Originated, &|left, one| best(left, &|c| u128::from(!c.originated), one));
    step(Reason::LastResort, &|left, one| best(left, &|c| u128::from(c.last_resort), one));
    step(Reason::LocalPref, &|left, one| best(left, &|c| u128::from(u32::MAX - c.local_pref), one));
    step(Reason::PathLength, &|left, one| best(left, &|c| c.path_length as u128, one));
    step(Reason::Origin, &|left, one| best(left, &|c| c.origin as u128, one));
    step(Reason::Med, &|left, one| {
        left.iter().all(|&i| candidates[i].neighbour != one.neighbour || one.med <= candidates[i].med)
    });
    step(Reason::External, &|left, one| best(left, &|c| u128::from(!c.external), one));
    step(Reason::Metric, &|left, one| best(left, &|c| c.metric.into(), one));
    step(Reason::RouterId, &|left, one| best(left, &|c| c.router_id.0.to_bits().into(), one));
    step(Reason::ClusterList, &|left, one| best(left, &|c| c.clusters as u128, one));
    step(Reason::PeerAddress, &|left, one| left.iter().all(|&i| one.address <= candidates[i].address));
    step(Reason::PathId, &|left, one| best(left, &|c| c.path_id.into(), one));

    lost.sort_by_key(|&(reason, i)| (Reverse(reason), candidates[i].address, candidates[i].path_id));
    let shares = left.first().map(|i| candidates[*i].shares);
    let winner = left.into_iter().map(|i| (i, Verdict::Best));
    let losers = lost.into_iter().map(|(reason, i)| {
        let multipath = reason >= Reason::RouterId && Some(candidates[i].shares) == shares;
        (i, if multipath { Verdict::Multipath } else { Verdict::Lost(reason) })
    });
    winner.chain(losers).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Few values each, so that every step has something to decide.
    fn candidate() -> impl Strategy<Value = Candidate> {
        let early = (prop::bool::weighted(0.1), any::<bool>(), 100..102_u32, 1..3_usize, 0..2_u8);
        (early, 1..3_u32, 0..3_u32, (any::<bool>(), 0..2_u32), 1..4_u8, 0..2_usize).prop_map(
            |(
                (originated, last_resort, local_pref, path_length, origin),
                asn,
                med,
                (external, metric),
                id,
                clusters,
            )| Candidate {
                originated,
                last_resort,
                local_pref,
                path_length,
                origin: if origin == 0 { Origin::Igp } else { Origin::Incomplete },
                neighbour: Some(Asn(asn)),
                shares: (metric > 0).then_some(Asn(asn)),
                med,
                external,
                metric,
                router_id: RouterId(Ipv4Addr::new(10, 0, 0, id)),
                clusters,
                address: None,
                path_id: 0,
            },
        )
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_long_one_does(mut candidates in vec(candidate(), 0..7)) {
            for (n, candidate) in (0..).zip(&mut candidates) {
                candidate.address = Some(Ipv4Addr::new(10, 0, 0, n / 2).into());
                candidate.path_id = u32::from(n % 2);
            }
            let ranked = decide(&candidates);
            let mut equal: Vec<_> = ranked
                .iter()
                .filter(|(_, verdict)| !matches!(verdict, Verdict::Lost(_)))
                .map(|(i, _)| *i)
                .collect();
            equal.sort_unstable();
            let expected = ranked.first().map(|(i, _)| (*i, equal));
            prop_assert_eq!(best(&candidates).map(|(i, equal)| (i, equal.into_vec())), expected);
        }
    }
}

//! Which next hops are reached, by what on-link neighbours and at what cost: by the machine's own ways, and, where a
//! learned route covers a next hop more closely, by that route's next hops in turn (RFC 4271, section 5.1.3).
//!
//! All next hops in use are tracked; what is true of them is worked out anew from nothing whenever a way or a learned
//! route that covers one is another. Nothing rests on itself: a next hop is first what the ways alone make of it, then
//! what one learned route on top of them does, and so on, [`DEPTH`] times at most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::api::Reach;
use crate::types::Prefix;

/// Learned routes one above the other on the way to a next hop.
const DEPTH: usize = 4;

/// Below this many there is nothing worth sweeping.
const FEW: usize = 256;

/// On-link neighbours, sorted.
pub(super) type Neighbours = SmallVec<[IpAddr; 1]>;

/// How a next hop is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolution {
    /// None: not at all.
    pub(super) neighbours: Neighbours,
    /// Of its cheapest way.
    pub(super) metric: u32,
    /// It is on a network this machine is connected to.
    connected: bool,
}

#[derive(Debug, Default)]
pub(super) struct NextHops {
    /// None: nobody says, and every next hop is taken for a neighbour.
    ways: Option<Ways>,
    tracked: BTreeMap<IpAddr, Resolution>,
    /// Something they hang on is other than it was when they were worked out.
    doubtful: bool,
    sweep_at: usize,
}

/// By prefix; of each only the cheapest.
type Ways = BTreeMap<Prefix, Vec<Reach>>;

impl NextHops {
    /// Whether that is news.
    pub(super) fn set_ways(&mut self, ways: Option<&[Reach]>) -> bool {
        let ways = ways.map(sort);
        let news = ways != self.ways;
        self.ways = ways;
        if self.ways.is_none() {
            self.tracked.clear();
        }
        self.doubtful |= news;
        news
    }

    /// Whether there is anything to be worked out at all.
    pub(super) fn are_told(&self) -> bool {
        self.ways.is_some()
    }

    /// From now on `next_hop` is in use. Until it is worked out it counts as not reached.
    pub(super) fn track(&mut self, next_hop: IpAddr) {
        if self.ways.is_some() && !is_link_local(next_hop) && !self.tracked.contains_key(&next_hop) {
            self.tracked.insert(next_hop, Resolution::default());
            self.doubtful = true;
        }
    }

    /// Forgets what is in use no more; `used` is asked only where they have become many.
    pub(super) fn sweep(&mut self, used: impl FnOnce() -> BTreeSet<IpAddr>) {
        if self.tracked.len() >= self.sweep_at.max(FEW) {
            let used = used();
            self.tracked.retain(|next_hop, _| used.contains(next_hop));
            self.sweep_at = 2 * self.tracked.len();
        }
    }

    /// Whether a tracked next hop is in `prefix`.
    pub(super) fn covers(&self, prefix: Prefix) -> bool {
        if self.tracked.is_empty() {
            return false;
        }
        let next = self.tracked.range(prefix.addr()..).next();
        next.is_some_and(|(next_hop, _)| prefix.covers(Prefix::host(*next_hop)))
    }

    /// Whether what is known may be wrong.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// A link-local one is a neighbour by its nature.
    pub(super) fn is_reached(&self, next_hop: IpAddr) -> bool {
        self.ways.is_none()
            || is_link_local(next_hop)
            || self.tracked.get(&next_hop).is_some_and(|known| !known.neighbours.is_empty())
    }

    /// Whether it is on a network this machine is connected to, as far as anybody tells.
    pub(super) fn is_connected(&self, next_hop: IpAddr) -> bool {
        is_link_local(next_hop) || self.tracked.get(&next_hop).is_some_and(|known| known.connected)
    }

    /// The network this machine is connected to that an address is on.
    pub(super) fn network_of(&self, addr: IpAddr) -> Option<Prefix> {
        network_of(addr, self.ways.as_ref()?)
    }

    pub(super) fn metric(&self, next_hop: IpAddr) -> u32 {
        self.tracked.get(&next_hop).map_or(0, |known| known.metric)
    }

    /// The neighbours by which all of `next_hops` are reached, sorted.
    pub(super) fn neighbours(&self, next_hops: &[IpAddr]) -> Vec<IpAddr> {
        let mut neighbours = Vec::with_capacity(next_hops.len());
        for next_hop in next_hops {
            match self.tracked.get(next_hop) {
                Some(known) => neighbours.extend_from_slice(&known.neighbours),
                None => neighbours.push(*next_hop),
            }
        }
        neighbours.sort_unstable();
        neighbours.dedup();
        neighbours
    }

    /// Works them out. `learned` are the next hops of the learned route to a prefix, if there is one in use that may
    /// lead to a next hop in it.
    /// Gives those of which something else is true now.
    #[must_use]
    pub(super) fn resolve(
        &mut self,
        learned: impl Fn(Prefix, IpAddr) -> SmallVec<[IpAddr; 1]>,
    ) -> BTreeSet<IpAddr> {
        self.doubtful = false;
        let Some(ways) = &self.ways else { return BTreeSet::new() };
        let mut known: BTreeMap<IpAddr, Resolution> = BTreeMap::new();
        for _ in 0..=DEPTH {
            let resolved = |next_hop: &IpAddr| (*next_hop, resolve(*next_hop, ways, &learned, &known));
            let next: BTreeMap<_, _> = self.tracked.keys().map(resolved).collect();
            if next == known {
                break;
            }
            known = next;
        }
        let changed = self.tracked.iter().filter(|(next_hop, before)| known.get(next_hop) != Some(before));
        let changed = changed.map(|(next_hop, _)| *next_hop).collect();
        self.tracked = known;
        changed
    }
}

/// One next hop, with learned routes on its way as far as `known` says how theirs are reached. A way goes before a
/// learned route to the same prefix, as the kernel has it.
fn resolve(
    next_hop: IpAddr,
    ways: &Ways,
    learned: impl Fn(Prefix, IpAddr) -> SmallVec<[IpAddr; 1]>,
    known: &BTreeMap<IpAddr, Resolution>,
) -> Resolution {
    let connected = network_of(next_hop, ways).is_some();
    for prefix in covering(next_hop) {
        if let Some(ways) = ways.get(&prefix) {
            let metric = ways.first().map_or(0, |way| way.metric);
            // A gateway that is link-local names no link: the next hop itself is left to stand for it.
            let gateway = |way: &Reach| way.gateway.filter(|gateway| !is_link_local(*gateway));
            return of(ways.iter().map(|way| gateway(way).unwrap_or(next_hop)).collect(), metric, connected);
        }
        let (mut neighbours, mut metric) = (Neighbours::new(), u32::MAX);
        for hop in learned(prefix, next_hop) {
            if is_link_local(hop) {
                neighbours.push(hop);
                metric = 0;
            } else if let Some(known) = known.get(&hop).filter(|known| !known.neighbours.is_empty()) {
                neighbours.extend_from_slice(&known.neighbours);
                metric = metric.min(known.metric);
            }
        }
        if !neighbours.is_empty() {
            return of(neighbours, metric, connected);
        }
    }
    Resolution::default()
}

fn of(mut neighbours: Neighbours, metric: u32, connected: bool) -> Resolution {
    neighbours.sort_unstable();
    neighbours.dedup();
    Resolution { neighbours, metric, connected }
}

/// All prefixes it is in, the longest first.
fn covering(addr: IpAddr) -> impl Iterator<Item = Prefix> {
    let longest = Prefix::host(addr).length();
    (0..=longest).rev().filter_map(move |length| Prefix::truncated(addr, length))
}

fn network_of(addr: IpAddr, ways: &Ways) -> Option<Prefix> {
    let (prefix, ways) = covering(addr).find_map(|prefix| Some((prefix, ways.get(&prefix)?)))?;
    ways.iter().any(|way| way.gateway.is_none()).then_some(prefix)
}

fn sort(told: &[Reach]) -> Ways {
    let mut ways = Ways::new();
    for way in told {
        ways.entry(way.prefix).or_default().push(way.clone());
    }
    for ways in ways.values_mut() {
        ways.sort_unstable();
        ways.dedup();
        let least = ways.iter().map(|way| way.metric).min();
        ways.retain(|way| Some(way.metric) == least);
    }
    ways
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn way(prefix: &str, gateway: Option<&str>, metric: u32) -> Reach {
        Reach { prefix: prefix.parse().unwrap(), gateway: gateway.map(addr), metric }
    }

    /// What becomes of each next hop: its neighbours and cost.
    fn resolved(ways: &[Reach], learned: &[(&str, &[&str])], next_hops: &[&str]) -> Vec<String> {
        let mut tracker = NextHops::default();
        tracker.set_ways(Some(ways));
        let hops = learned.iter().flat_map(|(_, hops)| hops.iter());
        next_hops.iter().chain(hops).for_each(|hop| tracker.track(addr(hop)));
        let _ = tracker.resolve(|prefix, _| {
            let found = learned.iter().find(|(other, _)| other.parse::<Prefix>().unwrap() == prefix);
            found.map(|(_, hops)| hops.iter().map(|hop| addr(hop)).collect()).unwrap_or_default()
        });
        let one = |hop: &&str| {
            let known = &tracker.tracked[&addr(hop)];
            let hops: Vec<_> = known.neighbours.iter().map(IpAddr::to_string).collect();
            format!("{} at {}", hops.join(" "), known.metric)
        };
        next_hops.iter().map(one).collect()
    }

    #[test]
    fn the_longest_way_counts_and_of_one_prefix_the_cheapest() {
        let ways = [
            way("0.0.0.0/0", Some("10.0.0.254"), 100),
            way("10.0.0.0/24", None, 0),
            way("10.1.0.0/16", Some("10.0.0.1"), 20),
            way("10.1.0.0/16", Some("10.0.0.2"), 20),
            way("10.1.0.0/16", Some("10.0.0.3"), 30),
            way("10.1.1.0/24", Some("10.0.0.4"), 5),
        ];
        let next_hops = ["10.0.0.7", "10.1.0.7", "10.1.1.7", "192.0.2.1", "fd00::1"];
        assert_eq!(
            resolved(&ways, &[], &next_hops),
            ["10.0.0.7 at 0", "10.0.0.1 10.0.0.2 at 20", "10.0.0.4 at 5", "10.0.0.254 at 100", " at 0"]
        );
    }

    #[test]
    fn a_learned_route_that_covers_more_closely_leads_on() {
        let ways = [way("10.0.0.0/24", None, 0), way("0.0.0.0/0", Some("10.0.0.254"), 7)];
        let learned: &[(&str, &[&str])] = &[
            ("10.2.0.0/24", &["10.0.0.1", "10.0.0.2"]),
            ("10.3.0.0/24", &["10.2.0.9"]),
            // On its own network, and by itself.
            ("10.0.0.9/32", &["10.0.0.9"]),
            // Not as closely as the connected network.
            ("10.0.0.0/16", &["10.2.0.1"]),
        ];
        assert_eq!(
            resolved(&ways, learned, &["10.2.0.5", "10.3.0.5", "10.0.0.9", "10.0.0.8", "10.4.0.1"]),
            [
                "10.0.0.1 10.0.0.2 at 0",
                "10.0.0.1 10.0.0.2 at 0",
                "10.0.0.9 at 0",
                "10.0.0.8 at 0",
                "10.0.0.254 at 7"
            ]
        );
    }

    #[test]
    fn routes_that_rest_on_each_other_alone_rest_on_nothing() {
        let learned: &[(&str, &[&str])] = &[("10.2.0.0/24", &["10.3.0.1"]), ("10.3.0.0/24", &["10.2.0.1"])];
        assert_eq!(resolved(&[], learned, &["10.2.0.1", "10.3.0.1"]), [" at 0", " at 0"]);
        let itself: &[(&str, &[&str])] = &[("10.2.0.0/24", &["10.2.0.1"])];
        assert_eq!(resolved(&[way("10.0.0.0/24", None, 0)], itself, &["10.2.0.1"]), [" at 0"]);
    }

    #[test]
    fn a_chain_is_followed_only_so_far() {
        let ways = [way("10.0.0.0/24", None, 0)];
        let nets: Vec<_> = (1..8).map(|n| (format!("10.{n}.0.0/24"), format!("10.{}.0.1", n - 1))).collect();
        let hops: Vec<_> = nets.iter().map(|(_, hop)| [hop.as_str()]).collect();
        let mut learned: Vec<(&str, &[&str])> =
            nets.iter().zip(&hops).map(|((net, _), hop)| (net.as_str(), &hop[..])).collect();
        learned[0].1 = &["10.0.0.1"];
        let next_hops: Vec<_> = (0..8).map(|n| format!("10.{n}.0.1")).collect();
        let next_hops: Vec<_> = next_hops.iter().map(String::as_str).collect();
        let told = resolved(&ways, &learned, &next_hops);
        assert!(told[..=DEPTH].iter().all(|told| told == "10.0.0.1 at 0"), "{told:?}");
        assert!(told[DEPTH + 1..].iter().all(|told| told == " at 0"), "{told:?}");
    }

    #[test]
    fn what_is_used_no_more_is_forgotten() {
        let mut tracker = NextHops::default();
        tracker.set_ways(Some(&[]));
        for n in 0..10 * FEW as u32 {
            tracker.track(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
            tracker.sweep(|| [addr("10.0.0.1")].into());
        }
        assert!(tracker.tracked.len() <= FEW && tracker.tracked.contains_key(&addr("10.0.0.1")));
    }
}

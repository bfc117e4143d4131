//! Which routes this node wants, kept by destination so that one pod's change costs the same beside five hundred
//! thousand learned routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use ipnetwork::IpNetwork;
use manx_bgp::types::Prefix;
use rustc_hash::FxHashMap;

use crate::dataplane::next_hops::NextHops;
use crate::dataplane::{Fib, FibDelta, Route};

/// Most learned destinations of one flush, some half a millisecond's work: so long a pod waits for them.
pub const SLICE: usize = 1024;

/// Most that are looked at in one flush for whether they were confirmed.
const LOOKED_AT: usize = 4 * SLICE;

/// The claims on destinations, by class, and what has changed since the last [`Routes::flush`].
#[derive(Debug, Default)]
pub struct Routes {
    pods: BTreeMap<Prefix, u32>,
    blocks: BTreeSet<Prefix>,
    /// In order: a hash table of so many would stand still whenever it grows.
    learned: BTreeMap<Prefix, Learned>,
    /// Raised when the speaker begins to tell its table anew; what carries an older one is not confirmed yet.
    epoch: u32,
    /// Whether the speaker's table has been told to its end in this epoch.
    told: bool,
    /// Whether all that may be in the kernel is known here: none of it is of an earlier agent.
    knows_all: bool,
    /// From where on what this epoch did not confirm is still to be removed.
    sweeping: Option<Bound<Prefix>>,
    /// What was wanted for a destination before a pod or a block touched it.
    dirty: FxHashMap<Prefix, Option<Route>>,
    /// The same of those that only the speaker touched. They may wait.
    relearned: BTreeMap<Prefix, Option<Route>>,
}

#[derive(Debug)]
struct Learned {
    next_hops: NextHops,
    epoch: u32,
    /// In which it was first told.
    since: u32,
}

/// Addresses attached, blocks owned, destinations learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pod addresses.
    pub pods: usize,
    /// Own blocks.
    pub blocks: usize,
    /// Learned destinations.
    pub learned: usize,
}

impl Routes {
    /// The interface that leads to a pod's address; none: the pod is gone.
    pub fn set_pod(&mut self, address: IpAddr, ifindex: Option<u32>) {
        let prefix = Prefix::host(address);
        self.touch_own(prefix);
        match ifindex {
            Some(ifindex) => self.pods.insert(prefix, ifindex),
            None => self.pods.remove(&prefix),
        };
    }

    /// A block this node owns.
    pub fn add_block(&mut self, block: Prefix) {
        self.touch_own(block);
        self.blocks.insert(block);
    }

    /// A block this node owns no longer.
    pub fn remove_block(&mut self, block: Prefix) {
        self.touch_own(block);
        self.blocks.remove(&block);
    }

    /// The blocks this node owns.
    pub fn blocks(&self) -> &BTreeSet<Prefix> {
        &self.blocks
    }

    /// The kernel holds no route of ours but those that have been wanted here.
    pub fn know_all(&mut self) {
        self.knows_all = true;
    }

    /// The speaker's best next hops of a destination; empty: it has none. One that was there before the speaker began to
    /// tell its table stays until [`Routes::learned_all`] though it is withdrawn: other paths to it may yet come.
    pub fn learn(&mut self, prefix: Prefix, next_hops: NextHops) {
        let epoch = self.epoch;
        if !next_hops.is_empty() {
            self.touch_learned(prefix);
            let since = self.learned.get(&prefix).map_or(epoch, |learned| learned.since);
            self.learned.insert(prefix, Learned { next_hops, epoch, since });
        } else if let Some(learned) = self.learned.get_mut(&prefix) {
            if self.told || (self.knows_all && learned.since == epoch) {
                self.touch_learned(prefix);
                self.learned.remove(&prefix);
            } else {
                learned.epoch = epoch.wrapping_sub(1);
            }
        }
    }

    /// The speaker begins to tell its whole table. What was learned before stays in force until the table is told.
    pub fn relearn(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.told = false;
        self.sweeping = None;
    }

    /// The speaker's table has been told: what it did not confirm goes, with the flushes to come.
    pub fn learned_all(&mut self) {
        self.told = true;
        self.knows_all = true;
        self.sweeping = Some(Bound::Unbounded);
    }

    /// Goes on removing what was not confirmed.
    fn sweep(&mut self) {
        let Some(from) = self.sweeping else { return };
        let looked_at = self.learned.range((from, Bound::Unbounded)).take(LOOKED_AT);
        let mut gone = Vec::new();
        let mut last = None;
        for (prefix, learned) in looked_at {
            last = Some(*prefix);
            if learned.epoch != self.epoch {
                gone.push(*prefix);
            }
            if gone.len() == SLICE {
                break;
            }
        }
        self.sweeping = last.map(Bound::Excluded);
        for prefix in gone {
            self.touch_learned(prefix);
            self.learned.remove(&prefix);
        }
    }

    /// How many of each class.
    pub fn counts(&self) -> Counts {
        Counts { pods: self.pods.len(), blocks: self.blocks.len(), learned: self.learned.len() }
    }

    /// The one route wanted for a destination: a pod here before a block of ours before what others say.
    fn wanted(&self, prefix: Prefix) -> Option<Route> {
        if let Some(ifindex) = self.pods.get(&prefix) {
            Some(Route::Pod { ifindex: *ifindex })
        } else if self.blocks.contains(&prefix) {
            Some(Route::Blackhole)
        } else {
            self.learned.get(&prefix).map(|learned| Route::Via(learned.next_hops.clone()))
        }
    }

    fn touch_own(&mut self, prefix: Prefix) {
        if !self.dirty.contains_key(&prefix) {
            let before = self.relearned.remove(&prefix).unwrap_or_else(|| self.wanted(prefix));
            self.dirty.insert(prefix, before);
        }
    }

    fn touch_learned(&mut self, prefix: Prefix) {
        if !self.dirty.contains_key(&prefix) && !self.relearned.contains_key(&prefix) {
            self.relearned.insert(prefix, self.wanted(prefix));
        }
    }

    /// What has changed since the last call: where this node's own pods and blocks are, and beside it what was and is
    /// only learned, of that at most [`SLICE`] destinations.
    #[must_use = "a change not handed to the dataplane is lost"]
    pub fn flush(&mut self) -> (FibDelta, FibDelta) {
        let (mut own, mut learned) = (FibDelta::default(), FibDelta::default());
        if self.relearned.is_empty() {
            self.sweep();
        }
        let mut changed: Vec<_> = std::mem::take(&mut self.dirty).into_iter().collect();
        changed.extend(std::iter::from_fn(|| self.relearned.pop_first()).take(SLICE));
        for (prefix, before) in changed {
            let now = self.wanted(prefix);
            if now != before {
                let is_own = |route: &Option<Route>| !matches!(route, None | Some(Route::Via(_)));
                let delta = if is_own(&before) || is_own(&now) { &mut own } else { &mut learned };
                match now {
                    Some(route) => drop(delta.set.insert(prefix.into(), route)),
                    None => delta.remove.push(prefix.into()),
                }
            }
        }
        own.remove.sort_unstable();
        learned.remove.sort_unstable();
        (own, learned)
    }

    /// Whether the next flush goes on with what is learned.
    pub fn is_behind(&self) -> bool {
        !self.relearned.is_empty() || self.sweeping.is_some()
    }

    /// All routes wanted, computed from nothing.
    pub fn fib(&self) -> Fib {
        let destinations: BTreeSet<Prefix> =
            self.pods.keys().chain(&self.blocks).chain(self.learned.keys()).copied().collect();
        destinations
            .into_iter()
            .filter_map(|prefix| Some((IpNetwork::from(prefix), self.wanted(prefix)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn via(text: &str) -> NextHops {
        [text.parse::<IpAddr>().unwrap()].into_iter().collect()
    }

    #[test]
    fn a_pod_wins_over_a_block_and_a_block_over_what_is_learned() {
        let mut routes = Routes::default();
        let destination = prefix("10.244.0.7/32");
        routes.learn(destination, via("192.0.2.1"));
        routes.add_block(destination);
        routes.set_pod(destination.addr(), Some(7));
        let set = |routes: &mut Routes| {
            let (own, learned) = routes.flush();
            own.set.into_values().chain(learned.set.into_values()).next()
        };
        assert_eq!(set(&mut routes), Some(Route::Pod { ifindex: 7 }));
        routes.set_pod(destination.addr(), None);
        assert_eq!(set(&mut routes), Some(Route::Blackhole));
        routes.remove_block(destination);
        assert_eq!(set(&mut routes), Some(Route::Via(via("192.0.2.1"))));
    }

    #[test]
    fn what_changes_and_changes_back_between_two_flushes_is_no_change() {
        let mut routes = Routes::default();
        routes.set_pod("10.244.0.7".parse().unwrap(), Some(7));
        routes.set_pod("10.244.0.7".parse().unwrap(), None);
        assert_eq!(routes.flush(), Default::default());
    }

    #[test]
    fn a_restarted_speaker_removes_nothing_before_its_table_is_told() {
        let mut routes = Routes::default();
        let (kept, lost, flapped) = (prefix("10.0.1.0/24"), prefix("10.0.2.0/24"), prefix("10.0.3.0/24"));
        for destination in [kept, lost, flapped] {
            routes.learn(destination, via("192.0.2.1"));
        }
        routes.learned_all();
        assert_eq!(routes.flush().1.set.len(), 3);

        routes.relearn();
        routes.learn(kept, via("192.0.2.1"));
        routes.learn(flapped, via("192.0.2.9"));
        assert_eq!(routes.flush().1.set.into_values().collect::<Vec<_>>(), [Route::Via(via("192.0.2.9"))]);
        routes.learn(flapped, NextHops::default());
        assert_eq!(routes.flush(), Default::default(), "nothing goes while the table is being told");

        routes.learned_all();
        assert_eq!(routes.flush().1.remove, [IpNetwork::from(lost), IpNetwork::from(flapped)]);
        routes.learn(kept, NextHops::default());
        assert_eq!(routes.flush().1.remove, [IpNetwork::from(kept)]);
    }

    #[test]
    fn what_was_not_there_before_the_speaker_goes_when_it_is_withdrawn() {
        let mut routes = Routes::default();
        let (kept, told) = (prefix("10.0.1.0/24"), prefix("10.0.2.0/24"));
        let flap = |routes: &mut Routes, destination| {
            routes.learn(destination, via("192.0.2.1"));
            let _ = routes.flush();
            routes.learn(destination, NextHops::default());
            routes.flush().1.remove
        };
        assert_eq!(flap(&mut routes, kept), [], "an earlier agent may have had it from another neighbour");
        routes.learned_all();
        assert_eq!(routes.flush().1.remove, [IpNetwork::from(kept)]);

        routes.learn(kept, via("192.0.2.1"));
        routes.relearn();
        assert_eq!(flap(&mut routes, kept), []);
        assert_eq!(flap(&mut routes, told), [IpNetwork::from(told)]);
        let mut first_of_all = Routes::default();
        first_of_all.know_all();
        assert_eq!(flap(&mut first_of_all, told), [IpNetwork::from(told)]);
    }

    #[test]
    fn a_pod_waits_for_one_slice_of_what_is_learned_and_of_what_is_forgotten() {
        let mut routes = Routes::default();
        let destination = |n: usize| Prefix::host(Ipv4Addr::from(0x0a00_0000 + n as u32).into());
        let count = 5 * SLICE;
        let mut fib = Fib::default();
        let pod = Prefix::host(IpAddr::from([172, 16, 0, 1]));
        let turns = |routes: &mut Routes, fib: &mut Fib, ifindex| {
            let mut turns = 0;
            loop {
                routes.set_pod(pod.addr(), Some(ifindex));
                let (own, learned) = routes.flush();
                assert!(learned.set.len() + learned.remove.len() <= SLICE);
                if turns == 0 {
                    assert_eq!(own.set, [(pod.into(), Route::Pod { ifindex })].into(), "the pod first");
                }
                for delta in [own, learned] {
                    delta.remove.iter().for_each(|gone| drop(fib.remove(gone)));
                    fib.extend(delta.set);
                }
                turns += 1;
                if !routes.is_behind() {
                    return turns;
                }
            }
        };
        (0..count).for_each(|n| routes.learn(destination(n), via("192.0.2.1")));
        assert_eq!(turns(&mut routes, &mut fib, 1), 5);
        assert_eq!(fib, routes.fib());
        routes.relearn();
        routes.learn(destination(7), via("192.0.2.1"));
        routes.learned_all();
        assert!(turns(&mut routes, &mut fib, 2) >= 5);
        assert_eq!(fib.len(), 2, "what was confirmed, and the pod");
        assert_eq!(fib, routes.fib());
    }

    #[test]
    fn what_a_pod_takes_while_it_waits_to_be_flushed_is_told_once() {
        let mut routes = Routes::default();
        let destination = prefix("10.244.0.7/32");
        (0..2 * SLICE as u32)
            .for_each(|n| routes.learn(Prefix::host(Ipv4Addr::from(n).into()), via("192.0.2.1")));
        routes.learn(destination, via("192.0.2.1"));
        routes.set_pod(destination.addr(), Some(7));
        let (own, _) = routes.flush();
        assert_eq!(own.set, [(destination.into(), Route::Pod { ifindex: 7 })].into());
        while routes.is_behind() {
            let (own, learned) = routes.flush();
            assert!(own.set.is_empty() && !learned.set.contains_key(&destination.into()));
        }
    }
}

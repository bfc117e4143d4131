//! All paths to one prefix, the best first.

use std::sync::Arc;

use smallvec::SmallVec;

use super::decision::{self, Verdict};
use super::path::{Hop, Path, PathKey, PeerId};
use super::peers::Peers;
use super::policy;

/// A prefix and all paths to it. Sixteen octets for IPv4 and thirty-two for IPv6, without a heap of its own for the one
/// path most have: all else there is to say of it lies in the room the tag of its paths leaves.
#[derive(Debug)]
pub(super) struct Destination<K>(Paths<Head<K>>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Head<K> {
    key: K,
    /// Whether it is among those whose next hops are other than watchers know.
    listed: bool,
}

impl<K> Destination<K> {
    pub(super) fn new(key: K) -> Self {
        Self(Paths::None(Head { key, listed: false }))
    }

    pub(super) fn paths(&self) -> &Paths<Head<K>> {
        &self.0
    }
}

impl<K: Copy> Destination<K> {
    pub(super) fn key(&self) -> K {
        self.0.owner().key
    }

    pub(super) fn set(&mut self, paths: &Paths) {
        self.0 = paths.of(*self.0.owner());
    }

    pub(super) fn is_listed(&self) -> bool {
        self.0.owner().listed
    }

    /// Whether it was before.
    pub(super) fn list(&mut self, listed: bool) -> bool {
        let (Paths::None(head) | Paths::One(head, _) | Paths::Many(head, _)) = &mut self.0;
        std::mem::replace(&mut head.listed, listed)
    }
}

/// Destinations of one announcement have them in common. Without an owner they are nobody's yet.
#[derive(Debug)]
pub(super) enum Paths<Owner = ()> {
    None(Owner),
    One(Owner, Arc<Path>),
    Many(Owner, Arc<Ranked>),
}

#[derive(Debug)]
pub(super) struct Ranked {
    /// Usable ones first, as the decision ranks them.
    paths: Box<[Arc<Path>]>,
    /// How many of the first share the load.
    equal: usize,
}

impl<Owner> Paths<Owner> {
    fn owner(&self) -> &Owner {
        let (Self::None(owner) | Self::One(owner, _) | Self::Many(owner, _)) = self;
        owner
    }

    /// The same, of another owner.
    pub(super) fn of<Other>(&self, owner: Other) -> Paths<Other> {
        match self {
            Self::None(_) => Paths::None(owner),
            Self::One(_, path) => Paths::One(owner, path.clone()),
            Self::Many(_, ranked) => Paths::Many(owner, ranked.clone()),
        }
    }

    /// Whether they are the very same, without a look at them.
    pub(super) fn are<Other>(&self, other: &Paths<Other>) -> bool {
        match (self, other) {
            (Self::None(_), Paths::None(_)) => true,
            (Self::One(_, one), Paths::One(_, other)) => Arc::ptr_eq(one, other),
            (Self::Many(_, one), Paths::Many(_, other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    pub(super) fn all(&self) -> &[Arc<Path>] {
        match self {
            Self::None(_) => &[],
            Self::One(_, path) => std::slice::from_ref(path),
            Self::Many(_, ranked) => &ranked.paths,
        }
    }

    /// What is announced.
    pub(super) fn best(&self) -> Option<&Arc<Path>> {
        self.all().first().filter(|path| path.refusal.is_none())
    }

    pub(super) fn get(&self, key: PathKey) -> Option<&Arc<Path>> {
        self.all().iter().find(|path| path.key() == key)
    }

    /// What a peer said.
    pub(super) fn from(&self, source: PeerId) -> impl Iterator<Item = &Arc<Path>> {
        self.all().iter().filter(move |path| path.source == Some(source))
    }

    /// Usable paths, the best first; in the order the decision ranks them where there are more than `limit`.
    pub(super) fn ranked(&self, limit: usize, peers: &Peers) -> Vec<&Arc<Path>> {
        let usable: Vec<_> = self.all().iter().filter(|path| path.refusal.is_none()).collect();
        if usable.len() <= limit {
            return usable;
        }
        let candidates: Vec<_> = usable.iter().map(|path| peers.candidate(path)).collect();
        decision::decide(&candidates).into_iter().map(|(i, _)| usable[i]).collect()
    }

    /// Next hops of the best and its equals as they were learned, sorted; none where the prefix is originated here.
    pub(super) fn next_hops(&self) -> SmallVec<[Hop; 1]> {
        let equal = match self {
            Self::Many(_, ranked) => &ranked.paths[..ranked.equal],
            _ => self.best().map_or(&[][..], std::slice::from_ref),
        };
        let mut hops: SmallVec<[Hop; 1]> = equal.iter().filter_map(|path| Hop::of(path)).collect();
        if hops.iter().any(|hop| hop.bandwidth.is_none()) {
            hops.iter_mut().for_each(|hop| hop.bandwidth = None);
        }
        if hops.len() > 1 {
            hops.sort_unstable();
            // Of two bandwidths of one the larger, which comes last.
            hops.dedup_by(|later, kept| {
                let same = (later.addr, later.via) == (kept.addr, kept.via);
                if same {
                    kept.bandwidth = later.bandwidth;
                }
                same
            });
        }
        if let [only] = hops.as_mut_slice() {
            only.bandwidth = None;
        }
        hops
    }

    /// Whether more than one is held.
    pub(super) fn are_many(&self) -> bool {
        matches!(self, Self::Many(..))
    }

    /// Ranked again: what the decision asks is answered otherwise.
    pub(super) fn ranked_anew(&self, peers: &Peers) -> Paths {
        match self {
            Self::Many(_, ranked) => Ranked::of(ranked.paths.iter().cloned().collect(), peers),
            few => few.of(()),
        }
    }

    /// With each of `paths` in the place of the last one of its key.
    pub(super) fn with(&self, paths: impl IntoIterator<Item = Arc<Path>>, peers: &Peers) -> Paths {
        let mut all: SmallVec<[_; 8]> = self.all().iter().cloned().collect();
        for path in paths {
            match all.iter_mut().find(|other| other.key() == path.key()) {
                Some(other) => *other = path,
                None => all.push(path),
            }
        }
        Ranked::of(all, peers)
    }

    pub(super) fn without(&self, gone: impl Fn(&Path) -> bool, peers: &Peers) -> Paths {
        Ranked::of(self.all().iter().filter(|path| !gone(path)).cloned().collect(), peers)
    }

    /// All paths with what became of each: in words, and the step they lost at.
    pub(super) fn verdicts(&self, peers: &Peers) -> Vec<(&Arc<Path>, String, Option<u8>)> {
        let usable: Vec<_> = self.all().iter().filter(|path| path.refusal.is_none()).collect();
        let candidates: Vec<_> = usable.iter().map(|path| peers.candidate(path)).collect();
        let ranked = decision::decide(&candidates).into_iter().map(|(i, verdict)| {
            let step = match verdict {
                Verdict::Best | Verdict::Multipath => None,
                Verdict::Lost(reason) => Some(reason.step()),
            };
            (usable[i], verdict.to_string(), step)
        });
        let refused = self.all().iter().filter_map(|path| {
            let words = policy::words(path.refusal?, peers.source(path));
            Some((path, words, None))
        });
        ranked.chain(refused).collect()
    }
}

impl Ranked {
    /// Ranks what is left.
    fn of(mut paths: SmallVec<[Arc<Path>; 8]>, peers: &Peers) -> Paths {
        if paths.len() < 2 {
            return paths.pop().map_or(Paths::None(()), |path| Paths::One((), path));
        }
        paths.sort_unstable_by_key(|path| (path.refusal.is_some(), path.source, path.path_id));
        let usable = paths.iter().take_while(|path| path.refusal.is_none());
        let candidates: SmallVec<[_; 8]> = usable.map(|path| peers.candidate(path)).collect();
        let (best, equal) = decision::best(&candidates).unwrap_or_default();
        // Those that share the load to the front, and the best of them first.
        for (place, i) in equal.iter().enumerate() {
            paths.swap(place, *i);
        }
        if let Some(place) = equal.iter().position(|i| *i == best) {
            paths.swap(0, place);
        }
        Paths::Many((), Arc::new(Self { paths: paths.into_vec().into(), equal: equal.len() }))
    }
}

/// What a destination goes through, once it is known what it had and what it has then: the same for all that had the
/// same.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) before: Paths,
    pub(super) after: Paths,
    /// Watchers are to be told.
    pub(super) moves: bool,
    /// The best path is another.
    pub(super) changes_best: bool,
}

impl Step {
    pub(super) fn new(before: Paths, after: Paths) -> Self {
        let changes_best = match (before.best(), after.best()) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
            (None, None) => false,
            _ => true,
        };
        Self { moves: before.next_hops() != after.next_hops(), changes_best, before, after }
    }
}

/// The last step one of many destinations went through: the next has often had the same before.
#[derive(Debug, Default)]
pub(super) struct Steps(Option<Step>);

impl Steps {
    /// That of a destination which has `before`; `after` is asked where it is another than the last one's.
    pub(super) fn step<Owner>(
        &mut self,
        before: &Paths<Owner>,
        after: impl FnOnce(&Paths<Owner>) -> Paths,
    ) -> &Step {
        let last = self.0.take().filter(|last| last.before.are(before));
        self.0.insert(last.unwrap_or_else(|| Step::new(before.of(()), after(before))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_stays_small() {
        assert_eq!(size_of::<Destination<crate::rib::net::Net4>>(), 16);
        assert_eq!(size_of::<Destination<crate::rib::net::Net6>>(), 32);
    }
}

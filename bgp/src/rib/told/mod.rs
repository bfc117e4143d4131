//! What a group knows: of each destination one path, or several (RFC 7911).

mod one;
mod several;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use one::One;
use several::Several;

use super::adj_out::{Exports, Outbox, Whom};
use super::audience::Audience;
use super::destination::Destination;
use super::destinations::Slot;
use super::net::Net;
use super::path::{Interner, Path, PeerId};
use super::peers::Peers;

/// Whom a path came from and where each member of the group is in its queue; only who they are matters here.
pub(super) type Members = BTreeMap<PeerId, u64>;

/// A path is told to all but the peer it came from. So that those stay one group, this says what all others
/// know; a member knows nothing of the paths that are its own.
#[derive(Clone, Debug)]
pub(super) enum Told {
    One(One),
    Several(Several),
}

/// What working out a destination needs.
pub(super) struct Work<'a, 'b, K> {
    pub(super) peers: &'a Peers,
    pub(super) interner: &'a mut Interner,
    pub(super) members: &'a Members,
    pub(super) exports: &'a mut Exports<'b>,
    pub(super) outbox: &'a mut Outbox<K>,
}

impl Told {
    /// Of an audience that knows nothing yet.
    pub(super) fn new<K: Net>(audience: &Audience) -> Self {
        match audience.several(K::FAMILY) {
            None => Self::One(One::default()),
            Some(count) => Self::Several(Several::new(count)),
        }
    }

    /// Whether anything is told of a destination.
    pub(super) fn has(&self, slot: Slot) -> bool {
        match self {
            Self::One(one) => one.get(slot).is_some(),
            Self::Several(several) => !several.get(slot).is_empty(),
        }
    }

    /// Destinations of which something is told.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let slots = match self {
            Self::One(one) => 0..one.slots(),
            Self::Several(several) => 0..several.slots(),
        };
        slots.filter(|slot| self.has(*slot)).collect()
    }

    /// What the others than its source know of a destination; nothing where it is being told again.
    pub(super) fn paths(&self, slot: Slot) -> &[Arc<Path>] {
        match self {
            Self::One(one) => {
                one.get(slot).filter(|path| path.refusal.is_none()).map_or(&[], std::slice::from_ref)
            }
            Self::Several(several) => several.fresh(slot),
        }
    }

    /// Keeps of what was told only that something was, unless `keep` says it would be said just so. For a
    /// group of one.
    pub(super) fn retell(&mut self, members: &Members, keep: impl FnMut(Slot, &Arc<Path>) -> bool) {
        match self {
            Self::One(one) => one.retell(members, keep),
            Self::Several(several) => several.retell(members, keep),
        }
    }

    /// Keeps of what was learned from a source only that something was told; the destinations it is about.
    pub(super) fn forget(&mut self, source: PeerId) -> Vec<Slot> {
        if self.tally().counts.get(&source).is_none_or(|count| *count == 0) {
            return Vec::new();
        }
        match self {
            Self::One(one) => one.forget(source),
            Self::Several(several) => several.forget(source),
        }
    }

    fn tally(&self) -> &Tally {
        match self {
            Self::One(one) => &one.tally,
            Self::Several(several) => &several.tally,
        }
    }

    /// Paths told to a member.
    pub(super) fn advertised(&self, peer: PeerId) -> usize {
        let tally = self.tally();
        tally.count - tally.counts.get(&peer).copied().unwrap_or(0)
    }

    /// Whether more than a destination's best path is of interest.
    pub(super) fn is_several(&self) -> bool {
        matches!(self, Self::Several(_))
    }

    /// Brings what is told of a destination up to date.
    pub(super) fn work_out<K: Net>(
        &mut self,
        slot: Slot,
        destination: &Destination<K>,
        work: &mut Work<'_, '_, K>,
    ) {
        match self {
            Self::One(one) => one.work_out(slot, destination, work),
            Self::Several(several) => several.work_out(slot, destination, work),
        }
    }
}

impl<K> Work<'_, '_, K> {
    fn all_but_source(&self, path: &Path) -> Whom {
        match path.source {
            Some(source) if self.members.contains_key(&source) => Whom::AllBut(source),
            _ => Whom::All,
        }
    }

    /// What the path is told as where paths have identifiers.
    fn number(&mut self, path: &Path) -> u32 {
        self.interner.number(path.key())
    }
}

/// Paths told, all and those of each source.
#[derive(Clone, Debug, Default)]
struct Tally {
    count: usize,
    counts: FxHashMap<PeerId, usize>,
}

impl Tally {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        path.source.into_iter().for_each(|source| *self.counts.entry(source).or_default() += 1);
    }

    fn take(&mut self, path: &Path) {
        self.count -= 1;
        if let Some(count) = path.source.and_then(|source| self.counts.get_mut(&source)) {
            *count -= 1;
        }
    }

    fn of<'a>(paths: impl Iterator<Item = &'a Arc<Path>>) -> Self {
        let mut tally = Self::default();
        paths.for_each(|path| tally.add(path));
        tally
    }
}

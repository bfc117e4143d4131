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
use super::destinations::{Destinations, Slot};
use super::net::Net;
use super::noted::Noted;
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
            Self::One(one) => one.has(slot),
            Self::Several(several) => !several.get(slot).is_empty(),
        }
    }

    /// What is to be kept of a destination's best path beside a note that it is another one now.
    pub(super) fn kept(&self, slot: Slot, best: Option<&Arc<Path>>) -> Option<Arc<Path>> {
        match self {
            Self::One(one) => best.filter(|_| one.has(slot)).cloned(),
            Self::Several(_) => None,
        }
    }

    /// Destinations of which something is told and nothing noted are noted.
    pub(super) fn note_all<K: Net>(&self, noted: &mut Noted, destinations: &Destinations<K>) {
        for slot in (0..destinations.slots() as Slot).filter(|slot| self.has(*slot)) {
            noted.insert(slot, || self.kept(slot, destinations.get(slot).paths().best()));
        }
    }

    /// What the others than its source know of a destination; nothing where it is being told again. `told` is what
    /// is kept of it, if it is noted.
    pub(super) fn paths<'a, K>(
        &'a self,
        slot: Slot,
        destination: &'a Destination<K>,
        told: Option<Option<&'a Arc<Path>>>,
    ) -> &'a [Arc<Path>] {
        match self {
            Self::One(one) => {
                let told = told.unwrap_or_else(|| destination.paths().best().filter(|_| one.has(slot)));
                told.filter(|path| path.refusal.is_none()).map_or(&[], std::slice::from_ref)
            }
            Self::Several(several) => several.fresh(slot),
        }
    }

    /// Keeps of what was told only that something was, unless `keep` says it would be said just so. For a
    /// group of one.
    pub(super) fn retell<K: Net>(
        &mut self,
        noted: &mut Noted,
        destinations: &Destinations<K>,
        members: &Members,
        keep: impl FnMut(Slot, &Arc<Path>) -> bool,
    ) {
        match self {
            Self::One(one) => one.retell(noted, destinations, members, keep),
            Self::Several(several) => several.retell(members, keep),
        }
    }

    /// Keeps of what was learned from a source, whose paths are gone, only that something was told; the destinations it
    /// is about are noted.
    pub(super) fn forget(&mut self, noted: &mut Noted, source: PeerId) {
        if self.tally().counts.get(&source).is_none_or(|count| *count == 0) {
            return;
        }
        match self {
            Self::One(one) => one.forget(noted, source),
            Self::Several(several) => {
                several.forget(source).into_iter().for_each(|slot| noted.insert(slot, || None))
            }
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

    /// Brings what is told of a destination up to date; `told` was kept of it.
    pub(super) fn work_out<K: Net>(
        &mut self,
        slot: Slot,
        told: Option<&Arc<Path>>,
        destination: &Destination<K>,
        work: &mut Work<'_, '_, K>,
    ) {
        match self {
            Self::One(one) => one.work_out(slot, told, destination, work),
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

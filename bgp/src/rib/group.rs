//! Peers that are told the same: what they know, what has changed since, and the messages in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::adj_out;
use super::adj_out::{Exports, Outbox, Run, Whom};
use super::audience::Audience;
use super::destinations::{Destinations, Slot};
use super::net::Net;
use super::noted::Noted;
use super::path::{Interner, Path, PeerId};
use super::peers::Peers;
use super::policy::Applied;
use super::told::{Members, Told, Work};
use crate::types::{Family, Prefix};
use crate::wire::{self, Attributes, Message, NextHop, RouteRefresh, Update};

/// Destinations worked out at once: enough to fill messages, few enough that what a slow peer still hears
/// is not long past.
const BATCH: usize = 8192;

/// Octets the slowest member may be behind before the others wait for it, or go on without it.
const WINDOW: usize = 1 << 19;

/// Changes are only noted; they are worked out a batch at a time, when a member can take more:
///
/// ```text
///   noted ──begin──▶ told, and the queue: runs of messages, withdrawals first, [End-of-RIB]
///                                   ▲     ▲ each member is somewhere in it: take
/// ```
///
#[derive(Debug)]
pub(super) struct Group<K> {
    audience: Audience,
    told: Told,
    noted: Noted,
    queue: VecDeque<Run>,
    /// Octets in the queue.
    queued: usize,
    /// The number of the queue's first run.
    first: u64,
    /// The run each member takes next.
    members: Members,
    /// What is being said as a whole.
    cycle: Option<Cycle>,
    /// It is to be said once more after that, with or without RFC 7313's marks.
    again: Option<Marks>,
    key: std::marker::PhantomData<K>,
}

/// Everything is said, and then that this was everything.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    /// How much was noted before its end is due.
    left: usize,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// Of what is said first.
    EndOfRib,
    /// Of a route refresh.
    Refresh(Marks),
}

/// Whether a route refresh has its beginning and end marked (RFC 7313).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    Marked,
    Unmarked,
}

impl<K: Net> Group<K> {
    /// One that knows nothing yet, and whom it is to hear of at first.
    pub(super) fn new(peer: PeerId, audience: Audience, initial: impl Iterator<Item = Slot>) -> Self {
        let mut noted = Noted::default();
        initial.for_each(|slot| noted.insert(slot, || None));
        Self {
            told: Told::new::<K>(&audience),
            audience,
            cycle: Some(Cycle { left: noted.len(), end: End::EndOfRib }),
            again: None,
            noted,
            queue: VecDeque::new(),
            queued: 0,
            first: 0,
            members: BTreeMap::from([(peer, 0)]),
            key: std::marker::PhantomData,
        }
    }

    /// Notes that the best path of a destination is `best` and was `before`. Whether that is of interest here is worked
    /// out with the batch, where what is true of a path is found once.
    pub(super) fn note(&mut self, slot: Slot, before: Option<&Arc<Path>>, best: Option<&Arc<Path>>) {
        if best.is_some() || self.told.has(slot) {
            self.noted.insert(slot, || self.told.kept(slot, before));
        }
    }

    /// Whether it has to do with a destination that has no path any more.
    pub(super) fn remembers(&self, slot: Slot) -> bool {
        self.told.has(slot) || self.noted.contains(slot)
    }

    /// Everything is to be worked out anew; what comes out as it was is not said again.
    fn note_all(&mut self, destinations: &Destinations<K>) {
        self.told.note_all(&mut self.noted, destinations);
        destinations.iter().for_each(|(slot, _)| self.noted.insert(slot, || None));
    }

    /// Everything is to be said again; one after the other, and not before the End-of-RIB (RFC 7313, section
    /// 4). For a group of one.
    pub(super) fn refresh(&mut self, destinations: &Destinations<K>, marks: Marks) {
        if self.cycle.is_some() {
            self.again = Some(marks);
            return;
        }
        self.told.retell(&mut self.noted, destinations, &self.members, |_, _| false);
        self.note_all(destinations);
        if marks == Marks::Marked {
            self.mark(RouteRefresh::beginning(K::FAMILY));
        }
        self.cycle = Some(Cycle { left: self.noted.len(), end: End::Refresh(marks) });
    }

    fn mark(&mut self, refresh: RouteRefresh) {
        let run = Run::single(&Message::RouteRefresh(refresh), &self.audience, None);
        self.queued += run.octets.len();
        self.queue.push_back(run);
    }

    /// What was learned from this source is told in another way from now on, although its paths may come out the
    /// same: an ORIGINATOR_ID is another.
    pub(super) fn forget(&mut self, source: PeerId) {
        self.told.forget(&mut self.noted, source);
    }

    /// Tells what is heard differently under other policies. For a group of one.
    pub(super) fn address(&mut self, audience: Audience, destinations: &Destinations<K>, peers: &Peers) {
        let before = std::mem::replace(&mut self.audience, audience.clone());
        let mut known: FxHashMap<(*const Path, Option<Applied>, Option<Applied>), bool> =
            FxHashMap::default();
        self.told.retell(&mut self.noted, destinations, &self.members, |slot, path| {
            let prefix = destinations.get(slot).key().prefix();
            let [old, new] =
                [&before, &audience].map(|audience| adj_out::applied(path, prefix, peers, audience));
            *known.entry((Arc::as_ptr(path), old, new)).or_insert_with(|| {
                adj_out::form(path, prefix, peers, &before) == adj_out::form(path, prefix, peers, &audience)
            })
        });
        self.note_all(destinations);
    }

    /// What a member knows, as it was told, of destinations that are `wanted`; not of those of which it is being told
    /// again.
    pub(super) fn said(
        &self,
        peer: PeerId,
        wanted: impl Fn(Prefix) -> bool,
        destinations: &Destinations<K>,
        peers: &Peers,
        interner: &Interner,
    ) -> Vec<(Prefix, Said)> {
        let kept: FxHashMap<_, _> = self.noted.iter().collect();
        let mut all = Vec::new();
        for slot in 0..destinations.slots() as Slot {
            let destination = destinations.get(slot);
            let prefix = destination.key().prefix();
            if !wanted(prefix) {
                continue;
            }
            let paths = self.told.paths(slot, destination, kept.get(&slot).copied());
            for path in paths.iter().filter(|path| path.source != Some(peer)) {
                let Some((attributes, next_hop)) = adj_out::form(path, prefix, peers, &self.audience) else {
                    continue;
                };
                let path_id = self.told.is_several().then(|| interner.numbered(path.key())).flatten();
                all.push((prefix, Said { attributes, next_hop, path_id }));
            }
        }
        all
    }

    /// Paths told to a member.
    pub(super) fn advertised(&self, peer: PeerId) -> usize {
        self.told.advertised(peer)
    }

    /// Whether [`Group::take`], or that after [`Group::begin`], may give this member something.
    pub(super) fn has_pending(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|next| *next < self.last()) || self.can_begin()
    }

    /// Whether there is something to work out, and nobody too far behind.
    pub(super) fn can_begin(&self) -> bool {
        (!self.noted.is_empty() || self.cycle.is_some()) && self.queued < WINDOW
    }

    /// Whether more than a destination's best path is of interest.
    pub(super) fn hears_several(&self) -> bool {
        self.told.is_several()
    }

    /// Whether everybody knows everything.
    pub(super) fn is_idle(&self) -> bool {
        self.noted.is_empty() && self.cycle.is_none() && self.queue.is_empty()
    }

    fn last(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    /// The next run for a member.
    pub(super) fn take(&mut self, peer: PeerId) -> Option<Run> {
        let (first, end) = (self.first, self.last());
        let next = self.members.get_mut(&peer)?;
        let mut taken = None;
        while taken.is_none() && *next < end {
            taken = self.queue.get((*next - first) as usize).filter(|run| run.is_for(peer)).cloned();
            *next += 1;
        }
        self.trim();
        taken
    }

    /// Drops what everybody has taken.
    fn trim(&mut self) {
        let least = self.members.values().min().copied().unwrap_or(self.last());
        let taken = (least - self.first) as usize;
        if taken > 0 {
            self.queued -= self.queue.drain(..taken).map(|run| run.octets.len()).sum::<usize>();
            self.first = least;
        }
    }

    /// Works out the next batch of what was noted.
    pub(super) fn begin(&mut self, destinations: &Destinations<K>, peers: &Peers, interner: &mut Interner) {
        let audience = self.audience.clone();
        let mut exports = Exports::new(K::FAMILY, peers, &audience);
        let mut outbox = Outbox::default();
        let mut worked = 0;
        let Self { told, noted, members, .. } = self;
        let mut work = Work { peers, interner, members, exports: &mut exports, outbox: &mut outbox };
        while worked < BATCH
            && let Some((slot, kept)) = noted.pop()
        {
            worked += 1;
            told.work_out(slot, kept.as_ref(), destinations.get(slot), &mut work);
        }
        outbox.close(&exports, K::FAMILY, &audience, &mut self.queue);
        self.queued = octets(&self.queue);
        if let Some(cycle) = &mut self.cycle {
            cycle.left = cycle.left.saturating_sub(worked);
            if cycle.left == 0 {
                self.end(destinations);
            }
        }
    }

    /// The cycle is over.
    fn end(&mut self, destinations: &Destinations<K>) {
        match self.cycle.take().map(|cycle| cycle.end) {
            Some(End::EndOfRib) => {
                let message = Message::Update(Update::end_of_rib(K::FAMILY));
                let run = Run::single(&message, &self.audience, Some(K::FAMILY));
                self.queued += run.octets.len();
                self.queue.push_back(run);
            }
            Some(End::Refresh(Marks::Marked)) => self.mark(RouteRefresh::end(K::FAMILY)),
            Some(End::Refresh(Marks::Unmarked)) | None => {}
        }
        if let Some(marks) = self.again.take() {
            self.refresh(destinations, marks);
        }
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    pub(super) fn members(&self) -> impl Iterator<Item = PeerId> + use<'_, K> {
        self.members.keys().copied()
    }

    pub(super) fn remove(&mut self, peer: PeerId) {
        self.members.remove(&peer);
        self.trim();
    }

    /// Takes in the members of a group that knows the same; both are idle.
    pub(super) fn join(&mut self, other: &Self) {
        let end = self.last();
        self.members.extend(other.members.keys().map(|peer| (*peer, end)));
    }

    /// Whether nobody is alone with what is to come.
    pub(super) fn is_shared(&self) -> bool {
        self.members.len() > 1
    }

    /// Parts from a member: a group of its own that knows what it knows and has before it what it has.
    pub(super) fn part(&mut self, peer: PeerId) -> Option<Self> {
        let next = self.members.remove(&peer)?;
        let ahead = self.queue.iter().skip((next - self.first) as usize);
        let queue = ahead.filter(|run| run.is_for(peer)).cloned().collect();
        let parted = Self {
            audience: self.audience.clone(),
            told: self.told.clone(),
            noted: self.noted.clone(),
            queued: octets(&queue),
            queue,
            first: 0,
            members: BTreeMap::from([(peer, 0)]),
            cycle: self.cycle,
            again: self.again,
            key: self.key,
        };
        self.trim();
        Some(parted)
    }
}

/// A path as a member was told it.
pub(super) struct Said {
    pub(super) attributes: Attributes,
    pub(super) next_hop: NextHop,
    /// None where it is the only one.
    pub(super) path_id: Option<u32>,
}

fn octets(queue: &VecDeque<Run>) -> usize {
    queue.iter().map(|run| run.octets.len()).sum()
}

impl Run {
    /// Whether this member is to hear it.
    fn is_for(&self, peer: PeerId) -> bool {
        match self.whom {
            Whom::All => true,
            Whom::AllBut(source) => source != peer,
            Whom::Only(member) => member == peer,
        }
    }

    /// A message that has nothing that could be too long.
    fn single(message: &Message, audience: &Audience, end_of_rib: Option<Family>) -> Self {
        let mut octets = Vec::new();
        let _ = wire::write(message, Some(&audience.session), &mut octets);
        Self { octets: Bytes::from(octets), messages: 1, kind: message.kind(), end_of_rib, whom: Whom::All }
    }
}

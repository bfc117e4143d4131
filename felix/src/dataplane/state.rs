//! Which routes are wanted and which are there, and the writes from one to the other. A value in memory: it touches no
//! kernel.
//!
//! Learned routes are compared by the next hops of the groups they name, so a route is right when its group is.
//! Where all routes of a group are to lead elsewhere, the group is changed and no route ([`State::moves`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use rustc_hash::FxHashMap;

use super::message::{self, Message, Seen};
use super::next_hops::Links;
use super::objects::{Object, ObjectWrite, Objects};
use super::overlaps::Foreign;
use super::slots::Slots;
use super::{Route, Settings};

/// From so many routes on that leave a group for some of its next hops, all that name it go with them until it is known
/// who stays.
const MANY: usize = 64;

/// What a route of the kernel leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A neighbour on an interface, by its index.
    Pod(u32),
    /// Nothing: dropped.
    Blackhole,
    /// Nothing: the sender is told.
    Unreachable,
    /// A group of next hops, by its number.
    Group(u32),
    /// A form we do not write.
    Other,
}

/// One write to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A route.
    Route {
        /// Where to.
        destination: IpNetwork,
        /// None: nothing is there.
        before: Option<Target>,
        /// None: it is removed.
        after: Option<Target>,
    },
    /// A next-hop object.
    Object(ObjectWrite),
    /// A route of a table or metric that are ours no longer is removed.
    Stray(Seen),
}

/// What [`State::plan`] made of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is as it should be.
    Right,
    /// Writes were added, the last of them the route's.
    Written,
    /// It cannot be written, and why.
    Impossible(Arc<str>),
}

/// All routes and objects of ours that a kernel holds.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Routes of every table.
    pub routes: Vec<Seen>,
    /// Other programs' routes, where they were asked for.
    pub(super) foreign: Vec<Foreign>,
    /// Next-hop objects by number.
    pub objects: BTreeMap<u32, Object>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    wanted: Option<Target>,
    actual: Option<Target>,
    /// Removed on purpose and still there; told apart from what was there before us only until the sweep.
    unwanted: bool,
    /// The pair it is counted under in [`State::moving`].
    moving: Option<(u32, u32)>,
    /// The comparison in which, or after which, it was last seen or changed.
    seen: u32,
}

/// Wanted and actual routes by destination.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    slots: Slots<Slot>,
    objects: Objects,
    /// How many routes are on their way from one group to another.
    moving: FxHashMap<(u32, u32), usize>,
    strays: Vec<Seen>,
    wanted: usize,
    installed: usize,
    /// Numbers comparisons.
    comparison: u32,
    /// While one is under way: destinations that are neither wanted nor there any more. What was read may know them yet.
    gone: Option<Vec<IpNetwork>>,
    swept: bool,
}

impl State {
    /// Nothing wanted yet; of what is there nothing is removed before [`State::sweep`].
    pub fn new(settings: Settings, links: Links, snapshot: Snapshot) -> Self {
        let mut state = Self {
            settings,
            slots: Slots::default(),
            objects: Objects::new(links),
            moving: FxHashMap::default(),
            strays: Vec::new(),
            wanted: 0,
            installed: 0,
            comparison: 0,
            gone: None,
            swept: false,
        };
        state.observe(snapshot);
        state
    }

    /// Wants `route` at `destination`.
    pub fn want(&mut self, destination: IpNetwork, route: &Route) {
        let target = match route {
            Route::Pod { ifindex } => Target::Pod(*ifindex),
            Route::Blackhole => Target::Blackhole,
            Route::Unreachable => Target::Unreachable,
            Route::Via(hops) => Target::Group(self.objects.group_of(hops)),
        };
        self.change(destination, |slot| {
            slot.unwanted = false;
            slot.wanted = Some(target);
        });
    }

    /// Wants nothing at `destination`.
    pub fn unwant(&mut self, destination: IpNetwork) {
        self.change(destination, |slot| {
            slot.wanted = None;
            slot.unwanted = slot.actual.is_some();
        });
    }

    /// From now on what nobody wants is to be removed. Returns the destinations that differ.
    pub fn sweep(&mut self) -> Vec<IpNetwork> {
        self.swept = true;
        self.pending()
    }

    /// What is connected is this now.
    pub fn connect(&mut self, links: Links) {
        self.objects.connect(links);
    }

    /// What was refused is worth another try.
    pub fn forgive(&mut self) {
        self.objects.forgive();
    }

    /// Appends what is to be written for `destination`.
    pub fn plan(&mut self, destination: IpNetwork, writes: &mut Vec<Write>) -> Plan {
        let Some(slot) = self.slots.get(&destination) else { return Plan::Right };
        let (wanted, actual) = (slot.wanted, slot.actual);
        match wanted {
            None if actual.is_some() && (self.swept || slot.unwanted) => {}
            None => return Plan::Right,
            Some(_) if wanted == actual => return Plan::Right,
            Some(Target::Group(group)) => {
                if let Some(Target::Group(other)) = actual
                    && self.objects.same(group, other)
                {
                    // The group was turned since.
                    self.change(destination, |_| {});
                    return Plan::Right;
                }
                let mut objects = Vec::new();
                let ready = self.objects.ready(group, pods(&self.slots), &mut objects);
                writes.extend(objects.into_iter().map(Write::Object));
                if let Err(reason) = ready {
                    return Plan::Impossible(reason);
                }
            }
            Some(_) => {}
        }
        writes.push(Write::Route { destination, before: actual, after: wanted });
        Plan::Written
    }

    /// Appends what changes groups under many routes at once; to be called before their routes are planned.
    pub fn moves(&mut self, writes: &mut Vec<Write>) {
        let mut moves: Vec<((u32, u32), usize)> =
            self.moving.iter().map(|(pair, count)| (*pair, *count)).collect();
        moves.sort_unstable();
        let mut objects = Vec::new();
        for ((from, to), count) in moves {
            let users = self.objects.users(from);
            let all = users > 1 && count == users && self.objects.wants(from) == 0;
            if all && self.objects.turn(from, to, pods(&self.slots), &mut objects) {
                self.moving.remove(&(from, to));
            } else if count >= MANY {
                self.objects.narrow(from, to, pods(&self.slots), &mut objects);
            }
        }
        writes.extend(objects.into_iter().map(Write::Object));
    }

    /// Appends what differs of the groups in use.
    pub fn settle(&mut self, writes: &mut Vec<Write>) {
        let mut objects = Vec::new();
        self.objects.settle(pods(&self.slots), &mut objects);
        writes.extend(objects.into_iter().map(Write::Object));
    }

    /// Nothing waits to be written any more: appends what puts groups back that were changed for the time being, and what
    /// removes objects nobody needs.
    pub fn rest(&mut self, writes: &mut Vec<Write>) {
        if self.objects.widen() {
            self.settle(writes);
        }
        if self.swept {
            writes.extend(std::mem::take(&mut self.strays).into_iter().map(Write::Stray));
            let mut objects = Vec::new();
            self.objects.tidy(&mut objects);
            writes.extend(objects.into_iter().map(Write::Object));
        }
    }

    /// The message of a write, and its flags.
    pub fn message(&self, write: &Write) -> (Message, u16) {
        match write {
            Write::Route { destination, before, after: Some(target) } => {
                message::set_route(*destination, *target, before.is_some(), self.settings)
            }
            Write::Route { destination, after: None, .. } => {
                message::remove_route(*destination, self.settings)
            }
            Write::Object(ObjectWrite { id, before, after: Some(object) }) => {
                message::set_object(*id, object, before.is_some())
            }
            Write::Object(ObjectWrite { id, .. }) => message::remove_object(*id),
            Write::Stray(seen) => message::remove_route(seen.destination, seen.settings),
        }
    }

    /// A write was made.
    pub fn done(&mut self, write: &Write) {
        if let Write::Route { destination, after, .. } = write {
            self.change(*destination, |slot| {
                slot.actual = *after;
                slot.unwanted = false;
            });
        }
    }

    /// A write was not made.
    pub fn refused(&mut self, write: Write) {
        if let Write::Object(write) = write {
            self.objects.refuse(write);
        }
    }

    /// What was there at `destination` has gone.
    pub fn lost(&mut self, destination: IpNetwork) {
        self.change(destination, |slot| {
            slot.actual = None;
            slot.unwanted = false;
        });
    }

    /// Someone else has put something at `destination`.
    pub fn found(&mut self, destination: IpNetwork, target: Target) {
        self.change(destination, |slot| slot.actual = Some(target));
    }

    /// All of what is there was read again. Returns the destinations that differ.
    pub fn observe(&mut self, snapshot: Snapshot) -> Vec<IpNetwork> {
        self.begin_comparison();
        self.compare_objects(snapshot.objects);
        snapshot.routes.into_iter().for_each(|seen| self.compare(seen));
        self.end_comparison()
    }

    /// All of what is there is about to be read. What changes from now on is newer than what is read.
    pub fn begin_comparison(&mut self) {
        self.comparison = self.comparison.wrapping_add(1);
        self.gone = Some(Vec::new());
    }

    /// The objects are these, read after the routes, which follow one by one.
    pub fn compare_objects(&mut self, objects: BTreeMap<u32, Object>) {
        self.objects.observe(objects);
        self.strays.clear();
    }

    /// This was among the routes.
    pub fn compare(&mut self, seen: Seen) {
        if seen.settings != self.settings {
            return self.strays.push(seen);
        }
        let target = match seen.target {
            Target::Group(id) if !self.objects.is_there(id) => Target::Other,
            target => target,
        };
        let comparison = self.comparison;
        match self.slots.get_mut(&seen.destination) {
            Some(slot) if slot.seen == comparison => {}
            Some(slot) if slot.actual == Some(target) => slot.seen = comparison,
            _ => self.change(seen.destination, |slot| slot.actual = Some(target)),
        }
    }

    /// There were no other routes. Returns the destinations that differ.
    pub fn end_comparison(&mut self) -> Vec<IpNetwork> {
        for destination in self.filter(|slot| slot.actual.is_some() && slot.seen != self.comparison) {
            self.lost(destination);
        }
        self.leave_comparison();
        self.pending()
    }

    /// Nothing more is read for it.
    pub fn leave_comparison(&mut self) {
        for destination in self.gone.take().unwrap_or_default() {
            self.change(destination, |_| {});
        }
    }

    /// The objects that are there were read again. Returns the destinations whose route went with its group.
    pub fn observe_objects(&mut self, objects: BTreeMap<u32, Object>) -> Vec<IpNetwork> {
        self.objects.observe(objects);
        let objects = &self.objects;
        let gone = |slot: &Slot| matches!(slot.actual, Some(Target::Group(id)) if !objects.is_there(id));
        let mut lost: Vec<IpNetwork> =
            self.slots.iter().filter(|(_, slot)| gone(slot)).map(|(key, _)| *key).collect();
        lost.sort_unstable();
        for destination in &lost {
            self.lost(*destination);
        }
        lost
    }

    /// The destinations that differ, in order.
    pub fn pending(&self) -> Vec<IpNetwork> {
        let differs = |slot: &Slot| match (slot.wanted, slot.actual) {
            (Some(Target::Group(wanted)), Some(Target::Group(actual))) => !self.objects.same(wanted, actual),
            (Some(wanted), actual) => actual != Some(wanted),
            (None, Some(_)) => self.swept || slot.unwanted,
            (None, None) => false,
        };
        let mut pending: Vec<IpNetwork> =
            self.slots.iter().filter(|(_, slot)| differs(slot)).map(|(key, _)| *key).collect();
        pending.sort_unstable();
        pending
    }

    /// Destinations whose route, as it is there, leads to the interface `ifindex`.
    pub fn there_by(&self, ifindex: u32) -> Vec<IpNetwork> {
        self.filter(|slot| slot.actual == Some(Target::Pod(ifindex)))
    }

    /// Destinations whose route, as it is wanted, leads to the interface `ifindex`.
    pub fn wanted_by(&self, ifindex: u32) -> Vec<IpNetwork> {
        self.filter(|slot| slot.wanted == Some(Target::Pod(ifindex)))
    }

    fn filter(&self, is: impl Fn(&Slot) -> bool) -> Vec<IpNetwork> {
        let mut found: Vec<IpNetwork> =
            self.slots.iter().filter(|(_, slot)| is(slot)).map(|(key, _)| *key).collect();
        found.sort_unstable();
        found
    }

    /// What is there at `destination`.
    pub fn actual(&self, destination: IpNetwork) -> Option<Target> {
        self.slots.get(&destination).and_then(|slot| slot.actual)
    }

    /// What is wanted at `destination`.
    pub fn wanted(&self, destination: IpNetwork) -> Option<Target> {
        self.slots.get(&destination).and_then(|slot| slot.wanted)
    }

    /// How many routes are wanted, how many are there, and how many objects.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.wanted, self.installed, self.objects.installed())
    }

    /// Whether [`State::sweep`] was called.
    pub fn is_swept(&self) -> bool {
        self.swept
    }

    /// Changes a slot, and keeps all that is counted.
    fn change(&mut self, destination: IpNetwork, change: impl FnOnce(&mut Slot)) {
        let slot = self.slots.part_of(&destination).entry(destination).or_default();
        let before = *slot;
        change(slot);
        if slot.actual != before.actual {
            slot.seen = self.comparison;
        }
        let pair = match (slot.wanted, slot.actual) {
            (Some(Target::Group(to)), Some(Target::Group(from))) => Some((from, to)),
            _ => None,
        };
        slot.moving = pair.filter(|(from, to)| !self.objects.same(*from, *to));
        if pair.is_some() && slot.moving.is_none() {
            // Of two groups with the same next hops the one it has already.
            slot.wanted = slot.actual;
        }
        let after = *slot;
        if after.wanted.is_none() && after.actual.is_none() {
            match &mut self.gone {
                Some(gone) => gone.push(destination),
                None => drop(self.slots.part_of(&destination).remove(&destination)),
            }
        }
        if before.moving != after.moving {
            if let Some(pair) = before.moving
                && let Some(count) = self.moving.get_mut(&pair)
            {
                *count -= 1;
                if *count == 0 {
                    self.moving.remove(&pair);
                }
            }
            if let Some(pair) = after.moving {
                *self.moving.entry(pair).or_default() += 1;
            }
        }
        if before.wanted != after.wanted {
            if matches!((before.wanted, after.wanted), (Some(Target::Pod(_)), _) | (_, Some(Target::Pod(_))))
            {
                // It may be a next hop.
                self.objects.doubt();
            }
            for (target, more) in [(before.wanted, -1), (after.wanted, 1)] {
                self.wanted = self.wanted.saturating_add_signed(if target.is_some() { more } else { 0 });
                if let Some(Target::Group(id)) = target {
                    self.objects.want_by(id, more);
                }
            }
        }
        if before.actual != after.actual {
            for (target, more) in [(before.actual, -1), (after.actual, 1)] {
                self.installed =
                    self.installed.saturating_add_signed(if target.is_some() { more } else { 0 });
                if let Some(Target::Group(id)) = target {
                    self.objects.use_by(id, more);
                }
            }
        }
    }
}

/// The interface of a pod of this node: it may be a next hop too.
fn pods(slots: &Slots<Slot>) -> impl Fn(IpAddr) -> Option<u32> {
    |address| match slots.get(&IpNetwork::from(address))?.wanted {
        Some(Target::Pod(ifindex)) => Some(ifindex),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Those who follow the best paths: watchers, groups of peers, next hops and aggregates.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PeerTable;
use super::emptied::Emptied;
use crate::rib::aggregate::Aggregate;
use crate::rib::destination::{Destination, Step};
use crate::rib::destinations::Slot;
use crate::rib::group::Group;
use crate::rib::net::Net;
use crate::rib::path::{Path, PeerId};
use crate::rib::peers::Peers;

#[derive(Debug)]
pub(super) struct Followers<K> {
    /// Each once: those of which [`Destination::is_listed`] says so.
    pub(super) listed: Vec<Slot>,
    pub(super) emptied: Emptied,
    /// Destinations with a best path.
    pub(super) usable: usize,
    /// Peers that speak the family.
    pub(super) peers: BTreeMap<PeerId, PeerTable>,
    pub(super) groups: Vec<Group<K>>,
    /// A route that next hops may hang on is another.
    pub(super) moved: bool,
    pub(super) aggregates: Vec<Aggregate<K>>,
    /// Something in one of them is another.
    pub(super) stirred: bool,
}

impl<K: Net> Followers<K> {
    /// Has a destination go through `step` and notes what follows from it. Nothing runs more often.
    pub(super) fn follow(
        &mut self,
        slot: Slot,
        destination: &mut Destination<K>,
        peers: &Peers,
        step: &Step,
    ) {
        let (before, now) = (step.before.best(), step.after.best());
        destination.set(&step.after);
        self.usable = self.usable + usize::from(now.is_some()) - usize::from(before.is_some());
        if step.moves {
            self.list(slot, destination);
        }
        let prefix = destination.key().prefix();
        self.moved |= peers.next_hops.covers(prefix);
        if step.after.all().is_empty() {
            self.emptied.push(slot);
        }
        if step.changes_best {
            for aggregate in self.aggregates.iter_mut().filter(|aggregate| aggregate.hides(prefix)) {
                before.into_iter().for_each(|path| aggregate.take(path));
                now.into_iter().for_each(|path| aggregate.add(path));
                self.stirred = true;
            }
        }
        for group in &mut self.groups {
            if step.changes_best || group.hears_several() {
                group.note(slot, before, now);
            }
        }
    }

    /// Watchers are to be told.
    pub(super) fn list(&mut self, slot: Slot, destination: &mut Destination<K>) {
        if !destination.list(true) {
            self.listed.push(slot);
        }
    }

    /// Counts no more what is about to go; false where that is nothing.
    pub(super) fn uncount<'a>(&mut self, peer: PeerId, paths: impl Iterator<Item = &'a Arc<Path>>) -> bool {
        let mut some = false;
        for path in paths {
            some = true;
            if let Some(table) = self.peers.get_mut(&peer) {
                table.uncount(Some(path));
            }
        }
        some
    }

    /// The group of a peer.
    pub(super) fn of(&self, peer: PeerId) -> Option<&Group<K>> {
        self.groups.get(self.peers.get(&peer)?.group?)
    }

    /// The group of a peer, which is alone in it from now on.
    pub(super) fn alone(&mut self, peer: PeerId) -> Option<&mut Group<K>> {
        let table = self.peers.get_mut(&peer)?;
        let mut group = table.group?;
        if self.groups[group].is_shared()
            && let Some(parted) = self.groups[group].part(peer)
        {
            self.groups.push(parted);
            group = self.groups.len() - 1;
            table.group = Some(group);
        }
        self.groups.get_mut(group)
    }

    pub(super) fn leave(&mut self, peer: PeerId, group: usize) {
        if self.groups[group].is_shared() {
            self.groups[group].remove(peer);
        } else {
            self.drop_group(group);
        }
    }

    /// Lets a group in which everybody knows everything join another such of the same audience.
    pub(super) fn merge(&mut self, group: usize) {
        let fits = |other: &Group<K>| other.is_idle() && other.audience() == self.groups[group].audience();
        let Some(other) = (0..self.groups.len()).find(|i| *i != group && fits(&self.groups[*i])) else {
            return;
        };
        let members: Vec<_> = self.groups[group].members().collect();
        for peer in members {
            if let Some(table) = self.peers.get_mut(&peer) {
                table.group = Some(other);
            }
        }
        if let Ok([group, other]) = self.groups.get_disjoint_mut([group, other]) {
            other.join(group);
        }
        self.drop_group(group);
    }

    fn drop_group(&mut self, group: usize) {
        self.groups.swap_remove(group);
        if let Some(moved) = self.groups.get(group) {
            for peer in moved.members() {
                if let Some(table) = self.peers.get_mut(&peer) {
                    table.group = Some(group);
                }
            }
        }
    }
}

//! What peers and watchers are to hear, and have heard.

use super::Table;
use crate::rib::RouteChange;
use crate::rib::adj_out::Run;
use crate::rib::audience::Audience;
use crate::rib::destination::Paths;
use crate::rib::group::{Marks, Said};
use crate::rib::net::Net;
use crate::rib::path::{Interner, PeerId};
use crate::rib::peers::Peers;
use crate::types::Prefix;

impl<K: Net> Table<K> {
    /// What a peer hears is to be worked out anew: what decides it is other than it was.
    pub(in crate::rib) fn tell_anew(&mut self, peer: PeerId, peers: &Peers) {
        let Some(facts) = peers.facts.get(&peer) else { return };
        if let Some(group) = self.followers.alone(peer) {
            group.address(Audience::of(facts, peers), &self.destinations, peers);
        }
    }

    /// Says everything to a peer again.
    pub(in crate::rib) fn refresh(&mut self, peer: PeerId, marks: Marks) {
        if let Some(group) = self.followers.alone(peer) {
            group.refresh(&self.destinations, marks);
        }
    }

    /// What others heard of a peer's paths is to be said again: it is another speaker now.
    pub(in crate::rib) fn forget(&mut self, source: PeerId) {
        self.followers.groups.iter_mut().for_each(|group| group.forget(source));
    }

    pub(in crate::rib) fn part(&mut self, peer: PeerId) {
        self.followers.alone(peer);
    }

    pub(in crate::rib) fn take_changes(&mut self, changes: &mut Vec<RouteChange>, peers: &Peers) {
        let start = changes.len();
        for slot in std::mem::take(&mut self.followers.listed) {
            let destination = self.destinations.get_mut(slot);
            destination.list(false);
            let (next_hops, weights) = peers.hops(&destination.paths().next_hops());
            changes.push(RouteChange { prefix: destination.key().prefix(), next_hops, weights });
        }
        changes[start..].sort_unstable_by_key(|change| change.prefix);
    }

    pub(in crate::rib) fn drop_changes(&mut self) {
        for slot in self.followers.listed.drain(..) {
            self.destinations.get_mut(slot).list(false);
        }
    }

    pub(in crate::rib) fn snapshot(&self, routes: &mut Vec<RouteChange>, peers: &Peers) {
        let start = routes.len();
        routes.extend(
            self.destinations
                .iter()
                .map(|(_, destination)| (destination.key(), destination.paths().next_hops()))
                .filter(|(_, hops)| !hops.is_empty())
                .map(|(key, hops)| {
                    let (next_hops, weights) = peers.hops(&hops);
                    RouteChange { prefix: key.prefix(), next_hops, weights }
                }),
        );
        routes[start..].sort_unstable_by_key(|route| route.prefix);
    }

    /// Those with a path, in order of prefix.
    pub(in crate::rib) fn destinations(&self, only: Option<Prefix>) -> Vec<(Prefix, Paths)> {
        let mut found: Vec<_> = match only {
            Some(prefix) => {
                let slot = K::new(prefix).and_then(|key| self.destinations.find(key));
                slot.map(|slot| self.destinations.get(slot)).into_iter().collect()
            }
            None => self.destinations.iter().map(|(_, destination)| destination).collect(),
        };
        found.retain(|destination| !destination.paths().all().is_empty());
        found.sort_unstable_by_key(|destination| destination.key());
        found
            .into_iter()
            .map(|destination| (destination.key().prefix(), destination.paths().of(())))
            .collect()
    }

    /// What `peer` has been told, in order of prefix.
    pub(in crate::rib) fn told(
        &self,
        peer: PeerId,
        only: Option<Prefix>,
        peers: &Peers,
        interner: &Interner,
    ) -> Vec<(Prefix, Said)> {
        let Some(group) = self.followers.of(peer) else { return Vec::new() };
        let wanted = |prefix| only.is_none_or(|only| only == prefix);
        let mut routes = group.said(peer, wanted, &self.destinations, peers, interner);
        routes.sort_unstable_by_key(|(prefix, said)| (*prefix, said.path_id));
        routes
    }

    pub(in crate::rib) fn has_pending(&self, peer: PeerId) -> bool {
        self.followers.of(peer).is_some_and(|group| group.has_pending(peer))
    }

    /// The next run of the present batch for `peer`.
    pub(in crate::rib) fn take_run(&mut self, peer: PeerId) -> Option<Run> {
        let group = self.followers.peers.get(&peer)?.group?;
        let run = self.followers.groups[group].take(peer);
        if run.is_none() && self.followers.groups[group].is_idle() {
            self.followers.merge(group);
        }
        run
    }

    /// Works out the next batch of what was noted for `peer`; false where there is nothing to be done.
    pub(in crate::rib) fn begin(&mut self, peer: PeerId, peers: &Peers, interner: &mut Interner) -> bool {
        let Some(group) = self.followers.peers.get(&peer).and_then(|table| table.group) else {
            return false;
        };
        let group = &mut self.followers.groups[group];
        let can = group.can_begin();
        if can {
            group.begin(&self.destinations, peers, interner);
        }
        can
    }
}

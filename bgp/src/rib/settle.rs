//! What begins here, and what hangs on the routes themselves: next hops and aggregates.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::net::Net;
use super::path::PathKey;
use super::{NetworkError, PeerFacts, Rib, Tables, originate};
use crate::api::{Aggregate, Network, NextHopMode, Reach};

/// How often what follows from a next hop may change others before they are looked at another time.
const ROUNDS: usize = 8;

impl Rib {
    /// How the machine reaches next hops; none: whatever a peer names is taken for a neighbour. Applies to all
    /// that was said.
    pub fn set_underlay(&mut self, ways: Option<&[Reach]>) {
        let told = self.peers.next_hops.are_told();
        if !self.peers.next_hops.set_ways(ways) {
            return;
        }
        // Which next hops are neighbours hangs on the networks as well, whatever their ways are.
        self.looks_anew = true;
        if told != ways.is_some() {
            for next_hop in self.next_hops() {
                self.peers.next_hops.track(next_hop);
            }
        }
        let direct = self.peers.facts.iter().filter(|(_, facts)| facts.next_hop == NextHopMode::Direct);
        for peer in direct.map(|(peer, _)| *peer) {
            self.tables.ipv4.tell_anew(peer, &self.peers);
            self.tables.ipv6.tell_anew(peer, &self.peers);
        }
    }

    /// Those in use, and those that will be.
    fn next_hops(&self) -> BTreeSet<IpAddr> {
        let peers = self.peers.facts.values().flat_map(PeerFacts::names_next_hops);
        self.interner.next_hops().chain(peers).collect()
    }

    /// Finds out what is true of next hops, and what follows from it, as long as something does.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.aggregate();
            let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
            if !(ipv4.take_moved() | ipv6.take_moved() | peers.next_hops.is_doubtful()) {
                return;
            }
            let mut changed = peers.next_hops.resolve(|prefix, next_hop| {
                let found = Net::new(prefix).map(|key| ipv4.way_to(next_hop, key));
                found.or_else(|| Net::new(prefix).map(|key| ipv6.way_to(next_hop, key))).unwrap_or_default()
            });
            if std::mem::take(&mut self.looks_anew) {
                changed = interner.next_hops().collect();
            }
            if !changed.is_empty() {
                ipv4.reach_anew(&changed, peers, interner);
                ipv6.reach_anew(&changed, peers, interner);
            }
        }
        // Routes that turn each other on and off: they are left as they are until something else changes.
        let _ = (self.tables.ipv4.take_moved(), self.tables.ipv6.take_moved());
        self.aggregate();
    }

    /// Originates exactly `networks`.
    ///
    /// # Errors
    /// See [`NetworkError`]; nothing was changed then.
    pub fn set_networks(&mut self, networks: &[Network]) -> Result<(), NetworkError> {
        let wanted = originate::read(networks)?;
        let before = std::mem::replace(&mut self.networks, wanted);
        for prefix in before.keys().filter(|prefix| !self.networks.contains_key(prefix)) {
            self.tables.abandon(*prefix, PathKey { source: None, path_id: 0 }, &self.peers);
        }
        for (prefix, told) in &self.networks {
            if before.get(prefix) == Some(told) {
                continue;
            }
            let path = originate::path(*prefix, 0, told.attributes());
            let path = self.interner.intern(path);
            self.tables.originate(*prefix, path, &self.peers);
        }
        Ok(())
    }

    /// Originates these as long as there is something in them; of a prefix that is originated as a network as well
    /// after [`Rib::set_networks`].
    ///
    /// # Errors
    /// See [`NetworkError`]; nothing was changed then.
    pub fn set_aggregates(&mut self, aggregates: &[Aggregate]) -> Result<(), NetworkError> {
        let wanted = originate::read_aggregates(aggregates, &self.networks)?;
        if wanted != self.aggregates {
            self.tables.ipv4.set_aggregates(&wanted, &self.peers);
            self.tables.ipv6.set_aggregates(&wanted, &self.peers);
            self.aggregates = wanted;
        }
        Ok(())
    }

    /// Originates aggregates, and has their parts shown or hidden.
    fn aggregate(&mut self) {
        let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
        if !(ipv4.stirred() || ipv6.stirred()) {
            return;
        }
        ipv4.aggregate(peers, interner);
        ipv6.aggregate(peers, interner);
        let suppressing = ipv4.suppressing().chain(ipv6.suppressing()).collect();
        let before = std::mem::replace(&mut peers.suppressing, suppressing);
        for prefix in before.symmetric_difference(&peers.suppressing) {
            ipv4.note_within(*prefix);
            ipv6.note_within(*prefix);
        }
    }
}

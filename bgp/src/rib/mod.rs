//! The routing information base: what peers said, which paths are best, what each peer should hear.
//!
//! Pure, and owned by one caller, who tells it what happened and takes out what follows:
//!
//! | tell | take |
//! |---|---|
//! | [`Rib::set_networks`], [`Rib::set_aggregates`], [`Rib::set_decision`], [`Rib::set_cluster_id`], [`Rib::set_underlay`], [`Rib::peer_up`], [`Rib::peer_down`], [`Rib::peer_stale`], [`Rib::freshen`], [`Rib::live_long`], [`Rib::refreshes`], [`Rib::sweep`], [`Rib::set_policy`], [`Rib::set_drain`], [`Rib::update`], [`Rib::refresh`] | [`Rib::take_changes`] for watchers, [`Rib::take_run`] for each peer |
//!
//! Telling never produces output; taking coalesces everything told since. [`Rib::snapshot`],
//! [`Rib::destinations`], [`Rib::received`], [`Rib::advertised`] and [`Rib::counts`] look without taking. Both takings are to be done again and
//! again, watchers or not: what is not taken is kept.
//!
//! ```text
//!   update ─ adj_in ─ import ─▶ destination: every path, ranked by decision ─▶ changes
//!              why refused        │ the best
//!                                 ▼
//!                          group: export ─ adj_out ─▶ runs of messages, written once
//! ```
//!
//! A `table::Table` holds one family and is written once for both. A path (attributes, next hop, source and
//! why it is refused) is interned: a destination holds a pointer to it. The Adj-RIBs-In have no tables of their
//! own: a destination keeps the refused paths beside the usable ones, so that a new policy is applied without
//! asking anyone. The Adj-RIBs-Out are one list a group of peers that hear the same.

mod adj_in;
mod adj_out;
mod aggregate;
mod audience;
pub mod decision;
mod destination;
mod destinations;
mod facts;
mod group;
mod martian;
mod net;
mod next_hops;
mod noted;
mod numbers;
mod originate;
mod path;
mod peers;
mod policy;
mod sessions;
mod settle;
mod table;
mod told;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use adj_in::Judge;
pub use adj_out::Run;
use aggregate::Wanted;
use bytes::BytesMut;
pub use facts::{Drain, Leaving, PeerFacts};
use group::Marks;
use net::{Net, Net4, Net6};
pub use originate::NetworkError;
pub use path::PeerId;
use path::{Interner, Path, PathKey, Received};
use peers::Peers;
pub use policy::Policy;
use table::Table;

use crate::api::Decision;
use crate::types::{Asn, Family, Prefix, RouterId, ScopedAddr};
use crate::wire::frame::MAX_EXTENDED;
use crate::wire::{self, Announcement, Message, Nlri, Update, frame};

/// What the best paths of a destination are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The destination.
    pub prefix: Prefix,
    /// As in [`crate::api::RouteGroup`].
    pub next_hops: Vec<ScopedAddr>,
    /// As in [`crate::api::RouteGroup`].
    pub weights: Vec<u8>,
}

/// Prefixes of one peer, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Held from it.
    pub received: usize,
    /// Of those, not refused by policy or a loop check.
    pub accepted: usize,
    /// Of those received, not said again since [`Rib::peer_stale`] or [`Rib::refreshes`].
    pub stale: usize,
    /// Of those stale, the last resort since [`Rib::live_long`].
    pub long_lived: usize,
    /// Told to it and not withdrawn.
    pub advertised: usize,
}

/// How much is held in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// IPv4 destinations with at least one usable path.
    pub ipv4: usize,
    /// Likewise of IPv6.
    pub ipv6: usize,
    /// Different sets of attributes and next hop; those that have fallen out of use are among them for a while.
    pub attribute_sets: usize,
}

/// The tables of both families.
#[derive(Debug)]
pub struct Rib {
    peers: Peers,
    /// What is originated, so that the next list can be compared.
    networks: BTreeMap<Prefix, originate::Told>,
    aggregates: BTreeMap<Prefix, Wanted>,
    tables: Tables,
    interner: Interner,
    /// Next hops have begun to be looked at, or are no more: something else may be true of every one.
    looks_anew: bool,
}

#[derive(Debug)]
struct Tables {
    ipv4: Table<Net4>,
    ipv6: Table<Net6>,
}

impl Rib {
    /// An empty one, for the speaker of this AS and identifier.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            peers: Peers::new(asn, router_id),
            networks: BTreeMap::new(),
            aggregates: BTreeMap::new(),
            tables: Tables { ipv4: Table::new(), ipv6: Table::new() },
            interner: Interner::default(),
            looks_anew: false,
        }
    }

    /// What our cluster is called (RFC 4456, section 7), our BGP Identifier until this is said. Applies to
    /// all that was said and heard.
    pub fn set_cluster_id(&mut self, cluster_id: RouterId) {
        if std::mem::replace(&mut self.peers.cluster_id, cluster_id) == cluster_id {
            return;
        }
        for peer in self.peers.facts.keys() {
            self.tables.ipv4.judge_again(*peer, &self.peers, &mut self.interner);
            self.tables.ipv6.judge_again(*peer, &self.peers, &mut self.interner);
            self.tables.ipv4.refresh(*peer, Marks::Unmarked);
            self.tables.ipv6.refresh(*peer, Marks::Unmarked);
        }
    }

    /// How paths are compared, from now on and of those held.
    pub fn set_decision(&mut self, decision: Decision) {
        if std::mem::replace(&mut self.peers.decision, decision) != decision {
            self.tables.ipv4.rank_anew(&self.peers);
            self.tables.ipv6.rank_anew(&self.peers);
        }
    }

    /// An established peer said this. Families not negotiated are ignored, as are unknown peers.
    pub fn update(&mut self, peer: PeerId, update: Update) {
        if !self.peers.facts.contains_key(&peer) {
            return;
        }
        for some in update.withdrawn.chunk_by(|one, other| one.family() == other.family()) {
            match some[0].family() {
                Family::Ipv4 => self.tables.ipv4.withdraw(peer, some, &self.peers),
                Family::Ipv6 => self.tables.ipv6.withdraw(peer, some, &self.peers),
            }
        }
        let Some(attributes) = update.attributes else { return };
        for Announcement { next_hop, prefixes } in update.announced {
            self.learn(peer, Received { attributes: attributes.clone(), next_hop }, &prefixes);
        }
    }

    fn learn(&mut self, peer: PeerId, received: Received, prefixes: &[Nlri]) {
        self.peers.next_hops.track(received.next_hop.addr());
        let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
        let Some(mut judge) = Judge::new(peer, peers, interner) else { return };
        match prefixes.first().map(|nlri| nlri.family()).filter(|family| judge.families().contains(family)) {
            Some(Family::Ipv4) => ipv4.learn(&received, prefixes, &mut judge),
            Some(Family::Ipv6) => ipv6.learn(&received, prefixes, &mut judge),
            None => {}
        }
    }

    /// The peer is to hear all of `family` again (RFC 2918), between marks if it knows them (RFC 7313). What is
    /// asked for while that goes on is said once more after it.
    pub fn refresh(&mut self, peer: PeerId, family: Family) {
        let enhanced = self.peers.facts.get(&peer).is_some_and(|facts| facts.enhanced_refresh);
        let marks = if enhanced { Marks::Marked } else { Marks::Unmarked };
        match family {
            Family::Ipv4 => self.tables.ipv4.refresh(peer, marks),
            Family::Ipv6 => self.tables.ipv6.refresh(peer, marks),
        }
    }

    /// Destinations whose best next hops are other than when last taken; in order of prefix. One that
    /// came and went in between may be told as gone.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<RouteChange> {
        self.settle();
        let mut changes = Vec::new();
        self.tables.ipv4.take_changes(&mut changes, &self.peers);
        self.tables.ipv6.take_changes(&mut changes, &self.peers);
        changes
    }

    /// Takes changes nobody wants to hear of.
    pub fn drop_changes(&mut self) {
        self.settle();
        self.tables.ipv4.drop_changes();
        self.tables.ipv6.drop_changes();
    }

    /// Gives back what was held for destinations that are gone. To be called now and then.
    pub fn tidy(&mut self) {
        self.tables.ipv4.tidy();
        self.tables.ipv6.tidy();
        if self.tables.ipv4.is_vacant() && self.tables.ipv6.is_vacant() {
            self.interner.clear();
        }
        let used = self.peers.facts.values().flat_map(PeerFacts::names_next_hops);
        self.peers.next_hops.sweep(|| used.chain(self.interner.next_hops()).collect());
    }

    /// All learned best paths as they are now, in order of prefix; takes nothing.
    #[must_use]
    pub fn snapshot(&self) -> Vec<RouteChange> {
        let mut routes = Vec::new();
        self.tables.ipv4.snapshot(&mut routes, &self.peers);
        self.tables.ipv6.snapshot(&mut routes, &self.peers);
        routes
    }

    /// Whether [`Rib::take_run`] may give something. It may still give nothing, where what was noted
    /// comes out as the peer knows it; then nothing is pending any more.
    #[must_use]
    pub fn has_pending(&self, peer: PeerId) -> bool {
        let Tables { ipv4, ipv6 } = &self.tables;
        let unsettled = ipv4.moved() || ipv6.moved() || ipv4.stirred() || ipv6.stirred();
        let unsettled = unsettled || self.peers.next_hops.is_doubtful();
        unsettled || self.tables.ipv4.has_pending(peer) || self.tables.ipv6.has_pending(peer)
    }

    /// The next messages for a peer, ready to be sent; each fits the session. Of each family withdrawals
    /// come first, and the End-of-RIB follows the initial announcements. What is taken counts as told.
    #[must_use]
    pub fn take_run(&mut self, peer: PeerId) -> Option<Run> {
        self.settle();
        let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
        loop {
            if let Some(run) = ipv4.take_run(peer).or_else(|| ipv6.take_run(peer)) {
                return Some(run);
            }
            // Both queues are empty. A family begins no batch while the other waits: none starves.
            if !(ipv4.begin(peer, peers, interner) | ipv6.begin(peer, peers, interner)) {
                return None;
            }
        }
    }

    /// What at most `limit` takings give, as the peer reads it.
    #[must_use]
    pub fn take_updates(&mut self, peer: PeerId, limit: usize) -> Vec<Update> {
        let mut octets = BytesMut::new();
        for run in (0..limit).map_while(|_| self.take_run(peer)) {
            octets.extend_from_slice(&run.octets);
        }
        let session = self.peers.facts.get(&peer).map(|facts| facts.session.theirs());
        let mut updates = Vec::new();
        while let Ok(Some(frame)) = frame(&mut octets, MAX_EXTENDED) {
            if let Ok(Message::Update(update)) = wire::parse(&frame, session.as_ref()) {
                updates.push(update);
            }
        }
        updates
    }

    /// Destinations with at least one usable path.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.ipv4.len() + self.tables.ipv6.len()
    }

    /// Whether there is no usable path at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much is held in all.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            ipv4: self.tables.ipv4.len(),
            ipv6: self.tables.ipv6.len(),
            attribute_sets: self.interner.len(),
        }
    }

    /// What is held from and was told to a peer.
    #[must_use]
    pub fn counts(&self, peer: PeerId) -> Counts {
        let (ipv4, ipv6) = (self.tables.ipv4.counts(peer), self.tables.ipv6.counts(peer));
        Counts {
            received: ipv4.received + ipv6.received,
            accepted: ipv4.accepted + ipv6.accepted,
            stale: ipv4.stale + ipv6.stale,
            long_lived: ipv4.long_lived + ipv6.long_lived,
            advertised: ipv4.advertised + ipv6.advertised,
        }
    }
}

impl Tables {
    fn is_stale(&self, path: &Path, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4.is_stale(path),
            Family::Ipv6 => self.ipv6.is_stale(path),
        }
    }

    fn originate(&mut self, prefix: Prefix, path: Arc<Path>, peers: &Peers) {
        if let Some(key) = Net::new(prefix) {
            self.ipv4.originate(key, path, peers);
        } else if let Some(key) = Net::new(prefix) {
            self.ipv6.originate(key, path, peers);
        }
    }

    fn abandon(&mut self, prefix: Prefix, path: PathKey, peers: &Peers) {
        if let Some(key) = Net::new(prefix) {
            self.ipv4.abandon(key, path, peers);
        } else if let Some(key) = Net::new(prefix) {
            self.ipv6.abandon(key, path, peers);
        }
    }
}

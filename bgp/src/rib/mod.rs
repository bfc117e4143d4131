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
mod table;
mod told;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use adj_in::Judge;
pub use adj_out::Run;
use aggregate::Wanted;
use bytes::BytesMut;
use group::Marks;
use net::{Net, Net4, Net6};
pub use path::PeerId;
use path::{Interner, Path, PathKey, Received};
use peers::Peers;
pub use policy::Policy;
use table::Table;

use crate::api::{Aggregate, Decision, Network, NextHopMode, PathCount, Reach, RouteChange};
use crate::types::{Asn, Family, Interface, Prefix, RouterId, ScopedAddr};
use crate::wire::frame::MAX_EXTENDED;
use crate::wire::{self, Announcement, Community, Message, Nlri, Session, Update, frame};

/// What the RIB has to know of an established peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// Its address: the last tie-break.
    pub address: IpAddr,
    /// Where that is link-local, the interface it is on: link-local next hops it tells are there.
    pub zone: Option<Interface>,
    /// Its name, for people.
    pub name: String,
    /// Its AS.
    pub asn: Asn,
    /// Its BGP Identifier.
    pub router_id: RouterId,
    /// What was negotiated, and whether it is an external peer.
    pub session: Session,
    /// Our own addresses towards it: what is announced as "next hop self", the first of the family
    /// counts, and what is refused as a learned next hop. Without one of a family nothing that needs
    /// it is exported.
    pub next_hops: Vec<IpAddr>,
    /// It takes IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// How many paths to a destination it is told (RFC 7911), in the families whose prefixes have path
    /// identifiers; one in others.
    pub add_paths: Option<PathCount>,
    /// It marks where a route refresh begins and ends, and takes such marks (RFC 7313).
    pub enhanced_refresh: bool,
    /// It knows of routes that are the last resort (RFC 9494).
    pub long_lived: bool,
    /// Its routes with GRACEFUL_SHUTDOWN have LOCAL_PREF 0, if it is an external peer (RFC 8326).
    pub graceful_shutdown: bool,
    /// How far it is to do without us, and we without it.
    pub drain: Drain,
    /// It is a client of ours (RFC 4456): routes are reflected to and from it.
    pub client: bool,
    /// It is an external peer by a bilateral agreement, who is not told of NOPEER routes (RFC 3765).
    pub bilateral: bool,
    /// What it is told as next hop of learned routes.
    pub next_hop: NextHopMode,
    /// It is known to be more than one hop away.
    pub multihop: bool,
    /// The AS we are to it.
    pub local_asn: Asn,
    /// How many times our AS may be in what it says.
    pub allow_own_as: u8,
    /// Whether a default route is taken from it.
    pub default_route: bool,
    /// What is taken from it; see [`crate::api::PeerConfig::import`].
    pub import: Option<Policy>,
    /// What is told to it; see [`crate::api::PeerConfig::export`].
    pub export: Option<Policy>,
}

impl PeerFacts {
    /// What tells it from others.
    fn scoped(&self) -> ScopedAddr {
        ScopedAddr { addr: self.address, zone: self.zone }
    }
}

/// How far a peer and we are to do without each other before a session or the speaker ends (RFC 8326).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// What it is told.
    pub told: Leaving,
    /// What it says is used only where there is nothing else (LOCAL_PREF 0).
    pub avoided: bool,
}

/// What a peer is told of our leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaving {
    /// Nothing: we stay.
    #[default]
    Stays,
    /// All routes have GRACEFUL_SHUTDOWN, and LOCAL_PREF 0 inside our AS.
    Announced,
    /// No routes any more.
    Withdrawn,
}

impl PeerFacts {
    /// Those its routes are likely to have: its own address, and what its import policy sets.
    fn names_next_hops(&self) -> impl Iterator<Item = IpAddr> {
        let set = self.import.iter().flat_map(Policy::next_hops);
        std::iter::once(self.address).chain(set)
    }
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

/// Why [`Rib::set_networks`] changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// One of its communities cannot be read.
    #[error("network {prefix}: {source}")]
    Community {
        /// The network.
        prefix: Prefix,
        /// What is wrong.
        source: crate::wire::ParseCommunityError,
    },
    /// An aggregate that is there twice, or is a network as well.
    #[error("aggregate {0} is listed twice, or is a network as well: a prefix is originated in one way")]
    Aggregate(Prefix),
    /// It is there twice, with different communities.
    #[error("network {0} is listed twice with different communities: list it once")]
    Repeated(Prefix),
}

/// How often what follows from a next hop may change others before they are looked at another time.
const ROUNDS: usize = 8;

/// The tables of both families.
#[derive(Debug)]
pub struct Rib {
    peers: Peers,
    /// What is originated, so that the next list can be compared.
    networks: BTreeMap<Prefix, Vec<Community>>,
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
    fn settle(&mut self) {
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

    /// How paths are compared, from now on and of those held.
    pub fn set_decision(&mut self, decision: Decision) {
        if std::mem::replace(&mut self.peers.decision, decision) != decision {
            self.tables.ipv4.rank_anew(&self.peers);
            self.tables.ipv6.rank_anew(&self.peers);
        }
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
        for (prefix, communities) in &self.networks {
            if before.get(prefix) == Some(communities) {
                continue;
            }
            let path = originate::path(*prefix, 0, originate::attributes(communities.clone()));
            let path = self.interner.intern(path);
            self.tables.originate(*prefix, path, &self.peers);
        }
        Ok(())
    }

    /// A session is established: everything it may hear becomes pending, End-of-RIB after it. What is
    /// held of the peer as stale stays so, as far as it is the same speaker and speaks the family. One that
    /// is up already is taken down first.
    pub fn peer_up(&mut self, peer: PeerId, facts: PeerFacts) {
        let same = self.peers.facts.get(&peer).is_some_and(|before| {
            (before.asn, before.router_id, before.scoped()) == (facts.asn, facts.router_id, facts.scoped())
        });
        if !same || self.tables.ipv4.hears(peer) || self.tables.ipv6.hears(peer) {
            self.peer_down(peer);
        }
        let Self { peers, tables: Tables { ipv4, ipv6 }, interner, .. } = self;
        if !same {
            // Who has not yet heard that its paths are gone would take their like for them.
            ipv4.forget(peer);
            ipv6.forget(peer);
        }
        let spoken = facts.session.families.clone();
        if !spoken.contains(&Family::Ipv4) {
            ipv4.peer_down(peer, peers);
        }
        if !spoken.contains(&Family::Ipv6) {
            ipv6.peer_down(peer, peers);
        }
        facts.names_next_hops().for_each(|next_hop| peers.next_hops.track(next_hop));
        peers.facts.insert(peer, facts.clone());
        for family in spoken {
            match family {
                Family::Ipv4 => {
                    ipv4.peer_up(peer, &facts, peers);
                    ipv4.judge_again(peer, peers, interner);
                }
                Family::Ipv6 => {
                    ipv6.peer_up(peer, &facts, peers);
                    ipv6.judge_again(peer, peers, interner);
                }
            }
        }
    }

    /// A session is gone, but the peer will be back: what it said of `families` is used as before, and is
    /// stale; what was stale already goes, and what it said of other families (RFC 4724, section 4.2).
    /// Until [`Rib::peer_up`] nothing is told to it.
    pub fn peer_stale(&mut self, peer: PeerId, families: &[Family]) {
        let Self { peers, tables: Tables { ipv4, ipv6 }, .. } = self;
        if families.contains(&Family::Ipv4) {
            ipv4.silence(peer);
            ipv4.sweep(peer, peers);
            ipv4.mark_stale(peer);
        } else {
            ipv4.peer_down(peer, peers);
        }
        if families.contains(&Family::Ipv6) {
            ipv6.silence(peer);
            ipv6.sweep(peer, peers);
            ipv6.mark_stale(peer);
        } else {
            ipv6.peer_down(peer, peers);
        }
    }

    /// What is stale of a family counts as said just now: to be kept by the next [`Rib::peer_stale`].
    pub fn freshen(&mut self, peer: PeerId, family: Family) {
        let Self { peers, tables, interner, .. } = self;
        match family {
            Family::Ipv4 => tables.ipv4.freshen(peer, peers, interner),
            Family::Ipv6 => tables.ipv6.freshen(peer, peers, interner),
        }
    }

    /// The peer has been gone for longer than its restart time: what is stale of a family gets LLGR_STALE and is
    /// the last resort; what has NO_LLGR is not used any more (RFC 9494, section 4.2).
    pub fn live_long(&mut self, peer: PeerId, family: Family) {
        let Self { peers, tables, interner, .. } = self;
        match family {
            Family::Ipv4 => tables.ipv4.live_long(peer, peers, interner),
            Family::Ipv6 => tables.ipv6.live_long(peer, peers, interner),
        }
    }

    /// An established peer begins to say all of a family again (RFC 7313): what it does not say until
    /// [`Rib::sweep`] goes with it.
    pub fn refreshes(&mut self, peer: PeerId, family: Family) {
        self.freshen(peer, family);
        match family {
            Family::Ipv4 => self.tables.ipv4.mark_stale(peer),
            Family::Ipv6 => self.tables.ipv6.mark_stale(peer),
        }
    }

    /// What is still stale of a family goes: the peer has said all it has, or is waited for no longer.
    pub fn sweep(&mut self, peer: PeerId, family: Family) {
        match family {
            Family::Ipv4 => self.tables.ipv4.sweep(peer, &self.peers),
            Family::Ipv6 => self.tables.ipv6.sweep(peer, &self.peers),
        }
    }

    /// A session is gone, and all it said with it. Unknown peers are ignored.
    pub fn peer_down(&mut self, peer: PeerId) {
        self.tables.ipv4.peer_down(peer, &self.peers);
        self.tables.ipv6.peer_down(peer, &self.peers);
        self.peers.facts.remove(&peer);
    }

    /// Replaces an established peer's policies and applies them to all it said and heard, without asking it.
    pub fn set_policy(&mut self, peer: PeerId, import: Option<Policy>, export: Option<Policy>) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        let other_import = std::mem::replace(&mut facts.import, import) != facts.import;
        let other_export = std::mem::replace(&mut facts.export, export) != facts.export;
        let named: Vec<_> = facts.names_next_hops().collect();
        named.into_iter().for_each(|next_hop| self.peers.next_hops.track(next_hop));
        if other_import {
            self.judge_again(peer);
        }
        if other_export {
            self.tables.ipv4.tell_anew(peer, &self.peers);
            self.tables.ipv6.tell_anew(peer, &self.peers);
        }
    }

    /// An established peer is to do without us, and we without it, as far as this says; at any moment.
    pub fn set_drain(&mut self, peer: PeerId, drain: Drain) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        let before = std::mem::replace(&mut facts.drain, drain);
        if before.avoided != drain.avoided {
            self.judge_again(peer);
        }
        if before.told != drain.told {
            self.tables.ipv4.tell_anew(peer, &self.peers);
            self.tables.ipv6.tell_anew(peer, &self.peers);
        }
    }

    /// Whether GRACEFUL_SHUTDOWN in what an external peer says is honoured; applies to all it said.
    pub fn set_graceful_shutdown(&mut self, peer: PeerId, honoured: bool) {
        let Some(facts) = self.peers.facts.get_mut(&peer) else { return };
        if std::mem::replace(&mut facts.graceful_shutdown, honoured) != honoured {
            self.judge_again(peer);
        }
    }

    fn judge_again(&mut self, peer: PeerId) {
        self.tables.ipv4.judge_again(peer, &self.peers, &mut self.interner);
        self.tables.ipv6.judge_again(peer, &self.peers, &mut self.interner);
    }

    /// Lets a peer that is slower than others go its own way, lest those who hear the same wait for it. They
    /// come together again when all have heard everything.
    pub fn part(&mut self, peer: PeerId) {
        self.tables.ipv4.part(peer);
        self.tables.ipv6.part(peer);
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

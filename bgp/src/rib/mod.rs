//! The routing information base: what peers said, which paths are best, what each peer should hear.
//!
//! Pure, and owned by one caller, who tells it what happened and takes out what follows:
//!
//! | tell | take |
//! |---|---|
//! | [`Rib::set_networks`], [`Rib::peer_up`], [`Rib::peer_down`], [`Rib::set_policy`], [`Rib::update`], [`Rib::refresh`] | [`Rib::take_changes`] for watchers, [`Rib::take_updates`] for each peer |
//!
//! Telling never produces output; taking coalesces everything told since. [`Rib::snapshot`],
//! [`Rib::destinations`] and [`Rib::counts`] look without taking.

mod path;

use std::net::IpAddr;

pub use path::PeerId;

use crate::api::{Destination, Export, Import, Network, RouteChange};
use crate::types::{Asn, Family, Prefix, RouterId};
use crate::wire::{Session, Update};

/// What the RIB has to know of an established peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// Its address: the last tie-break.
    pub address: IpAddr,
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
    /// What is taken from it.
    pub import: Import,
    /// What is told to it.
    pub export: Export,
}

/// Prefixes of one peer, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Held from it.
    pub received: usize,
    /// Of those, not refused by policy or a loop check.
    pub accepted: usize,
    /// Told to it and not withdrawn.
    pub advertised: usize,
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
    /// It is there twice, with different communities.
    #[error("network {0} is listed twice with different communities: list it once")]
    Repeated(Prefix),
}

/// The tables of both families.
pub struct Rib {}

impl Rib {
    /// An empty one, for the speaker of this AS and identifier.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        let _ = (asn, router_id);
        todo!()
    }

    /// Originates exactly `networks`.
    ///
    /// # Errors
    /// See [`NetworkError`]; nothing was changed then.
    pub fn set_networks(&mut self, networks: &[Network]) -> Result<(), NetworkError> {
        let _ = networks;
        todo!()
    }

    /// A session is established: everything it may hear becomes pending, End-of-RIB after it.
    pub fn peer_up(&mut self, peer: PeerId, facts: PeerFacts) {
        let _ = (peer, facts);
        todo!()
    }

    /// A session is gone, and all it said with it. Unknown peers are ignored.
    pub fn peer_down(&mut self, peer: PeerId) {
        let _ = peer;
        todo!()
    }

    /// Replaces an established peer's policies and applies them to all it said and heard, without asking it.
    pub fn set_policy(&mut self, peer: PeerId, import: Import, export: Export) {
        let _ = (peer, import, export);
        todo!()
    }

    /// An established peer said this. Families not negotiated are ignored.
    pub fn update(&mut self, peer: PeerId, update: Update) {
        let _ = (peer, update);
        todo!()
    }

    /// The peer wants to hear all of `family` again (RFC 2918).
    pub fn refresh(&mut self, peer: PeerId, family: Family) {
        let _ = (peer, family);
        todo!()
    }

    /// Destinations whose best next hops are other than when last taken; in order of prefix.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<RouteChange> {
        todo!()
    }

    /// All learned best paths as they are now, in order of prefix; takes nothing.
    #[must_use]
    pub fn snapshot(&self) -> Vec<RouteChange> {
        todo!()
    }

    /// Whether [`Rib::take_updates`] would give something.
    #[must_use]
    pub fn has_pending(&self, peer: PeerId) -> bool {
        let _ = peer;
        todo!()
    }

    /// The next messages for a peer, at most `limit`; each fits the session. Withdrawals come first; the
    /// End-of-RIB of a family follows its initial announcements. The RIB counts what is taken as told.
    #[must_use]
    pub fn take_updates(&mut self, peer: PeerId, limit: usize) -> Vec<Update> {
        let _ = (peer, limit);
        todo!()
    }

    /// Candidates and verdicts of one destination, or of all in order of prefix.
    #[must_use]
    pub fn destinations(&self, prefix: Option<Prefix>) -> Vec<Destination> {
        let _ = prefix;
        todo!()
    }

    /// Destinations with at least one usable path.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there is no usable path at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is held from and was told to a peer.
    #[must_use]
    pub fn counts(&self, peer: PeerId) -> Counts {
        let _ = peer;
        todo!()
    }
}

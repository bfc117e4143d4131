//! What is counted, and how it is told.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::api::{PeerConfig, Session};
use crate::fsm::Peer;
use crate::iana::MessageType;
use crate::rib::Counts;
use crate::wire::{FaultAction, Update};

/// Of one neighbour. What is not said to begin with a session goes on as long as the neighbour is configured.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    /// Since the session came up.
    messages_in: u64,
    /// Since the session came up.
    messages_out: u64,
    /// Times out of Established.
    pub flaps: u64,
    /// Attributes RFC 7606 had to forgive.
    faults: u64,
    /// For `/metrics`.
    pub totals: Totals,
}

/// What grows as long as a neighbour is configured. The keys are few: no neighbour can make them many.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Messages taken, those of connections that came to nothing included.
    pub received: Messages,
    /// Messages given to a connection.
    pub sent: Messages,
    /// Sessions and tries that ended, by [`crate::fsm::Cause::kind`].
    pub ends: BTreeMap<&'static str, u64>,
    /// Malformed attributes forgiven, by [`crate::wire::AttrFault::name`] and what was done.
    pub faults: BTreeMap<(&'static str, FaultAction), u64>,
}

/// Messages of each type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages([u64; 5]);

impl Messages {
    /// Each type with its number.
    pub fn each(self) -> [(&'static str, u64); 5] {
        let [open, update, notification, keepalive, route_refresh] = self.0;
        [
            ("open", open),
            ("update", update),
            ("notification", notification),
            ("keepalive", keepalive),
            ("route_refresh", route_refresh),
        ]
    }

    fn add(&mut self, kind: MessageType, count: u64) {
        self.0[kind as usize - 1] += count;
    }
}

impl Stats {
    /// Counts from the beginning of a session.
    pub fn up(&mut self) {
        (self.messages_in, self.messages_out) = (0, 0);
    }

    /// A message came.
    pub fn received(&mut self, kind: MessageType) {
        self.messages_in += 1;
        self.totals.received.add(kind, 1);
    }

    /// Messages of one type went out.
    pub fn sent(&mut self, kind: MessageType, count: u64) {
        self.messages_out += count;
        self.totals.sent.add(kind, count);
    }

    /// A session or a try to have one ended.
    pub fn ended(&mut self, kind: &'static str) {
        *self.totals.ends.entry(kind).or_default() += 1;
    }

    /// Counts what was wrong with an update, and logs it at every power of two: the first, the second, the fourth.
    pub fn forgive(&mut self, peer: &str, update: &Update) {
        for fault in &update.faults {
            self.faults += 1;
            *self.totals.faults.entry((fault.name(), fault.action)).or_default() += 1;
            if self.faults.is_power_of_two() {
                let (attr, action, why) = (fault.attr, fault.action, &fault.why);
                tracing::warn!(peer, attr, ?action, why, count = self.faults, "malformed path attribute");
            }
        }
    }

    /// The session as the API tells it.
    pub fn session(&self, config: &PeerConfig, fsm: &Peer, counts: Counts, now: Instant) -> Session {
        let established = fsm.established();
        Session {
            address: config.scoped(),
            name: config.name.clone(),
            range: None,
            asn: config.asn,
            state: fsm.state(),
            since_seconds: now.saturating_duration_since(fsm.since()).as_secs(),
            reason: fsm.reasons(),
            router_id: fsm.router_id(),
            hold_time: established.map(|negotiated| negotiated.hold_time),
            least_ttl: None,
            families: established.map(|negotiated| negotiated.session.families.clone()).unwrap_or_default(),
            received: counts.received,
            prefixes: Vec::new(),
            accepted: counts.accepted,
            stale: counts.stale,
            long_lived: counts.long_lived,
            advertised: counts.advertised,
            messages_in: self.messages_in,
            messages_out: self.messages_out,
            flaps: self.flaps,
            bfd: None,
            drain: None,
        }
    }
}

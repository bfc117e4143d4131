//! What is counted, and how it is told.

use std::time::Instant;

use crate::api::{PeerConfig, Session};
use crate::fsm::Peer;
use crate::rib::Counts;
use crate::wire::Update;

/// Of one neighbour.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    /// Since the session came up.
    pub messages_in: u64,
    /// Since the session came up.
    pub messages_out: u64,
    /// Times out of Established.
    pub flaps: u64,
    /// Attributes RFC 7606 had to forgive.
    pub faults: u64,
}

impl Stats {
    /// Counts from the beginning of a session.
    pub fn up(&mut self) {
        (self.messages_in, self.messages_out) = (0, 0);
    }

    /// Counts what was wrong with an update, and logs it at every power of two: the first, the second, the fourth.
    pub fn forgive(&mut self, peer: &str, update: &Update) {
        for fault in &update.faults {
            self.faults += 1;
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
            address: config.address,
            name: config.name.clone(),
            asn: config.asn,
            state: fsm.state(),
            since_seconds: now.saturating_duration_since(fsm.since()).as_secs(),
            reason: fsm.reason().map(ToString::to_string),
            router_id: fsm.router_id(),
            hold_time: established.map(|negotiated| negotiated.hold_time),
            families: established.map(|negotiated| negotiated.session.families.clone()).unwrap_or_default(),
            received: counts.received,
            accepted: counts.accepted,
            advertised: counts.advertised,
            messages_in: self.messages_in,
            messages_out: self.messages_out,
            flaps: self.flaps,
        }
    }
}

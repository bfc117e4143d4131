//! What the packet filter says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::acl::nft::Counter;

/// What is in force and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Endpoints, policies and sets wanted.
    pub endpoints: usize,
    /// One a direction.
    pub policies: usize,
    /// Without those of the frame.
    pub sets: usize,
    /// Of all these sets.
    pub members: usize,
    /// Whether the kernel has all that is wanted.
    pub in_force: bool,
    /// Of the kernel's ruleset after our last transaction.
    pub generation: u32,
    /// Transactions made.
    pub commits: u64,
    /// Transactions refused.
    pub refused: u64,
    /// Why the last was; none: it was not.
    pub failing: Option<String>,
    /// How often something was put right that someone else had done to the table.
    pub repaired: u64,
    /// Connections ended because a policy forbids them now.
    pub ended: u64,
    /// Packets counted, as of some seconds ago.
    pub packets: Packets,
    /// What the last transaction took.
    pub last_commit: Duration,
    /// Whether what nobody wants is removed.
    pub swept: bool,
}

/// Packets that opened, or would have opened, a connection, since the counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Let through by a rule.
    pub accepted: u64,
    /// Dropped by policy.
    pub denied: u64,
    /// Not dropped by policies in audit mode.
    pub audited: u64,
    /// Dropped for their source address.
    pub spoofed: u64,
    /// Dropped because their pod is not known.
    pub unknown: u64,
}

impl Packets {
    /// Adds what was counted since the last time. A counter that has less is a new one of that name.
    pub fn add(&mut self, counters: &BTreeMap<String, Counter>, before: &BTreeMap<String, Counter>) {
        for (name, counter) in counters {
            let sum = match name.split('/').next() {
                Some("accept") => &mut self.accepted,
                Some("deny") => &mut self.denied,
                Some("audit") => &mut self.audited,
                Some("spoofed") => &mut self.spoofed,
                Some("unknown") => &mut self.unknown,
                _ => continue,
            };
            let before = before.get(name).map_or(0, |before| before.packets);
            *sum += counter.packets.checked_sub(before).unwrap_or(counter.packets);
        }
    }
}

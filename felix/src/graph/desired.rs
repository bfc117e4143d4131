//! What this node should be, and the step from one such state to the next.

use std::collections::BTreeSet;

use manx_bgp::api::Config;
use manx_bgp::types::Prefix;

use crate::dataplane::{Fib, FibDelta};
use crate::model::service::Unassigned;

/// The whole wanted state of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// What the speaker is told.
    pub speaker: Speaking,
    /// Routes in the kernel.
    pub fib: Fib,
    /// Packets that are held up.
    pub guard: Guard,
}

/// The speaker's orders and what stands in the way of better ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speaking {
    /// None while this node cannot speak: its Node is not there or has no address. The speaker then keeps its
    /// last orders.
    pub orders: Option<Config>,
    /// Objects that could not be followed, in a fixed order.
    pub problems: Vec<Problem>,
}

/// Something an operator should know, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Kind and name: `BGPPeer/tor1`.
    pub object: String,
    /// What is wrong with it and what is done instead.
    pub message: String,
}

/// What becomes of packets to service addresses that no Service takes: left to routes they would go to a router that
/// sends them back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// What is done with them.
    pub unassigned: Unassigned,
    /// Where the addresses lie.
    pub ranges: BTreeSet<Prefix>,
}

/// What changed between two flushes.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a change not acted on is lost"]
pub struct Delta {
    /// The speaker's orders or problems, if they differ.
    pub speaker: Option<Speaking>,
    /// The smallest change of routes to this node's own pods and blocks.
    pub fib: FibDelta,
    /// Packets that are held up, if they are others.
    pub guard: Option<Guard>,
    /// The smallest change of routes that others taught us.
    pub learned: FibDelta,
}

impl Desired {
    /// Takes one step.
    pub fn apply(&mut self, delta: Delta) {
        if let Some(speaker) = delta.speaker {
            self.speaker = speaker;
        }
        if let Some(guard) = delta.guard {
            self.guard = guard;
        }
        for prefix in delta.fib.remove.iter().chain(&delta.learned.remove) {
            self.fib.remove(prefix);
        }
        self.fib.extend(delta.fib.set);
        self.fib.extend(delta.learned.set);
    }
}

//! What this node should be, and the step from one such state to the next.

use manx_bgp::api::Config;

use crate::dataplane::{Fib, FibDelta};

/// The whole wanted state of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// What the speaker is told.
    pub speaker: Speaking,
    /// Routes in the kernel.
    pub fib: Fib,
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

/// What changed between two flushes.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a change not acted on is lost"]
pub struct Delta {
    /// The speaker's orders or problems, if they differ.
    pub speaker: Option<Speaking>,
    /// The smallest change of routes.
    pub fib: FibDelta,
}

impl Desired {
    /// Takes one step.
    pub fn apply(&mut self, delta: Delta) {
        if let Some(speaker) = delta.speaker {
            self.speaker = speaker;
        }
        for prefix in delta.fib.remove {
            self.fib.remove(&prefix);
        }
        self.fib.extend(delta.fib.set);
    }
}

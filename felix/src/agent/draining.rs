//! A node that is cordoned and annotated with [`crate::model::DRAIN`] leaves: its neighbours are told to use other ways
//! (RFC 8326), and after a while its routes are withdrawn. Uncordoning takes it back.

use std::time::{Duration, Instant};

use super::core::{Core, Effect};

/// Why the speaker is drained: what it is told, and by what an agent that starts knows its own drain again. One by
/// `manxctl bgp drain` has other words, and is left alone.
pub const REASON: &str = "its Node is cordoned and annotated with manx.io/drain";

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// What the speaker was told.
#[derive(Debug, Default)]
pub struct Draining {
    /// As it last answered; a speaker that has started anew is drained no more.
    told: Option<u32>,
    /// Being told.
    running: bool,
    next: Option<Instant>,
}

impl Core {
    /// Tells the speaker where it differs from what the Node says.
    pub(super) fn drain(&mut self, now: Instant) {
        let Some(node) = self.graph.node(&self.me) else { return };
        if !self.heard.up || self.draining.running || self.draining.next.is_some_and(|next| now < next) {
            return;
        }
        let wanted = node.drain;
        let ours = |status: &manx_bgp::api::Status| {
            status.drain.as_ref().is_some_and(|drain| drain.reason == REASON)
        };
        let drained = self.heard.status.as_ref().map(ours);
        let due = match (wanted, self.draining.told, drained) {
            (Some(wait), told, _) if told != Some(wait) => true,
            (Some(_), ..) => false,
            (None, Some(_), _) => true,
            // Left by an earlier agent.
            (None, None, drained) => drained == Some(true),
        };
        if due {
            self.draining.running = true;
            self.effects.push(Effect::Drain(wanted));
        }
    }

    /// The speaker has been told, or could not be.
    pub fn drained(&mut self, wait: Option<u32>, outcome: Result<(), String>, now: Instant) {
        self.draining.running = false;
        self.draining.next = Some(now + PAUSE);
        match outcome {
            Ok(()) => {
                match wait {
                    Some(wait) => {
                        tracing::info!("this node is drained: its routes are withdrawn in {wait} s")
                    }
                    None => tracing::info!("this node is drained no more"),
                }
                self.draining.told = wait;
            }
            Err(why) => tracing::warn!("the speaker is not told of the drain yet: {why}"),
        }
    }

    /// The speaker has started, or its line was lost: it may know nothing of a drain.
    pub(super) fn doubt_drain(&mut self) {
        self.draining.told = None;
    }
}

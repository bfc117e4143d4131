//! What a speaker that has just started waits for before it may say that it has said everything.

use std::collections::BTreeSet;

use crate::fsm::Negotiated;
use crate::types::Family;

/// How far a neighbour has told what it has since we started.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Families whose End-of-RIB has not come in the present session or the last; none before the first.
    awaited: Option<BTreeSet<Family>>,
    /// It has just restarted itself, and may be waiting for us.
    restarting: bool,
}

impl Progress {
    /// A session is established.
    pub fn up(&mut self, negotiated: &Negotiated) {
        self.awaited = Some(negotiated.session.families.iter().copied().collect());
        self.restarting = negotiated.restart.as_ref().is_some_and(|restart| restart.restarting);
    }

    /// The session is over.
    pub fn down(&mut self) {
        self.restarting = false;
    }

    /// The neighbour has said all it has of a family.
    pub fn end_of_rib(&mut self, family: Family) {
        if let Some(awaited) = &mut self.awaited {
            awaited.remove(&family);
        }
    }

    /// Whether there has been a session.
    pub fn has_begun(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether it has said all it had to say.
    pub fn is_synced(&self) -> bool {
        self.awaited.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Whether our table may count as complete without it: it has said all it had to say, or restarts itself
    /// and may be waiting for us (RFC 4724, section 4.1).
    pub fn is_not_waited_for(&self) -> bool {
        self.is_synced() || self.restarting
    }
}

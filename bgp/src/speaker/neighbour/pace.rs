//! How fast a neighbour is told what is to be told.

use std::time::{Duration, Instant};

use super::{Neighbour, Table};
use crate::iana::MessageType;
use crate::rib::Rib;

/// How long those that hear the same wait for one that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether it reads as fast as there is something to say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    Keeping,
    /// It has had no room since then.
    Waiting(Instant),
    /// Nobody waits for it any more.
    Parted,
}

impl Neighbour {
    /// Whether it hears more of us than what we originate.
    fn hears_learned(&self) -> bool {
        match &self.config.export {
            Some(policy) => policy.takes_learned(),
            None => self.fsm.established().is_some_and(|negotiated| !negotiated.session.ebgp),
        }
    }

    /// Hands updates to the link as far as it has room. One that has none for long is parted from those that
    /// hear the same: they wait no more. Until our table is complete after a restart, one that hears learned
    /// routes is not told that it has heard them all.
    pub fn pump(&mut self, rib: &mut Rib, table: Table, now: Instant) {
        let hold = table == Table::Restarting && self.hears_learned();
        let Some(link) = self.up.and_then(|role| self.links[role as usize].as_ref()) else { return };
        if !hold && self.held.is_empty() {
            // Not before its End-of-RIB (RFC 7313, section 4); asked for ten times at once, it is said once.
            std::mem::take(&mut self.asked).into_iter().for_each(|family| rib.refresh(self.id, family));
        }
        while rib.has_pending(self.id) {
            let Some(room) = link.room() else {
                match self.pace {
                    Pace::Keeping => self.pace = Pace::Waiting(now),
                    Pace::Waiting(since) if now >= since + PATIENCE => {
                        rib.part(self.id);
                        self.pace = Pace::Parted;
                    }
                    Pace::Waiting(_) | Pace::Parted => {}
                }
                return;
            };
            let Some(run) = rib.take_run(self.id) else { break };
            self.pace = Pace::Keeping;
            if hold && run.end_of_rib.is_some() {
                self.held.push(run.octets);
                continue;
            }
            self.stats.sent(run.kind, u64::from(run.messages));
            room.send(run.octets);
        }
        self.pace = Pace::Keeping;
        while !hold
            && !self.held.is_empty()
            && let Some(room) = link.room()
        {
            self.stats.sent(MessageType::Update, 1);
            room.send(self.held.remove(0));
        }
    }

    /// When it has had no room for too long.
    pub fn impatient_at(&self) -> Option<Instant> {
        match self.pace {
            Pace::Waiting(since) => Some(since + PATIENCE),
            Pace::Keeping | Pace::Parted => None,
        }
    }
}

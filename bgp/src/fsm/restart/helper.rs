//! What becomes of a neighbour's routes while it restarts, and while it says everything again (RFC 7313).
//!
//! ```text
//!   Fresh ──session lost, gracefully──▶ Away ──back, forwarding kept──▶ Returned ──End-of-RIB──▶ Fresh
//!     │                                  │ restart time over             ▲
//!     │                                  ▼                               │
//!     │                              LongLived ──back, forwarding kept───┘
//!     └──BoRR──▶ Refreshing ──EoRR──▶ Fresh
//! ```
//!
//! Each family goes its own way. Routes of one that is not Fresh are used, but are stale: those the neighbour has not
//! said again go when the wait is over, and where there is none. LongLived ones are the last resort (RFC 9494).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::MAX_LONG_LIVED;
use crate::fsm::{Cause, Negotiated};
use crate::types::Family;

/// How long a neighbour that is back may take to say everything again (RFC 4724, section 4.2: "an upper
/// bound on the amount of time a Receiving Speaker retains its stale routes"; RFC 7313, section 4, likewise).
const REFRESH: Duration = Duration::from_secs(360);

/// How often a refresh may begin: what goes with its end is looked for in the whole table.
const PACE: Duration = Duration::from_secs(1);

/// A neighbour's routes over its restarts.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The longest its routes are the last resort, whatever it asks (RFC 9494, section 4.2).
    limit: Duration,
    /// Of the session that is up, or was last; none: it offers no graceful restart.
    session: Option<Agreed>,
    /// Families whose End-of-RIB has come in this session.
    heard: BTreeSet<Family>,
    /// When the last refresh of a family began.
    refreshed: BTreeMap<Family, Instant>,
    /// Families whose routes are stale; the others are fresh, or there are none.
    stale: BTreeMap<Family, Stale>,
}

#[derive(Clone, Debug)]
struct Agreed {
    notification: bool,
    families: Vec<Retention>,
}

/// How long the routes of a family are kept.
#[derive(Clone, Copy, Debug)]
struct Retention {
    family: Family,
    restart: Duration,
    long_lived: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// Until the restart time is over; then for the Long-lived Stale Time, if there is one.
    Away {
        until: Instant,
        long: Option<Long>,
    },
    LongLived {
        until: Instant,
    },
    /// The Long-lived Stale Time runs on until the neighbour has said all it has.
    Returned {
        until: Instant,
        long: Option<Instant>,
    },
    Refreshing {
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Long {
    /// From the end of the restart time on.
    For(Duration),
    /// It has begun before (RFC 9494, section 4.2: the timer "MUST NOT be updated" before the End-of-RIB).
    Until(Instant),
}

impl Stale {
    fn until(self) -> Instant {
        match self {
            Self::Away { until, .. }
            | Self::LongLived { until }
            | Self::Returned { until, .. }
            | Self::Refreshing { until } => until,
        }
    }

    /// Whether the session is up.
    fn is_here(self) -> bool {
        matches!(self, Self::Returned { .. } | Self::Refreshing { .. })
    }
}

/// What becomes of a family's stale routes when a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// They go.
    Gone(Family),
    /// They are the last resort from now on.
    LongLived(Family),
}

/// What is kept of a family when the session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub family: Family,
    /// Whether what was stale already is kept, too; else it goes (RFC 4724, section 4.2).
    pub stale: bool,
}

impl Default for Helper {
    /// Neighbours are helped as they ask.
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(MAX_LONG_LIVED.into()),
            session: None,
            heard: BTreeSet::new(),
            refreshed: BTreeMap::new(),
            stale: BTreeMap::new(),
        }
    }
}

impl Helper {
    /// How long the neighbour's routes may be the last resort, at most. Counts from the next session on.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// A session is established. The families given have stale routes that go at once.
    #[must_use]
    pub fn up(&mut self, negotiated: &Negotiated, now: Instant) -> Vec<Family> {
        self.heard.clear();
        self.session = negotiated.restart.as_ref().map(|theirs| Agreed {
            notification: theirs.notification,
            families: (negotiated.session.families.iter())
                .map(|family| self.retention(theirs, *family))
                .filter(|kept| kept.restart > Duration::ZERO || kept.long_lived > Duration::ZERO)
                .collect(),
        });
        let theirs = negotiated.restart.as_ref();
        let spoken = &negotiated.session.families;
        let mut gone = Vec::new();
        self.stale.retain(|family, stale| {
            let graceful = || theirs.is_some_and(|theirs| theirs.families.contains(&(*family, true)));
            let long = || theirs.and_then(|theirs| theirs.long_lived(*family)).is_some_and(|l| l.forwarding);
            let (kept, deadline) = match *stale {
                Stale::LongLived { until } => (long(), Some(until)),
                _ => (graceful(), None),
            };
            *stale = Stale::Returned { until: now + REFRESH, long: deadline };
            let kept = kept && spoken.contains(family);
            if !kept {
                gone.push(*family);
            }
            kept
        });
        gone
    }

    /// RFC 9494, section 4.2: a time that is not told is zero.
    fn retention(&self, theirs: &super::Theirs, family: Family) -> Retention {
        let listed = theirs.families.iter().any(|(listed, _)| *listed == family);
        let long_lived = theirs.long_lived(family).map_or(0, |listed| listed.time);
        Retention {
            family,
            restart: if listed { theirs.time } else { Duration::ZERO },
            long_lived: Duration::from_secs(long_lived.into()).min(self.limit),
        }
    }

    /// The session is over. The routes of the families given are kept as stale; all others go.
    #[must_use]
    pub fn down(&mut self, cause: &Cause, now: Instant) -> Vec<Kept> {
        self.heard.clear();
        let before = std::mem::take(&mut self.stale);
        let Some(agreed) = self.session.take().filter(|agreed| cause.is_graceful(agreed.notification)) else {
            return Vec::new();
        };
        let mut kept = Vec::new();
        for Retention { family, restart, long_lived } in agreed.families {
            let (until, long) = match before.get(&family) {
                Some(Stale::Returned { long: Some(until), .. }) => (now, Some(Long::Until(*until))),
                _ => (now + restart, (long_lived > Duration::ZERO).then_some(Long::For(long_lived))),
            };
            let stale = matches!(
                before.get(&family),
                Some(Stale::Returned { long: Some(_), .. } | Stale::Refreshing { .. })
            );
            self.stale.insert(family, Stale::Away { until, long });
            kept.push(Kept { family, stale });
        }
        kept
    }

    /// The neighbour has said all it has of a family; whether stale routes are left over and go.
    #[must_use]
    pub fn end_of_rib(&mut self, family: Family) -> bool {
        self.heard.insert(family);
        let returned = matches!(self.stale.get(&family), Some(Stale::Returned { .. }));
        if returned {
            self.stale.remove(&family);
        }
        returned
    }

    /// The neighbour begins to say everything of a family again (BoRR); whether what it has said is stale now. It
    /// is not to do so before its End-of-RIB, where it offers graceful restart (RFC 7313, section 4). One that
    /// begins anew before the EoRR, or a moment after it began the last time, is not followed: it costs us much
    /// and withdraws what it must all the same.
    #[must_use]
    pub fn refresh_begins(&mut self, family: Family, now: Instant) -> bool {
        let goes_on = self.refreshed.get(&family).is_some_and(|began| now < *began + PACE);
        let allowed = self.session.is_none() || self.heard.contains(&family);
        let begins = allowed && !goes_on && !self.stale.contains_key(&family);
        if begins {
            self.refreshed.insert(family, now);
            self.stale.insert(family, Stale::Refreshing { until: now + REFRESH });
        }
        begins
    }

    /// The neighbour has said everything again (EoRR); whether stale routes are left over and go.
    #[must_use]
    pub fn refresh_ends(&mut self, family: Family) -> bool {
        let refreshing = matches!(self.stale.get(&family), Some(Stale::Refreshing { .. }));
        if refreshing {
            self.stale.remove(&family);
        }
        refreshing
    }

    /// What is due at `now`.
    #[must_use]
    pub fn expired(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        self.stale.retain(|family, stale| {
            if stale.until() > now {
                return true;
            }
            let until = match *stale {
                Stale::Away { until, long: Some(Long::For(time)) } => until + time,
                Stale::Away { long: Some(Long::Until(until)), .. } => until,
                _ => now,
            };
            *stale = Stale::LongLived { until };
            let lives = until > now;
            due.push(if lives { Due::LongLived(*family) } else { Due::Gone(*family) });
            lives
        });
        due
    }

    /// The neighbour's forwarding has failed, whatever becomes of its BGP (RFC 5882, section 4.3.1): the
    /// families given are waited for no longer.
    #[must_use]
    pub fn abort(&mut self) -> Vec<Family> {
        std::mem::take(&mut self.stale).into_keys().collect()
    }

    /// Whether the session is gone and routes of it are kept.
    pub fn is_waiting(&self) -> bool {
        self.stale.values().any(|stale| !stale.is_here())
    }

    /// When the next wait is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.stale.values().map(|stale| stale.until()).min()
    }
}

#[cfg(test)]
mod tests;

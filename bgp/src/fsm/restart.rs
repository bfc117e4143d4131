//! Graceful restart (RFC 4724, RFC 8538): what we offer, and what becomes of a neighbour's routes while
//! it restarts.
//!
//! ```text
//!   Fresh ──session lost, gracefully──▶ Away ──back, forwarding kept──▶ Returned ──End-of-RIB──▶ Fresh
//!                                        │                               │
//!                                        └─ restart time over, or back without them; the last wait over ─▶ gone
//! ```
//!
//! Each family goes its own way. Routes that are Away or Returned are used as before, but are stale: those
//! the neighbour has not said again go when the wait is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Cause;
use super::negotiate::Negotiated;
use crate::types::Family;
use crate::wire::Capability;

/// The longest restart time the capability can carry, in seconds.
pub const MAX_TIME: u16 = 4095;

/// How long a neighbour that is back may take to say everything again (RFC 4724, section 4.2: "an upper
/// bound on the amount of time a Receiving Speaker retains its stale routes").
const REFRESH: Duration = Duration::from_secs(360);

/// What we offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How long a neighbour is to wait for us, in seconds, at most [`MAX_TIME`].
    pub time: u16,
    /// Whether packets are forwarded while we restart.
    pub forwarding: Forwarding,
    /// What came before this session.
    pub start: Start,
}

/// What becomes of our forwarding while the speaker is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It stays: neighbours may go on sending.
    Preserved,
    /// Nothing is promised. The capability is offered all the same: it says that we send End-of-RIB and
    /// help others.
    Lost,
}

/// What came before a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The speaker has started and nothing forwards what its neighbours may still have of an earlier life.
    Cold,
    /// The speaker has started, and what it left forwards as before.
    Restarted,
    /// The speaker has been there all the time.
    Over,
}

impl Offer {
    /// The capability for these families. RFC 8538's N bit is always there.
    pub fn capability(&self, families: &[Family]) -> Capability {
        let listed = match self.forwarding {
            Forwarding::Preserved => families,
            Forwarding::Lost => &[],
        };
        Capability::GracefulRestart {
            restarting: self.start == Start::Restarted,
            notification: true,
            time: self.time.min(MAX_TIME),
            families: listed.iter().map(|family| (*family, self.start != Start::Cold)).collect(),
        }
    }
}

/// What a neighbour offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// It has just restarted, and is not to be waited for.
    pub restarting: bool,
    /// A NOTIFICATION other than a Hard Reset leaves the routes alone, too (RFC 8538).
    pub notification: bool,
    /// How long it wants to be waited for.
    pub time: Duration,
    /// Families whose routes it wants kept, each with whether it has kept forwarding itself.
    pub families: Vec<(Family, bool)>,
}

impl Theirs {
    /// From its capabilities. RFC 4724, section 3: of more than one only the last counts.
    pub(super) fn of(capabilities: &[Capability]) -> Option<Self> {
        capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart { restarting, notification, time, families } => Some(Self {
                restarting: *restarting,
                notification: *notification,
                time: Duration::from_secs((*time).into()),
                families: families.clone(),
            }),
            _ => None,
        })
    }

    fn kept(&self, family: Family) -> bool {
        self.families.iter().any(|(listed, kept)| *listed == family && *kept)
    }
}

/// A neighbour's routes over its restarts.
#[derive(Clone, Debug, Default)]
pub struct Helper {
    /// Of the session that is up, or was last.
    session: Option<Agreed>,
    /// Families whose routes are stale; the others are fresh, or there are none.
    stale: BTreeMap<Family, Stale>,
}

#[derive(Clone, Debug)]
struct Agreed {
    notification: bool,
    time: Duration,
    families: Vec<Family>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    Away(Instant),
    Returned(Instant),
}

impl Stale {
    fn until(self) -> Instant {
        let (Self::Away(until) | Self::Returned(until)) = self;
        until
    }
}

impl Helper {
    /// A session is established. The families given have stale routes that go at once.
    #[must_use]
    pub fn up(&mut self, negotiated: &Negotiated, now: Instant) -> Vec<Family> {
        let theirs = negotiated.restart.as_ref();
        let spoken = &negotiated.session.families;
        self.session = theirs.map(|theirs| Agreed {
            notification: theirs.notification,
            time: theirs.time,
            families: theirs
                .families
                .iter()
                .map(|(family, _)| *family)
                .filter(|f| spoken.contains(f))
                .collect(),
        });
        let mut gone = Vec::new();
        self.stale.retain(|family, stale| {
            let kept = spoken.contains(family) && theirs.is_some_and(|theirs| theirs.kept(*family));
            *stale = Stale::Returned(now + REFRESH);
            if !kept {
                gone.push(*family);
            }
            kept
        });
        gone
    }

    /// The session is over. The routes of the families given are kept as stale; all others go.
    #[must_use]
    pub fn down(&mut self, cause: &Cause, now: Instant) -> Vec<Family> {
        self.stale.clear();
        if let Some(agreed) = self.session.take().filter(|agreed| cause.is_graceful(agreed.notification)) {
            let until = now + agreed.time;
            self.stale.extend(agreed.families.into_iter().map(|family| (family, Stale::Away(until))));
        }
        self.stale.keys().copied().collect()
    }

    /// The neighbour has said all it has of a family; whether stale routes are left over and go.
    #[must_use]
    pub fn end_of_rib(&mut self, family: Family) -> bool {
        self.stale.remove(&family).is_some()
    }

    /// Families whose wait is over at `now`: their stale routes go.
    #[must_use]
    pub fn expired(&mut self, now: Instant) -> Vec<Family> {
        let over = |stale: &Stale| stale.until() <= now;
        let expired = self.stale.iter().filter(|(_, stale)| over(stale)).map(|(family, _)| *family).collect();
        self.stale.retain(|_, stale| !over(stale));
        expired
    }

    /// The neighbour's forwarding has failed, whatever becomes of its BGP (RFC 5882, section 4.3.1): the
    /// families given are waited for no longer.
    #[must_use]
    pub fn abort(&mut self) -> Vec<Family> {
        std::mem::take(&mut self.stale).into_keys().collect()
    }

    /// When the next wait is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.stale.values().map(|stale| stale.until()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsm::pair::local;
    use crate::wire::{Notification, Open};

    const SECOND: Duration = Duration::from_secs(1);

    /// What a neighbour's OPEN with this capability comes to.
    fn session(restarting: bool, families: &[(Family, bool)]) -> Negotiated {
        let capability = Capability::GracefulRestart {
            restarting,
            notification: true,
            time: 120,
            families: families.to_vec(),
        };
        let mut open: Open = local(65001, 2, 64512).open();
        open.capabilities.retain(|capability| !matches!(capability, Capability::GracefulRestart { .. }));
        open.capabilities.push(capability);
        local(64512, 1, 65001).negotiate(&open).unwrap()
    }

    fn both() -> Vec<(Family, bool)> {
        Family::ALL.map(|family| (family, true)).to_vec()
    }

    fn lost() -> Cause {
        Cause::Lost("connection reset by the neighbour".to_owned())
    }

    #[test]
    fn routes_wait_for_a_neighbour_as_long_as_it_asked() {
        let (mut helper, now) = (Helper::default(), Instant::now());
        assert!(helper.up(&session(false, &both()), now).is_empty());
        assert_eq!(helper.next_timeout(), None);
        assert_eq!(helper.down(&lost(), now), Family::ALL);
        assert_eq!(helper.next_timeout(), Some(now + 120 * SECOND));
        assert!(helper.expired(now + 119 * SECOND).is_empty());
        assert_eq!(helper.expired(now + 120 * SECOND), Family::ALL);
        assert_eq!(helper.next_timeout(), None);
    }

    #[test]
    fn a_neighbour_that_is_back_has_until_its_end_of_rib() {
        let (mut helper, now) = (Helper::default(), Instant::now());
        let _ = helper.up(&session(false, &both()), now);
        let _ = helper.down(&lost(), now);
        assert!(helper.up(&session(true, &both()), now + SECOND).is_empty());
        assert!(helper.expired(now + 300 * SECOND).is_empty(), "its restart time counts no more");
        assert!(helper.end_of_rib(Family::Ipv4));
        assert!(!helper.end_of_rib(Family::Ipv4), "once");
        assert_eq!(helper.expired(now + SECOND + REFRESH), [Family::Ipv6], "the last wait is bounded");
    }

    #[test]
    fn a_family_whose_forwarding_was_lost_goes_at_once() {
        for (back, gone) in [
            (vec![(Family::Ipv4, true), (Family::Ipv6, false)], vec![Family::Ipv6]),
            (vec![(Family::Ipv4, true)], vec![Family::Ipv6]),
            (vec![], Family::ALL.to_vec()),
        ] {
            let (mut helper, now) = (Helper::default(), Instant::now());
            let _ = helper.up(&session(false, &both()), now);
            let _ = helper.down(&lost(), now);
            assert_eq!(helper.up(&session(true, &back), now), gone);
        }
    }

    #[test]
    fn a_neighbour_that_restarts_again_before_its_end_of_rib_is_waited_for_again() {
        let (mut helper, now) = (Helper::default(), Instant::now());
        let _ = helper.up(&session(false, &both()), now);
        let _ = helper.down(&lost(), now);
        let _ = helper.up(&session(true, &both()), now + SECOND);
        assert_eq!(helper.down(&lost(), now + 2 * SECOND), Family::ALL);
        assert_eq!(helper.next_timeout(), Some(now + 122 * SECOND));
    }

    #[test]
    fn a_wait_can_be_ended_before_its_time() {
        let (mut helper, now) = (Helper::default(), Instant::now());
        let _ = helper.up(&session(false, &both()), now);
        let _ = helper.down(&lost(), now);
        assert_eq!(helper.abort(), Family::ALL);
        assert_eq!((helper.next_timeout(), helper.abort()), (None, vec![]));
    }

    #[test]
    fn a_notification_is_graceful_only_with_the_n_bit_and_a_hard_reset_never_is() {
        let cease = Notification::administrative_reset("");
        let hard = Cause::Received(Notification::hard_reset(&cease));
        let soft = Cause::Received(cease);
        for (cause, with, without) in [
            (lost(), true, true),
            (soft, true, false),
            (Cause::HoldTimer(9), true, false),
            (Cause::BfdDown("control detection time expired after 150 ms".to_owned()), false, false),
            (hard, false, false),
            (Cause::Stopped(Notification::peer_deconfigured()), false, false),
        ] {
            assert_eq!((cause.is_graceful(true), cause.is_graceful(false)), (with, without), "{cause}");
        }
    }

    #[test]
    fn the_forwarding_bit_says_what_is_true_and_the_restart_bit_only_after_a_restart() {
        let offer =
            |forwarding, start| match (Offer { time: 9, forwarding, start }).capability(&[Family::Ipv4]) {
                Capability::GracefulRestart { restarting, families, .. } => (restarting, families),
                other => panic!("{other:?}"),
            };
        use Forwarding::{Lost, Preserved};
        assert_eq!(offer(Preserved, Start::Cold), (false, vec![(Family::Ipv4, false)]));
        assert_eq!(offer(Preserved, Start::Restarted), (true, vec![(Family::Ipv4, true)]));
        assert_eq!(offer(Preserved, Start::Over), (false, vec![(Family::Ipv4, true)]));
        assert_eq!(offer(Lost, Start::Restarted), (true, vec![]));
    }
}

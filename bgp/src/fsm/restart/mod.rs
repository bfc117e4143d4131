//! Graceful restart (RFC 4724, RFC 8538) and long-lived graceful restart (RFC 9494): what is offered, and in
//! [`helper`] what becomes of a neighbour's routes while it restarts.

pub mod helper;
mod progress;

use std::time::Duration;

pub use helper::{Due, Helper};
pub use progress::Progress;

use crate::types::Family;
use crate::wire::{Capability, LongLived};

/// The longest restart time the capability can carry, in seconds.
pub const MAX_TIME: u16 = 4095;

/// The longest Long-lived Stale Time the capability can carry, in seconds.
pub const MAX_LONG_LIVED: u32 = 0xff_ffff;

/// What we offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How long a neighbour is to wait for us, in seconds, at most [`MAX_TIME`].
    pub time: u16,
    /// How long after that it is to keep our routes as the last resort, in seconds, at most
    /// [`MAX_LONG_LIVED`]; 0: not at all.
    pub long_lived: u32,
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
    /// Nothing is promised. The capabilities are offered all the same: they say that we send End-of-RIB and
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
    /// Both capabilities for these families. RFC 8538's N bit is always there.
    pub fn capabilities(&self, families: &[Family]) -> [Capability; 2] {
        let listed = match self.forwarding {
            Forwarding::Preserved => families,
            Forwarding::Lost => &[],
        };
        let kept = self.start != Start::Cold;
        let time = self.long_lived.min(MAX_LONG_LIVED);
        let long = listed.iter().filter(|_| time > 0);
        [
            Capability::GracefulRestart {
                restarting: self.start == Start::Restarted,
                notification: true,
                time: self.time.min(MAX_TIME),
                families: listed.iter().map(|family| (*family, kept)).collect(),
            },
            Capability::LongLivedGracefulRestart(
                long.map(|family| LongLived { family: *family, forwarding: kept, time }).collect(),
            ),
        ]
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
    /// What it offers of RFC 9494, whose capability counts only beside RFC 4724's (section 4.5); none: it does
    /// not know the routes that are the last resort.
    pub long_lived: Option<Vec<LongLived>>,
}

impl Theirs {
    /// From its capabilities. RFC 4724, section 3: of more than one only the last counts.
    pub(super) fn of(capabilities: &[Capability]) -> Option<Self> {
        let long_lived = capabilities.iter().rev().find_map(|capability| match capability {
            Capability::LongLivedGracefulRestart(families) => Some(families.clone()),
            _ => None,
        });
        capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart { restarting, notification, time, families } => Some(Self {
                restarting: *restarting,
                notification: *notification,
                time: Duration::from_secs((*time).into()),
                families: families.clone(),
                long_lived: long_lived.clone(),
            }),
            _ => None,
        })
    }

    fn long_lived(&self, family: Family) -> Option<LongLived> {
        self.long_lived.iter().flatten().find(|listed| listed.family == family).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4724_the_forwarding_bits_say_what_is_true_and_the_restart_bit_only_after_a_restart() {
        let offer = |forwarding, start| {
            let offer = Offer { time: 9, long_lived: 60, forwarding, start };
            match offer.capabilities(&[Family::Ipv4]) {
                [
                    Capability::GracefulRestart { restarting, families, .. },
                    Capability::LongLivedGracefulRestart(long),
                ] => {
                    let long: Vec<_> = long.iter().map(|long| (long.family, long.forwarding)).collect();
                    assert_eq!(long, families);
                    (restarting, families)
                }
                other => panic!("{other:?}"),
            }
        };
        use Forwarding::{Lost, Preserved};
        assert_eq!(offer(Preserved, Start::Cold), (false, vec![(Family::Ipv4, false)]));
        assert_eq!(offer(Preserved, Start::Restarted), (true, vec![(Family::Ipv4, true)]));
        assert_eq!(offer(Preserved, Start::Over), (false, vec![(Family::Ipv4, true)]));
        assert_eq!(offer(Lost, Start::Restarted), (true, vec![]));
    }

    #[test]
    fn long_lived_without_a_time_is_offered_as_a_helper_only() {
        let offer = Offer { time: 9, long_lived: 0, forwarding: Forwarding::Preserved, start: Start::Over };
        assert_eq!(
            offer.capabilities(&Family::ALL)[1],
            Capability::LongLivedGracefulRestart(vec![]),
            "the capability is there, without families"
        );
    }

    #[test]
    fn the_long_lived_capability_alone_does_not_count() {
        let long = Capability::LongLivedGracefulRestart(vec![]);
        assert_eq!(Theirs::of(std::slice::from_ref(&long)), None);
        let offer = Offer { time: 9, long_lived: 0, forwarding: Forwarding::Lost, start: Start::Over };
        let [graceful, _] = offer.capabilities(&Family::ALL);
        assert_eq!(Theirs::of(std::slice::from_ref(&graceful)).unwrap().long_lived, None);
        assert_eq!(Theirs::of(&[long, graceful]).unwrap().long_lived, Some(vec![]));
    }
}

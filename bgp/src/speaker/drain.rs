//! Which neighbours are to do without us, and how far that has come (RFC 8326). Pure. Whatever the orders are, it
//! lasts until it is taken back, or the neighbour is configured no more.

use crate::types::ScopedAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::api::{AfterDrain, DrainPhase, DrainStatus};
use crate::rib::{self, Leaving};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub reason: String,
    pub then: AfterDrain,
    pub wait: Duration,
}

#[derive(Clone, Debug)]
struct Drain {
    reason: String,
    then: AfterDrain,
    until: Instant,
    /// The wait is over.
    over: bool,
}

impl Drain {
    fn phase(&self) -> DrainPhase {
        if self.over { DrainPhase::after(self.then) } else { DrainPhase::Announced }
    }

    fn status(&self, now: Instant) -> DrainStatus {
        let left = self.until.saturating_duration_since(now).as_secs_f64().ceil() as u64;
        DrainStatus {
            phase: self.phase(),
            then: self.then,
            seconds_left: (!self.over).then_some(left),
            reason: self.reason.clone(),
        }
    }
}

/// What one neighbour is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    pub phase: DrainPhase,
    pub reason: String,
    /// Its session alone is drained: we are to do without it as well.
    pub alone: bool,
}

impl Stage {
    /// What the RIB has to know of it.
    pub fn of_rib(stage: Option<&Self>) -> rib::Drain {
        let Some(stage) = stage else { return rib::Drain::default() };
        let told = match stage.phase {
            DrainPhase::Announced => Leaving::Announced,
            DrainPhase::Withdrawn | DrainPhase::Shutdown => Leaving::Withdrawn,
        };
        rib::Drain { told, avoided: stage.alone }
    }
}

/// Why a drain cannot be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotDrained {
    /// There is none.
    Nothing,
    /// There is none of this neighbour, but of the whole speaker.
    Whole,
}

/// All there are.
#[derive(Debug, Default)]
pub(super) struct Drains {
    whole: Option<Drain>,
    peers: BTreeMap<ScopedAddr, Drain>,
}

impl Drains {
    /// Begins one, of one neighbour or of the whole speaker, or begins it anew.
    pub fn begin(&mut self, peer: Option<ScopedAddr>, wanted: Wanted, now: Instant) {
        let Wanted { reason, then, wait } = wanted;
        let drain = Drain { reason, then, until: now + wait, over: false };
        match peer {
            Some(peer) => drop(self.peers.insert(peer, drain)),
            None => self.whole = Some(drain),
        }
    }

    /// Takes one back. That of the whole speaker takes those of all neighbours with it.
    pub fn end(&mut self, peer: Option<ScopedAddr>) -> Result<(), NotDrained> {
        let there_was = match peer {
            Some(peer) => self.peers.remove(&peer).is_some(),
            None => {
                let peers = std::mem::take(&mut self.peers);
                self.whole.take().is_some() || !peers.is_empty()
            }
        };
        match there_was {
            true => Ok(()),
            false if self.whole.is_some() => Err(NotDrained::Whole),
            false => Err(NotDrained::Nothing),
        }
    }

    /// Forgets neighbours that are configured no more.
    pub fn retain(&mut self, stays: impl Fn(&ScopedAddr) -> bool) {
        self.peers.retain(|peer, _| stays(peer));
    }

    /// Of its own drain and that of the whole speaker, what has come further.
    fn of(&self, peer: ScopedAddr) -> Option<(&Drain, bool)> {
        let own = self.peers.get(&peer).map(|drain| (drain, true));
        own.into_iter().chain(self.whole.as_ref().map(|drain| (drain, false))).max_by_key(|(d, _)| d.phase())
    }

    /// What a neighbour is to do.
    pub fn stage(&self, peer: ScopedAddr) -> Option<Stage> {
        let (drain, _) = self.of(peer)?;
        let alone = self.peers.contains_key(&peer);
        Some(Stage { phase: drain.phase(), reason: drain.reason.clone(), alone })
    }

    /// How far it has come with a neighbour.
    pub fn status(&self, peer: ScopedAddr, now: Instant) -> Option<DrainStatus> {
        self.of(peer).map(|(drain, _)| drain.status(now))
    }

    /// How far it has come with the whole speaker.
    pub fn whole(&self, now: Instant) -> Option<DrainStatus> {
        self.whole.as_ref().map(|drain| drain.status(now))
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Drain> {
        self.whole.iter_mut().chain(self.peers.values_mut())
    }

    /// Whether a wait is over.
    pub fn tick(&mut self, now: Instant) -> bool {
        let due = self.all().filter(|drain| !drain.over && drain.until <= now);
        due.map(|drain| drain.over = true).count() > 0
    }

    /// When the next wait is over.
    pub fn next_timeout(&self) -> Option<Instant> {
        let all = self.whole.iter().chain(self.peers.values());
        all.filter(|drain| !drain.over).map(|drain| drain.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(then: AfterDrain, seconds: u32) -> Wanted {
        Wanted { reason: "new kernel".to_owned(), then, wait: seconds * SECOND }
    }

    fn peer(n: u8) -> ScopedAddr {
        std::net::IpAddr::from([10, 0, 0, n]).into()
    }

    #[test]
    fn rfc8326_a_drain_is_announced_for_a_time_and_then_done() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        drains.begin(None, wanted(AfterDrain::Withdraw, 60), now);
        let stage = drains.stage(peer(1)).unwrap();
        assert_eq!((stage.phase, stage.alone), (DrainPhase::Announced, false));
        let told = Stage::of_rib(Some(&stage));
        assert_eq!(told, rib::Drain { told: Leaving::Announced, avoided: false });
        assert_eq!(drains.next_timeout(), Some(now + 60 * SECOND));
        assert_eq!(drains.whole(now + 58 * SECOND).unwrap().seconds_left, Some(2));
        assert!(!drains.tick(now + 59 * SECOND));
        assert!(drains.tick(now + 60 * SECOND) && !drains.tick(now + 61 * SECOND), "once");
        assert_eq!(drains.stage(peer(1)).unwrap().phase, DrainPhase::Withdrawn);
        assert_eq!((drains.next_timeout(), drains.whole(now).unwrap().seconds_left), (None, None));
        assert_eq!(drains.end(None), Ok(()));
        assert_eq!((drains.stage(peer(1)), drains.end(None)), (None, Err(NotDrained::Nothing)));
    }

    #[test]
    fn of_its_own_drain_and_that_of_all_a_neighbour_has_what_has_come_further() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        drains.begin(Some(peer(1)), wanted(AfterDrain::Shutdown, 10), now);
        drains.begin(None, wanted(AfterDrain::Withdraw, 20), now);
        assert!(drains.stage(peer(1)).unwrap().alone && !drains.stage(peer(2)).unwrap().alone);
        assert!(drains.tick(now + 10 * SECOND));
        assert_eq!(drains.stage(peer(1)).unwrap().phase, DrainPhase::Shutdown);
        assert_eq!(drains.stage(peer(2)).unwrap().phase, DrainPhase::Announced);
        assert_eq!(drains.end(Some(peer(2))), Err(NotDrained::Whole));
        assert_eq!(drains.end(Some(peer(1))), Ok(()));
        assert_eq!(drains.stage(peer(1)).unwrap().phase, DrainPhase::Announced, "as all others");
        drains.begin(Some(peer(1)), wanted(AfterDrain::Shutdown, 10), now);
        drains.retain(|_| false);
        assert!(!drains.stage(peer(1)).unwrap().alone);
        drains.begin(Some(peer(1)), wanted(AfterDrain::Shutdown, 10), now);
        assert_eq!((drains.end(None), drains.stage(peer(1))), (Ok(()), None), "all of it");
    }
}

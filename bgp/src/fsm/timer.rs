//! The timers of RFC 4271, section 10, as a table of deadlines, and the jitter it asks for.

use std::time::{Duration, Instant};

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// ConnectRetryTimer: the next try to call, or the end of a call that nobody answers.
    ConnectRetry,
    /// IdleHoldTimer (DampPeerOscillations, section 8.1.1): refuse everything until then.
    IdleHold,
    /// HoldTimer: nothing was heard.
    Hold,
    /// KeepaliveTimer: something must be said.
    Keepalive,
}

impl Timer {
    const ALL: [Self; 4] = [Self::ConnectRetry, Self::IdleHold, Self::Hold, Self::Keepalive];
}

/// When each [`Timer`] runs out.
#[derive(Clone, Debug, Default)]
pub struct TimerTable([Option<Instant>; Timer::ALL.len()]);

impl TimerTable {
    /// Starts or restarts a timer.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    /// Stops a timer.
    pub fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes one timer that has run out at `now`, in the order of [`Timer`].
    pub fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        let timer =
            Timer::ALL.into_iter().find(|timer| self.0[*timer as usize].is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }
}

/// Random factors between 0.75 and 1 (RFC 4271, section 10) from a seed: the same seed, the same run.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Any seed will do; neighbours started together want different ones.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Shortens a duration by up to a quarter.
    pub fn apply(&mut self, duration: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): spread is all that is asked of it.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let quarter = f64::from((z >> 32) as u32) / f64::from(u32::MAX) / 4.0;
        duration.mul_f64(1.0 - quarter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4271_jitter_stays_between_three_quarters_and_one_and_uses_the_whole_range() {
        let mut jitter = Jitter::new(1);
        let factors: Vec<f64> =
            (0..1000).map(|_| jitter.apply(Duration::from_secs(1)).as_secs_f64()).collect();
        assert!(factors.iter().all(|factor| (0.75..=1.0).contains(factor)));
        assert!(factors.iter().any(|factor| *factor < 0.76));
        assert!(factors.iter().any(|factor| *factor > 0.99));
    }

    #[test]
    fn an_expired_timer_is_told_once() {
        let now = Instant::now();
        let mut timers = TimerTable::default();
        timers.set(Timer::Keepalive, now + Duration::from_secs(1));
        timers.set(Timer::Hold, now + Duration::from_secs(3));
        assert_eq!(timers.next(), Some(now + Duration::from_secs(1)));
        assert_eq!(timers.take_expired(now), None);
        assert_eq!(timers.take_expired(now + Duration::from_secs(1)), Some(Timer::Keepalive));
        assert_eq!(timers.take_expired(now + Duration::from_secs(1)), None);
        assert_eq!(timers.next(), Some(now + Duration::from_secs(3)));
    }
}

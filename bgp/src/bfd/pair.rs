//! Two sessions joined by a wire that can lose and delay, under a clock that stands still until moved.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Change, Packet, Session, Settings};

/// On the wire: when it arrives, at whom, what.
type Flying = (Instant, usize, Packet);

pub struct Pair {
    pub sessions: [Session; 2],
    pub now: Instant,
    pub start: Instant,
    /// What each side was told of its state, and when.
    pub changes: [Vec<(Duration, Change)>; 2],
    /// What each side sent, and when.
    pub sent: [Vec<(Duration, Packet)>; 2],
    /// Packets to lose of what each side sends from now on.
    pub lose: [usize; 2],
    pub delay: Duration,
    wire: VecDeque<Flying>,
}

pub fn settings(ms: u64, multiplier: u8) -> Settings {
    Settings { min_tx: Duration::from_millis(ms), min_rx: Duration::from_millis(ms), multiplier }
}

impl Pair {
    pub fn new(left: Settings, right: Settings) -> Self {
        let now = Instant::now();
        Self {
            sessions: [Session::new(left, 1, 1, now), Session::new(right, 2, 2, now)],
            now,
            start: now,
            changes: Default::default(),
            sent: Default::default(),
            lose: [0, 0],
            delay: Duration::from_millis(1),
            wire: VecDeque::new(),
        }
    }

    /// Both are up and have agreed on their intervals.
    pub fn up(left: Settings, right: Settings) -> Self {
        let mut pair = Self::new(left, right);
        pair.run(Duration::from_secs(10));
        for side in [0, 1] {
            pair.changes[side].clear();
            pair.sent[side].clear();
        }
        pair
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Moves the clock on, doing everything that falls due on the way.
    pub fn run(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            self.work();
            let arrival = self.wire.front().map(|(at, ..)| *at);
            let timeouts = self.sessions.iter().filter_map(Session::next_timeout);
            match timeouts.chain(arrival).min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
        }
        self.now = end;
    }

    fn work(&mut self) {
        while let Some((_, to, packet)) = self.wire.pop_front_if(|(at, ..)| *at <= self.now) {
            let packet = Packet::parse(&packet.write()).unwrap();
            let change = self.sessions[to].receive(&packet, self.now);
            self.note(to, change);
        }
        for side in [0, 1] {
            let change = self.sessions[side].tick(self.now);
            self.note(side, change);
            while let Some(packet) = self.sessions[side].transmit(self.now) {
                self.sent[side].push((self.elapsed(), packet));
                if self.lose[side] > 0 {
                    self.lose[side] -= 1;
                } else {
                    self.wire.push_back((self.now + self.delay, 1 - side, packet));
                }
            }
        }
    }

    pub fn note(&mut self, side: usize, change: Option<Change>) {
        let elapsed = self.elapsed();
        self.changes[side].extend(change.map(|change| (elapsed, change)));
    }
}

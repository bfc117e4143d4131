//! Speakers' pure cores on a virtual network and a virtual clock: state machines, wire and RIB, without a socket.
//!
//! Every run draws a topology (ASes of one speaker or of several, which are meshed or have reflectors; prefixes refused and
//! AS paths prepended here and there) and then, at random: delays, lost connections, silence until the hold timer runs out,
//! duplicate calls, garbage, crashes, graceful restarts of one or two, routes kept as the last resort, refreshes, drains, peers
//! removed and put back, prefixes that come and go. When the network is left alone, all must be as a computation from scratch says.
//!
//! `MANX_SIMULATION_EVENTS` is how many events are simulated in all, 150,000 unless set; a million is
//! `MANX_SIMULATION_EVENTS=1000000 cargo test --release -p manx-bgp --test simulation`. A run that fails prints its
//! seed, and `MANX_SIMULATION_SEED` repeats it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod expected;
mod node;
mod topology;
mod world;

use std::time::Duration;

use node::DEFERRAL;
use world::{Seen, World};

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Spread, so that neighbouring seeds have nothing in common; never 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    /// One of that many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// At least `from` milliseconds, less than `to`.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below((to - from) as usize) as u64)
    }
}

/// Three times unrest and rest; at last all stop. Returns the events it took, and what was seen.
fn run(seed: u64) -> (u64, Seen) {
    let mut world = World::new(seed);
    world.start();
    for _ in 0..3 {
        world.unrest(Duration::from_secs(60));
        world.rest();
        world.check();
    }
    world.stop();
    (world.events, world.seen)
}

#[test]
fn whatever_happens_all_tables_end_as_the_topology_says() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("MANX_SIMULATION_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let wanted = number("MANX_SIMULATION_EVENTS").unwrap_or(150_000);
    let (mut events, mut seed, mut seen) = (0, 0, Seen::default());
    while events < wanted {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((more, what)) => {
                events += more;
                seen.add(what);
            }
            Err(panic) => {
                eprintln!("MANX_SIMULATION_SEED={seed} repeats it");
                std::panic::resume_unwind(panic);
            }
        }
        seed += 1;
    }
    println!("{events} events in {seed} runs: {seen:?}");
    let Seen { stale, long_lived, swept, refreshes, deferred, in_time, reflected } = seen;
    for (what, times) in [
        ("routes kept over a lost session", stale),
        ("routes as the last resort", long_lived),
        ("stale routes that went unsaid", swept),
        ("refreshes between marks", refreshes),
        ("End-of-RIBs kept back", deferred),
        ("restarts that did not wait their time out", in_time),
        ("reflected routes", reflected),
    ] {
        assert!(times > 0, "the runs have not come to: {what}");
    }
}

#[test]
fn a_seed_repeats_its_run() {
    assert_eq!(run(7), run(7));
}

#[test]
fn rfc4724_two_that_restart_together_do_not_wait_for_each_other() {
    for seed in 0..20 {
        let took = World::two_restart(seed);
        assert!(took < DEFERRAL / 2, "{took:?} with seed {seed}");
    }
}

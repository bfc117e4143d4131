//! Every parser under mutated messages, on the stable toolchain: the targets of `fuzz/`, begun from the captured
//! messages and from every input that once was a finding (`fuzz/corpus/TARGET/`).
//!
//! `MANX_FUZZ_SECONDS` is how long each target is tried, 1 unless set; `MANX_FUZZ_SEED` repeats a run. With libFuzzer:
//! fuzz/README.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Longer inputs are cut: what is interesting happens in the first octets, and short ones are many a second.
const LONGEST: usize = 1024;

/// Inputs kept as parents of others, besides the seeds.
const PARENTS: usize = 512;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }
}

/// Octets that lengths, flags and codes turn on.
const INTERESTING: [u8; 12] = [0, 1, 2, 3, 4, 0x10, 0x1f, 0x40, 0x7f, 0x80, 0xc0, 0xff];

fn mutate(parents: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = parents[random.below(parents.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let left = data.len() - at;
        match random.below(8) {
            0 if left > 0 => data[at] ^= 1 << random.below(8),
            1 if left > 0 => data[at] = INTERESTING[random.below(INTERESTING.len())],
            2 if left > 0 => data[at] = random.next() as u8,
            3 if left > 0 => data[at] = data[at].wrapping_add(random.below(9) as u8).wrapping_sub(4),
            4 if left > 0 => drop(data.drain(at..at + 1 + random.below(left.min(8)))),
            5 => data.insert(at, INTERESTING[random.below(INTERESTING.len())]),
            6 if left > 0 => {
                let part = data[at..at + 1 + random.below(left)].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, part);
            }
            _ => {
                let other = &parents[random.below(parents.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend(&other[from..]);
            }
        }
    }
    data.truncate(LONGEST);
    data
}

/// Where the input is a new finding, says how to keep it.
fn run(name: &str, target: fn(&[u8]), data: &[u8], seed: u64) {
    if let Err(panic) = std::panic::catch_unwind(|| target(data)) {
        let hex: String = data.iter().map(|octet| format!("{octet:02x}")).collect();
        eprintln!(
            "MANX_FUZZ_SEED={seed}: {name} failed on this; keep it as a file in fuzz/corpus/{name}/ (xxd -r -p):\n{hex}"
        );
        std::panic::resume_unwind(panic);
    }
}

fn fuzz(name: &str) {
    let (_, target) = targets::TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut parents = targets::seeds(name, &root.join("tests/vectors")).unwrap();
    assert!(!parents.is_empty(), "{name} has no seeds");
    for finding in std::fs::read_dir(root.join("fuzz/corpus").join(name)).into_iter().flatten() {
        parents.push(std::fs::read(finding.unwrap().path()).unwrap());
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("MANX_FUZZ_SEED").unwrap_or_else(clock).max(1);
    parents.iter().for_each(|parent| run(name, target, parent, seed));

    let kept = parents.len();
    let mut random = Random(seed);
    let end = Instant::now() + Duration::from_secs(number("MANX_FUZZ_SECONDS").unwrap_or(1));
    let mut tried = 0_u64;
    while Instant::now() < end {
        for _ in 0..256 {
            let data = mutate(&parents, &mut random);
            run(name, target, &data, seed);
            tried += 1;
            // Without knowing what is new a few descendants are kept at random, so that mutations add up.
            if random.below(64) == 0 {
                if parents.len() < kept + PARENTS {
                    parents.push(data);
                } else {
                    let place = kept + random.below(PARENTS);
                    parents[place] = data;
                }
            }
        }
    }
    println!("{name}: {tried} inputs from {kept} seeds, MANX_FUZZ_SEED={seed}");
}

#[test]
fn every_target_is_tried_here() {
    let source = include_str!("fuzz.rs");
    for (name, _) in targets::TARGETS {
        assert!(source.contains(&format!("fuzz(\"{name}\")")), "{name} is not");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(file.exists(), "{name} has no file for libFuzzer");
    }
}

#[test]
fn frames() {
    fuzz("frame");
}

#[test]
fn opens() {
    fuzz("open");
}

#[test]
fn capabilities() {
    fuzz("capabilities");
}

#[test]
fn updates() {
    fuzz("update");
}

#[test]
fn attributes() {
    fuzz("attribute");
}

#[test]
fn prefixes() {
    fuzz("nlri");
}

#[test]
fn bfd_packets() {
    fuzz("bfd");
}

#[test]
fn notifications() {
    fuzz("notification");
}

#[test]
fn route_refreshes() {
    fuzz("route_refresh");
}

#[test]
fn frames_of_the_socket() {
    fuzz("api");
}

#[test]
fn news_of_the_socket() {
    fuzz("news");
}

#[test]
fn files() {
    fuzz("config");
}

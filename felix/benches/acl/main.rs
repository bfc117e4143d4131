//! The packet filter beside `nft`, in one run and on one ruleset: `cargo bench -p manx-felix --bench acl` as root.
//!
//! Everything happens in network namespaces of its own. Figures are milliseconds, the median of the rounds and the
//! least; what counts is the ratio between two of one run. `MANX_BENCH=forwarding` measures one part alone: `sets`,
//! `policies`, `forwarding` (beside the linear shape of iptables) or `events` (from an object of the API to the kernel).

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails by panicking")]

mod events;
mod forwarding;
#[path = "../../tests/acl/lab.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod lab;
#[path = "../../tests/acl/probe.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod probe;
#[path = "../../tests/acl/world.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod world;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::compile::{self, Numbers};
use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::nft::{Batch, Element, Key, Nft, Set as NftSet, Text, Type};
use manx_felix::acl::ruleset::{
    Action, Chain, Direction, Endpoint, Ifname, Members, Mode, Network, Peer, Policy, PolicyId, PortRange,
    Ports, Protocol, Rule, Ruleset, Set, SetId, SetKind, Spoofing, Tier,
};

use crate::world::{in_a_namespace, step, wait};

/// Addresses in the large sets.
const LARGE: u32 = 100_000;

/// Policies in the large rulesets, and endpoints of a node.
const POLICIES: usize = 10_000;
const ENDPOINTS: usize = 250;

fn main() {
    // `cargo test --benches` asks for nothing of this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted = std::env::var("MANX_BENCH").unwrap_or_default();
    let parts: [(&str, fn()); 4] = [
        ("sets", sets),
        ("policies", policies),
        ("forwarding", forwarding::forwarding),
        ("events", events::events),
    ];
    for (name, part) in parts.into_iter().filter(|(name, _)| wanted.is_empty() || wanted == *name) {
        println!("{name}");
        in_a_namespace(part);
    }
}

/// Runs something some times and prints its median and its least.
fn measure(what: &str, rounds: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            work(round);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("{what:<64} {median:>10.3}  {:>10.3}  n={rounds}", times[0]);
    median
}

fn ratio(what: &str, ours: f64, theirs: f64) {
    println!("  {what}: 1/{:.1}", theirs / ours);
}

fn nft(input: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn element(first: u32, last: Option<u32>) -> Element {
    let key = |address: u32| Key::from_slice(&address.to_be_bytes());
    let element = Element::new(key(first));
    last.map(key).into_iter().fold(element, Element::until)
}

/// One element into large sets.
fn sets() {
    let mut socket = Nft::open().unwrap();
    for (name, set, elements, rounds) in [
        (
            "address into a set of 100,000",
            NftSet::of([Type::Ipv4Addr]),
            (0..LARGE).map(|n| element(0x0a00_0000 + n, None)).collect::<BTreeSet<_>>(),
            (200, 20),
        ),
        (
            "CIDR into a set of 100,000",
            NftSet::of_ranges([Type::Ipv4Addr]),
            (0..LARGE).map(|n| element(0x0a00_0000 + 16 * n, Some(0x0a00_0007 + 16 * n))).collect(),
            (20, 3),
        ),
    ] {
        let mut batch = Batch::new("bench");
        batch.add_table();
        batch.add_set("large", &set);
        batch.add_elements("large", &set, &elements);
        socket.commit(&batch).unwrap();
        let new = |round: usize| match set.interval {
            false => element(0xc000_0000 + round as u32, None),
            true => element(0xc000_0000 + 16 * round as u32, Some(0xc000_0007 + 16 * round as u32)),
        };
        let ours = measure(&format!("one {name}: ours"), rounds.0, |round| {
            let mut batch = Batch::new("bench");
            batch.add_elements("large", &set, [&new(round)]);
            socket.commit(&batch).unwrap();
        });
        let theirs = measure(&format!("one {name}: nft"), rounds.1, |round| {
            let first = IpAddr::from((0xd000_0000 + 16 * round as u32).to_be_bytes());
            let prefix = if set.interval { "/29" } else { "" };
            nft(&format!("add element inet bench large {{ {first}{prefix} }}\n"));
        });
        ratio("ours to nft's", ours, theirs);
        let mut batch = Batch::new("bench");
        batch.delete_table();
        socket.commit(&batch).unwrap();
    }
}

fn address(number: usize) -> IpAddr {
    IpAddr::from((0x0a00_0000 + number as u32).to_be_bytes())
}

fn policy_id(number: usize) -> PolicyId {
    PolicyId {
        tier: Tier::Network,
        name: format!("shop/policy-{number}").into(),
        direction: Direction::Ingress,
    }
}

/// Policies of one set of ten addresses each, and endpoints each of which so many select, as the addresses say.
fn ruleset(policies: usize, endpoints: usize, selecting: impl Fn(usize) -> Vec<usize>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for number in 0..policies {
        let id = SetId { kind: SetKind::Addresses, family: Family::Ipv4, digest: number as u128 };
        let members = Members::Addresses((0..10).map(|n| address(0x10_0000 + 10 * number + n)).collect());
        ruleset.sets.insert(id, Set { of: format!("pods of {number}").into(), members });
        ruleset.policies.insert(policy_id(number), accept(id, 80));
    }
    for number in 0..endpoints {
        let policies: Vec<_> = selecting(number).into_iter().map(policy_id).collect();
        let network = (!policies.is_empty()).then_some(Network { policies, otherwise: Mode::Enforce });
        let endpoint = Endpoint {
            pod: format!("shop/pod-{number}").into(),
            addresses: Family::ALL.map(|family| world::pod_address(number, family)).into(),
            spoofing: Spoofing::Denied,
            ingress: Arc::new(Chain { network, ..Chain::default() }),
            egress: Arc::default(),
        };
        ruleset.endpoints.insert(Ifname(format!("manx{number}").into()), Arc::new(endpoint));
    }
    ruleset
}

fn accept(set: SetId, port: u16) -> Arc<Policy> {
    let ports = Ports::In(vec![PortRange { protocol: Protocol::Tcp, first: port, last: port }]);
    let rule =
        |index, ports| Rule { action: Action::Accept, peer: Peer::In(vec![set]), ports, index, name: None };
    let more = Ports::In(vec![PortRange { protocol: Protocol::Udp, first: 1000, last: 2000 }]);
    Arc::new(Policy { mode: Mode::Enforce, rules: vec![rule(0, ports), rule(1, more)] })
}

/// Each endpoint is selected by forty policies, and each policy selects one.
fn spread(number: usize) -> Vec<usize> {
    (0..POLICIES / ENDPOINTS).map(|n| number * (POLICIES / ENDPOINTS) + n).collect()
}

/// Loading and replacing.
fn policies() {
    let all = ruleset(POLICIES, ENDPOINTS, spread);
    // In the order in which they are told.
    let mut numbers = Numbers::default();
    all.sets.keys().for_each(|id| _ = numbers.give(*id));
    // What we write, and what is usual: a set for each selector.
    let [text, usual] = [&numbers, &Numbers::default()].map(|numbers| {
        Text { table: &compile::table(&all, numbers), counters: None, elements: true }.to_string()
    });
    let mut socket = Nft::open().unwrap();
    let mut drop_table = || {
        let mut batch = Batch::new(compile::TABLE);
        batch.delete_table();
        socket.commit(&batch).unwrap();
    };
    // Without what it takes to remove it again.
    let mut load = |what: &str, work: &mut dyn FnMut()| {
        let mut times: Vec<f64> = (0..3)
            .map(|_| {
                let start = Instant::now();
                work();
                let took = start.elapsed().as_secs_f64() * 1e3;
                drop_table();
                took
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{what:<64} {:>10.3}  {:>10.3}  n=3", times[1], times[0]);
        times[1]
    };
    let usual = load("load 10,000 policies, a set each: nft -f", &mut || nft(&usual));
    let theirs = load("load 10,000 policies with their sets: nft -f", &mut || nft(&text));
    let ours = load("load 10,000 policies with their sets: ours", &mut || {
        let driver = Driver::start(Connections::Keep).unwrap();
        wait(driver.update(step(&Ruleset::default(), &all))).unwrap();
    });
    ratio("ours to nft's", ours, theirs);
    ratio("ours to nft's, a set each", ours, usual);

    let driver = Driver::start(Connections::Keep).unwrap();
    wait(driver.update(step(&Ruleset::default(), &all))).unwrap();
    driver.sweep();
    while !(driver.status().swept && driver.status().in_force) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut now = all;
    let ours = replace("replace one policy of 10,000: ours", |round| {
        let mut next = now.clone();
        let set = *next.sets.keys().next().unwrap();
        next.policies.insert(policy_id(0), accept(set, 8000 + round));
        let delta = step(&now, &next);
        now = next;
        let start = Instant::now();
        wait(driver.update(delta)).unwrap();
        start.elapsed()
    });
    let name = compile::policy_name(&policy_id(0));
    let table = compile::table(&now, &numbers);
    let theirs = replace("replace one policy of 10,000: nft -f", |round| {
        let mut text = format!("flush chain inet manx {name}\n");
        for rule in &table.chains[&name].rules {
            // As ours has left it.
            text += &format!("add rule inet manx {name} {rule}\n")
                .replace("dport 8029 ", &format!("dport {} ", 9000 + round));
        }
        let start = Instant::now();
        nft(&text);
        start.elapsed()
    });
    ratio("ours to nft's", ours, theirs);
}

/// As [`measure`], with pauses between the rounds, and without what prepares them.
fn replace(what: &str, mut work: impl FnMut(u16) -> Duration) -> f64 {
    let mut times: Vec<f64> = (0..30)
        .map(|round| {
            std::thread::sleep(Duration::from_millis(50));
            work(round).as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:<64} {:>10.3}  {:>10.3}  n={}", times[15], times[0], times.len());
    times[15]
}

//! The packet filter's driver against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::compile;
use manx_felix::acl::driver::Driver;
use manx_felix::acl::nft::{Nft, Rule as NftRule};
use manx_felix::acl::ruleset::{
    Action, Chain, Delta, Direction, Endpoint, Ifname, Members, Mode, Network, Peer, Policy, PolicyId, Port,
    PortRange, Ports, Protocol, Range, Rule, Ruleset, Set, SetChange, SetId, SetKind, Spoofing, Tier,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a new network namespace, which ends with its thread.
fn in_a_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` holds, at most ten seconds; how long it took.
fn eventually(what: &str, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Waits for a future in the calling thread, for a runtime's threads would be in another namespace.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// The step from one ruleset to another.
fn step(from: &Ruleset, to: &Ruleset) -> Delta {
    fn changes<K: Ord + Clone, V: Clone + PartialEq>(
        from: &BTreeMap<K, V>,
        to: &BTreeMap<K, V>,
    ) -> BTreeMap<K, Option<V>> {
        let gone = from.keys().filter(|key| !to.contains_key(key)).map(|key| (key.clone(), None));
        let come = to.iter().filter(|(key, value)| from.get(key) != Some(value));
        gone.chain(come.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
    }
    fn members(from: &Members, to: &Members) -> (Members, Members) {
        match (from, to) {
            (Members::Addresses(a), Members::Addresses(b)) => {
                (Members::Addresses(b - a), Members::Addresses(a - b))
            }
            (Members::Networks(a), Members::Networks(b)) => {
                (Members::Networks(b - a), Members::Networks(a - b))
            }
            (Members::Ports(a), Members::Ports(b)) => (Members::Ports(b - a), Members::Ports(a - b)),
            other => panic!("{other:?}"),
        }
    }
    let mut sets = BTreeMap::new();
    for (id, set) in changes(&from.sets, &to.sets) {
        let change = match (from.sets.get(&id), set) {
            (None, Some(set)) => SetChange::Add(set),
            (Some(old), Some(set)) => {
                let (add, remove) = members(&old.members, &set.members);
                SetChange::Members { add, remove }
            }
            (_, None) => SetChange::Remove,
        };
        sets.insert(id, change);
    }
    Delta {
        node: (from.node != to.node).then(|| to.node.clone()),
        sets,
        policies: changes(&from.policies, &to.policies),
        endpoints: changes(&from.endpoints, &to.endpoints),
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    fn some<T: Clone>(&mut self, of: &[T], most: usize) -> Vec<T> {
        (0..self.roll(most + 1)).map(|_| of[self.roll(of.len())].clone()).collect()
    }
}

fn pod_address(number: usize, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::from([10, 0, 0, number as u8 + 1]),
        Family::Ipv6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number as u16 + 1]),
    }
}

fn a_set(id: SetId, dice: &mut Dice) -> Set {
    let address = |dice: &mut Dice| pod_address(dice.roll(12), id.family);
    let members = match id.kind {
        SetKind::Addresses => Members::Addresses((0..dice.roll(6)).map(|_| address(dice)).collect()),
        // What it holds is its name: it never changes.
        SetKind::Networks => {
            let ranges = (0..=id.digest as usize).map(|place| Range {
                first: pod_address(4 * place, id.family),
                last: pod_address(4 * place + 1 + place % 2, id.family),
            });
            Members::Networks(ranges.collect())
        }
        SetKind::Ports => Members::Ports(
            (0..dice.roll(4))
                .map(|_| Port {
                    address: address(dice),
                    protocol: Protocol::Tcp,
                    port: 80 + dice.roll(3) as u16,
                })
                .collect(),
        ),
    };
    Set { of: format!("set {id}").into(), members }
}

fn a_rule(tier: Tier, index: u16, dice: &mut Dice, sets: &[SetId]) -> Rule {
    let action = match (tier, dice.roll(3)) {
        (Tier::Network, _) | (_, 0) => Action::Accept,
        (_, 1) => Action::Deny,
        _ => Action::Pass,
    };
    let of = |ports: bool| -> Vec<SetId> {
        sets.iter().copied().filter(|id| (id.kind == SetKind::Ports) == ports).collect()
    };
    let peer = if dice.roll(3) == 0 { Peer::Any } else { Peer::In(dice.some(&of(false), 3)) };
    let range = |protocol, first: usize, width: usize| PortRange {
        protocol,
        first: first as u16,
        last: (first + width) as u16,
    };
    let ports = match dice.roll(4) {
        0 => Ports::Any,
        1 => Ports::Named(dice.some(&of(true), 1)),
        2 => Ports::In(vec![PortRange::all(Protocol::Sctp), range(Protocol::Tcp, 80, dice.roll(3))]),
        _ => Ports::In(
            (0..6).map(|place| range(Protocol::Udp, 10 * place + dice.roll(4), place % 3)).collect(),
        ),
    };
    Rule { action, peer, ports, index, name: (dice.roll(2) == 0).then(|| format!("rule {index}").into()) }
}

/// A ruleset in which references hold.
fn a_ruleset(dice: &mut Dice) -> Ruleset {
    let mut ruleset = Ruleset { node: [pod_address(200, Family::Ipv4)].into(), ..Ruleset::default() };
    for kind in [SetKind::Addresses, SetKind::Networks, SetKind::Ports] {
        for family in Family::ALL {
            for digest in 0..3 {
                if dice.roll(4) > 0 {
                    let id = SetId { kind, family, digest };
                    ruleset.sets.insert(id, a_set(id, dice));
                }
            }
        }
    }
    let sets: Vec<_> = ruleset.sets.keys().copied().collect();
    for tier in [Tier::Admin, Tier::Network, Tier::Baseline] {
        for direction in [Direction::Ingress, Direction::Egress] {
            for number in 0..4 {
                if dice.roll(3) == 0 {
                    continue;
                }
                let name = if number == 3 { "x".repeat(253) } else { format!("shop/policy-{number}.v1") };
                let mode = if dice.roll(4) == 0 { Mode::Audit } else { Mode::Enforce };
                let rules = (0..dice.roll(4)).map(|index| a_rule(tier, index as u16, dice, &sets)).collect();
                ruleset.policies.insert(
                    PolicyId { tier, name: name.into(), direction },
                    Arc::new(Policy { mode, rules }),
                );
            }
        }
    }
    let ids: Vec<_> = ruleset.policies.keys().cloned().collect();
    let chain = |direction: Direction, dice: &mut Dice| {
        let of = |tier: Tier| -> Vec<PolicyId> {
            ids.iter().filter(|id| id.tier == tier && id.direction == direction).cloned().collect()
        };
        let some = |dice: &mut Dice, of: Vec<PolicyId>| {
            if of.is_empty() { of } else { dice.some(&of, 2) }
        };
        let network = (dice.roll(2) == 0).then(|| Network {
            policies: some(dice, of(Tier::Network)),
            otherwise: if dice.roll(3) == 0 { Mode::Audit } else { Mode::Enforce },
        });
        Arc::new(Chain {
            admin: some(dice, of(Tier::Admin)),
            network,
            baseline: some(dice, of(Tier::Baseline)),
        })
    };
    for number in 0..dice.roll(6) {
        let endpoint = Endpoint {
            pod: format!("shop/pod-{number}").into(),
            addresses: Family::ALL.into_iter().map(|family| pod_address(number, family)).collect(),
            spoofing: if dice.roll(3) == 0 { Spoofing::Allowed } else { Spoofing::Denied },
            ingress: chain(Direction::Ingress, dice),
            egress: chain(Direction::Egress, dice),
        };
        ruleset.endpoints.insert(Ifname(format!("manx{number}").into()), Arc::new(endpoint));
    }
    ruleset
}

/// Whether the kernel has just what a ruleset says, read by a socket of its own.
#[track_caller]
fn assert_in_force(ruleset: &Ruleset) {
    let wanted = compile::table(ruleset);
    let read = Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap();
    assert_eq!(read.counters.keys().collect::<Vec<_>>(), wanted.counters.iter().collect::<Vec<_>>());
    assert_eq!(read.sets.keys().collect::<Vec<_>>(), wanted.sets.keys().collect::<Vec<_>>());
    for (name, (set, elements)) in &wanted.sets {
        let (found, held) = read.sets[name].as_ref().unwrap();
        assert!(found.is_like(set), "{name}");
        assert_eq!(held, elements, "{name}");
    }
    assert_eq!(read.chains.keys().collect::<Vec<_>>(), wanted.chains.keys().collect::<Vec<_>>());
    for (name, chain) in &wanted.chains {
        let found = &read.chains[name];
        assert_eq!((found.base, found.is_strange), (chain.base, false), "{name}");
        assert_eq!(found.rules, chain.rules.iter().map(NftRule::body).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_kernel_follows_from_any_ruleset_to_any_other() {
    in_a_namespace(|| {
        let mut dice = Dice(0x6d61_6e78);
        let driver = Driver::start().unwrap();
        driver.sweep();
        let mut now = Ruleset::default();
        for round in 0..60 {
            let next = if round % 20 == 19 { Ruleset::default() } else { a_ruleset(&mut dice) };
            let half = if dice.roll(2) == 0 { a_ruleset(&mut dice) } else { now.clone() };
            // Two at once, of which the first is overtaken.
            let first = driver.update(step(&now, &half));
            wait(driver.update(step(&half, &next))).unwrap_or_else(|error| panic!("round {round}: {error}"));
            wait(first).unwrap();
            assert_in_force(&next);
            now = next;
        }
        assert_eq!(driver.status().refused, 0);
        assert_eq!(driver.status().repaired, 0);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_restart_writes_only_what_differs_and_removes_nothing_before_the_sweep() {
    in_a_namespace(|| {
        let mut dice = Dice(77);
        let (one, other) = (a_ruleset(&mut dice), a_ruleset(&mut dice));
        let driver = Driver::start().unwrap();
        wait(driver.update(step(&Ruleset::default(), &one))).unwrap();
        drop(driver);
        assert_in_force(&one);
        let generation = || Nft::open().unwrap().generation().unwrap();

        let before = generation();
        let driver = Driver::start().unwrap();
        wait(driver.update(step(&Ruleset::default(), &one))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        assert_eq!((generation(), driver.status().commits), (before, 0));
        drop(driver);

        let driver = Driver::start().unwrap();
        wait(driver.update(step(&Ruleset::default(), &other))).unwrap();
        let held = Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap();
        for name in compile::table(&one).chains.keys() {
            assert!(held.chains.contains_key(name), "{name} went before the sweep");
        }
        driver.sweep();
        let left = || Nft::open().unwrap().read_table(compile::TABLE).unwrap().unwrap().chains.len();
        eventually("what nobody wants has gone", || left() == compile::table(&other).chains.len());
        assert_in_force(&other);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_someone_else_does_to_the_table_is_put_right_within_a_second() {
    in_a_namespace(|| {
        let mut dice = Dice(5);
        let ruleset = std::iter::repeat_with(|| a_ruleset(&mut dice))
            .find(|ruleset| ruleset.endpoints.len() > 2 && ruleset.sets.len() > 8)
            .unwrap();
        let driver = Driver::start().unwrap();
        wait(driver.update(step(&Ruleset::default(), &ruleset))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        let set = ruleset.sets.iter().find(|(id, set)| {
            id.kind == SetKind::Addresses && id.family == Family::Ipv4 && !set.members.is_empty()
        });
        let set = set.unwrap().0;
        for (repairs, harm) in [
            "delete table inet manx".to_owned(),
            "flush ruleset".to_owned(),
            "flush chain inet manx forward".to_owned(),
            "insert rule inet manx forward accept".to_owned(),
            "delete element inet manx endpoints { \"manx0\" }".to_owned(),
            format!("add element inet manx {set} {{ 203.0.113.9 }}"),
            format!("flush set inet manx {set}"),
            "add chain inet manx mine { type filter hook input priority -10; policy drop; }".to_owned(),
            // Ours by its name, and of another make.
            "delete table inet manx; add table inet manx; add chain inet manx forward { type filter hook output priority 0; }"
                .to_owned(),
        ]
        .into_iter()
        .enumerate()
        {
            run("nft", &[&harm]);
            let took = eventually(&harm, || driver.status().repaired > repairs as u64 && driver.status().in_force);
            println!("{took:?} after {harm}");
            assert!(took < Duration::from_secs(1), "{took:?} after {harm}");
            assert_in_force(&ruleset);
        }
        // Another's table is his own.
        run("nft", &["add table inet other; add chain inet other x { type filter hook input priority 0; }"]);
        let commits = driver.status().commits;
        wait(driver.update(Delta::default())).unwrap();
        assert_eq!(driver.status().commits, commits);
        assert!(run("nft", &["list", "table", "inet", "other"]).contains("chain x"));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_refused_update_leaves_the_last_one_in_force_and_is_tried_again() {
    in_a_namespace(|| {
        let mut dice = Dice(9);
        let good = a_ruleset(&mut dice);
        let driver = Driver::start().unwrap();
        wait(driver.update(step(&Ruleset::default(), &good))).unwrap();
        driver.sweep();
        eventually("swept", || driver.status().swept && driver.status().in_force);
        // An endpoint of a policy that nobody has told.
        let id = PolicyId { tier: Tier::Network, name: "shop/late".into(), direction: Direction::Ingress };
        let network = Some(Network { policies: vec![id.clone()], otherwise: Mode::Enforce });
        let endpoint = Arc::new(Endpoint {
            pod: "shop/new".into(),
            addresses: [pod_address(77, Family::Ipv4)].into(),
            spoofing: Spoofing::Denied,
            ingress: Arc::new(Chain { network, ..Chain::default() }),
            egress: Arc::default(),
        });
        let mut bad = good.clone();
        bad.endpoints.insert(Ifname("manx99".into()), endpoint);
        let error = wait(driver.update(step(&good, &bad))).unwrap_err();
        assert!(error.to_string().contains("a rule of chain to/"), "{error}");
        assert_in_force(&good);
        eventually("tried again", || driver.status().refused >= 2);
        assert!(driver.status().failing.is_some() && !driver.status().in_force);
        let mut mended = bad.clone();
        mended.policies.insert(id, Arc::new(Policy { mode: Mode::Enforce, rules: vec![] }));
        wait(driver.update(step(&bad, &mended))).unwrap();
        assert_in_force(&mended);
        assert_eq!(driver.status().failing, None);
    });
}

//! What the tests share: namespaces, waiting, and rulesets thrown by dice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// In the calling thread, for a runtime's threads would be in another namespace.
pub use futures::executor::block_on as wait;
use manx_bgp::types::Family;
use manx_felix::acl::ruleset::{
    Action, Chain, Delta, Direction, Endpoint, Ifname, Members, Mode, Network, Peer, Policy, PolicyId, Port,
    PortRange, Ports, Protocol, Range, Rule, Ruleset, Set, SetChange, SetId, SetKind, Spoofing, Tier,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a new network namespace, which ends with its thread.
pub fn in_a_namespace(test: impl FnOnce() + Send) {
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

pub fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` holds, at most ten seconds; how long it took.
pub fn eventually(what: &str, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// The step from one ruleset to another.
pub fn step(from: &Ruleset, to: &Ruleset) -> Delta {
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
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    pub fn some<T: Clone>(&mut self, of: &[T], most: usize) -> Vec<T> {
        let count = if of.is_empty() { 0 } else { self.roll(most + 1) };
        (0..count).map(|_| of[self.roll(of.len())].clone()).collect()
    }
}

pub fn pod_address(number: usize, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::from([10, 0, 0, number as u8 + 1]),
        Family::Ipv6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number as u16 + 1]),
    }
}

pub fn a_set(id: SetId, dice: &mut Dice) -> Set {
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

pub fn a_rule(tier: Tier, index: u16, dice: &mut Dice, sets: &[SetId]) -> Rule {
    let action = match (tier, dice.roll(3)) {
        (Tier::Network, _) | (_, 0) => Action::Accept,
        (_, 1) => Action::Deny,
        _ => Action::Pass,
    };
    let of = |ports: bool| -> Vec<SetId> {
        sets.iter().copied().filter(|id| (id.kind == SetKind::Ports) == ports).collect()
    };
    let plain = tier == Tier::Network && dice.roll(4) > 0;
    let peer = if plain {
        let addresses = sets.iter().copied().filter(|id| id.kind == SetKind::Addresses);
        Peer::In(dice.some(&addresses.collect::<Vec<_>>(), 2))
    } else if dice.roll(3) == 0 {
        Peer::Any
    } else {
        Peer::In(dice.some(&of(false), 3))
    };
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
pub fn a_ruleset(dice: &mut Dice) -> Ruleset {
    // So many of one pod that they are found by address.
    let many = dice.roll(3) == 0;
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
            for number in 0..if many && tier == Tier::Network { 30 } else { 4 } {
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
            policies: if many && dice.roll(3) > 0 {
                of(Tier::Network)
            } else {
                some(dice, of(Tier::Network))
            },
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

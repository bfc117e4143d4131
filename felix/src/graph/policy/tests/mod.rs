//! The graph against a reading of the API's text, and any walk against a computation from nothing.

mod generated;
mod reference;
mod size;
pub(super) mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;

use self::world::{Dice, World, addresses, ifname, lives, world};
use super::*;
use crate::acl::evaluate::{Flow, Transport};
use crate::acl::ruleset::{Direction, Protocol, Ruleset};

/// How many worlds are made; `MANX_POLICY_WORLDS` says otherwise.
const WORLDS: u64 = 120;

fn transports() -> Vec<Transport> {
    let mut all = vec![Transport::Other(1), Transport::Other(58)];
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        all.extend([80, 81, 82, 8080, 443].map(|port| Transport::Port(protocol, port)));
    }
    all
}

fn ruleset(world: &World) -> Ruleset {
    let mut policies = Policies::new("n1");
    World::default().towards(world).into_iter().for_each(|input| policies.apply(input));
    let mut ruleset = Ruleset::default();
    ruleset.apply(policies.flush());
    ruleset
}

/// References hold, and nothing is there that no endpoint leads to.
fn check(ruleset: &Ruleset) {
    let chains = ruleset.endpoints.values().flat_map(|endpoint| [&endpoint.ingress, &endpoint.egress]);
    let named: BTreeSet<&PolicyId> = chains.flat_map(|chain| chain.policies()).collect();
    assert_eq!(named, ruleset.policies.keys().collect());
    let rules = ruleset.policies.values().flat_map(|policy| &policy.rules);
    let mut sets = BTreeSet::new();
    for rule in rules {
        if let crate::acl::ruleset::Peer::In(ids) = &rule.peer {
            sets.extend(ids);
        }
        if let crate::acl::ruleset::Ports::Named(ids) = &rule.ports {
            sets.extend(ids);
        }
    }
    assert_eq!(sets, ruleset.sets.keys().collect());
}

/// Compares every packet between any two addresses; how many.
fn compare(seed: u64, world: &World, ruleset: &Ruleset) -> u64 {
    let mut compared = 0;
    let addresses = addresses();
    for source in &addresses {
        let sender =
            world.attached.iter().find(|(_, held)| held.contains(source)).map(|(name, _)| ifname(name));
        for destination in addresses.iter().filter(|address| address.is_ipv4() == source.is_ipv4()) {
            let receiver = ruleset.endpoint_of(*destination).map(|(ifname, _)| ifname.clone());
            if sender.is_none() && receiver.is_none() {
                continue;
            }
            // Of a pod that has ended or is not known all is closed but for its node: the API says nothing of those.
            let known = |held: &Option<Ifname>| {
                held.as_ref().is_none_or(|held| {
                    world.attached.keys().any(|name| {
                        let pod = world.pods.get(name);
                        let namespace = name.split_once('/').unwrap().0;
                        ifname(name) == *held
                            && pod.is_some_and(lives)
                            && world.namespaces.contains_key(namespace)
                    })
                })
            };
            for transport in transports() {
                let flow = Flow { source: *source, destination: *destination, transport };
                let verdicts = ruleset.judge(sender.as_ref(), &flow);
                let here = |held: &Option<Ifname>| held.is_some() && known(held);
                let from = world.pod_at(*source).filter(|_| here(&sender));
                let to = world.pod_at(*destination).filter(|_| here(&receiver));
                let (egress, ingress) = reference::passes(world, &flow, from, to);
                for (direction, verdict) in verdicts {
                    let (held, expected) = match direction {
                        Direction::Egress => (&sender, egress),
                        Direction::Ingress => (&receiver, ingress),
                    };
                    if known(held) {
                        compared += 1;
                        assert_eq!(
                            verdict.passes, expected,
                            "world {seed}: {direction} of {flow:?}: {verdict:?}\n{ruleset:#?}\n{world:#?}"
                        );
                    }
                }
            }
        }
    }
    compared
}

#[test]
fn worlds_at_random_are_judged_as_the_apis_text_says() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from = number("MANX_POLICY_SEED").unwrap_or(1);
    let worlds = number("MANX_POLICY_WORLDS").unwrap_or(WORLDS);
    let mut compared = 0;
    for seed in from..from + worlds {
        let world = world(seed);
        let ruleset = ruleset(&world);
        check(&ruleset);
        compared += compare(seed, &world, &ruleset);
    }
    println!("{compared} verdicts compared in {worlds} worlds");
    assert!(compared > worlds * 100, "the worlds are empty");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_walk_ends_where_a_computation_from_nothing_does(
        walk in prop::collection::vec((1..400_u64, any::<u64>(), any::<bool>()), 1..6),
    ) {
        let mut policies = Policies::new("n1");
        let (mut shown, mut here) = (Ruleset::default(), World::default());
        for (seed, shuffled, flush_each) in walk {
            let there = world(seed);
            let mut dice = Dice(shuffled);
            let mut inputs = here.towards(&there);
            // Interfaces come after those that go, as addresses do; all else in any order, and twice.
            let endpoints = inputs.iter().position(|input| matches!(input, PolicyInput::Endpoint(..)));
            let mut endpoints = inputs.split_off(endpoints.unwrap_or(inputs.len()));
            inputs.extend(inputs.clone());
            dice.shuffle(&mut inputs);
            let mut order: Vec<bool> = [vec![true; endpoints.len()], vec![false; inputs.len()]].concat();
            dice.shuffle(&mut order);
            let (mut endpoints, mut inputs) = (endpoints.drain(..), inputs.drain(..));
            for of_endpoint in order {
                let input = if of_endpoint { endpoints.next() } else { inputs.next() };
                policies.apply(input.unwrap());
                if flush_each && dice.one_in(3) {
                    shown.apply(policies.flush());
                    check(&shown);
                }
            }
            shown.apply(policies.flush());
            let fresh = ruleset(&there);
            prop_assert_eq!(&shown, &fresh, "in world {}", seed);
            prop_assert!(policies.flush().is_empty(), "something is left to do in world {}", seed);
            here = there;
        }
    }
}

//! One direction of a policy as rules on sets and ports.

use super::sets::{Description, Destinations};
use crate::acl::ruleset::{self, Direction, PortRange, Ports, SetId};
use crate::model::policy::{Peer, Policy, Port, Rule};

/// Compiles one direction. `sets` is told of every set a rule names, and answers with its ids.
pub fn compile(
    policy: &Policy,
    direction: Direction,
    mode: ruleset::Mode,
    mut sets: impl FnMut(Description) -> Vec<SetId>,
) -> ruleset::Policy {
    let mut compiled = ruleset::Policy { mode, rules: Vec::new() };
    for (index, rule) in rules(policy, direction).iter().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let mut add = |peer, ports| {
            let (action, name) = (rule.action, rule.name.clone());
            compiled.rules.push(ruleset::Rule { action, peer, ports, index, name });
        };
        if rule.peers.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let Some(ports) = &rule.ports else {
            add(peer(rule, &mut sets), Ports::Any);
            continue;
        };
        let numbers = numbers(ports);
        if !numbers.is_empty() {
            add(peer(rule, &mut sets), Ports::In(numbers));
        }
        let named = named(rule, ports, direction);
        if !named.is_empty() {
            let ids = Ports::Named(named.into_iter().flat_map(&mut sets).collect());
            // The sets of what goes out hold the ports of the peers alone.
            let peer = match direction {
                Direction::Ingress => peer(rule, &mut sets),
                Direction::Egress => ruleset::Peer::Any,
            };
            add(peer, ids);
        }
    }
    compiled
}

/// The rules of one direction.
pub fn rules(policy: &Policy, direction: Direction) -> &[Rule] {
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.as_deref().unwrap_or_default()
}

fn peer(rule: &Rule, sets: &mut impl FnMut(Description) -> Vec<SetId>) -> ruleset::Peer {
    match &rule.peers {
        None => ruleset::Peer::Any,
        Some(peers) => {
            ruleset::Peer::In(peers.iter().flat_map(|peer| sets(Description::Peer(peer.clone()))).collect())
        }
    }
}

/// Sorted, what overlaps or is adjacent made one.
fn numbers(ports: &[Port]) -> Vec<PortRange> {
    let mut numbers: Vec<PortRange> = ports
        .iter()
        .filter_map(|port| match port {
            Port::Number(range) => Some(*range),
            Port::Named(..) => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup_by(|next, last| {
        let one = last.protocol == next.protocol && u32::from(next.first) <= u32::from(last.last) + 1;
        if one {
            last.last = last.last.max(next.last);
        }
        one
    });
    numbers
}

/// The sets of ports that names mean: where a packet goes decides what a name is.
fn named(rule: &Rule, ports: &[Port], direction: Direction) -> Vec<Description> {
    let destinations: Vec<Destinations> = match (direction, &rule.peers) {
        (Direction::Ingress, _) => vec![Destinations::Here],
        (Direction::Egress, None) => vec![Destinations::Anywhere],
        (Direction::Egress, Some(peers)) => peers
            .iter()
            .filter_map(|peer| match peer {
                Peer::Pods(selector) => Some(Destinations::Selected(selector.clone())),
                Peer::Networks(ranges) => Some(Destinations::Within(ranges.clone())),
                // Nodes have no named ports.
                Peer::Nodes(_) => None,
            })
            .collect(),
    };
    let mut named: Vec<Description> = ports
        .iter()
        .filter_map(|port| match port {
            Port::Named(name, protocol) => Some((name, protocol)),
            Port::Number(_) => None,
        })
        .flat_map(|(name, protocol)| {
            destinations.iter().map(|of| Description::Ports {
                of: of.clone(),
                name: name.clone(),
                protocol: *protocol,
            })
        })
        .collect();
    named.sort_unstable();
    named.dedup();
    named
}

//! One direction of a policy: a chain of its rules, each every combination of its peers and ports.

use manx_bgp::types::Family;

use super::elements::key;
use super::numbers::{Numbers, shared};
use super::{Objects, accepted, policy_name, tell};
use crate::acl::digest;
use crate::acl::nft::{
    Chain as NftChain, CmpOp, Element, Field, Rule as NftRule, Set as NftSet, Statement, Type, Verdict,
};
use crate::acl::ruleset::{
    Action, Direction, Mode, Peer, Policy, PolicyId, PortRange, Ports, Rule, SetId, Tier,
};

/// Port ranges of one rule that are written out; more become a set.
const WRITTEN_OUT: usize = 4;

/// Whether it is written out for each chain that names it.
pub fn is_written_out(id: &PolicyId, policy: &Policy) -> bool {
    id.tier == Tier::Admin && policy.rules.iter().any(|rule| rule.action == Action::Pass)
}

/// What one direction of a policy becomes, once. `numbers` are those of the sets it names.
pub fn policy(id: &PolicyId, policy: &Policy, numbers: &Numbers) -> Objects {
    let mut objects = Objects::default();
    let name = policy_name(id);
    for rule in &policy.rules {
        if rule.action == Action::Deny {
            let chain = denial(&name, policy.mode, rule.index);
            if !objects.chains.contains_key(&chain) {
                let word = if policy.mode == Mode::Audit { "audit" } else { "deny" };
                let count = objects.count(format!("{word}/{name}"));
                objects.rule(&chain, NftRule::new([count]));
                objects.rule(&chain, tell(&format!("{word} {} {name}", rule.index)));
                if policy.mode == Mode::Enforce {
                    objects.rule(&chain, NftRule::new([Statement::Verdict(Verdict::Drop)]));
                }
            }
        } else {
            let word = if rule.action == Action::Accept { "accept" } else { "pass" };
            objects.count(format!("{word}/{name}"));
        }
        port_set(&mut objects, &name, rule);
    }
    if !is_written_out(id, policy) {
        objects.chains.insert(name.clone(), rules(id, policy, &accepted(id.direction), numbers));
    }
    objects
}

fn denial(policy: &str, mode: Mode, index: u16) -> String {
    match mode {
        Mode::Enforce => format!("deny/{index}/{policy}"),
        Mode::Audit => format!("audit/{index}/{policy}"),
    }
}

/// A policy's own rules; `pass` is where a Pass goes.
pub fn rules(id: &PolicyId, policy: &Policy, pass: &Verdict, numbers: &Numbers) -> NftChain {
    let name = policy_name(id);
    let mut chain = NftChain::default();
    for rule in &policy.rules {
        let end = match (rule.action, policy.mode) {
            (Action::Accept, _) => {
                vec![
                    Statement::CounterRef(format!("accept/{name}")),
                    Statement::Verdict(accepted(id.direction)),
                ]
            }
            (Action::Pass, _) => {
                vec![Statement::CounterRef(format!("pass/{name}")), Statement::Verdict(pass.clone())]
            }
            (Action::Deny, Mode::Enforce) => {
                vec![Statement::Verdict(Verdict::Goto(denial(&name, Mode::Enforce, rule.index)))]
            }
            (Action::Deny, Mode::Audit) => {
                vec![Statement::Verdict(Verdict::Jump(denial(&name, Mode::Audit, rule.index)))]
            }
        };
        let label = rule.name.as_deref().map_or_else(String::new, |name| format!(" {name}"));
        for matches in matches(id.direction, &name, rule, numbers) {
            let statements = matches.into_iter().chain(end.iter().cloned());
            chain
                .rules
                .push(NftRule::new(statements).comment(format!("{}[{}]{label}", id.direction, rule.index)));
        }
    }
    chain
}

/// Every combination of a peer and a port, each within one family.
fn matches(direction: Direction, policy: &str, rule: &Rule, numbers: &Numbers) -> Vec<Vec<Statement>> {
    let lookup = |fields: Vec<Field>, set: String| Statement::Lookup { fields, set, inverted: false };
    let within = |fields: &[Field], set: SetId| match shared(set).zip(numbers.of(set)) {
        Some((name, number)) => lookup([&[Field::Number(number)], fields].concat(), name.to_owned()),
        // One that is not there the kernel refuses.
        None => lookup(fields.to_vec(), set.to_string()),
    };
    let peers: Vec<(Option<Family>, Option<Statement>)> = match &rule.peer {
        Peer::Any => vec![(None, None)],
        Peer::In(sets) => sets
            .iter()
            .map(|set| {
                let field = match direction {
                    Direction::Ingress => Field::Saddr(set.family),
                    Direction::Egress => Field::Daddr(set.family),
                };
                (Some(set.family), Some(within(&[field], *set)))
            })
            .collect(),
    };
    let ports: Vec<(Option<Family>, Option<Statement>)> = match &rule.ports {
        Ports::Any => vec![(None, None)],
        Ports::In(ranges) if ranges.len() > WRITTEN_OUT => {
            let set = port_set_name(policy, ranges);
            vec![(None, Some(lookup(vec![Field::ThDport, Field::L4Proto], set)))]
        }
        Ports::In(ranges) => ranges.iter().map(|range| (None, Some(port(*range)))).collect(),
        Ports::Named(sets) => sets
            .iter()
            .map(|set| {
                let fields = [Field::Daddr(set.family), Field::L4Proto, Field::ThDport];
                (Some(set.family), Some(within(&fields, *set)))
            })
            .collect(),
    };
    let mut all = Vec::new();
    for (family, peer) in &peers {
        for (of, port) in &ports {
            if family.is_none() || of.is_none() || family == of {
                all.push(peer.iter().chain(port).cloned().collect());
            }
        }
    }
    all
}

fn port(range: PortRange) -> Statement {
    let protocol = range.protocol as u8;
    let (first, last) = (range.first.to_be_bytes().to_vec(), range.last.to_be_bytes().to_vec());
    if range.is_all() {
        Statement::Cmp { field: Field::L4Proto, op: CmpOp::Eq, value: vec![protocol] }
    } else if first == last {
        Statement::Cmp { field: Field::Dport(protocol), op: CmpOp::Eq, value: first }
    } else {
        Statement::Range { field: Field::Dport(protocol), from: first, to: last }
    }
}

/// Named by what it holds, so that it never changes.
fn port_set_name(policy: &str, ranges: &[PortRange]) -> String {
    format!("services/{}/{policy}", digest(&format!("{ranges:?}")))
}

fn port_set(objects: &mut Objects, policy: &str, rule: &Rule) {
    if let Ports::In(ranges) = &rule.ports
        && ranges.len() > WRITTEN_OUT
    {
        let name = port_set_name(policy, ranges);
        let bound = |port: u16, range: &PortRange| key(&[&port.to_be_bytes(), &[range.protocol as u8]]);
        let elements = ranges
            .iter()
            .map(|range| Element::new(bound(range.first, range)).until(bound(range.last, range)));
        objects.elements.insert(name.clone(), elements.collect());
        objects.sets.insert(name, NftSet::of_ranges([Type::InetService, Type::InetProto]));
    }
}

//! A policy as it is worked with: prefixes to be searched, nothing to be allocated until something is changed.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::prefixes::Prefixes;
use crate::api::community::{CommunityPattern, CommunityValue};
use crate::api::{self, Outcome, PathMatch, Source, Then, Verdict};
use crate::types::{Asn, Family, Prefix};
use crate::wire::{AsPath, Attributes, Segment};

#[derive(Debug)]
pub(super) struct Compiled {
    rules: Vec<Rule>,
    default: Verdict,
}

#[derive(Debug)]
struct Rule {
    prefixes: Prefixes,
    communities: Vec<CommunityPattern>,
    path: Option<PathMatch>,
    next_hop: Vec<Prefix>,
    peer: Vec<IpAddr>,
    source: Option<Source>,
    outcome: Outcome,
    /// None where nothing is changed.
    change: Option<Then>,
}

/// What a policy looks at.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) prefix: Prefix,
    pub(super) attributes: &'a Attributes,
    /// None: originated here.
    pub(super) next_hop: Option<IpAddr>,
    /// Whom it was learned from; none: originated here.
    pub(super) peer: Option<IpAddr>,
}

/// The rules, by number, that change something on a route, in order.
pub(in crate::rib) type Applied = SmallVec<[u16; 4]>;

/// What a policy says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::rib) enum Judgement {
    Accept(Applied),
    /// By this rule, or by the policy's default.
    Reject(Option<u16>),
}

impl Compiled {
    pub(super) fn of(policy: &api::Policy) -> Self {
        // A number has to fit into a path; more are refused with the orders.
        let rules = policy.rules.iter().take(usize::from(u16::MAX)).map(Rule::of).collect();
        Self { rules, default: policy.default }
    }

    pub(super) fn judge(&self, subject: &Subject<'_>) -> Judgement {
        let mut applied = Applied::new();
        for (index, rule) in (0_u16..).zip(&self.rules) {
            if !rule.matches(subject) {
                continue;
            }
            if rule.change.is_some() {
                applied.push(index);
            }
            match rule.outcome {
                Outcome::Accept => return Judgement::Accept(applied),
                Outcome::Reject => return Judgement::Reject(Some(index)),
                Outcome::Next => {}
            }
        }
        match self.default {
            Verdict::Accept => Judgement::Accept(applied),
            Verdict::Reject => Judgement::Reject(None),
        }
    }

    /// Changes attributes, and says the next hop if it is to be another.
    pub(super) fn apply(
        &self,
        applied: &Applied,
        family: Family,
        asn: Asn,
        attributes: &mut Attributes,
    ) -> Option<IpAddr> {
        let mut next_hop = None;
        for index in applied {
            let rule = self.rules.get(usize::from(*index));
            let Some(then) = rule.and_then(|rule| rule.change.as_ref()) else { continue };
            communities(then, attributes);
            attributes.local_pref = then.local_pref.or(attributes.local_pref);
            attributes.med = then.med.or(attributes.med);
            (0..then.prepend).for_each(|_| attributes.as_path.prepend(asn));
            next_hop = then.next_hop.filter(|addr| Family::of(*addr) == family).or(next_hop);
        }
        next_hop
    }
}

impl Rule {
    fn of(rule: &api::Rule) -> Self {
        let api::Match { prefixes, communities, as_path, next_hop, peer, source } = &rule.matches;
        let verdict = rule.then.verdict;
        let unchanged = Then { verdict, ..Then::default() };
        Self {
            prefixes: Prefixes::new(prefixes),
            communities: communities.clone(),
            path: (*as_path != PathMatch::default()).then(|| as_path.clone()),
            next_hop: next_hop.clone(),
            peer: peer.clone(),
            source: *source,
            outcome: verdict,
            change: (rule.then != unchanged).then(|| rule.then.clone()),
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let Subject { prefix, attributes, next_hop, peer } = *subject;
        let among = |peer: IpAddr| self.peer.contains(&peer);
        let inside = |next_hop: IpAddr| self.next_hop.iter().any(|net| net.covers(Prefix::host(next_hop)));
        self.source.is_none_or(|source| (source == Source::Learned) == peer.is_some())
            && (self.peer.is_empty() || peer.is_some_and(among))
            && (self.prefixes.is_empty() || self.prefixes.contain(prefix))
            && (self.next_hop.is_empty() || next_hop.is_some_and(inside))
            && (self.communities.is_empty() || self.communities.iter().any(|one| carries(attributes, *one)))
            && self.path.as_ref().is_none_or(|path| holds(path, &attributes.as_path))
    }
}

fn carries(attributes: &Attributes, pattern: CommunityPattern) -> bool {
    match pattern {
        CommunityPattern::Standard(_) => attributes.communities.iter().any(|one| pattern.has(*one)),
        CommunityPattern::Large(_) => attributes.large_communities.iter().any(|one| pattern.has_large(*one)),
    }
}

fn holds(wanted: &PathMatch, path: &AsPath) -> bool {
    let segments = || path.0.iter().filter(|segment| !segment.is_confed());
    let length = path.length();
    (wanted.contains.is_empty()
        || segments().any(|segment| segment.asns().iter().any(|asn| wanted.contains.contains(asn))))
        && (wanted.originates.is_empty() || segments().next_back().is_some_and(|last| begins(wanted, last)))
        && wanted.min_length.is_none_or(|min| length >= min)
        && wanted.max_length.is_none_or(|max| length <= max)
}

/// The AS a route begins in is the last of a sequence, and may be any of a set.
fn begins(wanted: &PathMatch, last: &Segment) -> bool {
    let asns = last.asns();
    let candidates = match last {
        Segment::Sequence(_) => &asns[asns.len().saturating_sub(1)..],
        _ => asns,
    };
    candidates.iter().any(|asn| wanted.originates.contains(asn))
}

fn communities(then: &Then, attributes: &mut Attributes) {
    if then.set_communities.is_some() {
        attributes.communities.clear();
        attributes.large_communities.clear();
    }
    for pattern in &then.remove_communities {
        attributes.communities.retain(|one| !pattern.has(*one));
        attributes.large_communities.retain(|one| !pattern.has_large(*one));
    }
    for value in then.set_communities.iter().flatten().chain(&then.add_communities) {
        match *value {
            CommunityValue::Standard(one) => insert(&mut attributes.communities, one),
            CommunityValue::Large(one) => insert(&mut attributes.large_communities, one),
        }
    }
}

/// Into a sorted list without repeats.
fn insert<T: Ord>(list: &mut Vec<T>, one: T) {
    if let Err(place) = list.binary_search(&one) {
        list.insert(place, one);
    }
}

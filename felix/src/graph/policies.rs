//! What is taken from a neighbour, and what it is told, as the speaker's policies.

use std::collections::BTreeSet;

use manx_bgp::api::{Match, Outcome, PathMatch, Policy, PrefixRange, Rule, Source, Then, Verdict};
use manx_bgp::types::{Interface, Prefix};

use crate::model::{Filter, FilterRule};

/// What a neighbour is told where no filter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// What begins here: a node is no way to anywhere else.
    Own,
    /// What begins on nodes of our AS, too: they have the reflector for it (RFC 4456). What routers told a node is the
    /// business of who has a session with them.
    Reflected,
}

/// Everything but our own blocks, which nobody else can know the way to; parts of them that belong to other nodes are
/// theirs to announce. Then what filters say.
pub fn import(
    filters: &[&Filter],
    interface: Option<Interface>,
    blocks: &BTreeSet<Prefix>,
    parts: &BTreeSet<Prefix>,
) -> Policy {
    let mut policy = Policy::accept_except("our own blocks", blocks.iter().copied());
    if !parts.is_empty() {
        let prefixes = parts.iter().copied().map(PrefixRange::inside).collect();
        let matches = Match { prefixes, ..Match::default() };
        let parts = Rule { name: "parts of our own blocks".to_owned(), matches, ..Rule::default() };
        policy.rules.insert(0, parts);
    }
    policy.rules.extend(rules(filters.iter().flat_map(|filter| &filter.import), interface));
    policy
}

/// What filters say, and then what `export` does.
pub fn export(filters: &[&Filter], interface: Option<Interface>, export: Export) -> Policy {
    let mut rules: Vec<Rule> = rules(filters.iter().flat_map(|filter| &filter.export), interface).collect();
    rules.extend(Policy::originated().rules);
    if export == Export::Reflected {
        let as_path = PathMatch { max_length: Some(0), ..PathMatch::default() };
        rules.push(Rule {
            name: "of our own AS".to_owned(),
            matches: Match { as_path, source: Some(Source::Learned), ..Match::default() },
            then: Then { verdict: Outcome::Accept, ..Then::default() },
        });
    }
    Policy { rules, default: Verdict::Reject }
}

/// The same but for service addresses, those of these ranges: nodes have them by kube-proxy, and a route for each on
/// every node would be of no use.
pub fn without_services(mut policy: Policy, ranges: &BTreeSet<Prefix>) -> Policy {
    if !ranges.is_empty() {
        let within = ranges.iter().flat_map(|range| [PrefixRange::exact(*range), PrefixRange::hosts(*range)]);
        let services = Rule {
            name: "service addresses".to_owned(),
            matches: Match { prefixes: within.collect(), ..Match::default() },
            then: Then { verdict: Outcome::Reject, ..Then::default() },
        };
        policy.rules.insert(0, services);
    }
    policy
}

fn rules<'a>(
    rules: impl Iterator<Item = &'a FilterRule>,
    interface: Option<Interface>,
) -> impl Iterator<Item = Rule> {
    let here = move |rule: &&FilterRule| rule.interface.is_none() || rule.interface == interface;
    rules.filter(here).map(|rule| rule.rule.clone())
}

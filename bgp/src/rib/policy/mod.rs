//! What may come in and go out: RFC 8212's default, the configured policies, and BGP's own rules.

mod compiled;
mod prefixes;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) use compiled::{Applied, Judgement};
use compiled::{Compiled, Subject};

use super::audience::Audience;
use super::path::{Path, Received, Refusal};
use super::{Leaving, PeerFacts};
use crate::api;
use crate::types::{Asn, Family, Prefix};
use crate::wire::{Attributes, Community};

/// An [`api::Policy`], compiled. Cheap to clone; equal where what was written is.
#[derive(Clone)]
pub struct Policy(Arc<(api::Policy, Compiled)>);

impl Policy {
    /// Whether it says the same of every route.
    pub(super) fn is_uniform(&self) -> bool {
        self.0.0.rules.is_empty()
    }

    /// All it may give to a route.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = IpAddr> {
        self.0.0.rules.iter().filter_map(|rule| rule.then.next_hop)
    }

    fn judge(&self, subject: &Subject<'_>) -> Judgement {
        self.0.1.judge(subject)
    }

    /// What the rules in `applied` make of a route on its way to or from one of `family`.
    pub(super) fn apply(
        &self,
        applied: &Applied,
        family: Family,
        asn: Asn,
        attributes: &mut Attributes,
    ) -> Option<IpAddr> {
        self.0.1.apply(applied, family, asn, attributes)
    }

    /// A rule as people know it: `rule 2 "too small"`.
    fn rule(&self, index: u16) -> String {
        match self.0.0.rules.get(usize::from(index)).map(|rule| rule.name.as_str()) {
            None | Some("") => format!("rule {}", u32::from(index) + 1),
            Some(name) => format!("rule {} \"{name}\"", u32::from(index) + 1),
        }
    }
}

impl From<&api::Policy> for Policy {
    fn from(written: &api::Policy) -> Self {
        Self(Arc::new((written.clone(), Compiled::of(written))))
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.0 == other.0.0
    }
}

impl Eq for Policy {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

/// What the import policy says of what this peer said.
pub(super) fn import(facts: &PeerFacts, received: &Received, prefix: Prefix) -> Result<Applied, Refusal> {
    let Some(policy) = &facts.import else {
        return if facts.session.ebgp { Err(Refusal::NoPolicy) } else { Ok(Applied::new()) };
    };
    let subject = Subject {
        prefix,
        attributes: &received.attributes,
        next_hop: Some(received.next_hop.addr()),
        peer: Some(facts.address),
    };
    match policy.judge(&subject) {
        Judgement::Accept(applied) => Ok(applied),
        Judgement::Reject(Some(rule)) => Err(Refusal::Rule(rule)),
        Judgement::Reject(None) => Err(Refusal::Policy),
    }
}

/// Why a peer's path is refused, in words.
pub(super) fn words(refusal: Refusal, facts: Option<&PeerFacts>) -> String {
    match (refusal, facts.and_then(|facts| facts.import.as_ref())) {
        (Refusal::Rule(index), Some(policy)) => {
            format!("refused: {} of the import policy", policy.rule(index))
        }
        _ => refusal.to_string(),
    }
}

/// Whether `path`, if it is the best, may go out to `audience`, its own source apart, and which rules change
/// something on it then. `source` is whom it came from, as in the path.
pub(super) fn export(
    audience: &Audience,
    prefix: Prefix,
    path: &Path,
    source: Option<&PeerFacts>,
) -> Option<Applied> {
    if audience.leaving == Leaving::Withdrawn || !source.is_none_or(|source| passes(audience, path, source)) {
        return None;
    }
    let Some(policy) = &audience.export else {
        return (!audience.session.ebgp).then(Applied::new);
    };
    let subject = Subject {
        prefix,
        attributes: &path.attributes,
        next_hop: source.map(|_| path.next_hop.addr()),
        peer: source.map(|source| source.address),
    };
    match policy.judge(&subject) {
        Judgement::Accept(applied) => Some(applied),
        Judgement::Reject(_) => None,
    }
}

/// BGP's own rules about what was learned from `source`, whatever the policy is.
///
/// RFC 1997's well-known communities bind received routes: an originated one that carries NO_EXPORT is
/// told to external peers, for them to obey.
fn passes(audience: &Audience, path: &Path, source: &PeerFacts) -> bool {
    let ebgp = audience.session.ebgp;
    // RFC 4271, section 9.2: what an internal peer said is not repeated to another, unless it is
    // reflected (RFC 4456, section 6): what a client said to everyone, the rest to clients.
    (ebgp || source.session.ebgp || source.client || audience.client)
        && !path.attributes.communities.iter().any(|community| match *community {
            Community::NO_ADVERTISE => true,
            // RFC 9494, section 4.3; for those inside our AS who do not know it, section 4.6.
            Community::LLGR_STALE => ebgp && !audience.long_lived,
            // RFC 7999, section 3.2: a blackhole is not for other ASes.
            Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED | Community::BLACKHOLE => ebgp,
            Community::NO_PEER => ebgp && audience.bilateral,
            _ => false,
        })
}

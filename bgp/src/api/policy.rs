//! Policies as they are written: what is taken from a neighbour, what is told to it.
//!
//! ```toml
//! [peers.import]                               # rules in order; what none of them decides is
//! default = "accept"                           # "reject" unless set
//!
//! [[peers.import.rules]]
//! name = "default route"                       # told where it refuses a route
//! match = { prefixes = [{ prefix = "0.0.0.0/0" }], asPath = { contains = [65010] } }
//! then = { verdict = "reject" }                # "accept" unless set; "next": go on with the next rule
//!
//! [[peers.import.rules]]
//! match = { communities = ["64512:*", "no-export"], source = "learned" }
//! then = { localPref = 200, addCommunities = ["64512:7", "64512:1:2"] }
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::community::{CommunityPattern, CommunityValue};
use crate::types::{Asn, Prefix};

/// Ordered rules. The first that matches and does not say `next` decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// At most 65,535. All of them look at the route as it came, not at what an earlier rule made of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// What becomes of a route no rule decides.
    #[serde(default)]
    pub default: Verdict,
}

/// One rule of a [`Policy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// For people, who are told which rule refused a route.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which routes it is about; all, unless something is said.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// What becomes of them.
    #[serde(default)]
    pub then: Then,
}

/// Everything that is said must hold; of a list, one entry must. What is left out holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// The destination is one of these.
    pub prefixes: Vec<PrefixRange>,
    /// It has one of these communities, of any kind: `64512:*`, `64512:1:*`, `no-export`.
    pub communities: Vec<CommunityPattern>,
    /// About its AS path.
    pub as_path: PathMatch,
    /// Its next hop is in one of these. An originated route has none.
    pub next_hop: Vec<Prefix>,
    /// It was learned from one of these neighbours.
    pub peer: Vec<IpAddr>,
    /// Where it begins.
    pub source: Option<Source>,
}

/// About an AS path. Sets and sequences count alike; confederation segments do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// One of these is somewhere in it.
    pub contains: Vec<Asn>,
    /// One of these is the last: the AS the route begins in.
    pub originates: Vec<Asn>,
    /// As the decision process counts: at least this many.
    pub min_length: Option<usize>,
    /// At most this many.
    pub max_length: Option<usize>,
}

/// Where a route begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// Here: a [`super::Network`] or an aggregate.
    Originated,
    /// A neighbour told it.
    Learned,
}

/// What becomes of a route that matches. Nothing is changed on one that is rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Then {
    /// Whether it is taken, or looked at by the next rule.
    pub verdict: Outcome,
    /// Replaces its communities of every kind; done before the two below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_communities: Option<Vec<CommunityValue>>,
    /// Takes these off.
    pub remove_communities: Vec<CommunityPattern>,
    /// Puts these on.
    pub add_communities: Vec<CommunityValue>,
    /// LOCAL_PREF; without effect on what an external neighbour is told.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Puts our own AS in front this many times; towards external neighbours, beside the one that is there anyway.
    pub prepend: u8,
    /// The next hop; of no effect on routes of the other family.
    pub next_hop: Option<IpAddr>,
}

/// The end of a [`Policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The route is taken.
    Accept,
    /// It is not.
    #[default]
    Reject,
}

/// What a [`Rule`] says of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is taken.
    #[default]
    Accept,
    /// It is not.
    Reject,
    /// Something is changed on it, should it be taken in the end.
    Next,
}

/// A prefix and how long the prefixes inside it may be: `{ prefix = "10.0.0.0/8", ge = 16, le = 24 }`. Without
/// `ge` and `le` it is the prefix itself; `ge` alone reaches to the longest, `le` alone begins with the prefix itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRange", into = "RawRange")]
pub struct PrefixRange {
    prefix: Prefix,
    min: u8,
    max: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRange {
    prefix: Prefix,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ge: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    le: Option<u8>,
}

/// Lengths that hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{prefix}: lengths from {min} to {max} are none of its own: they go from {shortest} to {longest}", shortest = .prefix.length())]
pub struct RangeError {
    prefix: Prefix,
    min: u8,
    max: u8,
    longest: u8,
}

impl PrefixRange {
    /// `prefix` and nothing else.
    pub fn exact(prefix: Prefix) -> Self {
        Self { prefix, min: prefix.length(), max: prefix.length() }
    }

    /// `prefix` and everything in it.
    pub fn inside(prefix: Prefix) -> Self {
        Self { prefix, min: prefix.length(), max: prefix.family().width() }
    }

    /// The single addresses in `prefix`.
    pub fn hosts(prefix: Prefix) -> Self {
        let longest = prefix.family().width();
        Self { prefix, min: longest, max: longest }
    }

    /// What covers them all.
    pub fn prefix(self) -> Prefix {
        self.prefix
    }

    /// The shortest and the longest, in bits.
    pub fn lengths(self) -> (u8, u8) {
        (self.min, self.max)
    }
}

impl TryFrom<RawRange> for PrefixRange {
    type Error = RangeError;

    fn try_from(RawRange { prefix, ge, le }: RawRange) -> Result<Self, RangeError> {
        let longest = prefix.family().width();
        let min = ge.unwrap_or(prefix.length());
        let max = le.unwrap_or(if ge.is_some() { longest } else { prefix.length() });
        if prefix.length() <= min && min <= max && max <= longest {
            Ok(Self { prefix, min, max })
        } else {
            Err(RangeError { prefix, min, max, longest })
        }
    }
}

impl From<PrefixRange> for RawRange {
    fn from(PrefixRange { prefix, min, max }: PrefixRange) -> Self {
        let exact = (min, max) == (prefix.length(), prefix.length());
        Self { prefix, ge: (!exact).then_some(min), le: (!exact).then_some(max) }
    }
}

impl Policy {
    /// Everything.
    pub fn accept() -> Self {
        Self { rules: Vec::new(), default: Verdict::Accept }
    }

    /// Nothing.
    pub fn reject() -> Self {
        Self::default()
    }

    /// Everything but `prefixes` and what is in them; `name` is told of those.
    pub fn accept_except(name: &str, prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let prefixes: Vec<_> = prefixes.into_iter().map(PrefixRange::inside).collect();
        if prefixes.is_empty() {
            // A rule about no prefixes would be about all.
            return Self::accept();
        }
        let rule = Rule {
            name: name.to_owned(),
            matches: Match { prefixes, ..Match::default() },
            then: Then { verdict: Outcome::Reject, ..Then::default() },
        };
        Self { rules: vec![rule], default: Verdict::Accept }
    }

    /// What begins here and nothing else.
    pub fn originated() -> Self {
        let matches = Match { source: Some(Source::Originated), ..Match::default() };
        Self { rules: vec![Rule { matches, ..Rule::default() }], default: Verdict::Reject }
    }

    /// Whether there may be a learned route it takes.
    pub fn takes_learned(&self) -> bool {
        let takes = |rule: &Rule| {
            rule.then.verdict == Outcome::Accept && rule.matches.source != Some(Source::Originated)
        };
        self.default == Verdict::Accept || self.rules.iter().any(takes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_as_it_is_written_and_back() {
        let policy: Policy = serde_json::from_str(
            r#"{"default": "accept", "rules": [
              {"name": "too small",
               "match": {"prefixes": [{"prefix": "10.0.0.0/8", "ge": 25}, {"prefix": "::/0", "ge": 49, "le": 127}]},
               "then": {"verdict": "reject"}},
              {"match": {"communities": ["64512:*", "1:2:*"], "source": "learned",
                         "asPath": {"contains": [65010], "minLength": 2}},
               "then": {"verdict": "next", "localPref": 200, "removeCommunities": ["*:666"],
                        "addCommunities": ["no-export", "1:2:3"]}}]}"#,
        )
        .unwrap();
        assert_eq!(policy.rules[0].matches.prefixes[0].lengths(), (25, 32));
        assert_eq!(policy.rules[1].then.verdict, Outcome::Next);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    }

    #[test]
    fn a_policy_tells_whether_it_may_take_what_was_learned() {
        assert!(Policy::accept().takes_learned());
        assert!(Policy::accept_except("", []).takes_learned());
        assert!(!Policy::originated().takes_learned());
        assert!(!Policy::reject().takes_learned());
    }

    #[test]
    fn lengths_outside_the_prefix_are_refused_in_words() {
        for (range, told) in [
            (r#"{"prefix": "10.0.0.0/8", "ge": 4}"#, "lengths from 4 to 32"),
            (r#"{"prefix": "10.0.0.0/8", "le": 33}"#, "they go from 8 to 32"),
            (r#"{"prefix": "10.0.0.0/8", "ge": 24, "le": 16}"#, "lengths from 24 to 16"),
        ] {
            let error = serde_json::from_str::<PrefixRange>(range).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}

//! Neighbours by range, as the API wants and tells them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PeerConfig;
use crate::types::{Asn, Interface, Prefix};

/// Neighbours that are known by where they call from alone. Each that calls has a session of its own until it is gone
/// (after its restart time, where it restarts gracefully); none is ever called. Of ranges that hold an address the longest
/// counts; a neighbour among [`super::Config::peers`] is in none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    /// Where they call from; inside `fe80::/10` `settings.interface` is needed.
    pub prefix: Prefix,
    /// The ASes they may claim: `65001`, `"65100-65199"`.
    pub asns: Vec<AsnRange>,
    /// How many may have a session at one time: at least 1; 100 unless set.
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// What is said of each; without address, AS and port, and they call, whatever `passive` says.
    #[serde(default)]
    pub settings: PeerConfig,
}

fn default_limit() -> u32 {
    100
}

/// How a range is told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeId {
    /// Where they call from.
    pub prefix: Prefix,
    /// Over which interface, where only one is allowed.
    pub interface: Option<Interface>,
}

impl fmt::Display for RangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interface {
            Some(interface) => write!(f, "{} on {interface}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

impl Range {
    /// A range of which nothing more is said.
    pub fn new(prefix: Prefix, asns: Vec<AsnRange>) -> Self {
        Self { prefix, asns, limit: default_limit(), settings: PeerConfig::default() }
    }

    /// What tells it from others.
    pub fn id(&self) -> RangeId {
        RangeId { prefix: self.prefix, interface: self.settings.interface }
    }
}

/// How many a range has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeStatus {
    /// Where they call from.
    pub prefix: Prefix,
    /// Over which interface, where only one is allowed.
    #[serde(default)]
    pub interface: Option<Interface>,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Neighbours it has now.
    pub sessions: u32,
    /// How many it may have.
    pub limit: u32,
    /// Calls refused because it had as many.
    pub refused: u64,
}

/// ASes from one to another, both included: `65100-65199`, or one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct AsnRange {
    first: Asn,
    last: Asn,
}

/// Not ASes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is neither an AS nor a range of them: expected a number from 1 on, as in 65001, or two, as in 65100-65199"
)]
pub struct AsnRangeError(String);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(u32),
    Text(String),
}

impl AsnRange {
    /// Whether an AS is in it.
    pub fn contains(self, asn: Asn) -> bool {
        (self.first..=self.last).contains(&asn)
    }

    /// The only AS in it, if it is one.
    pub fn single(self) -> Option<Asn> {
        (self.first == self.last).then_some(self.first)
    }
}

impl From<Asn> for AsnRange {
    fn from(asn: Asn) -> Self {
        Self { first: asn, last: asn }
    }
}

impl FromStr for AsnRange {
    type Err = AsnRangeError;

    fn from_str(text: &str) -> Result<Self, AsnRangeError> {
        let number = |text: &str| text.trim().parse().ok().map(Asn);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (number(first), number(last)),
            None => (number(text), number(text)),
        };
        match (first, last) {
            (Some(first), Some(last)) if Asn(0) < first && first <= last => Ok(Self { first, last }),
            _ => Err(AsnRangeError(text.to_owned())),
        }
    }
}

impl TryFrom<Written> for AsnRange {
    type Error = AsnRangeError;

    fn try_from(written: Written) -> Result<Self, AsnRangeError> {
        match written {
            Written::One(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<AsnRange> for Written {
    fn from(range: AsnRange) -> Self {
        match range.single() {
            Some(asn) => Self::One(asn.0),
            None => Self::Text(format!("{}-{}", range.first.0, range.last.0)),
        }
    }
}

impl fmt::Display for AsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(asn) => asn.fmt(f),
            None => write!(f, "{} to {}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ases_are_read_as_numbers_and_as_ranges() {
        let read = |json: &str| serde_json::from_str::<AsnRange>(json);
        assert_eq!(read("65001").unwrap().single(), Some(Asn(65001)));
        let range = read("\"65100-65199\"").unwrap();
        assert_eq!([65099, 65100, 65199, 65200].map(|n| range.contains(Asn(n))), [false, true, true, false]);
        for range in ["65001", "\"1-4294967295\""] {
            assert_eq!(serde_json::to_string(&read(range).unwrap()).unwrap(), range);
        }
        for bad in ["0", "\"0-5\"", "\"9-8\"", "\"x\"", "\"65001-\""] {
            let words = read(bad).unwrap_err().to_string();
            assert!(words.contains("65100-65199"), "{words}");
        }
    }
}

//! COMMUNITIES (8): RFC 1997; RFC 7606, section 7.8.

use std::fmt;
use std::str::FromStr;

use nom::combinator::map;
use nom::number::complete::be_u32;

use super::{Draft, Malformed, put, sorted};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE, community};
use crate::wire::Session;
use crate::wire::parse::every;

/// RFC 1997, shown as `asn:value` or by its well-known name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a community: expected asn:value, both 0 to 65535, or a well-known name such as no-export"
)]
pub struct ParseCommunityError(String);

const WELL_KNOWN: [(u32, &str); 8] = [
    (community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
    (community::LLGR_STALE, "llgr-stale"),
    (community::NO_LLGR, "no-llgr"),
    (community::BLACKHOLE, "blackhole"),
    (community::NO_EXPORT, "no-export"),
    (community::NO_ADVERTISE, "no-advertise"),
    (community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    (community::NO_PEER, "no-peer"),
];

impl Community {
    /// RFC 8326: the session it comes by is about to end.
    pub const GRACEFUL_SHUTDOWN: Self = Self(community::GRACEFUL_SHUTDOWN);
    /// RFC 9494: kept for long after its neighbour was lost; any other path is better.
    pub const LLGR_STALE: Self = Self(community::LLGR_STALE);
    /// RFC 9494: not to be kept so.
    pub const NO_LLGR: Self = Self(community::NO_LLGR);
    /// RFC 1997: not outside a confederation.
    pub const NO_EXPORT: Self = Self(community::NO_EXPORT);
    /// RFC 7999: traffic to it is to be dropped; not for other ASes.
    pub const BLACKHOLE: Self = Self(community::BLACKHOLE);
    /// RFC 1997: to nobody.
    pub const NO_ADVERTISE: Self = Self(community::NO_ADVERTISE);
    /// RFC 1997: to no external neighbour, not even inside a confederation.
    pub const NO_EXPORT_SUBCONFED: Self = Self(community::NO_EXPORT_SUBCONFED);
    /// RFC 3765: to no external neighbour by a bilateral agreement.
    pub const NO_PEER: Self = Self(community::NO_PEER);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, ParseCommunityError> {
        if let Some((number, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == text) {
            return Ok(Self(*number));
        }
        let halves = || {
            let (asn, value) = text.split_once(':')?;
            Some((asn.parse::<u16>().ok()?, value.parse::<u16>().ok()?))
        };
        let (asn, value) = halves().ok_or_else(|| ParseCommunityError(text.to_owned()))?;
        Ok(Self(u32::from(asn) << 16 | u32::from(value)))
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.communities = sorted(every(value, map(be_u32, Community))?)?;
    Ok(())
}

pub(super) fn write(communities: &[Community], out: &mut Vec<u8>) {
    if communities.is_empty() {
        return;
    }
    put(OPTIONAL | TRANSITIVE, attribute::COMMUNITIES, out, |out| {
        out.extend(communities.iter().flat_map(|community| community.0.to_be_bytes()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8092_communities_are_typed_as_they_are_shown() {
        for text in ["64512:100", "0:0", "65535:65534", "no-export", "no-advertise", "blackhole"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!("65535:65281".parse(), Ok(Community::NO_EXPORT));
    }

    #[test]
    fn a_bad_text_is_refused_in_words() {
        for text in ["64512", "65536:1", "1:2:3", "a:b", ""] {
            let error = text.parse::<Community>().unwrap_err();
            assert!(error.to_string().contains("expected asn:value"), "{error}");
        }
    }
}

//! LARGE_COMMUNITY (32): RFC 8092.

use std::fmt;

use nom::Parser;
use nom::combinator::map;
use nom::number::complete::be_u32;

use super::{Draft, Malformed, put, sorted};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE};
use crate::wire::Session;
use crate::wire::parse::{Parsed, every};

/// RFC 8092: global administrator and two local data parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.large_communities = sorted(every(value, large_community)?)?;
    Ok(())
}

fn large_community(input: &[u8]) -> Parsed<'_, LargeCommunity> {
    map((be_u32, be_u32, be_u32), |(admin, one, two)| LargeCommunity(admin, one, two)).parse(input)
}

pub(super) fn write(communities: &[LargeCommunity], out: &mut Vec<u8>) {
    if communities.is_empty() {
        return;
    }
    put(OPTIONAL | TRANSITIVE, attribute::LARGE_COMMUNITY, out, |out| {
        for LargeCommunity(admin, one, two) in communities {
            out.extend([admin, one, two].into_iter().flat_map(|part| part.to_be_bytes()));
        }
    });
}

//! ORIGIN (1): RFC 4271, section 5.1.1; RFC 7606, section 7.1.

use std::fmt;

use nom::Parser;
use nom::number::complete::be_u8;

use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::TRANSITIVE};
use crate::wire::Session;
use crate::wire::parse::{Parsed, all, refuse};

/// RFC 4271, section 5.1.1; smaller is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// 0.
    Igp = 0,
    /// 1.
    Egp = 1,
    /// 2.
    Incomplete = 2,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "INCOMPLETE",
        })
    }
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.origin = Some(all(value, origin)?);
    Ok(())
}

fn origin(input: &[u8]) -> Parsed<'_, Origin> {
    let (rest, number) = be_u8.parse(input)?;
    match number {
        0 => Ok((rest, Origin::Igp)),
        1 => Ok((rest, Origin::Egp)),
        2 => Ok((rest, Origin::Incomplete)),
        other => refuse(format!("origin {other} is not 0, 1 or 2")),
    }
}

pub(super) fn write(origin: Origin, out: &mut Vec<u8>) {
    put(TRANSITIVE, attribute::ORIGIN, out, |out| out.push(origin as u8));
}

//! ATOMIC_AGGREGATE (6), AGGREGATOR (7) and AS4_AGGREGATOR (18): RFC 4271, sections 5.1.6 and 5.1.7;
//! RFC 6793; RFC 7606, sections 7.6 and 7.7.

use std::net::Ipv4Addr;

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::map;
use nom::number::complete::{be_u16, be_u32};

use super::as_path::two_octets;
use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE};
use crate::types::Asn;
use crate::wire::Session;
use crate::wire::parse::{Parsed, WireError, all, octets};

pub(super) fn parse_atomic(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    all(value, take(0_usize))?;
    draft.atomic_aggregate = true;
    Ok(())
}

pub(super) fn parse(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    let parsed = if session.asn4 { all(value, wide)? } else { all(value, narrow)? };
    draft.aggregator = Some(not_zero(parsed)?);
    Ok(())
}

pub(super) fn parse_as4(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    if session.asn4 {
        return Err(Malformed::discard("a neighbour with four-octet AS numbers may not send it"));
    }
    draft.as4_aggregator = Some(not_zero(all(value, wide)?)?);
    Ok(())
}

fn wide(input: &[u8]) -> Parsed<'_, (Asn, Ipv4Addr)> {
    (map(be_u32, Asn), map(octets, Ipv4Addr::from)).parse(input)
}

fn narrow(input: &[u8]) -> Parsed<'_, (Asn, Ipv4Addr)> {
    (map(be_u16, |asn| Asn(asn.into())), map(octets, Ipv4Addr::from)).parse(input)
}

fn not_zero(aggregator: (Asn, Ipv4Addr)) -> Result<(Asn, Ipv4Addr), Malformed> {
    match aggregator {
        (Asn(0), _) => Err(WireError::Value("its AS is 0 (RFC 7607)".into()).into()),
        good => Ok(good),
    }
}

pub(super) fn write_atomic(out: &mut Vec<u8>) {
    put(TRANSITIVE, attribute::ATOMIC_AGGREGATE, out, |_| ());
}

pub(super) fn write((asn, addr): (Asn, Ipv4Addr), session: &Session, out: &mut Vec<u8>) {
    put(OPTIONAL | TRANSITIVE, attribute::AGGREGATOR, out, |out| {
        if session.asn4 {
            out.extend(asn.0.to_be_bytes());
        } else {
            out.extend(two_octets(asn).to_be_bytes());
        }
        out.extend(addr.octets());
    });
}

/// Only where AGGREGATOR alone would lose the AS.
pub(super) fn write_as4((asn, addr): (Asn, Ipv4Addr), session: &Session, out: &mut Vec<u8>) {
    if session.asn4 || u16::try_from(asn.0).is_ok() {
        return;
    }
    put(OPTIONAL | TRANSITIVE, attribute::AS4_AGGREGATOR, out, |out| {
        out.extend(asn.0.to_be_bytes());
        out.extend(addr.octets());
    });
}

//! MP_REACH_NLRI (14) and MP_UNREACH_NLRI (15): RFC 4760, sections 3 and 4; RFC 2545, section 3;
//! RFC 7606, sections 5.3 and 7.11. One that cannot be read hides prefixes, so it ends the session.

use std::net::{Ipv4Addr, Ipv6Addr};

use nom::Parser;
use nom::combinator::map;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16};

use super::{Draft, Malformed, NextHop, put};
use crate::iana::{attribute, attribute_flag::EXTENDED_LENGTH, attribute_flag::OPTIONAL, safi};
use crate::types::Family;
use crate::wire::parse::{Parsed, WireError, all, octets};
use crate::wire::{Announcement, Nlri, Session, nlri};

pub(super) fn parse_reach(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    let (field, (afi, safi, next_hop, _reserved)) = reach_head(value).map_err(short)?;
    let family = negotiated(afi, safi, session)?;
    let next_hop = read_next_hop(family, next_hop)?;
    let mut prefixes = Vec::new();
    nlri::parse(field, family, session.receives_path_ids(family), &mut prefixes).ok_or_else(bad_prefixes)?;
    draft.mp_reach = Some(Announcement { next_hop, prefixes });
    if next_hop.is_host() {
        Ok(())
    } else {
        Err(Malformed::withdraw(format!("next hop {} cannot be a host's address", next_hop.addr())))
    }
}

pub(super) fn parse_unreach(value: &[u8], draft: &mut Draft, session: &Session) -> Result<(), Malformed> {
    let (field, (afi, safi)) = family(value).map_err(short)?;
    let family = negotiated(afi, safi, session)?;
    let mut prefixes = Vec::new();
    nlri::parse(field, family, session.receives_path_ids(family), &mut prefixes).ok_or_else(bad_prefixes)?;
    draft.mp_unreach = Some((family, prefixes));
    Ok(())
}

fn family(input: &[u8]) -> Parsed<'_, (u16, u8)> {
    (be_u16, be_u8).parse(input)
}

fn reach_head(input: &[u8]) -> Parsed<'_, (u16, u8, &[u8], u8)> {
    (be_u16, be_u8, length_data(be_u8), be_u8).parse(input)
}

fn short(error: nom::Err<WireError<'_>>) -> Malformed {
    match error {
        nom::Err::Error(error) | nom::Err::Failure(error) => error.into(),
        nom::Err::Incomplete(_) => WireError::Short(&[]).into(),
    }
}

fn bad_prefixes() -> Malformed {
    WireError::Value("its prefixes cannot be read".into()).into()
}

/// A family that was not agreed on is nothing to us, however it is filled.
fn negotiated(afi: u16, safi: u8, session: &Session) -> Result<Family, Malformed> {
    Family::from_wire(afi, safi)
        .filter(|family| session.families.contains(family))
        .ok_or_else(|| Malformed::discard(format!("AFI {afi} SAFI {safi} was not negotiated")))
}

/// RFC 2545: 16 octets, or 32 with a link-local address behind the global one. Some speakers fill the
/// second with zeroes or a copy: only a link-local one is kept. For IPv4 too (RFC 8950): the length tells what
/// it is, so what was negotiated is not looked at.
fn read_next_hop(family: Family, value: &[u8]) -> Result<NextHop, WireError<'_>> {
    match (family, value.len()) {
        (Family::Ipv4, 4) => all(value, map(octets, |addr| NextHop::V4(Ipv4Addr::from(addr)))),
        (_, 16) => all(value, map(octets, |addr| NextHop::V6 { global: addr.into(), link_local: None })),
        (_, 32) => all(
            value,
            map((octets, octets), |(global, second)| {
                let second = Ipv6Addr::from(second);
                NextHop::V6 {
                    global: global.into(),
                    link_local: second.is_unicast_link_local().then_some(second),
                }
            }),
        ),
        (family, length) => {
            Err(WireError::Value(format!("a next hop of {length} octets does not fit {family}")))
        }
    }
}

/// The next hop need not be of the prefixes' family (RFC 8950), the prefixes must be of one.
pub(in crate::wire) fn write_reach(
    family: Family,
    announcement: &Announcement,
    session: &Session,
    out: &mut Vec<u8>,
) {
    put(OPTIONAL, attribute::MP_REACH_NLRI, out, |out| {
        reach(family, announcement.next_hop, out);
        for nlri in &announcement.prefixes {
            nlri::write(*nlri, session.sends_path_ids(family), out);
        }
    });
}

/// Begins an MP_REACH_NLRI whose prefixes follow, and says where its length of two octets is to be put.
pub(in crate::wire) fn open_reach(family: Family, next_hop: NextHop, out: &mut Vec<u8>) -> usize {
    let length = open(attribute::MP_REACH_NLRI, out);
    reach(family, next_hop, out);
    length
}

/// As [`open_reach`].
pub(in crate::wire) fn open_unreach(family: Family, out: &mut Vec<u8>) -> usize {
    let length = open(attribute::MP_UNREACH_NLRI, out);
    out.extend(family.afi().to_be_bytes());
    out.push(safi::UNICAST);
    length
}

fn open(code: u8, out: &mut Vec<u8>) -> usize {
    out.extend([OPTIONAL | EXTENDED_LENGTH, code]);
    out.extend([0, 0]);
    out.len() - 2
}

fn reach(family: Family, next_hop: NextHop, out: &mut Vec<u8>) {
    out.extend(family.afi().to_be_bytes());
    out.push(safi::UNICAST);
    match next_hop {
        NextHop::V4(addr) => {
            out.push(4);
            out.extend(addr.octets());
        }
        NextHop::V6 { global, link_local } => {
            out.push(if link_local.is_some() { 32 } else { 16 });
            out.extend(global.octets());
            out.extend(link_local.into_iter().flat_map(|addr| addr.octets()));
        }
    }
    out.push(0);
}

/// Without prefixes: the family's End-of-RIB, where it is alone in its UPDATE (RFC 4724, section 2).
pub(in crate::wire) fn write_unreach<'a>(
    family: Family,
    prefixes: impl IntoIterator<Item = &'a Nlri>,
    session: &Session,
    out: &mut Vec<u8>,
) {
    put(OPTIONAL, attribute::MP_UNREACH_NLRI, out, |out| {
        out.extend(family.afi().to_be_bytes());
        out.push(safi::UNICAST);
        for nlri in prefixes {
            nlri::write(*nlri, session.sends_path_ids(family), out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_address_that_is_not_link_local_is_left_out() {
        let global: Ipv6Addr = "fd00::1".parse().unwrap();
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        for (second, kept) in [(link_local, Some(link_local)), (global, None), (Ipv6Addr::UNSPECIFIED, None)]
        {
            let value = [global.octets(), second.octets()].concat();
            let expected = NextHop::V6 { global, link_local: kept };
            assert_eq!(read_next_hop(Family::Ipv6, &value), Ok(expected));
        }
    }

    #[test]
    fn a_next_hop_of_another_length_is_refused() {
        for (family, length) in
            [(Family::Ipv4, 8), (Family::Ipv4, 24), (Family::Ipv6, 4), (Family::Ipv6, 24), (Family::Ipv6, 0)]
        {
            assert!(read_next_hop(family, &vec![1; length]).is_err(), "{family} {length}");
        }
    }
}

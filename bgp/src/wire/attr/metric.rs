//! MULTI_EXIT_DISC (4) and LOCAL_PREF (5): RFC 4271, sections 5.1.4 and 5.1.5; RFC 7606, sections 7.4
//! and 7.5. Two attributes of one shape: four octets.

use nom::number::complete::be_u32;

use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::OPTIONAL, attribute_flag::TRANSITIVE};
use crate::wire::Session;
use crate::wire::parse::all;

pub(super) fn parse_med(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.med = Some(all(value, be_u32)?);
    Ok(())
}

pub(super) fn parse_local_pref(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.local_pref = Some(all(value, be_u32)?);
    Ok(())
}

pub(super) fn write_med(med: u32, out: &mut Vec<u8>) {
    put(OPTIONAL, attribute::MULTI_EXIT_DISC, out, |out| out.extend(med.to_be_bytes()));
}

pub(super) fn write_local_pref(local_pref: u32, out: &mut Vec<u8>) {
    put(TRANSITIVE, attribute::LOCAL_PREF, out, |out| out.extend(local_pref.to_be_bytes()));
}

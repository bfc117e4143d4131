//! ORIGINATOR_ID (9) and CLUSTER_LIST (10): RFC 4456, section 8; RFC 7606, sections 7.9 and 7.10. What a
//! route reflector notes so that loops are seen.

use std::net::Ipv4Addr;

use nom::combinator::map;

use super::{Draft, Malformed, put};
use crate::iana::{attribute, attribute_flag::OPTIONAL};
use crate::types::RouterId;
use crate::wire::Session;
use crate::wire::parse::{WireError, all, every, octets};

pub(super) fn parse_originator_id(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    draft.originator_id = Some(RouterId(all(value, map(octets, Ipv4Addr::from))?));
    Ok(())
}

pub(super) fn parse_cluster_list(value: &[u8], draft: &mut Draft, _: &Session) -> Result<(), Malformed> {
    let clusters = every(value, map(octets, Ipv4Addr::from))?;
    if clusters.is_empty() {
        return Err(WireError::Value("it is empty".into()).into());
    }
    draft.cluster_list = clusters;
    Ok(())
}

pub(super) fn write_originator_id(id: RouterId, out: &mut Vec<u8>) {
    put(OPTIONAL, attribute::ORIGINATOR_ID, out, |out| out.extend(id.0.octets()));
}

pub(super) fn write_cluster_list(clusters: &[Ipv4Addr], out: &mut Vec<u8>) {
    if clusters.is_empty() {
        return;
    }
    put(OPTIONAL, attribute::CLUSTER_LIST, out, |out| out.extend(clusters.iter().flat_map(Ipv4Addr::octets)));
}

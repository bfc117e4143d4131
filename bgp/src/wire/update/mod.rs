//! UPDATE: RFC 4271, sections 4.3 and 6.3, with RFC 4760's reachability folded in and RFC 7606's
//! treat-as-withdraw already done.

mod pack;

use std::sync::Arc;

use nom::Parser;
use nom::combinator::rest;
use nom::multi::length_data;
use nom::number::complete::be_u16;

pub use pack::Packer;

use super::attr::{self, AttrFault, Attributes, FaultAction, NextHop};
use super::parse::Parsed;
use super::{Nlri, Notification, Session, WriteError, nlri};
use crate::iana::attribute as code;
use crate::types::Family;

/// RFC 4271, section 4.3, with RFC 4760's reachability folded in: families look alike from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Destinations no longer reachable by the sender, of either family. To be looked at before
    /// `announced`: a destination in both is announced (RFC 4271, section 4.3).
    pub withdrawn: Vec<Nlri>,
    /// Destinations and their next hop: one entry for the NLRI field, one for MP_REACH_NLRI.
    pub announced: Vec<Announcement>,
    /// The attributes all announcements share; present exactly when there are announcements.
    pub attributes: Option<Arc<Attributes>>,
    /// RFC 4724, section 2: this message says only that the initial exchange of the family is over.
    pub end_of_rib: Option<Family>,
    /// What RFC 7606 had to forgive, for the counters and the log.
    pub faults: Vec<AttrFault>,
}

/// Prefixes that share a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where to send their packets.
    pub next_hop: NextHop,
    /// All of one family; never empty.
    pub prefixes: Vec<Nlri>,
}

impl Update {
    /// The End-of-RIB of a family.
    pub fn end_of_rib(family: Family) -> Self {
        Self { end_of_rib: Some(family), ..Self::default() }
    }
}

impl Announcement {
    fn family(&self) -> Option<Family> {
        self.prefixes.first().map(|prefix| prefix.family())
    }
}

/// # Errors
/// What RFC 7606 leaves to end the session: contradicting lengths (3/1), prefixes that cannot be read
/// (3/10, or 3/9 inside an attribute), an unknown well-known attribute (3/2), and an error that asks for
/// treat-as-withdraw where there is nothing to withdraw (3/1; RFC 7606, section 5.2).
pub(super) fn parse(body: &[u8], session: &Session) -> Result<Update, Notification> {
    let (_, (withdrawn_field, attributes_field, nlri_field)) =
        fields(body).map_err(|_| Notification::malformed_attribute_list())?;
    let mut withdrawn = Vec::new();
    let path_ids = session.receives_path_ids(Family::Ipv4);
    nlri::parse(withdrawn_field, Family::Ipv4, path_ids, &mut withdrawn)
        .ok_or_else(Notification::invalid_network_field)?;
    let mut prefixes = Vec::new();
    nlri::parse(nlri_field, Family::Ipv4, path_ids, &mut prefixes)
        .ok_or_else(Notification::invalid_network_field)?;
    let mut draft = attr::parse(attributes_field, session)?;

    if let Some(family) = end_of_rib(body, withdrawn_field, nlri_field, &draft) {
        return Ok(Update { faults: draft.faults, ..Update::end_of_rib(family) });
    }
    withdrawn.extend(draft.mp_unreach.take().into_iter().flat_map(|(_, prefixes)| prefixes));
    let multiprotocol = draft.mp_reach.take().filter(|reach| !reach.prefixes.is_empty());
    // One at most in almost all: held in numbers on their way.
    let mut announced = Vec::with_capacity(multiprotocol.iter().len() + usize::from(!prefixes.is_empty()));
    if !prefixes.is_empty() {
        announced.push(Announcement { next_hop: classic_next_hop(&mut draft), prefixes });
    }
    announced.extend(multiprotocol);

    let attributes = if announced.is_empty() { None } else { draft.finish().map(Arc::new) };
    if draft.faults.iter().any(|fault| fault.action == FaultAction::Withdraw) {
        if announced.is_empty() && !draft.only(&[code::MP_UNREACH_NLRI]) {
            return Err(Notification::malformed_attribute_list());
        }
        withdrawn.extend(announced.drain(..).flat_map(|announcement| announcement.prefixes));
    }
    let attributes = attributes.filter(|_| !announced.is_empty());
    Ok(Update { withdrawn, announced, attributes, end_of_rib: None, faults: draft.faults })
}

/// Withdrawn routes, path attributes, NLRI.
fn fields(body: &[u8]) -> Parsed<'_, (&[u8], &[u8], &[u8])> {
    (length_data(be_u16), length_data(be_u16), rest).parse(body)
}

/// RFC 4724, section 2: nothing at all, or an empty MP_UNREACH_NLRI alone.
fn end_of_rib(body: &[u8], withdrawn: &[u8], nlri: &[u8], draft: &attr::Draft) -> Option<Family> {
    if body.len() == 4 {
        return Some(Family::Ipv4);
    }
    let (family, prefixes) = draft.mp_unreach.as_ref()?;
    let alone = withdrawn.is_empty() && nlri.is_empty() && draft.only(&[code::MP_UNREACH_NLRI]);
    (alone && prefixes.is_empty()).then_some(*family)
}

/// The NEXT_HOP of the NLRI field; a fault where it is missing or no host's address. Looked at only where
/// there is NLRI: RFC 4760, section 3 has it ignored beside MP_REACH_NLRI alone.
fn classic_next_hop(draft: &mut attr::Draft) -> NextHop {
    let next_hop = draft.next_hop.map(NextHop::V4);
    let refused = draft.faults.iter().any(|fault| fault.attr == code::NEXT_HOP);
    match next_hop {
        Some(next_hop) if next_hop.is_host() => {}
        Some(next_hop) => {
            let why = format!("NEXT_HOP: {} cannot be a host's address", next_hop.addr());
            draft.fault(code::NEXT_HOP, FaultAction::Withdraw, &why);
        }
        None if refused => {}
        None => draft.fault(code::NEXT_HOP, FaultAction::Withdraw, "NEXT_HOP is missing"),
    }
    // Only ever seen by those who withdraw it.
    next_hop.unwrap_or(NextHop::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

/// IPv4 goes into the fields of RFC 4271 where its next hop is IPv4 too, everything else into
/// MP_REACH_NLRI and MP_UNREACH_NLRI, first among the attributes (RFC 7606, section 5.1).
pub(super) fn write(update: &Update, session: &Session, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let (classic, multiprotocol) = split(&update.announced)?;
    let of = |family: Family| update.withdrawn.iter().filter(move |nlri| nlri.family() == family);
    let path_ids = session.sends_path_ids(Family::Ipv4);

    sized(out, |out| of(Family::Ipv4).for_each(|nlri| nlri::write(*nlri, path_ids, out)))?;
    sized(out, |out| {
        if let Some((family, announcement)) = multiprotocol {
            attr::write_reach(family, announcement, session, out);
        }
        if of(Family::Ipv6).next().is_some() || update.end_of_rib == Some(Family::Ipv6) {
            attr::write_unreach(Family::Ipv6, of(Family::Ipv6), session, out);
        }
        if let Some(attributes) = update.attributes.as_ref().filter(|_| !update.announced.is_empty()) {
            attr::write(attributes, classic.map(|(addr, _)| addr), session, out);
        }
    })?;
    for nlri in classic.iter().flat_map(|(_, announcement)| &announcement.prefixes) {
        nlri::write(*nlri, path_ids, out);
    }
    match update.attributes {
        None if !update.announced.is_empty() => Err(WriteError::NoAttributes),
        _ => Ok(()),
    }
}

type Classic<'a> = (std::net::Ipv4Addr, &'a Announcement);
type Multiprotocol<'a> = (Family, &'a Announcement);

/// Which announcement goes where.
fn split(announced: &[Announcement]) -> Result<(Option<Classic<'_>>, Option<Multiprotocol<'_>>), WriteError> {
    let (mut classic, mut multiprotocol) = (None, None);
    for announcement in announced {
        match (announcement.next_hop, announcement.family()) {
            (_, None) => {}
            (NextHop::V4(addr), Some(Family::Ipv4)) if classic.is_none() => {
                classic = Some((addr, announcement))
            }
            (_, Some(family)) if multiprotocol.is_none() => multiprotocol = Some((family, announcement)),
            _ => return Err(WriteError::Announcements),
        }
    }
    Ok((classic, multiprotocol))
}

/// A two-octet length and that much.
fn sized(out: &mut Vec<u8>, field: impl FnOnce(&mut Vec<u8>)) -> Result<(), WriteError> {
    let start = out.len();
    out.extend([0, 0]);
    field(out);
    let length = out.len() - start - 2;
    let octets = u16::try_from(length).map_err(|_| WriteError::TooLong { length })?.to_be_bytes();
    out[start..start + 2].copy_from_slice(&octets);
    Ok(())
}

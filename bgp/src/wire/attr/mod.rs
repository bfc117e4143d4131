//! Path attributes: the table that describes them, the loop that reads a list of them by it, and RFC 7606.
//!
//! A file holds one attribute, or two of one shape: type, parser, writer, tests. `TABLE` says of each
//! what the loop checks for all: flags, whether an external neighbour may send it, and what a malformed
//! one costs.

mod aggregate;
mod as4_path;
mod as_path;
mod community;
mod ext_community;
mod large_community;
mod metric;
mod multiprotocol;
mod next_hop;
mod origin;
mod reflection;

use std::net::Ipv4Addr;

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

pub use as_path::{AsPath, Segment};
pub use community::{Community, ParseCommunityError};
pub use ext_community::{ExtCommunity, LinkBandwidth};
pub use large_community::LargeCommunity;
pub(super) use multiprotocol::{open_reach, open_unreach, write_reach, write_unreach};
pub use next_hop::NextHop;
pub use origin::Origin;

use super::parse::{Parsed, WireError};
use super::{Announcement, Nlri, Notification, Session};
use crate::iana::attribute as code;
use crate::iana::attribute_flag::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE};
use crate::types::{AS_TRANS, Asn, Family, RouterId};

/// The path attributes routes share, next hop apart. Compared and hashed as a whole: interned by the RIB.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// 1, RFC 4271, section 5.1.1.
    pub origin: Origin,
    /// 2, RFC 4271, section 5.1.2; AS4_PATH (17) already merged (RFC 6793, section 4.2.3).
    pub as_path: AsPath,
    /// 4, MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// 5, LOCAL_PREF; dropped from an eBGP neighbour's message by the parser (RFC 7606, section 7.5).
    pub local_pref: Option<u32>,
    /// 6, ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// 7, AGGREGATOR; AS4_AGGREGATOR (18) already merged.
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// 8, RFC 1997, sorted and without repeats.
    pub communities: Vec<Community>,
    /// 9, RFC 4456.
    pub originator_id: Option<RouterId>,
    /// 10, RFC 4456.
    pub cluster_list: Vec<Ipv4Addr>,
    /// 16, RFC 4360, sorted and without repeats.
    pub ext_communities: Vec<ExtCommunity>,
    /// 32, RFC 8092, sorted and without repeats.
    pub large_communities: Vec<LargeCommunity>,
    /// Optional transitive attributes we do not know, passed on with the Partial bit, by code.
    pub unknown: Vec<UnknownAttr>,
}

impl Attributes {
    /// What the link to it takes; the least where several are told.
    pub fn link_bandwidth(&self) -> Option<LinkBandwidth> {
        self.ext_communities.iter().filter_map(|community| community.link_bandwidth()).min()
    }

    /// Whether it is among the communities.
    pub fn has(&self, community: Community) -> bool {
        self.communities.binary_search(&community).is_ok()
    }

    /// Adds a community, where it is not there already.
    pub fn add(&mut self, community: Community) {
        if let Err(place) = self.communities.binary_search(&community) {
            self.communities.insert(place, community);
        }
    }
}

/// An attribute we pass on without understanding it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttr {
    /// Type code.
    pub code: u8,
    /// Flags as received (Extended Length apart, which follows the value), the Partial bit to be set when
    /// passed on.
    pub flags: u8,
    /// Its value.
    pub value: Vec<u8>,
}

/// A malformed attribute and what RFC 7606 says to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrFault {
    /// Type code; 0 where the list itself is at fault.
    pub attr: u8,
    /// What was done.
    pub action: FaultAction,
    /// In words, for the log.
    pub why: String,
}

impl AttrFault {
    /// The attribute's name as its RFC writes it; `list` where the list itself is at fault, `unknown` for
    /// one we have no row for.
    pub fn name(&self) -> &'static str {
        match TABLE.iter().find(|descriptor| descriptor.code == self.attr) {
            Some(descriptor) => descriptor.name,
            None if self.attr == 0 => "list",
            None => "unknown",
        }
    }
}

/// RFC 7606, section 2, strongest last. A session reset is a [`Notification`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// The attribute was dropped, the rest kept.
    Discard,
    /// All announcements of the message were turned to withdrawals.
    Withdraw,
}

/// What a list of attributes gave so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    pub(super) next_hop: Option<Ipv4Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<(Asn, Ipv4Addr)>,
    communities: Vec<Community>,
    originator_id: Option<RouterId>,
    cluster_list: Vec<Ipv4Addr>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(Asn, Ipv4Addr)>,
    ext_communities: Vec<ExtCommunity>,
    large_communities: Vec<LargeCommunity>,
    unknown: Vec<UnknownAttr>,
    pub(super) mp_reach: Option<Announcement>,
    pub(super) mp_unreach: Option<(Family, Vec<Nlri>)>,
    pub(super) faults: Vec<AttrFault>,
    /// Codes met, a bit each.
    seen: [u128; 2],
}

/// Why an attribute was refused, and what it costs where that is not what the table says.
#[derive(Debug)]
struct Malformed {
    why: String,
    cost: Option<Cost>,
}

/// RFC 7606, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    Discard,
    Withdraw,
    Reset,
}

/// Who may send an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Any,
    /// From an external neighbour it is discarded, well-formed or not.
    Internal,
}

struct Descriptor {
    code: u8,
    name: &'static str,
    flags: u8,
    sender: Sender,
    malformed: Cost,
    parse: fn(&[u8], &mut Draft, &Session) -> Result<(), Malformed>,
}

const WELL_KNOWN: u8 = TRANSITIVE;

#[rustfmt::skip]
const TABLE: [Descriptor; 16] = {
    use Cost::{Discard, Reset, Withdraw};
    use Sender::{Any, Internal};
    const fn row(
        code: u8, name: &'static str, flags: u8, sender: Sender, malformed: Cost,
        parse: fn(&[u8], &mut Draft, &Session) -> Result<(), Malformed>,
    ) -> Descriptor {
        Descriptor { code, name, flags, sender, malformed, parse }
    }
    [
        row(code::ORIGIN,           "ORIGIN",           WELL_KNOWN,            Any,      Withdraw, origin::parse),
        row(code::AS_PATH,          "AS_PATH",          WELL_KNOWN,            Any,      Withdraw, as_path::parse),
        row(code::NEXT_HOP,         "NEXT_HOP",         WELL_KNOWN,            Any,      Withdraw, next_hop::parse),
        row(code::MULTI_EXIT_DISC,  "MULTI_EXIT_DISC",  OPTIONAL,              Any,      Withdraw, metric::parse_med),
        row(code::LOCAL_PREF,       "LOCAL_PREF",       WELL_KNOWN,            Internal, Withdraw, metric::parse_local_pref),
        row(code::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WELL_KNOWN,            Any,      Discard,  aggregate::parse_atomic),
        row(code::AGGREGATOR,       "AGGREGATOR",       OPTIONAL | TRANSITIVE, Any,      Discard,  aggregate::parse),
        row(code::COMMUNITIES,      "COMMUNITIES",      OPTIONAL | TRANSITIVE, Any,      Withdraw, community::parse),
        row(code::ORIGINATOR_ID,    "ORIGINATOR_ID",    OPTIONAL,              Internal, Withdraw, reflection::parse_originator_id),
        row(code::CLUSTER_LIST,     "CLUSTER_LIST",     OPTIONAL,              Internal, Withdraw, reflection::parse_cluster_list),
        row(code::MP_REACH_NLRI,    "MP_REACH_NLRI",    OPTIONAL,              Any,      Reset,    multiprotocol::parse_reach),
        row(code::MP_UNREACH_NLRI,  "MP_UNREACH_NLRI",  OPTIONAL,              Any,      Reset,    multiprotocol::parse_unreach),
        row(code::EXTENDED_COMMUNITIES, "EXTENDED COMMUNITIES", OPTIONAL | TRANSITIVE, Any, Withdraw, ext_community::parse),
        row(code::AS4_PATH,         "AS4_PATH",         OPTIONAL | TRANSITIVE, Any,      Discard,  as4_path::parse),
        row(code::AS4_AGGREGATOR,   "AS4_AGGREGATOR",   OPTIONAL | TRANSITIVE, Any,      Discard,  aggregate::parse_as4),
        row(code::LARGE_COMMUNITY,  "LARGE_COMMUNITY",  OPTIONAL | TRANSITIVE, Any,      Withdraw, large_community::parse),
    ]
};

/// Reads a list of path attributes.
///
/// # Errors
/// 3/1, 3/2 or 3/9: what RFC 7606 leaves to end the session. Everything milder is among the faults.
pub(super) fn parse(mut field: &[u8], session: &Session) -> Result<Draft, Notification> {
    let mut draft = Draft::default();
    while !field.is_empty() {
        let Ok((rest, (flags, code, value))) = attribute(field) else {
            // RFC 7606, section 4: the rest cannot be read, but its extent is known.
            draft.fault(0, FaultAction::Withdraw, "an attribute runs over the end of the list");
            break;
        };
        let whole = &field[..field.len() - rest.len()];
        field = rest;
        if draft.see(code) {
            // RFC 7606, section 3 g.
            if matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) {
                return Err(Notification::malformed_attribute_list());
            }
            draft.fault(code, FaultAction::Discard, "it is there again");
            continue;
        }
        match TABLE.iter().find(|descriptor| descriptor.code == code) {
            Some(descriptor) => draft.read(descriptor, flags, value, whole, session)?,
            None if flags & OPTIONAL == 0 => {
                return Err(Notification::unrecognized_well_known_attribute(whole));
            }
            None if flags & TRANSITIVE == 0 => {}
            None => {
                let flags = flags & !EXTENDED_LENGTH;
                draft.unknown.push(UnknownAttr { code, flags, value: value.to_vec() });
            }
        }
    }
    Ok(draft)
}

/// Flags, type code and value.
fn attribute(input: &[u8]) -> Parsed<'_, (u8, u8, &[u8])> {
    let (input, (flags, code)) = (be_u8, be_u8).parse(input)?;
    let (input, length) = if flags & EXTENDED_LENGTH == 0 {
        let (input, length) = be_u8(input)?;
        (input, length.into())
    } else {
        be_u16(input)?
    };
    let (rest, value) = take(length)(input)?;
    Ok((rest, (flags, code, value)))
}

impl Draft {
    fn read(
        &mut self,
        descriptor: &Descriptor,
        flags: u8,
        value: &[u8],
        whole: &[u8],
        session: &Session,
    ) -> Result<(), Notification> {
        let &Descriptor { code, name, malformed, .. } = descriptor;
        if descriptor.sender == Sender::Internal && session.ebgp {
            self.fault(code, FaultAction::Discard, &format!("{name}: an external neighbour may not send it"));
            return Ok(());
        }
        if (flags ^ descriptor.flags) & (OPTIONAL | TRANSITIVE) != 0 {
            // RFC 7606, section 3 c. It is read on: prefixes in it are to be withdrawn.
            self.fault(code, FaultAction::Withdraw, &format!("{name}: its flags are {flags:#04x}"));
        }
        let Err(refused) = (descriptor.parse)(value, self, session) else {
            return Ok(());
        };
        let action = match refused.cost.unwrap_or(malformed) {
            Cost::Reset => return Err(Notification::optional_attribute(whole)),
            Cost::Withdraw => FaultAction::Withdraw,
            Cost::Discard => FaultAction::Discard,
        };
        self.fault(code, action, &format!("{name}: {}", refused.why));
        Ok(())
    }

    /// Whether `code` was met before; it is now.
    fn see(&mut self, code: u8) -> bool {
        let (word, bit) = (usize::from(code / 128), 1_u128 << (code % 128));
        let before = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        before
    }

    /// Whether there was no attribute but those in `codes`.
    pub(super) fn only(&self, codes: &[u8]) -> bool {
        let mut rest = self.seen;
        for code in codes {
            rest[usize::from(code / 128)] &= !(1 << (code % 128));
        }
        rest == [0, 0]
    }

    pub(super) fn fault(&mut self, attr: u8, action: FaultAction, why: &str) {
        self.faults.push(AttrFault { attr, action, why: why.to_owned() });
    }

    /// The attributes, unless a mandatory one is missing: that is a fault (RFC 7606, section 3 d).
    pub(super) fn finish(&mut self) -> Option<Attributes> {
        self.merge_four_octet();
        for (missing, code, name) in [
            (self.origin.is_none(), code::ORIGIN, "ORIGIN is missing"),
            (self.as_path.is_none(), code::AS_PATH, "AS_PATH is missing"),
        ] {
            // One that was refused has its fault already.
            if missing && !self.faults.iter().any(|fault| fault.attr == code) {
                self.fault(code, FaultAction::Withdraw, name);
            }
        }
        self.unknown.sort_unstable();
        Some(Attributes {
            origin: self.origin?,
            as_path: self.as_path.take()?,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator: self.aggregator,
            communities: std::mem::take(&mut self.communities),
            originator_id: self.originator_id,
            cluster_list: std::mem::take(&mut self.cluster_list),
            ext_communities: std::mem::take(&mut self.ext_communities),
            large_communities: std::mem::take(&mut self.large_communities),
            unknown: std::mem::take(&mut self.unknown),
        })
    }

    /// RFC 6793, section 4.2.3. An AGGREGATOR that is not AS_TRANS beside AS4_AGGREGATOR was made later,
    /// by a speaker that knows of neither AS4_PATH: both are ignored then.
    fn merge_four_octet(&mut self) {
        match (self.aggregator, self.as4_aggregator) {
            (Some((asn, _)), Some(_)) if asn != AS_TRANS => return,
            (Some(_), Some(as4)) => self.aggregator = Some(as4),
            _ => {}
        }
        if let Some(as4_path) = self.as4_path.take() {
            self.as_path = self.as_path.take().map(|path| as4_path::merge(path, as4_path));
        }
    }
}

impl Malformed {
    fn discard(why: impl Into<String>) -> Self {
        Self { why: why.into(), cost: Some(Cost::Discard) }
    }

    fn withdraw(why: impl Into<String>) -> Self {
        Self { why: why.into(), cost: Some(Cost::Withdraw) }
    }
}

impl From<WireError<'_>> for Malformed {
    fn from(error: WireError<'_>) -> Self {
        Self { why: error.to_string(), cost: None }
    }
}

/// A set as a sorted list; an empty attribute is malformed (RFC 7606, section 4).
fn sorted<T: Ord>(mut values: Vec<T>) -> Result<Vec<T>, WireError<'static>> {
    if values.is_empty() {
        return Err(WireError::Value("it is empty".into()));
    }
    values.sort_unstable();
    values.dedup();
    Ok(values)
}

/// Writes all of `attributes` in order of code, with NEXT_HOP if there is one.
pub(super) fn write(
    attributes: &Attributes,
    next_hop: Option<Ipv4Addr>,
    session: &Session,
    out: &mut Vec<u8>,
) {
    origin::write(attributes.origin, out);
    as_path::write(&attributes.as_path, session, out);
    if let Some(addr) = next_hop {
        next_hop::write(addr, out);
    }
    if let Some(med) = attributes.med {
        metric::write_med(med, out);
    }
    if let Some(local_pref) = attributes.local_pref {
        metric::write_local_pref(local_pref, out);
    }
    if attributes.atomic_aggregate {
        aggregate::write_atomic(out);
    }
    if let Some(aggregator) = attributes.aggregator {
        aggregate::write(aggregator, session, out);
    }
    community::write(&attributes.communities, out);
    if let Some(id) = attributes.originator_id {
        reflection::write_originator_id(id, out);
    }
    reflection::write_cluster_list(&attributes.cluster_list, out);
    // Codes up to 31, those of EXTENDED COMMUNITIES, AS4_PATH and AS4_AGGREGATOR among them, then 32, then the
    // rest.
    let between = attributes.unknown.partition_point(|attr| attr.code < code::EXTENDED_COMMUNITIES);
    let behind = attributes.unknown.partition_point(|attr| attr.code < code::LARGE_COMMUNITY);
    write_unknown(&attributes.unknown[..between], out);
    ext_community::write(&attributes.ext_communities, out);
    as4_path::write(&attributes.as_path, session, out);
    if let Some(aggregator) = attributes.aggregator {
        aggregate::write_as4(aggregator, session, out);
    }
    write_unknown(&attributes.unknown[between..behind], out);
    large_community::write(&attributes.large_communities, out);
    write_unknown(&attributes.unknown[behind..], out);
}

fn write_unknown(attributes: &[UnknownAttr], out: &mut Vec<u8>) {
    for UnknownAttr { code, flags, value } in attributes {
        put(flags & !EXTENDED_LENGTH, *code, out, |out| out.extend(value));
    }
}

/// One attribute: its header, then what `value` appends; the length gets two octets where it must.
fn put(flags: u8, code: u8, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([flags, code, 0]);
    value(out);
    let length = out.len() - start - 3;
    if let Ok(length) = u8::try_from(length) {
        out[start + 2] = length;
    } else {
        // More than 65,535 octets fit no message: the writer of the message refuses it.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        out[start] |= EXTENDED_LENGTH;
        out.splice(start + 2..start + 3, length.to_be_bytes());
    }
}

//! Messages, from bytes and to bytes.
//!
//! [`frame::frame`] cuts one complete message off a stream and checks its header; a parser below it
//! never sees an incomplete input. The public results are the RFC's verdicts: a whole message that
//! cannot be accepted is a [`Notification`] to send; an attribute that cannot is an [`AttrFault`], and
//! the [`Update`] that carries it has already been changed as RFC 7606 says (announcements moved to
//! `withdrawn`), so that nobody after the parser can forget it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::types::{Asn, Family, Prefix, RouterId};

/// What both sides agreed in their OPENs: the context every later message is read and written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub asn4: bool,
    /// Families both sides speak.
    pub families: Vec<Family>,
    /// The neighbour is in another AS.
    pub ebgp: bool,
    /// Messages up to 65,535 octets (RFC 8654); 4,096 otherwise.
    pub extended: bool,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// RFC 4271, section 4.2.
    Open(Open),
    /// RFC 4271, section 4.3.
    Update(Update),
    /// RFC 4271, section 4.5.
    Notification(Notification),
    /// RFC 4271, section 4.4.
    Keepalive,
    /// RFC 2918, RFC 7313.
    RouteRefresh(RouteRefresh),
}

/// RFC 4271, section 4.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS of the four-octet capability where there is one, else that of the fixed field.
    pub asn: Asn,
    /// Seconds: 0 or at least 3 (anything else was refused by the parser).
    pub hold_time: u16,
    /// Never zero.
    pub router_id: RouterId,
    /// In the order sent; unknown ones kept.
    pub capabilities: Vec<Capability>,
}

/// RFC 5492.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// 1, RFC 4760.
    Multiprotocol(Family),
    /// 1 with an AFI/SAFI we do not speak.
    MultiprotocolOther {
        /// Address Family Identifier.
        afi: u16,
        /// Subsequent Address Family Identifier.
        safi: u8,
    },
    /// 2, RFC 2918.
    RouteRefresh,
    /// 6, RFC 8654.
    ExtendedMessage,
    /// 64, RFC 4724.
    GracefulRestart {
        /// Restart State: this speaker has just restarted.
        restarting: bool,
        /// Notification flag, RFC 8538.
        notification: bool,
        /// Seconds, 0–4095.
        time: u16,
        /// Families, each with whether forwarding state was kept.
        families: Vec<(Family, bool)>,
    },
    /// 65, RFC 6793.
    FourOctetAs(Asn),
    /// 70, RFC 7313.
    EnhancedRouteRefresh,
    /// Any other.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

/// RFC 4271, section 4.3, with RFC 4760's reachability folded in: families look alike from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Destinations no longer reachable by the sender, of either family.
    pub withdrawn: Vec<Prefix>,
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
    /// All of one family.
    pub prefixes: Vec<Prefix>,
}

/// NEXT_HOP or the next hop of MP_REACH_NLRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// RFC 4271, section 5.1.3.
    V4(Ipv4Addr),
    /// RFC 2545: a global address, with the link-local one if it was given too.
    V6 {
        /// The global address (or the link-local one where it is alone).
        global: Ipv6Addr,
        /// The link-local address.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address routes are resolved by.
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(addr) => addr.into(),
            Self::V6 { global, .. } => global.into(),
        }
    }
}

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
    /// 32, RFC 8092, sorted and without repeats.
    pub large_communities: Vec<LargeCommunity>,
    /// Optional transitive attributes we do not know, passed on with the Partial bit, by code.
    pub unknown: Vec<UnknownAttr>,
}

/// RFC 4271, section 5.1.1; smaller is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// 0.
    Igp,
    /// 1.
    Egp,
    /// 2.
    Incomplete,
}

/// RFC 4271, section 5.1.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub Vec<Segment>);

/// Part of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// AS_SET (1): unordered, counts as one.
    Set(Vec<Asn>),
    /// AS_SEQUENCE (2): nearest first.
    Sequence(Vec<Asn>),
    /// AS_CONFED_SEQUENCE (3), RFC 5065: counts as none.
    ConfedSequence(Vec<Asn>),
    /// AS_CONFED_SET (4), RFC 5065: counts as none.
    ConfedSet(Vec<Asn>),
}

/// RFC 1997, shown as `asn:value` or by its well-known name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// RFC 8092: global administrator and two local data parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// An attribute we pass on without understanding it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttr {
    /// Type code.
    pub code: u8,
    /// Flags as received, the Partial bit to be set when passed on.
    pub flags: u8,
    /// Its value.
    pub value: Vec<u8>,
}

/// RFC 4271, section 4.5; built by the named constructors in [`notification`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What the RFC asks for with that subcode.
    pub data: Vec<u8>,
}

/// RFC 2918; the subtype is RFC 7313's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address Family Identifier as sent: a family we do not speak is ignored by the session.
    pub afi: u16,
    /// 0 a request, 1 beginning (BoRR), 2 end (EoRR).
    pub subtype: u8,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

/// A malformed attribute and what RFC 7606 says to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrFault {
    /// Type code.
    pub attr: u8,
    /// What was done.
    pub action: FaultAction,
    /// In words, for the log.
    pub why: String,
}

/// RFC 7606, section 2, strongest last. A session reset is a [`Notification`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// The attribute was dropped, the rest kept.
    Discard,
    /// All announcements of the message were turned to withdrawals.
    Withdraw,
}

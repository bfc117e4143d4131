//! Registry numbers, each with its registry and RFC. Numbers we neither send nor treat specially are
//! absent: the parser keeps them as they came.

/// TCP port of BGP: <https://www.iana.org/assignments/service-names-port-numbers>, RFC 4271.
pub const BGP_PORT: u16 = 179;

/// The version in every OPEN: RFC 4271, section 4.2.
pub const BGP_VERSION: u8 = 4;

/// UDP port of BFD over one hop: <https://www.iana.org/assignments/service-names-port-numbers>, RFC 5881.
pub const BFD_PORT: u16 = 3784;

/// UDP port of BFD over several hops: RFC 5883.
pub const BFD_MULTIHOP_PORT: u16 = 4784;

/// The version in every BFD packet: RFC 5880, section 4.1.
pub const BFD_VERSION: u8 = 1;

/// BGP message types: <https://www.iana.org/assignments/bgp-parameters>, "BGP Message Types".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// RFC 4271, section 4.2.
    Open = 1,
    /// RFC 4271, section 4.3.
    Update = 2,
    /// RFC 4271, section 4.5.
    Notification = 3,
    /// RFC 4271, section 4.4.
    Keepalive = 4,
    /// RFC 2918.
    RouteRefresh = 5,
}

impl TryFrom<u8> for MessageType {
    type Error = u8;

    /// Gives the number back when the registry has no such type.
    fn try_from(number: u8) -> Result<Self, u8> {
        Ok(match number {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            other => return Err(other),
        })
    }
}

/// Address Family Numbers: <https://www.iana.org/assignments/address-family-numbers>.
pub mod afi {
    /// IPv4.
    pub const IPV4: u16 = 1;
    /// IPv6.
    pub const IPV6: u16 = 2;
}

/// Subsequent Address Family Identifiers: <https://www.iana.org/assignments/safi-namespace>, RFC 4760.
pub mod safi {
    /// Unicast forwarding.
    pub const UNICAST: u8 = 1;
}

/// OPEN optional parameter types: <https://www.iana.org/assignments/bgp-parameters>, "BGP OPEN
/// Optional Parameter Types".
pub mod parameter {
    /// Capabilities, RFC 5492.
    pub const CAPABILITIES: u8 = 2;
    /// Extended Length, RFC 9072: as a type and as the length octet before it.
    pub const EXTENDED_LENGTH: u8 = 255;
}

/// Capability codes: <https://www.iana.org/assignments/capability-codes>.
pub mod capability {
    /// RFC 4760.
    pub const MULTIPROTOCOL: u8 = 1;
    /// RFC 2918.
    pub const ROUTE_REFRESH: u8 = 2;
    /// RFC 8950.
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// RFC 8654.
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// RFC 4724.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// RFC 6793.
    pub const FOUR_OCTET_AS: u8 = 65;
    /// RFC 7911.
    pub const ADD_PATH: u8 = 69;
    /// RFC 7313.
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
    /// RFC 9494.
    pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
}

/// Path attribute type codes: <https://www.iana.org/assignments/bgp-parameters>, "BGP Path Attributes".
pub mod attribute {
    /// RFC 4271, section 5.1.1.
    pub const ORIGIN: u8 = 1;
    /// RFC 4271, section 5.1.2.
    pub const AS_PATH: u8 = 2;
    /// RFC 4271, section 5.1.3.
    pub const NEXT_HOP: u8 = 3;
    /// RFC 4271, section 5.1.4.
    pub const MULTI_EXIT_DISC: u8 = 4;
    /// RFC 4271, section 5.1.5.
    pub const LOCAL_PREF: u8 = 5;
    /// RFC 4271, section 5.1.6.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// RFC 4271, section 5.1.7.
    pub const AGGREGATOR: u8 = 7;
    /// RFC 1997.
    pub const COMMUNITIES: u8 = 8;
    /// RFC 4456.
    pub const ORIGINATOR_ID: u8 = 9;
    /// RFC 4456.
    pub const CLUSTER_LIST: u8 = 10;
    /// RFC 4760.
    pub const MP_REACH_NLRI: u8 = 14;
    /// RFC 4760.
    pub const MP_UNREACH_NLRI: u8 = 15;
    /// RFC 4360.
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// RFC 6793.
    pub const AS4_PATH: u8 = 17;
    /// RFC 6793.
    pub const AS4_AGGREGATOR: u8 = 18;
    /// RFC 8092.
    pub const LARGE_COMMUNITY: u8 = 32;
}

/// Extended communities: <https://www.iana.org/assignments/bgp-extended-communities>.
pub mod ext_community {
    /// Flag in the type: RFC 4360, section 2.
    pub const NON_TRANSITIVE: u8 = 0x40;
    /// Type: RFC 4360, section 3.1.
    pub const TWO_OCTET_AS: u8 = 0;
    /// Type: RFC 4360, section 3.2.
    pub const IPV4: u8 = 1;
    /// Type: RFC 5668.
    pub const FOUR_OCTET_AS: u8 = 2;
    /// Subtype: RFC 4360, section 4.
    pub const ROUTE_TARGET: u8 = 2;
    /// Subtype: RFC 4360, section 5.
    pub const ROUTE_ORIGIN: u8 = 3;
    /// Subtype: draft-ietf-idr-link-bandwidth, section 2.
    pub const LINK_BANDWIDTH: u8 = 4;
}

/// ROUTE-REFRESH subtypes: <https://www.iana.org/assignments/bgp-parameters>, "Route Refresh Subcodes".
pub mod refresh {
    /// A request: RFC 2918.
    pub const REQUEST: u8 = 0;
    /// Beginning of Route Refresh: RFC 7313.
    pub const BORR: u8 = 1;
    /// End of Route Refresh: RFC 7313.
    pub const EORR: u8 = 2;
}

/// Attribute flags: RFC 4271, section 4.3.
pub mod attribute_flag {
    /// Optional; well-known when clear.
    pub const OPTIONAL: u8 = 0x80;
    /// Transitive.
    pub const TRANSITIVE: u8 = 0x40;
    /// A speaker on the way did not understand it.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// AS_PATH segment types: <https://www.iana.org/assignments/bgp-parameters>, "BGP AS_PATH Segment Types".
pub mod segment {
    /// RFC 4271.
    pub const AS_SET: u8 = 1;
    /// RFC 4271.
    pub const AS_SEQUENCE: u8 = 2;
    /// RFC 5065.
    pub const AS_CONFED_SEQUENCE: u8 = 3;
    /// RFC 5065.
    pub const AS_CONFED_SET: u8 = 4;
}

/// Well-known communities: <https://www.iana.org/assignments/bgp-well-known-communities>.
pub mod community {
    /// RFC 8326.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// RFC 9494.
    pub const LLGR_STALE: u32 = 0xffff_0006;
    /// RFC 9494.
    pub const NO_LLGR: u32 = 0xffff_0007;
    /// RFC 7999.
    pub const BLACKHOLE: u32 = 0xffff_029a;
    /// RFC 1997.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// RFC 1997.
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// RFC 1997.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
    /// RFC 3765.
    pub const NO_PEER: u32 = 0xffff_ff04;
}

/// NOTIFICATION error codes: <https://www.iana.org/assignments/bgp-parameters>, "BGP Error
/// (Notification) Codes". The subcodes stand with their constructors in
/// [`crate::wire::notification`].
pub mod error {
    /// RFC 4271, section 6.1.
    pub const MESSAGE_HEADER: u8 = 1;
    /// RFC 4271, section 6.2.
    pub const OPEN: u8 = 2;
    /// RFC 4271, section 6.3.
    pub const UPDATE: u8 = 3;
    /// RFC 4271, section 6.5.
    pub const HOLD_TIMER: u8 = 4;
    /// RFC 4271, section 6.6; RFC 6608.
    pub const FSM: u8 = 5;
    /// RFC 4271, section 6.7; RFC 4486.
    pub const CEASE: u8 = 6;
    /// RFC 7313.
    pub const ROUTE_REFRESH: u8 = 7;
    /// RFC 9687.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

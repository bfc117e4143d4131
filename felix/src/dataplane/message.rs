//! Routes and next-hop objects as the kernel speaks of them.
//!
//! A learned route names a group of next hops, never a gateway: what becomes of a next hop is then written once, however
//! many routes it is under. `netlink-packet-route` knows no next-hop objects; and a route of ours is three attributes,
//! which written as they are cost a third of what its types do.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_core::{NetlinkSerializable, NlaBuffer, NlasIterator, Parseable};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use smallvec::SmallVec;

use super::Settings;
use super::objects::Object;
use super::state::Target;

/// Our routing protocol number: the letter M. It alone says which routes and next-hop objects are ours, also after a
/// restart. Not in rt_protos of iproute2 6.1, nor one of those daemons use unregistered (Calico 80, Open/R 99, FRR
/// 186–198).
pub const RTPROT_MANX: u8 = b'M';

/// Of linux/rtnetlink.h and linux/nexthop.h.
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTN_UNSPEC: u8 = 0;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// In a removal: any.
const RT_SCOPE_NOWHERE: u8 = 255;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The gateway is a neighbour: we know by which interface, and need not wait for the kernel to know.
const RTNH_F_ONLINK: u32 = 4;

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    body: SmallVec<[u8; 64]>,
}

impl Message {
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.body.len()].copy_from_slice(&self.body);
    }
}

/// The message that puts `target` at `destination`, in place of a route of ours where `replaces`, and its flags. What we
/// believe absent is only ever added (NLM_F_EXCL): someone else's route is an error then, never overwritten.
pub fn set_route(
    destination: IpNetwork,
    target: Target,
    replaces: bool,
    settings: Settings,
) -> (Message, u16) {
    let (kind, scope) = match target {
        Target::Pod(_) => (RTN_UNICAST, RT_SCOPE_LINK),
        Target::Group(_) | Target::Other => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        Target::Blackhole => (RTN_BLACKHOLE, RT_SCOPE_UNIVERSE),
        Target::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE),
    };
    let mut message = route(RTM_NEWROUTE, destination, scope, kind, settings);
    match target {
        Target::Pod(ifindex) => message.attribute(RTA_OIF, &ifindex.to_ne_bytes()),
        Target::Group(id) => message.attribute(RTA_NH_ID, &id.to_ne_bytes()),
        Target::Blackhole | Target::Unreachable | Target::Other => {}
    }
    (message, NLM_F_CREATE | if replaces { NLM_F_REPLACE } else { NLM_F_EXCL })
}

/// The message that removes our route to `destination`, whatever it is.
pub fn remove_route(destination: IpNetwork, settings: Settings) -> (Message, u16) {
    (route(RTM_DELROUTE, destination, RT_SCOPE_NOWHERE, RTN_UNSPEC, settings), 0)
}

fn route(message: u16, destination: IpNetwork, scope: u8, kind: u8, settings: Settings) -> Message {
    let family = if destination.is_ipv4() { AF_INET } else { AF_INET6 };
    // RT_TABLE_UNSPEC where one octet is too small.
    let table = u8::try_from(settings.table).unwrap_or(0);
    let mut message = Message { kind: message, body: SmallVec::new() };
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    message.body.extend([family, destination.prefix(), 0, 0, table, RTPROT_MANX, scope, kind, 0, 0, 0, 0]);
    message.address(RTA_DST, destination.network());
    message.attribute(RTA_PRIORITY, &settings.metric.to_ne_bytes());
    if table == 0 {
        message.attribute(RTA_TABLE, &settings.table.to_ne_bytes());
    }
    message
}

/// The message that puts `object` at `id`, in place of ours where `replaces`, and its flags.
pub fn set_object(id: u32, object: &Object, replaces: bool) -> (Message, u16) {
    let (family, flags) = match object {
        Object::Leg { gateway: IpAddr::V4(_), .. } => (AF_INET, RTNH_F_ONLINK),
        Object::Leg { gateway: IpAddr::V6(_), .. } => (AF_INET6, RTNH_F_ONLINK),
        Object::Group(_) => (AF_UNSPEC, 0),
    };
    let mut message = nexthop(RTM_NEWNEXTHOP, family, flags);
    message.attribute(NHA_ID, &id.to_ne_bytes());
    match object {
        Object::Leg { gateway, ifindex } => {
            message.attribute(NHA_OIF, &ifindex.to_ne_bytes());
            message.address(NHA_GATEWAY, *gateway);
        }
        Object::Group(members) => {
            let mut group: SmallVec<[u8; 64]> = SmallVec::new();
            for (leg, weight) in members {
                // struct nexthop_grp: id, weight less one, reserved.
                group.extend(leg.to_ne_bytes());
                group.extend([weight.saturating_sub(1), 0, 0, 0]);
            }
            message.attribute(NHA_GROUP, &group);
        }
    }
    (message, NLM_F_CREATE | if replaces { NLM_F_REPLACE } else { NLM_F_EXCL })
}

/// The message that removes the object `id`, and with it every route that names it.
pub fn remove_object(id: u32) -> (Message, u16) {
    let mut message = nexthop(RTM_DELNEXTHOP, AF_UNSPEC, 0);
    message.attribute(NHA_ID, &id.to_ne_bytes());
    (message, 0)
}

/// Asks for all next-hop objects.
pub fn dump_objects() -> Message {
    nexthop(RTM_GETNEXTHOP, AF_UNSPEC, 0)
}

fn nexthop(message: u16, family: u8, flags: u32) -> Message {
    let mut message = Message { kind: message, body: SmallVec::new() };
    // struct nhmsg: family, scope, protocol, reserved, flags. What asks or removes has no protocol.
    let protocol = if message.kind == RTM_NEWNEXTHOP { RTPROT_MANX } else { 0 };
    message.body.extend([family, 0, protocol, 0]);
    message.body.extend(flags.to_ne_bytes());
    message
}

/// A next-hop object as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopMessage {
    /// Whose.
    pub protocol: u8,
    /// NHA_ID.
    pub id: u32,
    /// None: in a form we do not write.
    pub object: Option<Object>,
}

impl Parseable<[u8]> for NextHopMessage {
    fn parse(octets: &[u8]) -> Result<Self, DecodeError> {
        let short = || DecodeError::from("a next-hop object of less than 8 octets");
        let (header, rest) = octets.split_first_chunk::<8>().ok_or_else(short)?;
        let (mut id, mut gateway, mut ifindex, mut members) = (0, None, None, Vec::new());
        for attribute in NlasIterator::new(rest) {
            let attribute: NlaBuffer<_> = attribute?;
            let value = attribute.value();
            let number = value.first_chunk().map(|octets| u32::from_ne_bytes(*octets));
            match attribute.kind() {
                NHA_ID => id = number.unwrap_or(0),
                NHA_OIF => ifindex = number,
                NHA_GATEWAY => gateway = address(value),
                NHA_GROUP => {
                    members.extend(value.as_chunks::<8>().0.iter().map(|[a, b, c, d, weight, ..]| {
                        (u32::from_ne_bytes([*a, *b, *c, *d]), weight.saturating_add(1))
                    }))
                }
                _ => {}
            }
        }
        let object = match (gateway, ifindex) {
            _ if !members.is_empty() => Some(Object::Group(members)),
            (Some(gateway), Some(ifindex)) => Some(Object::Leg { gateway, ifindex }),
            _ => None,
        };
        Ok(Self { protocol: header[2], id, object })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// Asks for all routes of one family in every table, or for ours alone; the kernel filters (NETLINK_GET_STRICT_CHK).
pub fn dump_routes(family: AddressFamily, ours_alone: bool) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    if ours_alone {
        message.header.protocol = RTPROT_MANX.into();
    }
    RouteNetlinkMessage::GetRoute(message)
}

/// A route of ours as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it leads.
    pub destination: IpNetwork,
    /// [`Target::Other`]: in a form we do not write.
    pub target: Target,
    /// Table and metric: those in force, or those of an agent that was told others.
    pub settings: Settings,
}

/// What a message says, if the route is ours.
pub fn parse_route(message: &RouteMessage) -> Option<Seen> {
    let header = &message.header;
    if header.protocol != RTPROT_MANX.into() {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut settings = Settings { table: u32::from(header.table), metric: 0 };
    let (mut ifindex, mut id, mut gateways) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Priority(value) => settings.metric = *value,
            RouteAttribute::Table(value) => settings.table = *value,
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::NhId(value) => id = Some(*value),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                gateways = true;
            }
            _ => {}
        }
    }
    let target = match (header.kind, id, ifindex) {
        (RouteType::BlackHole, ..) => Target::Blackhole,
        (RouteType::Unreachable, ..) => Target::Unreachable,
        // The kernel tells an object's gateways beside its number.
        (RouteType::Unicast, Some(id), _) => Target::Group(id),
        (RouteType::Unicast, None, Some(ifindex)) if !gateways => Target::Pod(ifindex),
        _ => Target::Other,
    };
    let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
    Some(Seen { destination, target, settings })
}

impl Settings {
    /// Where routes are unless it is said: the main table, which every packet is looked up in.
    pub const TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    const SETTINGS: Settings = Settings { table: 254, metric: 13 };

    fn body(message: &Message) -> Vec<u8> {
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        buffer
    }

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        for (destination, target) in [
            ("10.0.0.5/32", Target::Pod(7)),
            ("fd00::5/128", Target::Pod(7)),
            ("10.0.0.0/26", Target::Blackhole),
            ("10.0.0.0/26", Target::Unreachable),
            ("0.0.0.0/0", Target::Group(1_291_845_633)),
            ("fd00:1::/122", Target::Group(2)),
        ] {
            for settings in [SETTINGS, Settings { table: 1000, metric: 7 }] {
                let destination: IpNetwork = destination.parse().unwrap();
                let (message, _) = set_route(destination, target, false, settings);
                let RouteNetlinkMessage::NewRoute(read) = read(&message) else { panic!("no route") };
                assert_eq!(parse_route(&read), Some(Seen { destination, target, settings }));
            }
        }
    }

    fn read(message: &Message) -> RouteNetlinkMessage {
        let mut octets = vec![0; 16];
        octets[4..6].copy_from_slice(&message.kind.to_ne_bytes());
        octets.extend(body(message));
        let length = u32::try_from(octets.len()).unwrap();
        octets[..4].copy_from_slice(&length.to_ne_bytes());
        match netlink_packet_core::NetlinkMessage::deserialize(&octets).unwrap().into_parts().1 {
            netlink_packet_core::NetlinkPayload::InnerMessage(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_route_is_what_netlink_packet_route_would_write() {
        let (ours, _) = set_route("10.0.0.5/32".parse().unwrap(), Target::Pod(7), false, SETTINGS);
        let RouteNetlinkMessage::NewRoute(message) = read(&ours) else { panic!("no route") };
        let mut theirs = vec![0; message.buffer_len()];
        message.emit(&mut theirs);
        assert_eq!(body(&ours), theirs);
    }

    #[test]
    fn next_hop_objects_are_read_back_as_they_were() {
        for object in [
            Object::Leg { gateway: "192.0.2.1".parse().unwrap(), ifindex: 3 },
            Object::Leg { gateway: "fe80::1".parse().unwrap(), ifindex: 3 },
            Object::Group(vec![(1, 1), (2, 255)]),
        ] {
            let (message, _) = set_object(9, &object, false);
            let read = NextHopMessage::parse(body(&message).as_slice()).unwrap();
            assert_eq!(read, NextHopMessage { protocol: RTPROT_MANX, id: 9, object: Some(object) });
        }
    }

    #[test]
    fn only_our_protocol_is_ours() {
        let (message, _) = set_route("10.0.0.0/26".parse().unwrap(), Target::Blackhole, false, SETTINGS);
        let RouteNetlinkMessage::NewRoute(mut message) = read(&message) else { panic!("no route") };
        message.header.kind = RouteType::Prohibit;
        assert_eq!(parse_route(&message).unwrap().target, Target::Other);
        message.header.protocol = 12.into();
        assert_eq!(parse_route(&message), None);
    }
}

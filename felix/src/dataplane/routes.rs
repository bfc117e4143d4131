//! A [`Route`] as the kernel speaks of it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_cni::netlink::Request;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Route;
use super::tracker::Change;

/// Our routing protocol number: the letter M. It alone says which routes are ours, also after a restart. Not in
/// rt_protos of iproute2 6.1, nor one of those daemons use unregistered (Calico 80, Open/R 99, FRR 186–198).
pub const RTPROT_MANX: u8 = b'M';

/// The metric of our routes. A route is replaced by its destination and metric, whosever it is, so ours is one that
/// no other program writes: they leave 0 (IPv4) or 1024 (IPv6), take 20 and up (FRR, its distances), 32 (BIRD)
/// or 100 and up (DHCP clients). Below those of the routing daemons, so that a pod of this node
/// stays here when one of them learns the pod's block back from the network.
pub const PRIORITY: u32 = 13;

/// The message that makes `change`. What we believe absent is only ever added (NLM_F_EXCL): someone else's route is
/// an error then, never overwritten.
pub fn request(destination: IpNetwork, change: Change<'_, Route>) -> Request {
    match change {
        Change::Add(route) => {
            (RouteNetlinkMessage::NewRoute(message(destination, route)), NLM_F_CREATE | NLM_F_EXCL)
        }
        Change::Replace(route) => {
            (RouteNetlinkMessage::NewRoute(message(destination, route)), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Change::Remove => {
            let mut message = header(destination);
            // "Any": RT_SCOPE_NOWHERE matches every scope in a removal, and RTN_UNSPEC every type.
            message.header.scope = RouteScope::NoWhere;
            (RouteNetlinkMessage::DelRoute(message), 0)
        }
    }
}

/// Asks for all routes of ours of one family; the kernel filters (NETLINK_GET_STRICT_CHK).
pub fn dump_request(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RTPROT_MANX.into();
    RouteNetlinkMessage::GetRoute(message)
}

/// The destination and route of a message, if it is ours. One of ours in a form we do not write comes back as
/// `Via` no next hops, which is never wanted.
pub fn parse(message: &RouteMessage) -> Option<(IpNetwork, Route)> {
    let header = &message.header;
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut priority, mut table, mut ifindex) = (0, u32::from(header.table), None);
    let mut next_hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Priority(value) => priority = *value,
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::MultiPath(hops) => {
                next_hops.extend(hops.iter().flat_map(|hop| &hop.attributes).filter_map(gateway_of));
            }
            other => next_hops.extend(gateway_of(other)),
        }
    }
    let ours = header.protocol == RTPROT_MANX.into()
        && priority == PRIORITY
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    let destination = IpNetwork::new(destination, header.destination_prefix_length).ok().filter(|_| ours)?;
    next_hops.sort_unstable();
    let route = match (header.kind, ifindex) {
        (RouteType::BlackHole, _) => Route::Blackhole,
        (RouteType::Unicast, Some(ifindex)) if next_hops.is_empty() => Route::Pod { ifindex },
        (RouteType::Unicast, _) => Route::Via(next_hops),
        _ => Route::Via(Vec::new()),
    };
    Some((destination, route))
}

fn header(destination: IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match destination {
        IpNetwork::V4(_) => AddressFamily::Inet,
        IpNetwork::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RTPROT_MANX.into();
    message.attributes =
        vec![RouteAttribute::Destination(destination.network().into()), RouteAttribute::Priority(PRIORITY)];
    message
}

fn message(destination: IpNetwork, route: &Route) -> RouteMessage {
    let mut message = header(destination);
    message.header.kind = RouteType::Unicast;
    match route {
        Route::Pod { ifindex } => {
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(*ifindex));
        }
        Route::Blackhole => message.header.kind = RouteType::BlackHole,
        // No interface: the kernel finds it, as it does for the gateway of any static route.
        Route::Via(next_hops) => match next_hops.as_slice() {
            [next_hop] => message.attributes.push(gateway(destination, *next_hop)),
            several => {
                let hops = several.iter().map(|next_hop| {
                    let mut hop = RouteNextHop::default();
                    hop.attributes.push(gateway(destination, *next_hop));
                    hop
                });
                message.attributes.push(RouteAttribute::MultiPath(hops.collect()));
            }
        },
    }
    message
}

/// An IPv4 destination may have an IPv6 next hop (RFC 8950): RTA_VIA.
fn gateway(destination: IpNetwork, next_hop: IpAddr) -> RouteAttribute {
    match (destination, next_hop) {
        (IpNetwork::V4(_), IpAddr::V6(next_hop)) => RouteAttribute::Via(RouteVia::Inet6(next_hop)),
        _ => RouteAttribute::Gateway(next_hop.into()),
    }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteProtocol;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        let hops = |list: &[&str]| Route::Via(list.iter().map(|hop| hop.parse().unwrap()).collect());
        for (destination, route) in [
            ("10.0.0.5/32", Route::Pod { ifindex: 7 }),
            ("fd00::5/128", Route::Pod { ifindex: 7 }),
            ("10.0.0.0/26", Route::Blackhole),
            ("0.0.0.0/0", hops(&["192.0.2.1"])),
            ("10.0.1.0/26", hops(&["192.0.2.1", "192.0.2.2"])),
            ("10.0.2.0/26", hops(&["2001:db8::1"])),
            ("fd00:1::/122", hops(&["2001:db8::1", "2001:db8::2"])),
        ] {
            let destination: IpNetwork = destination.parse().unwrap();
            assert_eq!(parse(&message(destination, &route)), Some((destination, route)));
        }
    }

    #[test]
    fn only_our_protocol_metric_and_table_are_ours() {
        let destination = "10.0.0.0/26".parse().unwrap();
        let ours = message(destination, &Route::Blackhole);
        let changed = |change: fn(&mut RouteMessage)| {
            let mut message = ours.clone();
            change(&mut message);
            parse(&message)
        };
        assert_eq!(changed(|message| message.header.protocol = RouteProtocol::Bird), None);
        assert_eq!(changed(|message| message.attributes.push(RouteAttribute::Table(100))), None);
        assert_eq!(changed(|message| message.attributes.push(RouteAttribute::Priority(0))), None);
        assert_eq!(
            changed(|message| message.header.kind = RouteType::Prohibit),
            Some((destination, Route::Via(vec![])))
        );
    }
}

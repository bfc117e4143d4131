//! Which route the kernel takes for an address.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::Serialize;

use super::links;
use super::message::RTPROT_MANX;

/// The route of a kernel's table that an address matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelRoute {
    /// Its destination.
    pub destination: String,
    /// Whether it is Manx's.
    pub ours: bool,
    /// Whose it is: the number of `ip route`'s `proto`.
    pub protocol: u8,
    /// What becomes of packets: `unicast`, `blackhole`, `local` …
    pub kind: String,
    /// Routers, with their interfaces where there are several.
    pub gateways: Vec<String>,
    /// The interface, of a route without a router.
    pub interface: Option<String>,
}

impl fmt::Display for KernelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.destination)?;
        if !self.gateways.is_empty() {
            write!(f, " via {}", self.gateways.join(", "))?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " dev {interface}")?;
        }
        match self.ours {
            true => f.write_str(", of Manx"),
            false => write!(f, ", of another program (proto {})", self.protocol),
        }
    }
}

/// The route packets to `address` take, in the calling thread's network namespace; none: they are dropped for want of one.
///
/// # Errors
/// The netlink socket's.
pub fn lookup(address: IpAddr) -> Result<Option<KernelRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    // The table's entry, not what is made of it for one packet.
    message.header.flags = RouteFlags::LookupTable | RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    let mut netlink = Netlink::open()?;
    match netlink.request::<RouteMessage>((RouteNetlinkMessage::GetRoute(message), 0)) {
        Ok(replies) => replies.first().map(|route| read(route, address)).transpose(),
        Err(NetlinkError::Refused(Refusal { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH, .. })) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn read(message: &RouteMessage, asked: IpAddr) -> Result<KernelRoute, NetlinkError> {
    let unspecified = if asked.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let (mut destination, mut gateways, mut interface) = (unspecified, Vec::new(), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address).unwrap_or(destination),
            RouteAttribute::Oif(index) => interface = links::name_of(*index)?,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    gateways.extend(by(hop)?);
                }
            }
            attribute => gateways.extend(gateway_of(attribute).map(|gateway| gateway.to_string())),
        }
    }
    if message.header.kind == RouteType::BlackHole {
        // The kernel says an interface of IPv6 ones.
        interface = None;
    }
    let length = message.header.destination_prefix_length;
    let network =
        IpNetwork::new(destination, length).map_or_else(|_| destination.to_string(), |it| it.to_string());
    let protocol = u8::from(message.header.protocol);
    let kind = format!("{:?}", message.header.kind).to_lowercase();
    Ok(KernelRoute {
        destination: network,
        ours: protocol == RTPROT_MANX,
        protocol,
        kind,
        gateways,
        interface,
    })
}

fn by(hop: &RouteNextHop) -> Result<Option<String>, NetlinkError> {
    let gateway = hop.attributes.iter().find_map(gateway_of);
    let Some(gateway) = gateway else { return links::name_of(hop.interface_index) };
    Ok(Some(match links::name_of(hop.interface_index)? {
        Some(name) => format!("{gateway}%{name}"),
        None => gateway.to_string(),
    }))
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

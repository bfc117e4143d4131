//! What the kernel has of an attachment, for a CHECK: one end of a veth with all that hangs on it.
//!
//! Only what is compared is read out of the kernel's answers: this plugin is small because it carries no parser it
//! does not use.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, NlasIterator, Parseable};

use crate::message::Message;
use crate::netlink::{Errno, Netlink, NetlinkError, Refusal};

/// One end of a veth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Interface index.
    pub index: u32,
    /// Its own MAC.
    pub mac: [u8; 6],
    /// In octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Index of the other end, in the namespace that is in.
    pub peer: u32,
    /// Addresses that can be used.
    pub addresses: Vec<IpNetwork>,
    /// Permanent neighbours and their MACs.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
    /// Unicast routes of the main table by this interface, and their gateways.
    pub routes: Vec<(IpNetwork, Option<IpAddr>)>,
}

/// Reads the interface called `ifname` where `socket` was opened; `None` when there is none.
///
/// # Errors
/// The kernel's.
pub fn end(socket: &mut Netlink, ifname: &str) -> Result<Option<End>, NetlinkError> {
    let link: Option<Told<16>> = match socket.request((Message::get_link(ifname), 0)) {
        Ok(replies) => replies.into_iter().next(),
        Err(NetlinkError::Refused(Refusal { errno: Errno::ENODEV, .. })) => None,
        Err(error) => return Err(error),
    };
    let Some(link) = link else { return Ok(None) };
    let mut end = link_of(&link);
    let index = end.index;
    end.addresses = socket.dump(&Message::get_addresses(), |told: Told<8>| address_of(&told, index))?;
    end.neighbours = socket.dump(&Message::get_neighbours(), |told: Told<12>| neighbour_of(&told, index))?;
    end.routes = socket.dump(&Message::get_routes(), |told: Told<12>| route_of(&told, index))?;
    Ok(Some(end))
}

/// The route the kernel would take to `address`: its destination and interface; `None` when there is none.
///
/// # Errors
/// The kernel's.
pub fn route_to(
    socket: &mut Netlink,
    address: IpAddr,
) -> Result<Option<(IpNetwork, Option<u32>)>, NetlinkError> {
    const RTA_OIF: u16 = 4;
    match socket.request::<Told<12>>((Message::get_route(address), 0)) {
        Ok(replies) => Ok(replies
            .first()
            .and_then(|route| Some((destination_of(route, address)?, route.number(RTA_OIF))))),
        Err(NetlinkError::Refused(Refusal {
            errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES,
            ..
        })) => {
            // The last two are a blackhole's and a prohibition's own answers.
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A message whose fixed part is `HEADER` octets, and its attributes.
struct Told<const HEADER: usize> {
    header: [u8; HEADER],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl<const HEADER: usize> Parseable<[u8]> for Told<HEADER> {
    fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let (header, rest) = body.split_first_chunk().ok_or("a message shorter than its header")?;
        let attributes = NlasIterator::new(rest)
            .map(|attribute| attribute.map(|attribute| (attribute.kind(), attribute.value().to_vec())))
            .collect::<Result<_, _>>()?;
        Ok(Self { header: *header, attributes })
    }
}

impl<const HEADER: usize> Told<HEADER> {
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.attribute(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn ip(&self, kind: u16) -> Option<IpAddr> {
        let value = self.attribute(kind)?;
        let v4 = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
        v4.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
    }

    fn mac(&self, kind: u16) -> Option<[u8; 6]> {
        self.attribute(kind)?.try_into().ok()
    }

    /// Four octets of the header.
    fn word(&self, at: usize) -> u32 {
        self.header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }
}

/// `struct ifinfomsg`.
fn link_of(link: &Told<16>) -> End {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFF_UP: u32 = 1;
    End {
        index: link.word(4),
        mac: link.mac(IFLA_ADDRESS).unwrap_or_default(),
        mtu: link.number(IFLA_MTU).unwrap_or_default(),
        up: link.word(8) & IFF_UP != 0,
        peer: link.number(IFLA_LINK).unwrap_or_default(),
        ..End::default()
    }
}

/// `struct ifaddrmsg`.
fn address_of(message: &Told<8>, index: u32) -> Option<IpNetwork> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const UNUSABLE: u32 = 0x08 | 0x40; // IFA_F_DADFAILED, IFA_F_TENTATIVE
    let usable = message.number(IFA_FLAGS).unwrap_or_default() & UNUSABLE == 0;
    let ip = message.ip(IFA_LOCAL).or_else(|| message.ip(IFA_ADDRESS))?;
    (usable && message.word(4) == index).then(|| IpNetwork::new(ip, message.header[1]).ok()).flatten()
}

/// `struct ndmsg`.
fn neighbour_of(message: &Told<12>, index: u32) -> Option<(IpAddr, [u8; 6])> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NUD_PERMANENT: u16 = 0x80;
    let state = u16::from_ne_bytes([message.header[8], message.header[9]]);
    let ours = message.word(4) == index && state == NUD_PERMANENT;
    ours.then(|| Some((message.ip(NDA_DST)?, message.mac(NDA_LLADDR)?))).flatten()
}

/// `struct rtmsg`.
fn route_of(message: &Told<12>, index: u32) -> Option<(IpNetwork, Option<IpAddr>)> {
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RT_TABLE_MAIN: u8 = 254;
    const RTN_UNICAST: u8 = 1;
    const AF_INET: u8 = 2;
    let ours = message.number(RTA_OIF) == Some(index)
        && message.header[4] == RT_TABLE_MAIN
        && message.header[7] == RTN_UNICAST;
    let any = if message.header[0] == AF_INET { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    ours.then(|| Some((destination_of(message, any)?, message.ip(RTA_GATEWAY)))).flatten()
}

/// A route's destination; the default route has no RTA_DST, and is that of the family of `like`.
fn destination_of(route: &Told<12>, like: IpAddr) -> Option<IpNetwork> {
    const RTA_DST: u16 = 1;
    let any = if like.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    IpNetwork::new(route.ip(RTA_DST).unwrap_or(any), route.header[1]).ok()
}

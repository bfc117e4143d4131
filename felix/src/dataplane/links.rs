//! Interfaces by name and by address, and what is reached without a router.

use std::net::IpAddr;

use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use manx_cni::protocol::HOST_IFNAME_PREFIX;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::snapshot;
use super::state::Target;

/// The index of the interface called `name`; `None` when there is none.
///
/// # Errors
/// The netlink socket's.
pub fn index_of(name: &str) -> Result<Option<u32>, NetlinkError> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Ok(get(&mut Netlink::open()?, link)?.map(|link| link.header.index))
}

/// The name of the interface of this index; `None` when there is none.
///
/// # Errors
/// The netlink socket's.
pub fn name_of(index: u32) -> Result<Option<String>, NetlinkError> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let link = get(&mut Netlink::open()?, link)?;
    Ok(link.and_then(|link| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    }))
}

/// Routes of ours to pods: each address, and name and index of the interface that leads there.
///
/// # Errors
/// The netlink socket's.
pub fn pod_links() -> Result<Vec<(IpAddr, String, u32)>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let mut found = Vec::new();
    for seen in snapshot::read(&mut netlink, None)?.routes {
        let (destination, Target::Pod(ifindex)) = (seen.destination, seen.target) else { continue };
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        let name = get(&mut netlink, link)?.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        let name = name.filter(|name| name.starts_with(HOST_IFNAME_PREFIX));
        found.extend(name.map(|name| (destination.ip(), name, ifindex)));
    }
    Ok(found)
}

/// The smallest MTU, in octets, of the interfaces that hold `node_ips`; `None` when none does. What pods send
/// leaves by these unchanged, so it is the pods' MTU too.
///
/// # Errors
/// The netlink socket's.
pub fn mtu_of_uplink(node_ips: &[IpAddr]) -> Result<Option<u32>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let indexes = netlink.dump(&all, |address: AddressMessage| {
        let holds = address.attributes.iter().any(|attribute| match attribute {
            // With a peer, IFA_ADDRESS is the peer's; IFA_LOCAL is always ours, but IPv6 has it only then.
            AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => node_ips.contains(ip),
            _ => false,
        });
        holds.then_some(address.header.index)
    })?;
    let mut smallest = None;
    for index in indexes {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mtu = get(&mut netlink, link)?.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        });
        smallest = [smallest, mtu].into_iter().flatten().min();
    }
    Ok(smallest)
}

fn get(netlink: &mut Netlink, link: LinkMessage) -> Result<Option<LinkMessage>, NetlinkError> {
    match netlink.request((RouteNetlinkMessage::GetLink(link), 0)) {
        Ok(replies) => Ok(replies.into_iter().next()),
        Err(NetlinkError::Refused(Refusal { errno: Errno::ENODEV, .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

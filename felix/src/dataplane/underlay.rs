//! The ways the machine has without us: connected networks and other programs' routes, by which the speaker finds out
//! which next hops are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use manx_bgp::api::Reach;
use manx_bgp::types::{Interface, Prefix, is_link_local};
use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use manx_cni::protocol::HOST_IFNAME_PREFIX;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::watch;

use super::next_hops::Links;
use super::syncer::Command;

/// They are read again this often, whatever the kernel tells.
const READ_EVERY: Duration = Duration::from_secs(60);

/// And at most this often, whatever it tells.
const READ_APART: Duration = Duration::from_millis(100);

/// Whose routes count: the kernel's own, an administrator's, those of DHCP and router advertisements, and of routing
/// daemons. Ours (RTPROT_MANX) rest on these and are not among them; the kernel leaves out what is not asked for.
const PROTOCOLS: [RouteProtocol; 14] = [
    RouteProtocol::Kernel,
    RouteProtocol::Boot,
    RouteProtocol::Static,
    RouteProtocol::Ra,
    RouteProtocol::Dhcp,
    RouteProtocol::KeepAlived,
    RouteProtocol::Zebra,
    RouteProtocol::Bird,
    RouteProtocol::Babel,
    RouteProtocol::Bgp,
    RouteProtocol::Isis,
    RouteProtocol::Ospf,
    RouteProtocol::Rip,
    RouteProtocol::Eigrp,
];

/// What is read: the ways, and the interfaces that lead to neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Underlay {
    ways: Vec<Reach>,
    links: Links,
}

/// What [`start`] gives.
pub(super) struct Started {
    /// Has it read again.
    pub poke: SyncSender<()>,
    /// What is connected now.
    pub links: Links,
    /// The ways, now and whenever they change.
    pub ways: watch::Receiver<Vec<Reach>>,
}

/// Reads it now, and from a thread of its own whenever it is poked, until nobody can any more. Links are told to the
/// syncer when they change.
///
/// # Errors
/// The socket's.
pub(super) fn start(syncer: Sender<Command>) -> Result<Started, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let known = read(&mut netlink)?;
    let links = known.links.clone();
    let (tell, ways) = watch::channel(known.ways.clone());
    let (poke, poked) = sync_channel(1);
    thread::Builder::new()
        .name("underlay".to_owned())
        .spawn(move || run(&mut netlink, known, &poked, &tell, &syncer))?;
    Ok(Started { poke, links, ways })
}

fn run(
    netlink: &mut Netlink,
    mut known: Underlay,
    poked: &Receiver<()>,
    ways: &watch::Sender<Vec<Reach>>,
    syncer: &Sender<Command>,
) {
    while poked.recv_timeout(READ_EVERY) != Err(RecvTimeoutError::Disconnected) {
        match read(netlink) {
            Ok(read) => {
                if read.links != known.links {
                    // First: what the speaker says of other ways comes after.
                    let _ = syncer.send(Command::Links(read.links.clone()));
                }
                if read.ways != known.ways {
                    ways.send_replace(read.ways.clone());
                }
                known = read;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the kernel's routes; next hops are taken as before");
                // Whatever is the matter with this socket, it need not be with the next.
                if let Ok(fresh) = Netlink::open() {
                    *netlink = fresh;
                }
            }
        }
        // Pokes meanwhile leave one.
        thread::sleep(READ_APART);
    }
}

fn read(netlink: &mut Netlink) -> Result<Underlay, NetlinkError> {
    let (mut ways, mut connected) = (BTreeSet::new(), Vec::new());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for protocol in PROTOCOLS {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = protocol;
            match netlink
                .dump(&RouteNetlinkMessage::GetRoute(message), |route: RouteMessage| Some(ways_of(&route)))
            {
                Ok(routes) => {
                    for way in routes.into_iter().flatten() {
                        connected.extend(way.interface.map(|index| (way.reach.prefix, index)));
                        ways.insert(way.reach);
                    }
                }
                // The main table comes into being with its first route.
                Err(NetlinkError::Refused(Refusal { errno: Errno::ENOENT, .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
    connected.sort_unstable();
    connected.dedup();
    let links = Links { connected, names: names(netlink)? };
    Ok(Underlay { ways: ways.into_iter().collect(), links })
}

/// Interfaces that are up and have a carrier, but for pods'.
fn names(netlink: &mut Netlink) -> Result<BTreeMap<Interface, u32>, NetlinkError> {
    let up = LinkFlags::Up | LinkFlags::LowerUp;
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let names = netlink.dump(&all, |link: LinkMessage| {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if !name.starts_with(HOST_IFNAME_PREFIX) => name.parse().ok(),
            _ => None,
        })?;
        link.header.flags.contains(up).then_some((name, link.header.index))
    })?;
    Ok(names.into_iter().collect())
}

/// A way, and where it is a connected network its interface.
struct Way {
    reach: Reach,
    interface: Option<u32>,
}

/// What a route contributes: nothing where it drops packets, its interface is without a carrier, or it is of one link
/// only.
fn ways_of(message: &RouteMessage) -> Vec<Way> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let (mut destination, mut metric, mut table) = (Some(unspecified), 0, u32::from(header.table));
    let onlink = header.flags.contains(RouteFlags::Onlink);
    let mut gateways = vec![(gateway_of(&message.attributes), interface_of(&message.attributes), onlink)];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::MultiPath(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let alive = hops.iter().filter(|hop| !hop.flags.intersects(dead));
                gateways = alive
                    .map(|hop| {
                        let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
                        (gateway_of(&hop.attributes), Some(hop.interface_index), onlink)
                    })
                    .collect();
            }
            _ => {}
        }
    }
    let prefix = destination.and_then(|addr| Prefix::truncated(addr, header.destination_prefix_length));
    let prefix = prefix.filter(|prefix| match prefix.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(addr) => !addr.is_unicast_link_local() && !addr.is_multicast(),
    });
    let dead = header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
    let (RouteType::Unicast, false, Some(prefix)) = (header.kind, dead, prefix) else { return Vec::new() };
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Vec::new();
    }
    let mut ways = Vec::new();
    for (gateway, interface, onlink) in gateways {
        // What an interface's routes cost says which of two interfaces on one network is used, not how far away its
        // neighbours are.
        let metric = gateway.map_or(0, |_| metric);
        let connected = interface.filter(|_| gateway.is_none());
        ways.push(Way { reach: Reach { prefix, gateway, metric }, interface: connected });
        if let (Some(gateway), true) = (gateway.filter(|gateway| !is_link_local(*gateway)), onlink) {
            // Said to be a neighbour, as where a node has a /32 and its router an address of no network of the node.
            ways.push(Way { reach: Reach::connected(Prefix::host(gateway)), interface });
        }
    }
    ways
}

fn interface_of(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Wakes the reader; one poke that waits is enough.
pub(super) fn poke(underlay: &SyncSender<()>) {
    let _ = underlay.try_send(());
}

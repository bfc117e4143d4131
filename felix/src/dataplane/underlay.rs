//! The ways the machine has without us: connected networks and other programs' routes, by which the speaker finds out
//! which next hops are reached.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use manx_bgp::api::Reach;
use manx_bgp::types::Prefix;
use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::watch;

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

/// Reads them now, and from a thread of its own whenever the other end of what it gives is poked, until that is gone.
///
/// # Errors
/// The socket's.
pub(super) fn start() -> Result<(SyncSender<()>, watch::Receiver<Vec<Reach>>), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let (ways, told) = watch::channel(read(&mut netlink)?);
    let (poke, poked) = sync_channel(1);
    thread::Builder::new().name("underlay".to_owned()).spawn(move || run(&mut netlink, &poked, &ways))?;
    Ok((poke, told))
}

fn run(netlink: &mut Netlink, poked: &Receiver<()>, ways: &watch::Sender<Vec<Reach>>) {
    while poked.recv_timeout(READ_EVERY) != Err(RecvTimeoutError::Disconnected) {
        match read(netlink) {
            Ok(read) => {
                ways.send_if_modified(|known| {
                    let news = *known != read;
                    *known = read;
                    news
                });
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

fn read(netlink: &mut Netlink) -> Result<Vec<Reach>, NetlinkError> {
    let mut ways = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for protocol in PROTOCOLS {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = protocol;
            match netlink
                .dump(&RouteNetlinkMessage::GetRoute(message), |route: RouteMessage| Some(ways_of(&route)))
            {
                Ok(routes) => ways.extend(routes.into_iter().flatten()),
                // The main table comes into being with its first route.
                Err(NetlinkError::Refused(Refusal { errno: Errno::ENOENT, .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ways.into_iter().collect())
}

/// What a route contributes: nothing where it drops packets, its interface is without a carrier, or it is of one link
/// only.
fn ways_of(message: &RouteMessage) -> Vec<Reach> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let (mut destination, mut metric, mut table) = (Some(unspecified), 0, u32::from(header.table));
    let mut gateways = vec![gateway_of(&message.attributes)];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::MultiPath(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let alive = hops.iter().filter(|hop| !hop.flags.intersects(dead));
                gateways = alive.map(|hop| gateway_of(&hop.attributes)).collect();
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
    // What an interface's routes cost says which of two interfaces on one network is used, not how far away its
    // neighbours are.
    let way = |gateway: Option<IpAddr>| Reach { prefix, gateway, metric: gateway.map_or(0, |_| metric) };
    gateways.into_iter().map(way).collect()
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

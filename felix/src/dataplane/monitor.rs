//! What others do to our routes and to the links beneath them, from the kernel's multicast groups.

use std::collections::BTreeSet;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Sender, SyncSender};

use ipnetwork::IpNetwork;
use manx_cni::netlink::Datagram;
use manx_cni::protocol::HOST_IFNAME_PREFIX;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::routes::{self, RTPROT_MANX};
use super::syncer::Command;
use super::{Route, underlay};

/// `enum rtnetlink_groups` of linux/rtnetlink.h: links, addresses and routes of both families.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// Of linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Our own writes are told to us too, some 1 KB of socket buffer each; this is what may wait.
const RECEIVE_BUFFER: usize = 64 << 20;

/// How often a silent monitor looks whether anybody still listens, in seconds.
const PATIENCE: i64 = 1;

/// One of the kernel's notifications, as far as it matters to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A route of ours went, and we did not do it.
    RouteGone(IpNetwork, Route),
    /// Something happened that is best answered by reading all of our routes again.
    Doubt,
    /// A pod's veth went or was set down: the kernel dropped its routes, the IPv4 ones without a word.
    VethDown(u32),
    /// A pod's veth is up.
    VethUp(u32),
    /// The node may reach next hops it could not reach before.
    Reachable,
}

/// Reads notifications and hands them on.
pub struct Monitor {
    socket: Socket,
    own_port: u32,
    /// Links last seen down: a link is told of when it changes, not whenever it is mentioned.
    down: BTreeSet<u32>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. What the socket `own_port` does is passed over.
    ///
    /// # Errors
    /// The socket's.
    pub fn open(own_port: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Without CAP_NET_ADMIN the default stays: it overflows sooner, and that too is told.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, own_port, down: BTreeSet::new() })
    }

    /// Hands on events until nobody takes them or `alive` has gone.
    pub fn run(mut self, commands: &Sender<Command>, underlay: &SyncSender<()>, alive: &Weak<()>) {
        let mut buffer = Vec::with_capacity(64 * 1024);
        while alive.strong_count() > 0 {
            buffer.clear();
            let events = match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {
                    if Datagram(&buffer).any(is_of_the_underlay) {
                        underlay::poke(underlay);
                    }
                    Datagram(&buffer).filter_map(|message| self.event(message)).collect()
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    underlay::poke(underlay);
                    vec![Event::Doubt]
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot hear of route changes any more; compared once a minute instead");
                    return;
                }
            };
            for event in events {
                if commands.send(Command::Kernel(event)).is_err() {
                    return;
                }
            }
        }
    }

    /// What one message means; `None` for most. Looks at the raw octets first: nearly all of a busy node's
    /// notifications are the echo of our own writes.
    fn event(&mut self, message: &[u8]) -> Option<Event> {
        let kind = u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]);
        let port = u32::from_ne_bytes(*message.get(12..)?.first_chunk()?);
        if matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) {
            // rtm_protocol, the sixth octet of struct rtmsg.
            let protocol = *message.get(16 + 5)?;
            if protocol != RTPROT_MANX || port == self.own_port {
                return None;
            }
        }
        let (_, payload) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.into_parts();
        let NetlinkPayload::InnerMessage(message) = payload else { return None };
        match message {
            RouteNetlinkMessage::DelRoute(route) => {
                routes::parse(&route).map(|(destination, route)| Event::RouteGone(destination, route))
            }
            RouteNetlinkMessage::NewRoute(_) => Some(Event::Doubt),
            RouteNetlinkMessage::NewAddress(_) => Some(Event::Reachable),
            RouteNetlinkMessage::NewLink(link) if link.header.flags.contains(LinkFlags::Up) => {
                let index = link.header.index;
                let came_up = self.down.remove(&index);
                came_up.then(|| if is_veth(&link) { Event::VethUp(index) } else { Event::Reachable })
            }
            RouteNetlinkMessage::NewLink(link) => {
                self.down.insert(link.header.index).then(|| went_down(&link))
            }
            RouteNetlinkMessage::DelLink(link) => {
                (!self.down.remove(&link.header.index)).then(|| went_down(&link))
            }
            _ => None,
        }
    }
}

/// Whether the ways there are without us may be others: an address, a route that is not ours, or a link that is no
/// pod's.
fn is_of_the_underlay(message: &[u8]) -> bool {
    let kind = message.get(4..).and_then(|rest| rest.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
    match kind {
        Some(RTM_NEWROUTE | RTM_DELROUTE) => {
            message.get(16 + 5).is_some_and(|protocol| *protocol != RTPROT_MANX)
        }
        Some(RTM_NEWLINK | RTM_DELLINK) => {
            // The name stands in the message as it is.
            let prefix = HOST_IFNAME_PREFIX.as_bytes();
            !message.windows(prefix.len()).any(|octets| octets == prefix)
        }
        Some(RTM_NEWADDR | RTM_DELADDR) => true,
        _ => false,
    }
}

fn went_down(link: &LinkMessage) -> Event {
    if is_veth(link) { Event::VethDown(link.header.index) } else { Event::Doubt }
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.starts_with(HOST_IFNAME_PREFIX),
        _ => false,
    })
}

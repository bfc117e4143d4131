//! What others do to our routes and to the links beneath them, from the kernel's multicast groups.

use std::collections::BTreeSet;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Sender, SyncSender};

use manx_cni::netlink::Datagram;
use manx_cni::protocol::HOST_IFNAME_PREFIX;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use socket2::{SockFilter, SockRef};

use super::Settings;
use super::message::{self, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE, RTPROT_MANX, Seen};
use super::overlaps::Foreign;
use super::syncer::Command;
use super::underlay;

/// `enum rtnetlink_groups` of linux/rtnetlink.h: links, addresses and routes of both families, next-hop objects.
const GROUPS: [u32; 6] = [1, 5, 7, 9, 11, 32];

/// Of linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTA_OIF: u16 = 4;

/// Some 1 KB of socket buffer is needed for a route; this is what may wait.
const RECEIVE_BUFFER: usize = 64 << 20;

/// How often a silent monitor looks whether anybody still listens, in seconds.
const PATIENCE: i64 = 1;

/// One of the kernel's notifications, as far as it matters to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A route of ours went, and we did not do it.
    RouteGone(Seen),
    /// A route of ours is this now, and we did not do it.
    RouteSet(Seen),
    /// Something happened that is best answered by reading all of our routes again.
    Doubt,
    /// Something happened that is best answered by reading all of our next-hop objects again: a link went or lost its
    /// carrier, with which the kernel drops them without a word, or someone else changed them.
    Objects,
    /// A pod's veth went or was set down: the kernel dropped its routes, the IPv4 ones without a word.
    VethDown(u32),
    /// A pod's veth is up.
    VethUp(u32),
    /// Another program's route came or went.
    Foreign(Foreign, bool),
    /// The node may reach next hops it could not reach before.
    Reachable,
}

/// Reads notifications and hands them on.
pub struct Monitor {
    socket: Socket,
    own_port: u32,
    settings: Settings,
    /// Links last seen down: a link is told of when it changes, not whenever it is mentioned.
    down: BTreeSet<u32>,
    /// Pods' veths: their addresses and the kernel's routes by them come and go with pods, and are no way to anywhere else.
    veths: BTreeSet<u32>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. What the socket `own_port` does is passed over.
    ///
    /// # Errors
    /// The socket's.
    pub fn open(own_port: u32, settings: Settings) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Without CAP_NET_ADMIN the default stays: it overflows sooner, and that too is told.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        // Without it the echo of our own writes is passed over one by one.
        let _ = SockRef::from(&socket).attach_filter(&all_but_from(own_port));
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, own_port, settings, down: BTreeSet::new(), veths: BTreeSet::new() })
    }

    /// Hands on events until nobody takes them or `alive` has gone.
    pub fn run(mut self, commands: &Sender<Command>, underlay: &SyncSender<()>, alive: &Weak<()>) {
        let mut buffer = Vec::with_capacity(64 * 1024);
        while alive.strong_count() > 0 {
            buffer.clear();
            let events = match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {
                    let mut events = Vec::new();
                    for message in Datagram(&buffer) {
                        if self.is_of_a_pod(message) {
                            continue;
                        }
                        if is_of_the_underlay(message) {
                            underlay::poke(underlay);
                        }
                        events.extend(self.event(message));
                    }
                    events
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

    /// Whether a message is about an address of a pod's veth, or a route by it that is not ours. Notes which links are.
    fn is_of_a_pod(&mut self, message: &[u8]) -> bool {
        let number = |octets: Option<&[u8]>| octets?.first_chunk().copied().map(u32::from_ne_bytes);
        let kind = message.get(4..).and_then(|rest| rest.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
        match kind {
            Some(kind @ (RTM_NEWLINK | RTM_DELLINK)) => {
                // struct ifinfomsg: the index is its second word.
                if let Some(index) = number(message.get(16 + 4..)) {
                    let is_there = kind == RTM_NEWLINK && is_a_pods(message);
                    if is_there {
                        self.veths.insert(index)
                    } else {
                        self.veths.remove(&index)
                    };
                }
                false
            }
            Some(RTM_NEWADDR | RTM_DELADDR) => {
                number(message.get(16 + 4..)).is_some_and(|index| self.veths.contains(&index))
            }
            Some(RTM_NEWROUTE | RTM_DELROUTE) if message.get(16 + 5) != Some(&RTPROT_MANX) => {
                let attributes = NlasIterator::new(message.get(16 + 12..).unwrap_or_default()).flatten();
                let mut interface = attributes.filter(|attribute| attribute.kind() == RTA_OIF);
                let index = interface.next().and_then(|attribute| number(Some(attribute.value())));
                index.is_some_and(|index| self.veths.contains(&index))
            }
            _ => false,
        }
    }

    /// What one message means; `None` for most. Looks at the raw octets first: nearly all of a busy node's
    /// notifications are the echo of our own writes.
    fn event(&mut self, message: &[u8]) -> Option<Event> {
        let kind = u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]);
        let port = u32::from_ne_bytes(*message.get(12..)?.first_chunk()?);
        match kind {
            // rtm_protocol, the sixth octet of struct rtmsg; nh_protocol, the third of struct nhmsg.
            RTM_NEWROUTE | RTM_DELROUTE if *message.get(16 + 5)? != RTPROT_MANX => {
                let (_, payload) =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.into_parts();
                let (NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
                | NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route))) = payload
                else {
                    return None;
                };
                let foreign = Foreign::of(&route, self.settings)?;
                return Some(Event::Foreign(foreign, kind == RTM_NEWROUTE));
            }
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP if *message.get(16 + 2)? != RTPROT_MANX => return None,
            RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP if port == self.own_port => {
                return None;
            }
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => return Some(Event::Objects),
            _ => {}
        }
        // struct ifinfomsg: all of ifi_change is set when a link is made. Nothing leads over it that could be lost, and what
        // does before this is heard is not.
        let is_new = message.get(16 + 12..16 + 16) == Some(&[u8::MAX; 4]);
        let (_, payload) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.into_parts();
        let NetlinkPayload::InnerMessage(message) = payload else { return None };
        match message {
            RouteNetlinkMessage::DelRoute(route) => message::parse_route(&route).map(Event::RouteGone),
            RouteNetlinkMessage::NewRoute(route) => message::parse_route(&route).map(Event::RouteSet),
            RouteNetlinkMessage::NewAddress(_) => Some(Event::Reachable),
            RouteNetlinkMessage::NewLink(link) if link.header.flags.contains(works(&link)) => {
                let index = link.header.index;
                let came_up = self.down.remove(&index);
                came_up.then(|| if is_veth(&link) { Event::VethUp(index) } else { Event::Reachable })
            }
            RouteNetlinkMessage::NewLink(link) => {
                let is_news = self.down.insert(link.header.index);
                (is_news && !is_new).then(|| went_down(&link))
            }
            RouteNetlinkMessage::DelLink(link) => {
                (!self.down.remove(&link.header.index)).then(|| went_down(&link))
            }
            _ => None,
        }
    }
}

/// A filter of the kernel that lets pass what somebody else did: nlmsg_pid, the fourth word, is who did it.
fn all_but_from(port: u32) -> [SockFilter; 4] {
    // Of linux/bpf_common.h; words are loaded as if of network byte order.
    const LD_W_ABS: u16 = 0x20;
    const JMP_JEQ_K: u16 = 0x15;
    const RET_K: u16 = 0x06;
    [
        SockFilter::new(LD_W_ABS, 0, 0, 12),
        SockFilter::new(JMP_JEQ_K, 0, 1, port.to_be()),
        SockFilter::new(RET_K, 0, 0, 0),
        SockFilter::new(RET_K, 0, 0, u32::MAX),
    ]
}

/// Whether the ways there are without us may be others: an address, a route that is not ours, or a link that is no
/// pod's.
fn is_of_the_underlay(message: &[u8]) -> bool {
    let kind = message.get(4..).and_then(|rest| rest.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
    match kind {
        Some(RTM_NEWROUTE | RTM_DELROUTE) => {
            message.get(16 + 5).is_some_and(|protocol| *protocol != RTPROT_MANX)
        }
        Some(RTM_NEWLINK | RTM_DELLINK) => !is_a_pods(message),
        Some(RTM_NEWADDR | RTM_DELADDR) => true,
        _ => false,
    }
}

/// Whether a message about a link is about a pod's veth: the name stands in it as it is.
fn is_a_pods(message: &[u8]) -> bool {
    let prefix = HOST_IFNAME_PREFIX.as_bytes();
    message.windows(prefix.len()).any(|octets| octets == prefix)
}

fn went_down(link: &LinkMessage) -> Event {
    if is_veth(link) { Event::VethDown(link.header.index) } else { Event::Objects }
}

/// What a link must be for the kernel to keep what leads over it: routes need it up, next-hop objects a carrier too.
fn works(link: &LinkMessage) -> LinkFlags {
    if is_veth(link) { LinkFlags::Up } else { LinkFlags::Up | LinkFlags::LowerUp }
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.starts_with(HOST_IFNAME_PREFIX),
        _ => false,
    })
}

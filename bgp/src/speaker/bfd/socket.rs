//! The sockets of RFC 5881, sections 4 and 5, and RFC 5883.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::iana::{BFD_MULTIHOP_PORT, BFD_PORT};
use crate::speaker::scope::scoped;
use crate::types::{Family, ScopedAddr};

/// What is sent, and over one hop must arrive: no router on the way can send it (RFC 5881, section 5).
const TTL: u8 = 255;

/// Class selector 6, for what keeps the network together: a queue full of traffic must not look like a
/// failure of the way.
const TRAFFIC_CLASS: u32 = 0xc0;

/// RFC 5881, section 4; the last port is 65535.
const FIRST_SOURCE_PORT: u16 = 49_152;

/// Room for the packets of many neighbours while the thread is not scheduled, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How far away the neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::speaker) enum Hops {
    /// On a link of ours: RFC 5881.
    One,
    /// Behind routers: RFC 5883.
    Several,
}

impl Hops {
    /// Where packets are sent to.
    pub fn port(self) -> u16 {
        match self {
            Self::One => BFD_PORT,
            Self::Several => BFD_MULTIHOP_PORT,
        }
    }

    /// Whether a packet that arrived with this TTL can have come from such a neighbour.
    pub fn admit(self, ttl: Option<u8>) -> bool {
        match self {
            Self::One => ttl == Some(TTL),
            Self::Several => true,
        }
    }
}

/// A datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub from: ScopedAddr,
    /// TTL or hop limit, if the kernel told it.
    pub ttl: Option<u8>,
    pub length: usize,
}

/// Where the packets of all neighbours of a kind arrive.
#[derive(Debug)]
pub(super) struct Receiver {
    pub socket: UdpSocket,
    control: Vec<u8>,
}

impl Receiver {
    pub fn open(family: Family, hops: Hops) -> io::Result<Self> {
        let socket = new(family)?;
        match family {
            Family::Ipv4 => setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?,
            Family::Ipv6 => setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?,
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        let address = SocketAddr::new(unspecified(family), hops.port());
        socket.bind(&address.into()).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on UDP {address}: {error}"))
        })?;
        Ok(Self { socket: socket.into(), control: cmsg_space!(i32) })
    }

    /// One that is there; none: no more.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<Datagram> {
        let mut buffers = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffers, Some(&mut self.control), flags)
                .ok()?;
        let address = message.address?;
        let from = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()).into(),
            (None, Some(v6)) => scoped(SocketAddr::V6((*v6).into())),
            (None, None) => return None,
        };
        let ttl = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                u8::try_from(ttl).ok()
            }
            _ => None,
        });
        Some(Datagram { from, ttl, length: message.bytes })
    }
}

/// The socket a session sends on, bound to a source port no other session has (RFC 5881, section 4), tried
/// from `start` on.
pub(super) fn sender(
    local: Option<IpAddr>,
    family: Family,
    taken: &BTreeSet<u16>,
    start: u16,
) -> io::Result<(UdpSocket, u16)> {
    let socket = new(family)?;
    match family {
        Family::Ipv4 => {
            socket.set_ttl_v4(TTL.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            // The address may come later than the orders.
            socket.set_freebind_v4(true)?;
        }
        Family::Ipv6 => {
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            socket.set_freebind_v6(true)?;
        }
    }
    let address = local.unwrap_or(unspecified(family));
    let ports = u16::MAX - FIRST_SOURCE_PORT;
    let start = start % ports;
    for port in (start..ports).chain(0..start).map(|offset| FIRST_SOURCE_PORT + offset) {
        if taken.contains(&port) {
            continue;
        }
        match socket.bind(&SocketAddr::new(address, port).into()) {
            Ok(()) => return Ok((socket.into(), port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("cannot send from {address}: {error}")));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no source port from 49152 on is left"))
}

fn new(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if family == Family::Ipv6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc5881_over_one_hop_only_the_full_ttl_is_taken() {
        assert!(Hops::One.admit(Some(255)));
        assert!(!Hops::One.admit(Some(254)));
        assert!(!Hops::One.admit(None));
        assert!(Hops::Several.admit(Some(1)));
    }

    #[test]
    fn every_session_has_a_source_port_of_its_own_in_the_range_of_rfc_5881() {
        let (local, mut taken) = (Some(IpAddr::from([127, 0, 0, 1])), BTreeSet::new());
        let mut sockets = Vec::new();
        // All from the same start, which is the last of the range: the search goes round.
        for _ in 0..20 {
            let (socket, port) = sender(local, Family::Ipv4, &taken, 16_382).unwrap();
            assert!(port >= FIRST_SOURCE_PORT && taken.insert(port));
            assert_eq!(socket.local_addr().unwrap().port(), port);
            sockets.push(socket);
        }
    }
}

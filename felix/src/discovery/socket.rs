//! The raw ICMPv6 socket of one interface: needs CAP_NET_RAW.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use manx_bgp::types::Interface;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::message::{self, Message};

/// Octets of the largest message that is read; what is longer is none we know.
const LARGEST: usize = 1500;

/// All routers on the link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Hears router solicitations and advertisements of its interface, and sends there.
#[derive(Debug)]
pub struct Socket {
    socket: socket2::Socket,
    index: u32,
}

impl Socket {
    /// Opens it; [`Socket::receive`] waits at most `patience`.
    ///
    /// # Errors
    /// The kernel's: without CAP_NET_RAW, or without the interface.
    pub fn open(interface: Interface, patience: Duration) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface.as_str())?;
        let socket = socket2::Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).map_err(
            |error| match error.kind() {
                io::ErrorKind::PermissionDenied => io::Error::new(
                    error.kind(),
                    "a raw ICMPv6 socket needs CAP_NET_RAW: give it to the agent",
                ),
                _ => error,
            },
        )?;
        socket.bind_device(Some(interface.as_str().as_bytes()))?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_multicast_if_v6(index)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        socket.set_recv_hoplimit_v6(true)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, index })
    }

    /// Sends to a group of the link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, message: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let to = SockAddr::from(SocketAddrV6::new(to, 0, 0, self.index));
        match self.socket.send_to(message, &to) {
            // The link has no address yet; the next one may go out.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// What came, and from whom; none: nothing in time, or something else.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&self) -> io::Result<Option<(Message, Ipv6Addr)>> {
        let mut octets = [0; LARGEST];
        let mut parts = [IoSliceMut::new(&mut octets)];
        let mut control = cmsg_space!(i32);
        let descriptor = self.socket.as_raw_fd();
        let received = recvmsg::<SockaddrIn6>(descriptor, &mut parts, Some(&mut control), MsgFlags::empty());
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let hop_limit = received.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
            _ => None,
        });
        let (length, from) = (received.bytes, received.address);
        let (Some(hop_limit), Some(from)) = (hop_limit, from) else { return Ok(None) };
        let parsed = octets.get(..length).and_then(|octets| message::parse(octets, from.ip(), hop_limit));
        Ok(parsed.map(|message| (message, from.ip())))
    }
}

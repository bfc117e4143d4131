//! Connections the kernel knows (ctnetlink): those that a policy forbids now are ended.
//!
//! What was let through once is not judged again: its packets are established. When the ruleset has changed, the
//! connections of this node's endpoints are read and judged, and those it would not let through are forgotten by the
//! kernel: their next packet opens a connection, and is denied.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use manx_cni::netlink::{Datagram, Refusal, refusal_of};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::evaluate::{Flow, Transport};
use super::nft::attr::{Attributes, Frame};
use super::ruleset::{Protocol, Ruleset};

/// Of linux/netfilter/nfnetlink_conntrack.h.
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;

/// Connections judged in one go: with many policies some milliseconds, for which other changes wait.
const CHUNK: usize = 128;

/// Between two readings of the kernel's connections.
const APART: Duration = Duration::from_secs(1);

/// Largest datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// A connection as it was opened, after DNAT and before SNAT, and what the kernel knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its first packet.
    pub flow: Flow,
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

impl Connection {
    /// `None` for what belongs to another connection, or has no addresses.
    fn parse(family: u8, entry: Attributes<'_>) -> Option<Self> {
        if entry.get(CTA_TUPLE_MASTER).is_some() {
            return None;
        }
        let (original, reply) = (entry.nested(CTA_TUPLE_ORIG), entry.nested(CTA_TUPLE_REPLY));
        let address = |tuple: Attributes<'_>, four, six| {
            let ip = tuple.nested(CTA_TUPLE_IP);
            let four = ip.get(four).and_then(<[u8]>::first_chunk::<4>).map(|octets| IpAddr::from(*octets));
            four.or_else(|| ip.get(six)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)))
        };
        let protocol = original.nested(CTA_TUPLE_PROTO).byte(CTA_PROTO_NUM)?;
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let transport = match known.into_iter().find(|known| *known as u8 == protocol) {
            // Where DNAT turned it to: whence the reply comes.
            Some(known) => Transport::Port(known, reply.nested(CTA_TUPLE_PROTO).be16(CTA_PROTO_SRC_PORT)?),
            None => Transport::Other(protocol),
        };
        Some(Self {
            flow: Flow {
                source: address(original, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
                destination: address(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
                transport,
            },
            family,
            original: entry.get(CTA_TUPLE_ORIG)?.to_vec(),
            zone: entry.get(CTA_ZONE).map(<[u8]>::to_vec),
            id: entry.get(CTA_ID).map(<[u8]>::to_vec),
        })
    }

    /// Whether the ruleset would not let it through.
    pub fn is_denied(&self, ruleset: &Ruleset) -> bool {
        let from = ruleset.endpoint_of(self.flow.source).map(|(ifname, _)| ifname);
        ruleset.judge(from, &self.flow).iter().any(|(_, verdict)| !verdict.passes)
    }
}

/// A ctnetlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conntrack {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The connections that `keep` says to.
    ///
    /// # Errors
    /// The socket's, or the kernel's refusal.
    pub fn list(&mut self, keep: impl Fn(&Flow) -> bool) -> io::Result<Vec<Connection>> {
        let mut kept = Vec::new();
        // AF_UNSPEC: of both families.
        self.ask(
            IPCTNL_MSG_CT_GET,
            NLM_F_DUMP,
            0,
            |_| {},
            |octets| {
                let family = octets.get(16).copied().unwrap_or(0);
                let found = Connection::parse(family, Attributes::of_message(octets));
                kept.extend(found.filter(|connection| keep(&connection.flow)));
            },
        )?;
        Ok(kept)
    }

    /// Has the kernel forget one. One that has ended is none to forget.
    ///
    /// # Errors
    /// The socket's, or the kernel's refusal.
    pub fn delete(&mut self, connection: &Connection) -> io::Result<()> {
        let attributes = |frame: &mut Frame| {
            frame.nest(CTA_TUPLE_ORIG, |frame| frame.raw(&connection.original));
            for (kind, value) in [(CTA_ZONE, &connection.zone), (CTA_ID, &connection.id)] {
                if let Some(value) = value {
                    frame.put(kind, value);
                }
            }
        };
        match self.ask(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, connection.family, attributes, |_| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: impl FnOnce(&mut Frame),
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut frame = Frame::default();
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | kind;
        frame.message(kind, NLM_F_REQUEST | flags, self.sequence, (family, 0), attributes);
        self.socket.send(frame.octets(), 0)?;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            for octets in Datagram(&self.buffer) {
                let message = NetlinkBuffer::new_checked(octets).map_err(io::Error::other)?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let refused = |Refusal { errno, .. }| Err(io::Error::from_raw_os_error(errno as i32));
                        return refusal_of(&message).map_or(Ok(()), refused);
                    }
                    _ => take(octets),
                }
            }
        }
    }
}

/// Reads connections whenever it is told addresses, those of one of them, and hands them on in parts, until nobody
/// tells or takes any more. Of what is told while it reads, or too soon after, only the last counts.
pub fn read(
    mut conntrack: Conntrack,
    addresses: &Receiver<BTreeSet<IpAddr>>,
    give: impl Fn(Vec<Connection>) -> bool,
) {
    while let Ok(mut wanted) = addresses.recv() {
        let due = Instant::now() + APART / 10;
        loop {
            match addresses.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(newer) => wanted = newer,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let is_ours = |flow: &Flow| wanted.contains(&flow.source) || wanted.contains(&flow.destination);
        match conntrack.list(is_ours) {
            Ok(found) => {
                for chunk in found.chunks(CHUNK) {
                    if !give(chunk.to_vec()) {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read connections; those a policy forbids now go on"),
        }
        std::thread::sleep(APART);
    }
}

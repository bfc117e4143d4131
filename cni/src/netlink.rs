//! A synchronous rtnetlink socket: many messages a send, one answer, errors told apart by message.
//!
//! The kernel serves rtnetlink inside `sendmsg`, so when a send returns its answers lie in the
//! socket's buffer. Nothing here ever blocks on a read; a read that would is an error.

use std::io;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator, Parseable,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

pub use nix::errno::Errno;

/// Messages and octets of one send. The octets stay under the default `net.core.wmem_default` (212,992), past
/// which the kernel answers EMSGSIZE.
const BATCH_MESSAGES: usize = 1000;
const BATCH_OCTETS: usize = 128 * 1024;

/// Room for the refusals of a whole batch, each some 1.3 KB of socket buffer.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Largest datagram: the kernel fills dumps up to 32 KiB, and one link with all its attributes stays below.
const DATAGRAM: usize = 64 * 1024;

/// How often a dump that changed under our hands is read again.
const DUMP_TRIES: usize = 8;

/// A request to the kernel: the message and its flags besides NLM_F_REQUEST and NLM_F_ACK.
pub type Request<M> = (M, u16);

/// Why the kernel refused one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own words (NLMSGERR_ATTR_MSG); often empty.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.errno.desc())?;
        if self.message.is_empty() { Ok(()) } else { write!(f, " ({})", self.message) }
    }
}

impl std::error::Error for Refusal {}

/// Why an exchange with the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The one message of a request was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The socket's own error. Whether the kernel did what was asked is not known.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's answer is not what this program knows.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(#[from] DecodeError),
    /// A dump kept changing while it was read.
    #[error("the kernel's tables changed during each of {DUMP_TRIES} reads")]
    Unsteady,
}

/// An rtnetlink socket. It belongs for life to the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's: no netlink, or out of file descriptors.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        // Without CAP_NET_ADMIN the default stays, which suffices for reading.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The socket's address: the kernel puts it in the notifications of what this socket changed.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends one message and returns what the kernel says besides its acknowledgement. `T` is what an answer
    /// holds, `RouteMessage` for one; the caller names it, so that a program carries only the parsers it uses.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when the kernel does not do it.
    pub fn request<T: Parseable<[u8]>>(
        &mut self,
        request: Request<impl NetlinkSerializable>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut frame = Vec::new();
        let (message, flags) = request;
        let sequence = self.write(&mut frame, &message, flags | NLM_F_ACK);
        self.socket.send(&frame, 0)?;
        let mut replies = Vec::new();
        let mut refusal = None;
        self.receive(|message| {
            if message.sequence_number() != sequence {
                return Ok(false);
            }
            if message.message_type() == NLMSG_ERROR {
                refusal = refusal_of(message);
                return Ok(true);
            }
            replies.push(T::parse(message.payload())?);
            Ok(false)
        })?;
        refusal.map_or(Ok(replies), |refusal| Err(refusal.into()))
    }

    /// Sends many messages, in order, and returns those refused, by their place. A refused message does not
    /// keep those after it from being done.
    ///
    /// # Errors
    /// The socket's: then some were done and some were not.
    pub fn batch(
        &mut self,
        requests: impl IntoIterator<Item = Request<impl NetlinkSerializable>>,
    ) -> Result<Vec<(usize, Refusal)>, NetlinkError> {
        let mut requests = requests.into_iter().peekable();
        let mut refused = Vec::new();
        let mut frame = Vec::new();
        let mut sent = 0;
        while requests.peek().is_some() {
            frame.clear();
            let first = self.sequence.wrapping_add(1);
            let mut count = 0;
            while let Some((message, flags)) = requests.next() {
                count += 1;
                let full = count == BATCH_MESSAGES || frame.len() >= BATCH_OCTETS;
                let last = full || requests.peek().is_none();
                self.write(&mut frame, &message, flags | if last { NLM_F_ACK } else { 0 });
                if last {
                    break;
                }
            }
            self.socket.send(&frame, 0)?;
            let last = self.sequence;
            self.receive(|message| {
                // Place within this send; an answer to an earlier request lies far behind.
                let place = message.sequence_number().wrapping_sub(first) as usize;
                if message.message_type() != NLMSG_ERROR || place >= count {
                    return Ok(false);
                }
                refused.extend(refusal_of(message).map(|refusal| (sent + place, refusal)));
                Ok(message.sequence_number() == last)
            })?;
            sent += count;
        }
        Ok(refused)
    }

    /// Reads a table: every message the kernel holds, as `keep` sees it. A read that the kernel flags as
    /// inconsistent (NLM_F_DUMP_INTR) is made again.
    ///
    /// # Errors
    /// The socket's, a refusal, or [`NetlinkError::Unsteady`].
    pub fn dump<T: Parseable<[u8]>, K>(
        &mut self,
        message: &impl NetlinkSerializable,
        mut keep: impl FnMut(T) -> Option<K>,
    ) -> Result<Vec<K>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let mut frame = Vec::new();
            let sequence = self.write(&mut frame, message, NLM_F_DUMP);
            self.socket.send(&frame, 0)?;
            let mut kept = Vec::new();
            let mut steady = true;
            let mut refusal = None;
            self.receive(|message| {
                if message.sequence_number() != sequence {
                    return Ok(false);
                }
                steady &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    // Both begin with an error number; that of a whole dump is zero.
                    NLMSG_ERROR | NLMSG_DONE => {
                        refusal = refusal_of(message);
                        return Ok(true);
                    }
                    _ => kept.extend(keep(T::parse(message.payload())?)),
                }
                Ok(false)
            })?;
            if let Some(refusal) = refusal {
                return Err(refusal.into());
            }
            if steady {
                return Ok(kept);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Appends one message to `frame` and returns its sequence number.
    fn write(&mut self, frame: &mut Vec<u8>, message: &impl NetlinkSerializable, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        let length = header.buffer_len() + message.buffer_len();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = message.message_type();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let start = frame.len();
        frame.resize(start + length.next_multiple_of(4), 0);
        let (head, body) = frame[start..start + length].split_at_mut(header.buffer_len());
        header.emit(head);
        message.serialize(body);
        self.sequence
    }

    /// Hands each message received to `take`, until it says that this was the last.
    fn receive(
        &mut self,
        mut take: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<bool, NetlinkError>,
    ) -> Result<(), NetlinkError> {
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            for message in Datagram(&self.buffer) {
                if take(&NetlinkBuffer::new_checked(message)?)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The messages of one datagram, as slices with their header.
#[derive(Clone, Debug)]
pub struct Datagram<'a>(pub &'a [u8]);

impl<'a> Iterator for Datagram<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        if length < 16 {
            return None;
        }
        let message = self.0.get(..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// What an NLMSG_ERROR or NLMSG_DONE says; `None` for an acknowledgement. The error number is negative; with NETLINK_CAP_ACK the request's 16-octet header
/// follows, and then the attributes of `enum nlmsgerr_attrs`.
pub fn refusal_of(message: &NetlinkBuffer<&[u8]>) -> Option<Refusal> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = i32::from_ne_bytes(*message.payload().first_chunk()?);
    let words = NlasIterator::new(message.payload().get(4 + 16..).unwrap_or_default())
        .flatten()
        .find(|nla: &NlaBuffer<_>| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned());
    let refusal = Refusal { errno: Errno::from_raw(-code), message: words.unwrap_or_default() };
    (code != 0).then_some(refusal)
}

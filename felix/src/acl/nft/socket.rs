//! A synchronous nfnetlink socket: transactions, reading back, and what others do.
//!
//! The kernel serves nfnetlink inside `sendmsg`, so when a send returns its answers lie in the socket's buffer. A
//! transaction that deletes blocks there for a grace period: this belongs on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use manx_cni::netlink::{Datagram, Errno, Refusal, refusal_of};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::attr::{Attributes, Frame};
use super::batch::{Batch, Part};
use super::expr::Expr;
use super::object::{BaseChain, Element, Listed, Set, body};
use super::uapi::*;

/// Most octets of one transaction, which must fit the socket's send buffer: some 2.5 million addresses.
const SEND_BUFFER: usize = 256 << 20;

/// Room for the refusals of a whole transaction and for a burst of notifications.
const RECEIVE_BUFFER: usize = 64 << 20;

/// Largest datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// How often a table that changed under our hands is read again.
const READ_TRIES: usize = 8;

/// Why a transaction was not made. Nothing of it is in force, unless it is the socket that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The kernel refused a part.
    #[error("the kernel refuses {part}: {refusal}")]
    Refused {
        /// The first it refused.
        part: Part,
        /// Why.
        refusal: Refusal,
    },
    /// The socket's own error. Whether the kernel did what was asked is not known.
    #[error("nfnetlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// Why the kernel's tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The kernel refused.
    #[error("the kernel does not tell its tables: {0}")]
    Refused(#[from] Refusal),
    /// The socket's own error.
    #[error("nfnetlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's answer is not what this program knows.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(#[from] DecodeError),
    /// It kept changing while it was read.
    #[error("the kernel's tables changed during each of {READ_TRIES} reads")]
    Unsteady,
}

/// What a counter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Octets, IP headers included.
    pub bytes: u64,
}

/// A table as the kernel has it.
#[derive(Clone, Debug, Default)]
pub struct ReadTable {
    /// Counters by name.
    pub counters: BTreeMap<String, Counter>,
    /// Sets by name with their elements; none: it is like none of ours.
    pub sets: BTreeMap<String, Option<(Set, BTreeSet<Element>)>>,
    /// Chains by name.
    pub chains: BTreeMap<String, ReadChain>,
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadChain {
    /// Where packets enter it.
    pub base: Option<BaseChain>,
    /// Whether packets enter it in a way that none of ours has.
    pub is_strange: bool,
    /// Rules by [`super::Rule::body`].
    pub rules: Vec<Vec<u8>>,
}

/// What the kernel tells of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Someone else changed this table.
    Changed,
    /// Some changes were not told.
    Overrun,
}

/// An nfnetlink socket. It belongs for life to the network namespace it was opened in.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's: no nfnetlink, or out of file descriptors.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        // Without CAP_NET_ADMIN the defaults stay, which suffice for small tables.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The socket's address: the kernel puts it in the notifications of what this socket changed.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes a transaction. Blocks for a grace period if it deletes.
    ///
    /// # Errors
    /// [`CommitError::Refused`] names the part, and nothing is done.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.send(batch.octets(), 0)?;
        let last = batch.messages() as u32;
        let (mut refused, mut answered) = (None, false);
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            for message in Datagram(&self.buffer) {
                let Ok(message) = NetlinkBuffer::new_checked(message) else { continue };
                if message.message_type() != NLMSG_ERROR {
                    continue;
                }
                let sequence = message.sequence_number();
                match refusal_of(&message) {
                    Some(refusal) => {
                        refused.get_or_insert(CommitError::Refused { part: batch.part(sequence), refusal });
                    }
                    None => answered |= sequence == last,
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel did not answer").into()),
        }
    }

    /// The number of the ruleset's generation: another one, when anybody has changed anything.
    ///
    /// # Errors
    /// The socket's, or a refusal.
    pub fn generation(&mut self) -> Result<u32, DumpError> {
        let mut generation = 0;
        self.ask(NFT_MSG_GETGEN, 0, |_| {}, |message| generation = message.be32(NFTA_GEN_ID).unwrap_or(0))?;
        Ok(generation)
    }

    /// All of a table; `None` when there is none of that name. Of a large set that was filled a moment ago elements
    /// may be missing, while the kernel still resizes its hash table: to add them again changes nothing.
    ///
    /// # Errors
    /// The socket's, a refusal, or [`DumpError::Unsteady`].
    pub fn read_table(&mut self, name: &str) -> Result<Option<ReadTable>, DumpError> {
        for _ in 0..READ_TRIES {
            let before = self.generation()?;
            match self.try_read_table(name) {
                // Something went between listing it and reading it.
                Err(DumpError::Refused(Refusal { errno: Errno::ENOENT, .. }) | DumpError::Unsteady) => {}
                Err(error) => return Err(error),
                Ok(table) if self.generation()? == before => return Ok(table),
                Ok(_) => {}
            }
        }
        Err(DumpError::Unsteady)
    }

    /// The counters of a table; empty when there is none of that name.
    ///
    /// # Errors
    /// The socket's, a refusal, or [`DumpError::Unsteady`].
    pub fn counters(&mut self, table: &str) -> Result<BTreeMap<String, Counter>, DumpError> {
        let mut counters = BTreeMap::new();
        let filter = |frame: &mut Frame| {
            frame.string(NFTA_OBJ_TABLE, table);
            frame.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        };
        self.ask(NFT_MSG_GETOBJ, NLM_F_DUMP, filter, |object| {
            let is_ours = object.string(NFTA_OBJ_TABLE) == Some(table);
            if let Some(name) = object.string(NFTA_OBJ_NAME).filter(|_| is_ours) {
                let data = object.nested(NFTA_OBJ_DATA);
                let packets = data.be64(NFTA_COUNTER_PACKETS).unwrap_or(0);
                let bytes = data.be64(NFTA_COUNTER_BYTES).unwrap_or(0);
                counters.insert(name.to_owned(), Counter { packets, bytes });
            }
        })?;
        Ok(counters)
    }

    /// What a set holds; empty when there is none of that name.
    ///
    /// # Errors
    /// The socket's, a refusal, or [`DumpError::Unsteady`].
    pub fn read_set(&mut self, table: &str, name: &str, set: &Set) -> Result<BTreeSet<Element>, DumpError> {
        for _ in 0..READ_TRIES {
            match self.elements(table, name, set) {
                Err(DumpError::Refused(Refusal { errno: Errno::ENOENT, .. })) => return Ok(BTreeSet::new()),
                Err(DumpError::Unsteady) => {}
                read => return read,
            }
        }
        Err(DumpError::Unsteady)
    }

    fn try_read_table(&mut self, table: &str) -> Result<Option<ReadTable>, DumpError> {
        match self.ask(NFT_MSG_GETTABLE, 0, |frame| frame.string(NFTA_TABLE_NAME, table), |_| {}) {
            Err(DumpError::Refused(Refusal { errno: Errno::ENOENT, .. })) => return Ok(None),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let mut read = ReadTable { counters: self.counters(table)?, ..ReadTable::default() };
        self.ask(
            NFT_MSG_GETCHAIN,
            NLM_F_DUMP,
            |_| {},
            |chain| {
                let is_ours = chain.string(NFTA_CHAIN_TABLE) == Some(table);
                if let Some(name) = chain.string(NFTA_CHAIN_NAME).filter(|_| is_ours) {
                    let base = BaseChain::parse(chain);
                    let is_strange = base.is_none() && chain.get(NFTA_CHAIN_HOOK).is_some();
                    read.chains.insert(name.to_owned(), ReadChain { base, is_strange, rules: Vec::new() });
                }
            },
        )?;
        let chains = &mut read.chains;
        self.ask(
            NFT_MSG_GETRULE,
            NLM_F_DUMP,
            |frame| frame.string(NFTA_RULE_TABLE, table),
            |rule| {
                let chain = rule.string(NFTA_RULE_CHAIN).and_then(|chain| chains.get_mut(chain));
                if let Some(chain) = chain.filter(|_| rule.string(NFTA_RULE_TABLE) == Some(table)) {
                    let exprs = Expr::parse_all(rule.nested(NFTA_RULE_EXPRESSIONS));
                    chain.rules.push(body(&exprs, rule.get(NFTA_RULE_USERDATA).unwrap_or_default()));
                }
            },
        )?;
        let mut sets = Vec::new();
        self.ask(
            NFT_MSG_GETSET,
            NLM_F_DUMP,
            |frame| frame.string(NFTA_SET_TABLE, table),
            |set| {
                let is_ours = set.string(NFTA_SET_TABLE) == Some(table);
                if let Some(name) = set.string(NFTA_SET_NAME).filter(|_| is_ours) {
                    sets.push((name.to_owned(), Set::parse(set)));
                }
            },
        )?;
        for (name, set) in sets {
            let elements = match &set {
                Some(set) => self.elements(table, &name, set)?,
                None => BTreeSet::new(),
            };
            read.sets.insert(name, set.map(|set| (set, elements)));
        }
        Ok(Some(read))
    }

    fn elements(&mut self, table: &str, name: &str, set: &Set) -> Result<BTreeSet<Element>, DumpError> {
        let mut listed = Listed::new(set);
        let which = |frame: &mut Frame| {
            frame.string(NFTA_SET_ELEM_LIST_TABLE, table);
            frame.string(NFTA_SET_ELEM_LIST_SET, name);
        };
        self.ask(NFT_MSG_GETSETELEM, NLM_F_DUMP, which, |list| {
            let elements = list.nested(NFTA_SET_ELEM_LIST_ELEMENTS).iter();
            elements.for_each(|(_, element)| listed.take(Attributes::new(element)));
        })?;
        Ok(listed.elements())
    }

    /// Sends one question and hands each answer's attributes to `take`.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        attributes: impl FnOnce(&mut Frame),
        mut take: impl FnMut(Attributes<'_>),
    ) -> Result<(), DumpError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut frame = Frame::default();
        // Without a dump the last answer is known by the acknowledgement behind it.
        let ack = if flags & NLM_F_DUMP == 0 { netlink_packet_core::NLM_F_ACK } else { 0 };
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        frame.message(kind, NLM_F_REQUEST | ack | flags, self.sequence, (NFPROTO_INET, 0), attributes);
        self.socket.send(frame.octets(), 0)?;
        let mut steady = true;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            for octets in Datagram(&self.buffer) {
                let message = NetlinkBuffer::new_checked(octets)?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                steady &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match refusal_of(&message) {
                            Some(refusal) => Err(refusal.into()),
                            None if steady => Ok(()),
                            None => Err(DumpError::Unsteady),
                        };
                    }
                    _ => take(Attributes::of_message(octets)),
                }
            }
        }
    }
}

/// Hears of changes to a table.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    table: String,
    own_port: u32,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. What the socket `own_port` does is passed over.
    ///
    /// # Errors
    /// The socket's.
    pub fn open(table: &str, own_port: u32, patience: std::time::Duration) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        let patience =
            nix::sys::time::TimeVal::new(patience.as_secs().cast_signed(), patience.subsec_micros().into());
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        socket.add_membership(NFNLGRP_NFTABLES)?;
        Ok(Self { socket, table: table.to_owned(), own_port, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for the next change by someone else, at most for the patience; none: there was none.
    ///
    /// # Errors
    /// The socket's, for good.
    pub fn wait(&mut self) -> io::Result<Option<Event>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    return Ok(Some(Event::Overrun));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if let Some(event) = self.event() {
                return Ok(Some(event));
            }
        }
    }

    /// What the datagram read last tells; none: it is of our own changes, or of other tables.
    fn event(&self) -> Option<Event> {
        let changed = Datagram(&self.buffer).any(|octets| {
            let header = NetlinkBuffer::new_checked(octets);
            // In every kind of object the first attribute is the table's name; a generation's is a number.
            header.is_ok_and(|header| header.port_number() != self.own_port)
                && Attributes::of_message(octets).string(NFTA_TABLE_NAME) == Some(&self.table)
        });
        changed.then_some(Event::Changed)
    }
}

//! A transaction: all of it is done, or none.

use std::borrow::Borrow;
use std::fmt;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::attr::Frame;
use super::object::{BaseChain, Element, Set};
use super::uapi::*;

/// Octets of elements in one message: the attribute that holds them all counts its length in 16 bits.
const ELEMENTS: usize = 56 * 1024;

/// What one message of a batch is about, to name what the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The table.
    Table,
    /// A chain.
    Chain(String),
    /// A rule of a chain.
    Rule(String),
    /// A set or map.
    Set(String),
    /// Elements of a set or map.
    Elements(String),
    /// A counter.
    Counter(String),
    /// The transaction as a whole.
    Commit,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("the table"),
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Rule(chain) => write!(f, "a rule of chain {chain}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Elements(set) => write!(f, "elements of set {set}"),
            Self::Counter(name) => write!(f, "counter {name}"),
            Self::Commit => f.write_str("the whole change"),
        }
    }
}

/// Changes to one table of the family `inet`, in order. What is added must come after what it names, what is deleted
/// after what named it.
#[derive(Clone, Debug)]
pub struct Batch {
    table: String,
    frame: Frame,
    parts: Vec<Part>,
    sets: u32,
    deletes: bool,
    last: usize,
}

impl Batch {
    /// Nothing yet.
    pub fn new(table: &str) -> Self {
        let mut frame = Frame::default();
        control(&mut frame, NFNL_MSG_BATCH_BEGIN, 0);
        control(&mut frame, NFNL_MSG_BATCH_END, 1);
        let table = table.to_owned();
        Self { table, frame, parts: Vec::new(), sets: 0, deletes: false, last: 0 }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether it deletes something: the kernel then waits for an RCU grace period, 6 to 16 ms.
    pub fn deletes(&self) -> bool {
        self.deletes
    }

    /// The messages as they are sent; the last asks for an answer.
    pub(super) fn octets(&self) -> &[u8] {
        self.frame.octets()
    }

    /// How many messages.
    pub(super) fn messages(&self) -> usize {
        self.parts.len()
    }

    /// What the message of a sequence number is about.
    pub(super) fn part(&self, sequence: u32) -> Part {
        let place = (sequence as usize).checked_sub(1);
        place.and_then(|place| self.parts.get(place)).cloned().unwrap_or(Part::Commit)
    }

    fn sequence(&self) -> u32 {
        self.parts.len() as u32 + 1
    }

    fn message(&mut self, kind: u16, flags: u16, part: Part, attributes: impl FnOnce(&mut Frame, &str)) {
        // In the place of the end; what was last so far need not answer.
        self.frame.truncate(self.frame.len() - CONTROL);
        if !self.parts.is_empty() {
            self.frame.clear_flags(self.last, NLM_F_ACK);
        }
        self.last = self.frame.len();
        let sequence = self.sequence();
        self.parts.push(part);
        let table = &self.table;
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.frame.message(kind, flags, sequence, (NFPROTO_INET, 0), |frame| attributes(frame, table));
        control(&mut self.frame, NFNL_MSG_BATCH_END, sequence + 1);
    }

    /// The table; nothing changes where it is there already.
    pub fn add_table(&mut self) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, Part::Table, |frame, table| {
            frame.string(NFTA_TABLE_NAME, table);
        });
    }

    /// The table with all it holds.
    pub fn delete_table(&mut self) {
        self.deletes = true;
        self.message(NFT_MSG_DELTABLE, 0, Part::Table, |frame, table| frame.string(NFTA_TABLE_NAME, table));
    }

    /// A counter, at zero unless it is there already.
    pub fn add_counter(&mut self, name: &str) {
        let part = Part::Counter(name.to_owned());
        self.message(NFT_MSG_NEWOBJ, NLM_F_CREATE, part, |frame, table| {
            frame.string(NFTA_OBJ_TABLE, table);
            frame.string(NFTA_OBJ_NAME, name);
            frame.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
            frame.nest(NFTA_OBJ_DATA, |frame| {
                frame.be64(NFTA_COUNTER_BYTES, 0);
                frame.be64(NFTA_COUNTER_PACKETS, 0);
            });
        });
    }

    /// A counter no rule names.
    pub fn delete_counter(&mut self, name: &str) {
        self.deletes = true;
        self.message(NFT_MSG_DELOBJ, 0, Part::Counter(name.to_owned()), |frame, table| {
            frame.string(NFTA_OBJ_TABLE, table);
            frame.string(NFTA_OBJ_NAME, name);
            frame.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        });
    }

    /// A chain without rules.
    pub fn add_chain(&mut self, name: &str, base: Option<&BaseChain>) {
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, Part::Chain(name.to_owned()), |frame, table| {
            frame.string(NFTA_CHAIN_TABLE, table);
            frame.string(NFTA_CHAIN_NAME, name);
            if let Some(base) = base {
                base.write(frame);
            }
        });
    }

    /// A chain that nothing leads to and that has no rules any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.deletes = true;
        self.message(NFT_MSG_DELCHAIN, 0, Part::Chain(name.to_owned()), |frame, table| {
            frame.string(NFTA_CHAIN_TABLE, table);
            frame.string(NFTA_CHAIN_NAME, name);
        });
    }

    /// All rules of a chain go.
    pub fn flush_chain(&mut self, name: &str) {
        self.deletes = true;
        self.message(NFT_MSG_DELRULE, 0, Part::Chain(name.to_owned()), |frame, table| {
            frame.string(NFTA_RULE_TABLE, table);
            frame.string(NFTA_RULE_CHAIN, name);
        });
    }

    /// A rule at a chain's end, by its [`super::Rule::body`].
    pub fn add_rule(&mut self, chain: &str, body: &[u8]) {
        let part = Part::Rule(chain.to_owned());
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, part, |frame, table| {
            frame.string(NFTA_RULE_TABLE, table);
            frame.string(NFTA_RULE_CHAIN, chain);
            frame.raw(body);
        });
    }

    /// An empty set.
    pub fn add_set(&mut self, name: &str, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, Part::Set(name.to_owned()), |frame, table| {
            frame.string(NFTA_SET_TABLE, table);
            frame.string(NFTA_SET_NAME, name);
            set.write(frame, id);
        });
    }

    /// A set no rule names, with its elements.
    pub fn delete_set(&mut self, name: &str) {
        self.deletes = true;
        self.message(NFT_MSG_DELSET, 0, Part::Set(name.to_owned()), |frame, table| {
            frame.string(NFTA_SET_TABLE, table);
            frame.string(NFTA_SET_NAME, name);
        });
    }

    /// Elements; those there already stay. A map's element that leads elsewhere must be deleted first.
    pub fn add_elements(
        &mut self,
        name: &str,
        set: &Set,
        elements: impl IntoIterator<Item: Borrow<Element>>,
    ) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, name, set, elements);
    }

    /// Elements that are there.
    pub fn delete_elements(
        &mut self,
        name: &str,
        set: &Set,
        elements: impl IntoIterator<Item: Borrow<Element>>,
    ) {
        self.elements(NFT_MSG_DELSETELEM, 0, name, set, elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        name: &str,
        set: &Set,
        elements: impl IntoIterator<Item: Borrow<Element>>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.deletes |= kind == NFT_MSG_DELSETELEM;
            self.message(kind, flags, Part::Elements(name.to_owned()), |frame, table| {
                frame.string(NFTA_SET_ELEM_LIST_TABLE, table);
                frame.string(NFTA_SET_ELEM_LIST_SET, name);
                frame.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |frame| {
                    let start = frame.len();
                    while frame.len() - start < ELEMENTS
                        && let Some(element) = elements.next()
                    {
                        set.write_element(frame, element.borrow());
                    }
                });
            });
        }
    }
}

/// Octets of a message that is a header and no more.
const CONTROL: usize = 20;

fn control(frame: &mut Frame, kind: u16, sequence: u32) {
    frame.message(kind, NLM_F_REQUEST, sequence, (NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES), |_| {});
}

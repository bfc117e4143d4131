//! What a table holds, how it is written and how it is read back.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::attr::{Attributes, Frame};
use super::expr::{Expr, Verdict, data};
use super::statement::{Statement, lower};
use super::types::Type;
use super::uapi::*;

/// A set element's key: its values behind each other, each padded to a multiple of four octets. One of a number and an
/// IPv6 address lies in place.
pub type Key = SmallVec<[u8; 20]>;

/// Longest comment that nft prints back.
const COMMENT: usize = 128;

/// A table of the family `inet`, as wanted: a text is made of it, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Counters by name.
    pub counters: BTreeSet<String>,
    /// Sets and maps by name, with what they hold.
    pub sets: BTreeMap<String, (Set, BTreeSet<Element>)>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// Rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; none: from other chains.
    pub base: Option<BaseChain>,
    /// Looked at in order.
    pub rules: Vec<Rule>,
}

/// Where the kernel hands packets to a chain. What reaches its end is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Filter or NAT.
    pub kind: ChainType,
    /// At which point.
    pub hook: Hook,
    /// Before those with a higher one.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// Let pass and drop.
    Filter,
    /// Rewrite a connection's addresses.
    Nat,
}

impl ChainType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Statements in order, and a comment for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// From left to right.
    pub statements: Vec<Statement>,
    /// At most 128 octets; cut if longer.
    pub comment: Option<String>,
}

/// A set, or a map from keys to verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The key's parts; more than one is a concatenation.
    pub key: Vec<Type>,
    /// Whether its elements are ranges.
    pub interval: bool,
    /// Whether elements lead to a verdict.
    pub is_map: bool,
    /// For people. No part of what is compared: the kernel keeps it as it was made.
    pub comment: Option<String>,
}

/// One element. Of most there is the key alone, and there may be hundreds of thousands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key; of a range its first.
    pub key: Key,
    more: Option<Box<More>>,
}

/// What an element may have beside its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct More {
    end: Option<Key>,
    verdict: Option<Verdict>,
    comment: Option<String>,
}

/// `NFTNL_UDATA_*`: type, length, value.
fn user_data(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.extend_from_slice(&[kind, value.len().min(255) as u8]);
    out.extend_from_slice(&value[..value.len().min(255)]);
}

/// A comment as nft prints it, between quotes: cut at a character.
fn printable(comment: &str) -> String {
    let mut length = comment.len().min(COMMENT - 1);
    while !comment.is_char_boundary(length) {
        length -= 1;
    }
    comment[..length].replace('"', "'")
}

/// As it is kept, with a zero behind it.
fn comment_data(comment: &str) -> Vec<u8> {
    let mut value = printable(comment).into_bytes();
    value.push(0);
    value
}

impl Element {
    /// A single value.
    pub fn new(key: Key) -> Self {
        Self { key, more: None }
    }

    /// The range from its key to this one, itself included: every element of a set of ranges is one.
    #[must_use]
    pub fn until(mut self, end: Key) -> Self {
        self.more.get_or_insert_default().end = Some(end);
        self
    }

    /// The same of a map, leading there.
    #[must_use]
    pub fn to(mut self, verdict: Verdict) -> Self {
        self.more.get_or_insert_default().verdict = Some(verdict);
        self
    }

    /// The same with a comment, cut to 127 octets.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Self {
        self.more.get_or_insert_default().comment = Some(printable(comment));
        self
    }

    /// The last key of a range.
    pub fn end(&self) -> Option<&Key> {
        self.more.as_ref()?.end.as_ref()
    }

    /// Where a map's element leads.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.more.as_ref()?.verdict.as_ref()
    }

    /// For people; as [`Element::with_comment`] makes it.
    pub fn comment(&self) -> Option<&str> {
        self.more.as_ref()?.comment.as_deref()
    }
}

impl Rule {
    /// A rule without a comment.
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Self {
        Self { statements: statements.into_iter().collect(), comment: None }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }

    /// Its instructions.
    pub fn exprs(&self) -> Vec<Expr> {
        lower(&self.statements)
    }

    /// The attributes that make it what it is, without those of its place. Equal rules have equal octets.
    pub fn body(&self) -> Vec<u8> {
        let mut data = Vec::new();
        if let Some(comment) = &self.comment {
            user_data(&mut data, 0, &comment_data(comment));
        }
        body(&self.exprs(), &data)
    }
}

/// The attributes of a rule of these instructions and this user data.
pub(super) fn body(exprs: &[Expr], user_data: &[u8]) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.nest(NFTA_RULE_EXPRESSIONS, |frame| exprs.iter().for_each(|expr| expr.write(frame)));
    if !user_data.is_empty() {
        frame.put(NFTA_RULE_USERDATA, user_data);
    }
    frame.into_octets()
}

impl BaseChain {
    pub(super) fn write(&self, frame: &mut Frame) {
        frame.string(NFTA_CHAIN_TYPE, self.kind.name());
        frame.nest(NFTA_CHAIN_HOOK, |frame| {
            frame.be32(NFTA_HOOK_HOOKNUM, self.hook as u32);
            frame.be32(NFTA_HOOK_PRIORITY, self.priority.cast_unsigned());
        });
        frame.be32(NFTA_CHAIN_POLICY, NF_ACCEPT.cast_unsigned());
    }

    /// `None` when it is no base chain, or none of ours.
    pub(super) fn parse(chain: Attributes<'_>) -> Option<Self> {
        let hook = chain.nested(NFTA_CHAIN_HOOK);
        let number = hook.be32(NFTA_HOOK_HOOKNUM)?;
        (chain.be32(NFTA_CHAIN_POLICY)? == NF_ACCEPT.cast_unsigned()).then_some(())?;
        Some(Self {
            kind: [ChainType::Filter, ChainType::Nat]
                .into_iter()
                .find(|kind| chain.string(NFTA_CHAIN_TYPE) == Some(kind.name()))?,
            hook: Hook::ALL.into_iter().find(|hook| *hook as u32 == number)?,
            priority: hook.be32(NFTA_HOOK_PRIORITY)?.cast_signed(),
        })
    }
}

impl Set {
    /// A set of single values.
    pub fn of(key: impl IntoIterator<Item = Type>) -> Self {
        Self { key: key.into_iter().collect(), interval: false, is_map: false, comment: None }
    }

    /// A set of ranges.
    pub fn of_ranges(key: impl IntoIterator<Item = Type>) -> Self {
        Self { interval: true, ..Self::of(key) }
    }

    /// A map to verdicts.
    pub fn to_verdicts(key: impl IntoIterator<Item = Type>) -> Self {
        Self { is_map: true, ..Self::of(key) }
    }

    /// Whether both hold the same kind of elements.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.key, self.interval, self.is_map) == (&other.key, other.interval, other.is_map)
    }

    /// Octets of a key.
    pub fn key_length(&self) -> usize {
        match &self.key[..] {
            [alone] => alone.length(),
            parts => parts.iter().map(|part| part.padded()).sum(),
        }
    }

    /// Whether ranges are written as two elements, the second the first key behind it: in what the kernel keeps as a
    /// tree. A concatenation's carry both ends.
    fn is_tree(&self) -> bool {
        self.interval && self.key.len() == 1
    }

    pub(super) fn write(&self, frame: &mut Frame, id: u32) {
        let concatenated = self.interval && self.key.len() > 1;
        let flags =
            [(self.interval, NFT_SET_INTERVAL), (self.is_map, NFT_SET_MAP), (concatenated, NFT_SET_CONCAT)];
        frame.be32(NFTA_SET_FLAGS, flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum());
        frame.be32(NFTA_SET_KEY_TYPE, Type::number_of(&self.key));
        frame.be32(NFTA_SET_KEY_LEN, self.key_length() as u32);
        if self.is_map {
            frame.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            // Not used for verdicts, and yet asked for.
            frame.be32(NFTA_SET_DATA_LEN, 4);
        }
        frame.be32(NFTA_SET_ID, id);
        if concatenated {
            frame.nest(NFTA_SET_DESC, |frame| {
                frame.nest(NFTA_SET_DESC_CONCAT, |frame| {
                    for part in &self.key {
                        let length = part.length() as u32;
                        frame.nest(NFTA_LIST_ELEM, |frame| frame.be32(NFTA_SET_FIELD_LEN, length));
                    }
                });
            });
        }
        let mut data = Vec::new();
        let order: u32 = match &self.key[..] {
            [alone] if alone.is_host_order() => 1,
            [_] => 2,
            _ => 0,
        };
        // NFTNL_UDATA_SET_KEYBYTEORDER, without which nft prints interface names as "".
        user_data(&mut data, 0, &order.to_ne_bytes());
        if self.is_map {
            user_data(&mut data, 1, &0u32.to_ne_bytes());
        }
        if let Some(comment) = &self.comment {
            user_data(&mut data, 7, &comment_data(comment));
        }
        frame.put(NFTA_SET_USERDATA, &data);
    }

    /// `None` when it is like none of ours.
    pub(super) fn parse(set: Attributes<'_>) -> Option<Self> {
        // Left out where there are none.
        let flags = set.be32(NFTA_SET_FLAGS).unwrap_or(0);
        let key = Type::of_number(set.be32(NFTA_SET_KEY_TYPE)?)?;
        let found = Self {
            interval: flags & NFT_SET_INTERVAL != 0,
            is_map: flags & NFT_SET_MAP != 0,
            key,
            comment: None,
        };
        let known = NFT_SET_INTERVAL | NFT_SET_MAP | NFT_SET_CONCAT;
        let is_plain = flags & !known == 0 && set.be32(NFTA_SET_KEY_LEN)? as usize == found.key_length();
        let to_verdicts = !found.is_map || set.be32(NFTA_SET_DATA_TYPE) == Some(NFT_DATA_VERDICT);
        (!found.key.is_empty() && is_plain && to_verdicts).then_some(found)
    }

    /// Writes one element of this set.
    pub(super) fn write_element(&self, frame: &mut Frame, element: &Element) {
        frame.nest(NFTA_LIST_ELEM, |frame| {
            data(frame, NFTA_SET_ELEM_KEY, &element.key);
            if let Some(end) = element.end()
                && !self.is_tree()
            {
                data(frame, NFTA_SET_ELEM_KEY_END, end);
            }
            if let Some(verdict) = element.verdict() {
                verdict.write(frame, NFTA_SET_ELEM_DATA);
            }
            if let Some(comment) = element.comment() {
                let mut user = Vec::new();
                user_data(&mut user, 0, &comment_data(comment));
                frame.put(NFTA_SET_ELEM_USERDATA, &user);
            }
        });
        if self.is_tree()
            && let Some(behind) = element.end().and_then(successor)
        {
            frame.nest(NFTA_LIST_ELEM, |frame| {
                data(frame, NFTA_SET_ELEM_KEY, &behind);
                frame.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            });
        }
    }
}

/// Puts together what [`Set::write_element`] wrote, from elements as the kernel lists them.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    set: &'a Set,
    found: BTreeSet<Element>,
    ends: BTreeSet<Key>,
}

impl<'a> Listed<'a> {
    /// Nothing yet.
    pub(super) fn new(set: &'a Set) -> Self {
        Self { set, found: BTreeSet::new(), ends: BTreeSet::new() }
    }

    /// Takes one element.
    pub(super) fn take(&mut self, listed: Attributes<'_>) {
        let key = |kind| listed.nested(kind).get(NFTA_DATA_VALUE).map(Key::from_slice);
        let Some(first) = key(NFTA_SET_ELEM_KEY) else { return };
        if listed.be32(NFTA_SET_ELEM_FLAGS).unwrap_or(0) & NFT_SET_ELEM_INTERVAL_END != 0 {
            self.ends.insert(first);
            return;
        }
        let mut element = Element::new(first);
        if self.set.interval {
            let end = key(NFTA_SET_ELEM_KEY_END).unwrap_or_else(|| element.key.clone());
            element = element.until(end);
        }
        if let Some(verdict) = Verdict::parse(listed.nested(NFTA_SET_ELEM_DATA)) {
            element = element.to(verdict);
        }
        if let Some(comment) = listed.get(NFTA_SET_ELEM_USERDATA).and_then(comment_of) {
            element.more.get_or_insert_default().comment = Some(comment);
        }
        self.found.insert(element);
    }

    /// All of them.
    pub(super) fn elements(self) -> BTreeSet<Element> {
        let Self { set, found, ends } = self;
        if !set.is_tree() {
            return found;
        }
        let with_end = |element: Element| {
            let above = (std::ops::Bound::Excluded(&element.key), std::ops::Bound::Unbounded);
            let behind = ends.range::<Key, _>(above).next();
            let end = behind.and_then(predecessor).unwrap_or_else(|| Key::from_elem(0xff, element.key.len()));
            element.until(end)
        };
        found.into_iter().map(with_end).collect()
    }
}

/// The comment in an element's user data, if it begins with one.
fn comment_of(user_data: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = user_data else { return None };
    let text = rest.get(..usize::from(*length))?.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

/// The next key; none behind the last.
fn successor(key: &Key) -> Option<Key> {
    let mut next = key.clone();
    for octet in next.iter_mut().rev() {
        *octet = octet.wrapping_add(1);
        if *octet != 0 {
            return Some(next);
        }
    }
    None
}

/// The key before; none before the first.
fn predecessor(key: &Key) -> Option<Key> {
    let mut before = key.clone();
    for octet in before.iter_mut().rev() {
        let borrowed = *octet == 0;
        *octet = octet.wrapping_sub(1);
        if !borrowed {
            return Some(before);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_read_back_as_written(bounds in prop::collection::btree_set(any::<u16>(), 2..40)) {
            let bounds: Vec<u16> = bounds.into_iter().collect();
            let set = Set::of_ranges([Type::InetService]);
            let elements: BTreeSet<Element> = bounds
                .chunks_exact(2)
                .map(|pair| {
                    let [first, last] = [pair[0], pair[1]].map(|port| Key::from_slice(&port.to_be_bytes()));
                    Element::new(first).until(last)
                })
                .collect();
            let mut frame = Frame::default();
            elements.iter().for_each(|element| set.write_element(&mut frame, element));
            let mut listed = Listed::new(&set);
            let each = Attributes::new(frame.octets()).iter();
            each.for_each(|(_, element)| listed.take(Attributes::new(element)));
            prop_assert_eq!(listed.elements(), elements);
        }
    }

    #[test]
    fn a_comment_is_cut_at_a_character() {
        let data = comment_data(&"ü".repeat(100));
        assert_eq!(data.len(), 127);
        assert!(std::str::from_utf8(&data).is_ok());
    }
}

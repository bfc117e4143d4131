//! What address sets hold, by description: one set a description and family, whoever names it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use ring::digest::{SHA256, digest};
use rustc_hash::FxHashMap;

use super::slots::Slots;
use crate::acl::ruleset::{Protocol, Range, SetId, SetKind};
use crate::graph::{Requirement, Selector};
use crate::model::policy::{NamedPort, Namespaces, Peer, PodSelector};

/// What a set holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Description {
    /// Addresses of a rule's peer.
    Peer(Peer),
    /// Ports of pods that give them this name; of no protocol in particular where none is said.
    Ports {
        /// Whose.
        of: Destinations,
        /// The port's name.
        name: Arc<str>,
        /// The port's protocol.
        protocol: Option<Protocol>,
    },
}

/// Pods whose named ports are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destinations {
    /// The endpoints of this node: what comes in has one of them as destination.
    Here,
    /// All pods of the cluster.
    Anywhere,
    /// Selected ones.
    Selected(PodSelector),
    /// Those with an address in one of these ranges.
    Within(Vec<Range>),
}

impl Description {
    /// The kind of set that holds it.
    pub fn kind(&self) -> SetKind {
        match self {
            Self::Peer(Peer::Pods(_) | Peer::Nodes(_)) => SetKind::Addresses,
            Self::Peer(Peer::Networks(_)) => SetKind::Networks,
            Self::Ports { .. } => SetKind::Ports,
        }
    }

    /// The selector that decides which pods are in it; none: all pods, or none whatever their labels.
    pub fn selector(&self) -> Option<&PodSelector> {
        match self {
            Self::Peer(Peer::Pods(selector)) | Self::Ports { of: Destinations::Selected(selector), .. } => {
                Some(selector)
            }
            Self::Peer(Peer::Nodes(_) | Peer::Networks(_)) | Self::Ports { .. } => None,
        }
    }

    /// Whether pods' labels or ports decide what is in it.
    pub fn is_of_pods(&self) -> bool {
        matches!(self, Self::Peer(Peer::Pods(_)) | Self::Ports { .. })
    }

    /// Whether one address of a pod that is selected is in it.
    pub fn admits(&self, address: IpAddr, here: bool) -> bool {
        match self {
            Self::Ports { of: Destinations::Here, .. } => here,
            Self::Ports { of: Destinations::Within(ranges), .. } => within(ranges, address),
            Self::Peer(_) | Self::Ports { .. } => true,
        }
    }

    /// Whether a port is meant by its name.
    pub fn means(&self, port: &NamedPort) -> bool {
        match self {
            Self::Ports { name, protocol, .. } => {
                *name == port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
            }
            Self::Peer(_) => false,
        }
    }

    /// SHA-256, cut to 128 bits, of a writing in which no two descriptions are the same.
    pub fn digest(&self) -> u128 {
        let mut writing = Writing(Vec::new());
        match self {
            Self::Peer(Peer::Pods(selector)) => writing.tag(0).pods(selector),
            Self::Peer(Peer::Nodes(selector)) => writing.tag(1).selector(selector),
            Self::Peer(Peer::Networks(ranges)) => writing.tag(2).ranges(ranges),
            Self::Ports { of, name, protocol } => {
                let writing = writing.tag(3).text(name).tag(protocol.map_or(0, |protocol| protocol as u8));
                match of {
                    Destinations::Here => writing.tag(0),
                    Destinations::Anywhere => writing.tag(1),
                    Destinations::Selected(selector) => writing.tag(2).pods(selector),
                    Destinations::Within(ranges) => writing.tag(3).ranges(ranges),
                }
            }
        };
        let digest = digest(&SHA256, &writing.0);
        digest.as_ref().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
    }
}

/// Whether sorted ranges hold an address.
pub fn within(ranges: &[Range], address: IpAddr) -> bool {
    let upto = ranges.partition_point(|range| range.first <= address);
    upto.checked_sub(1).and_then(|last| ranges.get(last)).is_some_and(|range| range.contains(address))
}

/// Every part begins with what it is or how long it is.
struct Writing(Vec<u8>);

impl Writing {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.push(tag);
        self
    }

    fn length(&mut self, length: usize) -> &mut Self {
        self.0.extend(u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.length(text.len()).0.extend(text.as_bytes());
        self
    }

    fn pods(&mut self, selector: &PodSelector) -> &mut Self {
        match &selector.namespaces {
            Namespaces::Named(name) => self.tag(0).text(name),
            Namespaces::Labelled(namespaces) => self.tag(1).selector(namespaces),
        }
        .selector(&selector.pods)
    }

    fn selector(&mut self, selector: &Selector) -> &mut Self {
        self.length(selector.requirements().count());
        for requirement in selector.requirements() {
            match requirement {
                Requirement::In(key, values) => self.tag(0).text(key).texts(values.iter()),
                Requirement::NotIn(key, values) => self.tag(1).text(key).texts(values.iter()),
                Requirement::Exists(key) => self.tag(2).text(key),
                Requirement::DoesNotExist(key) => self.tag(3).text(key),
            };
        }
        self
    }

    fn texts<'a>(
        &mut self,
        texts: impl IntoIterator<Item = &'a Box<str>, IntoIter: ExactSizeIterator>,
    ) -> &mut Self {
        let texts = texts.into_iter();
        self.length(texts.len());
        texts.fold(self, |writing, text| writing.text(text))
    }

    fn ranges(&mut self, ranges: &[Range]) -> &mut Self {
        self.length(ranges.len());
        for address in ranges.iter().flat_map(|range| [range.first, range.last]) {
            match address {
                IpAddr::V4(address) => self.tag(4).0.extend(address.octets()),
                IpAddr::V6(address) => self.tag(6).0.extend(address.octets()),
            }
        }
        self
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Ports { of, name, protocol } => {
                match protocol {
                    Some(protocol) => write!(f, "{protocol} port \"{name}\" of ")?,
                    None => write!(f, "port \"{name}\" of ")?,
                }
                match of {
                    Destinations::Here => f.write_str("endpoints of this node"),
                    Destinations::Anywhere => f.write_str("all pods"),
                    Destinations::Selected(selector) => selector.fmt(f),
                    Destinations::Within(ranges) => {
                        f.write_str("pods in ")?;
                        ranges_in_words(ranges, f)
                    }
                }
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(selector) => selector.fmt(f),
            Self::Nodes(selector) if selector.is_everything() => f.write_str("all nodes"),
            Self::Nodes(selector) => write!(f, "nodes {selector}"),
            Self::Networks(ranges) => ranges_in_words(ranges, f),
        }
    }
}

/// `pods app=web in namespace shop`, `all pods in namespaces team=a`.
impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_everything() {
            f.write_str("all pods in ")?;
        } else {
            write!(f, "pods {} in ", self.pods)?;
        }
        match &self.namespaces {
            Namespaces::Named(name) => write!(f, "namespace {name}"),
            Namespaces::Labelled(selector) if selector.is_everything() => f.write_str("all namespaces"),
            Namespaces::Labelled(selector) => write!(f, "namespaces {selector}"),
        }
    }
}

/// The first few; the set has the rest.
fn ranges_in_words(ranges: &[Range], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 4;
    if ranges.is_empty() {
        return f.write_str("no address");
    }
    for (index, Range { first, last }) in ranges.iter().take(SHOWN).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        if first == last {
            write!(f, "{comma}{first}")?;
        } else {
            write!(f, "{comma}{first}–{last}")?;
        }
    }
    match ranges.len().checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, " and {more} ranges more"),
    }
}

/// A set's place in the table, the same for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);

/// A set somebody names, or named until the last flush.
#[derive(Debug)]
pub struct Entry {
    /// What it holds.
    pub what: Arc<Description>,
    /// Of the ids of both families.
    digest: u128,
    /// Rules that name it; those of one policy count once.
    pub uses: usize,
    /// Families the ruleset has it of.
    pub shown: Families,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Families {
    /// Sets whether one is among them.
    pub fn set(&mut self, family: Family, has: bool) {
        match family {
            Family::Ipv4 => self.ipv4 = has,
            Family::Ipv6 => self.ipv6 = has,
        }
    }

    /// Whether one is among them.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

impl Entry {
    /// The set of one family.
    pub fn id(&self, family: Family) -> SetId {
        SetId { kind: self.what.kind(), family, digest: self.digest }
    }

    /// Families the ruleset has it of, where the cluster has these.
    pub fn wanted(&self, cluster: Families) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| match &*self.what {
            Description::Peer(Peer::Networks(ranges)) => {
                ranges.iter().any(|range| Family::of(range.first) == *family)
            }
            Description::Peer(_) | Description::Ports { .. } => cluster.has(*family),
        })
    }
}

/// Sets by description.
#[derive(Debug, Default)]
pub struct Table {
    entries: Slots<Entry>,
    places: FxHashMap<Arc<Description>, Place>,
    /// Came since the last flush.
    pub new: Vec<Place>,
    /// May have no use any more.
    pub unused: Vec<Place>,
    /// Whether there are sets the ruleset may not have.
    pub grown: bool,
}

impl Table {
    /// One more use of a set; made if it is not there.
    pub fn acquire(&mut self, what: &Description) -> Place {
        if let Some(place) = self.places.get(what).copied() {
            if let Some(entry) = self.get_mut(place) {
                entry.uses += 1;
            }
            return place;
        }
        let what = Arc::new(what.clone());
        let entry =
            Entry { digest: what.digest(), what: Arc::clone(&what), uses: 1, shown: Families::default() };
        let place = Place(self.entries.insert(entry));
        self.places.insert(what, place);
        self.new.push(place);
        self.grown = true;
        place
    }

    /// One use less. The set stays until [`Table::remove`].
    pub fn release(&mut self, place: Place) {
        if let Some(entry) = self.get_mut(place) {
            entry.uses -= 1;
            if entry.uses == 0 {
                self.unused.push(place);
            }
        }
    }

    /// Takes a set out.
    pub fn remove(&mut self, place: Place) -> Option<Entry> {
        let entry = self.entries.remove(place.0)?;
        self.places.remove(&entry.what);
        Some(entry)
    }

    /// A set.
    pub fn get(&self, place: Place) -> Option<&Entry> {
        self.entries.get(place.0)
    }

    /// A set, to be changed.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Entry> {
        self.entries.get_mut(place.0)
    }

    /// All sets, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Place, &mut Entry)> {
        self.entries.iter_mut().map(|(place, entry)| (Place(place), entry))
    }
}

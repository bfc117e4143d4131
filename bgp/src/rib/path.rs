//! A path: attributes and next hop, whom they came from, and why it may not be used.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::numbers::Numbers;
use crate::types::is_link_local;
use crate::wire::{Attributes, LinkBandwidth, NextHop};

/// A peer, as the RIB's owner numbers it; a number may be used again after [`super::Rib::peer_down`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(NonZeroU32);

impl PeerId {
    /// The peer numbered `n`, counted from zero.
    pub fn new(n: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(n))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0.get() - 1)
    }
}

/// One way to the destinations of an announcement. Interned: equal ones are one, and a table of a million
/// destinations holds a pointer for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    pub(super) attributes: Arc<Attributes>,
    /// Unspecified where the path begins here: each neighbour is told an own address of ours.
    pub(super) next_hop: NextHop,
    /// The peer it came from; none: originated here.
    pub(super) source: Option<PeerId>,
    /// Which of that peer's paths to the destination; 0 where it tells only one.
    pub(super) path_id: u32,
    /// Why it is held but not used.
    pub(super) refusal: Option<Refusal>,
    /// Stale where it is not that of its source's table.
    pub(super) generation: Generation,
    /// What came, where the import policy made something else of it.
    pub(super) received: Option<Arc<Received>>,
}

/// What a destination has one path of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathKey {
    pub(super) source: Option<PeerId>,
    pub(super) path_id: u32,
}

/// Where a learned path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hop {
    pub(super) addr: IpAddr,
    /// Whose link a link-local one is on.
    pub(super) via: Option<PeerId>,
    /// Its share of the load, where every path that shares it has one.
    pub(super) bandwidth: Option<LinkBandwidth>,
}

impl Hop {
    /// None where the path begins here.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let source = path.source?;
        let addr = path.next_hop.addr();
        let bandwidth = path.attributes.link_bandwidth();
        Some(Self { addr, via: is_link_local(addr).then_some(source), bandwidth })
    }
}

/// How a path stands that its peer has not said just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) generation: Generation,
    /// The peer has been gone for longer than its restart time (RFC 9494).
    pub(super) long_lived: bool,
}

/// All a peer says between two markings is of one generation. Two are enough: what is left of the one
/// before the last is gone when the next begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Generation {
    #[default]
    Even,
    Odd,
}

impl Generation {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }
}

/// An announcement without its prefixes, as a peer said it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Received {
    pub(super) attributes: Arc<Attributes>,
    pub(super) next_hop: NextHop,
}

impl Received {
    /// Whether it is the very same, without a look at the attributes.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.attributes, &other.attributes) && self.next_hop == other.next_hop
    }
}

impl Path {
    pub(super) fn key(&self) -> PathKey {
        PathKey { source: self.source, path_id: self.path_id }
    }

    /// As it is where this is true of its next hop; none where that is no news, or the path is refused for
    /// something else.
    pub(super) fn with_next_hop(&self, refusal: Option<Refusal>) -> Option<Self> {
        let open = matches!(self.refusal, None | Some(Refusal::Unreachable | Refusal::OffLink));
        (open && self.refusal != refusal).then(|| Self { refusal, ..self.clone() })
    }

    /// As it came.
    pub(super) fn received(&self) -> Received {
        self.received
            .as_deref()
            .cloned()
            .unwrap_or_else(|| Received { attributes: self.attributes.clone(), next_hop: self.next_hop })
    }
}

/// Why a path in an Adj-RIB-In does not take part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    /// RFC 4271, section 9.1.2.
    AsLoop,
    /// RFC 4456, section 8.
    OriginatorLoop,
    /// RFC 4456, section 8.
    ClusterLoop,
    /// RFC 4271, section 5.1.3.
    OwnNextHop,
    /// RFC 4271, section 9.1.2.
    Unreachable,
    /// RFC 4271, section 5.1.3.
    OffLink,
    /// It has no meaning beyond one link or one machine.
    Martian,
    /// It is a default route, which the peer may not give.
    DefaultRoute,
    /// RFC 8212.
    NoPolicy,
    /// No rule of the import policy decides, and its default is to refuse.
    Policy,
    /// By this rule of the import policy, counted from zero.
    Rule(u16),
    /// RFC 9494, section 4.2.
    NoLlgr,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(_) => "refused: the import policy",
            Self::AsLoop => "refused: our own AS is in its AS path",
            Self::OriginatorLoop => "refused: we are its originator",
            Self::ClusterLoop => "refused: it has been through our own cluster",
            Self::OwnNextHop => "refused: its next hop is our own address",
            Self::OffLink => "refused: next hop on no network we share, though the peer is on one",
            Self::Unreachable => "refused: next hop unreachable",
            Self::Martian => "refused: a martian, of no meaning beyond one link or one machine",
            Self::DefaultRoute => "refused: a default route, and acceptDefaultRoute is not set",
            Self::NoPolicy => "refused: an external peer without an import policy",
            Self::NoLlgr => {
                "refused: NO_LLGR, and its neighbour has been gone for longer than its restart time"
            }
            Self::Policy => "refused: no rule of the import policy takes it",
        })
    }
}

/// Keeps one of each.
#[derive(Debug, Default)]
pub(super) struct Interner {
    /// With their hashes: to work one out again takes long.
    paths: HashTable<(u64, Arc<Path>)>,
    sweep_at: usize,
    numbers: Numbers,
}

/// Below this many there is nothing worth sweeping.
const FEW: usize = 1024;

impl Interner {
    /// Paths held, with those that nobody uses any more and that have not been swept.
    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn intern(&mut self, path: Path) -> Arc<Path> {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(&path);
        if let Some((_, known)) = self.paths.find(hash, |(other, known)| *other == hash && **known == path) {
            return known.clone();
        }
        if self.paths.len() >= self.sweep_at {
            self.paths.retain(|(_, path)| Arc::strong_count(path) > 1);
            self.sweep_at = (2 * self.paths.len()).max(FEW);
        }
        let path = Arc::new(path);
        self.paths.insert_unique(hash, (hash, path.clone()), |(hash, _)| *hash);
        path
    }

    /// Of the learned paths that somebody holds.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = IpAddr> {
        let held = self.paths.iter().map(|(_, path)| path).filter(|path| Arc::strong_count(path) > 1);
        held.filter(|path| path.source.is_some()).map(|path| path.next_hop.addr())
    }

    /// What the path of this key, which somebody holds, is called where paths have identifiers.
    pub(super) fn number(&mut self, key: PathKey) -> u32 {
        let held = self.paths.iter().filter(|(_, path)| Arc::strong_count(path) > 1);
        self.numbers.of(key, || held.map(|(_, path)| path.key()).collect())
    }

    /// What [`Interner::number`] has said.
    pub(super) fn numbered(&self, key: PathKey) -> Option<u32> {
        self.numbers.get(key)
    }

    /// For when nobody holds a path any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::originate::attributes;

    fn path(next_hop: [u8; 4]) -> Path {
        Path {
            attributes: Arc::new(attributes(Vec::new())),
            next_hop: IpAddr::from(next_hop).into(),
            source: None,
            path_id: 0,
            refusal: None,
            generation: Generation::Even,
            received: None,
        }
    }

    #[test]
    fn equal_paths_are_one_and_unused_ones_go_away() {
        let mut interner = Interner::default();
        let first = interner.intern(path([10, 0, 0, 1]));
        assert!(Arc::ptr_eq(&first, &interner.intern(path([10, 0, 0, 1]))));
        for n in 0..3 * FEW {
            drop(interner.intern(path([10, 1, (n >> 8) as u8, n as u8])));
        }
        assert!(interner.paths.len() <= 2 * FEW, "{} are kept", interner.paths.len());
        assert!(Arc::ptr_eq(&first, &interner.intern(path([10, 0, 0, 1]))));
    }
}

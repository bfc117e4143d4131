//! A path: attributes and next hop, and whom they came from.

use std::fmt;
use std::num::NonZeroU32;

/// A peer, as its owner numbers it; a number may be used again after [`super::Rib::peer_down`].
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

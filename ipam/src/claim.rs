//! Makes a block this node's own: creates its object, and takes the next one when somebody was faster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::ResourceExt;

use crate::cidr::{BlockCidr, Cidr, CidrError, NotABlock};
use crate::crd::{IPAMBlock, IPAMBlockSpec};
use crate::pool::Pool;
use crate::store::{Store, StoreError};

/// A block and its owner: what an [`IPAMBlock`] says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The block.
    pub cidr: BlockCidr,
    /// Name of the IPPool it was cut from.
    pub pool: String,
    /// Name of the Node that owns it.
    pub node: String,
}

/// Why an [`IPAMBlock`] object means no block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimInvalid {
    /// `spec.cidr` is no range.
    #[error("spec.cidr: {0}")]
    Cidr(#[from] CidrError),
    /// `spec.cidr` is too large.
    #[error("spec.cidr: {0}")]
    Length(#[from] NotABlock),
    /// The name is not that of the range, so it locks nothing.
    #[error("the block {cidr} is named \"{name}\": only \"{}\" would make its owner unique", .cidr.object_name())]
    Name {
        /// The range.
        cidr: BlockCidr,
        /// The object's name.
        name: String,
    },
    /// No owner.
    #[error("spec.node is empty: a block belongs to a node")]
    NoNode,
}

impl TryFrom<&IPAMBlock> for Claim {
    type Error = ClaimInvalid;

    fn try_from(object: &IPAMBlock) -> Result<Self, ClaimInvalid> {
        let IPAMBlockSpec { cidr, pool, node } = object.spec.clone();
        let cidr = BlockCidr::try_from(cidr.parse::<Cidr>()?)?;
        let name = object.name_any();
        if name != cidr.object_name() {
            return Err(ClaimInvalid::Name { cidr, name });
        }
        if node.is_empty() {
            return Err(ClaimInvalid::NoNode);
        }
        Ok(Self { cidr, pool, node })
    }
}

impl From<&Claim> for IPAMBlock {
    fn from(claim: &Claim) -> Self {
        let Claim { cidr, pool, node } = claim.clone();
        Self::new(&cidr.object_name(), IPAMBlockSpec { cidr: cidr.to_string(), pool, node })
    }
}

/// Ranges nobody can claim any more. A block of another length may lie across a candidate (its pool was replaced by
/// one with another `blockSize`), so this is about overlaps, not equality.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Disjoint: of nested ranges only the outermost is kept.
    ranges: BTreeSet<Cidr>,
}

impl Taken {
    /// Adds a range.
    pub fn insert(&mut self, cidr: Cidr) {
        if self.before(cidr.address()).is_some_and(|near| near.covers(cidr)) {
            return;
        }
        let inside: Vec<Cidr> =
            self.ranges.range(cidr..).take_while(|near| cidr.covers(**near)).copied().collect();
        for range in inside {
            self.ranges.remove(&range);
        }
        self.ranges.insert(cidr);
    }

    /// Whether any range taken shares an address with this one.
    pub fn overlaps(&self, cidr: Cidr) -> bool {
        // Disjoint ranges are in order of their ends, too: if the last that begins before the end of `cidr` does not
        // reach it, none does.
        self.before(cidr.last()).is_some_and(|near| near.overlaps(cidr))
    }

    /// The last range that begins at or before an address, if of its family.
    fn before(&self, address: IpAddr) -> Option<Cidr> {
        let end = Cidr::around(address, if address.is_ipv4() { 32 } else { 128 })?;
        self.ranges.range(..=end).next_back().copied()
    }
}

impl FromIterator<Cidr> for Taken {
    fn from_iter<I: IntoIterator<Item = Cidr>>(ranges: I) -> Self {
        let mut taken = Self::default();
        ranges.into_iter().for_each(|cidr| taken.insert(cidr));
        taken
    }
}

/// Why no block was claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Every block of every pool has an owner.
    #[error("every block has an owner: {}", .0.join("; "))]
    Full(Vec<String>),
    /// The store would not. After [`StoreError::Unavailable`] the block may be claimed all the same: then the next
    /// call adopts it.
    #[error("claiming {cidr}: {source}")]
    Store {
        /// The block it was about.
        cidr: BlockCidr,
        /// What it said.
        source: StoreError,
    },
}

/// Claims one block from the first of `pools` that has one left, for `node`.
///
/// `taken` is what the caller knows to be owned, by whomever; it may be old. A block found to be `node`'s own that is
/// not in `taken` (it was created, but the answer was lost) is adopted.
///
/// # Errors
/// [`ClaimError::Full`] when all of them have owners, [`ClaimError::Store`] when the store fails.
pub async fn claim(
    store: &impl Store,
    pools: &[Pool],
    node: &str,
    mut taken: Taken,
) -> Result<Claim, ClaimError> {
    for pool in pools {
        for cidr in pool.candidates(node) {
            if taken.overlaps(cidr.cidr()) {
                continue;
            }
            let claim = Claim { cidr, pool: pool.name.clone(), node: node.to_owned() };
            let failed = |source| ClaimError::Store { cidr, source };
            match store.create_block(&IPAMBlock::from(&claim)).await {
                Ok(()) => return Ok(claim),
                Err(StoreError::Exists(_)) => {}
                Err(source) => return Err(failed(source)),
            }
            // What the caller knew was old: one list now saves a request for every other block it did not know of.
            let listed = store.list_blocks().await.map_err(failed)?;
            let claims: Vec<Claim> =
                listed.iter().filter_map(|object| Claim::try_from(object).ok()).collect();
            if let Some(adopted) = claims.iter().find(|listed| listed.cidr == cidr && listed.node == node) {
                return Ok(adopted.clone());
            }
            taken.insert(cidr.cidr());
            claims.iter().for_each(|claim| taken.insert(claim.cidr.cidr()));
        }
    }
    Err(ClaimError::Full(pools.iter().map(describe).collect()))
}

fn describe(pool: &Pool) -> String {
    format!(
        "IPPool \"{}\" ({}) is {} blocks of {} addresses",
        pool.name,
        pool.cidr,
        pool.blocks(),
        pool.block_size()
    )
}

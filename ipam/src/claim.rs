//! Makes a block this node's own: creates its object, and takes the next one when somebody was faster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::cidr::{BlockCidr, Cidr, CidrError, NotABlock};
use crate::crd::{IPAMBlock, IPAMBlockSpec, ParentBlock};
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
    /// The block it was carved out of by that one's owner.
    pub parent: Option<Parent>,
}

/// A block made a node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which.
    pub claim: Claim,
    /// Its object is new; else it was the node's already.
    pub created: bool,
}

/// The very block a part was carved out of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// Its range.
    pub cidr: BlockCidr,
    /// UID of its object.
    pub uid: String,
}

/// Why a block that is this node's by its object may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crossed {
    /// Another lies across it that its owner did not carve out of it.
    #[error("{} of node {} lies across it", .0.cidr, .0.node)]
    By(Box<Claim>),
    /// It was carved out of a block that is not there, or belongs to another by now.
    #[error("{0}, which it was carved out of, is not there any more")]
    Orphan(BlockCidr),
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
    /// It is no part of what it is said to be carved out of.
    #[error("spec.parent: {cidr} is no part of {parent}")]
    Parent {
        /// The range.
        cidr: BlockCidr,
        /// As written.
        parent: BlockCidr,
    },
}

impl Claim {
    /// Whether this claim may be used, beside all others (with their objects' UIDs) of the view of the API that first
    /// shows it.
    ///
    /// Blocks of two lengths have two names, so the API's conflict alone does not keep them apart: of two claims across
    /// each other the later sees the earlier in that view, and is given up. A part carved out may be used while its
    /// parent is the one it was carved out of: that one's owner does not hand it out, and whoever claims the parent's
    /// range later sees the part.
    ///
    /// # Errors
    /// What stands against it.
    pub fn stands<'a>(&self, others: impl IntoIterator<Item = (&'a Self, &'a str)>) -> Result<(), Crossed> {
        let mine = self.cidr.cidr();
        let mut overlapping = others.into_iter().filter(|(other, _)| other.cidr.cidr().overlaps(mine));
        if let Some(parent) = &self.parent {
            let found = overlapping.any(|(other, uid)| other.cidr == parent.cidr && uid == parent.uid);
            return if found { Ok(()) } else { Err(Crossed::Orphan(parent.cidr)) };
        }
        let part = |other: &Self| {
            other.cidr == self.cidr
                || other.parent.as_ref().is_some_and(|parent| mine.covers(parent.cidr.cidr()))
        };
        match overlapping.find(|(other, _)| !part(other)) {
            Some((other, _)) => Err(Crossed::By(Box::new(other.clone()))),
            None => Ok(()),
        }
    }
}

impl TryFrom<&IPAMBlock> for Claim {
    type Error = ClaimInvalid;

    fn try_from(object: &IPAMBlock) -> Result<Self, ClaimInvalid> {
        let IPAMBlockSpec { cidr, pool, node, parent } = object.spec.clone();
        let cidr = BlockCidr::try_from(cidr.parse::<Cidr>()?)?;
        let name = object.name_any();
        if name != cidr.object_name() {
            return Err(ClaimInvalid::Name { cidr, name });
        }
        if node.is_empty() {
            return Err(ClaimInvalid::NoNode);
        }
        let parent = parent.map(Parent::try_from).transpose()?;
        if let Some(Parent { cidr: parent, .. }) = parent
            && (parent == cidr || !parent.cidr().covers(cidr.cidr()))
        {
            return Err(ClaimInvalid::Parent { cidr, parent });
        }
        Ok(Self { cidr, pool, node, parent })
    }
}

impl TryFrom<ParentBlock> for Parent {
    type Error = ClaimInvalid;

    fn try_from(ParentBlock { cidr, uid }: ParentBlock) -> Result<Self, ClaimInvalid> {
        Ok(Self { cidr: BlockCidr::try_from(cidr.parse::<Cidr>()?)?, uid })
    }
}

impl From<&Claim> for IPAMBlock {
    fn from(claim: &Claim) -> Self {
        let Claim { cidr, pool, node, parent } = claim.clone();
        let parent = parent.map(|Parent { cidr, uid }| ParentBlock { cidr: cidr.to_string(), uid });
        Self::new(&cidr.object_name(), IPAMBlockSpec { cidr: cidr.to_string(), pool, node, parent })
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

    /// Addresses in all of them; saturates at 2^128 − 1.
    pub fn size(&self) -> u128 {
        self.ranges.iter().fold(0, |sum: u128, range| sum.saturating_add(range.size()))
    }

    /// Whether any range taken shares an address with this one.
    pub fn overlaps(&self, cidr: Cidr) -> bool {
        // Disjoint ranges are in order of their ends, too: if the last that begins before the end of `cidr` does not
        // reach it, none does.
        self.before(cidr.last()).is_some_and(|near| near.overlaps(cidr))
    }

    /// The largest range nobody has in a block of the pool that is taken in part.
    fn gap(&self, pool: &Pool) -> Option<BlockCidr> {
        let inside = self.ranges.range(pool.cidr..).take_while(|range| pool.cidr.covers(**range));
        let blocks = inside.filter(|range| range.length() > pool.block_length);
        let blocks: BTreeSet<Cidr> =
            blocks.filter_map(|range| Cidr::around(range.address(), pool.block_length)).collect();
        let mut ranges: Vec<Cidr> = blocks.into_iter().collect();
        while !ranges.is_empty() {
            if let Some(free) = ranges.iter().find(|range| !self.overlaps(**range)) {
                return BlockCidr::try_from(*free).ok();
            }
            ranges = ranges.into_iter().flat_map(Cidr::halves).collect();
        }
        None
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

/// Claims one block from the first of `pools` that has one left, for `node`: a whole one, or what is left beside parts
/// of blocks whose own owner is gone.
///
/// `taken` is what the caller knows to be owned, by whomever; it may be old. A block found to be `node`'s own that is
/// not in `taken` (it was created, but the answer was lost) is adopted.
///
/// What is claimed may be used when nothing that was there before lies across it: blocks of two lengths have two
/// names, so the API's conflict alone does not say. See [`Claim::stands`].
///
/// # Errors
/// [`ClaimError::Full`] when all of them have owners, [`ClaimError::Store`] when the store fails.
pub async fn claim(
    store: &impl Store,
    pools: &[Pool],
    node: &str,
    mut taken: Taken,
) -> Result<Claimed, ClaimError> {
    for pool in pools {
        let mine = |cidr| Claim { cidr, pool: pool.name.clone(), node: node.to_owned(), parent: None };
        for cidr in pool.candidates(node) {
            if taken.overlaps(cidr.cidr()) {
                continue;
            }
            if let Some(claim) = create(store, mine(cidr), &mut taken).await? {
                return Ok(claim);
            }
        }
        while let Some(cidr) = taken.gap(pool) {
            if let Some(claim) = create(store, mine(cidr), &mut taken).await? {
                return Ok(claim);
            }
        }
    }
    Err(ClaimError::Full(pools.iter().map(describe).collect()))
}

/// Makes this very block the node's own, or finds it so.
///
/// # Errors
/// [`ClaimError::Full`] when another node has it, [`ClaimError::Store`] when the store fails.
pub async fn claim_this(store: &impl Store, wanted: Claim) -> Result<Claimed, ClaimError> {
    let cidr = wanted.cidr;
    let created = create(store, wanted, &mut Taken::default()).await?;
    created.ok_or_else(|| ClaimError::Full(vec![format!("{cidr} belongs to another node")]))
}

/// Creates the object of a claim, or adopts the one that is there; `None` when it is another node's: then `taken`
/// is all there is.
async fn create(store: &impl Store, wanted: Claim, taken: &mut Taken) -> Result<Option<Claimed>, ClaimError> {
    let failed = |source| ClaimError::Store { cidr: wanted.cidr, source };
    match store.create_block(&IPAMBlock::from(&wanted)).await {
        Ok(()) => return Ok(Some(Claimed { claim: wanted, created: true })),
        Err(StoreError::Exists(_)) => {}
        Err(source) => return Err(failed(source)),
    }
    // What the caller knew was old: one list now saves a request for every other block it did not know of.
    let listed = store.list_blocks().await.map_err(failed)?;
    let claims: Vec<Claim> = listed.iter().filter_map(|object| Claim::try_from(object).ok()).collect();
    let mine = |listed: &&Claim| listed.cidr == wanted.cidr && listed.node == wanted.node;
    if let Some(adopted) = claims.iter().find(mine) {
        return Ok(Some(Claimed { claim: adopted.clone(), created: false }));
    }
    taken.insert(wanted.cidr.cidr());
    claims.iter().for_each(|claim| taken.insert(claim.cidr.cidr()));
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore};

    fn pool(cidr: &str, block_length: u8) -> Pool {
        Pool::new("default", cidr.parse().unwrap(), block_length)
    }

    fn taken<const N: usize>(ranges: [&str; N]) -> Taken {
        ranges.iter().map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_taken_overlaps_what_is_inside_and_around_it() {
        let taken = taken(["10.0.0.64/26", "10.0.1.0/24", "10.0.1.64/26", "fd00::40/122"]);
        for (range, overlaps) in [
            ("10.0.0.64/26", true),
            ("10.0.0.96/27", true),
            ("10.0.0.0/24", true),
            ("10.0.0.0/26", false),
            ("10.0.0.128/25", false),
            // Behind the nested range, inside the outer one.
            ("10.0.1.128/26", true),
            ("10.0.2.0/24", false),
            ("fd00::60/123", true),
            ("fd00::/122", false),
            ("::/0", true),
        ] {
            assert_eq!(taken.overlaps(range.parse().unwrap()), overlaps, "{range}");
        }
    }

    #[test]
    fn an_outer_range_replaces_those_inside_whatever_came_first() {
        let nested = taken(["10.0.1.0/26", "10.0.1.64/26", "10.0.1.0/24"]);
        assert_eq!(nested, taken(["10.0.1.0/24", "10.0.1.64/26"]));
        assert_eq!(nested.ranges.len(), 1);
    }

    #[test]
    fn an_object_that_does_not_lock_its_range_is_no_claim() {
        let spec = |cidr: &str, node: &str| IPAMBlockSpec {
            cidr: cidr.to_owned(),
            pool: "default".to_owned(),
            node: node.to_owned(),
            parent: None,
        };
        for (name, spec, words) in [
            (
                "web",
                spec("10.0.0.0/26", "node1"),
                "the block 10.0.0.0/26 is named \"web\": only \"10-0-0-0-26\" would make its owner unique",
            ),
            ("10-0-0-0-26", spec("10.0.0.0/26", ""), "spec.node is empty: a block belongs to a node"),
            (
                "10-0-0-0-16",
                spec("10.0.0.0/16", "node1"),
                "spec.cidr: 10.0.0.0/16 cannot be a block: blocks are 20–32 bits long in IPv4",
            ),
        ] {
            assert_eq!(Claim::try_from(&IPAMBlock::new(name, spec)).unwrap_err().to_string(), words);
        }
    }

    fn part(cidr: &str, parent: &str) -> Claim {
        let block = |text: &str| BlockCidr::try_from(text.parse::<Cidr>().unwrap()).unwrap();
        let parent =
            Some(parent).filter(|it| !it.is_empty()).map(|it| Parent { cidr: block(it), uid: it.to_owned() });
        Claim { cidr: block(cidr), pool: "default".to_owned(), node: "node2".to_owned(), parent }
    }

    #[test]
    fn the_later_of_two_claims_across_each_other_does_not_stand_and_a_part_does_beside_its_parent() {
        let whole = || part("10.0.0.0/26", "");
        for (claim, other, stands) in [
            (whole(), part("10.0.0.64/26", ""), true),
            (whole(), part("10.0.0.0/28", ""), false),
            (part("10.0.0.0/28", ""), whole(), false),
            (whole(), part("10.0.0.0/28", "10.0.0.0/26"), true),
            (part("10.0.0.0/28", "10.0.0.0/26"), whole(), true),
            // A part of a part.
            (whole(), part("10.0.0.0/30", "10.0.0.0/28"), true),
            // The part was there before what lies around it was claimed.
            (part("10.0.0.0/27", ""), part("10.0.0.0/28", "10.0.0.0/26"), false),
            (part("10.0.0.0/28", "10.0.0.0/26"), part("10.0.0.0/27", ""), false),
        ] {
            let uid = other.cidr.to_string();
            assert_eq!(claim.stands([(&other, uid.as_str())]).is_ok(), stands, "{claim:?} {other:?}");
        }
        let orphan = part("10.0.0.0/28", "10.0.0.0/26");
        assert_eq!(
            orphan.stands([(&whole(), "another")]).unwrap_err().to_string(),
            "10.0.0.0/26, which it was carved out of, is not there any more"
        );
    }

    #[tokio::test]
    async fn what_is_left_beside_a_part_whose_owner_is_gone_is_claimed_when_nothing_else_is() {
        let store = MemoryStore::default();
        let part = part("10.0.0.16/28", "10.0.0.0/26");
        store.create_block(&IPAMBlock::from(&part)).await.unwrap();
        let mut claimed = Vec::new();
        let pools = [pool("10.0.0.0/25", 26)];
        loop {
            let all = store.blocks();
            let taken = all.iter().map(|object| Claim::try_from(object).unwrap().cidr.cidr()).collect();
            match claim(&store, &pools, "node1", taken).await {
                Ok(done) => claimed.push(done.claim.cidr.to_string()),
                Err(error) => break assert!(matches!(error, ClaimError::Full(_)), "{error}"),
            }
        }
        assert_eq!(claimed, ["10.0.0.64/26", "10.0.0.32/27", "10.0.0.0/28"]);
    }

    #[tokio::test]
    async fn a_claim_is_an_object_named_after_its_range() {
        let store = MemoryStore::default();
        let Claimed { claim, created } =
            claim(&store, &[pool("10.0.0.0/24", 26)], "node1", Taken::default()).await.unwrap();
        assert!(created);
        let objects = store.blocks();
        assert_eq!(objects.len(), 1);
        assert_eq!(Claim::try_from(&objects[0]), Ok(claim));
    }

    #[tokio::test]
    async fn a_faster_rival_makes_us_take_the_next() {
        let store = MemoryStore::default();
        let pools = [pool("10.0.0.0/24", 26)];
        store.inject(Fault::Rival("node2".to_owned()));
        let claimed = claim(&store, &pools, "node1", Taken::default()).await.unwrap();
        assert_eq!(Some(claimed.claim.cidr), pools[0].candidates("node1").nth(1));
        assert_eq!(store.blocks().len(), 2);
    }

    #[tokio::test]
    async fn a_block_whose_creation_was_not_answered_is_adopted_by_the_next_try() {
        let store = MemoryStore::default();
        let pools = [pool("10.0.0.0/24", 26)];
        store.inject(Fault::LostReply);
        let error = claim(&store, &pools, "node1", Taken::default()).await.unwrap_err();
        assert!(matches!(error, ClaimError::Store { source: StoreError::Unavailable(_), .. }), "{error}");
        claim(&store, &pools, "node1", Taken::default()).await.unwrap();
        assert_eq!(store.blocks().len(), 1);
    }

    #[tokio::test]
    async fn an_outage_is_told_and_leaves_nothing() {
        let store = MemoryStore::default();
        store.set_outage(true);
        let error = claim(&store, &[pool("10.0.0.0/26", 26)], "node1", Taken::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "claiming 10.0.0.0/26: the API server cannot be reached: outage");
        assert!(store.blocks().is_empty());
    }

    #[tokio::test]
    async fn the_next_pool_is_tried_when_one_is_full_and_all_are_named_when_all_are() {
        let store = MemoryStore::default();
        let pools = [pool("10.0.0.0/26", 26), Pool { name: "more".to_owned(), ..pool("10.1.0.0/26", 26) }];
        for expected in ["default", "more"] {
            let claimed =
                claim(&store, &pools, "node1", Taken::from_iter(owned(&store, "node1"))).await.unwrap();
            assert_eq!(claimed.claim.pool, expected);
        }
        let full = claim(&store, &pools, "node2", Taken::default()).await.unwrap_err();
        assert_eq!(
            full.to_string(),
            "every block has an owner: IPPool \"default\" (10.0.0.0/26) is 1 blocks of 64 addresses; IPPool \"more\" \
             (10.1.0.0/26) is 1 blocks of 64 addresses"
        );
    }

    #[tokio::test]
    async fn one_list_is_enough_to_find_the_only_block_left() {
        let store = MemoryStore::default();
        let pools = [pool("10.0.0.0/16", 26)];
        let last = pools[0].candidates("node1").last().unwrap();
        for cidr in pools[0].candidates("node1").filter(|cidr| *cidr != last) {
            let (pool, node) = ("default".to_owned(), "node2".to_owned());
            let rival = Claim { cidr, pool, node, parent: None };
            store.create_block(&IPAMBlock::from(&rival)).await.unwrap();
        }
        let before = store.requests();
        assert_eq!(claim(&store, &pools, "node1", Taken::default()).await.unwrap().claim.cidr, last);
        assert_eq!(store.requests() - before, 3, "a conflict, a list, a creation");
    }

    fn owned(store: &MemoryStore, node: &str) -> Vec<Cidr> {
        let claims =
            store.blocks().iter().filter_map(|object| Claim::try_from(object).ok()).collect::<Vec<_>>();
        claims.into_iter().filter(|claim| claim.node == node).map(|claim| claim.cidr.cidr()).collect()
    }
}

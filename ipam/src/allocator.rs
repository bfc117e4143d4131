//! All addresses of one node: the blocks it owns and who holds what. Pure; the agent's task owns one.
//!
//! Blocks and holders may be told in any order: what is held outside every owned block (a *stray*: the block has not
//! been seen yet, or its object was deleted under a running pod) is remembered, and found again when its block comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::cidr::{BlockCidr, Cidr, Family};
use crate::owner::{Owner, OwnerKey};
use crate::pool::Pool;

/// This node's blocks and the holders of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocator {
    blocks: BTreeMap<BlockCidr, Block>,
    owners: BTreeMap<OwnerKey, Holding>,
    /// Held outside every owned block.
    strays: BTreeMap<IpAddr, OwnerKey>,
    /// By pool: how long an address rests. What is freed while no time is known does not.
    cooldowns: BTreeMap<String, Duration>,
    now: Option<Instant>,
    /// Kept back in all pools.
    reserved: Vec<Cidr>,
    /// Blocks of which nothing is handed out for now.
    suspended: BTreeSet<BlockCidr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Holding {
    owner: Owner,
    addresses: BTreeSet<IpAddr>,
}

/// Why no addresses were assigned. Nothing changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AssignError {
    /// No pool at all.
    #[error(
        "no IPPool hands out addresses on this node: create one, or look at the `disabled` and `nodeSelector` of \
         those that are there"
    )]
    NoPool,
    /// A family's addresses are all held.
    #[error("no free {family} address on this node: {}", Join(.pools))]
    Exhausted {
        /// The family.
        family: Family,
        /// Its pools and what this node has of them.
        pools: Vec<PoolUse>,
    },
    /// An address asked for is in no usable block of this node.
    #[error(
        "{0} cannot be given: it is in no block that this node owns of a pool it may use; ask for one of this node's \
         blocks, or for none"
    )]
    Elsewhere(IpAddr),
    /// An address asked for is held.
    #[error("{address} cannot be given: {holder} holds it")]
    Held {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Box<Owner>,
    },
}

/// What a node has of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolUse {
    /// The pool.
    pub pool: Pool,
    /// Blocks this node owns of it.
    pub blocks: usize,
    /// Addresses held of those.
    pub used: usize,
    /// Addresses in those.
    pub size: usize,
    /// Addresses of those that rest since a pod has left them.
    pub resting: usize,
    /// Blocks of those that are suspended.
    pub suspended: usize,
}

impl fmt::Display for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, blocks, used, size, resting, suspended } = self;
        write!(
            f,
            "IPPool \"{}\" ({}, {} addresses in blocks of {}): ",
            pool.name,
            pool.cidr,
            pool.size(),
            pool.block_size()
        )?;
        match blocks {
            0 => f.write_str("this node owns no block of it yet"),
            1 => write!(f, "{used} of {size} addresses of this node's block are held"),
            _ => write!(f, "{used} of {size} addresses of this node's {blocks} blocks are held"),
        }?;
        if *resting > 0 {
            write!(f, ", {resting} rest for up to {} s", pool.cooldown.as_secs())?;
        }
        match suspended {
            0 => Ok(()),
            _ => write!(f, ", {suspended} of its blocks wait until the API has taken that this node is back"),
        }
    }
}

struct Join<'a>(&'a [PoolUse]);

impl fmt::Display for Join<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, pool)| {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{pool}")
        })
    }
}

/// An address said to be held by two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} cannot be restored to {owner}: {holder} holds it")]
pub struct RestoreConflict {
    /// The address.
    pub address: IpAddr,
    /// Who was to have it.
    pub owner: Box<Owner>,
    /// Who has it.
    pub holder: Box<Owner>,
}

/// A block this node should claim: from the first of these pools that has one left.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimWanted {
    /// Which family is short of addresses.
    pub family: Family,
    /// Usable pools of that family in the order they were given; at least one.
    pub pools: Vec<Pool>,
}

impl Allocator {
    /// Owns a block from now on. One owned already, or that overlaps one, changes nothing: returns whether it is new.
    pub fn add_block(&mut self, cidr: BlockCidr, pool: &str) -> bool {
        if self.blocks.keys().any(|owned| owned.cidr().overlaps(cidr.cidr())) {
            return false;
        }
        let mut block = Block::new(cidr, pool);
        block.reserve(&self.reserved);
        self.strays.retain(|address, key| {
            let owner = self.owners.get(key).map(|holding| &holding.owner);
            !owner.is_some_and(|owner| block.restore(*address, owner))
        });
        self.blocks.insert(cidr, block);
        true
    }

    /// Owns a block no more. Its addresses stay with who holds them, as strays. Returns what it was.
    pub fn remove_block(&mut self, cidr: BlockCidr) -> Option<Block> {
        let block = self.blocks.remove(&cidr)?;
        self.strays.extend(block.holders().map(|(address, owner)| (address, owner.key.clone())));
        Some(block)
    }

    /// It is this time now: what has rested for long enough can be handed out. Returns whether there was any.
    pub fn advance(&mut self, now: Instant) -> bool {
        self.now = Some(now);
        let mut awake = false;
        for block in self.blocks.values_mut() {
            awake |= block.wake(now);
        }
        awake
    }

    /// How long addresses of each of these pools rest once they are freed; of other pools not at all.
    pub fn cool(&mut self, pools: &[Pool]) {
        let cooled = pools.iter().filter(|pool| !pool.cooldown.is_zero());
        self.cooldowns = cooled.map(|pool| (pool.name.clone(), pool.cooldown)).collect();
    }

    /// Keeps these ranges back from now on, and no others: only who asks for an address of theirs gets it.
    pub fn reserve(&mut self, ranges: Vec<Cidr>) {
        if self.reserved != ranges {
            self.blocks.values_mut().for_each(|block| block.reserve(&ranges));
            self.reserved = ranges;
        }
    }

    /// Hands nothing out of these blocks for now, and of all others.
    pub fn suspend(&mut self, blocks: BTreeSet<BlockCidr>) {
        self.suspended = blocks;
    }

    /// Whether nothing is handed out of a block for now.
    pub fn suspended(&self, block: BlockCidr) -> bool {
        self.suspended.contains(&block)
    }

    /// Stops handing out a part of an owned block. Returns whether it has: not while an address of it is held.
    pub fn carve(&mut self, block: BlockCidr, part: BlockCidr) -> bool {
        self.blocks.get_mut(&block).is_some_and(|block| block.carve(part))
    }

    /// Hands out a part of an owned block again. Returns whether it did not.
    pub fn join(&mut self, block: BlockCidr, part: BlockCidr) -> bool {
        self.blocks.get_mut(&block).is_some_and(|block| block.join(part))
    }

    /// The owned block that holds or would hold an address.
    pub fn block_of(&self, address: IpAddr) -> Option<&Block> {
        self.blocks.values().find(|block| block.cidr().contains(address))
    }

    /// The blocks owned, in order.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    /// A block owned.
    pub fn block(&self, cidr: BlockCidr) -> Option<&Block> {
        self.blocks.get(&cidr)
    }

    /// Every owner, in order of key, with its addresses.
    pub fn owners(&self) -> impl Iterator<Item = (&Owner, &BTreeSet<IpAddr>)> {
        self.owners.values().map(|holding| (&holding.owner, &holding.addresses))
    }

    /// Addresses held outside every owned block, in order, and by whom.
    pub fn strays(&self) -> impl Iterator<Item = (IpAddr, &OwnerKey)> {
        self.strays.iter().map(|(address, key)| (*address, key))
    }

    /// Gives an owner one address of each family that `pools` has, IPv4 first; of a family's pools the first that has
    /// one. `pools` are those usable on this node; the disabled ones among them are passed over. In a family that
    /// `asked` has an address of, it is that address.
    ///
    /// All or nothing. An owner that has addresses is answered with those, if they are what it asks for, and has them
    /// no more otherwise.
    ///
    /// # Errors
    /// When there is no pool, a family has no free address, or one asked for cannot be given: then nothing new is held.
    pub fn assign(
        &mut self,
        owner: &Owner,
        pools: &[Pool],
        asked: &[IpAddr],
    ) -> Result<Vec<IpAddr>, AssignError> {
        if let Some(holding) = self.owners.get(&owner.key) {
            if asked.iter().all(|address| holding.addresses.contains(address)) {
                return Ok(holding.addresses.iter().copied().collect());
            }
            self.release(&owner.key);
        }
        let families = usable_families(pools);
        if families.is_empty() {
            return Err(AssignError::NoPool);
        }
        let mut sources = Vec::new();
        for &address in asked {
            sources.push((self.block_with(address, pools)?, Some(address)));
        }
        let rest = families.iter().filter(|(family, _)| !asked.iter().any(|&ip| Family::of(ip) == **family));
        for (family, pools) in rest {
            let source = self.source(pools).ok_or_else(|| self.exhausted(*family, pools))?;
            sources.push((source, None));
        }
        let take = |(cidr, asked): (BlockCidr, Option<IpAddr>)| {
            let block = self.blocks.get_mut(&cidr)?;
            match asked {
                Some(address) => block.assign_this(address, owner).then_some(address),
                None => block.assign(owner),
            }
        };
        let addresses: BTreeSet<IpAddr> = sources.into_iter().filter_map(take).collect();
        let assigned = addresses.iter().copied().collect();
        self.owners.insert(owner.key.clone(), Holding { owner: owner.clone(), addresses });
        Ok(assigned)
    }

    /// Whether [`Allocator::assign`] would give a new owner addresses of its choice.
    ///
    /// # Errors
    /// Why not.
    pub fn can_assign(&self, pools: &[Pool]) -> Result<(), AssignError> {
        let families = usable_families(pools);
        if families.is_empty() {
            return Err(AssignError::NoPool);
        }
        families.iter().try_for_each(|(family, pools)| match self.source(pools) {
            Some(_) => Ok(()),
            None => Err(self.exhausted(*family, pools)),
        })
    }

    /// Gives an owner back what it held before a restart, whether its block is known yet or not. Returns the
    /// addresses it cannot have, because another holds them.
    pub fn restore(
        &mut self,
        owner: &Owner,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Vec<RestoreConflict> {
        let mut conflicts = Vec::new();
        for address in addresses {
            match self.holder(address) {
                Some(holder) if holder.key == owner.key => continue,
                Some(holder) => {
                    let (owner, holder) = (Box::new(owner.clone()), Box::new(holder.clone()));
                    conflicts.push(RestoreConflict { address, owner, holder });
                    continue;
                }
                None => {}
            }
            // In no block, or in a part of one that belongs to another node.
            if !self.blocks.values_mut().any(|block| block.restore(address, owner)) {
                self.strays.insert(address, owner.key.clone());
            }
            let holding = self.owners.entry(owner.key.clone());
            let holding =
                holding.or_insert_with(|| Holding { owner: owner.clone(), addresses: BTreeSet::new() });
            holding.addresses.insert(address);
        }
        conflicts
    }

    /// Frees all an owner has; returns it, nothing for an owner never seen.
    pub fn release(&mut self, key: &OwnerKey) -> Vec<IpAddr> {
        let Some(holding) = self.owners.remove(key) else { return Vec::new() };
        for address in &holding.addresses {
            if self.strays.remove(address).is_none()
                && let Some(block) = self.blocks.values_mut().find(|block| block.holder(*address).is_some())
            {
                let rest = self.cooldowns.get(block.pool());
                let until = self.now.zip(rest).map(|(now, rest)| now + *rest);
                block.release(*address, until);
            }
        }
        holding.addresses.into_iter().collect()
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Owner> {
        let stray = || self.owners.get(self.strays.get(&address)?).map(|holding| &holding.owner);
        self.blocks.values().find_map(|block| block.holder(address)).or_else(stray)
    }

    /// The blocks to claim now, at most one a group of pools: where fewer than half a block's addresses are free in all
    /// pools of the group together. So a node starts with one block, and has its second when the first is half used:
    /// two pods more never wait for the API server, and never make it claim twice. Of a pool for some namespaces the
    /// first block is claimed when a pod asks for it, not ahead.
    pub fn wants_blocks(&self, pools: &[Pool]) -> Vec<ClaimWanted> {
        let short = |group: &Vec<&Pool>| {
            let blocks = || group.iter().flat_map(|pool| self.blocks_of(pool));
            let dedicated = group.iter().any(|pool| pool.namespace_selector.is_some());
            let free: usize = blocks().map(Block::free).sum();
            let block = group.first().map_or(0, |pool| usize::from(pool.block_size()));
            free * 2 < block && (!dedicated || blocks().any(|block| block.used() > 0))
        };
        let groups = groups(pools).into_iter().filter(short);
        let wanted = groups.filter_map(|group| {
            let family = group.first()?.family();
            Some(ClaimWanted { family, pools: group.into_iter().cloned().collect() })
        });
        wanted.collect()
    }

    /// Blocks that are not needed: nobody holds an address of one, and without it a whole block's addresses are free in
    /// its group of pools; or its pool hands nothing out here any more. So the last of a group never goes.
    pub fn surplus(&self, pools: &[Pool]) -> Vec<BlockCidr> {
        let groups = groups(pools);
        let mut surplus = Vec::new();
        for block in self.blocks.values().filter(|block| block.is_empty()) {
            let mine = |group: &&Vec<&Pool>| group.iter().any(|pool| pool.name == block.pool());
            let needed = groups.iter().find(mine).is_some_and(|group| {
                let all = group.iter().flat_map(|pool| self.blocks_of(pool));
                let others =
                    all.filter(|other| other.cidr() != block.cidr() && !surplus.contains(&other.cidr()));
                let free: usize = others.map(Block::free).sum();
                free < group.first().map_or(0, |pool| usize::from(pool.block_size()))
            });
            if !needed {
                surplus.push(block.cidr());
            }
        }
        surplus
    }

    fn blocks_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Block> {
        self.blocks.values().filter(move |block| block.pool() == pool.name)
    }

    /// The first block with a free address.
    fn source(&self, pools: &[&Pool]) -> Option<BlockCidr> {
        let usable = |block: &&Block| block.free() > 0 && !self.suspended(block.cidr());
        pools.iter().flat_map(|pool| self.blocks_of(pool)).find(usable).map(Block::cidr)
    }

    /// The usable block an address asked for is free in.
    fn block_with(&self, address: IpAddr, pools: &[Pool]) -> Result<BlockCidr, AssignError> {
        if let Some(holder) = self.holder(address) {
            return Err(AssignError::Held { address, holder: Box::new(holder.clone()) });
        }
        let usable = |name: &str| pools.iter().any(|pool| pool.hands_out() && pool.name == name);
        let fits = |block: &&Block| {
            block.can_assign_this(address) && usable(block.pool()) && !self.suspended(block.cidr())
        };
        self.blocks.values().find(fits).map(Block::cidr).ok_or(AssignError::Elsewhere(address))
    }

    fn exhausted(&self, family: Family, pools: &[&Pool]) -> AssignError {
        let pools = pools.iter().map(|pool| PoolUse {
            pool: (*pool).clone(),
            blocks: self.blocks_of(pool).count(),
            used: self.blocks_of(pool).map(Block::used).sum(),
            size: self.blocks_of(pool).map(Block::size).sum(),
            resting: self.blocks_of(pool).map(Block::resting).sum(),
            suspended: self.blocks_of(pool).filter(|it| self.suspended(it.cidr())).count(),
        });
        AssignError::Exhausted { family, pools: pools.collect() }
    }
}

/// Pools that stand in for each other, in the order they are tried: of each family those for pods of every namespace;
/// alone, each that is for some.
fn groups(pools: &[Pool]) -> Vec<Vec<&Pool>> {
    let mut general: BTreeMap<Family, Vec<&Pool>> = BTreeMap::new();
    let mut groups = Vec::new();
    for pool in pools.iter().filter(|pool| pool.hands_out()) {
        match pool.namespace_selector {
            None => general.entry(pool.family()).or_default().push(pool),
            Some(_) => groups.push(vec![pool]),
        }
    }
    let by_use = |pool: &&Pool| (std::cmp::Reverse(pool.specificity()), pool.name.clone());
    general.values_mut().for_each(|group| group.sort_by_key(by_use));
    groups.extend(general.into_values());
    groups
}

fn usable_families(pools: &[Pool]) -> BTreeMap<Family, Vec<&Pool>> {
    let mut families: BTreeMap<Family, Vec<&Pool>> = BTreeMap::new();
    for pool in pools.iter().filter(|pool| pool.hands_out()) {
        families.entry(pool.family()).or_default().push(pool);
    }
    families
}

#[cfg(test)]
mod tests;

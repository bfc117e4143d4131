//! All addresses of one node: the blocks it owns and who holds what. Pure; the agent's task owns one.
//!
//! Blocks and holders may be told in any order: what is held outside every owned block (a *stray*: the block has not
//! been seen yet, or its object was deleted under a running pod) is remembered, and found again when its block comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::block::Block;
use crate::cidr::{BlockCidr, Family};
use crate::owner::{Owner, OwnerKey};
use crate::pool::Pool;

/// This node's blocks and the holders of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocator {
    blocks: BTreeMap<BlockCidr, Block>,
    owners: BTreeMap<OwnerKey, Holding>,
    /// Held outside every owned block.
    strays: BTreeMap<IpAddr, OwnerKey>,
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
}

impl fmt::Display for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, blocks, used, size } = self;
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
    /// one. `pools` are those usable on this node; the disabled ones among them are passed over.
    ///
    /// All or nothing. An owner that has addresses is answered with those.
    ///
    /// # Errors
    /// When there is no pool, or a family has no free address: then nothing is held that was not before.
    pub fn assign(&mut self, owner: &Owner, pools: &[Pool]) -> Result<Vec<IpAddr>, AssignError> {
        if let Some(holding) = self.owners.get(&owner.key) {
            return Ok(holding.addresses.iter().copied().collect());
        }
        let families = usable_families(pools);
        if families.is_empty() {
            return Err(AssignError::NoPool);
        }
        let sources = families
            .into_iter()
            .map(|(family, pools)| self.source(&pools).ok_or_else(|| self.exhausted(family, &pools)))
            .collect::<Result<Vec<BlockCidr>, _>>()?;
        let addresses: BTreeSet<IpAddr> =
            sources.iter().filter_map(|cidr| self.blocks.get_mut(cidr)?.assign(owner)).collect();
        let assigned = addresses.iter().copied().collect();
        self.owners.insert(owner.key.clone(), Holding { owner: owner.clone(), addresses });
        Ok(assigned)
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
            match self.blocks.values_mut().find(|block| block.cidr().contains(address)) {
                Some(block) => _ = block.restore(address, owner),
                None => _ = self.strays.insert(address, owner.key.clone()),
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
            if self.strays.remove(address).is_none() {
                self.blocks.values_mut().find_map(|block| block.release(*address));
            }
        }
        holding.addresses.into_iter().collect()
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Owner> {
        let stray = || self.owners.get(self.strays.get(&address)?).map(|holding| &holding.owner);
        self.blocks.values().find_map(|block| block.holder(address)).or_else(stray)
    }

    /// The blocks to claim now, at most one a family: where fewer than half a block's addresses are free in all
    /// usable pools of the family together. So a node starts with one block, and has its second when the first is
    /// half used: two pods more never wait for the API server, and never make it claim twice.
    pub fn wants_blocks(&self, pools: &[Pool]) -> Vec<ClaimWanted> {
        usable_families(pools)
            .into_iter()
            .filter(|(_, pools)| {
                let free: usize = pools.iter().flat_map(|pool| self.blocks_of(pool)).map(Block::free).sum();
                let block = pools.first().map_or(0, |pool| usize::from(pool.block_size()));
                free * 2 < block
            })
            .map(|(family, pools)| ClaimWanted { family, pools: pools.into_iter().cloned().collect() })
            .collect()
    }

    fn blocks_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Block> {
        self.blocks.values().filter(move |block| block.pool() == pool.name)
    }

    /// The first block with a free address.
    fn source(&self, pools: &[&Pool]) -> Option<BlockCidr> {
        pools.iter().flat_map(|pool| self.blocks_of(pool)).find(|block| block.free() > 0).map(Block::cidr)
    }

    fn exhausted(&self, family: Family, pools: &[&Pool]) -> AssignError {
        let pools = pools.iter().map(|pool| PoolUse {
            pool: (*pool).clone(),
            blocks: self.blocks_of(pool).count(),
            used: self.blocks_of(pool).map(Block::used).sum(),
            size: self.blocks_of(pool).map(|block| usize::from(block.cidr().size())).sum(),
        });
        AssignError::Exhausted { family, pools: pools.collect() }
    }
}

fn usable_families(pools: &[Pool]) -> BTreeMap<Family, Vec<&Pool>> {
    let mut families: BTreeMap<Family, Vec<&Pool>> = BTreeMap::new();
    for pool in pools.iter().filter(|pool| !pool.disabled) {
        families.entry(pool.family()).or_default().push(pool);
    }
    families
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cidr::Cidr;

    fn owner(number: usize) -> Owner {
        Owner {
            key: OwnerKey { container_id: format!("container-{number}"), ifname: "eth0".to_owned() },
            namespace: "default".to_owned(),
            pod: format!("pod-{number}"),
            uid: format!("uid-{number}"),
        }
    }

    fn pool(name: &str, cidr: &str, block_length: u8) -> Pool {
        let cidr = cidr.parse().unwrap();
        Pool { name: name.to_owned(), cidr, block_length, node_selector: None, disabled: false }
    }

    fn disabled(pool: Pool) -> Pool {
        Pool { disabled: true, ..pool }
    }

    fn block(text: &str) -> BlockCidr {
        text.parse::<Cidr>().unwrap().try_into().unwrap()
    }

    fn ips<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
        texts.map(|text| text.parse().unwrap())
    }

    fn dual() -> [Pool; 2] {
        [pool("four", "10.0.0.0/24", 30), pool("six", "fd00::/64", 126)]
    }

    #[test]
    fn a_pod_has_an_address_of_each_family_and_keeps_it_when_asked_again() {
        let mut node = Allocator::default();
        assert!(node.add_block(block("10.0.0.0/30"), "four") && node.add_block(block("fd00::/126"), "six"));
        assert_eq!(node.assign(&owner(1), &dual()).unwrap(), ips(["10.0.0.0", "fd00::"]));
        assert_eq!(node.assign(&owner(2), &dual()).unwrap(), ips(["10.0.0.1", "fd00::1"]));
        assert_eq!(node.assign(&owner(1), &[]).unwrap(), ips(["10.0.0.0", "fd00::"]));
        assert_eq!(node.release(&owner(1).key), ips(["10.0.0.0", "fd00::"]));
        assert_eq!(node.release(&owner(1).key), ips([]));
    }

    #[test]
    fn a_pod_that_cannot_have_both_families_has_none() {
        let mut node = Allocator::default();
        node.add_block(block("10.0.0.0/30"), "four");
        let before = node.clone();
        let error = node.assign(&owner(1), &dual()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no free IPv6 address on this node: IPPool \"six\" (fd00::/64, 18446744073709551616 addresses in blocks of 4): \
             this node owns no block of it yet"
        );
        assert_eq!(node, before);
    }

    #[test]
    fn exhaustion_names_the_pools_their_size_and_use() {
        let mut node = Allocator::default();
        let pools = [pool("a", "10.0.0.0/24", 31), pool("b", "10.1.0.0/24", 30)];
        for cidr in ["10.0.0.0/31", "10.0.0.2/31"] {
            node.add_block(block(cidr), "a");
        }
        for number in 0..4 {
            node.assign(&owner(number), &pools).unwrap();
        }
        assert_eq!(
            node.assign(&owner(4), &pools).unwrap_err().to_string(),
            "no free IPv4 address on this node: IPPool \"a\" (10.0.0.0/24, 256 addresses in blocks of 2): 4 of 4 addresses \
             of this node's 2 blocks are held; IPPool \"b\" (10.1.0.0/24, 256 addresses in blocks of 4): this node owns no \
             block of it yet"
        );
    }

    #[test]
    fn a_disabled_pool_gives_nothing_new_and_takes_nothing_away() {
        let mut node = Allocator::default();
        let pools = [pool("four", "10.0.0.0/24", 30)];
        node.add_block(block("10.0.0.0/30"), "four");
        node.assign(&owner(1), &pools).unwrap();
        let pools = pools.map(disabled);
        assert_eq!(node.assign(&owner(2), &pools), Err(AssignError::NoPool));
        assert_eq!(node.assign(&owner(1), &pools).unwrap(), ips(["10.0.0.0"]));
        assert_eq!(node.wants_blocks(&pools), []);
    }

    #[test]
    fn a_node_claims_its_second_block_when_less_than_half_of_the_first_is_free() {
        let pools = [pool("four", "10.0.0.0/24", 30)];
        let wanted = vec![ClaimWanted { family: Family::Ipv4, pools: pools.to_vec() }];
        let mut node = Allocator::default();
        assert_eq!(node.wants_blocks(&pools), wanted);
        node.add_block(block("10.0.0.0/30"), "four");
        for number in 0..2 {
            assert_eq!(node.wants_blocks(&pools), []);
            node.assign(&owner(number), &pools).unwrap();
        }
        assert_eq!(node.wants_blocks(&pools), []);
        node.assign(&owner(2), &pools).unwrap();
        assert_eq!(node.wants_blocks(&pools), wanted);
        node.add_block(block("10.0.0.4/30"), "four");
        assert_eq!(node.wants_blocks(&pools), []);
    }

    #[test]
    fn a_block_of_one_address_is_claimed_when_none_is_free() {
        let pools = [pool("four", "10.0.0.0/24", 32)];
        let mut node = Allocator::default();
        node.add_block(block("10.0.0.0/32"), "four");
        assert_eq!(node.wants_blocks(&pools), []);
        node.assign(&owner(1), &pools).unwrap();
        assert_eq!(node.wants_blocks(&pools).len(), 1);
    }

    #[test]
    fn what_is_free_in_any_pool_of_a_family_counts() {
        let pools =
            [pool("a", "10.0.0.0/24", 30), pool("b", "10.1.0.0/24", 30), pool("six", "fd00::/64", 126)];
        let mut node = Allocator::default();
        node.add_block(block("10.1.0.0/30"), "b");
        node.add_block(block("fd00::/126"), "six");
        assert_eq!(node.wants_blocks(&pools), []);
        assert_eq!(node.assign(&owner(1), &pools).unwrap(), ips(["10.1.0.0", "fd00::"]));
    }

    #[test]
    fn holders_and_blocks_may_be_told_in_any_order() {
        let held = ips(["10.0.0.2", "fd00::1"]);
        let mut blocks_first = Allocator::default();
        blocks_first.add_block(block("10.0.0.0/30"), "four");
        blocks_first.add_block(block("fd00::/126"), "six");
        assert_eq!(blocks_first.restore(&owner(1), held), []);

        let mut holders_first = Allocator::default();
        assert_eq!(holders_first.restore(&owner(1), held), []);
        assert_eq!(holders_first.strays().count(), 2);
        holders_first.add_block(block("10.0.0.0/30"), "four");
        holders_first.add_block(block("fd00::/126"), "six");
        assert_eq!(holders_first, blocks_first);
        assert_eq!(holders_first.strays().count(), 0);
    }

    #[test]
    fn an_address_restored_to_two_stays_with_the_first() {
        for with_block in [false, true] {
            let mut node = Allocator::default();
            if with_block {
                node.add_block(block("10.0.0.0/30"), "four");
            }
            let held = ips(["10.0.0.2"]);
            assert_eq!(node.restore(&owner(1), held), []);
            assert_eq!(node.restore(&owner(1), held), [], "the same again");
            let conflicts = node.restore(&owner(2), held);
            assert_eq!(
                conflicts[0].to_string(),
                "10.0.0.2 cannot be restored to pod default/pod-2 (interface eth0 of container container-2): pod \
                 default/pod-1 (interface eth0 of container container-1) holds it"
            );
            assert_eq!(node.owners().count(), 1);
        }
    }

    #[test]
    fn a_block_that_goes_leaves_its_addresses_with_their_pods() {
        let mut node = Allocator::default();
        let pools = [pool("four", "10.0.0.0/24", 30)];
        node.add_block(block("10.0.0.0/30"), "four");
        let addresses = node.assign(&owner(1), &pools).unwrap();
        let gone = node.remove_block(block("10.0.0.0/30")).unwrap();
        assert_eq!(gone.used(), 1);
        assert_eq!(node.holder(addresses[0]), Some(&owner(1)));
        node.add_block(block("10.0.0.0/30"), "four");
        assert_ne!(node.assign(&owner(2), &pools).unwrap(), addresses);
        assert_eq!(node.release(&owner(1).key), addresses);
        assert_eq!(node.block(block("10.0.0.0/30")).unwrap().used(), 1);
    }

    #[test]
    fn a_block_across_an_owned_one_is_not_taken() {
        let mut node = Allocator::default();
        assert!(node.add_block(block("10.0.0.0/26"), "four"));
        assert!(!node.add_block(block("10.0.0.0/26"), "four"));
        assert!(!node.add_block(block("10.0.0.32/27"), "four"));
        assert_eq!(node.blocks().count(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assign(usize),
        Release(usize),
        /// Claims what is wanted.
        Claim,
        /// A block's object is deleted under the node.
        Lose(prop::sample::Index),
        /// Forgets all and is told again: attachments first, or blocks first.
        Restart {
            blocks_first: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0_usize..30).prop_map(Step::Assign),
            5 => (0_usize..30).prop_map(Step::Release),
            4 => Just(Step::Claim),
            1 => any::<prop::sample::Index>().prop_map(Step::Lose),
            1 => any::<bool>().prop_map(|blocks_first| Step::Restart { blocks_first }),
        ];
        prop::collection::vec(step, 0..150)
    }

    fn restarted(node: &Allocator, blocks_first: bool) -> Allocator {
        let mut again = Allocator::default();
        let add_blocks = |again: &mut Allocator| {
            for block in node.blocks() {
                assert!(again.add_block(block.cidr(), block.pool()));
            }
        };
        if blocks_first {
            add_blocks(&mut again);
        }
        for (owner, addresses) in node.owners() {
            assert_eq!(again.restore(owner, addresses.iter().copied()), []);
        }
        if !blocks_first {
            add_blocks(&mut again);
        }
        again
    }

    proptest! {
        /// Against a map of owners: no address twice, both families or none, the same after a restart.
        #[test]
        fn an_allocator_is_a_map_of_owners_to_addresses(steps in steps()) {
            let pools = [pool("four", "10.0.0.0/27", 30), pool("six", "fd00::/123", 126)];
            let mut node = Allocator::default();
            let mut model: BTreeMap<OwnerKey, Vec<IpAddr>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Assign(number) => {
                        let owner = owner(number);
                        match node.assign(&owner, &pools) {
                            Ok(addresses) => {
                                let families: Vec<Family> = addresses.iter().copied().map(Family::of).collect();
                                prop_assert_eq!(families, Family::ALL);
                                let known = model.entry(owner.key).or_insert_with(|| addresses.clone());
                                prop_assert_eq!(known, &addresses);
                            }
                            Err(_) => prop_assert!(!model.contains_key(&owner.key)),
                        }
                    }
                    Step::Release(number) => {
                        let key = owner(number).key;
                        prop_assert_eq!(node.release(&key), model.remove(&key).unwrap_or_default());
                    }
                    Step::Claim => for wanted in node.wants_blocks(&pools) {
                        let owned: Vec<BlockCidr> = node.blocks().map(Block::cidr).collect();
                        let pool = &wanted.pools[0];
                        if let Some(next) = pool.candidates("node").find(|next| !owned.contains(next)) {
                            prop_assert!(node.add_block(next, &pool.name));
                        }
                    },
                    Step::Lose(index) => {
                        let owned: Vec<BlockCidr> = node.blocks().map(Block::cidr).collect();
                        if !owned.is_empty() {
                            prop_assert!(node.remove_block(*index.get(&owned)).is_some());
                        }
                    }
                    Step::Restart { blocks_first } => node = restarted(&node, blocks_first),
                }
                let held: BTreeMap<OwnerKey, Vec<IpAddr>> = node
                    .owners()
                    .map(|(owner, addresses)| (owner.key.clone(), addresses.iter().copied().collect()))
                    .collect();
                prop_assert_eq!(&held, &model);
                let all: Vec<IpAddr> = held.values().flatten().copied().collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address twice");
                let in_blocks: usize = node.blocks().map(Block::used).sum();
                prop_assert_eq!(in_blocks + node.strays().count(), all.len());
            }
        }
    }
}

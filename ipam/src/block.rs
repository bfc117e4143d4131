//! One block as its owner keeps it: who holds which address, and which comes next.
//!
//! All addresses of a block are handed out, the first and the last too. Pods have a /32 or /128 and reach
//! everything through a gateway, so a block is no subnet: it has no network and no broadcast address, and no
//! router listens to the Subnet-Router anycast address of RFC 4291, section 2.6.1, which exists on links only.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::cidr::BlockCidr;
use crate::crd::{Allocation, IPAMBlockStatus};
use crate::owner::Owner;

/// A block and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cidr: BlockCidr,
    pool: String,
    /// By offset from the first address.
    holders: BTreeMap<u16, Owner>,
    /// Offsets in the order they will be handed out. What is freed goes to the back, so that an address rests as
    /// long as possible before another pod has it: connections of the last one may still be on their way.
    free: VecDeque<u16>,
}

impl Block {
    /// A block nobody holds an address of.
    pub fn new(cidr: BlockCidr, pool: impl Into<String>) -> Self {
        Self { cidr, pool: pool.into(), holders: BTreeMap::new(), free: (0..cidr.size()).collect() }
    }

    /// Its range.
    pub fn cidr(&self) -> BlockCidr {
        self.cidr
    }

    /// Name of the IPPool it was cut from.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Addresses held.
    pub fn used(&self) -> usize {
        self.holders.len()
    }

    /// Addresses nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether nobody holds an address.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Owner> {
        self.holders.get(&self.cidr.offset(address)?)
    }

    /// Every address held, in order, and by whom.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.holders.iter().filter_map(|(offset, owner)| Some((self.cidr.nth(*offset)?, owner)))
    }

    /// Hands out the address that has been free for longest; `None` when all are held.
    pub fn assign(&mut self, owner: &Owner) -> Option<IpAddr> {
        let offset = self.free.pop_front()?;
        self.holders.insert(offset, owner.clone());
        self.cidr.nth(offset)
    }

    /// Hands out this very address. Returns whether it was free; the order of the others stays.
    pub fn assign_this(&mut self, address: IpAddr, owner: &Owner) -> bool {
        let Some(offset) = self.cidr.offset(address) else { return false };
        let Some(place) = self.free.iter().position(|free| *free == offset) else { return false };
        self.free.remove(place);
        self.holders.insert(offset, owner.clone());
        true
    }

    /// Takes this address, held before a restart. Returns whether it was free. Addresses behind the highest one
    /// ever restored come next: the lower ones that are free were most likely freed not long ago.
    pub fn restore(&mut self, address: IpAddr, owner: &Owner) -> bool {
        let Some(offset) = self.cidr.offset(address) else { return false };
        let Some(place) = self.free.iter().position(|free| *free == offset) else { return false };
        self.free.remove(place);
        if self.holders.last_key_value().is_none_or(|(highest, _)| *highest < offset) {
            self.free.rotate_left(place);
        }
        self.holders.insert(offset, owner.clone());
        true
    }

    /// Frees an address. Returns who held it.
    pub fn release(&mut self, address: IpAddr) -> Option<Owner> {
        let offset = self.cidr.offset(address)?;
        let owner = self.holders.remove(&offset)?;
        self.free.push_back(offset);
        Some(owner)
    }

    /// What the cluster is told of it.
    pub fn mirror(&self) -> IPAMBlockStatus {
        IPAMBlockStatus {
            used: self.used().try_into().unwrap_or(i64::MAX),
            allocations: self.holders().map(|(address, owner)| Allocation::new(address, owner)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cidr::Cidr;
    use crate::owner::OwnerKey;

    fn owner(number: u16) -> Owner {
        Owner {
            key: OwnerKey { container_id: format!("container-{number}"), ifname: "eth0".to_owned() },
            namespace: "default".to_owned(),
            pod: format!("pod-{number}"),
            uid: format!("uid-{number}"),
        }
    }

    fn block(cidr: &str) -> Block {
        let cidr: Cidr = cidr.parse().unwrap();
        Block::new(BlockCidr::try_from(cidr).unwrap(), "default")
    }

    #[test]
    fn all_addresses_are_handed_out_the_first_and_the_last_too() {
        let mut block = block("10.0.0.0/30");
        let all: Vec<String> =
            (0..4).filter_map(|n| block.assign(&owner(n))).map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(block.assign(&owner(4)), None);
        assert_eq!((block.used(), block.free()), (4, 0));
    }

    #[test]
    fn an_address_asked_for_is_handed_out_once_and_the_others_keep_their_order() {
        let mut block = block("10.0.0.0/30");
        let address = |text: &str| text.parse().unwrap();
        assert!(block.assign_this(address("10.0.0.2"), &owner(0)));
        assert!(!block.assign_this(address("10.0.0.2"), &owner(1)));
        assert!(!block.assign_this(address("10.0.0.4"), &owner(1)));
        let rest: Vec<_> = (1..4).filter_map(|n| block.assign(&owner(n))).collect();
        assert_eq!(rest, [address("10.0.0.0"), address("10.0.0.1"), address("10.0.0.3")]);
        assert_eq!(block.holder(address("10.0.0.2")), Some(&owner(0)));
    }

    #[test]
    fn the_address_just_freed_is_the_last_to_come_back() {
        let mut block = block("10.0.0.0/30");
        let first = block.assign(&owner(0)).unwrap();
        let second = block.assign(&owner(1)).unwrap();
        assert_eq!(block.release(second).unwrap(), owner(1));
        assert_eq!(block.release(first).unwrap(), owner(0));
        let order: Vec<IpAddr> = (2..6).filter_map(|n| block.assign(&owner(n))).collect();
        assert_eq!(order[2..], [second, first]);
    }

    #[test]
    fn after_a_restart_addresses_go_on_behind_the_highest_held() {
        let mut block = block("10.0.0.0/29");
        for address in ["10.0.0.1", "10.0.0.4", "10.0.0.2"] {
            assert!(block.restore(address.parse().unwrap(), &owner(1)));
        }
        let order: Vec<String> =
            (2..7).filter_map(|n| block.assign(&owner(n))).map(|ip| ip.to_string()).collect();
        assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.0", "10.0.0.3"]);
    }

    #[test]
    fn an_address_that_is_held_or_of_another_block_is_not_restored() {
        let mut block = block("10.0.0.0/29");
        assert!(block.restore("10.0.0.1".parse().unwrap(), &owner(1)));
        assert!(!block.restore("10.0.0.1".parse().unwrap(), &owner(2)));
        assert!(!block.restore("10.0.0.8".parse().unwrap(), &owner(2)));
        assert!(!block.restore("fd00::1".parse().unwrap(), &owner(2)));
        assert_eq!(block.holder("10.0.0.1".parse().unwrap()), Some(&owner(1)));
    }

    #[test]
    fn the_mirror_names_who_holds_what_in_order_of_address() {
        let mut block = block("fd00::40/122");
        block.restore("fd00::41".parse().unwrap(), &owner(2));
        block.assign(&owner(1));
        let mirror = block.mirror();
        assert_eq!(mirror.used, 2);
        let parsed: Vec<(IpAddr, Owner)> = mirror.allocations.iter().map(|it| it.parse().unwrap()).collect();
        assert_eq!(
            parsed,
            [("fd00::41".parse().unwrap(), owner(2)), ("fd00::42".parse().unwrap(), owner(1)),]
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assign,
        /// Frees the nth of those held.
        Release(prop::sample::Index),
        /// Takes this offset.
        Restore(u16),
        /// Forgets the block and builds it again from its mirror.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Assign),
            3 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => (0_u16..40).prop_map(Step::Restore),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a map of who holds what: no address twice, none lost, the same after a restart.
        #[test]
        fn a_block_is_a_map_of_addresses_to_owners(steps in steps(), cidr in prop_oneof!["10\\.0\\.0\\.32/27", "fd00::20/123"]) {
            let mut block = block(&cidr);
            let mut model: BTreeMap<IpAddr, Owner> = BTreeMap::new();
            for (number, step) in (0..).zip(steps) {
                let owner = owner(number);
                match step {
                    Step::Assign => match block.assign(&owner) {
                        Some(address) => prop_assert_eq!(model.insert(address, owner), None, "{} handed out twice", address),
                        None => prop_assert_eq!(model.len(), 32),
                    },
                    Step::Release(index) if !model.is_empty() => {
                        let address = *index.get(&model.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(block.release(address), model.remove(&address));
                        prop_assert_eq!(block.release(address), None);
                    }
                    Step::Release(_) => {}
                    Step::Restore(offset) => {
                        let address = block.cidr().nth(offset);
                        let free = address.is_some_and(|address| !model.contains_key(&address));
                        if let Some(address) = address {
                            prop_assert_eq!(block.restore(address, &owner), free);
                            model.entry(address).or_insert(owner);
                        }
                    }
                    Step::Restart => {
                        let mut again = Block::new(block.cidr(), block.pool());
                        for allocation in block.mirror().allocations {
                            let (address, owner) = allocation.parse().unwrap();
                            prop_assert!(again.restore(address, &owner));
                        }
                        block = again;
                    }
                }
                let holders: BTreeMap<IpAddr, Owner> = block.holders().map(|(ip, owner)| (ip, owner.clone())).collect();
                prop_assert_eq!(&holders, &model);
                prop_assert_eq!((block.used(), block.free()), (model.len(), 32 - model.len()));
                prop_assert_eq!(block.is_empty(), model.is_empty());
            }
        }
    }
}

//! One block as its owner keeps it: who holds which address, and which comes next.
//!
//! All addresses of a block are handed out, the first and the last too. Pods have a /32 or /128 and reach
//! everything through a gateway, so a block is no subnet: it has no network and no broadcast address, and no
//! router listens to the Subnet-Router anycast address of RFC 4291, section 2.6.1, which exists on links only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::cidr::{BlockCidr, Cidr};
use crate::crd::{Allocation, IPAMBlockStatus};
use crate::owner::Owner;

/// A block and its addresses. Each is in one place: held, free, resting, kept back, or in a part carved out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cidr: BlockCidr,
    pool: String,
    /// By offset from the first address.
    holders: BTreeMap<u16, Owner>,
    /// Offsets in the order they will be handed out. What is freed goes to the back, so that an address rests as
    /// long as possible before another pod has it: connections of the last one may still be on their way.
    free: VecDeque<u16>,
    /// Freed and not to be handed out before a time, in the order they were freed.
    resting: VecDeque<(u16, Instant)>,
    /// Nobody holds them, and only who asks for one by name gets it.
    kept_back: BTreeSet<u16>,
    /// Ranges that are kept back, of all pools.
    reserved: Vec<Cidr>,
    /// Parts that belong to other nodes.
    carved: BTreeSet<BlockCidr>,
}

impl Block {
    /// A block nobody holds an address of.
    pub fn new(cidr: BlockCidr, pool: impl Into<String>) -> Self {
        Self {
            cidr,
            pool: pool.into(),
            holders: BTreeMap::new(),
            free: (0..cidr.size()).collect(),
            resting: VecDeque::new(),
            kept_back: BTreeSet::new(),
            reserved: Vec::new(),
            carved: BTreeSet::new(),
        }
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

    /// Addresses that can be handed out now.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Addresses that nobody holds and that cannot be handed out yet.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Addresses this node has to hand out: all but those of parts that belong to others.
    pub fn size(&self) -> usize {
        let carved: usize = self.carved.iter().map(|part| usize::from(part.size())).sum();
        usize::from(self.cidr.size()) - carved
    }

    /// Whether nobody holds an address, and no part belongs to another node.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.carved.is_empty()
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Owner> {
        self.holders.get(&self.cidr.offset(address)?)
    }

    /// Every address held, in order, and by whom.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.holders.iter().filter_map(|(offset, owner)| Some((self.cidr.nth(*offset)?, owner)))
    }

    /// Parts that belong to other nodes, in order.
    pub fn carved(&self) -> impl Iterator<Item = BlockCidr> {
        self.carved.iter().copied()
    }

    /// Hands out the address that has been free for longest; `None` when none is free.
    pub fn assign(&mut self, owner: &Owner) -> Option<IpAddr> {
        let offset = self.free.pop_front()?;
        self.holders.insert(offset, owner.clone());
        self.cidr.nth(offset)
    }

    /// Whether [`Block::assign_this`] would hand it out.
    pub fn can_assign_this(&self, address: IpAddr) -> bool {
        let taken = |offset: &u16| self.holders.contains_key(offset);
        let elsewhere = self.carved.iter().any(|part| part.contains(address));
        self.cidr.offset(address).is_some_and(|offset| !taken(&offset)) && !elsewhere
    }

    /// Hands out this very address, whether it rests or is kept back or not. Returns whether nobody held it; the order
    /// of the others stays.
    pub fn assign_this(&mut self, address: IpAddr, owner: &Owner) -> bool {
        self.take(address, owner).is_some()
    }

    /// Takes this address, held before a restart. Returns whether nobody held it. Addresses behind the highest one
    /// ever restored come next: the lower ones that are free were most likely freed not long ago.
    pub fn restore(&mut self, address: IpAddr, owner: &Owner) -> bool {
        let highest = self.holders.last_key_value().map(|(highest, _)| *highest);
        let Some((offset, place)) = self.take(address, owner) else { return false };
        if let Some(place) = place
            && highest.is_none_or(|highest| highest < offset)
        {
            self.free.rotate_left(place);
        }
        true
    }

    /// Gives the address to an owner, if nobody has it. Returns its offset, and its place among those that were free.
    fn take(&mut self, address: IpAddr, owner: &Owner) -> Option<(u16, Option<usize>)> {
        let offset = self.cidr.offset(address)?;
        let place = self.free.iter().position(|free| *free == offset);
        if let Some(place) = place {
            self.free.remove(place);
        } else if let Some(resting) = self.resting.iter().position(|(resting, _)| *resting == offset) {
            self.resting.remove(resting);
        } else if !self.kept_back.remove(&offset) {
            return None;
        }
        self.holders.insert(offset, owner.clone());
        Some((offset, place))
    }

    /// Frees an address; until a time, if there is one, it is not handed out again. Returns who held it.
    pub fn release(&mut self, address: IpAddr, rests_until: Option<Instant>) -> Option<Owner> {
        let offset = self.cidr.offset(address)?;
        let owner = self.holders.remove(&offset)?;
        match rests_until {
            _ if self.reserved.iter().any(|range| range.contains(address)) => {
                _ = self.kept_back.insert(offset)
            }
            Some(until) => self.resting.push_back((offset, until)),
            None => self.free.push_back(offset),
        }
        Some(owner)
    }

    /// What has rested for long enough can be handed out. Returns whether there was any.
    pub fn wake(&mut self, now: Instant) -> bool {
        let awake = self.resting.iter().take_while(|(_, until)| *until <= now).count();
        self.free.extend(self.resting.drain(..awake).map(|(offset, _)| offset));
        awake > 0
    }

    /// Keeps these ranges back from now on, and no others.
    pub fn reserve(&mut self, ranges: &[Cidr]) {
        self.reserved = ranges.iter().copied().filter(|range| range.overlaps(self.cidr.cidr())).collect();
        let (cidr, reserved) = (self.cidr, &self.reserved);
        let keep = |offset: &u16| {
            cidr.nth(*offset).is_some_and(|address| reserved.iter().any(|range| range.contains(address)))
        };
        let back = self.kept_back.iter().copied().filter(|offset| !keep(offset));
        self.free.extend(back.collect::<Vec<_>>());
        self.kept_back.retain(keep);
        self.kept_back.extend(self.free.iter().copied().filter(keep));
        self.kept_back.extend(self.resting.iter().map(|(offset, _)| *offset).filter(keep));
        self.free.retain(|offset| !keep(offset));
        self.resting.retain(|(offset, _)| !keep(offset));
    }

    /// The largest part, of at most `size` addresses, all of which can be handed out now; from the end.
    pub fn part(&self, size: usize) -> Option<BlockCidr> {
        let free: BTreeSet<u16> = self.free.iter().copied().collect();
        let width = self.cidr.family().width();
        (self.cidr.cidr().length() + 1..=width).map(|length| (length, 1_u16 << (width - length))).find_map(
            |(length, part)| {
                let whole = |first: &u16| (*first..*first + part).all(|offset| free.contains(&offset));
                let starts = (0..self.cidr.size()).step_by(part.into()).rev();
                let first = starts.filter(|_| usize::from(part) <= size).find(whole)?;
                BlockCidr::try_from(Cidr::around(self.cidr.nth(first)?, length)?).ok()
            },
        )
    }

    /// Hands nothing of a part out any more: it belongs to another node. Returns whether that is so now; not when
    /// somebody here holds an address of it.
    pub fn carve(&mut self, part: BlockCidr) -> bool {
        if self.carved.iter().any(|carved| carved.cidr().covers(part.cidr())) {
            return true;
        }
        let cidr = self.cidr;
        let inside = |offset: &u16| cidr.nth(*offset).is_some_and(|address| part.contains(address));
        if part == cidr || !cidr.cidr().covers(part.cidr()) || self.holders.keys().any(inside) {
            return false;
        }
        self.carved.retain(|carved| !part.cidr().covers(carved.cidr()));
        self.free.retain(|offset| !inside(offset));
        self.resting.retain(|(offset, _)| !inside(offset));
        self.kept_back.retain(|offset| !inside(offset));
        self.carved.insert(part);
        true
    }

    /// A part is this node's again. Returns whether it was not.
    pub fn join(&mut self, part: BlockCidr) -> bool {
        let was = self.carved.remove(&part);
        if was && let Some(first) = self.cidr.offset(part.cidr().address()) {
            self.free.extend(first..first + part.size());
            let reserved = std::mem::take(&mut self.reserved);
            self.reserve(&reserved);
        }
        was
    }

    /// What the cluster is told of it.
    pub fn mirror(&self) -> IPAMBlockStatus {
        IPAMBlockStatus {
            used: self.used().try_into().unwrap_or(i64::MAX),
            free: (self.free() + self.resting()).try_into().unwrap_or(i64::MAX),
            allocations: self.holders().map(|(address, owner)| Allocation::new(address, owner)).collect(),
            node_uid: String::new(),
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
        assert_eq!(block.release(second, None).unwrap(), owner(1));
        assert_eq!(block.release(first, None).unwrap(), owner(0));
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
    fn an_address_rests_until_its_time_unless_it_is_asked_for() {
        let mut block = block("10.0.0.0/31");
        let now = Instant::now();
        let (first, second) = (block.assign(&owner(0)).unwrap(), block.assign(&owner(1)).unwrap());
        let later = now + std::time::Duration::from_secs(30);
        block.release(first, Some(later));
        block.release(second, Some(later));
        assert_eq!((block.assign(&owner(2)), block.resting()), (None, 2));
        assert!(!block.wake(now));
        assert!(block.assign_this(second, &owner(1)));
        assert!(block.wake(later));
        assert_eq!(block.assign(&owner(2)), Some(first));
    }

    #[test]
    fn what_is_kept_back_goes_to_who_asks_for_it_alone() {
        let mut block = block("10.0.0.0/30");
        let address = |text: &str| text.parse().unwrap();
        block.restore(address("10.0.0.1"), &owner(0));
        block.reserve(&["10.0.0.0/31".parse().unwrap(), "10.9.0.0/16".parse().unwrap()]);
        assert_eq!((block.free(), block.used()), (2, 1), "who has one keeps it");
        block.release(address("10.0.0.1"), None);
        assert_eq!(block.free(), 2);
        assert!(block.assign_this(address("10.0.0.1"), &owner(1)));
        block.reserve(&[]);
        let rest: BTreeSet<IpAddr> = (2..6).filter_map(|n| block.assign(&owner(n))).collect();
        assert_eq!(rest, ["10.0.0.0", "10.0.0.2", "10.0.0.3"].map(address).into());
    }

    #[test]
    fn a_part_is_the_largest_that_is_free_and_comes_back_whole() {
        let mut block = block("10.0.0.0/28");
        block.restore("10.0.0.9".parse().unwrap(), &owner(0));
        let part = block.part(7).unwrap();
        assert_eq!(part.to_string(), "10.0.0.12/30");
        assert_eq!(block.part(8).unwrap().to_string(), "10.0.0.0/29");
        assert_eq!(block.part(1).unwrap().to_string(), "10.0.0.15/32");
        assert!(block.carve(part) && block.carve(part));
        assert_eq!((block.free(), block.size(), block.is_empty()), (11, 12, false));
        assert!(!block.can_assign_this("10.0.0.12".parse().unwrap()));
        assert!(!block.restore("10.0.0.12".parse().unwrap(), &owner(1)));
        let held: BlockCidr = "10.0.0.8/30".parse::<Cidr>().unwrap().try_into().unwrap();
        assert!(!block.carve(held), "somebody holds an address of it");
        assert!(block.join(part) && !block.join(part));
        assert_eq!((block.free(), block.size()), (15, 16));
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
        /// The largest part of at most so many addresses is given to another node, or comes back.
        Carve(usize),
        Join,
        /// Forgets the block and builds it again from its mirror.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Assign),
            3 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => (0_u16..40).prop_map(Step::Restore),
            1 => (0_usize..20).prop_map(Step::Carve),
            1 => Just(Step::Join),
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
            let mut carved: BTreeSet<BlockCidr> = BTreeSet::new();
            for (number, step) in (0..).zip(steps) {
                let owner = owner(number);
                match step {
                    Step::Assign => match block.assign(&owner) {
                        Some(address) => prop_assert_eq!(model.insert(address, owner), None, "{} handed out twice", address),
                        None => prop_assert_eq!(model.len(), block.size()),
                    },
                    Step::Release(index) if !model.is_empty() => {
                        let address = *index.get(&model.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(block.release(address, None), model.remove(&address));
                        prop_assert_eq!(block.release(address, None), None);
                    }
                    Step::Release(_) => {}
                    Step::Restore(offset) => {
                        let address = block.cidr().nth(offset);
                        let elsewhere = |address| carved.iter().any(|part| part.contains(address));
                        let free = address.is_some_and(|address| !model.contains_key(&address) && !elsewhere(address));
                        if let Some(address) = address.filter(|address| !elsewhere(*address)) {
                            prop_assert_eq!(block.restore(address, &owner), free);
                            model.entry(address).or_insert(owner);
                        }
                    }
                    Step::Carve(size) => if let Some(part) = block.part(size) {
                        prop_assert!(usize::from(part.size()) <= size && block.carve(part) && carved.insert(part));
                    }
                    Step::Join => if let Some(part) = carved.pop_first() {
                        prop_assert!(block.join(part));
                    }
                    Step::Restart => {
                        let mut again = Block::new(block.cidr(), block.pool());
                        for part in block.carved() {
                            prop_assert!(again.carve(part));
                        }
                        for allocation in block.mirror().allocations {
                            let (address, owner) = allocation.parse().unwrap();
                            prop_assert!(again.restore(address, &owner));
                        }
                        block = again;
                    }
                }
                let holders: BTreeMap<IpAddr, Owner> = block.holders().map(|(ip, owner)| (ip, owner.clone())).collect();
                prop_assert_eq!(&holders, &model);
                let away: usize = carved.iter().map(|part| usize::from(part.size())).sum();
                prop_assert!(model.keys().all(|address| !carved.iter().any(|part| part.contains(*address))));
                prop_assert_eq!((block.used(), block.free()), (model.len(), 32 - away - model.len()));
                prop_assert_eq!(block.is_empty(), model.is_empty() && carved.is_empty());
            }
        }
    }
}

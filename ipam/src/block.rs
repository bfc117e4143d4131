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

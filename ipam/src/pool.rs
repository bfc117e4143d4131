//! Pools: what an operator's [`IPPool`] means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use crate::cidr::{BlockCidr, Cidr, CidrError, Family};
use crate::crd::IPPool;

/// An [`IPPool`] that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The object's name.
    pub name: String,
    /// The whole range.
    pub cidr: Cidr,
    /// Length of its blocks: valid in the family, not shorter than the range's own.
    pub block_length: u8,
    /// Nodes that may own its blocks; all unless set.
    pub node_selector: Option<LabelSelector>,
    /// Hand out no new addresses.
    pub disabled: bool,
}

/// Why an [`IPPool`] cannot be used, in words for its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// `spec.cidr` is not a range.
    #[error("spec.cidr: {0}")]
    Cidr(#[from] CidrError),
    /// `spec.cidr` has addresses no pod can have.
    #[error("spec.cidr: {0} overlaps {1}, which is {2}: pods need addresses that can be routed")]
    NotRoutable(Cidr, Cidr, &'static str),
    /// `spec.blockSize` is none a block may have.
    #[error("spec.blockSize: {given} is outside {from}–{to}, the lengths an {family} block may have")]
    BlockLength {
        /// What was written.
        given: u8,
        /// The pool's family.
        family: Family,
        /// Shortest length.
        from: u8,
        /// Longest length.
        to: u8,
    },
    /// A block would be larger than the pool.
    #[error("spec.blockSize: a /{block} block does not fit into {cidr}: write {} or more", .cidr.length())]
    BlockShorterThanPool {
        /// The block length in force.
        block: u8,
        /// The pool's range.
        cidr: Cidr,
    },
    /// Another pool has some of its addresses.
    #[error(
        "spec.cidr: {cidr} overlaps {other_cidr} of the older IPPool \"{other}\": two pools cannot share addresses"
    )]
    Overlap {
        /// The pool's range.
        cidr: Cidr,
        /// Name of the pool that was there before.
        other: String,
        /// Its range.
        other_cidr: Cidr,
    },
}

impl PoolError {
    /// One word in CamelCase for a condition's `reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cidr(_) | Self::NotRoutable(..) => "InvalidCIDR",
            Self::BlockLength { .. } | Self::BlockShorterThanPool { .. } => "InvalidBlockSize",
            Self::Overlap { .. } => "Overlap",
        }
    }
}

/// Ranges no pod can have an address of (RFC 6890, RFC 4291, RFC 5771).
const NOT_ROUTABLE: [(&str, &str); 7] = [
    ("0.0.0.0/8", "\"this network\""),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("::/127", "unspecified and loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

impl TryFrom<&IPPool> for Pool {
    type Error = PoolError;

    fn try_from(object: &IPPool) -> Result<Self, PoolError> {
        let cidr: Cidr = object.spec.cidr.parse()?;
        for (range, what) in NOT_ROUTABLE {
            let range: Cidr = range.parse()?;
            if range.overlaps(cidr) {
                return Err(PoolError::NotRoutable(cidr, range, what));
            }
        }
        let family = cidr.family();
        let lengths = BlockCidr::lengths(family);
        let block = object.spec.block_size.unwrap_or(family.width() - 6);
        if !lengths.contains(&block) {
            return Err(PoolError::BlockLength {
                given: block,
                family,
                from: *lengths.start(),
                to: *lengths.end(),
            });
        }
        if block < cidr.length() {
            return Err(PoolError::BlockShorterThanPool { block, cidr });
        }
        Ok(Self {
            name: object.name_any(),
            cidr,
            block_length: block,
            node_selector: object.spec.node_selector.clone(),
            disabled: object.spec.disabled,
        })
    }
}

/// Reads all pools at once, by name. Of two that overlap the older one (by creation, then name) stays good; a pool
/// that is itself refused takes no addresses from others.
pub fn check_overlaps<'a>(
    objects: impl IntoIterator<Item = &'a IPPool>,
) -> BTreeMap<String, Result<Pool, PoolError>> {
    let mut objects: Vec<&IPPool> = objects.into_iter().collect();
    // An object without a creation time has not been to the API server yet: the youngest.
    objects.sort_by_cached_key(|object| {
        let created = object.creation_timestamp();
        (created.is_none(), created, object.name_any())
    });
    let mut good: Vec<Pool> = Vec::new();
    let mut all = BTreeMap::new();
    for object in objects {
        let verdict = Pool::try_from(object).and_then(|pool| {
            match good.iter().find(|other| other.cidr.overlaps(pool.cidr)) {
                None => Ok(pool),
                Some(other) => Err(PoolError::Overlap {
                    cidr: pool.cidr,
                    other: other.name.clone(),
                    other_cidr: other.cidr,
                }),
            }
        });
        good.extend(verdict.clone());
        all.insert(object.name_any(), verdict);
    }
    all
}

impl Pool {
    /// Which family it belongs to.
    pub fn family(&self) -> Family {
        self.cidr.family()
    }

    /// Addresses in it; saturates at 2^128 − 1.
    pub fn size(&self) -> u128 {
        self.cidr.size()
    }

    /// Addresses in one of its blocks: 1–4,096.
    pub fn block_size(&self) -> u16 {
        1 << (self.family().width() - self.block_length)
    }

    /// Blocks in it; saturates at 2^128 − 1.
    pub fn blocks(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.block_length - self.cidr.length())).unwrap_or(u128::MAX)
    }

    /// The block an address of this pool lies in.
    pub fn block_of(&self, address: std::net::IpAddr) -> Option<BlockCidr> {
        let block = Cidr::around(address, self.block_length)?;
        self.cidr.covers(block).then(|| BlockCidr::try_from(block).ok()).flatten()
    }

    /// All blocks in the order in which this node tries to claim them: from a place that depends on the node's name
    /// upwards, then from the first. Nodes that start together so begin at different places. Lazy: an IPv6 pool
    /// may have 2^74 blocks.
    pub fn candidates(&self, node: &str) -> impl Iterator<Item = BlockCidr> + use<> {
        let (cidr, length, count, block_size) =
            (self.cidr, self.block_length, self.blocks(), u128::from(self.block_size()));
        let start = fnv1a(node) % count;
        (start..count).chain(0..start).filter_map(move |index| {
            let first = cidr.nth(index.checked_mul(block_size)?)?;
            BlockCidr::try_from(Cidr::around(first, length)?).ok()
        })
    }
}

/// FNV-1a of 128 bits, folded so that its low bits depend on all of it. The same in every run and on every machine,
/// which the standard library's hashes do not promise.
fn fnv1a(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    hash ^ (hash >> 64)
}

//! Pools: what an operator's [`IPPool`] means.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use crate::cidr::{BlockCidr, Cidr, CidrError, Family};
use crate::crd::{AllowedUse, IPPool};

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
    /// Namespaces whose pods have their addresses of it; all unless set.
    pub namespace_selector: Option<LabelSelector>,
    /// Services that have their addresses of it; all unless set.
    pub service_selector: Option<LabelSelector>,
    /// Pods may have its addresses.
    pub for_pods: bool,
    /// Services of type LoadBalancer may have its addresses; then no pod does.
    pub for_services: bool,
    /// Its blocks are announced.
    pub bgp_export: bool,
    /// Where what its pods send out of the cluster goes with their own addresses; none: everywhere.
    pub nat_outgoing: Option<Vec<Cidr>>,
    /// How long an address rests when a pod has left it: at most an hour.
    pub cooldown: Duration,
    /// Hand out no new addresses.
    pub disabled: bool,
}

/// Why an [`IPPool`] cannot be used, in words for its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// `spec.cidr` is not a range.
    #[error("spec.cidr: {0}")]
    Cidr(#[from] CidrError),
    /// One of `spec.natExclusions` is not a range.
    #[error("spec.natExclusions: {0}")]
    NatExclusion(CidrError),
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
    /// It cannot be for both.
    #[error(
        "spec.allowedUses: Pods and Services cannot have addresses of one pool, for nodes own blocks of it: make two pools"
    )]
    TwoUses,
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
            Self::TwoUses => "TwoUses",
            Self::Overlap { .. } => "Overlap",
            Self::NatExclusion(_) => "InvalidNATExclusion",
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
        let uses = &object.spec.allowed_uses;
        if uses.contains(&AllowedUse::Services) && uses.contains(&AllowedUse::Pods) {
            return Err(PoolError::TwoUses);
        }
        let cidr: Cidr = object.spec.cidr.parse()?;
        for (range, what) in NOT_ROUTABLE {
            let range: Cidr = range.parse()?;
            if range.overlaps(cidr) {
                return Err(PoolError::NotRoutable(cidr, range, what));
            }
        }
        let family = cidr.family();
        let lengths = BlockCidr::lengths(family);
        let for_services = uses.contains(&AllowedUse::Services);
        let block = object.spec.block_size.unwrap_or(family.width() - 6);
        // Nobody owns blocks of a pool for Services.
        let block = if for_services { block.max(cidr.length()) } else { block };
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
        let exclusions = object.spec.nat_exclusions.iter().map(|range| range.parse());
        let exclusions = exclusions.collect::<Result<Vec<Cidr>, _>>().map_err(PoolError::NatExclusion)?;
        Ok(Self {
            name: object.name_any(),
            cidr,
            block_length: block,
            node_selector: object.spec.node_selector.clone(),
            namespace_selector: object.spec.namespace_selector.clone(),
            service_selector: object.spec.service_selector.clone(),
            for_pods: object.spec.allowed_uses.contains(&AllowedUse::Pods),
            for_services,
            bgp_export: object.spec.bgp_export,
            nat_outgoing: object.spec.nat_outgoing.then_some(exclusions),
            cooldown: Duration::from_secs(object.spec.cooldown_seconds.into()),
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
    /// A pool for the pods of every node and namespace, whose range is not checked.
    pub fn new(name: impl Into<String>, cidr: Cidr, block_length: u8) -> Self {
        Self {
            name: name.into(),
            cidr,
            block_length,
            node_selector: None,
            namespace_selector: None,
            service_selector: None,
            for_pods: true,
            for_services: false,
            bgp_export: true,
            nat_outgoing: None,
            cooldown: Duration::ZERO,
            disabled: false,
        }
    }

    /// Whether pods may have new addresses of it.
    pub fn hands_out(&self) -> bool {
        self.for_pods && !self.disabled
    }

    /// Whether a text is its name or its range.
    pub fn is_called(&self, text: &str) -> bool {
        self.name == text || text.parse() == Ok(self.cidr)
    }

    /// How narrowly it is meant: of pools a pod may have addresses of, the more specific come first. A namespace says
    /// more of a pod than its node.
    pub fn specificity(&self) -> u8 {
        2 * u8::from(self.namespace_selector.is_some()) + u8::from(self.node_selector.is_some())
    }

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::crd::IPPoolSpec;

    fn object(name: &str, cidr: &str, block_size: Option<u8>) -> IPPool {
        IPPool::new(name, IPPoolSpec { block_size, ..IPPoolSpec::new(cidr) })
    }

    fn pool(cidr: &str, block_size: Option<u8>) -> Result<Pool, PoolError> {
        Pool::try_from(&object("default", cidr, block_size))
    }

    fn created(mut object: IPPool, second: i64) -> IPPool {
        object.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        object
    }

    #[test]
    fn blocks_are_64_addresses_unless_told_otherwise() {
        let v4 = pool("10.244.0.0/16", None).unwrap();
        assert_eq!((v4.block_length, v4.block_size(), v4.blocks(), v4.size()), (26, 64, 1024, 65536));
        let v6 = pool("fd00:10:244::/48", None).unwrap();
        assert_eq!((v6.block_length, v6.block_size(), v6.blocks(), v6.size()), (122, 64, 1 << 74, 1 << 80));
    }

    #[test]
    fn what_is_wrong_with_a_pool_is_said_with_what_would_be_right() {
        for (cidr, block_size, reason, words) in [
            (
                "10.244.0.5/16",
                None,
                "InvalidCIDR",
                "spec.cidr: 10.244.0.5/16 has host bits set: did you mean 10.244.0.0/16?",
            ),
            (
                "10.244",
                None,
                "InvalidCIDR",
                "spec.cidr: \"10.244\" is not a CIDR: expected address/length, as 10.244.0.0/16 or fd00:10:244::/48",
            ),
            (
                "169.254.0.0/20",
                None,
                "InvalidCIDR",
                "spec.cidr: 169.254.0.0/20 overlaps 169.254.0.0/16, which is link-local: pods need addresses that can be \
                 routed",
            ),
            (
                "10.244.0.0/16",
                Some(19),
                "InvalidBlockSize",
                "spec.blockSize: 19 is outside 20–32, the lengths an IPv4 block may have",
            ),
            (
                "fd00::/48",
                Some(64),
                "InvalidBlockSize",
                "spec.blockSize: 64 is outside 116–128, the lengths an IPv6 block may have",
            ),
            (
                "10.244.0.0/28",
                None,
                "InvalidBlockSize",
                "spec.blockSize: a /26 block does not fit into 10.244.0.0/28: write 28 or more",
            ),
        ] {
            let error = pool(cidr, block_size).unwrap_err();
            assert_eq!((error.reason(), error.to_string().as_str()), (reason, words));
        }
    }

    #[test]
    fn every_range_no_pod_can_have_is_one() {
        for (range, _) in NOT_ROUTABLE {
            let range: Cidr = range.parse().unwrap();
            assert!(matches!(pool(&range.to_string(), None), Err(PoolError::NotRoutable(..))), "{range}");
        }
    }

    #[test]
    fn of_two_pools_that_overlap_the_older_stays_good() {
        let old = created(object("z-old", "10.0.0.0/16", None), 100);
        let young = created(object("a-young", "10.0.128.0/17", None), 200);
        let apart = created(object("apart", "10.1.0.0/16", None), 300);
        let unborn = object("unborn", "10.1.0.0/24", None);
        let all = check_overlaps([&unborn, &young, &apart, &old]);
        assert!(all["z-old"].is_ok() && all["apart"].is_ok());
        let error = all["a-young"].as_ref().unwrap_err();
        assert_eq!(
            error.to_string(),
            "spec.cidr: 10.0.128.0/17 overlaps 10.0.0.0/16 of the older IPPool \"z-old\": two pools cannot share addresses"
        );
        assert_eq!(all["unborn"].as_ref().unwrap_err().reason(), "Overlap");
    }

    #[test]
    fn of_two_pools_of_one_age_the_first_by_name_stays_good() {
        let (a, b) =
            (created(object("a", "10.0.0.0/16", None), 1), created(object("b", "10.0.0.0/16", None), 1));
        let all = check_overlaps([&b, &a]);
        assert!(all["a"].is_ok() && all["b"].is_err());
    }

    #[test]
    fn a_refused_pool_takes_no_addresses_from_others() {
        let bad = created(object("bad", "10.0.0.0/16", Some(12)), 1);
        let overlapped = created(object("overlapped", "10.0.0.0/8", None), 2);
        let third = created(object("third", "10.0.0.0/24", None), 3);
        let all = check_overlaps([&bad, &overlapped, &third]);
        assert!(all["bad"].is_err() && all["overlapped"].is_ok() && all["third"].is_err());
    }

    #[test]
    fn a_node_tries_every_block_once_and_begins_where_it_did_before() {
        let pool = pool("10.244.0.0/20", None).unwrap();
        let candidates: Vec<BlockCidr> = pool.candidates("node1").collect();
        assert_eq!(candidates.iter().collect::<BTreeSet<_>>().len(), 64);
        assert!(candidates.iter().all(|block| pool.cidr.covers(block.cidr()) && block.size() == 64));
        assert_eq!(candidates, pool.candidates("node1").collect::<Vec<_>>());
    }

    #[test]
    fn nodes_begin_at_different_blocks() {
        for cidr in ["10.244.0.0/16", "fd00:10:244::/48"] {
            let pool = pool(cidr, None).unwrap();
            let first = (0..100).filter_map(|node| pool.candidates(&format!("node{node}")).next());
            let distinct = first.collect::<BTreeSet<_>>().len();
            // Of 100 random picks among 1,024 about 95 differ.
            assert!(distinct > 85, "{distinct} different first blocks of {cidr} for 100 nodes");
        }
    }

    #[test]
    fn the_block_of_an_address_is_the_candidate_that_contains_it() {
        let pool = pool("10.244.0.0/20", None).unwrap();
        assert_eq!(pool.block_of("10.244.3.70".parse().unwrap()).unwrap().to_string(), "10.244.3.64/26");
        assert_eq!(pool.block_of("10.245.3.70".parse().unwrap()), None);
        assert_eq!(pool.block_of("fd00::1".parse().unwrap()), None);
    }
}

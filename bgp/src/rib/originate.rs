//! The prefixes this speaker originates.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::aggregate::Wanted;
use super::path::{Generation, Path};
use crate::api::community::{CommunityError, CommunityValue};
use crate::api::{Aggregate, Network};
use crate::types::{Family, Prefix};
use crate::wire::{AsPath, Attributes, Community, LargeCommunity, NextHop, Origin};

/// Why [`super::Rib::set_networks`] changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// One of its communities cannot be read.
    #[error("network {prefix}: {source}")]
    Community {
        /// The network.
        prefix: Prefix,
        /// What is wrong.
        source: CommunityError,
    },
    /// An aggregate that is there twice, or is a network as well.
    #[error("aggregate {0} is listed twice, or is a network as well: a prefix is originated in one way")]
    Aggregate(Prefix),
    /// It is there twice, and what is said of it differs.
    #[error("network {0} is listed twice with different attributes: list it once")]
    Repeated(Prefix),
}

/// What is said of a network or an aggregate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    communities: Vec<Community>,
    large_communities: Vec<LargeCommunity>,
    local_pref: Option<u32>,
}

impl Told {
    /// RFC 4271, section 5.1; LOCAL_PREF where it is not the usual one.
    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            large_communities: self.large_communities.clone(),
            local_pref: self.local_pref,
            ..attributes(self.communities.clone())
        }
    }
}

/// What is to be originated, in words: communities read, repeats refused.
pub(super) fn read(networks: &[Network]) -> Result<BTreeMap<Prefix, Told>, NetworkError> {
    let mut wanted = BTreeMap::new();
    for Network { prefix, communities, local_pref } in networks {
        let told = Told { local_pref: *local_pref, ..read_communities(*prefix, communities)? };
        if wanted.insert(*prefix, told.clone()).is_some_and(|before| before != told) {
            return Err(NetworkError::Repeated(*prefix));
        }
    }
    Ok(wanted)
}

/// Likewise of aggregates, which are no `networks`.
pub(super) fn read_aggregates(
    aggregates: &[Aggregate],
    networks: &BTreeMap<Prefix, Told>,
) -> Result<BTreeMap<Prefix, Wanted>, NetworkError> {
    let mut wanted = BTreeMap::new();
    for Aggregate { prefix, suppress, communities } in aggregates {
        let read = Wanted { suppress: *suppress, told: read_communities(*prefix, communities)? };
        if networks.contains_key(prefix) || wanted.insert(*prefix, read).is_some() {
            return Err(NetworkError::Aggregate(*prefix));
        }
    }
    Ok(wanted)
}

fn read_communities(prefix: Prefix, texts: &[String]) -> Result<Told, NetworkError> {
    let mut told = Told::default();
    for text in texts {
        match text.parse().map_err(|source| NetworkError::Community { prefix, source })? {
            CommunityValue::Standard(community) => told.communities.push(community),
            CommunityValue::Large(community) => told.large_communities.push(community),
        }
    }
    sort(&mut told.communities);
    sort(&mut told.large_communities);
    Ok(told)
}

fn sort<T: Ord>(values: &mut Vec<T>) {
    values.sort_unstable();
    values.dedup();
}

/// A path that begins here; each neighbour is told an address of ours.
pub(super) fn path(prefix: Prefix, path_id: u32, attributes: Attributes) -> Path {
    let next_hop = match prefix.family() {
        Family::Ipv4 => NextHop::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => NextHop::V6 { global: Ipv6Addr::UNSPECIFIED, link_local: None },
    };
    Path {
        attributes: Arc::new(attributes),
        next_hop,
        source: None,
        path_id,
        refusal: None,
        generation: Generation::default(),
        received: None,
    }
}

/// RFC 4271, section 5.1: those of a route that begins here.
pub(super) fn attributes(communities: Vec<Community>) -> Attributes {
    Attributes {
        origin: Origin::Igp,
        as_path: AsPath::default(),
        med: None,
        local_pref: None,
        atomic_aggregate: false,
        aggregator: None,
        communities,
        originator_id: None,
        cluster_list: Vec::new(),
        ext_communities: Vec::new(),
        large_communities: Vec::new(),
        unknown: Vec::new(),
    }
}

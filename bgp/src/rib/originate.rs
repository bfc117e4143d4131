//! The prefixes this speaker originates.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::aggregate::Wanted;
use super::path::{Generation, Path};
use crate::api::{Aggregate, Network};
use crate::types::{Family, Prefix};
use crate::wire::{AsPath, Attributes, Community, NextHop, Origin, ParseCommunityError};

/// Why [`super::Rib::set_networks`] changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// One of its communities cannot be read.
    #[error("network {prefix}: {source}")]
    Community {
        /// The network.
        prefix: Prefix,
        /// What is wrong.
        source: ParseCommunityError,
    },
    /// An aggregate that is there twice, or is a network as well.
    #[error("aggregate {0} is listed twice, or is a network as well: a prefix is originated in one way")]
    Aggregate(Prefix),
    /// It is there twice, with different communities.
    #[error("network {0} is listed twice with different communities: list it once")]
    Repeated(Prefix),
}

/// What is to be originated, in words: communities read, repeats refused.
pub(super) fn read(networks: &[Network]) -> Result<BTreeMap<Prefix, Vec<Community>>, NetworkError> {
    let mut wanted = BTreeMap::new();
    for Network { prefix, communities } in networks {
        let read = read_communities(*prefix, communities)?;
        if wanted.insert(*prefix, read.clone()).is_some_and(|before| before != read) {
            return Err(NetworkError::Repeated(*prefix));
        }
    }
    Ok(wanted)
}

/// Likewise of aggregates, which are no `networks`.
pub(super) fn read_aggregates(
    aggregates: &[Aggregate],
    networks: &BTreeMap<Prefix, Vec<Community>>,
) -> Result<BTreeMap<Prefix, Wanted>, NetworkError> {
    let mut wanted = BTreeMap::new();
    for Aggregate { prefix, suppress, communities } in aggregates {
        let read = Wanted { suppress: *suppress, communities: read_communities(*prefix, communities)? };
        if networks.contains_key(prefix) || wanted.insert(*prefix, read).is_some() {
            return Err(NetworkError::Aggregate(*prefix));
        }
    }
    Ok(wanted)
}

fn read_communities(prefix: Prefix, texts: &[String]) -> Result<Vec<Community>, NetworkError> {
    let read = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Community>, _>>();
    let mut read = read.map_err(|source| NetworkError::Community { prefix, source })?;
    read.sort_unstable();
    read.dedup();
    Ok(read)
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

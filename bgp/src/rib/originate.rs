//! The prefixes this speaker originates.

use std::collections::BTreeMap;

use super::NetworkError;
use crate::api::Network;
use crate::types::Prefix;
use crate::wire::{AsPath, Attributes, Community, Origin};

/// What is to be originated, in words: communities read, repeats refused.
pub(super) fn read(networks: &[Network]) -> Result<BTreeMap<Prefix, Vec<Community>>, NetworkError> {
    let mut wanted = BTreeMap::new();
    for Network { prefix, communities } in networks {
        let mut read = communities
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Community>, _>>()
            .map_err(|source| NetworkError::Community { prefix: *prefix, source })?;
        read.sort_unstable();
        read.dedup();
        if wanted.insert(*prefix, read.clone()).is_some_and(|before| before != read) {
            return Err(NetworkError::Repeated(*prefix));
        }
    }
    Ok(wanted)
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

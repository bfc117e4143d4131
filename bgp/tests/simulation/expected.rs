//! What the tables are to be, worked out from the topology alone: shortest AS paths, the lowest router id among
//! equals, all equals sharing the load.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_bgp::types::Prefix;

use crate::node::{address, asn};

/// What a node's Loc-RIB has for a prefix: the best AS path, and all next hops in use.
pub type Table = BTreeMap<Prefix, (String, Vec<IpAddr>)>;

/// The learned part of every node's table. `edges` are pairs of nodes, `networks` what each originates.
pub fn tables(edges: &BTreeSet<(usize, usize)>, networks: &[BTreeSet<Prefix>]) -> Vec<Table> {
    let mut tables = vec![Table::new(); networks.len()];
    let prefixes: BTreeSet<_> = networks.iter().flatten().copied().collect();
    for prefix in prefixes {
        let mut paths: BTreeMap<usize, Vec<usize>> = (0..networks.len())
            .filter(|node| networks[*node].contains(&prefix))
            .map(|node| (node, Vec::new()))
            .collect();
        // A round a hop: who hears it first has the shortest path.
        loop {
            let mut reached: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (a, b) in edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
                if paths.contains_key(&a) && !paths.contains_key(&b) {
                    reached.entry(b).or_default().push(a);
                }
            }
            if reached.is_empty() {
                break;
            }
            for (node, mut from) in reached {
                // Router ids are in the order of the nodes.
                from.sort_unstable();
                let path: Vec<_> = [from[0]].into_iter().chain(paths[&from[0]].iter().copied()).collect();
                let words: Vec<_> = path.iter().map(|node| asn(*node).0.to_string()).collect();
                let mut hops: Vec<_> = from.iter().map(|from| address(*from, prefix.family())).collect();
                hops.sort_unstable();
                tables[node].insert(prefix, (words.join(" "), hops));
                paths.insert(node, path);
            }
        }
    }
    tables
}

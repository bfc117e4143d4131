//! What the tables are to be, worked out from the topology alone: everybody tells everybody the best it has, round after
//! round, until nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_bgp::types::Prefix;

use crate::node::address;
use crate::topology::Topology;

/// What a node's Loc-RIB has for a prefix: the best AS path, and all next hops in use.
pub type Table = BTreeMap<Prefix, (String, Vec<IpAddr>)>;

/// A route as a node has it of one other.
#[derive(Clone, Debug, PartialEq)]
struct Route {
    /// Node numbers stand for next hops, router ids and cluster ids: those are in the order of the nodes.
    path: Vec<u32>,
    /// None: it begins here.
    from: Option<usize>,
    external: bool,
    hop: usize,
    originator: usize,
    clusters: Vec<usize>,
}

/// The learned part of every node's table. `networks` is what each node originates, `pool` where a prefix is from.
pub fn tables(
    topology: &Topology,
    networks: &[BTreeSet<Prefix>],
    pool: impl Fn(Prefix) -> usize,
) -> Vec<Table> {
    let mut tables = vec![Table::new(); networks.len()];
    let prefixes: BTreeSet<_> = networks.iter().flatten().copied().collect();
    for prefix in prefixes {
        let begins = |node: usize| networks[node].contains(&prefix);
        let heard = settled(topology, begins, pool(prefix));
        for (node, heard) in heard.iter().enumerate().filter(|(node, _)| !begins(*node)) {
            let Some((best, equal)) = decided(heard) else { continue };
            let words: Vec<_> = best.path.iter().map(u32::to_string).collect();
            let mut hops: Vec<_> = equal.iter().map(|route| address(route.hop, prefix.family())).collect();
            hops.sort_unstable();
            hops.dedup();
            tables[node].insert(prefix, (words.join(" "), hops));
        }
    }
    tables
}

/// What each node has heard, once nothing changes any more.
fn settled(topology: &Topology, begins: impl Fn(usize) -> bool, pool: usize) -> Vec<Vec<Route>> {
    let mut heard: Vec<Vec<Route>> = vec![Vec::new(); topology.nodes()];
    for _ in 0..4 * topology.nodes() + 4 {
        let told = |node: usize| match begins(node) {
            true => Some(Route {
                path: Vec::new(),
                from: None,
                external: false,
                hop: node,
                originator: node,
                clusters: Vec::new(),
            }),
            false => decided(&heard[node]).map(|(best, _)| best.clone()),
        };
        let mut next: Vec<Vec<Route>> = vec![Vec::new(); topology.nodes()];
        for (from, to) in topology.pairs() {
            let Some(route) = told(from).and_then(|best| passed_on(topology, &best, from, to)) else {
                continue;
            };
            if topology.refuses(to, from) != Some(pool) {
                next[to].push(route);
            }
        }
        if next == heard {
            return heard;
        }
        heard = next;
    }
    panic!("there is no stable outcome");
}

/// What `to` takes of what `from` tells, if anything.
fn passed_on(topology: &Topology, best: &Route, from: usize, to: usize) -> Option<Route> {
    if best.from == Some(to) {
        return None;
    }
    if topology.is_external(from, to) {
        let own = std::iter::repeat_n(topology.asn(from).0, 1 + usize::from(topology.prepends(from, to)));
        let path: Vec<_> = own.chain(best.path.iter().copied()).collect();
        let loops = path.contains(&topology.asn(to).0);
        let route = Route {
            path,
            from: Some(from),
            external: true,
            hop: from,
            originator: from,
            clusters: Vec::new(),
        };
        return (!loops).then_some(route);
    }
    let told = Route { from: Some(from), external: false, ..best.clone() };
    match best.from {
        Some(source) if !best.external => {
            let reflects = topology.is_client(from, source) || topology.is_client(from, to);
            let clusters: Vec<_> = [from].into_iter().chain(best.clusters.iter().copied()).collect();
            let loops = best.originator == to || clusters.contains(&to);
            (reflects && !loops).then_some(Route { clusters, ..told })
        }
        Some(_) => Some(Route { originator: from, clusters: Vec::new(), ..told }),
        None => Some(told),
    }
}

/// The best, and all that share its load.
fn decided(heard: &[Route]) -> Option<(&Route, Vec<&Route>)> {
    let shortest = heard.iter().map(|route| route.path.len()).min()?;
    let mut left: Vec<_> = heard.iter().filter(|route| route.path.len() == shortest).collect();
    if left.iter().any(|route| route.external) {
        left.retain(|route| route.external);
    }
    let best = left.iter().min_by_key(|route| (route.originator, route.clusters.len(), route.from))?;
    Some((best, left.clone()))
}

#[cfg(test)]
mod tests {
    use manx_bgp::types::Family;

    use super::*;

    fn table(nodes: usize, edges: &[(usize, usize)]) -> Vec<Table> {
        let mut networks = vec![BTreeSet::new(); nodes];
        networks[0].insert("10.1.0.0/24".parse().unwrap());
        tables(&Topology::plain(nodes, edges), &networks, |_| 0)
    }

    #[test]
    fn a_line_and_a_square_are_known() {
        let prefix = "10.1.0.0/24".parse().unwrap();
        let line = table(3, &[(0, 1), (1, 2)]);
        assert!(line[0].is_empty());
        assert_eq!(line[2][&prefix], ("65002 65001".to_owned(), vec![address(1, Family::Ipv4)]));
        let square = table(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        let hops = vec![address(1, Family::Ipv4), address(2, Family::Ipv4)];
        assert_eq!(square[3][&prefix], ("65002 65001".to_owned(), hops));
    }
}

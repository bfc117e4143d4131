//! Who of the nodes reflects routes where the mesh is `Auto` (RFC 4456).
//!
//! Every agent computes it from the Nodes alone, so all come to the same without asking each other. A node that reflects
//! says so on its Node; who does is elected again before others, so a node that joins moves nothing.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use manx_bgp::types::{Asn, Family};

use crate::model::{BgpConfig, Mesh, Node};

/// What the nodes of one AS are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elected {
    /// All peer with each other.
    Mesh,
    /// All peer with these, which reflect: by name.
    Reflectors(BTreeSet<String>),
}

/// With whom of its AS a node peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By name; none: with all.
    pub with: Option<BTreeSet<String>>,
    /// Whether it reflects routes between them.
    pub reflecting: bool,
}

impl Topology {
    /// Whether it peers with this node.
    pub fn has(&self, name: &str) -> bool {
        self.with.as_ref().is_none_or(|with| with.contains(name))
    }
}

/// What is to be done in the AS of `me`. None where the mesh is not `Auto`, or there is no such node.
pub fn elect<N: Borrow<Node>>(me: &str, nodes: &BTreeMap<String, N>, bgp: &BgpConfig) -> Option<Elected> {
    let Mesh::Auto { limit, reflectors } = bgp.mesh else { return None };
    let asn = of(nodes.get(me)?.borrow(), bgp);
    let members: Vec<(&String, &Node)> = nodes
        .iter()
        .map(|(name, node)| (name, node.borrow()))
        .filter(|(_, node)| {
            of(node, bgp) == asn && Family::ALL.iter().any(|family| node.address(*family).is_some())
        })
        .collect();
    // Once there are reflectors they stay until there are a fifth fewer nodes: a cluster that breathes at its limit
    // does not move with each breath.
    let already = members.iter().any(|(_, node)| node.reflecting);
    let limit = if already { limit - limit / 5 } else { limit };
    if members.len() <= limit {
        return Some(Elected::Mesh);
    }
    let dependable: Vec<_> = members.iter().copied().filter(|(_, node)| node.dependable).collect();
    let mut candidates = if dependable.is_empty() { members } else { dependable };
    // Both families first: who has one alone cannot be reached by nodes that have only the other.
    candidates.sort_by_key(|(name, node)| {
        let families = Family::ALL.iter().filter(|family| node.address(**family).is_some()).count();
        (std::cmp::Reverse((families, node.reflecting)), weight(name))
    });
    let (mut zones, mut elected) = (BTreeMap::<&str, usize>::new(), BTreeSet::new());
    while elected.len() < reflectors && !candidates.is_empty() {
        let used = |node: &Node| zones.get(node.zone.as_str()).copied().unwrap_or_default();
        let fewest = (0..candidates.len()).min_by_key(|index| used(candidates[*index].1)).unwrap_or_default();
        let (name, node) = candidates.remove(fewest);
        *zones.entry(&node.zone).or_default() += 1;
        elected.insert(name.clone());
    }
    Some(Elected::Reflectors(elected))
}

fn of(node: &Node, bgp: &BgpConfig) -> Asn {
    node.asn.unwrap_or(bgp.asn)
}

/// Spreads the names evenly (FNV-1a, finished as SplitMix64 does it): neighbours in a rack have names alike.
fn weight(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(count: u8) -> BTreeMap<String, Node> {
        let node = |number: u8| {
            let node = Node {
                ipv4: Some([192, 0, 2, number].into()),
                zone: format!("zone{}", number % 3),
                dependable: true,
                ..Node::default()
            };
            (format!("node{number}"), node)
        };
        (1..=count).map(node).collect()
    }

    fn bgp(limit: usize, reflectors: usize) -> BgpConfig {
        BgpConfig { mesh: Mesh::Auto { limit, reflectors }, ..BgpConfig::default() }
    }

    /// As every node sees it.
    fn reflectors(nodes: &BTreeMap<String, Node>) -> BTreeSet<String> {
        let mut elected = nodes.keys().filter_map(|me| elect(me, nodes, &bgp(10, 3)));
        let first = elected.next().unwrap();
        assert!(elected.all(|other| other == first), "all agree");
        match first {
            Elected::Reflectors(names) => names,
            Elected::Mesh => panic!("there are none"),
        }
    }

    #[test]
    fn up_to_the_limit_all_peer_with_each_other() {
        assert_eq!(elect("node1", &cluster(10), &bgp(10, 3)), Some(Elected::Mesh));
        assert!(matches!(elect("node1", &cluster(11), &bgp(10, 3)), Some(Elected::Reflectors(_))));
        assert_eq!(elect("other", &cluster(11), &bgp(10, 3)), None);
        assert_eq!(elect("node1", &cluster(11), &BgpConfig { mesh: Mesh::Full, ..bgp(10, 3) }), None);
    }

    #[test]
    fn reflectors_are_spread_over_the_zones() {
        let nodes = cluster(30);
        let zones: BTreeSet<&str> = reflectors(&nodes).iter().map(|name| nodes[name].zone.as_str()).collect();
        assert_eq!(zones.len(), 3);
    }

    #[test]
    fn who_reflects_stays_while_nodes_join_and_is_replaced_alone_when_it_fails() {
        let mut nodes = cluster(20);
        let first = reflectors(&nodes);
        first.iter().for_each(|name| nodes.get_mut(name).unwrap().reflecting = true);
        nodes.extend(cluster(60));
        first.iter().for_each(|name| nodes.get_mut(name).unwrap().reflecting = true);
        assert_eq!(reflectors(&nodes), first);
        let failed = first.first().unwrap();
        nodes.get_mut(failed).unwrap().dependable = false;
        let next = reflectors(&nodes);
        assert_eq!((next.len(), next.intersection(&first).count()), (3, 2));
        assert!(!next.contains(failed));
    }

    #[test]
    fn a_cluster_at_its_limit_does_not_move_to_and_fro() {
        let mut nodes = cluster(11);
        let elected = reflectors(&nodes);
        elected.iter().for_each(|name| nodes.get_mut(name).unwrap().reflecting = true);
        let names: Vec<String> = nodes.keys().filter(|name| !elected.contains(*name)).cloned().collect();
        nodes.remove(&names[0]);
        nodes.remove(&names[1]);
        assert_eq!(reflectors(&nodes), elected, "nine nodes, and the limit is ten");
        nodes.remove(&names[2]);
        assert_eq!(elect(&names[3], &nodes, &bgp(10, 3)), Some(Elected::Mesh));
    }

    #[test]
    fn nodes_of_several_ases_elect_each_their_own() {
        let mut nodes = cluster(30);
        nodes.values_mut().take(15).for_each(|node| node.asn = Some(Asn(65101)));
        let (of_one, of_other): (Vec<&String>, Vec<&String>) =
            nodes.keys().partition(|name| nodes[*name].asn.is_some());
        for (me, others) in [(of_one[0], &of_other), (of_other[0], &of_one)] {
            let Some(Elected::Reflectors(elected)) = elect(me, &nodes, &bgp(10, 3)) else { panic!("none") };
            assert!(others.iter().all(|name| !elected.contains(*name)));
        }
    }
}

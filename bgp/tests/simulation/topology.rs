//! Which speakers there are, in which ASes, who speaks with whom, and what they refuse and prepend.
//!
//! No rule prefers a longer AS path: then there is one stable outcome, and it can be worked out from scratch.

use std::collections::{BTreeMap, BTreeSet};

use manx_bgp::types::Asn;

use crate::Random;

/// Prefixes are in pools: one of each node, and the last everyone's.
pub struct Topology {
    /// Pairs of nodes with a session, the smaller first.
    pub edges: BTreeSet<(usize, usize)>,
    /// The AS of each node.
    asns: Vec<Asn>,
    /// Those who reflect between the others of their AS (RFC 4456).
    reflectors: BTreeSet<usize>,
    /// The pool a node refuses from a neighbour.
    refused: BTreeMap<(usize, usize), usize>,
    /// How often a node prepends its AS towards a neighbour of another, beyond the once.
    prepended: BTreeMap<(usize, usize), u8>,
}

pub fn edge(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Topology {
    /// One AS of two.
    pub fn two() -> Self {
        Self { asns: vec![Asn(65001); 2], ..Self::plain(2, &[(0, 1)]) }
    }

    /// All external, nothing refused or prepended.
    pub fn plain(nodes: usize, edges: &[(usize, usize)]) -> Self {
        Self {
            edges: edges.iter().copied().collect(),
            asns: (0..nodes).map(|node| Asn(65001 + node as u32)).collect(),
            reflectors: BTreeSet::new(),
            refused: BTreeMap::new(),
            prepended: BTreeMap::new(),
        }
    }

    pub fn random(random: &mut Random) -> Self {
        let count = 2 + random.below(7);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let alone = random.one_in(3);
        for node in 0..count {
            if groups.is_empty() || alone || random.one_in(3) {
                groups.push(vec![node]);
            } else {
                let group = random.below(groups.len());
                groups[group].push(node);
            }
        }
        let mut asns = vec![Asn(0); count];
        let (mut edges, mut reflectors) = (BTreeSet::new(), BTreeSet::new());
        for (number, group) in groups.iter().enumerate() {
            group.iter().for_each(|node| asns[*node] = Asn(65001 + number as u32));
            // Any of them: not always the lowest identifier.
            let few = if group.len() < 3 || random.one_in(2) { 0 } else { 1 + random.below(2) };
            let first = random.below(group.len());
            let chosen: BTreeSet<_> = (0..few).map(|n| group[(first + n) % group.len()]).collect();
            for (n, a) in group.iter().enumerate() {
                for b in &group[..n] {
                    if chosen.is_empty() || chosen.contains(a) || chosen.contains(b) {
                        edges.insert(edge(*a, *b));
                    }
                }
            }
            reflectors.extend(chosen);
            if number > 0 {
                let other = &groups[random.below(number)];
                edges.insert(edge(group[random.below(group.len())], other[random.below(other.len())]));
            }
        }
        for _ in 0..random.below(2 * count) {
            let (a, b) = (random.below(count), random.below(count));
            if asns[a] != asns[b] {
                edges.insert(edge(a, b));
            }
        }
        let both: Vec<_> = edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        let refused = both.iter().filter(|_| random.one_in(8)).copied().collect::<Vec<_>>();
        let refused = refused.into_iter().map(|pair| (pair, random.below(count + 1))).collect();
        let prepended = both.into_iter().filter(|_| random.one_in(6)).collect::<Vec<_>>();
        let prepended = prepended.into_iter().map(|pair| (pair, 1 + random.below(2) as u8)).collect();
        Self { edges, asns, reflectors, refused, prepended }
    }

    pub fn nodes(&self) -> usize {
        self.asns.len()
    }

    pub fn asn(&self, node: usize) -> Asn {
        self.asns[node]
    }

    pub fn is_external(&self, a: usize, b: usize) -> bool {
        self.asns[a] != self.asns[b]
    }

    /// Whether `other` is a client of `node`'s: reflectors are no clients of each other.
    pub fn is_client(&self, node: usize, other: usize) -> bool {
        !self.is_external(node, other) && self.reflectors.contains(&node) && !self.reflectors.contains(&other)
    }

    pub fn refuses(&self, node: usize, from: usize) -> Option<usize> {
        self.refused.get(&(node, from)).copied()
    }

    /// Inside an AS nothing is.
    pub fn prepends(&self, node: usize, to: usize) -> u8 {
        let external = self.is_external(node, to);
        self.prepended.get(&(node, to)).copied().filter(|_| external).unwrap_or_default()
    }

    /// Each edge in both directions.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        self.edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect()
    }
}

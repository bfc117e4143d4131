//! What pods send out of the cluster, from the node's address: IPPools with `natOutgoing`.
//!
//! ```text
//!   table inet manx-nat
//!     postrouting ── to a node ─────────────────▶ as it is
//!                 ── to an address of any pool ─▶ as it is        pods keep their addresses among themselves
//!                 ── to one of the pool's natExclusions ▶ as it is
//!                 ── from a pool with natOutgoing ──────▶ the address of the interface it leaves by
//! ```
//!
//! A connection is translated by its first packet, so a change is for those that begin after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_bgp::types::Family;

use crate::acl::nft::{
    BaseChain, Chain, ChainType, CmpOp, Element, Field, Hook, Key, Rule, Set, Statement, Table, Type, Verdict,
};

/// Of the family `inet`; ours, whole.
pub const TABLE: &str = "manx-nat";

/// Where kube-proxy's own come too: `NF_IP_PRI_NAT_SRC`.
const PRIORITY: i32 = 100;

/// Which packets are translated; none unless a pool says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Ranges of pools that say `natOutgoing`, with what each excludes.
    pub outgoing: BTreeMap<IpNetwork, BTreeSet<IpNetwork>>,
    /// Ranges of all pools.
    pub pools: BTreeSet<IpNetwork>,
    /// Addresses of all nodes.
    pub nodes: BTreeSet<IpAddr>,
}

impl Nat {
    /// The table that does it; none: nothing is to be translated.
    pub fn table(&self) -> Option<Table> {
        if self.outgoing.is_empty() {
            return None;
        }
        let mut table = Table { name: TABLE.to_owned(), ..Table::default() };
        let mut rules = Vec::new();
        let accept = || Statement::Verdict(Verdict::Accept);
        for family in Family::ALL {
            let (name, kind) = match family {
                Family::Ipv4 => ("nodes4", Type::Ipv4Addr),
                Family::Ipv6 => ("nodes6", Type::Ipv6Addr),
            };
            let of_family = self.nodes.iter().filter(|node| Family::of(**node) == family);
            let elements = of_family.map(|node| Element::new(key(*node)));
            table.sets.insert(name.to_owned(), (Set::of([kind]), elements.collect()));
            let fields = vec![Field::Daddr(family)];
            let to_a_node = Statement::Lookup { fields, set: name.to_owned(), inverted: false };
            rules.push(Rule::new([to_a_node, accept()]).comment("to a node"));
        }
        for pool in &self.pools {
            rules.push(Rule::new([to(*pool), accept()]).comment("to an address of a pool"));
        }
        for (pool, excluded) in &self.outgoing {
            let excluded = excluded.iter().filter(|range| range.is_ipv4() == pool.is_ipv4());
            rules.extend(
                excluded.map(|range| {
                    Rule::new([from(*pool), to(*range), accept()]).comment("excluded by its pool")
                }),
            );
            rules.push(
                Rule::new([from(*pool), Statement::Counter, Statement::Masquerade])
                    .comment("out of the cluster"),
            );
        }
        let base = BaseChain { kind: ChainType::Nat, hook: Hook::Postrouting, priority: PRIORITY };
        table.chains.insert("postrouting".to_owned(), Chain { base: Some(base), rules });
        Some(table)
    }
}

fn from(network: IpNetwork) -> Statement {
    Statement::Network { field: Field::Saddr(Family::of(network.ip())), op: CmpOp::Eq, network }
}

fn to(network: IpNetwork) -> Statement {
    Statement::Network { field: Field::Daddr(Family::of(network.ip())), op: CmpOp::Eq, network }
}

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => address.octets().into_iter().collect(),
        IpAddr::V6(address) => address.octets().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::nft::Text;

    #[test]
    fn nothing_is_translated_unless_a_pool_says_so() {
        let nat = Nat { pools: ["10.244.0.0/16".parse().unwrap()].into(), ..Nat::default() };
        assert_eq!(nat.table(), None);
    }

    #[test]
    fn what_stays_in_the_cluster_comes_before_what_leaves_it() {
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let nat = Nat {
            outgoing: [(net("10.244.0.0/16"), [net("192.0.2.0/24"), net("2001:db8::/32")].into())].into(),
            pools: [net("10.244.0.0/16"), net("fd00:10:244::/48")].into(),
            nodes: ["172.16.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
        };
        let table = nat.table().unwrap();
        let text = Text { table: &table, counters: None, elements: true }.to_string();
        let order = [
            "elements = { 172.16.0.1 }",
            "elements = { fd00::1 }",
            "hook postrouting priority",
            "ip daddr @nodes4 accept",
            "ip6 daddr @nodes6 accept",
            "ip daddr 10.244.0.0/16 accept",
            "ip6 daddr fd00:10:244::/48 accept",
            "ip saddr 10.244.0.0/16 ip daddr 192.0.2.0/24 accept",
            "ip saddr 10.244.0.0/16 counter masquerade fully-random",
        ];
        let places: Vec<Option<usize>> = order.iter().map(|line| text.find(line)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {text}");
        assert!(!text.contains("2001:db8"), "of the other family\n{text}");
    }
}

//! Packets to service addresses that no Service takes.
//!
//! kube-proxy gives a packet another destination before it is forwarded, or takes it in. One that is forwarded and
//! still has a service address as its destination is nobody's: by a default route it would go back to the router that
//! sent it here, which has a route for the whole range, and to and fro until its TTL is used up.
//!
//! A rule of the forward hook and no blackhole route: what the node itself sends to a service address is routed first and
//! given its destination then, and a route that refuses it would cut the node off from Services.
//!
//! ```text
//!   table inet manx-services { chain forward { type filter hook forward priority 10; ip daddr 192.0.2.0/24 drop } }
//! ```

use ipnetwork::IpNetwork;
use manx_bgp::types::Prefix;

use super::nft::{BaseChain, Chain, ChainType, CmpOp, Field, Hook, Reject, Rule, Statement, Table, Verdict};
use crate::graph::Guard;
use crate::model::service::Unassigned;

/// The name of the table; it is ours, whole.
pub const TABLE: &str = "manx-services";

/// Behind others' filters: what they refuse in words of their own is refused in these.
const PRIORITY: i32 = 10;

/// The table that does it; none is needed where there is nothing to hold up.
pub fn compile(guard: &Guard) -> Option<Table> {
    let end = match guard.unassigned {
        Unassigned::Drop => Statement::Verdict(Verdict::Drop),
        Unassigned::Reject => Statement::Reject(Reject::AdminProhibited),
        Unassigned::Forward => return None,
    };
    if guard.ranges.is_empty() {
        return None;
    }
    let rule = |range: &Prefix| {
        let network = IpNetwork::from(*range);
        let to = Statement::Network { field: Field::Daddr(range.family()), op: CmpOp::Eq, network };
        Rule::new([to, Statement::Counter, end.clone()])
    };
    let base = BaseChain { kind: ChainType::Filter, hook: Hook::Forward, priority: PRIORITY };
    let chain = Chain { base: Some(base), rules: guard.ranges.iter().map(rule).collect() };
    Some(Table { name: TABLE.to_owned(), chains: [("forward".to_owned(), chain)].into(), ..Table::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(unassigned: Unassigned) -> Guard {
        Guard {
            unassigned,
            ranges: ["10.96.0.0/12", "fd00:96::/108"].map(|text| text.parse().unwrap()).into(),
        }
    }

    fn rules(unassigned: Unassigned) -> Vec<String> {
        let table = compile(&guard(unassigned)).unwrap();
        let rules = table.chains["forward"].rules.iter();
        let text =
            |rule: &Rule| rule.statements.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        rules.map(text).collect()
    }

    #[test]
    fn what_nobody_takes_is_dropped_or_refused_or_goes_on() {
        assert_eq!(
            rules(Unassigned::Drop),
            ["ip daddr 10.96.0.0/12 counter drop", "ip6 daddr fd00:96::/108 counter drop"]
        );
        assert!(rules(Unassigned::Reject)[0].ends_with("reject with icmpx admin-prohibited"));
        assert_eq!(compile(&guard(Unassigned::Forward)), None);
        assert_eq!(compile(&Guard::default()), None, "a cluster without such ranges has no such table");
    }
}

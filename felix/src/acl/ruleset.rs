//! What this node enforces, in terms of no particular kernel facility: the graph's output, the drivers' input.
//!
//! ```text
//!   Ruleset ─ endpoints ─▶ Endpoint ─ ingress, egress ─▶ Chain: policies in order, by tier
//!           ├ policies ──▶ Policy: rules in order, shared by all endpoints that name it
//!           └ sets ──────▶ Set: addresses, networks or named ports, shared by all rules that name it
//! ```
//!
//! # What becomes of a packet
//!
//! A packet is judged when it opens a connection. These pass before any chain is looked at, in both directions:
//!
//! 1. what belongs to a connection that was let through (conntrack: established), and what is related to one (ICMP
//!    errors, also of the other family's translator);
//! 2. neighbour discovery: ICMPv6 types 133–137 (RFC 4861);
//! 3. what this node itself sends to an endpoint: the kubelet's probes, and pods with `hostNetwork`, which are the node;
//! 4. what an endpoint sends to an address of its own (it comes back from a Service).
//!
//! Before that, what an endpoint sends from an address it does not hold is dropped ([`Endpoint::spoofing`]), and so is
//! all that comes from or goes to an interface of ours ([`manx_cni::protocol::HOST_IFNAME_PREFIX`]) that is no
//! endpoint of the ruleset.
//!
//! What an endpoint sends passes its egress [`Chain`]; what is sent to an endpoint passes its ingress chain, with the
//! addresses after DNAT and before SNAT. Between two endpoints of one node both are passed, egress first. A chain is
//! walked in this order:
//!
//! 1. [`Chain::admin`], policy after policy, rule after rule. The first [`Rule`] that matches decides:
//!    [`Action::Accept`] ends this chain, [`Action::Deny`] drops, [`Action::Pass`] goes to 2.
//! 2. [`Chain::network`], where there is one: any rule that matches ends the chain in favour of the packet (all of them
//!    are Accept); if none does, [`Network::otherwise`] decides. Skipped by what an endpoint sends to an address of its
//!    own node: NetworkPolicy says nothing on that.
//! 3. [`Chain::baseline`], as 1; Pass goes to 4.
//! 4. The packet passes.
//!
//! Where something is in [`Mode::Audit`], a packet it would drop is counted and reported as such, and goes on as though
//! the rule had not matched (1, 3) or there were no [`Network`] (2).

mod delta;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Family;
use serde::{Deserialize, Serialize};

pub use self::delta::{Delta, SetChange};

/// All that is enforced on this node.
///
/// References hold: every policy a chain names is in `policies`, every set a rule names is in `sets`. Nothing is in it
/// that no endpoint leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Addresses of this node itself.
    pub node: BTreeSet<IpAddr>,
    /// By the name of the host's end of the veth.
    pub endpoints: BTreeMap<Ifname, Arc<Endpoint>>,
    /// One direction of each policy that selects an endpoint.
    pub policies: BTreeMap<PolicyId, Arc<Policy>>,
    /// Each once, however many rules name it.
    pub sets: BTreeMap<SetId, Set>,
}

/// The name of an interface: at most 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ifname(pub Arc<str>);

/// Whether packets come to an endpoint or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// To the endpoint: the peer is the packet's source.
    Ingress,
    /// From the endpoint: the peer is the packet's destination.
    Egress,
}

/// A pod of this node, as far as packets are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `namespace/name`, for people.
    pub pod: Arc<str>,
    /// What it holds, of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// What to do with a source address that is none of these.
    pub spoofing: Spoofing,
    /// What is sent to it. Endpoints with the same policies share one.
    pub ingress: Arc<Chain>,
    /// What it sends.
    pub egress: Arc<Chain>,
}

/// Source addresses an endpoint may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spoofing {
    /// Its own alone, and IPv6 link-local ones (fe80::/10) and `::` for neighbour discovery (points 2 and 4 of what
    /// passes are looked at after this). The rest is dropped.
    #[default]
    Denied,
    /// All: the pod is a router of its own, or answers for a virtual address.
    Allowed,
}

/// What one direction of an endpoint is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// ClusterNetworkPolicies of the Admin tier, in order of priority.
    pub admin: Vec<PolicyId>,
    /// NetworkPolicies; none: none selects the pod for this direction, which leaves it open.
    pub network: Option<Network>,
    /// ClusterNetworkPolicies of the Baseline tier, in order of priority.
    pub baseline: Vec<PolicyId>,
}

impl Chain {
    /// Every policy it names, in the order they are looked at.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyId> {
        let network = self.network.iter().flat_map(|network| &network.policies);
        self.admin.iter().chain(network).chain(&self.baseline)
    }
}

/// The NetworkPolicies that isolate an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// In order of name, which means nothing: what any of them accepts passes. Empty where an endpoint is kept closed
    /// because what the cluster says of its pod is not known yet.
    pub policies: Vec<PolicyId>,
    /// What becomes of the rest: Audit if all of these policies are.
    pub otherwise: Mode,
}

/// Whether a denial is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Dropped.
    #[default]
    Enforce,
    /// Counted and reported as what would be dropped, and not dropped.
    Audit,
}

/// One direction of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyId {
    /// The kind, and whether its order means something.
    pub tier: Tier,
    /// Of the object: `namespace/name` of a NetworkPolicy, `name` of a ClusterNetworkPolicy. At most 317 bytes.
    pub name: Arc<str>,
    /// Which of its two lists of rules.
    pub direction: Direction,
}

/// Where a policy stands in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tier {
    /// A ClusterNetworkPolicy before all NetworkPolicies.
    Admin,
    /// A NetworkPolicy.
    Network,
    /// A ClusterNetworkPolicy after all NetworkPolicies.
    Baseline,
}

/// What one direction of a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether its denials are. In the Network tier [`Network::otherwise`] has already taken this into account.
    pub mode: Mode,
    /// In order; empty: nothing matches.
    pub rules: Vec<Rule>,
}

/// Peer and ports must both match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What then.
    pub action: Action,
    /// The other end's address.
    pub peer: Peer,
    /// The packet's protocol and destination port.
    pub ports: Ports,
    /// The rule of the object this comes from: the index in `spec.ingress` or `spec.egress`. One rule of an object may
    /// have become several, next to each other and with one action.
    pub index: u16,
    /// What the object calls it; NetworkPolicy has no names.
    pub name: Option<Arc<str>>,
}

/// What a match leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// This direction lets the packet through.
    Accept,
    /// Dropped.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
}

/// Who is at the other end: source of what comes in, destination of what goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Anybody, in the cluster or not, of either family.
    Any,
    /// Whose address is in one of these sets of [`SetKind::Addresses`] or [`SetKind::Networks`]. A family of which
    /// there is no set does not match.
    In(Vec<SetId>),
}

/// Which packets, by what follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Any protocol, ICMP and those without ports too.
    Any,
    /// One of these; sorted, of one protocol neither overlapping nor adjacent; at least one.
    In(Vec<PortRange>),
    /// Destination address, protocol and destination port together are in one of these sets of [`SetKind::Ports`], at
    /// most one a family.
    Named(Vec<SetId>),
}

/// Destination ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// Which protocol.
    pub protocol: Protocol,
    /// The first; 0 with a `last` of 65535: any port.
    pub first: u16,
    /// The last, itself included; not before the first.
    pub last: u16,
}

impl PortRange {
    /// Every port of a protocol.
    pub const fn all(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// Whether the protocol alone decides.
    pub fn is_all(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }
}

/// What has ports, by its IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

/// A set's name: what it holds is in it, so that the same selector has the same name on every node and after every
/// restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    /// What its members are.
    pub kind: SetKind,
    /// Of which family they are, all of them.
    pub family: Family,
    /// SHA-256 of what is selected, cut to 128 bits: whoever may write policies cannot make two sets one.
    pub digest: u128,
}

/// What a set's members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Addresses of pods or nodes. May be large, and its members change.
    Addresses,
    /// Ranges of addresses, from CIDRs less their exceptions. Its digest is that of its content: it never changes.
    Networks,
    /// Address, protocol and port: a named port of each destination. Its members change.
    Ports,
}

/// A set and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it holds, for people: `pods app=web in namespaces team=shop`.
    pub of: Arc<str>,
    /// Of the kind and the family its id says.
    pub members: Members,
}

/// Members of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Of [`SetKind::Addresses`].
    Addresses(BTreeSet<IpAddr>),
    /// Of [`SetKind::Networks`]; no two overlap or are adjacent.
    Networks(BTreeSet<Range>),
    /// Of [`SetKind::Ports`].
    Ports(BTreeSet<Port>),
}

/// From the first address to the last, both included and of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Not after the last.
    pub first: IpAddr,
    /// May be the same.
    pub last: IpAddr,
}

/// A port of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Of the pod.
    pub address: IpAddr,
    /// Which protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}

impl Members {
    /// None, of a kind.
    pub fn empty(kind: SetKind) -> Self {
        match kind {
            SetKind::Addresses => Self::Addresses(BTreeSet::new()),
            SetKind::Networks => Self::Networks(BTreeSet::new()),
            SetKind::Ports => Self::Ports(BTreeSet::new()),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Addresses(members) => members.len(),
            Self::Networks(members) => members.len(),
            Self::Ports(members) => members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an address is among them; never of [`SetKind::Ports`].
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Addresses(members) => members.contains(&address),
            Self::Networks(members) => {
                // The range that begins last at or before the address; `last` is only of interest behind `first`.
                let upto = Range { first: address, last: IpAddr::from([u8::MAX; 16]) };
                members.range(..=upto).next_back().is_some_and(|range| range.contains(address))
            }
            Self::Ports(_) => false,
        }
    }

    /// Takes members in and puts others out; what is of another kind is not.
    fn change(&mut self, add: Self, remove: &Self) {
        fn step<T: Ord>(members: &mut BTreeSet<T>, add: BTreeSet<T>, remove: &BTreeSet<T>) {
            for member in remove {
                members.remove(member);
            }
            members.extend(add);
        }
        match (self, add, remove) {
            (Self::Addresses(members), Self::Addresses(add), Self::Addresses(remove)) => {
                step(members, add, remove);
            }
            (Self::Networks(members), Self::Networks(add), Self::Networks(remove)) => {
                step(members, add, remove);
            }
            (Self::Ports(members), Self::Ports(add), Self::Ports(remove)) => step(members, add, remove),
            (Self::Addresses(_) | Self::Networks(_) | Self::Ports(_), ..) => {
                debug_assert!(false, "a set's members are of one kind");
            }
        }
    }
}

impl Range {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> Range {
        Range { first: first.parse().unwrap(), last: last.parse().unwrap() }
    }

    #[test]
    fn an_address_is_in_the_range_it_lies_in() {
        let networks = Members::Networks(
            [range("10.0.0.0", "10.0.0.9"), range("10.0.0.20", "10.0.0.20"), range("fd00::1", "fd00::ff")]
                .into(),
        );
        for (address, inside) in [
            ("10.0.0.0", true),
            ("10.0.0.9", true),
            ("10.0.0.10", false),
            ("10.0.0.20", true),
            ("10.0.0.21", false),
            ("9.255.255.255", false),
            ("fd00::", false),
            ("fd00::1", true),
            ("fd00::ff", true),
            ("fd00::100", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    #[test]
    fn a_set_is_named_by_what_it_holds() {
        let id = SetId { kind: SetKind::Networks, family: Family::Ipv6, digest: 0xff };
        assert_eq!(id.to_string(), "networks6-000000000000000000000000000000ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for strange in ["", "networks6", "networks6-ff", "nothing4-000000000000000000000000000000ff"] {
            assert_eq!(strange.parse::<SetId>(), Err(()));
        }
    }
}

//! What becomes of a packet, by the rules of [`super::ruleset`]: for people who ask why, for connections that are to
//! end when a policy changes, and for tests.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ruleset::{
    Action, Chain, Direction, Endpoint, Ifname, Members, Mode, Peer, Policy, PolicyId, Port, Ports, Protocol,
    Rule, Ruleset, SetId, Spoofing,
};

/// The packet that opens a connection, as it is after DNAT and before SNAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Whence.
    pub source: IpAddr,
    /// Whither; of the same family.
    pub destination: IpAddr,
    /// What follows the IP header.
    pub transport: Transport,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// Something with ports, and the destination port: 1–65535.
    Port(Protocol, u16),
    /// Another IP protocol, by number.
    Other(u8),
}

/// What a chain says of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether it passes.
    pub passes: bool,
    /// What decided.
    pub by: Reason,
    /// What would have dropped it, were it not in audit mode; in the order they were met.
    pub audited: Vec<Reason>,
}

/// What decided on a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Reason {
    /// A rule.
    Rule {
        /// Of which policy.
        policy: PolicyId,
        /// Index in its `spec.ingress` or `spec.egress`.
        index: u16,
        /// What the policy calls it.
        name: Option<String>,
    },
    /// NetworkPolicies select the pod, and no rule of any of them matches.
    Isolated {
        /// All that do.
        policies: Vec<PolicyId>,
    },
    /// What the cluster says of the pod is not known yet.
    Unknown,
    /// No policy says anything.
    Default,
    /// It comes from the pod's own node.
    OwnNode,
    /// It goes from a pod to itself.
    Itself,
    /// Its source is not an address of the pod that sends it.
    Spoofed,
}

/// As a person would say it: `NetworkPolicy shop/web, spec.ingress[1]`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, index, name } => {
                write!(f, "{policy}, spec.{}[{index}]", policy.direction)?;
                name.as_ref().map_or(Ok(()), |name| write!(f, " \"{name}\""))
            }
            Self::Isolated { policies } => {
                f.write_str("no rule matches of what isolates it: ")?;
                for (index, policy) in policies.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{policy}")?;
                }
                Ok(())
            }
            Self::Unknown => f.write_str("what the cluster says of the pod is not known yet"),
            Self::Default => f.write_str("no policy says anything"),
            Self::OwnNode => f.write_str("it comes from the pod's own node"),
            Self::Itself => f.write_str("it goes from the pod to itself"),
            Self::Spoofed => f.write_str("its source is not an address of the pod"),
        }
    }
}

/// `10.244.1.5 → 10.244.2.7 TCP 80`.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} ", self.source, self.destination)?;
        match self.transport {
            Transport::Port(protocol, port) => write!(f, "{protocol} {port}"),
            Transport::Other(1 | 58) => f.write_str("ICMP"),
            Transport::Other(number) => write!(f, "IP protocol {number}"),
        }
    }
}

/// Who knows what sets hold.
pub trait Sets {
    /// Whether a set of addresses or networks holds an address.
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool;

    /// Whether a set of ports holds one.
    fn has_port(&self, set: &SetId, port: Port) -> bool;
}

impl Sets for Ruleset {
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool {
        self.sets.get(set).is_some_and(|set| set.members.contains(address))
    }

    fn has_port(&self, set: &SetId, port: Port) -> bool {
        match self.sets.get(set).map(|set| &set.members) {
            Some(Members::Ports(members)) => members.contains(&port),
            Some(Members::Addresses(_) | Members::Networks(_)) | None => false,
        }
    }
}

impl Flow {
    /// The other end, as an endpoint sees it.
    pub fn peer(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    /// Whether peer and ports both match.
    fn matches(&self, rule: &Rule, direction: Direction, sets: &impl Sets) -> bool {
        let peer = match &rule.peer {
            Peer::Any => true,
            Peer::In(ids) => {
                let peer = self.peer(direction);
                ids.iter().any(|id| id.is_of(peer) && sets.has_address(id, peer))
            }
        };
        peer && match (&rule.ports, self.transport) {
            (Ports::Any, _) => true,
            (Ports::In(ranges), Transport::Port(protocol, port)) => ranges
                .iter()
                .any(|range| range.protocol == protocol && range.first <= port && port <= range.last),
            (Ports::Named(ids), Transport::Port(protocol, port)) => {
                let port = Port { address: self.destination, protocol, port };
                ids.iter().any(|id| id.is_of(self.destination) && sets.has_port(id, port))
            }
            (Ports::In(_) | Ports::Named(_), Transport::Other(_)) => false,
        }
    }
}

impl SetId {
    /// Whether an address is of the set's family.
    pub fn is_of(&self, address: IpAddr) -> bool {
        self.family == manx_bgp::types::Family::of(address)
    }
}

/// Walks one chain. `policy` has every policy it names; `own_node`: the packet goes to the endpoint's own node.
pub fn judge<'a>(
    chain: &Chain,
    flow: &Flow,
    direction: Direction,
    own_node: bool,
    policy: impl Fn(&PolicyId) -> Option<&'a Policy>,
    sets: &impl Sets,
) -> Verdict {
    let mut audited = Vec::new();
    let decision = tier(&chain.admin, flow, direction, &policy, sets, &mut audited)
        .or_else(|| {
            let network = chain.network.as_ref().filter(|_| !own_node)?;
            tier(&network.policies, flow, direction, &policy, sets, &mut audited).or_else(|| {
                let reason = match network.policies.as_slice() {
                    [] => Reason::Unknown,
                    policies => Reason::Isolated { policies: policies.to_vec() },
                };
                match network.otherwise {
                    Mode::Enforce => Some((false, reason)),
                    Mode::Audit => {
                        audited.push(reason);
                        None
                    }
                }
            })
        })
        .or_else(|| tier(&chain.baseline, flow, direction, &policy, sets, &mut audited));
    let (passes, by) = decision.unwrap_or((true, Reason::Default));
    Verdict { passes, by, audited }
}

/// What the policies of one tier decide, if they do: Pass is no decision.
fn tier<'a>(
    ids: &[PolicyId],
    flow: &Flow,
    direction: Direction,
    policy: &impl Fn(&PolicyId) -> Option<&'a Policy>,
    sets: &impl Sets,
    audited: &mut Vec<Reason>,
) -> Option<(bool, Reason)> {
    for id in ids {
        let Some(policy) = policy(id) else { continue };
        for rule in policy.rules.iter().filter(|rule| flow.matches(rule, direction, sets)) {
            let name = rule.name.as_deref().map(str::to_owned);
            let reason = Reason::Rule { policy: id.clone(), index: rule.index, name };
            match (rule.action, policy.mode) {
                (Action::Accept, _) => return Some((true, reason)),
                (Action::Deny, Mode::Enforce) => return Some((false, reason)),
                (Action::Deny, Mode::Audit) => audited.push(reason),
                (Action::Pass, _) => return None,
            }
        }
    }
    None
}

impl Ruleset {
    /// The endpoint that holds an address.
    pub fn endpoint_of(&self, address: IpAddr) -> Option<(&Ifname, &Endpoint)> {
        let held = self.endpoints.iter().find(|(_, endpoint)| endpoint.addresses.contains(&address));
        held.map(|(ifname, endpoint)| (ifname, &**endpoint))
    }

    /// What this node says of a packet that an endpoint sends (`from`), or of one from elsewhere; of the sender's
    /// side, then of the receiver's, each where it is here.
    pub fn judge(&self, from: Option<&Ifname>, flow: &Flow) -> Vec<(Direction, Verdict)> {
        let mut verdicts = Vec::new();
        let policy = |id: &PolicyId| self.policies.get(id).map(|policy| &**policy);
        let certain = |passes, by| Verdict { passes, by, audited: Vec::new() };
        let sender = from.and_then(|ifname| self.endpoints.get(ifname));
        if let Some(sender) = sender {
            let own = sender.addresses.contains(&flow.source);
            let verdict = if !own && sender.spoofing == Spoofing::Denied {
                certain(false, Reason::Spoofed)
            } else if own && sender.addresses.contains(&flow.destination) {
                certain(true, Reason::Itself)
            } else {
                let own_node = self.node.contains(&flow.destination);
                judge(&sender.egress, flow, Direction::Egress, own_node, policy, self)
            };
            verdicts.push((Direction::Egress, verdict));
        }
        if let Some((_, receiver)) = self.endpoint_of(flow.destination) {
            let verdict = if sender.is_none() && self.node.contains(&flow.source) {
                certain(true, Reason::OwnNode)
            } else if receiver.addresses.contains(&flow.source) {
                certain(true, Reason::Itself)
            } else {
                judge(&receiver.ingress, flow, Direction::Ingress, false, policy, self)
            };
            verdicts.push((Direction::Ingress, verdict));
        }
        verdicts
    }
}

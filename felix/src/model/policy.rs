//! NetworkPolicy and ClusterNetworkPolicy in one shape: what both can say, with every default filled in.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::labels::Labels;
use crate::acl::ruleset::{Action, Mode, PortRange, Protocol, Range, Spoofing, Tier};
use crate::graph::Selector;

/// Which object: a kind and a name. The tier of a ClusterNetworkPolicy is its content, not its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// A NetworkPolicy by `namespace/name`.
    Network(Arc<str>),
    /// A ClusterNetworkPolicy.
    Cluster(Arc<str>),
}

impl PolicyName {
    /// `namespace/name`, or the name of what has no namespace.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Network(name) | Self::Cluster(name) => name,
        }
    }
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it stands.
    pub tier: Tier,
    /// Within the tier: smaller is first; 0–1000, and 0 of every NetworkPolicy.
    pub priority: i32,
    /// Whether its denials are.
    pub mode: Mode,
    /// The pods it is about.
    pub subject: PodSelector,
    /// What comes to them; none: it says nothing of that.
    pub ingress: Option<Vec<Rule>>,
    /// What they send; none: it says nothing of that.
    pub egress: Option<Vec<Rule>>,
    /// What in it is not done as written, and what is done instead.
    pub complaints: Vec<String>,
    /// Of the object, for Events.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`: of one kind, later changes have larger ones. None where it is no number.
    pub version: Option<u64>,
}

/// Pods by namespace and label. Pods with `hostNetwork` are never meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSelector {
    /// Where.
    pub namespaces: Namespaces,
    /// Which.
    pub pods: Selector,
}

/// Namespaces by name or label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// This one.
    Named(Arc<str>),
    /// Those with such labels.
    Labelled(Selector),
}

/// One rule: a peer and a port must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What then.
    pub action: Action,
    /// Who; none: anybody. An empty list matches nobody.
    pub peers: Option<Vec<Peer>>,
    /// What; none: anything. An empty list matches nothing.
    pub ports: Option<Vec<Port>>,
    /// What the object calls it.
    pub name: Option<Arc<str>>,
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods.
    Pods(PodSelector),
    /// Nodes, by all their addresses.
    Nodes(Selector),
    /// Addresses: sorted, neither overlapping nor adjacent.
    Networks(Vec<Range>),
}

/// One port of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// By number.
    Number(PortRange),
    /// By the name the destination pod gives it; none: of any protocol.
    Named(Arc<str>, Option<Protocol>),
}

/// A pod of the cluster that has the cluster's network and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it lives.
    pub namespace: Arc<str>,
    /// Where it runs; empty while that is not decided.
    pub node: Arc<str>,
    /// What selectors look at.
    pub labels: Labels,
    /// Of both families; empty until its node has said.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Ports of its containers that have a name.
    pub ports: Arc<[NamedPort]>,
    /// Whether it asks to send from addresses it does not hold.
    pub spoofing: Spoofing,
    /// When it was created, in seconds since 1970: of two that claim one address the later has it.
    pub created: i64,
    /// Tells it from an earlier pod of its name.
    pub uid: Arc<str>,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Of the port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// What selectors look at; `kubernetes.io/metadata.name` is always there.
    pub labels: Labels,
    /// Of all NetworkPolicies in it.
    pub mode: Mode,
    /// Whether pods in it that ask to may send from addresses they do not hold.
    pub spoofing: Spoofing,
}

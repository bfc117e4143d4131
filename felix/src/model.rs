//! The cluster's objects as the agent understands them: parsed once at the edge ([`crate::watch`]), only what is
//! needed of each.

mod bgp;
pub mod labels;
pub mod policy;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::labels::{Labelled, Labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use manx_bgp::types::{Asn, Family};
use manx_ipam::choice::Wishes;
use manx_ipam::cidr::{BlockCidr, Cidr};
use manx_ipam::claim::Claim;
use manx_ipam::crd::Allocation;

pub use bgp::{BgpConfig, Filter, FilterRule, Mesh, Neighbour, Peer, SecretKey, Source, TcpAo, Wanted};

/// Why an object cannot be put in force, in the terms of a Kubernetes condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Bad {
    /// CamelCase, for programs: `InvalidAddress`.
    pub reason: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Bad {
    /// From the two parts of a condition.
    pub fn new(reason: &'static str, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

/// One object of the API: who it is, what it says, and what has been said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<T> {
    /// `metadata.name`, or `namespace/name` of a namespaced kind.
    pub name: String,
    /// `metadata.uid`; kept where Events are told of the object.
    pub uid: String,
    /// `metadata.generation`; 0 where the kind has none.
    pub generation: i64,
    /// `status.conditions` as they are.
    pub conditions: Vec<Condition>,
    /// Its content, or why that cannot be used.
    pub spec: Result<T, Bad>,
}

/// A machine of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// For owner references.
    pub uid: String,
    /// What node selectors look at.
    pub labels: Labels,
    /// Its address for BGP: that of its annotation, or the first InternalIP of its family.
    pub ipv4: Option<Ipv4Addr>,
    /// The same of the other family.
    pub ipv6: Option<Ipv6Addr>,
    /// Its AS, where its annotation or label says one.
    pub asn: Option<Asn>,
    /// What its agent found to be its addresses, as that wrote it.
    pub found: Option<String>,
    /// What is wrong with its annotations, in words; they are as if they were not there.
    pub faults: Vec<String>,
    /// `topology.kubernetes.io/zone`; empty where it is in none.
    pub zone: String,
    /// Whether it can be counted on to reflect routes: Ready, and not cordoned.
    pub dependable: bool,
    /// Whether it says of itself that it reflects routes.
    pub reflecting: bool,
    /// Seconds between the announcement of its leave and the withdrawal of its routes, where it is cordoned and
    /// annotated with [`DRAIN`].
    pub drain: Option<u32>,
    /// What its condition [`IP_ADDRESSES_EXHAUSTED`] says, if it is there.
    pub exhausted: Option<bool>,
    /// All of them, internal and external.
    pub addresses: BTreeSet<IpAddr>,
    /// What its condition `Ready` says: its kubelet answers, and its pods can be reached.
    pub ready: bool,
}

/// Condition of a Node whose pods cannot have addresses, for the scheduler's operators: it taints nothing by itself.
pub const IP_ADDRESSES_EXHAUSTED: &str = "manx.io/IPAddressesExhausted";

/// Annotation of a Node that is drained by its agent for as long as it is cordoned: the seconds between the announcement
/// of its leave (RFC 8326) and the withdrawal of its routes; empty: 60.
pub const DRAIN: &str = "manx.io/drain";

/// Annotation of a Node: its addresses for BGP, `10.1.0.5,fd00::5`.
pub const ADDRESS: &str = "manx.io/address";

/// Annotation of a Node, by its agent: the addresses it found, where the BGPConfiguration says how; [`ADDRESS`] comes
/// before it.
pub const FOUND_ADDRESS: &str = "manx.io/found-address";

/// Annotation or label of a Node: its AS.
pub const AS_NUMBER: &str = "manx.io/as-number";

/// Condition of a Node that reflects routes because the cluster elected it.
pub const ROUTE_REFLECTOR: &str = "manx.io/RouteReflector";

/// Label of a Node that load balancers shall not use, whatever its value.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

impl Node {
    /// Whether it is to be kept out of the ways that lead to Services from outside.
    pub fn is_excluded(&self) -> bool {
        self.labels.label(EXCLUDED).is_some()
    }

    /// Its address of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ipv4 => self.ipv4.map(IpAddr::V4),
            Family::Ipv6 => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Tells it from an earlier pod of its name.
    pub uid: String,
    /// Which addresses its annotations ask for.
    pub wishes: Result<Wishes, Bad>,
    /// Whether it is on this node.
    pub here: bool,
    /// What policies look at; none where it has ended, or has the network of its node.
    pub policed: Option<policy::Pod>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// What namespace selectors look at.
    pub labels: BTreeMap<String, String>,
    /// Which addresses its annotations ask for, for its pods.
    pub wishes: Result<Wishes, Bad>,
    /// What policies look at.
    pub policed: policy::Namespace,
}

/// Ranges that are kept back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation(pub Vec<Cidr>);

/// A node asks for a part of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub node: String,
    /// Of which block.
    pub block: BlockCidr,
    /// Tells it from an earlier one of its name.
    pub uid: String,
    /// What the block's owner answered, if not with a part.
    pub refused: Option<String>,
}

/// A block and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Which, and whose.
    pub claim: Claim,
    /// Of the object.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Its status as it is: addresses held.
    pub used: i64,
    /// Its status as it is: addresses its owner could hand out; all of them while it has said nothing.
    pub free: i64,
    /// Its status as it is; kept of this node's blocks only.
    pub allocations: Vec<Allocation>,
    /// Its status as it is: UID of the Node as which addresses are handed out.
    pub node_uid: String,
}

//! Services and where their endpoints are, as far as their addresses go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::api::community::CommunityValue;
use manx_bgp::types::Prefix;
use manx_ipam::choice::Wishes;
use manx_ipam::cidr::Family;

use super::Bad;
use super::labels::Labels;
use crate::graph::Selector;

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Of the object.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// What the configuration's selector and pools' selectors look at.
    pub labels: Labels,
    /// `spec.clusterIPs`; none of a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`: addresses that packets are sent to as they are.
    pub ingress: Vec<IpAddr>,
    /// `spec.internalTrafficPolicy`: of its cluster addresses.
    pub internal: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: of its other addresses.
    pub external: TrafficPolicy,
    /// How its addresses are announced, or why its annotations do not say.
    pub marks: Result<Marks, Bad>,
    /// What it asks for where its type is LoadBalancer.
    pub balancer: Option<Box<Balancer>>,
}

/// Which endpoints a packet may be sent on to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any.
    #[default]
    Cluster,
    /// Those of the node it comes to.
    Local,
}

/// What is said of an announced address beside that it is here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// In order, each once.
    pub communities: Vec<CommunityValue>,
    /// The usual one unless set.
    pub local_pref: Option<u32>,
}

/// Which addresses a Service of type LoadBalancer wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    /// `spec.loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// One address of each of these: `spec.ipFamilies`.
    pub families: BTreeSet<Family>,
    /// Whether one of two families is better than none: `spec.ipFamilyPolicy` is `PreferDualStack`.
    pub partial: bool,
    /// Pools and addresses asked for.
    pub wishes: Result<Wishes, Bad>,
    /// Services with one key may have one address, if they differ in their ports.
    pub shared: Option<Arc<str>>,
    /// Protocol and port.
    pub ports: BTreeSet<(Arc<str>, u16)>,
    /// `spec.selector`.
    pub pods: Labels,
    /// When the object was made, in seconds of the epoch: of two that want one address the older has it.
    pub created: i64,
}

/// Some of a Service's endpoints: what of them counts for announcing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Of the Service, `namespace/name`.
    pub service: Arc<str>,
    /// Of the endpoints' addresses.
    pub family: Family,
    /// Those on this node.
    pub here: Endpoints,
    /// Those on any node.
    pub anywhere: Endpoints,
}

/// Whether there are endpoints of two kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Ready ones.
    pub ready: bool,
    /// Ones that are ending and still serve: of use where there are no ready ones.
    pub ending: bool,
}

impl Endpoints {
    /// These and those.
    pub fn and(self, other: Self) -> Self {
        Self { ready: self.ready || other.ready, ending: self.ending || other.ending }
    }
}

/// Which service addresses are announced, beside those of pools for Services, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAddresses {
    /// Services whose addresses are.
    pub selector: Selector,
    /// In order, each once.
    pub ranges: Vec<ServiceRange>,
    /// What becomes of packets to addresses no Service has.
    pub unassigned: Unassigned,
    /// Whether Services that name no class have addresses of us.
    pub classless: bool,
}

/// A range of service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRange {
    /// Which.
    pub prefix: Prefix,
    /// Whether it is announced whole.
    pub aggregate: bool,
}

/// What a node does with a packet to an address of a range of service addresses that no Service takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unassigned {
    /// Nothing more.
    #[default]
    Drop,
    /// It tells the sender (ICMP, administratively prohibited).
    Reject,
    /// It goes where routes lead.
    Forward,
}

//! Neighbours.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::AS_RANGE;
use super::session::{Bfd, GracefulRestart, MaxPrefixes, SecretKey, TcpAoKey, Timers};
use super::{AcceptedStatus, default_port};

/// With whom nodes speak BGP beside the mesh: a top-of-rack switch, whoever calls from a range, other nodes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "BGPPeer",
    doc = "With whom nodes speak BGP beside the mesh: a top-of-rack switch, whoever calls from a range, other nodes.",
    plural = "bgppeers",
    shortname = "peer",
    status = "AcceptedStatus",
    category = "manx",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"Interface","type":"string","jsonPath":".spec.interface"}"#,
    printcolumn = r#"{"name":"AS","type":"integer","jsonPath":".spec.asNumber"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","jsonPath":".status.conditions[?(@.type==\"Degraded\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.address) || has(self.interface) && !has(self.range), has(self.range), \
        has(self.peerSelector)].filter(x, x).size() == 1")
        .message("a BGPPeer has one of address (or interface), range and peerSelector"),
    validation = Rule::new("has(self.asNumber) == (has(self.address) || has(self.interface) && !has(self.range))")
        .message("asNumber goes with address or interface; a range has its own, nodes have theirs"),
    validation = Rule::new("!has(self.clusterId) || has(self.peerSelector)")
        .message("clusterId goes with peerSelector: it is what the selected reflectors are called"),
    validation = Rule::new("!has(self.password) || !has(self.tcpAo)").message("of password and tcpAo one can be set"),
    validation = Rule::new("!has(self.multihop) || !has(self.ttlSecurity)")
        .message("of multihop and ttlSecurity one can be set"),
    validation = Rule::new("!has(self.bilateral) || !self.bilateral || !has(self.peerSelector)")
        .message("bilateral is for neighbours of other ASes, not for nodes"),
    validation = Rule::new("!has(self.holdTimeSeconds) || !has(self.sendHoldTimeSeconds) || \
        self.sendHoldTimeSeconds > self.holdTimeSeconds")
        .message("sendHoldTimeSeconds is more than holdTimeSeconds"),
    validation = Rule::new("has(self.interface) || !has(self.address) || !isIP(self.address) || \
        !ip(self.address).isLinkLocalUnicast()")
        .message("a link-local address needs interface: it is another neighbour on each link"),
    validation = Rule::new("!has(self.multihop) || self.multihop < 2 || has(self.range) || !has(self.interface) || \
        has(self.address) && isIP(self.address) && !ip(self.address).isLinkLocalUnicast()")
        .message("a link-local neighbour is one hop away: leave multihop out"),
    validation = Rule::new("!has(self.range) || self.port == 179").message("port is not for a range, whose neighbours call"),
    validation = Rule::new("!has(self.localAsNumber) || !has(self.asNumber) || self.localAsNumber != self.asNumber")
        .message("localAsNumber is the neighbour's own AS: leave it out for a session inside one AS"),
    validation = Rule::new("!has(self.keepaliveSeconds) || !has(self.holdTimeSeconds) || \
        self.holdTimeSeconds / 3 >= self.keepaliveSeconds && (self.keepaliveSeconds > 0 || self.holdTimeSeconds == 0)")
        .message("keepaliveSeconds is 1 to a third of holdTimeSeconds; 0 goes with 0")
)]
pub struct BGPPeerSpec {
    /// Nodes that peer with it; all of them unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// The neighbour's address. A link-local one needs `interface`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isIP(self)").message("address must be an IP address, as 10.10.0.251 or fd00::251"))]
    #[schemars(length(max = 45))]
    pub address: Option<String>,
    /// The interface the session runs over, and no other. Without an address the neighbour is who is found there
    /// (unnumbered: its link-local address, by router advertisements).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Neighbours known by where they call from; nodes wait for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PeerRange>,
    /// Other nodes of the cluster: those selected by `nodeSelector` and these peer with each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<LabelSelector>,
    /// With `peerSelector`: the nodes it selects reflect routes between those of `nodeSelector` (RFC 4456), and call
    /// themselves so, in the form of an IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isIP(self) && !self.contains(':')").message("clusterId is written as an IPv4 address"))]
    #[schemars(length(max = 15))]
    pub cluster_id: Option<String>,
    /// The neighbour's AS number, 1–4294967295; equal to the node's own makes it iBGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub as_number: Option<u32>,
    /// The AS nodes say to be to it, in place of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub local_as_number: Option<u32>,
    /// The neighbour's TCP port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// When it is called, and when it is given up.
    #[serde(flatten)]
    pub timers: Timers,
    /// That of the BGPConfiguration unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// Watches the way to it; not unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Password (TCP MD5, RFC 2385), in a Secret of Manx's namespace; none unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKey>,
    /// Keys of TCP-AO (RFC 5925), in place of a password: every segment carries a code made with one of them, at first
    /// with the first. Nodes whose kernel has none (before 6.7) open no session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tcp_ao: Vec<TcpAoKey>,
    /// Take only what comes from at most so many hops away, 1–254 (GTSM, RFC 5082); the neighbour has to send with a TTL
    /// of 255.
    /// Unless set, that is so with one in another AS without multihop, once it has called with a TTL of 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security: Option<u8>,
    /// The neighbour is so many hops away, 1–255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub multihop: Option<u8>,
    /// Wait for it to call.
    #[serde(default)]
    pub passive: bool,
    /// With which address nodes call it, and are next hop: `Node`, their own, or `Interface`, that of the interface the
    /// kernel's route leads over: then each router of a node with several links hears of the one between them.
    #[serde(default)]
    pub source: SourceAddress,
    /// What it is told as next hop of learned routes.
    #[serde(default)]
    pub next_hop: NextHop,
    /// How many times our AS may be in AS paths it tells: 0–255.
    #[serde(default)]
    pub allow_own_as: u8,
    /// Take a default route from it.
    #[serde(default)]
    pub accept_default_route: bool,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950). Always offered to neighbours with `interface` alone.
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Several paths to one destination (RFC 7911).
    #[serde(default)]
    pub add_paths: AddPaths,
    /// Nodes reflect routes to it and from it (RFC 4456). For neighbours of the nodes' own AS.
    #[serde(default)]
    pub route_reflector_client: bool,
    /// It is a mere peer, to whom neither side pays: it is not told learned routes with the community NOPEER (RFC 3765).
    /// For neighbours of other ASes.
    #[serde(default)]
    pub bilateral: bool,
    /// How many prefixes it may give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// BGPFilters, by name; their rules are looked at in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub filters: Vec<String>,
}

/// Neighbours known by where they call from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerRange {
    /// Where they call from.
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr must be a range, as 10.244.0.0/16"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// The ASes they may claim: `65001`, `65100-65199`.
    #[schemars(length(min = 1, max = 64), inner(length(max = 21), regex(pattern = AS_RANGE)))]
    pub as_numbers: Vec<String>,
    /// How many may have a session with a node at one time.
    #[serde(default = "default_range_limit")]
    #[schemars(range(min = 1, max = 100000))]
    pub limit: u32,
}

fn default_range_limit() -> u32 {
    100
}

/// Whose address nodes call with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceAddress {
    /// The node's.
    #[default]
    Node,
    /// That of the interface the way leads over.
    Interface,
}

/// What a neighbour is told as next hop of learned routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NextHop {
    /// Our own address to other ASes, as learned inside our own (RFC 4271, section 5.1.3).
    #[default]
    Auto,
    /// Our own address.
    #[serde(rename = "Self")]
    Own,
    /// As learned.
    Keep,
    /// As learned where that is on a network shared with the neighbour, else our own address.
    Direct,
}

/// Several paths to one destination (RFC 7911). Each direction needs both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AddPaths {
    /// How many of the best paths it is told: 0–255; 0: the best alone, without identifiers.
    pub send: u8,
    /// Take several from it.
    pub receive: bool,
}

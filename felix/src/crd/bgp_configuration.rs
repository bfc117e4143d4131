//! How the cluster speaks BGP.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::STANDARD;
use super::services::ServiceAddressesSpec;
use super::session::{Bfd, GracefulRestart, SecretKey, Timers};
use super::{AcceptedStatus, default_port};

/// How this cluster speaks BGP. The object named `default` counts.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    doc = "How this cluster speaks BGP. The object named `default` counts.",
    plural = "bgpconfigurations",
    shortname = "bgpconfig",
    status = "AcceptedStatus",
    category = "manx",
    printcolumn = r#"{"name":"AS","type":"integer","jsonPath":".spec.asNumber"}"#,
    printcolumn = r#"{"name":"Mesh","type":"string","jsonPath":".spec.mesh"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sendHoldTimeSeconds) || \
    self.sendHoldTimeSeconds > (has(self.holdTimeSeconds) ? self.holdTimeSeconds : 90)")
    .message("sendHoldTimeSeconds is more than holdTimeSeconds, which is 90 unless set"))]
#[x_kube(validation = Rule::new("!has(self.keepaliveSeconds) || (has(self.holdTimeSeconds) ? self.holdTimeSeconds : 90) / 3 >= \
    self.keepaliveSeconds && (self.keepaliveSeconds > 0 || has(self.holdTimeSeconds) && self.holdTimeSeconds == 0)")
    .message("keepaliveSeconds is 1 to a third of holdTimeSeconds; 0 goes with 0"))]
pub struct BGPConfigurationSpec {
    /// AS number of nodes, 1–4294967295; 64512 unless set. A node's annotation or label `manx.io/as-number` says another
    /// for that node.
    #[serde(default = "default_asn")]
    #[schemars(range(min = 1))]
    pub as_number: u32,
    /// Which nodes peer with each other without being told by a BGPPeer.
    #[serde(default)]
    pub mesh: MeshMode,
    /// With `mesh: Auto`, up to how many nodes of one AS all peer with each other.
    #[serde(default = "default_mesh_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub mesh_limit: u16,
    /// With `mesh: Auto`, how many nodes reflect routes where there are more.
    #[serde(default = "default_reflectors")]
    #[schemars(range(min = 1, max = 16))]
    pub reflectors: u8,
    /// TCP port nodes listen on.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1))]
    pub listen_port: u16,
    /// When sessions are called, and when they are given up.
    #[serde(flatten)]
    pub timers: Timers,
    /// Of sessions between nodes, and of those with neighbours that do not say otherwise.
    #[serde(default)]
    pub graceful_restart: GracefulRestart,
    /// Watches the ways between nodes that peer with each other; none unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Password (TCP MD5, RFC 2385) of sessions between nodes, in a Secret of Manx's namespace; none unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKey>,
    /// Where nodes have their addresses for BGP; the first InternalIP of each family unless set. A Node's annotation
    /// `manx.io/address` (`10.1.0.5,fd00::5`) comes before both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<NodeAddress>,
    /// Communities of what is announced, by prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// Prefixes announced to neighbours of other ASes for as long as there is a route to something in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub aggregates: Vec<Aggregate>,
    /// Which addresses of Services are announced, beside those of IPPools for Services.
    #[serde(default)]
    pub service_addresses: ServiceAddressesSpec,
}

/// Which nodes peer with each other by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MeshMode {
    /// All nodes of one AS, up to `meshLimit`; above it the nodes elect `reflectors` among themselves, spread over the
    /// zones (`topology.kubernetes.io/zone`), with which the others peer. Of several ASes each goes by itself: routers
    /// join them.
    #[default]
    Auto,
    /// Every node with every other, of whatever AS.
    Full,
    /// None: BGPPeers say all.
    None,
}

/// Where a node finds its addresses; the first of each family counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.interface), has(self.cidrs), has(self.canReach)].filter(x, x).size() == 1")
    .message("nodeAddress has one of interface, cidrs and canReach"))]
pub struct NodeAddress {
    /// On this interface of the node: `bond0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// In one of these ranges: `10.1.0.0/16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("cidrs are ranges, as 10.1.0.0/16"))]
    #[schemars(length(min = 1, max = 16), inner(length(max = 43)))]
    pub cidrs: Option<Vec<String>>,
    /// With which the node would call these addresses, by its routes: `10.0.0.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(address, isIP(address))").message("canReach are addresses, as 10.0.0.1"))]
    #[schemars(length(min = 1, max = 2), inner(length(max = 45)))]
    pub can_reach: Option<Vec<String>>,
}

/// Communities of what is announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixAdvertisement {
    /// What is announced inside this range.
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr must be a range, as 10.244.0.0/16"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Standard communities to attach (RFC 1997): `64512:100`, `no-export`.
    #[schemars(length(max = 16), inner(length(max = 32), regex(pattern = STANDARD)))]
    pub communities: Vec<String>,
}

/// A prefix in place of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Aggregate {
    /// The prefix.
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr must be a range, as 10.244.0.0/16"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// The parts are not announced while it is.
    #[serde(default)]
    pub suppress: bool,
    /// Standard communities to attach (RFC 1997).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 32), regex(pattern = STANDARD)))]
    pub communities: Vec<String>,
}

fn default_asn() -> u32 {
    64512
}

/// A speaker holds as many sessions with ease, and Calico's documents draw the same line.
fn default_mesh_limit() -> u16 {
    100
}

/// One may be lost while another is maintained.
fn default_reflectors() -> u8 {
    3
}

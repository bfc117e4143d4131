//! The custom resources that say how nodes peer, and what nodes say of themselves.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, CustomResourceExt, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    printcolumn = r#"{"name":"Mesh","type":"boolean","jsonPath":".spec.mesh"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BGPConfigurationSpec {
    /// AS number of every node, 1–4294967295; 64512 unless set.
    #[serde(default = "default_asn")]
    #[schemars(range(min = 1))]
    pub as_number: u32,
    /// Whether every node peers with every other (iBGP full mesh).
    #[serde(default = "default_true")]
    pub mesh: bool,
    /// TCP port nodes listen on.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1))]
    pub listen_port: u16,
    /// Hold time offered, in seconds: 0 (never expires) or 3–65535; 90 unless set.
    #[serde(default = "default_hold_time")]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("a hold time is 0 (never) or 3 to 65535 seconds"))]
    pub hold_time_seconds: u16,
}

/// A neighbour outside the mesh: a top-of-rack switch, a route reflector, another speaker.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "BGPPeer",
    doc = "A neighbour outside the mesh: a top-of-rack switch, a route reflector, another speaker.",
    plural = "bgppeers",
    shortname = "peer",
    status = "AcceptedStatus",
    category = "manx",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"AS","type":"integer","jsonPath":".spec.asNumber"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerSpec {
    /// Nodes that peer with it; all of them unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// The neighbour's address.
    #[x_kube(validation = Rule::new("isIP(self)").message("address must be an IP address, as 10.10.0.251 or fd00::251"))]
    #[schemars(length(max = 45))]
    pub address: String,
    /// The neighbour's AS number, 1–4294967295; equal to the node's own makes it iBGP.
    #[schemars(range(min = 1))]
    pub as_number: u32,
    /// The neighbour's TCP port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Hold time offered, in seconds; that of the BGPConfiguration unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("a hold time is 0 (never) or 3 to 65535 seconds"))]
    pub hold_time_seconds: Option<u16>,
}

/// Whether an object is in force, and why not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedStatus {
    /// `Accepted`, with the reason in words.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// What a node's agent sees: written by it on change, read by people and `manxctl`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "NodeStatus",
    doc = "What a node's agent sees; written by it.",
    plural = "nodestatuses",
    shortname = "nodestat",
    status = "NodeStatusStatus",
    category = "manx",
    printcolumn = r#"{"name":"Sessions","type":"string","jsonPath":".status.sessionSummary"}"#,
    printcolumn = r#"{"name":"Blocks","type":"string","jsonPath":".status.blocks"}"#,
    printcolumn = r#"{"name":"Routes","type":"integer","jsonPath":".status.routes"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusSpec {}

/// See [`NodeStatusSpec`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusStatus {
    /// Sessions up of all, as `4/4`.
    #[serde(default)]
    pub session_summary: String,
    /// Every session.
    #[serde(default)]
    pub sessions: Vec<SessionStatus>,
    /// Blocks this node owns.
    #[serde(default)]
    pub blocks: Vec<String>,
    /// Routes of ours in the kernel.
    #[serde(default)]
    pub routes: i64,
    /// Pods attached.
    #[serde(default)]
    pub pods: i64,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// Which policies are in force on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<PolicyEnforcement>,
}

/// Which policies are in force on a node: those of these versions, and all older ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyEnforcement {
    /// `metadata.resourceVersion` of the newest NetworkPolicy in force; empty: none.
    pub network_policies: String,
    /// `metadata.resourceVersion` of the newest ClusterNetworkPolicy in force; empty: none.
    pub cluster_network_policies: String,
    /// Why newer ones are not, in words; empty: nothing is in the way.
    pub failing: String,
}

/// One BGP session as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The neighbour's address.
    pub address: String,
    /// The neighbour's name: a node, or a BGPPeer.
    #[serde(default)]
    pub name: String,
    /// Its AS number.
    pub as_number: u32,
    /// `Established` or `Down`; `manxctl status` on the node tells more.
    pub state: String,
    /// Why it is not up, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// On how many nodes the NetworkPolicy of this name is in force: written by one agent for all nodes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "PolicyStatus",
    doc = "On how many nodes the NetworkPolicy of this name is in force; written by the agents.",
    plural = "policystatuses",
    shortname = "polstat",
    namespaced,
    status = "PolicyStatusStatus",
    category = "manx",
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".status.nodes"}"#,
    printcolumn = r#"{"name":"Generation","type":"integer","jsonPath":".status.observedGeneration"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatusSpec {}

/// See [`PolicyStatusSpec`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatusStatus {
    /// Nodes it is in force on, of all, as `37/37`.
    #[serde(default)]
    pub nodes: String,
    /// Of the NetworkPolicy this is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Enforced`: whether it is in force on all nodes. `Accepted`: whether it is done as written.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Every CustomResourceDefinition of Manx, those of [`manx_ipam::crd`] too, in order of name.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        manx_ipam::crd::IPPool::crd(),
        manx_ipam::crd::IPAMBlock::crd(),
        manx_ipam::crd::IPAMRequest::crd(),
        manx_ipam::crd::IPReservation::crd(),
        BGPConfiguration::crd(),
        BGPPeer::crd(),
        NodeStatus::crd(),
        PolicyStatus::crd(),
    ];
    all.sort_by_key(ResourceExt::name_any);
    all
}

fn default_asn() -> u32 {
    64512
}

fn default_true() -> bool {
    true
}

fn default_port() -> u16 {
    179
}

fn default_hold_time() -> u16 {
    90
}

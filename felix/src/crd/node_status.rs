//! What a node says of itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// What is not as it should be here, an object each.
    #[serde(default)]
    pub problems: Vec<ProblemStatus>,
    /// `RouteOverlap`, true while other programs' routes take packets from Manx's, and `KernelPrepared`, false while
    /// something of the kernel is not as a node needs it; with the reason in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
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

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemStatus {
    /// Kind and name: `BGPPeer/tor1`.
    pub object: String,
    /// What is wrong, and what is done instead.
    pub message: String,
}

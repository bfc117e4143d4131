//! On how many nodes policies are in force.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

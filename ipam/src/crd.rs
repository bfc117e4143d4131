//! The custom resources: what an operator writes and what Manx answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A range of pod addresses, cut into blocks that nodes own.
///
/// A cluster with both families has (at least) one pool of each.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "IPPool",
    doc = "A range of pod addresses, cut into blocks that nodes own.",
    plural = "ippools",
    shortname = "pool",
    derive = "PartialEq",
    status = "IPPoolStatus",
    category = "manx",
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"Block","type":"integer","jsonPath":".spec.blockSize"}"#,
    printcolumn = r#"{"name":"Blocks","type":"integer","jsonPath":".status.blocks"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.used"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[x_kube(validation = Rule::new("has(self.blockSize) == has(oldSelf.blockSize) && \
    (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)")
    .message("blockSize cannot be changed: blocks of two sizes would overlap"))]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// The range, as `10.244.0.0/16` or `fd00:10:244::/48`, without host bits. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cidr cannot be changed: pods have addresses of it"))]
    pub cidr: String,
    /// Length of the blocks nodes own: 20–32 in an IPv4 pool (26 unless set), 116–128 in an IPv6 pool
    /// (122 unless set), and not shorter than the pool's own. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 128))]
    pub block_size: Option<u8>,
    /// Nodes that may own blocks of this pool; all of them unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Hand out no new addresses. Pods that have one keep it.
    #[serde(default)]
    pub disabled: bool,
}

/// What Manx says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Addresses in the range; at most 2^53, the largest number JSON keeps exactly.
    #[serde(default)]
    pub size: i64,
    /// Addresses held by pods.
    #[serde(default)]
    pub used: i64,
    /// Blocks owned by nodes.
    #[serde(default)]
    pub blocks: i64,
    /// `Ready`: whether the pool can be used, and why not.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A block of addresses and the node that owns it.
///
/// Made by the owner; its name is its CIDR, so a second owner cannot exist. Not to be edited.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "IPAMBlock",
    doc = "A block of addresses and the node that owns it. Made by that node; not to be edited.",
    plural = "ipamblocks",
    shortname = "block",
    derive = "PartialEq",
    status = "IPAMBlockStatus",
    category = "manx",
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Pool","type":"string","jsonPath":".spec.pool"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.used"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a block cannot be changed: delete it"))]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    /// The block, as `10.244.3.64/26`.
    pub cidr: String,
    /// The IPPool it was cut from.
    pub pool: String,
    /// The Node that owns it and alone hands out its addresses.
    pub node: String,
}

/// A mirror of what the owner keeps in memory, written in batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockStatus {
    /// Addresses held.
    #[serde(default)]
    pub used: i64,
    /// Who holds them, in order of address.
    #[serde(default)]
    pub allocations: Vec<Allocation>,
}

/// One address held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The address.
    pub address: String,
    /// The runtime's id of the pod sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
    /// Namespace of the pod; empty where the runtime did not say.
    #[serde(default)]
    pub namespace: String,
    /// Name of the pod.
    #[serde(default)]
    pub pod: String,
    /// UID of the pod.
    #[serde(default)]
    pub uid: String,
}

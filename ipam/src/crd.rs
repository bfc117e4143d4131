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
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".status.size"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.used"}"#,
    printcolumn = r#"{"name":"Free","type":"integer","jsonPath":".status.free"}"#,
    printcolumn = r#"{"name":"Blocks","type":"integer","jsonPath":".status.blocks"}"#,
    printcolumn = r#"{"name":"Exhausted","type":"string","jsonPath":".status.conditions[?(@.type==\"Exhausted\")].status"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[x_kube(validation = Rule::new("has(self.blockSize) == has(oldSelf.blockSize) && \
    (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)")
    .message("blockSize cannot be changed: blocks of two sizes would overlap"))]
#[x_kube(validation = Rule::new("!has(self.blockSize) || !isCIDR(self.cidr) || \
    (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116)")
    .message("blockSize is 20 to 32 in an IPv4 pool, 116 to 128 in an IPv6 pool"))]
#[x_kube(validation = Rule::new("'Services' in self.allowedUses || !isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= \
    (has(self.blockSize) ? self.blockSize : cidr(self.cidr).ip().family() == 4 ? 26 : 122)")
    .message("a block does not fit into the pool: blockSize must not be less than the length of cidr"))]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// The range, as `10.244.0.0/16` or `fd00:10:244::/48`, without host bits. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cidr cannot be changed: pods have addresses of it"))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self) == cidr(self).masked()")
        .message("cidr must be a range without host bits, as 10.244.0.0/16 or fd00:10:244::/48"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Length of the blocks nodes own: 20–32 in an IPv4 pool (26 unless set), 116–128 in an IPv6 pool
    /// (122 unless set), and not shorter than the pool's own. Cannot be changed. Without meaning in a pool for Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 128))]
    pub block_size: Option<u8>,
    /// Nodes that may own blocks of this pool; all of them unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Namespaces whose pods have their addresses of this pool; of all namespaces unless set. Pods of a namespace that
    /// is selected here have them of this pool alone, unless an annotation names others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Services that have their addresses of this pool, by their labels; all unless set. Those that it or
    /// `namespaceSelector` selects have them of such pools alone, unless an annotation names others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// What its addresses are for: `Pods` unless set. From a pool without `Pods` no pod gets a new address;
    /// `Services` keeps a range for Services of type LoadBalancer; a pool is for one of the two.
    #[serde(default = "for_pods")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.size() == 1")
        .message("Pods and Services cannot have addresses of one pool: make two pools"))]
    pub allowed_uses: Vec<AllowedUse>,
    /// Whether its blocks are announced by BGP. Without that, nodes know no way to each other's pods of this pool but
    /// one that is made by hand.
    #[serde(default = "yes")]
    pub bgp_export: bool,
    /// What its pods send out of the cluster leaves with the node's address, for networks that do not know the pods'. What
    /// goes to addresses of any pool and to nodes never does.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// With `natOutgoing`: destinations outside the cluster that know pods' addresses, as `10.0.0.0/8` or `2001:db8::/32`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range) && cidr(range) == cidr(range).masked())")
        .message("natExclusions are ranges without host bits, as 10.0.0.0/8 or 2001:db8::/32"))]
    #[schemars(length(max = 64), inner(length(max = 43)))]
    pub nat_exclusions: Vec<String>,
    /// Seconds an address rests after a pod has left it, 0–3600. The address that has been free for longest comes next
    /// in any case; a rest keeps a small pool from handing an address out again at once.
    #[serde(default)]
    #[schemars(range(max = 3600))]
    pub cooldown_seconds: u16,
    /// Hand out no new addresses. Pods that have one keep it.
    #[serde(default)]
    pub disabled: bool,
}

impl IPPoolSpec {
    /// A pool for the pods of every node and namespace, with all else as it is unless set.
    pub fn new(cidr: impl Into<String>) -> Self {
        Self {
            cidr: cidr.into(),
            block_size: None,
            node_selector: None,
            namespace_selector: None,
            service_selector: None,
            allowed_uses: for_pods(),
            bgp_export: true,
            nat_outgoing: false,
            nat_exclusions: Vec::new(),
            cooldown_seconds: 0,
            disabled: false,
        }
    }
}

fn for_pods() -> Vec<AllowedUse> {
    vec![AllowedUse::Pods]
}

fn yes() -> bool {
    true
}

/// What a pool's addresses may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllowedUse {
    /// Pods.
    Pods,
    /// Services of type LoadBalancer.
    Services,
}

/// What Manx says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Addresses in the range; at most 2^53, the largest number JSON keeps exactly.
    #[serde(default)]
    pub size: i64,
    /// Addresses held by pods, or by Services.
    #[serde(default)]
    pub used: i64,
    /// Addresses nobody holds, those in blocks too; without what an IPReservation keeps back.
    #[serde(default)]
    pub free: i64,
    /// Blocks owned by nodes.
    #[serde(default)]
    pub blocks: i64,
    /// `Ready`: whether the pool can be used, and why not. `NearlyExhausted`: nine tenths of its addresses are taken.
    /// `Exhausted`: all are.
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
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// The IPPool it was cut from.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// The Node that owns it and alone hands out its addresses.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The block it was carved out of by that block's owner; unset where it was cut from the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentBlock>,
}

/// The very block a part was carved out of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentBlock {
    /// Its range, as `10.244.3.0/26`.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// UID of its object: another block of the same range later has had other owners.
    #[schemars(length(max = 128))]
    pub uid: String,
}

/// A mirror of what the owner keeps in memory, written in batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockStatus {
    /// Addresses held.
    #[serde(default)]
    pub used: i64,
    /// Addresses that pods could have now or after their rest.
    #[serde(default)]
    pub free: i64,
    /// Who holds them, in order of address.
    #[serde(default)]
    pub allocations: Vec<Allocation>,
    /// UID of the Node as which its owner hands addresses out. One that was deleted and made again has another, and its
    /// agent writes this before it goes on: so the block is not freed under it by who still thinks it gone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_uid: String,
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

/// Addresses that are kept back: no pod gets one of them by itself, but a pod that asks for one by name does.
///
/// Pods that hold such an address keep it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "IPReservation",
    doc = "Addresses that are kept back: no pod gets one of them unless it asks for it by name.",
    plural = "ipreservations",
    derive = "PartialEq",
    status = "IPReservationStatus",
    category = "manx",
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IPReservationSpec {
    /// Addresses and ranges, as `10.244.0.1` or `10.244.0.0/28`.
    #[x_kube(validation = Rule::new("self.all(it, isIP(it) || isCIDR(it))")
        .message("addresses must be addresses or ranges, as 10.244.0.1 or 10.244.0.0/28"))]
    #[schemars(length(min = 1, max = 256), inner(length(max = 43)))]
    pub addresses: Vec<String>,
}

/// What Manx says of a reservation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPReservationStatus {
    /// `Accepted`: whether it can be followed, and why not.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A node without a free address asks the owner of a block for a part of it.
///
/// Made by the node that asks and removed by it. The owner that is asked creates an [`IPAMBlock`] for the other out of
/// what nobody holds, having stopped handing that out first; or says in the status why it does not.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "IPAMRequest",
    doc = "A node without a free address asks the owner of a block for a part of it. Made by that node; not to be edited.",
    plural = "ipamrequests",
    derive = "PartialEq",
    status = "IPAMRequestStatus",
    category = "manx",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Block","type":"string","jsonPath":".spec.block"}"#,
    printcolumn = r#"{"name":"Refused","type":"string","jsonPath":".status.refused"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a request cannot be changed: delete it"))]
#[serde(rename_all = "camelCase")]
pub struct IPAMRequestSpec {
    /// The Node that asks.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The block it asks for a part of, as `10.244.3.64/26`; its owner answers.
    #[schemars(length(max = 43))]
    pub block: String,
}

/// What the owner answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMRequestStatus {
    /// Why there is no part for the other node, in words. A part that is granted is an IPAMBlock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

//! What a BGPConfiguration says of Services.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which addresses of Services are announced, and what becomes of the rest of their ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceAddressesSpec {
    /// Services whose addresses are announced; all of them unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Ranges of which cluster addresses, external addresses and addresses of load balancers are announced. Those that
    /// IPPools for Services give out need not be listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ranges: Vec<ServiceRangeSpec>,
    /// What a node does with packets to an address that no Service has, of an IPPool for Services or a range that is
    /// announced whole: `Drop` unless set, `Reject` (its sender is told), or `Forward` to wherever routes lead, back to
    /// the router they came from as a rule.
    pub unassigned: Unassigned,
    /// Whether Services of type LoadBalancer that name no loadBalancerClass have addresses of IPPools as if they named
    /// `manx.io/bgp`: `Assign` unless set; `Ignore` leaves them to another implementation.
    pub without_class: WithoutClass,
}

/// A range of service addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRangeSpec {
    /// The range, as `10.96.0.0/12` or `fd00:96::/108`, without host bits.
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self) == cidr(self).masked()")
        .message("cidr must be a range without host bits, as 10.96.0.0/12 or fd00:96::/108"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Whether every node announces the range whole; of its addresses then only those of Services with a `Local` traffic
    /// policy are announced one by one, by nodes with endpoints.
    #[serde(default)]
    pub aggregate: bool,
}

/// What becomes of packets to addresses no Service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unassigned {
    /// They are dropped.
    #[default]
    Drop,
    /// They are answered: administratively prohibited.
    Reject,
    /// They go where routes lead.
    Forward,
}

/// What becomes of Services that name no class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WithoutClass {
    /// They are ours.
    #[default]
    Assign,
    /// They are another's.
    Ignore,
}

//! What is taken from neighbours, and what they are told.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AcceptedStatus;
use super::pattern::{COMMUNITIES, COMMUNITY};

/// What is taken from neighbours that name it, and what they are told. Rules are looked at in order, and the first that
/// matches and does not say `Next` decides. What none decides is done as without a filter: all is taken but our own
/// blocks, and told is what begins here.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "manx.io",
    version = "v1alpha1",
    kind = "BGPFilter",
    doc = "What is taken from neighbours that name it, and what they are told.",
    plural = "bgpfilters",
    shortname = "bgpfilter",
    status = "AcceptedStatus",
    category = "manx",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// Of routes the neighbour tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub import: Vec<FilterRule>,
    /// Of routes it is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub export: Vec<FilterRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.set) || self.action != 'Reject'")
    .message("a rejected route has nothing set: leave out set, or the action"))]
pub struct FilterRule {
    /// For people: `manxctl bgp why` names the rule that refused a route.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub name: String,
    /// Which routes: all that is said must hold, of a list one entry. All of them, where nothing is said.
    #[serde(default, rename = "match")]
    pub matches: FilterMatch,
    /// What becomes of them.
    #[serde(default)]
    pub action: FilterAction,
    /// What is changed on those taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<FilterSet>,
}

/// What becomes of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterAction {
    /// It is taken.
    #[default]
    Accept,
    /// It is not.
    Reject,
    /// Something is set, and the next rule looked at.
    Next,
}

/// Which routes a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterMatch {
    /// The destination is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub prefixes: Vec<FilterPrefix>,
    /// It has one of these communities, of any kind (RFC 1997, RFC 8092): `64512:*`, `64512:1:*`, `no-export`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32), regex(pattern = COMMUNITIES)))]
    pub communities: Vec<String>,
    /// About its AS path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<FilterPath>,
    /// Its next hop is in one of these ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("nextHop are ranges, as 10.10.0.0/24"))]
    #[schemars(length(max = 64), inner(length(max = 43)))]
    pub next_hop: Vec<String>,
    /// The session with the neighbour is one of a BGPPeer with this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Where the route begins. On import all are learned; on export only those that begin here are meant unless set, so
    /// that a node hands on what it learned to nobody by oversight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<FilterSource>,
}

/// A prefix and how long the prefixes in it may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minLength) || !has(self.maxLength) || self.minLength <= self.maxLength")
    .message("minLength is at most maxLength"))]
// An API server bounds what all prefixes of all rules could cost: these are as cheap as can be.
#[x_kube(validation = Rule::new("(has(self.minLength) ? self.minLength : has(self.maxLength) ? self.maxLength : 128) >= \
    cidr(self.cidr).prefixLength()").message("minLength and maxLength are not shorter than cidr"))]
#[x_kube(validation = Rule::new("self.cidr.contains(':') || \
    (!has(self.minLength) || self.minLength <= 32) && (!has(self.maxLength) || self.maxLength <= 32)")
    .message("minLength and maxLength of an IPv4 prefix are at most 32"))]
pub struct FilterPrefix {
    /// The prefix: `10.0.0.0/8`. Alone it means itself and nothing in it.
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr must be a range, as 10.244.0.0/16"))]
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Shortest prefix meant, in bits: from the length of `cidr` on. Alone it reaches to single addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub min_length: Option<u8>,
    /// Longest prefix meant, in bits. Alone it begins with `cidr` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub max_length: Option<u8>,
}

/// About an AS path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FilterPath {
    /// One of these ASes is in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub contains: Vec<u32>,
    /// The route begins in one of these ASes: the last of the path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub originates: Vec<u32>,
    /// At least so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u16>,
    /// At most so long; 0: it begins in our own AS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u16>,
}

/// Where a route begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterSource {
    /// On this node.
    Originated,
    /// A neighbour told it.
    Learned,
    /// Both.
    Any,
}

/// What is changed on a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterSet {
    /// Replaces its communities of every kind; done before the two below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 32), regex(pattern = COMMUNITY)))]
    pub communities: Option<Vec<String>>,
    /// Takes these off: `64512:*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32), regex(pattern = COMMUNITIES)))]
    pub remove_communities: Vec<String>,
    /// Puts these on: `64512:100`, `64512:1:2`, `no-export`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32), regex(pattern = COMMUNITY)))]
    pub add_communities: Vec<String>,
    /// LOCAL_PREF; higher is preferred. Neighbours of other ASes are not told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC; lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Our own AS is put in front of the path so many times more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub prepend: Option<u8>,
    /// The next hop; of no effect on routes of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isIP(self)").message("nextHop is an address, as 10.10.0.1"))]
    #[schemars(length(max = 45))]
    pub next_hop: Option<String>,
}

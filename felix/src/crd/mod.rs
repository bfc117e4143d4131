//! The custom resources that say how nodes peer, and what nodes say of themselves.

mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod node_status;
mod pattern;
mod policy_status;
mod services;
mod session;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResourceExt, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bgp_configuration::{
    Aggregate, BGPConfiguration, BGPConfigurationSpec, MeshMode, NodeAddress, PrefixAdvertisement,
};
pub use bgp_filter::{
    BGPFilter, BGPFilterSpec, FilterAction, FilterMatch, FilterPath, FilterPrefix, FilterRule, FilterSet,
    FilterSource,
};
pub use bgp_peer::{AddPaths, BGPPeer, BGPPeerSpec, NextHop, PeerRange, SourceAddress};
pub use node_status::{
    NodeStatus, NodeStatusSpec, NodeStatusStatus, PolicyEnforcement, ProblemStatus, SessionStatus,
};
pub use policy_status::{PolicyStatus, PolicyStatusSpec, PolicyStatusStatus};
pub use services::{ServiceAddressesSpec, ServiceRangeSpec, Unassigned, WithoutClass};
pub use session::{
    Bfd, GracefulRestart, MaxPrefixes, MaxPrefixesAction, SecretKey, TcpAoAlgorithm, TcpAoKey, Timers,
};

/// Whether an object is in force, and why not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedStatus {
    /// `Accepted`, with the reason in words; of BGPPeers `Degraded` too, when a node cannot do as they say.
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
        BGPFilter::crd(),
        BGPPeer::crd(),
        NodeStatus::crd(),
        PolicyStatus::crd(),
    ];
    all.sort_by_key(ResourceExt::name_any);
    for schema in
        all.iter_mut().flat_map(|crd| &mut crd.spec.versions).filter_map(|version| version.schema.as_mut())
    {
        schema.open_api_v3_schema.iter_mut().for_each(in_formats_of_kubernetes);
    }
    all
}

/// Kubernetes knows signed formats alone and warns of others; the bounds of unsigned ones are said as bounds.
fn in_formats_of_kubernetes(schema: &mut JSONSchemaProps) {
    let known = match schema.format.as_deref() {
        Some("uint8") => Some(("int32", u8::MAX.into())),
        Some("uint16") => Some(("int32", u16::MAX.into())),
        Some("uint32") => Some(("int64", u32::MAX.into())),
        _ => None,
    };
    if let Some((format, most)) = known {
        schema.format = Some(format.to_owned());
        schema.minimum.get_or_insert(0.0);
        schema.maximum = Some(schema.maximum.map_or(most, |maximum| maximum.min(most)));
    }
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(in_formats_of_kubernetes);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        in_formats_of_kubernetes(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        in_formats_of_kubernetes(values);
    }
}

pub(crate) fn default_port() -> u16 {
    manx_bgp::iana::BGP_PORT
}

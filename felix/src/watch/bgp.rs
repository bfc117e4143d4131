//! BGPConfigurations, BGPPeers and BGPFilters become [`crate::model`].
//!
//! What the resources' schemas refuse is refused here as well: an object may be older than its schema, and one that the
//! speaker would refuse must not keep the others from it.

mod field;
mod filter;
mod peer;
mod session;

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use manx_bgp::api::Aggregate;
use manx_bgp::api::community::CommunityValue;
use manx_bgp::types::Prefix;

use self::field::{asn, interface, parsed, port, prefix, within};
use self::session::{bfd, graceful_restart, timers};
pub use self::session::{keepalive, send_hold_time};
use super::convert::custom;
use crate::crd::{
    self, BGPConfiguration, BGPConfigurationSpec, BGPFilter, BGPPeer, ServiceAddressesSpec, WithoutClass,
};
use crate::graph::Selector;
use crate::model::service::{ServiceAddresses, ServiceRange, Unassigned};
use crate::model::{Bad, BgpConfig, Filter, Mesh, Object, Peer, SecretKey, Wanted};

/// Seconds of a hold time that nobody says.
const DEFAULT_HOLD_TIME: u16 = 90;

/// The name of the one BGPConfiguration that counts.
pub const DEFAULT_CONFIGURATION: &str = "default";

/// A BGPConfiguration; of all but one the name alone is wrong.
pub fn bgp_configuration(object: DynamicObject) -> Object<BgpConfig> {
    custom(object, |configuration: BGPConfiguration| {
        if configuration.name_any() == DEFAULT_CONFIGURATION {
            return BgpConfig::try_from(&configuration.spec);
        }
        let message = format!("only the BGPConfiguration named \"{DEFAULT_CONFIGURATION}\" counts");
        Err(Bad::new("NotDefault", message))
    })
}

/// A BGPPeer.
pub fn bgp_peer(object: DynamicObject) -> Object<Peer> {
    custom(object, |peer: BGPPeer| Peer::try_from(&peer.spec))
}

/// A BGPFilter.
pub fn bgp_filter(object: DynamicObject) -> Object<Filter> {
    custom(object, |filter: BGPFilter| Filter::try_from(&filter.spec))
}

impl TryFrom<&BGPConfigurationSpec> for BgpConfig {
    type Error = Bad;

    fn try_from(spec: &BGPConfigurationSpec) -> Result<Self, Bad> {
        let timers = timers(&spec.timers, Some(DEFAULT_HOLD_TIME))?;
        let communities = spec.prefix_advertisements.iter().map(|advertisement| {
            let prefix = prefix("spec.prefixAdvertisements.cidr", &advertisement.cidr)?;
            Ok((prefix, standard("spec.prefixAdvertisements.communities", &advertisement.communities)?))
        });
        let aggregates = spec.aggregates.iter().map(|aggregate| {
            Ok(Aggregate {
                prefix: prefix("spec.aggregates.cidr", &aggregate.cidr)?,
                suppress: aggregate.suppress,
                communities: standard("spec.aggregates.communities", &aggregate.communities)?,
            })
        });
        Ok(Self {
            asn: asn("spec.asNumber", spec.as_number)?,
            mesh: match spec.mesh {
                crd::MeshMode::None => Mesh::None,
                crd::MeshMode::Full => Mesh::Full,
                crd::MeshMode::Auto => Mesh::Auto {
                    limit: within("spec.meshLimit", spec.mesh_limit, 1..=1000)?.into(),
                    reflectors: within("spec.reflectors", spec.reflectors, 1..=16)?.into(),
                },
            },
            listen_port: port("spec.listenPort", spec.listen_port)?,
            hold_time: timers.hold_time_seconds.unwrap_or(DEFAULT_HOLD_TIME),
            keepalive: timers.keepalive_seconds,
            send_hold_time: timers.send_hold_time_seconds,
            connect_retry: timers.connect_retry_seconds.unwrap_or(5),
            graceful_restart: graceful_restart(&spec.graceful_restart)?,
            bfd: spec.bfd.as_ref().map(bfd).transpose()?,
            password: spec.password.as_ref().map(SecretKey::from),
            wanted: spec.node_address.as_ref().map_or(Ok(Wanted::Internal), wanted)?,
            communities: communities.collect::<Result<_, Bad>>()?,
            aggregates: distinct(aggregates.collect::<Result<_, Bad>>()?)?,
            services: ServiceAddresses::try_from(&spec.service_addresses)?,
        })
    }
}

impl TryFrom<&ServiceAddressesSpec> for ServiceAddresses {
    type Error = Bad;

    fn try_from(spec: &ServiceAddressesSpec) -> Result<Self, Bad> {
        let selector = Selector::try_from(spec.selector.clone()).map_err(|error| {
            Bad::new("InvalidSelector", format_args!("spec.serviceAddresses.selector: {error}"))
        })?;
        let mut ranges = BTreeMap::new();
        for range in &spec.ranges {
            let range_prefix: Prefix = prefix("spec.serviceAddresses.ranges.cidr", &range.cidr)?;
            if ranges.insert(range_prefix, range.aggregate).is_some() {
                let message = format!("spec.serviceAddresses.ranges: {range_prefix} is listed twice");
                return Err(Bad::new("Repeated", message));
            }
        }
        Ok(Self {
            selector,
            ranges: ranges
                .into_iter()
                .map(|(prefix, aggregate)| ServiceRange { prefix, aggregate })
                .collect(),
            unassigned: match spec.unassigned {
                crd::Unassigned::Drop => Unassigned::Drop,
                crd::Unassigned::Reject => Unassigned::Reject,
                crd::Unassigned::Forward => Unassigned::Forward,
            },
            classless: spec.without_class == WithoutClass::Assign,
        })
    }
}

/// The speaker refuses two of one prefix.
fn distinct(aggregates: Vec<Aggregate>) -> Result<Vec<Aggregate>, Bad> {
    let twice = aggregates.iter().enumerate().find(|(index, aggregate)| {
        aggregates[..*index].iter().any(|before| before.prefix == aggregate.prefix)
    });
    match twice {
        Some((_, aggregate)) => Err(Bad::new(
            "DuplicateAggregate",
            format_args!("spec.aggregates: {} is listed twice: list it once", aggregate.prefix),
        )),
        None => Ok(aggregates),
    }
}

fn wanted(spec: &crd::NodeAddress) -> Result<Wanted, Bad> {
    let field = "spec.nodeAddress";
    match (&spec.interface, &spec.cidrs, &spec.can_reach) {
        (Some(name), None, None) => Ok(Wanted::Interface(interface(&format!("{field}.interface"), name)?)),
        (None, Some(cidrs), None) => {
            let ranges = cidrs.iter().map(|text| prefix(&format!("{field}.cidrs"), text));
            Ok(Wanted::Inside(ranges.collect::<Result<_, Bad>>()?))
        }
        (None, None, Some(addresses)) => {
            Ok(Wanted::CanReach(parsed("InvalidAddress", &format!("{field}.canReach"), addresses)?))
        }
        _ => {
            let message = format!("{field}: give one of interface, cidrs and canReach");
            Err(Bad::new("AmbiguousAddress", message))
        }
    }
}

/// What a node announces itself has communities of RFC 1997 alone.
fn standard(field: &str, texts: &[String]) -> Result<Vec<String>, Bad> {
    for (text, value) in texts.iter().zip(parsed::<_, CommunityValue>("InvalidCommunity", field, texts)?) {
        if matches!(value, CommunityValue::Large(_)) {
            let message = format!("{field}: \"{text}\" is a large community: set those with a BGPFilter");
            return Err(Bad::new("InvalidCommunity", message));
        }
    }
    Ok(texts.to_vec())
}

#[cfg(test)]
fn object(json: serde_json::Value) -> DynamicObject {
    serde_json::from_value(json).unwrap()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_default_configuration_counts() {
        let named =
            |name: &str| bgp_configuration(object(json!({"metadata": {"name": name}, "spec": {}}))).spec;
        assert_eq!(named("default"), Ok(BgpConfig::default()));
        assert_eq!(named("other").unwrap_err().reason, "NotDefault");
    }

    #[test]
    fn a_bad_configuration_is_refused_in_words() {
        for (spec, reason, words) in [
            (json!({"nodeAddress": {}}), "AmbiguousAddress", "one of"),
            (json!({"nodeAddress": {"canReach": ["gateway"]}}), "InvalidAddress", "gateway"),
            (
                json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["1:2:3"]}]}),
                "InvalidCommunity",
                "BGPFilter",
            ),
            (
                json!({"aggregates": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8"}]}),
                "DuplicateAggregate",
                "twice",
            ),
            (json!({"mesh": "Some"}), "Malformed", "Some"),
            (json!({"keepaliveSeconds": 40}), "InvalidKeepalive", "which is 90"),
            (json!({"sendHoldTimeSeconds": 90}), "InvalidSendHoldTime", "which is 90"),
        ] {
            let object = object(json!({"metadata": {"name": "default"}, "spec": spec}));
            let bad = bgp_configuration(object).spec.unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }
}

//! From the API's objects to [`crate::model`]: parsed here, trusted everywhere else.

use std::error::Error;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use manx_bgp::types::Asn;
use manx_ipam::choice::Wishes;
use manx_ipam::cidr::{BlockCidr, Cidr};
use manx_ipam::claim::Claim;
use manx_ipam::crd::{IPAMBlock, IPAMRequest, IPPool, IPReservation};
use serde::de::DeserializeOwned;

use super::{full_name, policy};
use crate::crd::{BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec};
use crate::graph::Selector;
use crate::model::labels::Interner;
use crate::model::{
    Bad, BgpConfig, Block, IP_ADDRESSES_EXHAUSTED, Namespace, Node, Object, Peer, Pod, Request, Reservation,
};

/// The name of the one BGPConfiguration that counts.
pub const DEFAULT_CONFIGURATION: &str = "default";

/// A Node; one without addresses is a node nobody can speak with yet, not a bad one.
pub fn node(node: v1::Node) -> Object<Node> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal: Vec<IpAddr> = addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let all = addresses.iter().filter_map(|address| address.address.parse().ok());
    let model = Node {
        addresses: all.collect(),
        uid: node.uid().unwrap_or_default(),
        labels: node.labels().clone(),
        ipv4: internal.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }),
        ipv6: internal.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        }),
        exhausted: node.status.as_ref().and_then(|status| status.conditions.as_ref()).and_then(
            |conditions| {
                let ours = conditions.iter().find(|condition| condition.type_ == IP_ADDRESSES_EXHAUSTED)?;
                Some(ours.status == "True")
            },
        ),
    };
    Object { name: node.name_any(), generation: 0, conditions: Vec::new(), spec: Ok(model) }
}

/// A Pod of any node; `me` is this one.
pub fn pod(pod: v1::Pod, me: &str, interner: &mut Interner) -> Object<Pod> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let here = node == Some(me);
    let model = Pod {
        uid: pod.uid().unwrap_or_default(),
        wishes: if here { wishes(&pod) } else { Ok(Wishes::default()) },
        here,
        policed: policy::pod(&pod, interner),
    };
    Object { name: full_name(&pod), generation: 0, conditions: Vec::new(), spec: Ok(model) }
}

/// A Namespace.
pub fn namespace(namespace: v1::Namespace, interner: &mut Interner) -> Object<Namespace> {
    let model = Namespace {
        labels: namespace.labels().clone(),
        wishes: wishes(&namespace),
        policed: policy::namespace(&namespace, interner),
    };
    Object { name: full_name(&namespace), generation: 0, conditions: Vec::new(), spec: Ok(model) }
}

fn wishes(object: &impl ResourceExt) -> Result<Wishes, Bad> {
    Wishes::read(object.annotations()).map_err(|error| Bad::new("InvalidAnnotation", error))
}

/// An IPReservation.
pub fn reservation(object: DynamicObject) -> Object<Reservation> {
    custom(object, |reservation: IPReservation| {
        let ranges = reservation.spec.addresses.iter().map(|text| {
            let whole = |address: IpAddr| Cidr::around(address, if address.is_ipv4() { 32 } else { 128 });
            let range = match text.parse::<IpAddr>().ok().and_then(whole) {
                Some(range) => Ok(range),
                None => text.parse::<Cidr>(),
            };
            range.map_err(|error| Bad::new("InvalidAddress", format_args!("spec.addresses: {error}")))
        });
        ranges.collect::<Result<_, Bad>>().map(Reservation)
    })
}

/// An IPAMRequest.
pub fn request(object: DynamicObject) -> Object<Request> {
    custom(object, |request: IPAMRequest| {
        let cidr: Cidr = request.spec.block.parse().map_err(|error| Bad::new("InvalidCIDR", error))?;
        let block = BlockCidr::try_from(cidr).map_err(|error| Bad::new("InvalidCIDR", error))?;
        let uid = request.uid().unwrap_or_default();
        let refused = request.status.and_then(|status| status.refused);
        Ok(Request { node: request.spec.node, block, uid, refused })
    })
}

/// An IPPool; what its spec means is [`manx_ipam::pool`]'s to say.
pub fn pool(object: DynamicObject) -> Object<IPPool> {
    custom(object, |pool: IPPool| Ok(pool))
}

/// An IPAMBlock. Who holds its addresses is kept only where `me` owns it. The name is the lock: a block under another
/// name could have two owners.
pub fn block(object: DynamicObject, me: &str) -> Object<Block> {
    custom(object, |block: IPAMBlock| {
        let claim = Claim::try_from(&block).map_err(|error| Bad::new("InvalidBlock", error))?;
        let uid = block.uid().unwrap_or_default();
        let version = block.resource_version().unwrap_or_default();
        let (used, free, allocations) = match block.status {
            Some(status) => (status.used, status.free, status.allocations),
            None => (0, claim.cidr.size().into(), Vec::new()),
        };
        let allocations = if claim.node == me { allocations } else { Vec::new() };
        Ok(Block { claim, uid, version, used, free, allocations })
    })
}

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

impl TryFrom<&BGPConfigurationSpec> for BgpConfig {
    type Error = Bad;

    fn try_from(spec: &BGPConfigurationSpec) -> Result<Self, Bad> {
        Ok(Self {
            asn: asn(spec.as_number)?,
            mesh: spec.mesh,
            listen_port: port("spec.listenPort", spec.listen_port)?,
            hold_time: hold_time(spec.hold_time_seconds)?,
        })
    }
}

impl TryFrom<&BGPPeerSpec> for Peer {
    type Error = Bad;

    fn try_from(spec: &BGPPeerSpec) -> Result<Self, Bad> {
        Ok(Self {
            nodes: Selector::try_from(spec.node_selector.clone()).map_err(|error| {
                Bad::new("InvalidNodeSelector", format_args!("spec.nodeSelector: {error}"))
            })?,
            address: neighbour(&spec.address)?,
            asn: asn(spec.as_number)?,
            port: port("spec.port", spec.port)?,
            hold_time: spec.hold_time_seconds.map(hold_time).transpose()?,
        })
    }
}

fn neighbour(text: &str) -> Result<IpAddr, Bad> {
    let bad = |why: &str| {
        Err(Bad::new(
            "InvalidAddress",
            format_args!("spec.address: \"{text}\" {why}, expected as in 192.0.2.1"),
        ))
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return bad("is not an IP address");
    };
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return bad("is IPv4-mapped: write it as IPv4");
    }
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local {
        return bad(
            "is not an address every node can reach (unspecified, loopback, multicast or link-local)",
        );
    }
    Ok(address)
}

fn asn(number: u32) -> Result<Asn, Bad> {
    if number == 0 {
        return Err(Bad::new("InvalidASN", "spec.asNumber: 0 is reserved (RFC 7607), expected 1–4294967295"));
    }
    Ok(Asn(number))
}

fn port(field: &str, port: u16) -> Result<u16, Bad> {
    if port == 0 {
        return Err(Bad::new("InvalidPort", format_args!("{field}: 0 is not a port, expected 1–65535")));
    }
    Ok(port)
}

fn hold_time(seconds: u16) -> Result<u16, Bad> {
    if matches!(seconds, 1 | 2) {
        let message =
            format!("spec.holdTimeSeconds: {seconds} is neither 0 nor 3–65535 (RFC 4271, section 4.2)");
        return Err(Bad::new("InvalidHoldTime", message));
    }
    Ok(seconds)
}

pub(super) fn custom<K, T>(object: DynamicObject, parse: impl FnOnce(K) -> Result<T, Bad>) -> Object<T>
where
    K: DeserializeOwned,
{
    let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let (name, generation) = (full_name(&object), object.metadata.generation.unwrap_or_default());
    let spec = serde_json::to_value(object)
        .and_then(serde_json::from_value::<K>)
        .map_err(|error| Bad::new("Malformed", format_args!("does not follow its schema: {error}")))
        .and_then(parse);
    Object { name, generation, conditions, spec }
}

/// Whether a watch is too old to go on: the API no longer knows what came since. It begins anew with a list.
pub(super) fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
        || matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Whether the API does not know the kind.
pub(super) fn is_unknown(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) if status.code == 404
    )
}

/// What the API said, when it refused; none when it did not answer at all, or has only forgotten what is old.
pub(super) fn refusal(error: &watcher::Error) -> Option<String> {
    if is_gone(error) {
        return None;
    }
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        watcher::Error::NoResourceVersion => return Some(error.to_string()),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_) => return None,
    };
    Some(match status.code {
        404 => "the API server does not know this kind: are Manx's CRDs installed?".to_owned(),
        401 | 403 => format!("{}: is Manx's ClusterRole bound to this agent's account?", status.message),
        code => format!("{} ({code})", status.message),
    })
}

/// An error with its causes in one line, each said once: many libraries say their cause in their own words already.
pub fn words(error: &(dyn Error + 'static)) -> String {
    let mut said = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let (text, cause) = match error.downcast_ref::<kube::Error>() {
            // The client puts the Debug form of the API's answer behind its message.
            Some(kube::Error::Api(status)) => (status.message.clone(), None),
            _ => (error.to_string().trim_start_matches("ServiceError: ").to_owned(), error.source()),
        };
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause;
    }
    said
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use serde_json::json;

    use super::*;

    fn object(json: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json).unwrap()
    }

    fn peer(spec: serde_json::Value) -> Result<Peer, Bad> {
        bgp_peer(object(json!({"metadata": {"name": "tor1", "generation": 3}, "spec": spec}))).spec
    }

    #[test]
    fn a_cause_is_said_once_and_the_apis_answer_without_its_debug_form() {
        let repeating = Err::<(), _>(io::Error::other("no route")).context("connecting: no route");
        assert_eq!(words(&*repeating.context("reading").unwrap_err()), "reading: connecting: no route");
        let status =
            kube::core::Status::failure("pods \"web\" already exists", "AlreadyExists").with_code(409);
        let refused = Err::<(), _>(kube::Error::Api(Box::new(status))).context("creating");
        assert_eq!(words(&*refused.unwrap_err()), "creating: pods \"web\" already exists");
    }

    #[test]
    fn a_node_has_the_first_internal_address_of_each_family() {
        let node = node(
            serde_json::from_value(json!({
                "metadata": {"name": "node1", "uid": "u1", "labels": {"rack": "a"}},
                "status": {"addresses": [
                    {"type": "Hostname", "address": "node1"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                    {"type": "InternalIP", "address": "fd00::11"},
                    {"type": "InternalIP", "address": "192.0.2.11"},
                    {"type": "InternalIP", "address": "192.0.2.12"},
                ]},
            }))
            .unwrap(),
        );
        let model = node.spec.unwrap();
        assert_eq!(model.ipv4, Some("192.0.2.11".parse().unwrap()));
        assert_eq!(model.ipv6, Some("fd00::11".parse().unwrap()));
        assert_eq!(model.labels["rack"], "a");
    }

    #[test]
    fn defaults_of_a_peer_are_those_of_its_schema() {
        let peer = peer(json!({"address": "192.0.2.1", "asNumber": 65001})).unwrap();
        assert_eq!((peer.port, peer.hold_time, peer.asn), (179, None, Asn(65001)));
    }

    #[test]
    fn a_bad_peer_is_refused_in_words() {
        for (spec, reason, words) in [
            (json!({"address": "tor1", "asNumber": 1}), "InvalidAddress", "\"tor1\" is not an IP address"),
            (json!({"address": "fe80::1", "asNumber": 1}), "InvalidAddress", "link-local"),
            (json!({"address": "::ffff:192.0.2.1", "asNumber": 1}), "InvalidAddress", "write it as IPv4"),
            (json!({"address": "192.0.2.1", "asNumber": 0}), "InvalidASN", "0 is reserved"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "holdTimeSeconds": 2}),
                "InvalidHoldTime",
                "neither 0 nor",
            ),
            (json!({"address": "192.0.2.1", "asNumber": 1, "port": 0}), "InvalidPort", "0 is not a port"),
            (json!({"address": "192.0.2.1", "asNumber": -1}), "Malformed", "does not follow its schema"),
            (json!({"asNumber": 1}), "Malformed", "address"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1,
                    "nodeSelector": {"matchExpressions": [{"key": "k", "operator": "In"}]}}),
                "InvalidNodeSelector",
                "needs at least one value",
            ),
        ] {
            let bad = peer(spec).unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }

    #[test]
    fn only_the_default_configuration_counts() {
        let named =
            |name: &str| bgp_configuration(object(json!({"metadata": {"name": name}, "spec": {}}))).spec;
        assert_eq!(named("default"), Ok(BgpConfig::default()));
        assert_eq!(named("other").unwrap_err().reason, "NotDefault");
    }

    #[test]
    fn a_block_under_a_wrong_name_is_not_a_block() {
        let named = |name: &str| {
            let spec = json!({"cidr": "10.244.3.64/26", "pool": "p", "node": "node1"});
            block(object(json!({"metadata": {"name": name}, "spec": spec})), "node1").spec
        };
        assert!(named("10-244-3-64-26").is_ok());
        assert!(named("mine").unwrap_err().message.contains("10-244-3-64-26"));
    }
}

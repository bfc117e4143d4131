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
use manx_ipam::crd::{IPAMBlock, IPAMBlockStatus, IPAMRequest, IPPool, IPReservation};
use serde::de::DeserializeOwned;

use super::{full_name, policy};
use crate::model::labels::Interner;
use crate::model::{
    self, Bad, Block, IP_ADDRESSES_EXHAUSTED, Namespace, Node, Object, Pod, ROUTE_REFLECTOR, Request,
    Reservation,
};

/// Label of a node: where it stands (kubernetes.io, well-known labels).
const ZONE: &str = "topology.kubernetes.io/zone";

/// A Node; one without addresses is a node nobody can speak with yet, not a bad one.
pub fn node(node: v1::Node, interner: &mut Interner) -> Object<Node> {
    let status = node.status.as_ref();
    let told = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let parse = |address: &v1::NodeAddress| address.address.parse().ok();
    let internal: Vec<IpAddr> =
        told.iter().filter(|address| address.type_ == "InternalIP").filter_map(parse).collect();
    let mut faults = Vec::new();
    let annotated = annotation(&node, model::ADDRESS).map(addresses).transpose();
    let annotated = annotated.unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    let found = annotation(&node, model::FOUND_ADDRESS).map(str::to_owned);
    // What an agent wrote, it wrote well.
    let found_addresses = found.as_deref().and_then(|text| addresses(text).ok()).unwrap_or_default();
    let said = annotation(&node, model::AS_NUMBER)
        .or_else(|| node.labels().get(model::AS_NUMBER).map(String::as_str));
    let asn = said.map(as_number).transpose().unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let drain = annotation(&node, model::DRAIN).filter(|_| unschedulable).map(|text| match text {
        "" => manx_bgp::api::DEFAULT_WAIT,
        text => text.parse().unwrap_or_else(|_| {
            faults.push(format!(
                "the annotation {} is \"{text}\": give a number of seconds; 60 are taken",
                model::DRAIN
            ));
            manx_bgp::api::DEFAULT_WAIT
        }),
    });
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |type_: &str| {
        conditions.iter().find(|condition| condition.type_ == type_).map(|found| found.status == "True")
    };
    let own = |of: fn(IpAddr) -> bool| {
        let written = annotated.iter().flatten().chain(&found_addresses).chain(&internal).copied();
        written.into_iter().find(|address| of(*address))
    };
    let model = Node {
        addresses: told
            .iter()
            .filter_map(parse)
            .chain(annotated.iter().flatten().copied())
            .chain(found_addresses.iter().copied())
            .collect(),
        uid: node.uid().unwrap_or_default(),
        labels: interner.labels(node.labels()),
        ipv4: own(|address| address.is_ipv4()).and_then(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
        ipv6: own(|address| address.is_ipv6()).and_then(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }),
        asn,
        zone: node.labels().get(ZONE).cloned().unwrap_or_default(),
        // A Node without the condition is one nobody has spoken of yet, as in a cluster without node controller.
        dependable: !unschedulable && condition("Ready").unwrap_or(true),
        ready: condition("Ready").unwrap_or(true),
        reflecting: condition(ROUTE_REFLECTOR).unwrap_or_default(),
        drain,
        found,
        faults,
        exhausted: condition(IP_ADDRESSES_EXHAUSTED),
    };
    Object {
        name: node.name_any(),
        uid: String::new(),
        generation: 0,
        conditions: Vec::new(),
        spec: Ok(model),
    }
}

fn annotation<'a>(node: &'a v1::Node, key: &str) -> Option<&'a str> {
    node.annotations().get(key).map(|text| text.trim())
}

/// One of a family, or one of each.
fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let fault = || {
        format!(
            "the annotation {} is \"{text}\": give one address a family, as in 10.1.0.5,fd00::5; it is as if not there",
            model::ADDRESS
        )
    };
    let read = |part: &str| part.trim().parse().ok().filter(|address| is_node(*address)).ok_or_else(fault);
    let addresses: Vec<IpAddr> = text.split(',').map(read).collect::<Result<_, String>>()?;
    let twice = addresses.len() > 2
        || matches!(addresses[..], [first, second] if first.is_ipv4() == second.is_ipv4());
    if twice { Err(fault()) } else { Ok(addresses) }
}

fn is_node(address: IpAddr) -> bool {
    let local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || local)
}

fn as_number(text: &str) -> Result<Asn, String> {
    match text.parse() {
        Ok(number @ 1_u32..) => Ok(Asn(number)),
        _ => Err(format!(
            "its {} is \"{text}\": give an AS from 1 to 4294967295; it has that of the BGPConfiguration",
            model::AS_NUMBER
        )),
    }
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
    Object {
        name: full_name(&pod),
        uid: String::new(),
        generation: 0,
        conditions: Vec::new(),
        spec: Ok(model),
    }
}

/// A Namespace.
pub fn namespace(namespace: v1::Namespace, interner: &mut Interner) -> Object<Namespace> {
    let model = Namespace {
        labels: namespace.labels().clone(),
        wishes: wishes(&namespace),
        policed: policy::namespace(&namespace, interner),
    };
    Object {
        name: full_name(&namespace),
        uid: String::new(),
        generation: 0,
        conditions: Vec::new(),
        spec: Ok(model),
    }
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
        let whole = || IPAMBlockStatus { free: claim.cidr.size().into(), ..IPAMBlockStatus::default() };
        let IPAMBlockStatus { used, free, allocations, node_uid } = block.status.unwrap_or_else(whole);
        let allocations = if claim.node == me { allocations } else { Vec::new() };
        Ok(Block { claim, uid, version, used, free, allocations, node_uid })
    })
}

pub(super) fn custom<K, T>(object: DynamicObject, parse: impl FnOnce(K) -> Result<T, Bad>) -> Object<T>
where
    K: DeserializeOwned,
{
    let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let (name, generation) = (full_name(&object), object.metadata.generation.unwrap_or_default());
    let uid = object.uid().unwrap_or_default();
    let spec = serde_json::to_value(object)
        .and_then(serde_json::from_value::<K>)
        .map_err(|error| Bad::new("Malformed", format_args!("does not follow its schema: {error}")))
        .and_then(parse);
    Object { name, uid, generation, conditions, spec }
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
    use crate::model::labels::Labelled;

    fn object(json: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json).unwrap()
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
            &mut Interner::default(),
        );
        let model = node.spec.unwrap();
        assert_eq!(model.ipv4, Some("192.0.2.11".parse().unwrap()));
        assert_eq!(model.ipv6, Some("fd00::11".parse().unwrap()));
        assert_eq!(model.labels.label("rack"), Some("a"));
    }

    fn annotated(annotations: serde_json::Value) -> Node {
        let node = node(
            serde_json::from_value(json!({
                "metadata": {"name": "node1", "labels": {"manx.io/as-number": "65101"}, "annotations": annotations},
                "spec": {"unschedulable": true},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]},
            }))
            .unwrap(),
            &mut Interner::default(),
        );
        node.spec.unwrap()
    }

    #[test]
    fn annotations_say_a_nodes_address_and_as_and_that_it_is_drained_while_it_is_cordoned() {
        let node = annotated(json!({"manx.io/address": "10.1.0.5, fd00::5", "manx.io/drain": "20"}));
        assert_eq!(node.ipv4, Some("10.1.0.5".parse().unwrap()));
        assert_eq!(node.ipv6, Some("fd00::5".parse().unwrap()));
        assert_eq!((node.asn, node.drain, node.dependable), (Some(Asn(65101)), Some(20), false));
        assert_eq!(annotated(json!({"manx.io/as-number": "65102"})).asn, Some(Asn(65102)));
        assert_eq!(annotated(json!({"manx.io/drain": ""})).drain, Some(60));
        assert_eq!(annotated(json!({})).drain, None);
        assert_eq!(
            annotated(json!({"manx.io/address": "fd00::5"})).ipv4,
            Some("192.0.2.11".parse().unwrap())
        );
    }

    #[test]
    fn a_bad_annotation_is_told_and_as_if_it_were_not_there() {
        for (key, bad) in [
            ("manx.io/address", "10.1.0.5,10.1.0.6"),
            ("manx.io/address", "eth0"),
            ("manx.io/as-number", "0"),
            ("manx.io/drain", "soon"),
        ] {
            let mut annotations = serde_json::Map::new();
            annotations.insert(key.to_owned(), bad.into());
            let node = annotated(annotations.into());
            assert_eq!(node.ipv4, Some("192.0.2.11".parse().unwrap()));
            assert!(matches!(&node.faults[..], [fault] if fault.contains(bad)), "{:?}", node.faults);
        }
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

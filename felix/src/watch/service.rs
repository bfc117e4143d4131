//! Services and EndpointSlices: from the API's objects to [`crate::model::service`]. Of 100,000 endpoints four bits a
//! slice are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use manx_bgp::api::community::CommunityValue;
use manx_ipam::choice::{Wishes, list};
use manx_ipam::cidr::Family;

use super::full_name;
use crate::model::labels::Interner;
use crate::model::service::{Balancer, Endpoints, Marks, Service, Slice, TrafficPolicy};
use crate::model::{Bad, Object};

/// Communities its addresses are announced with, as `["64512:100"]` or `64512:100, no-export, 64512:1:2`.
pub const COMMUNITIES: &str = "manx.io/communities";

/// LOCAL_PREF its addresses are announced with to neighbours of the nodes' own AS: 0–4294967295.
pub const LOCAL_PREFERENCE: &str = "manx.io/local-preference";

/// Services of type LoadBalancer with one value may have one address.
pub const SHARED_ADDRESS: &str = "manx.io/shared-address";

/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
pub fn service(service: v1::Service, interner: &mut Interner) -> Object<Service> {
    let name = full_name(&service);
    let spec = service.spec.as_ref();
    let text = |of: fn(&v1::ServiceSpec) -> Option<&String>| spec.and_then(of).map(String::as_str);
    let policy = |text: Option<&str>| match text {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    let cluster_ips = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    let one = text(|spec| spec.cluster_ip.as_ref());
    let mut cluster_ips: Vec<IpAddr> =
        cluster_ips.iter().map(String::as_str).chain(one).filter_map(|ip| ip.parse().ok()).collect();
    cluster_ips.dedup();
    let external_ips = spec.and_then(|spec| spec.external_ips.as_deref()).unwrap_or_default();
    let kind = text(|spec| spec.type_.as_ref());
    let balancer = (kind == Some("LoadBalancer")).then(|| Box::new(balancer(&service, interner)));
    let model = Service {
        uid: service.uid().unwrap_or_default().into(),
        version: service.resource_version().unwrap_or_default(),
        labels: interner.labels(service.labels()),
        cluster_ips: if kind == Some("ExternalName") { Vec::new() } else { cluster_ips },
        external_ips: external_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        ingress: ingress(&service).collect(),
        internal: policy(text(|spec| spec.internal_traffic_policy.as_ref())),
        external: policy(text(|spec| spec.external_traffic_policy.as_ref())),
        marks: marks(service.annotations()),
        balancer,
    };
    Object { name, uid: String::new(), generation: 0, conditions: Vec::new(), spec: Ok(model) }
}

/// Addresses of `status.loadBalancer` but those whose packets come to nodes by way of a proxy.
fn ingress(service: &v1::Service) -> impl Iterator<Item = IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let direct = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

fn marks(annotations: &BTreeMap<String, String>) -> Result<Marks, Bad> {
    let bad = |message: String| Bad::new("InvalidAnnotation", message);
    let texts = annotations.get(COMMUNITIES).map(|text| list(COMMUNITIES, text)).transpose();
    let texts = texts.map_err(|error| bad(error.to_string()))?.unwrap_or_default();
    let mut communities = Vec::new();
    for text in texts {
        let community: CommunityValue =
            text.parse().map_err(|error| bad(format!("annotation {COMMUNITIES}: {error}")))?;
        if !communities.contains(&community) {
            communities.push(community);
        }
    }
    let preference = annotations.get(LOCAL_PREFERENCE).map(|text| {
        let range =
            || bad(format!("annotation {LOCAL_PREFERENCE}: \"{text}\" is not a number from 0 to 4294967295"));
        text.trim().parse().map_err(|_| range())
    });
    Ok(Marks { communities, local_pref: preference.transpose()? })
}

fn balancer(service: &v1::Service, interner: &mut Interner) -> Balancer {
    let spec = service.spec.clone().unwrap_or_default();
    let named = spec.ip_families.unwrap_or_default();
    let mut families: BTreeSet<Family> = named
        .iter()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::Ipv4),
            "IPv6" => Some(Family::Ipv6),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        families.insert(Family::Ipv4);
    }
    let mut wishes =
        Wishes::read(service.annotations()).map_err(|error| Bad::new("InvalidAnnotation", error));
    let requested = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
    if let (Ok(read), Some(text)) = (&mut wishes, requested)
        && read.ips.is_empty()
    {
        match text.parse() {
            Ok(address) => read.ips.push(address),
            Err(_) => {
                let message = format!("spec.loadBalancerIP: \"{text}\" is not an IP address");
                wishes = Err(Bad::new("InvalidAddress", message));
            }
        }
    }
    let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|port| {
        let protocol = interner.string(port.protocol.as_deref().unwrap_or("TCP"));
        Some((protocol, port.port.try_into().ok()?))
    });
    let ports = ports.collect();
    let annotations = service.annotations();
    let shared = annotations.get(SHARED_ADDRESS).filter(|key| !key.is_empty());
    Balancer {
        class: spec.load_balancer_class.as_deref().map(|class| interner.string(class)),
        families,
        partial: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
        wishes,
        shared: shared.map(|key| interner.string(key)),
        ports,
        pods: interner.labels(&spec.selector.unwrap_or_default()),
        created: service.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
    }
}

/// An EndpointSlice; `me` is this node. One of no Service, or of names, is none.
pub fn slice(slice: EndpointSlice, me: &str, interner: &mut Interner) -> Object<Slice> {
    let name = full_name(&slice);
    let family = match slice.address_type.as_str() {
        "IPv4" => Ok(Family::Ipv4),
        "IPv6" => Ok(Family::Ipv6),
        other => Err(Bad::new("NoAddresses", format!("addressType {other} has no addresses to announce"))),
    };
    let service = slice
        .labels()
        .get(SERVICE_NAME)
        .map(|service| interner.string(&format!("{}/{service}", slice.namespace().unwrap_or_default())));
    let service = service.ok_or_else(|| Bad::new("NoService", format!("has no label {SERVICE_NAME}")));
    let (mut here, mut anywhere) = (Endpoints::default(), Endpoints::default());
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is not said is to be taken for true, of `ready`; `serving` is as `ready` then.
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let ends = Endpoints { ready, ending: serving && conditions.terminating.unwrap_or(false) };
        anywhere = anywhere.and(ends);
        if endpoint.node_name.as_deref() == Some(me) {
            here = here.and(ends);
        }
    }
    let spec = family.and_then(|family| Ok(Slice { service: service?, family, here, anywhere }));
    Object { name, uid: String::new(), generation: 0, conditions: Vec::new(), spec }
}

/// What is written into a Service's status: the addresses it has.
pub fn shown(addresses: &[IpAddr]) -> serde_json::Value {
    let ingress: Vec<serde_json::Value> =
        addresses.iter().map(|ip| serde_json::json!({ "ip": ip, "ipMode": "VIP" })).collect();
    serde_json::json!({ "loadBalancer": { "ingress": ingress } })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: serde_json::Value) -> Service {
        service(serde_json::from_value(json).unwrap(), &mut Interner::default()).spec.unwrap()
    }

    fn read_slice(json: serde_json::Value) -> Result<Slice, Bad> {
        slice(serde_json::from_value(json).unwrap(), "node1", &mut Interner::default()).spec
    }

    fn annotated(pairs: serde_json::Value) -> Result<Marks, Bad> {
        read(json!({"metadata": {"annotations": pairs}})).marks
    }

    #[test]
    fn a_headless_service_has_no_addresses_and_a_proxys_are_not_its_own() {
        let service = read(json!({
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["192.0.2.1", "tor1"]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "VIP"}, {"ip": "192.0.2.9", "ipMode": "Proxy"},
                {"hostname": "lb.example.com"},
            ]}},
        }));
        assert_eq!((service.cluster_ips.len(), service.external_ips.len()), (0, 1));
        let ingress: Vec<String> = service.ingress.iter().map(ToString::to_string).collect();
        assert_eq!(ingress, ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(service.balancer, None);
    }

    #[test]
    fn what_annotations_say_of_its_routes_is_read_or_refused_in_words() {
        let marks =
            annotated(json!({COMMUNITIES: "64512:100, no-export,64512:1:2", LOCAL_PREFERENCE: "200"}));
        let marks = marks.unwrap();
        let said: Vec<String> = marks.communities.iter().map(ToString::to_string).collect();
        assert_eq!(
            (said.join(" "), marks.local_pref),
            ("64512:100 no-export 64512:1:2".to_owned(), Some(200))
        );
        for (key, text, words) in [
            (COMMUNITIES, "64512", "\"64512\" is not a community"),
            (LOCAL_PREFERENCE, "-1", "0 to 4294967295"),
        ] {
            let bad = annotated(json!({ key: text })).unwrap_err();
            assert!(bad.message.contains(words) && bad.message.contains(key), "{bad}");
        }
    }

    #[test]
    fn a_load_balancer_asks_by_annotation_before_it_asks_by_its_spec() {
        let of = |annotations: serde_json::Value| {
            let service = read(json!({
                "metadata": {"annotations": annotations, "resourceVersion": "7"},
                "spec": {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.1", "ipFamilies": ["IPv6", "IPv4"],
                    "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
            }));
            service.balancer.unwrap()
        };
        let plain = of(json!({}));
        assert_eq!(plain.wishes.unwrap().ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(plain.families.len(), 2);
        let ports: Vec<String> =
            plain.ports.iter().map(|(protocol, port)| format!("{protocol}/{port}")).collect();
        assert_eq!(ports, ["TCP/80", "UDP/53"]);
        let asks = of(json!({"manx.io/ips": "192.0.2.9", SHARED_ADDRESS: "web"}));
        assert_eq!(asks.wishes.unwrap().ips, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(asks.shared.as_deref(), Some("web"));
    }

    #[test]
    fn of_endpoints_those_count_that_are_ready_or_end_and_still_serve() {
        let of = |conditions: serde_json::Value, node: &str| {
            let slice = read_slice(json!({
                "metadata": {"name": "web-1", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
                "addressType": "IPv6",
                "endpoints": [{"addresses": ["fd00::1"], "conditions": conditions, "nodeName": node}],
            }));
            slice.unwrap()
        };
        let ends = |ready, ending| Endpoints { ready, ending };
        let slice = of(json!({}), "node1");
        assert_eq!((&*slice.service, slice.family), ("shop/web", Family::Ipv6));
        assert_eq!((slice.here, slice.anywhere), (ends(true, false), ends(true, false)));
        let slice = of(json!({"ready": true}), "node2");
        assert_eq!((slice.here, slice.anywhere), (ends(false, false), ends(true, false)));
        let ending = of(json!({"ready": false, "serving": true, "terminating": true}), "node1");
        assert_eq!(ending.here, ends(false, true));
        let ended = of(json!({"ready": false, "serving": false, "terminating": true}), "node1");
        assert_eq!(ended.here, Endpoints::default());
        assert_eq!(of(json!({"ready": false}), "node1").here, Endpoints::default());
    }

    #[test]
    fn a_slice_of_names_or_of_no_service_is_none() {
        let named =
            json!({"metadata": {"labels": {SERVICE_NAME: "web"}}, "addressType": "FQDN", "endpoints": []});
        assert_eq!(read_slice(named).unwrap_err().reason, "NoAddresses");
        let nobodys = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
        assert_eq!(read_slice(nobodys).unwrap_err().reason, "NoService");
    }
}

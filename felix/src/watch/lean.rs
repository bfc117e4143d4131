//! Objects of which a cluster has many, read without what nobody here looks at: `metadata.managedFields`, which is as
//! long as the rest, a Pod's volumes and environments, a Node's images. Nine tenths of a page of Pods are passed over
//! and never in memory as values.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// A Pod.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = v1::Pod)]
pub struct Pod {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<v1::ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<v1::PodIP>>,
}

/// A Node.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = v1::Node)]
pub struct Node {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeSpec {
    unschedulable: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeStatus {
    addresses: Option<Vec<v1::NodeAddress>>,
    conditions: Option<Vec<NodeCondition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

/// A Namespace.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = v1::Namespace)]
pub struct Namespace {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
}

/// A Service.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = v1::Service)]
pub struct Service {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Option<v1::ServiceSpec>,
    status: Option<v1::ServiceStatus>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = discovery::EndpointSlice)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    conditions: Option<discovery::EndpointConditions>,
    node_name: Option<String>,
}

/// What is read of the metadata of all of them.
fn metadata<'de, D: Deserializer<'de>>(json: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let read = Metadata::deserialize(json)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        creation_timestamp: read.creation_timestamp,
        labels: read.labels,
        annotations: read.annotations,
        ..ObjectMeta::default()
    })
}

impl From<Pod> for v1::Pod {
    fn from(Pod { metadata, spec, status }: Pod) -> Self {
        let containers = |containers: Vec<Container>| -> Vec<v1::Container> {
            let read = containers.into_iter().map(|Container { ports, restart_policy }| v1::Container {
                ports,
                restart_policy,
                ..v1::Container::default()
            });
            read.collect()
        };
        let spec = spec.map(|spec| v1::PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            containers: spec.containers.map(containers).unwrap_or_default(),
            init_containers: spec.init_containers.map(containers),
            ..v1::PodSpec::default()
        });
        let status = status.map(|PodStatus { phase, pod_ip, pod_ips }| v1::PodStatus {
            phase,
            pod_ip,
            pod_ips,
            ..v1::PodStatus::default()
        });
        Self { metadata, spec, status }
    }
}

impl From<Node> for v1::Node {
    fn from(Node { metadata, spec, status }: Node) -> Self {
        let condition = |NodeCondition { type_, status }| v1::NodeCondition {
            type_,
            status,
            ..v1::NodeCondition::default()
        };
        let spec =
            spec.map(|NodeSpec { unschedulable }| v1::NodeSpec { unschedulable, ..v1::NodeSpec::default() });
        let status = status.map(|NodeStatus { addresses, conditions }| v1::NodeStatus {
            addresses,
            conditions: conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
            ..v1::NodeStatus::default()
        });
        Self { metadata, spec, status }
    }
}

impl From<Namespace> for v1::Namespace {
    fn from(Namespace { metadata }: Namespace) -> Self {
        Self { metadata, ..Self::default() }
    }
}

impl From<Service> for v1::Service {
    fn from(Service { metadata, spec, status }: Service) -> Self {
        Self { metadata, spec, status }
    }
}

impl From<EndpointSlice> for discovery::EndpointSlice {
    fn from(EndpointSlice { metadata, address_type, endpoints }: EndpointSlice) -> Self {
        let endpoint = |Endpoint { conditions, node_name }| discovery::Endpoint {
            conditions,
            node_name,
            ..discovery::Endpoint::default()
        };
        let endpoints = endpoints.unwrap_or_default().into_iter().map(endpoint).collect();
        Self { metadata, address_type, endpoints, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::labels::Interner;
    use crate::watch::{convert, service};

    fn with_metadata(rest: Value) -> Value {
        let mut object = json!({"metadata": {
            "name": "web-1", "namespace": "shop", "uid": "u-1", "resourceVersion": "77", "generation": 3,
            "creationTimestamp": "2026-11-21T10:00:00Z", "labels": {"app": "web"},
            "annotations": {"manx.io/ip-pools": "[\"a\"]", "manx.io/spoofing": "allowed", "manx.io/as-number": "64513",
                "kubernetes.io/config.mirror": "static"},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}],
        }});
        let fields = rest.as_object().unwrap().clone();
        object.as_object_mut().unwrap().extend(fields);
        object
    }

    /// Read leanly and wholly, an object means the same.
    fn same<L, K, T: PartialEq + std::fmt::Debug>(object: &Value, convert: impl Fn(K) -> T)
    where
        L: serde::de::DeserializeOwned + Into<K>,
        K: serde::de::DeserializeOwned,
    {
        let lean: L = serde_json::from_value(object.clone()).unwrap();
        let whole: K = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(convert(lean.into()), convert(whole));
    }

    #[test]
    fn a_pod_means_what_it_means_when_all_of_it_is_read() {
        let pods = [
            json!({"spec": {"nodeName": "n1", "volumes": [{"name": "v"}], "containers": [
                    {"name": "c", "image": "i", "env": [{"name": "A"}], "ports": [
                        {"name": "http", "containerPort": 80}, {"containerPort": 81, "protocol": "UDP"}]}],
                "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
                    {"name": "i", "ports": [{"name": "no", "containerPort": 10}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
            json!({"spec": {"containers": null, "hostNetwork": true}, "status": {"podIPs": null}}),
            json!({"spec": {"containers": []}, "status": {"phase": "Succeeded"}}),
            json!({"spec": {"containers": []}, "status": {"podIP": "10.0.0.2"}}),
            json!({}),
        ];
        for pod in pods {
            let convert = |pod: v1::Pod| convert::pod(pod, "n1", &mut Interner::default());
            same::<Pod, v1::Pod, _>(&with_metadata(pod), convert);
        }
    }

    #[test]
    fn a_node_means_what_it_means_when_all_of_it_is_read() {
        let nodes = [
            json!({"spec": {"unschedulable": true, "podCIDR": "10.0.0.0/24"}, "status": {
                "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}, {"type": "Hostname", "address": "n1"}],
                "images": [{"names": ["a"], "sizeBytes": 1}],
                "conditions": [{"type": "Ready", "status": "False", "reason": "r"},
                    {"type": "manx.io/RouteReflector", "status": "True"}]}}),
            json!({"spec": {}, "status": {"addresses": null, "conditions": null}}),
            json!({}),
        ];
        for node in nodes {
            let convert = |node: v1::Node| convert::node(node, &mut Interner::default());
            same::<Node, v1::Node, _>(&with_metadata(node), convert);
        }
    }

    #[test]
    fn namespaces_services_and_their_slices_do_too() {
        let namespace = |namespace| convert::namespace(namespace, &mut Interner::default());
        same::<Namespace, v1::Namespace, _>(&with_metadata(json!({"spec": {"finalizers": []}})), namespace);
        let balancer = json!({
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalTrafficPolicy": "Local",
                "ports": [{"port": 80}], "selector": {"app": "web"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}});
        let read = |object| service::service(object, &mut Interner::default());
        same::<Service, v1::Service, _>(&with_metadata(balancer), read);
        for slice in [
            json!({"addressType": "IPv4", "ports": [], "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": false, "serving": true,
                    "terminating": true}, "targetRef": {"kind": "Pod"}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2"}]}),
            json!({"addressType": "IPv6", "endpoints": null}),
        ] {
            let mut slice = with_metadata(slice);
            slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
            let read = |object| service::slice(object, "n1", &mut Interner::default());
            same::<EndpointSlice, discovery::EndpointSlice, _>(&slice, read);
        }
    }
}

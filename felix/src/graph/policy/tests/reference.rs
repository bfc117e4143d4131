//! What the API's text says of a packet, with no thought of speed: the documentation of NetworkPolicy and of
//! ClusterNetworkPolicy, sentence by sentence, on the objects as the API server has them. It shares no code with what
//! it judges.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1 as np;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::World;
use crate::acl::evaluate::{Flow, Transport};
use crate::cluster_network_policy as cnp;

type Labels = BTreeMap<String, String>;

/// Which side of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ingress,
    Egress,
}

/// Whether a connection is let through, as far as the side (source, destination) is one of `pods`.
pub fn passes(
    world: &World,
    flow: &Flow,
    source: Option<&v1::Pod>,
    destination: Option<&v1::Pod>,
) -> (bool, bool) {
    let same = source.is_some() && source.map(|pod| &pod.metadata) == destination.map(|pod| &pod.metadata);
    let egress = source.is_none_or(|pod| same || side(world, flow, pod, Side::Egress));
    let ingress = destination.is_none_or(|pod| same || side(world, flow, pod, Side::Ingress));
    (egress, ingress)
}

fn side(world: &World, flow: &Flow, pod: &v1::Pod, side: Side) -> bool {
    let own = world.nodes.get(pod.spec.as_ref().unwrap().node_name.as_ref().unwrap());
    let is_own_node = |address: IpAddr| own.is_some_and(|node| node.addresses.contains(&address));
    // "traffic to and from the node where a Pod is running is always allowed".
    if side == Side::Ingress && is_own_node(flow.source) && world.pod_at(flow.source).is_none() {
        return true;
    }
    if let Some(decided) = cluster(world, flow, pod, side, "Admin") {
        return decided;
    }
    let own_node = side == Side::Egress && is_own_node(flow.destination);
    if !own_node && let Some(decided) = network(world, flow, pod, side) {
        return decided;
    }
    cluster(world, flow, pod, side, "Baseline").unwrap_or(true)
}

fn audits(annotations: Option<&Labels>) -> bool {
    annotations
        .and_then(|annotations| annotations.get("manx.io/policy-mode"))
        .is_some_and(|mode| mode == "audit")
}

/// "If a pod is selected by any NetworkPolicy in a direction it is isolated in that direction; what is allowed is the
/// union of what the applicable policies allow."
fn network(world: &World, flow: &Flow, pod: &v1::Pod, side: Side) -> Option<bool> {
    let (mut isolated, mut enforced) = (false, false);
    for policy in world.network_policies.values() {
        let spec = policy.spec.clone().unwrap_or_default();
        let mine = policy.metadata.namespace == pod.metadata.namespace;
        if !mine || !selects(&spec.pod_selector.clone().unwrap_or_default(), labels(pod)) {
            continue;
        }
        let types = spec.policy_types.clone().unwrap_or_default();
        let egress_rules = !spec.egress.clone().unwrap_or_default().is_empty();
        let applies = match side {
            Side::Ingress => types.is_empty() || types.iter().any(|kind| kind == "Ingress"),
            Side::Egress if types.is_empty() => egress_rules,
            Side::Egress => types.iter().any(|kind| kind == "Egress"),
        };
        if !applies {
            continue;
        }
        isolated = true;
        let namespace = &world.namespaces[pod.metadata.namespace.as_ref().unwrap()];
        enforced |=
            !audits(policy.metadata.annotations.as_ref()) && !audits(namespace.metadata.annotations.as_ref());
        let rules: Vec<_> = match side {
            Side::Ingress => {
                spec.ingress.unwrap_or_default().into_iter().map(|r| (r.from, r.ports)).collect()
            }
            Side::Egress => spec.egress.unwrap_or_default().into_iter().map(|r| (r.to, r.ports)).collect(),
        };
        for (peers, ports) in rules {
            // "If this field is empty or missing, this rule matches all sources / all ports."
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            let other = if side == Side::Ingress { flow.source } else { flow.destination };
            let who = peers.is_empty()
                || peers
                    .iter()
                    .any(|peer| np_peer(world, pod.metadata.namespace.as_ref().unwrap(), peer, other));
            if who && (ports.is_empty() || ports.iter().any(|port| np_port(world, port, flow))) {
                return Some(true);
            }
        }
    }
    if isolated && enforced { Some(false) } else { None }
}

fn np_peer(world: &World, own: &str, peer: &np::NetworkPolicyPeer, address: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        let inside = |cidr: &String| cidr.parse::<IpNetwork>().unwrap().contains(address);
        return peer.pod_selector.is_none()
            && peer.namespace_selector.is_none()
            && inside(&block.cidr)
            && !block.except.iter().flatten().any(inside);
    }
    let Some(pod) = world.pod_at(address) else { return false };
    let namespace = pod.metadata.namespace.as_ref().unwrap();
    match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => false,
        (None, Some(pods)) => namespace == own && selects(pods, labels(pod)),
        (Some(namespaces), pods) => {
            world.namespace_matches(namespace, |labels| selects(namespaces, labels))
                && selects(&pods.clone().unwrap_or_default(), labels(pod))
        }
    }
}

fn np_port(world: &World, port: &np::NetworkPolicyPort, flow: &Flow) -> bool {
    let Transport::Port(protocol, number) = flow.transport else { return false };
    let wanted = port.protocol.as_deref().unwrap_or("TCP");
    if wanted != protocol.to_string() {
        return false;
    }
    match (&port.port, port.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), None) => *first == i32::from(number),
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&i32::from(number)),
        (Some(IntOrString::String(name)), _) => named(world, flow, name, Some(wanted)),
    }
}

/// A named port is a port of the pod the packet goes to.
fn named(world: &World, flow: &Flow, name: &str, protocol: Option<&str>) -> bool {
    let Transport::Port(actual, number) = flow.transport else { return false };
    let Some(pod) = world.pod_at(flow.destination) else { return false };
    let containers = &pod.spec.as_ref().unwrap().containers;
    containers.iter().flat_map(|container| container.ports.iter().flatten()).any(|port| {
        let of = port.protocol.as_deref().unwrap_or("TCP");
        port.name.as_deref() == Some(name)
            && port.container_port == i32::from(number)
            && of == actual.to_string()
            && protocol.is_none_or(|wanted| wanted == of)
    })
}

/// Accept and Deny are final, Pass leaves the tier; smaller priorities are first, and the order of equal ones is by
/// name here.
fn cluster(world: &World, flow: &Flow, pod: &v1::Pod, side: Side, tier: &str) -> Option<bool> {
    let mut policies: Vec<_> =
        world.cluster_policies.values().filter(|policy| policy.spec.tier == tier).collect();
    policies.sort_by_key(|policy| (policy.spec.priority, policy.metadata.name.clone()));
    for policy in policies {
        if !cnp_selects(world, &policy.spec.subject.namespaces, &policy.spec.subject.pods, pod) {
            continue;
        }
        let rules = if side == Side::Ingress { &policy.spec.ingress } else { &policy.spec.egress };
        for rule in rules {
            let (peers, other) = match side {
                Side::Ingress => (&rule.from, flow.source),
                Side::Egress => (&rule.to, flow.destination),
            };
            let unknown = |peer: &cnp::Peer| *peer == cnp::Peer::default() || peer.domain_names.is_some();
            if peers.iter().any(unknown) {
                // "For Accept rules, treat the rule as matching no traffic. For Deny and Pass rules, treat the rule
                // as a 'Deny all' rule."
                if rule.action == "Accept" {
                    continue;
                }
                if audits(policy.metadata.annotations.as_ref()) {
                    continue;
                }
                return Some(false);
            }
            let ports = rule.protocols.as_deref().unwrap_or_default();
            let matches = peers.iter().any(|peer| {
                let networks_or_nodes = peer.networks.is_some() || peer.nodes.is_some();
                cnp_peer(world, peer, other)
                    && (ports.is_empty()
                        || ports.iter().any(|port| {
                            cnp_port(world, port, flow, peer.nodes.is_some() && networks_or_nodes)
                        }))
            });
            match rule.action.as_str() {
                _ if !matches => {}
                "Accept" => return Some(true),
                "Pass" => return None,
                _ if audits(policy.metadata.annotations.as_ref()) => {}
                _ => return Some(false),
            }
        }
    }
    None
}

fn cnp_selects(
    world: &World,
    namespaces: &Option<LabelSelector>,
    pods: &Option<cnp::NamespacedPod>,
    pod: &v1::Pod,
) -> bool {
    let namespace = pod.metadata.namespace.as_ref().unwrap();
    match (namespaces, pods) {
        (Some(selector), _) => world.namespace_matches(namespace, |labels| selects(selector, labels)),
        (None, Some(both)) => {
            world.namespace_matches(namespace, |labels| selects(&both.namespace_selector, labels))
                && selects(&both.pod_selector, labels(pod))
        }
        (None, None) => false,
    }
}

fn cnp_peer(world: &World, peer: &cnp::Peer, address: IpAddr) -> bool {
    if let Some(networks) = &peer.networks {
        return networks.iter().any(|cidr| cidr.parse::<IpNetwork>().unwrap().contains(address));
    }
    if let Some(nodes) = &peer.nodes {
        return world
            .nodes
            .values()
            .any(|node| selects(nodes, &node.labels) && node.addresses.contains(&address));
    }
    world.pod_at(address).is_some_and(|pod| cnp_selects(world, &peer.namespaces, &peer.pods, pod))
}

fn cnp_port(world: &World, port: &cnp::Protocol, flow: &Flow, without_names: bool) -> bool {
    let Transport::Port(actual, number) = flow.transport else { return false };
    let of = [("TCP", &port.tcp), ("UDP", &port.udp), ("SCTP", &port.sctp)];
    for (name, destination) in of {
        if let Some(destination) = destination {
            let in_range = match &destination.destination_port {
                None => true,
                Some(cnp::Port { range: Some(range), .. }) => {
                    (range.start..=range.end).contains(&i32::from(number))
                }
                Some(port) => port.number == Some(i32::from(number)),
            };
            return name == actual.to_string() && in_range;
        }
    }
    let name = port.destination_named_port.as_deref();
    name.is_some_and(|name| !without_names && named(world, flow, name, None))
}

fn labels(pod: &v1::Pod) -> &Labels {
    static NONE: Labels = Labels::new();
    pod.metadata.labels.as_ref().unwrap_or(&NONE)
}

/// "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects."
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed =
                value.is_some_and(|value| expression.values.iter().flatten().any(|listed| listed == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other}"),
            }
        })
}

//! NetworkPolicies, ClusterNetworkPolicies, and what they look at: from the API's objects to [`crate::model::policy`].
//!
//! What cannot be done as written is done on the safe side, and complained of: a peer that cannot be read is nobody to
//! whom it would give, and everybody from whom it would take.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::DynamicObject;
use smallvec::SmallVec;

use super::convert::custom;
use super::full_name;
use crate::acl::ruleset::{Action, Direction, Mode, PortRange, Protocol, Range, Spoofing, Tier};
use crate::cluster_network_policy::{self as cnp, ClusterNetworkPolicy};
use crate::graph::Selector;
use crate::model::labels::Interner;
use crate::model::policy::{NamedPort, Namespace, Namespaces, Peer, Pod, PodSelector, Policy, Port, Rule};
use crate::model::{Bad, Object};

/// `audit` or `enforce`; of a NetworkPolicy, a ClusterNetworkPolicy, or of all NetworkPolicies of a Namespace.
pub const MODE: &str = "manx.io/policy-mode";

/// `allowed` or `denied`: whether a pod may send from addresses it does not hold. Of the Pod, and in force only where
/// its Namespace says so too.
pub const SPOOFING: &str = "manx.io/spoofing";

/// Of a Pod that mirrors a static one: the UID the kubelet and the runtime know it by.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The label every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What a pod means to policies; none where it has ended, or has the network of its node.
pub fn pod(pod: &v1::Pod, interner: &mut Interner) -> Option<Pod> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let ended = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return None;
    }
    let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let all = all.iter().map(|address| address.ip.as_str());
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let mut addresses: SmallVec<[IpAddr; 2]> =
        all.chain(one).filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Some(Pod {
        namespace: interner.string(&pod.namespace().unwrap_or_default()),
        node: interner.string(spec.node_name.as_deref().unwrap_or_default()),
        labels: interner.labels(pod.labels()),
        addresses,
        ports: named_ports(spec, interner),
        spoofing: spoofing(pod.annotations()),
        created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        uid: pod.annotations().get(MIRROR).cloned().or_else(|| pod.uid()).unwrap_or_default().into(),
    })
}

fn named_ports(spec: &v1::PodSpec, interner: &mut Interner) -> Arc<[NamedPort]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut named: Vec<NamedPort> = ports
        .filter_map(|port| {
            Some(NamedPort {
                name: interner.string(port.name.as_deref()?),
                protocol: protocol(port.protocol.as_deref())?,
                port: port.container_port.try_into().ok()?,
            })
        })
        .collect();
    named.sort_unstable();
    named.dedup();
    interner.ports(named)
}

fn spoofing(annotations: &BTreeMap<String, String>) -> Spoofing {
    match annotations.get(SPOOFING).map(String::as_str) {
        Some("allowed") => Spoofing::Allowed,
        Some(_) | None => Spoofing::Denied,
    }
}

/// What a Namespace means to policies.
pub fn namespace(namespace: &v1::Namespace, interner: &mut Interner) -> Namespace {
    let mut labels = namespace.labels().clone();
    labels.insert(NAMESPACE_NAME.to_owned(), namespace.name_any());
    Namespace {
        labels: interner.labels(&labels),
        mode: mode(namespace.annotations(), &mut Vec::new()),
        spoofing: spoofing(namespace.annotations()),
    }
}

/// Versions are opaque to most; that those of one kind are numbers that grow is said by KEP-5504.
fn version(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

fn mode(annotations: &BTreeMap<String, String>, complaints: &mut Vec<String>) -> Mode {
    match annotations.get(MODE).map(String::as_str) {
        Some("audit") => Mode::Audit,
        None | Some("enforce") => Mode::Enforce,
        Some(other) => {
            complaints.push(format!(
                "metadata.annotations[{MODE}]: \"{other}\" is neither \"audit\" nor \"enforce\": it is enforced"
            ));
            Mode::Enforce
        }
    }
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// Reads one object, and remembers what of it is not done as written.
struct Reader {
    namespace: Arc<str>,
    complaints: Vec<String>,
}

impl Reader {
    fn complain(&mut self, path: impl fmt::Display, message: impl fmt::Display) {
        self.complaints.push(format!("{path}: {message}"));
    }

    /// A selector, or a complaint.
    fn selector(&mut self, path: impl fmt::Display, selector: LabelSelector) -> Option<Selector> {
        match Selector::try_from(selector) {
            Ok(selector) => Some(selector),
            Err(error) => {
                self.complain(path, error);
                None
            }
        }
    }
}

/// A NetworkPolicy. What it says is never refused as a whole: whom it isolates stays isolated.
pub fn network_policy(object: networking::NetworkPolicy) -> Object<Policy> {
    let (name, generation) = (full_name(&object), object.metadata.generation.unwrap_or_default());
    let (uid, version) = (object.uid().unwrap_or_default().into(), version(&object));
    let namespace: Arc<str> = object.namespace().unwrap_or_default().into();
    let mut reader = Reader { namespace: Arc::clone(&namespace), complaints: Vec::new() };
    let mode = mode(object.annotations(), &mut reader.complaints);
    let spec = object.spec.unwrap_or_default();
    let pods =
        reader.selector("spec.podSelector", spec.pod_selector.unwrap_or_default()).unwrap_or_else(|| {
            reader.complain("spec.podSelector", "taken for all pods of the namespace");
            Selector::default()
        });
    let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
    let (mut is_ingress, mut is_egress) = (false, false);
    let types = spec.policy_types.unwrap_or_default();
    for kind in &types {
        match kind.as_str() {
            "Ingress" => is_ingress = true,
            "Egress" => is_egress = true,
            other => {
                reader.complain("spec.policyTypes", format_args!("\"{other}\" is not known and does nothing"))
            }
        }
    }
    if types.is_empty() {
        (is_ingress, is_egress) = (true, !egress.is_empty());
    }
    let ingress = ingress.into_iter().enumerate().map(|(index, rule)| {
        reader.np_rule(&format!("spec.ingress[{index}]"), "from", rule.from, rule.ports)
    });
    let ingress: Vec<Rule> = ingress.collect();
    let egress = egress
        .into_iter()
        .enumerate()
        .map(|(index, rule)| reader.np_rule(&format!("spec.egress[{index}]"), "to", rule.to, rule.ports));
    let egress: Vec<Rule> = egress.collect();
    let policy = Policy {
        tier: Tier::Network,
        priority: 0,
        mode,
        subject: PodSelector { namespaces: Namespaces::Named(namespace), pods },
        ingress: is_ingress.then_some(ingress),
        egress: is_egress.then_some(egress),
        complaints: reader.complaints,
        uid,
        version,
    };
    Object { name, uid: String::new(), generation, conditions: Vec::new(), spec: Ok(policy) }
}

impl Reader {
    fn np_rule(
        &mut self,
        path: &str,
        field: &str,
        peers: Option<Vec<networking::NetworkPolicyPeer>>,
        ports: Option<Vec<networking::NetworkPolicyPort>>,
    ) -> Rule {
        let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
            let peers = peers.into_iter().enumerate();
            join(peers.filter_map(|(index, peer)| self.np_peer(&format!("{path}.{field}[{index}]"), peer)))
        });
        let ports = ports.filter(|ports| !ports.is_empty()).map(|ports| {
            let ports = ports.into_iter().enumerate();
            ports.filter_map(|(index, port)| self.np_port(&format!("{path}.ports[{index}]"), port)).collect()
        });
        Rule { action: Action::Accept, peers, ports, name: None }
    }

    fn np_peer(&mut self, path: &str, peer: networking::NetworkPolicyPeer) -> Option<Peer> {
        let networking::NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        if let Some(block) = ip_block {
            if namespace_selector.is_some() || pod_selector.is_some() {
                self.complain(
                    path,
                    "has ipBlock and a selector, which exclude each other: it matches nobody",
                );
                return None;
            }
            return self.ip_block(path, &block);
        }
        if namespace_selector.is_none() && pod_selector.is_none() {
            self.complain(path, "has none of podSelector, namespaceSelector and ipBlock: it matches nobody");
            return None;
        }
        let namespaces = match namespace_selector {
            None => Namespaces::Named(Arc::clone(&self.namespace)),
            Some(selector) => {
                Namespaces::Labelled(self.selector(format_args!("{path}.namespaceSelector"), selector)?)
            }
        };
        let pods = self.selector(format_args!("{path}.podSelector"), pod_selector.unwrap_or_default())?;
        Some(Peer::Pods(PodSelector { namespaces, pods }))
    }

    fn ip_block(&mut self, path: &str, block: &networking::IPBlock) -> Option<Peer> {
        let mut ranges = vec![self.cidr(format_args!("{path}.ipBlock.cidr"), &block.cidr)?];
        for (index, except) in block.except.iter().flatten().enumerate() {
            let except = self.cidr(format_args!("{path}.ipBlock.except[{index}]"), except)?;
            ranges = ranges.into_iter().flat_map(|range| without(range, except)).collect();
        }
        Some(Peer::Networks(ranges))
    }

    /// Host bits are cut, as the API server and all others do.
    fn cidr(&mut self, path: impl fmt::Display, text: &str) -> Option<Range> {
        match text.parse::<IpNetwork>() {
            Ok(network) if text.contains('/') => Some(range(network)),
            Ok(_) | Err(_) => {
                self.complain(
                    path,
                    format_args!("\"{text}\" is not a CIDR, expected as in 192.0.2.0/24: it matches nobody"),
                );
                None
            }
        }
    }

    fn np_port(&mut self, path: &str, port: networking::NetworkPolicyPort) -> Option<Port> {
        let Some(protocol) = protocol(port.protocol.as_deref()) else {
            let name = port.protocol.unwrap_or_default();
            self.complain(path, format_args!("protocol \"{name}\" is not known: it matches nothing"));
            return None;
        };
        match (port.port, port.end_port) {
            (None, None) => Some(Port::Number(PortRange::all(protocol))),
            (Some(IntOrString::String(name)), None) => Some(Port::Named(name.into(), Some(protocol))),
            (Some(IntOrString::Int(first)), end) => self.range(path, protocol, first, end.unwrap_or(first)),
            (None | Some(IntOrString::String(_)), Some(_)) => {
                self.complain(path, "has endPort without a port number to begin with: it matches nothing");
                None
            }
        }
    }

    fn range(&mut self, path: &str, protocol: Protocol, first: i32, last: i32) -> Option<Port> {
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => {
                Some(Port::Number(PortRange { protocol, first, last }))
            }
            _ => {
                self.complain(
                    path,
                    format_args!("{first} to {last} are not ports in 1–65535: it matches nothing"),
                );
                None
            }
        }
    }
}

/// A ClusterNetworkPolicy. One whose tier or subject cannot be read is not in force.
pub fn cluster_network_policy(object: DynamicObject) -> Object<Policy> {
    custom(object, |object: ClusterNetworkPolicy| {
        let mut reader = Reader { namespace: Arc::default(), complaints: Vec::new() };
        let mode = mode(object.annotations(), &mut reader.complaints);
        let (uid, version) = (object.uid().unwrap_or_default().into(), version(&object));
        let spec = object.spec;
        let tier = match spec.tier.as_str() {
            "Admin" => Tier::Admin,
            "Baseline" => Tier::Baseline,
            other => {
                let message = format!("spec.tier: \"{other}\" is not known, expected Admin or Baseline");
                return Err(Bad::new("UnknownTier", message));
            }
        };
        let cnp::Selected { namespaces, pods } = spec.subject;
        let subject = match (namespaces, pods) {
            (Some(namespaces), None) => reader.namespaces("spec.subject.namespaces", namespaces),
            (None, Some(pods)) => reader.namespaced("spec.subject.pods", pods),
            (Some(_), Some(_)) | (None, None) => {
                reader.complain("spec.subject", "must have exactly one of namespaces and pods");
                None
            }
        };
        let Some(subject) = subject else {
            return Err(Bad::new("InvalidSubject", reader.complaints.join("; ")));
        };
        let mut rules = |rules: Vec<cnp::Rule>, direction: Direction| -> Vec<Rule> {
            let rules = rules.into_iter().enumerate();
            rules
                .map(|(index, rule)| reader.cnp_rule(&format!("spec.{direction}[{index}]"), rule, direction))
                .collect()
        };
        let ingress = rules(spec.ingress, Direction::Ingress);
        let egress = rules(spec.egress, Direction::Egress);
        Ok(Policy {
            tier,
            priority: spec.priority,
            mode,
            subject,
            ingress: Some(ingress),
            egress: Some(egress),
            complaints: reader.complaints,
            uid,
            version,
        })
    })
}

impl Reader {
    fn namespaces(&mut self, path: &str, namespaces: LabelSelector) -> Option<PodSelector> {
        let namespaces = Namespaces::Labelled(self.selector(path, namespaces)?);
        Some(PodSelector { namespaces, pods: Selector::default() })
    }

    fn namespaced(&mut self, path: &str, pods: cnp::NamespacedPod) -> Option<PodSelector> {
        let namespaces = self.selector(format_args!("{path}.namespaceSelector"), pods.namespace_selector)?;
        let pods = self.selector(format_args!("{path}.podSelector"), pods.pod_selector)?;
        Some(PodSelector { namespaces: Namespaces::Labelled(namespaces), pods })
    }

    fn cnp_rule(&mut self, path: &str, rule: cnp::Rule, direction: Direction) -> Rule {
        let name = Some(rule.name).filter(|name| !name.is_empty()).map(Into::into);
        let action = match rule.action.as_str() {
            "Accept" => Action::Accept,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => {
                self.complain(
                    format_args!("{path}.action"),
                    format_args!("\"{other}\" is not known: it denies"),
                );
                Action::Deny
            }
        };
        let (field, peers) = match direction {
            Direction::Ingress => ("from", rule.from),
            Direction::Egress => ("to", rule.to),
        };
        let complained = self.complaints.len();
        if peers.is_empty() {
            self.complain(format_args!("{path}.{field}"), "has no peer");
        }
        let peers: Vec<Peer> = peers
            .into_iter()
            .enumerate()
            .filter_map(|(index, peer)| self.cnp_peer(&format!("{path}.{field}[{index}]"), peer, direction))
            .collect();
        let protocols = rule.protocols.filter(|protocols| !protocols.is_empty());
        let ports: Option<Vec<Port>> = protocols.map(|protocols| {
            let protocols = protocols.into_iter().enumerate();
            let ports = protocols.filter_map(|(index, protocol)| {
                self.cnp_port(&format!("{path}.protocols[{index}]"), protocol)
            });
            ports.collect()
        });
        if self.complaints.len() == complained {
            return Rule { action, peers: Some(join(peers.into_iter())), ports, name };
        }
        // As the API says of a peer that is not known.
        match action {
            Action::Accept => {
                self.complain(path, "accepts nothing");
                Rule { action, peers: Some(Vec::new()), ports: None, name }
            }
            Action::Deny | Action::Pass => {
                self.complain(path, "denies everything");
                Rule { action: Action::Deny, peers: None, ports: None, name }
            }
        }
    }

    fn cnp_peer(&mut self, path: &str, peer: cnp::Peer, direction: Direction) -> Option<Peer> {
        let cnp::Peer { namespaces, pods, nodes, networks, domain_names } = peer;
        let egress = direction == Direction::Egress;
        match (namespaces, pods, nodes, networks, domain_names) {
            (Some(namespaces), None, None, None, None) => {
                self.namespaces(&format!("{path}.namespaces"), namespaces).map(Peer::Pods)
            }
            (None, Some(pods), None, None, None) => {
                self.namespaced(&format!("{path}.pods"), pods).map(Peer::Pods)
            }
            (None, None, Some(nodes), None, None) if egress => {
                self.selector(format_args!("{path}.nodes"), nodes).map(Peer::Nodes)
            }
            (None, None, None, Some(networks), None) if egress => {
                let networks = networks.iter().enumerate();
                let ranges =
                    networks.map(|(index, text)| self.cidr(format_args!("{path}.networks[{index}]"), text));
                ranges.collect::<Option<_>>().map(Peer::Networks)
            }
            (None, None, None, None, Some(_)) if egress => {
                self.complain(path, "domainNames are not supported");
                None
            }
            _ => {
                self.complain(path, "must have exactly one of the fields known here for this direction");
                None
            }
        }
    }

    fn cnp_port(&mut self, path: &str, protocol: cnp::Protocol) -> Option<Port> {
        let cnp::Protocol { tcp, udp, sctp, destination_named_port: named } = protocol;
        let (protocol, destination) = match (tcp, udp, sctp, named) {
            (Some(tcp), None, None, None) => (Protocol::Tcp, tcp),
            (None, Some(udp), None, None) => (Protocol::Udp, udp),
            (None, None, Some(sctp), None) => (Protocol::Sctp, sctp),
            (None, None, None, Some(name)) => return Some(Port::Named(name.into(), None)),
            _ => {
                self.complain(path, "must have exactly one of tcp, udp, sctp and destinationNamedPort");
                return None;
            }
        };
        match destination.destination_port {
            None => Some(Port::Number(PortRange::all(protocol))),
            Some(cnp::Port { number: Some(number), range: None }) => {
                self.range(path, protocol, number, number)
            }
            Some(cnp::Port { number: None, range: Some(range) }) => {
                self.range(path, protocol, range.start, range.end)
            }
            Some(cnp::Port { .. }) => {
                self.complain(path, "destinationPort must have exactly one of number and range");
                None
            }
        }
    }
}

/// All networks of one rule are one peer, without overlaps.
fn join(peers: impl Iterator<Item = Peer>) -> Vec<Peer> {
    let (mut joined, mut ranges) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Peer::Networks(more) => ranges.extend(more),
            Peer::Pods(_) | Peer::Nodes(_) => joined.push(peer),
        }
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, last: &mut Range| {
        let one = after(last.last).is_none_or(|after| next.first <= after)
            && next.first.is_ipv4() == last.first.is_ipv4();
        if one {
            last.last = last.last.max(next.last);
        }
        one
    });
    if !ranges.is_empty() {
        joined.push(Peer::Networks(ranges));
    }
    joined.sort_unstable();
    joined.dedup();
    joined
}

fn range(network: IpNetwork) -> Range {
    match network {
        IpNetwork::V4(network) => Range { first: network.network().into(), last: network.broadcast().into() },
        IpNetwork::V6(network) => Range { first: network.network().into(), last: network.broadcast().into() },
    }
}

/// A range less another.
fn without(range: Range, except: Range) -> impl Iterator<Item = Range> {
    let apart = except.last < range.first || range.last < except.first;
    let all = apart.then_some(range);
    let before = before(except.first).filter(|last| !apart && range.first <= *last);
    let behind = after(except.last).filter(|first| !apart && *first <= range.last);
    let before = before.map(|last| Range { first: range.first, last });
    let behind = behind.map(|first| Range { first, last: range.last });
    all.into_iter().chain(before).chain(behind)
}

/// The address that follows; none behind the last of its family.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

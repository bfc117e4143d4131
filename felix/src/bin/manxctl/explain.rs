//! `manxctl policy explain`: of a Service by the pods behind it, for policies judge packets after their way to one.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use manx_cni::client::Agent;
use manx_cni::protocol::{Reply, Request, VERSION};
use manx_felix::acl::ruleset::Protocol;
use manx_felix::graph::policy::{End, Explanation, Party, Question};

use super::cluster;
use super::table::list;

/// `80`, `53/udp`, `9003/SCTP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub Protocol, pub u16);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("protocol \"{other}\" is none of tcp, udp and sctp")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self(protocol, number)),
            Ok(_) | Err(_) => Err(format!("\"{number}\" is no port, expected 1-65535, as in 53/udp")),
        }
    }
}

/// An address, or a pod: `namespace/name`, or the name of one in the namespace default.
pub fn end(text: &str) -> End {
    match text.parse::<IpAddr>() {
        Ok(address) => End::Address(address),
        Err(_) if text.contains('/') => End::Pod(text.to_owned()),
        Err(_) => End::Pod(format!("default/{text}")),
    }
}

/// A Service: `svc/shop/web`, `service/web` of the namespace default.
fn service(text: &str) -> Option<(&str, &str)> {
    let (kind, name) = text.split_once('/')?;
    matches!(kind, "svc" | "service" | "services").then(|| name.split_once('/').unwrap_or(("default", name)))
}

/// What is asked, and its answer: of a Service for each pod behind the port.
///
/// # Errors
/// When an end is not known, a Service has no such port or nobody behind it, or nobody answers.
pub async fn explain(
    socket: &Path,
    (from, to): (&str, &str),
    port: Option<Port>,
    kubeconfig: Option<&Path>,
) -> anyhow::Result<Vec<Explanation>> {
    let from = end(from);
    let ask_one = |to: End, port: Option<Port>| {
        let port = port.map(|Port(protocol, number)| (protocol, number));
        ask(socket, &Question { from: from.clone(), to, port })
    };
    let Some((namespace, name)) = service(to) else {
        return ask_one(end(to), port);
    };
    let port =
        port.context("of a Service policies judge a port of its pods: say which of its ports, as --port 80")?;
    let behind = behind(namespace, name, port, kubeconfig).await?;
    let (mut explained, mut failure) = (Vec::new(), None);
    for (address, port) in behind {
        match ask_one(End::Address(address), Some(port)) {
            Ok(more) => explained.extend(more),
            // Of the other family, where there are both.
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if explained.is_empty() => Err(error),
        _ => Ok(explained),
    }
}

/// Where packets to a port of a Service go.
async fn behind(
    namespace: &str,
    name: &str,
    port: Port,
    kubeconfig: Option<&Path>,
) -> anyhow::Result<Vec<(IpAddr, Port)>> {
    let (client, url) = cluster::client(kubeconfig).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    // Agents may list Services, not get one.
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let service = services.list(&named).await.with_context(|| format!("reading {url}"))?;
    let service = service.items.into_iter().next();
    let service = service.with_context(|| format!("there is no Service {namespace}/{name}"))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client, namespace);
    let of_it = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = slices.list(&of_it).await.with_context(|| format!("reading {url}"))?;
    let behind = endpoints(&service, &slices.items, port)?;
    if behind.is_empty() {
        bail!("no endpoint of Service {namespace}/{name} is ready: a packet to it goes nowhere");
    }
    Ok(behind)
}

fn endpoints(service: &Service, slices: &[EndpointSlice], port: Port) -> anyhow::Result<Vec<(IpAddr, Port)>> {
    let spec = service.spec.as_ref().context("the Service has no spec")?;
    let ports = || spec.ports.iter().flatten();
    let is_it = |it: &&ServicePort| {
        it.port == i32::from(port.1) && it.protocol.as_deref().unwrap_or("TCP") == port.0.to_string()
    };
    // A headless Service has no address of its own: packets go to the pods as they are.
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let wanted = ports().find(is_it);
    if wanted.is_none() && !is_headless {
        let all = ports().map(|it| format!("{}/{}", it.port, it.protocol.as_deref().unwrap_or("TCP")));
        bail!("the Service has no port {}/{}, but {}", port.1, port.0, list(all));
    }
    let mut behind = Vec::new();
    for slice in slices {
        let of = slice.ports.iter().flatten().find(|it| {
            wanted.is_some_and(|wanted| {
                it.name.as_deref().unwrap_or("") == wanted.name.as_deref().unwrap_or("")
            })
        });
        let target = match (is_headless, of.and_then(|of| of.port)) {
            (true, _) => port.1,
            (false, Some(target)) => u16::try_from(target).context("a port of an EndpointSlice")?,
            (false, None) => continue,
        };
        let ready = slice.endpoints.iter().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let addresses = ready.flat_map(|endpoint| &endpoint.addresses);
        behind.extend(addresses.filter_map(|address| Some((address.parse().ok()?, Port(port.0, target)))));
    }
    behind.sort_by_key(|(address, _): &(IpAddr, Port)| *address);
    behind.dedup();
    Ok(behind)
}

/// Asks this node's agent.
pub fn ask(socket: &Path, question: &Question) -> anyhow::Result<Vec<Explanation>> {
    let question = serde_json::to_value(question)?;
    let request = Request::Explain { version: VERSION, question };
    match Agent::connect(socket, Duration::ZERO)?.ask(&request)? {
        Reply::Explained { explanations } => serde_json::from_value(explanations)
            .context("the agent's answer cannot be read: is manxctl of its version?"),
        reply => bail!("the agent answered out of turn: {reply:?}"),
    }
}

/// For people: the packet, and each side with what decided there.
pub fn render(explained: &[Explanation]) -> String {
    let mut text = String::new();
    for (index, Explanation { flow, passes, from, to }) in explained.iter().enumerate() {
        let gap = if index > 0 { "\n" } else { "" };
        let verdict = if *passes { "passes" } else { "denied" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{gap}{flow}: {verdict}");
        side(&mut text, "from", "egress", flow.source, from);
        side(&mut text, "to", "ingress", flow.destination, to);
    }
    text
}

fn side(text: &mut String, word: &str, direction: &str, address: IpAddr, party: &Party) {
    let who = match (&party.pod, &party.node) {
        (Some(pod), Some(node)) if !node.is_empty() => format!("pod {pod} on node {node}"),
        (Some(pod), _) => format!("pod {pod}"),
        (None, Some(node)) => format!("node {node}"),
        (None, None) => format!("{address}, which no pod and no node has"),
    };
    let _ = writeln!(text, "  {word:<5}{who}");
    let Some(verdict) = &party.verdict else {
        let _ = writeln!(text, "       no policy can be about its {direction}");
        return;
    };
    for reason in &verdict.audited {
        let _ = writeln!(text, "       {direction} would be denied (audit): {reason}");
    }
    let passes = if verdict.passes { "passes" } else { "denied" };
    let _ = writeln!(text, "       {direction} {passes}: {}", verdict.by);
}

#[cfg(test)]
mod tests {
    use manx_felix::acl::evaluate::{Flow, Reason, Transport, Verdict};
    use manx_felix::acl::ruleset::{Direction, PolicyId, Tier};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_a_number_and_tcp_unless_it_says_otherwise() {
        assert_eq!("80".parse(), Ok(Port(Protocol::Tcp, 80)));
        assert_eq!("53/UDP".parse(), Ok(Port(Protocol::Udp, 53)));
        assert!("0".parse::<Port>().unwrap_err().contains("1-65535"));
        assert!("80/http".parse::<Port>().unwrap_err().contains("none of tcp"));
    }

    #[test]
    fn a_service_is_the_ready_pods_behind_its_port() {
        let from = |json: serde_json::Value| -> Service { serde_json::from_value(json).unwrap() };
        let service = from(json!({ "spec": { "clusterIP": "10.96.0.1", "ports": [
            { "name": "web", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" } ] } }));
        let slice = |kind: &str, endpoints: serde_json::Value| -> EndpointSlice {
            let ports =
                json!([{ "name": "web", "port": 8080 }, { "name": "dns", "port": 5353, "protocol": "UDP" }]);
            serde_json::from_value(json!({ "addressType": kind, "ports": ports, "endpoints": endpoints }))
                .unwrap()
        };
        let slices = [
            slice(
                "IPv4",
                json!([{ "addresses": ["10.0.0.2"] }, { "addresses": ["10.0.0.3"], "conditions": { "ready": false } }]),
            ),
            slice("IPv6", json!([{ "addresses": ["fd00::2"], "conditions": { "ready": true } }])),
        ];
        let (two, six) = ("10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        let behind = |port: &str| endpoints(&service, &slices, port.parse().unwrap());
        let tcp = Port(Protocol::Tcp, 8080);
        assert_eq!(behind("80").unwrap(), [(two, tcp), (six, tcp)]);
        assert_eq!(behind("53/udp").unwrap()[0], (two, Port(Protocol::Udp, 5353)));
        let error = behind("53").unwrap_err().to_string();
        assert_eq!(error, "the Service has no port 53/TCP, but 80/TCP,53/UDP");
        let headless = from(json!({ "spec": { "clusterIP": "None" } }));
        let tcp = Port(Protocol::Tcp, 9000);
        assert_eq!(endpoints(&headless, &slices, tcp).unwrap()[0], (two, tcp));
        assert_eq!(super::service("svc/shop/web"), Some(("shop", "web")));
        assert_eq!(super::service("service/web"), Some(("default", "web")));
        assert_eq!(super::service("shop/web"), None);
    }

    #[test]
    fn each_side_says_what_decided() {
        let policy = |tier, name: &str, direction| PolicyId { tier, name: name.into(), direction };
        let admin = policy(Tier::Admin, "tenants", Direction::Egress);
        let rule = Reason::Rule { policy: admin, index: 2, name: Some("dns".to_owned()) };
        let egress = Verdict { passes: true, by: rule.clone(), audited: Vec::new() };
        let policies = ["shop/deny", "shop/web"].map(|name| policy(Tier::Network, name, Direction::Ingress));
        let ingress = Verdict {
            passes: false,
            by: Reason::Isolated { policies: policies.into() },
            audited: vec![rule],
        };
        let flow = Flow {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            transport: Transport::Port(Protocol::Udp, 53),
        };
        let party = |pod: &str, node: &str, verdict| Party {
            pod: Some(pod.to_owned()),
            node: Some(node.to_owned()),
            verdict: Some(verdict),
        };
        let (from, to) = (party("shop/web", "n1", egress), party("shop/db", "n2", ingress));
        let text = render(&[Explanation { flow, passes: false, from, to }]);
        insta::assert_snapshot!(text, @r#"
        10.0.0.1 → 10.0.0.2 UDP 53: denied
          from pod shop/web on node n1
               egress passes: ClusterNetworkPolicy tenants, spec.egress[2] "dns"
          to   pod shop/db on node n2
               ingress would be denied (audit): ClusterNetworkPolicy tenants, spec.egress[2] "dns"
               ingress denied: no rule matches of what isolates it: NetworkPolicy shop/deny, NetworkPolicy shop/web
        "#);
    }
}

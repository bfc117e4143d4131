//! `manxctl policy explain`.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use manx_cni::client::Agent;
use manx_cni::protocol::{Reply, Request, VERSION};
use manx_felix::acl::ruleset::Protocol;
use manx_felix::graph::policy::{End, Explanation, Party, Question};

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

    use super::*;

    #[test]
    fn a_port_is_a_number_and_tcp_unless_it_says_otherwise() {
        assert_eq!("80".parse(), Ok(Port(Protocol::Tcp, 80)));
        assert_eq!("53/UDP".parse(), Ok(Port(Protocol::Udp, 53)));
        assert!("0".parse::<Port>().unwrap_err().contains("1-65535"));
        assert!("80/http".parse::<Port>().unwrap_err().contains("none of tcp"));
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

//! A picture of a lab: what is plugged in where, and, while it runs, its BGP sessions and blocks.
//!
//! `live` reads, [`Picture`] is what was read, `svg` and `text` draw it. Drawing is pure.

mod layout;
mod live;
mod svg;
mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::topology::{Runs, Topology};

pub use svg::svg;
pub use text::text;

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Name of the lab.
    pub name: String,
    /// The nodes by name.
    pub nodes: BTreeMap<String, NodePicture>,
    /// The cables: two nodes, each with its interface.
    pub cables: Vec<[(String, String); 2]>,
    /// The sessions by their two nodes, the smaller name first.
    pub sessions: BTreeMap<(String, String), SessionPicture>,
    /// Whether it shows a running lab.
    pub live: bool,
}

/// A node as it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePicture {
    /// What it does.
    pub runs: Runs,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The blocks of pod addresses it owns.
    pub blocks: Vec<String>,
    /// How many pods it has.
    pub pods: usize,
    /// Programs of it that should run and do not.
    pub dead: Vec<String>,
}

/// A session as its ends see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPicture {
    /// RFC 4271's name of the state, of the end that is further from Established.
    pub state: String,
}

impl SessionPicture {
    /// Whether both ends call it Established.
    pub fn is_up(&self) -> bool {
        self.state == "Established"
    }
}

impl Picture {
    /// A topology as its file has it: nothing runs.
    pub fn of_topology(topology: &Topology) -> Self {
        let nodes = topology.nodes.values().map(|node| {
            let addresses = node.exec.iter().filter_map(|argv| address_in(argv)).collect();
            let picture = NodePicture { runs: node.runs, addresses, blocks: vec![], pods: 0, dead: vec![] };
            (node.name.clone(), picture)
        });
        let end = |end: &crate::topology::Endpoint| (end.node.clone(), end.interface.clone());
        Self {
            name: topology.name.clone(),
            nodes: nodes.collect(),
            cables: topology.links.iter().map(|link| [end(&link.ends[0]), end(&link.ends[1])]).collect(),
            sessions: BTreeMap::new(),
            live: false,
        }
    }
}

/// The address that `ip address add ADDRESS/LENGTH …` sets.
fn address_in(argv: &[String]) -> Option<IpAddr> {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words[..] {
        ["ip", object, "add", address, ..] if "address".starts_with(object) => {
            address.split('/').next()?.parse().ok()
        }
        _ => None,
    }
}

/// What is written in a node's box: its name, and the lines below.
fn card(name: &str, node: &NodePicture) -> (String, Vec<(Style, String)>) {
    let mut lines = vec![(Style::Kind, described(node.runs).to_owned())];
    lines.extend(node.addresses.iter().map(|address| (Style::Address, address.to_string())));
    let blocks = node.blocks.iter().flat_map(|block| folded(block));
    lines.extend(blocks.map(|line| (Style::Block, line)));
    if node.pods > 0 {
        let pods = if node.pods == 1 { "pod" } else { "pods" };
        lines.push((Style::Block, format!("{} {pods}", node.pods)));
    }
    lines.extend(node.dead.iter().map(|daemon| (Style::Dead, format!("✗ {daemon}"))));
    (name.to_owned(), lines)
}

/// A block on as many lines as it needs in a box; an IPv6 block is broken between its groups.
fn folded(block: &str) -> Vec<String> {
    const WIDTH: usize = 20;
    let mut lines = vec!["▣ ".to_owned()];
    for group in block.split_inclusive(':') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + group.len() <= WIDTH => line.push_str(group),
            _ => lines.push(format!("  {group}")),
        }
    }
    lines
}

/// How a line of a box is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Kind,
    Address,
    Block,
    Dead,
}

fn described(runs: Runs) -> &'static str {
    match runs {
        Runs::Bridge => "switch",
        Runs::Host => "host",
        Runs::Frr => "FRR",
        Runs::Bird | Runs::Bird1 => "BIRD",
        Runs::Gobgp => "GoBGP",
        Runs::Openbgpd => "OpenBGPD",
        Runs::Exabgp => "ExaBGP",
        Runs::Manx => "Manx node",
        Runs::ManxBgpd => "manx-bgpd",
        Runs::KubeApiserver => "Kubernetes API",
    }
}

#[cfg(test)]
pub(super) fn example() -> Picture {
    let text = "\
name: example
topology:
  nodes:
    rack: {kind: bridge}
    tor: {kind: linux, labels: {manx.io/runs: bird}, exec: ['ip addr add 10.0.0.254/24 dev eth1']}
    client: {kind: linux, exec: ['ip address add 192.0.2.1/31 dev eth1']}
    a: {kind: linux, labels: {manx.io/runs: manx-bgpd}, exec: ['ip a add 10.0.0.1/24 dev eth1']}
    b: {kind: linux, labels: {manx.io/runs: manx-bgpd}}
  links:
    - endpoints: ['rack:a', 'a:eth1']
    - endpoints: ['rack:b', 'b:eth1']
    - endpoints: ['rack:tor', 'tor:eth1']
    - endpoints: ['tor:eth2', 'client:eth1']
";
    let topology = Topology::parse(text, std::path::Path::new("/example.clab.yml"));
    let mut picture = Picture::of_topology(&topology.expect("the example is right"));
    picture.live = true;
    for (a, b, state) in [("a", "b", "Established"), ("a", "tor", "Active")] {
        picture.sessions.insert((a.into(), b.into()), SessionPicture { state: state.into() });
    }
    if let Some(node) = picture.nodes.get_mut("a") {
        node.blocks.push("10.244.0.0/26".into());
        node.pods = 2;
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_blocks_are_broken_between_their_groups() {
        assert_eq!(folded("10.244.104.128/26"), ["▣ 10.244.104.128/26"]);
        let long = ["▣ fd00:10:244:53ef:", "  7ea3:d58f:2e24:", "  1cc0/122"];
        assert_eq!(folded("fd00:10:244:53ef:7ea3:d58f:2e24:1cc0/122"), long);
    }

    #[test]
    fn a_topology_that_does_not_run_shows_the_addresses_its_file_sets() {
        let picture = example();
        assert_eq!(picture.nodes["a"].addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(picture.nodes["client"].addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(picture.nodes["b"].addresses.is_empty());
    }
}

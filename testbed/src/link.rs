//! The commands that make a lab's namespaces and cables: text for `ip -batch`, in two processes
//! for the whole lab.

use std::fmt::Write;

use crate::netns;
use crate::topology::{Link, Topology};

/// `ip -batch` text that makes the namespaces of a lab's nodes.
pub fn namespaces(lab: &str, topology: &Topology) -> String {
    topology.nodes.keys().fold(String::new(), |mut text, node| {
        let _ = writeln!(text, "netns add {}", netns::of_node(lab, node));
        text
    })
}

/// `ip -batch` text that makes a lab's cables: each veth is born with both its ends at their places,
/// so that no interface is ever in the host's own namespace.
pub fn cables(lab: &str, topology: &Topology) -> String {
    topology.links.iter().fold(String::new(), |mut text, Link { ends: [a, b], mtu }| {
        let mtu = mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "link add name {}{mtu} netns {} type veth peer name {}{mtu} netns {}",
            a.interface,
            netns::of_node(lab, &a.node),
            b.interface,
            netns::of_node(lab, &b.node),
        );
        text
    })
}

/// `ip -batch` text, run inside a switch, that makes its bridge and plugs the cables in.
pub fn bridge(name: &str, ports: &[&str]) -> String {
    // No forwarding delay: there is no loop to look for, and pods do not wait 15 s for a port.
    let mut text =
        format!("link add name {name} type bridge forward_delay 0 mcast_snooping 0\nlink set {name} up\n");
    for port in ports {
        let _ = writeln!(text, "link set {port} master {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cables_are_born_between_the_nodes_namespaces() {
        let text = "name: l\ntopology:\n  nodes:\n    a: {kind: linux}\n    b: {kind: linux}\n  links:\n    \
                    - {endpoints: ['a:eth1', 'b:eth2'], mtu: 1400}\n";
        let topology = Topology::parse(text, std::path::Path::new("/l.clab.yml")).unwrap();
        assert_eq!(namespaces("x", &topology), "netns add mx-x.a\nnetns add mx-x.b\n");
        assert_eq!(
            cables("x", &topology),
            "link add name eth1 mtu 1400 netns mx-x.a type veth peer name eth2 mtu 1400 netns mx-x.b\n"
        );
    }
}

//! From the YAML as written to a [`Topology`] that can be built, or the first reason why not.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::file::{FileEndpoint, FileGraph, FileLink, FileNode, FileTopology};
use super::{Bind, Endpoint, Link, Node, Place, RUNS_LABEL, Runs, Topology, TopologyError};

/// Longest interface name: IFNAMSIZ (include/uapi/linux/if.h) less its terminating zero.
const MAX_INTERFACE_NAME: usize = 15;

/// What a cable may carry in one packet, in octets: the least IPv6 works with (RFC 8200, section 5), the most a veth
/// takes (ETH_MAX_MTU).
const MTU: RangeInclusive<u32> = 1280..=65535;

struct Checker<'a> {
    file: &'a Path,
}

pub(super) fn topology(written: FileTopology, file: &Path) -> Result<Topology, TopologyError> {
    let checker = Checker { file };
    checker.name("lab", &written.name, &written.name.value)?;
    let graph = written.topology;
    let nodes = graph.nodes.iter().map(|(name, node)| Ok((name.clone(), checker.node(name, node, &graph)?)));
    let nodes: BTreeMap<_, _> = nodes.collect::<Result<_, TopologyError>>()?;
    checker.kube(&nodes, &graph)?;
    let links = checker.links(&graph.links, &nodes)?;
    Ok(Topology { name: written.name.value, file: file.to_owned(), nodes, links })
}

impl Checker<'_> {
    fn invalid<T>(&self, at: &Spanned<T>, problem: String) -> TopologyError {
        let place = at.referenced;
        TopologyError::Invalid {
            place: Place { file: self.file.to_owned(), line: place.line(), column: place.column() },
            problem,
        }
    }

    /// Lab and node names become parts of namespace names, host names and Kubernetes names.
    fn name<T>(&self, what: &str, at: &Spanned<T>, name: &str) -> Result<(), TopologyError> {
        if is_name(name) {
            return Ok(());
        }
        Err(self.invalid(
            at,
            format!("{what} name \"{name}\": use lower-case letters, digits and \"-\", at most 40, starting with a letter"),
        ))
    }

    fn node(
        &self,
        name: &str,
        written: &Spanned<Option<FileNode>>,
        graph: &FileGraph,
    ) -> Result<Node, TopologyError> {
        self.name("node", written, name)?;
        if name == "kubeconfig" {
            let problem = "a node cannot be called \"kubeconfig\": the lab keeps a file of that name";
            return Err(self.invalid(written, problem.into()));
        }
        let node = self.inherit(written.value.clone().unwrap_or_default(), graph)?;
        let runs = self.runs(written, &node)?;
        if runs == Runs::Bridge && name.len() > MAX_INTERFACE_NAME {
            let problem = format!(
                "bridge name \"{name}\": the switch is an interface of this name, so use at most {MAX_INTERFACE_NAME} characters"
            );
            return Err(self.invalid(written, problem));
        }
        let binds = node.binds.iter().map(|bind| self.bind(bind)).collect::<Result<_, _>>()?;
        let exec = node.exec.iter().map(|line| self.command(line)).collect::<Result<_, _>>()?;
        Ok(Node {
            name: name.to_owned(),
            runs,
            binds,
            exec,
            env: node.env,
            labels: node.labels.into_iter().map(|(key, value)| (key, value.value)).collect(),
        })
    }

    /// containerlab's order: defaults, then the kind's, then the group's, then the node's own.
    /// A single value of the nearer wins; lists are joined; maps are merged.
    fn inherit(&self, node: FileNode, graph: &FileGraph) -> Result<FileNode, TopologyError> {
        let group = match &node.group {
            None => None,
            Some(name) => Some(graph.groups.get(&name.value).ok_or_else(|| {
                let known = list(graph.groups.keys().map(String::as_str));
                self.invalid(
                    name,
                    format!("no group \"{}\" under topology.groups, which has {known}", name.value),
                )
            })?),
        };
        let kind = [Some(&node), group, Some(&graph.defaults)];
        let kind = kind.into_iter().flatten().find_map(|layer| layer.kind.clone());
        let of_kind = kind.as_ref().and_then(|kind| graph.kinds.get(&kind.value));
        let mut merged = FileNode::default();
        for layer in [Some(&graph.defaults), of_kind, group, Some(&node)].into_iter().flatten() {
            merged.binds.extend(layer.binds.iter().cloned());
            merged.exec.extend(layer.exec.iter().cloned());
            merged.env.extend(layer.env.clone());
            merged.labels.extend(layer.labels.clone());
        }
        merged.kind = kind;
        Ok(merged)
    }

    fn runs(&self, written: &Spanned<Option<FileNode>>, node: &FileNode) -> Result<Runs, TopologyError> {
        let Some(kind) = &node.kind else {
            return Err(self
                .invalid(written, "no kind: say \"kind: linux\", or \"kind: bridge\" for a switch".into()));
        };
        let label = node.labels.get(RUNS_LABEL);
        match (kind.value.as_str(), label) {
            ("bridge" | "ovs-bridge", Some(label)) => {
                Err(self.invalid(label, format!("a node of kind {} is a switch and has no {RUNS_LABEL}", kind.value)))
            }
            ("bridge", None) => Ok(Runs::Bridge),
            ("linux", None) => Ok(Runs::Host),
            ("linux", Some(label)) => {
                let known = Runs::LABELS.iter().find(|(name, _)| *name == label.value);
                known.map(|(_, runs)| *runs).ok_or_else(|| {
                    let names = list(Runs::LABELS.iter().map(|(name, _)| *name));
                    self.invalid(label, format!("{RUNS_LABEL}: \"{}\" is not one of {names}", label.value))
                })
            }
            (other, _) => Err(self.invalid(
                kind,
                format!(
                    "unknown kind \"{other}\": this testbed knows \"linux\" (what it runs is said by the label \
                     {RUNS_LABEL}) and \"bridge\""
                ),
            )),
        }
    }

    fn bind(&self, written: &Spanned<String>) -> Result<Bind, TopologyError> {
        let parts: Vec<&str> = written.value.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            [source, target, "rw"] => (source, target, false),
            _ => {
                let problem =
                    format!("bind \"{}\": expected source:target or source:target:ro", written.value);
                return Err(self.invalid(written, problem));
            }
        };
        let source = self.relative(source);
        if !Path::new(target).is_absolute() {
            return Err(self.invalid(written, format!("bind target \"{target}\" must be an absolute path")));
        }
        if !source.exists() {
            return Err(self.invalid(written, format!("bind source {} does not exist", source.display())));
        }
        Ok(Bind { source, target: target.into(), read_only })
    }

    fn relative(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).join(path)
    }

    fn command(&self, line: &Spanned<String>) -> Result<Vec<String>, TopologyError> {
        match words(&line.value) {
            Some(words) if !words.is_empty() => Ok(words),
            Some(_) => Err(self.invalid(line, "an empty command".into())),
            None => Err(self.invalid(line, format!("unfinished quote in \"{}\"", line.value))),
        }
    }

    /// The nodes that need the Kubernetes API have exactly one.
    fn kube(&self, nodes: &BTreeMap<String, Node>, graph: &FileGraph) -> Result<(), TopologyError> {
        let all = |runs| nodes.values().filter(move |node| node.runs == runs);
        let place = |node: &Node| graph.nodes.get(&node.name);
        if let Some(at) = all(Runs::KubeApiserver).nth(1).and_then(place) {
            return Err(self.invalid(at, "a second kube-apiserver: a lab has at most one".into()));
        }
        match all(Runs::Manx).next().and_then(place) {
            Some(at) if all(Runs::KubeApiserver).next().is_none() => Err(self.invalid(
                at,
                format!("a manx node needs the Kubernetes API: add a node with the label {RUNS_LABEL}: kube-apiserver"),
            )),
            _ => Ok(()),
        }
    }

    fn links(
        &self,
        written: &[Spanned<FileLink>],
        nodes: &BTreeMap<String, Node>,
    ) -> Result<Vec<Link>, TopologyError> {
        let mut used: BTreeMap<Endpoint, u64> = BTreeMap::new();
        let mut links = Vec::new();
        for link in written {
            if let Some(kind) = link.value.kind.as_ref().filter(|kind| kind.value != "veth") {
                let problem = format!("link type \"{}\": only \"veth\" is known here", kind.value);
                return Err(self.invalid(kind, problem));
            }
            let [a, b] = &link.value.endpoints[..] else {
                let problem =
                    format!("a link has two endpoints, this one has {}", link.value.endpoints.len());
                return Err(self.invalid(link, problem));
            };
            let mut ends = [self.endpoint(a, nodes)?, self.endpoint(b, nodes)?];
            for (end, at) in ends.iter_mut().zip([a, b]) {
                if let Some(line) = used.insert(end.clone(), at.referenced.line()) {
                    return Err(self.invalid(at, format!("{end} is already plugged in at line {line}")));
                }
            }
            if let Some(mtu) = link.value.mtu.as_ref().filter(|mtu| !MTU.contains(&mtu.value)) {
                let problem = format!("mtu {}: use {} to {}", mtu.value, MTU.start(), MTU.end());
                return Err(self.invalid(mtu, problem));
            }
            links.push(Link { ends, mtu: link.value.mtu.as_ref().map(|mtu| mtu.value) });
        }
        Ok(links)
    }

    fn endpoint(
        &self,
        written: &Spanned<FileEndpoint>,
        nodes: &BTreeMap<String, Node>,
    ) -> Result<Endpoint, TopologyError> {
        let (node, interface) = match &written.value {
            FileEndpoint::Extended { node, interface } => (node.as_str(), interface.as_str()),
            FileEndpoint::Brief(text) => text.split_once(':').ok_or_else(|| {
                self.invalid(
                    written,
                    format!("endpoint \"{text}\": expected node:interface, as in node1:eth1"),
                )
            })?,
        };
        let Some(there) = nodes.get(node) else {
            let known = list(nodes.keys().map(String::as_str));
            return Err(self
                .invalid(written, format!("a link to \"{node}\", which is not a node: there are {known}")));
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if interface.is_empty() || interface.len() > MAX_INTERFACE_NAME || !interface.chars().all(good) {
            return Err(self.invalid(
                written,
                format!("interface \"{interface}\": use 1 to {MAX_INTERFACE_NAME} letters, digits, \"-\", \"_\" or \".\""),
            ));
        }
        let taken = match interface {
            "lo" => Some("every node's own"),
            "all" | "default" => Some("no interface in /proc/sys, but the settings of all of them"),
            "." | ".." => Some("a folder, not a name"),
            _ if there.runs == Runs::Bridge && interface == node => Some("the bridge itself"),
            _ => None,
        };
        if let Some(what) = taken {
            let problem = format!("interface \"{interface}\" is {what}: name it eth1, say");
            return Err(self.invalid(written, problem));
        }
        Ok(Endpoint { node: node.to_owned(), interface: interface.to_owned() })
    }
}

/// Whether a lab or a node may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(good)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Splits a command as containerlab does: at blanks, with quotes and backslashes, without a shell.
/// `None` for a quote that does not end.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().push(chars.next()?),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Topology, String> {
        Topology::parse(text, Path::new("/labs/x.clab.yml")).map_err(|error| error.to_string())
    }

    const TWO: &str = "name: two\ntopology:\n  nodes:\n    a: {kind: linux}\n    b: {kind: bridge}\n";

    #[test]
    fn a_topology_with_inheritance_and_both_link_forms_is_read() {
        let text = "\
name: demo
topology:
  defaults: {kind: linux, env: {A: '1', B: '1'}}
  kinds: {linux: {exec: ['ip link set lo up'], env: {B: '2'}}}
  groups: {routers: {labels: {manx.io/runs: bird}}}
  nodes:
    sw: {kind: bridge}
    r1: {group: routers, exec: [\"sh -c 'echo a  b'\"], image: bird}
    h1:
  links:
    - endpoints: ['sw:p1', 'r1:eth1']
    - type: veth
      mtu: 9000
      endpoints: [{node: sw, interface: p2}, {node: h1, interface: eth1}]
";
        let topology = check(text).unwrap();
        let r1 = &topology.nodes["r1"];
        assert_eq!(r1.runs, Runs::Bird);
        assert_eq!(r1.exec, [vec!["ip", "link", "set", "lo", "up"], vec!["sh", "-c", "echo a  b"]]);
        assert_eq!((r1.env["A"].as_str(), r1.env["B"].as_str()), ("1", "2"));
        assert_eq!(topology.nodes["h1"].runs, Runs::Host);
        assert_eq!(topology.links[1].mtu, Some(9000));
        assert_eq!(topology.links[1].ends[1].to_string(), "h1:eth1");
        assert_eq!(topology.interfaces("sw").collect::<Vec<_>>(), ["p1", "p2"]);
    }

    #[test]
    fn every_refusal_names_the_place_and_what_would_be_right() {
        for (text, expected) in [
            (
                "name: x\ntopology:\n  nodes:\n    a:\n      kind: cisco\n".to_owned(),
                "/labs/x.clab.yml:5:13: unknown kind \"cisco\": this testbed knows \"linux\"",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:eth1\", \"c:eth1\"]\n"),
                "/labs/x.clab.yml:7:29: a link to \"c\", which is not a node: there are a, b",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:eth1\", \"b:p1\"]\n    - endpoints: [\"a:eth1\", \"b:p2\"]\n"),
                "/labs/x.clab.yml:8:19: a:eth1 is already plugged in at line 7",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:eth1\"]\n"),
                "/labs/x.clab.yml:7:7: a link has two endpoints, this one has 1",
            ),
            (
                "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n      labels:\n        manx.io/runs: quagga\n".into(),
                "/labs/x.clab.yml:7:23: manx.io/runs: \"quagga\" is not one of host, frr, bird",
            ),
            (
                "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n      bind: []\n".into(),
                "/labs/x.clab.yml:6:7: unknown field `bind`",
            ),
            (
                "name: x\ntopology:\n  nodes:\n    a: {kind: linux, labels: {manx.io/runs: manx}}\n".into(),
                "/labs/x.clab.yml:4:8: a manx node needs the Kubernetes API",
            ),
            (
                "name: x\ntopology:\n  nodes:\n    a: {kind: linux, binds: ['nowhere:/etc/x']}\n".into(),
                "/labs/x.clab.yml:4:30: bind source /labs/nowhere does not exist",
            ),
            ("name: X!\ntopology: {nodes: {}}\n".into(), "/labs/x.clab.yml:1:7: lab name \"X!\""),
            (
                "name: x\ntopology:\n  nodes:\n    the-switch-of-rack-1: {kind: bridge}\n".into(),
                "/labs/x.clab.yml:4:27: bridge name \"the-switch-of-rack-1\": the switch is an interface",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:eth1\", \"b:b\"]\n"),
                "/labs/x.clab.yml:7:29: interface \"b\" is the bridge itself",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:all\", \"b:p1\"]\n"),
                "/labs/x.clab.yml:7:19: interface \"all\" is no interface in /proc/sys",
            ),
            (
                format!("{TWO}  links:\n    - endpoints: [\"a:eth1\", \"b:p1\"]\n      mtu: 70000\n"),
                "/labs/x.clab.yml:8:12: mtu 70000: use 1280 to 65535",
            ),
            (
                "name: x\ntopology:\n  nodes:\n    a: {kind: linux}\n    a: {kind: linux}\n".into(),
                "/labs/x.clab.yml:5:5: duplicate mapping key: a\n",
            ),
            ("name: x\ntopology: {nodes: {a: [}\n".into(), "/labs/x.clab.yml:2:"),
            ("topology: {nodes: {}}\n".into(), "/labs/x.clab.yml:1:1: missing field `name`"),
        ] {
            let error = check(&text).unwrap_err() + "\n";
            assert!(error.starts_with(expected), "{error}\ndoes not start with\n{expected}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_would_but_without_one() {
        assert_eq!(words(r#"sysctl -w "a b"=1 c\ d '' "#).unwrap(), ["sysctl", "-w", "a b=1", "c d", ""]);
        assert_eq!(words("echo 'a"), None);
    }
}

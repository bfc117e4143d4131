//! How the files beside this one are read. Part of the tests that ask something of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use manx_bgp::types::Family;
use manx_felix::acl::ruleset::Protocol;
use serde::Deserialize;
use serde_json::Value;

pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub const PODS: [&str; 3] = ["a", "b", "c"];

/// What pods serve.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
pub const PORTS: [u16; 2] = [80, 81];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub case: String,
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub put: Vec<Object>,
    #[serde(default)]
    pub remove: Vec<Object>,
    #[serde(default)]
    expect: Vec<Line>,
    #[serde(default)]
    table: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub np: Option<String>,
    pub cnp: Option<String>,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A packet between two pods, by `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    pub from: String,
    pub to: String,
    pub family: Family,
    pub protocol: Protocol,
    pub port: u16,
}

/// One line of a truth table.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Line {
    from: String,
    to: String,
    port: (Protocol, u16),
    passes: bool,
}

/// Every pod, in order.
pub fn pods() -> Vec<String> {
    NAMESPACES.iter().flat_map(|namespace| PODS.map(|pod| format!("{namespace}/{pod}"))).collect()
}

/// Every packet there is a word on.
pub fn packets() -> Vec<Packet> {
    let mut all = Vec::new();
    for (from, to) in pods().into_iter().flat_map(|from| pods().into_iter().map(move |to| (from.clone(), to)))
    {
        for (family, protocol) in Family::ALL.into_iter().flat_map(|family| PROTOCOLS.map(|it| (family, it)))
        {
            let each =
                PORTS.map(|port| Packet { from: from.clone(), to: to.clone(), family, protocol, port });
            all.extend(each.into_iter().filter(|packet| packet.from != packet.to));
        }
    }
    all
}

/// What a pod calls a port.
pub fn port_name(protocol: Protocol, port: u16) -> String {
    format!("serve-{port}-{}", protocol.to_string().to_lowercase())
}

/// The cases of a file.
pub fn read(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbed/policies").join(file);
    serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
}

impl Step {
    /// Whether a packet shall pass; none: this step does not say.
    pub fn expects(&self, packet: &Packet) -> Option<bool> {
        let port = (packet.protocol, packet.port);
        if !self.table.is_empty() {
            let name = format!("{}/{}", packet.port, packet.protocol);
            let (_, table) =
                self.table.iter().find(|(ports, _)| ports.split(' ').any(|port| port == name))?;
            let place = |pod: &str| pods().iter().position(|name| name == pod).unwrap();
            return Some(table.split(' ').nth(place(&packet.from))?.as_bytes()[place(&packet.to)] == b'.');
        }
        let ports: BTreeSet<_> =
            self.expect.iter().map(|line| line.port).chain([(Protocol::Tcp, 80)]).collect();
        let mut said = self
            .expect
            .iter()
            .rev()
            .filter(|line| line.port == port && line.is_about(&packet.from, &packet.to));
        ports.contains(&port).then(|| said.next().is_none_or(|line| line.passes))
    }
}

impl TryFrom<String> for Line {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (from, to, port, passes) = match words.as_slice() {
            [from, "->", to, passes] => (from, to, "80/TCP", passes),
            [from, "->", to, port, passes] => (from, to, *port, passes),
            _ => return Err(format!("\"{text}\" is no line of a truth table")),
        };
        let (number, name) = port.split_once('/').ok_or("a port is as 80/TCP")?;
        let protocol = PROTOCOLS.into_iter().find(|protocol| protocol.to_string() == name);
        let passes = match *passes {
            "yes" => true,
            "no" => false,
            other => return Err(format!("{other} in \"{text}\"")),
        };
        Ok(Self {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
            port: (protocol.ok_or("no such protocol")?, number.parse().map_err(|_| "no number")?),
            passes,
        })
    }
}

impl Line {
    fn is_about(&self, from: &str, to: &str) -> bool {
        let matches = |pattern: &str, pod: &str| match pattern.strip_suffix('*') {
            Some(prefix) => pod.starts_with(prefix),
            None => pattern == pod,
        };
        matches(&self.from, from) && matches(&self.to, to)
    }
}

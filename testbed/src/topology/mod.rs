//! What a lab is made of, read from a containerlab topology file (`*.clab.yml`).
//!
//! [`file`](self) text → `FileTopology` (the YAML as written, every value with its place) →
//! [`Topology`] (checked: every link has both its ends, every kind is known). Nothing behind this
//! module sees an unchecked value.

mod check;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use check::is_name;

/// The label that says what a node does here; containerlab passes it to the container unread.
pub const RUNS_LABEL: &str = "manx.io/runs";
/// On a `kube-apiserver` node: a folder of YAML manifests to apply, relative to the topology file.
pub const MANIFESTS_LABEL: &str = "manx.io/manifests";

/// On a `manx` node: `daemonsets` where its programs are what the cluster's DaemonSets say; see [`crate::kubelet`].
pub const PROGRAMS_LABEL: &str = "manx.io/programs";

/// A place in a topology file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why a topology file was refused.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// The file is not there, or not to be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, or not a topology.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser found and what it expected.
        message: String,
    },
    /// A topology that cannot be.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A checked topology.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Name of the lab: lower-case letters, digits and `-`.
    pub name: String,
    /// The file it was read from; what is relative in it is relative to its folder.
    pub file: PathBuf,
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The links in the file's order.
    pub links: Vec<Link>,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name: also its host name.
    pub name: String,
    /// What it does.
    pub runs: Runs,
    /// Files and folders of the host seen inside the node.
    pub binds: Vec<Bind>,
    /// Commands run inside the node once its links are up, in order.
    pub exec: Vec<Vec<String>>,
    /// Environment of everything that runs in the node.
    pub env: BTreeMap<String, String>,
    /// All labels of the file.
    pub labels: BTreeMap<String, String>,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runs {
    /// A switch: kind `bridge`.
    Bridge,
    /// Nothing of its own.
    Host,
    /// zebra, staticd and bgpd of FRR.
    Frr,
    /// BIRD 2.
    Bird,
    /// BIRD 1.6: a daemon a family.
    Bird1,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
    /// ExaBGP.
    Exabgp,
    /// A Kubernetes node: manx-bgpd and manx-felix.
    Manx,
    /// manx-bgpd alone, with a file.
    ManxBgpd,
    /// The Kubernetes API.
    KubeApiserver,
}

impl Runs {
    /// The values of [`RUNS_LABEL`].
    pub const LABELS: [(&'static str, Self); 10] = [
        ("host", Self::Host),
        ("frr", Self::Frr),
        ("bird", Self::Bird),
        ("bird1", Self::Bird1),
        ("gobgp", Self::Gobgp),
        ("openbgpd", Self::Openbgpd),
        ("exabgp", Self::Exabgp),
        ("manx", Self::Manx),
        ("manx-bgpd", Self::ManxBgpd),
        ("kube-apiserver", Self::KubeApiserver),
    ];
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = Self::LABELS.iter().find(|(_, runs)| runs == self);
        f.write_str(label.map_or("bridge", |(label, _)| label))
    }
}

/// A file or folder of the host at a place in the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the node, absolute.
    pub target: PathBuf,
    /// Whether the node may not write to it (`:ro`).
    pub read_only: bool,
}

/// A cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its two ends.
    pub ends: [Endpoint; 2],
    /// MTU in octets, if the file sets one.
    pub mtu: Option<u32>,
}

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The node.
    pub node: String,
    /// The interface's name inside the node.
    pub interface: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.interface)
    }
}

impl Topology {
    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// The first thing wrong in it, with its place.
    pub fn read(file: &Path) -> Result<Self, TopologyError> {
        let read = |source| TopologyError::Read { file: file.to_owned(), source };
        let text = std::fs::read_to_string(file).map_err(read)?;
        let file = std::path::absolute(file).map_err(read)?;
        Self::parse(&text, &file)
    }

    /// Checks the text of a topology file; `file` is where it is said to come from.
    ///
    /// # Errors
    /// As [`Topology::read`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, TopologyError> {
        check::topology(file::parse(text, file)?, file)
    }

    /// A path of the file, relative to its folder.
    pub fn relative(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).join(path)
    }

    /// The nodes that do `runs`, in order of name.
    pub fn running(&self, runs: Runs) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| node.runs == runs)
    }

    /// The interfaces of a node that cables are plugged into, in the file's order.
    pub fn interfaces<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> {
        let ends = self.links.iter().flat_map(|link| &link.ends);
        ends.filter(move |end| end.node == node).map(|end| end.interface.as_str())
    }

    /// The cables of a node: its own end, and the other.
    pub fn cables<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Endpoint, &'a Endpoint)> {
        let both = self.links.iter().flat_map(|Link { ends: [a, b], .. }| [(a, b), (b, a)]);
        both.filter(move |(own, _)| own.node == node)
    }
}

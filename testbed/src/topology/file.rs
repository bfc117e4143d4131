//! The YAML as written: containerlab's shape, every value that can be wrong with its place.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::{Place, TopologyError};

/// The file. `prefix` and `mgmt` speak of containerlab's own container network and are passed over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "fields that only containerlab reads are named so that a typing error is told from them"
)]
pub(super) struct FileTopology {
    pub name: Spanned<String>,
    pub topology: FileGraph,
    prefix: Option<IgnoredAny>,
    mgmt: Option<IgnoredAny>,
    settings: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileGraph {
    #[serde(default)]
    pub defaults: FileNode,
    #[serde(default)]
    pub kinds: BTreeMap<String, FileNode>,
    #[serde(default)]
    pub groups: BTreeMap<String, FileNode>,
    pub nodes: BTreeMap<String, Spanned<Option<FileNode>>>,
    #[serde(default)]
    pub links: Vec<Spanned<FileLink>>,
}

/// A node, or what nodes have in common (`defaults`, `kinds`, `groups`). What only speaks of the
/// container is passed over; what would change the node and is not done here is left out, and so refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileNode {
    pub kind: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub binds: Vec<Spanned<String>>,
    pub exec: Vec<Spanned<String>>,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, Spanned<String>>,
    image: Option<IgnoredAny>,
    image_pull_policy: Option<IgnoredAny>,
    cmd: Option<IgnoredAny>,
    entrypoint: Option<IgnoredAny>,
    user: Option<IgnoredAny>,
    ports: Option<IgnoredAny>,
    network_mode: Option<IgnoredAny>,
    mgmt_ipv4: Option<IgnoredAny>,
    mgmt_ipv6: Option<IgnoredAny>,
    restart_policy: Option<IgnoredAny>,
    startup_delay: Option<IgnoredAny>,
    memory: Option<IgnoredAny>,
    cpu: Option<IgnoredAny>,
    cpu_set: Option<IgnoredAny>,
    shm_size: Option<IgnoredAny>,
    cap_add: Option<IgnoredAny>,
    devices: Option<IgnoredAny>,
    healthcheck: Option<IgnoredAny>,
    runtime: Option<IgnoredAny>,
    auto_remove: Option<IgnoredAny>,
    privileged: Option<IgnoredAny>,
    security_opts: Option<IgnoredAny>,
    cgroupns_mode: Option<IgnoredAny>,
    cgroup_parent: Option<IgnoredAny>,
    pid_mode: Option<IgnoredAny>,
    tmpfs: Option<IgnoredAny>,
    volumes: Option<IgnoredAny>,
    dns: Option<IgnoredAny>,
    aliases: Option<IgnoredAny>,
}

/// A link: `endpoints: ["a:eth1", "b:eth1"]`, or the extended form with `type: veth`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
pub(super) struct FileLink {
    #[serde(rename = "type")]
    pub kind: Option<Spanned<String>>,
    pub endpoints: Vec<Spanned<FileEndpoint>>,
    pub mtu: Option<Spanned<u32>>,
    vars: Option<IgnoredAny>,
    labels: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FileEndpoint {
    Brief(String),
    Extended { node: String, interface: String },
}

/// Text to values; places are the parser's.
pub(super) fn parse(text: &str, file: &Path) -> Result<FileTopology, TopologyError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let rendered = error.without_snippet().to_string();
        // The place is said once, in front, with the file's name; what a program could set is no use to its user.
        let cut = |text: &str, at: &str| text.split(at).next().unwrap_or(text).to_owned();
        let message = cut(&cut(&rendered, " at line "), ", set DuplicateKeyPolicy");
        TopologyError::Syntax { place: Place { file: file.to_owned(), line, column }, message }
    })
}

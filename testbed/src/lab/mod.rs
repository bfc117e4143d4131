//! A running lab: brought up, found again by its name, used, and taken down.
//!
//! ```text
//!   /run/netns/mx-<lab>.<node>           the namespaces; see `netns`
//!   /run/manx-lab/<lab>/lab.json         what `find` needs, with a copy of the topology file
//!                       kubeconfig       for kubectl on the host
//!                       <node>/run       the node's /run
//!                       <node>/own       its own folders of /etc and /var
//!                       <node>/*.log     what its programs say
//!                       <node>/*.pid     who they are
//!                       <node>/pods      its pods
//! ```
//!
//! A lab needs no process of its own: every command finds it in these files and does its work.

mod addresses;
mod daemons;
mod down;
mod error;
mod exec;
mod setup;
mod up;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::daemon;
use crate::enter::View;
use crate::netns;
use crate::topology::{Bind, Node, Runs, Topology};

pub use addresses::Address;
pub use down::{TemporaryLab, destroy};
pub use error::LabError;
pub(crate) use exec::succeeded;
pub use setup::setup;
pub use up::Options;

/// Where all labs keep their files.
pub const ROOT: &str = "/run/manx-lab";

/// The kubeconfig's place inside a node.
pub const NODE_KUBECONFIG: &str = "/etc/manx/kubeconfig";

/// A lab that is up, or on its way.
#[derive(Clone, Debug)]
pub struct Lab {
    state: State,
    topology: Topology,
}

/// What `find` needs to know of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    name: String,
    /// Where the topology was read from.
    topology_file: PathBuf,
    /// The folder of the project's programs that built it.
    programs: PathBuf,
}

impl Lab {
    /// The lab of this name.
    ///
    /// # Errors
    /// When there is none, or its files cannot be read.
    pub fn find(name: &str) -> Result<Self, LabError> {
        let folder = folder(name);
        let file = folder.join("lab.json");
        let text = fs::read_to_string(&file).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound && !exists(name) {
                return LabError::NotFound { name: name.to_owned(), there_are: Self::names() };
            }
            LabError::Lost { name: name.to_owned(), file: file.clone(), source }
        })?;
        let lost = |source| LabError::Lost { name: name.to_owned(), file: file.clone(), source };
        let state: State = serde_json::from_str(&text).map_err(|error| lost(error.into()))?;
        let topology = fs::read_to_string(folder.join("topology.clab.yml")).map_err(lost)?;
        let topology = Topology::parse(&topology, &state.topology_file)?;
        Ok(Self { state, topology })
    }

    /// The only lab there is.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn only() -> Result<Self, LabError> {
        match &Self::names()[..] {
            [name] => Self::find(name),
            [] => Err(LabError::None),
            names => Err(LabError::Several { names: names.to_vec() }),
        }
    }

    /// All labs of this machine, also half-built ones, sorted.
    pub fn names() -> Vec<String> {
        let mut names = netns::labs();
        let folders = fs::read_dir(ROOT).into_iter().flatten().flatten();
        names.extend(folders.filter_map(|entry| entry.file_name().into_string().ok()));
        names.into_iter().collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// What it is made of.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> PathBuf {
        folder(self.name())
    }

    /// Where it keeps the files of a node.
    pub fn node_folder(&self, node: &str) -> PathBuf {
        self.folder().join(node)
    }

    /// The kubeconfig for programs on the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// The path of one of the project's programs.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf, LabError> {
        Ok(crate::programs::find(&self.state.programs, name)?)
    }

    /// The folder of the project's programs.
    pub fn programs(&self) -> &Path {
        &self.state.programs
    }

    /// A node by its name.
    ///
    /// # Errors
    /// When the topology has no such node.
    pub fn node(&self, name: &str) -> Result<&Node, LabError> {
        self.topology.nodes.get(name).ok_or_else(|| LabError::NoNode {
            node: name.to_owned(),
            there_are: self.topology.nodes.keys().cloned().collect(),
        })
    }

    /// What a process in a node sees.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn view(&self, node: &str) -> Result<View, LabError> {
        let node = self.node(node)?;
        let folder = self.node_folder(&node.name);
        let own = daemon::own_folders(node.runs).iter().map(|target| Bind {
            source: own_folder(&folder, target),
            target: target.into(),
            read_only: false,
        });
        Ok(View {
            netns: netns::of_node(self.name(), &node.name),
            hostname: node.name.clone(),
            run: Some(folder.join("run")),
            own: own.collect(),
            binds: node.binds.clone(),
            lock: self.folder().join("enter.lock"),
        })
    }

    /// What a process in a pod sees: its own network, and the host's files.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn pod_view(&self, node: &str, namespace: &str, pod: &str) -> Result<View, LabError> {
        let netns = netns::of_pod(self.name(), &self.node(node)?.name, namespace, pod);
        Ok(View {
            netns,
            hostname: pod.to_owned(),
            lock: self.folder().join("enter.lock"),
            ..View::default()
        })
    }

    /// Environment of every process of a node, over the caller's own.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn env(&self, node: &str) -> Result<Vec<(String, OsString)>, LabError> {
        let node = self.node(node)?;
        let mut path = OsString::from(&self.state.programs);
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut env = vec![("PATH".to_owned(), path)];
        if matches!(node.runs, Runs::Manx | Runs::KubeApiserver) {
            env.push(("KUBECONFIG".into(), NODE_KUBECONFIG.into()));
        }
        if node.runs == Runs::KubeApiserver {
            // It is ended by SIGKILL; what it leaves goes with the node's folder.
            env.push(("TMPDIR".into(), "/run".into()));
        }
        if node.runs == Runs::Manx {
            env.push(("NODE_NAME".into(), node.name.clone().into()));
        }
        env.extend(node.env.iter().map(|(key, value)| (key.clone(), value.into())));
        Ok(env)
    }
}

/// Where a lab of this name keeps, or would keep, its files.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Whether there is anything of a lab of this name.
pub(crate) fn exists(name: &str) -> bool {
    folder(name).exists() || !netns::of_lab(name).is_empty()
}

/// The node's own version of one of the host's folders.
pub(crate) fn own_folder(node_folder: &Path, target: &str) -> PathBuf {
    node_folder.join("own").join(target.trim_start_matches('/'))
}

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

mod daemons;
mod down;
mod error;
mod setup;
mod up;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::daemon;
use crate::enter::View;
use crate::netns;
use crate::topology::{Bind, Node, Runs, Topology};

pub use down::{TemporaryLab, destroy};
pub use error::LabError;
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

/// An address of a node's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub length: u8,
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

    /// A command that will run inside a node, or with `place` as `node/namespace/pod` in a pod.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        place: &str,
        life: crate::enter::Life,
        argv: &[S],
    ) -> Result<Command, LabError> {
        let mut command = self.child(self.program("manx-lab")?);
        command.arg("enter");
        if life == crate::enter::Life::Daemon {
            command.arg("--daemon");
        }
        command.args(["--lab", self.name(), place, "--"]).args(argv);
        Ok(command)
    }

    /// A process of this lab, which `down` finds wherever it is; it dies with its handle.
    pub(crate) fn child(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(netns::MARK, self.name()).kill_on_drop(true);
        command
    }

    /// Runs a command in a node and waits for it.
    ///
    /// # Errors
    /// When it could not be started; that it failed is said by [`Output::status`].
    pub async fn exec<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<Output, LabError> {
        self.node(node)?;
        let mut command = self.command(node, crate::enter::Life::Attached, argv)?;
        command.stdin(Stdio::null()).output().await.map_err(|source| LabError::start(argv, source))
    }

    /// Runs a command in a node and gives what it printed.
    ///
    /// # Errors
    /// When it could not be started, or failed: with what it said.
    pub async fn run<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<String, LabError> {
        succeeded(node, argv, self.exec(node, argv).await?)
    }

    /// Starts a command in a node; its standard output and error are piped, and it dies with the handle.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<Child, LabError> {
        self.node(node)?;
        self.spawn_at(node, argv)
    }

    pub(crate) fn spawn_at<S: AsRef<OsStr>>(&self, place: &str, argv: &[S]) -> Result<Child, LabError> {
        let mut command = self.command(place, crate::enter::Life::Attached, argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| LabError::start(argv, source))
    }

    /// Runs a command in a node with an environment and an input of its own.
    pub(crate) async fn exec_with<S: AsRef<OsStr>>(
        &self,
        node: &str,
        argv: &[S],
        env: &[(&str, String)],
        input: &[u8],
    ) -> Result<Output, LabError> {
        let start = |source| LabError::start(argv, source);
        let mut command = self.command(node, crate::enter::Life::Attached, argv)?;
        command.envs(env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input has not failed by that.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await.map_err(start)
    }

    /// The global addresses of a node's interfaces, as the kernel has them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn addresses(&self, node: &str) -> Result<Vec<Address>, LabError> {
        #[derive(Deserialize)]
        struct Interface {
            ifname: String,
            addr_info: Vec<Info>,
        }
        // Empty for what the filter left out.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Info {
            local: Option<IpAddr>,
            prefixlen: u8,
        }
        self.node(node)?;
        let netns = netns::of_node(self.name(), node);
        let argv = ["ip", "-n", &netns, "-j", "address", "show", "scope", "global"];
        let output = self.child("ip").args(&argv[1..]).output().await;
        let text = succeeded(node, &argv, output.map_err(|source| LabError::start(&argv, source))?)?;
        let interfaces: Vec<Interface> = serde_json::from_str(&text)
            .map_err(|error| LabError::Answer { of: "ip -j address".into(), why: error.to_string() })?;
        let all = interfaces.into_iter().flat_map(|interface| {
            let named = move |info: Info| {
                Some(Address { interface: interface.ifname.clone(), ip: info.local?, length: info.prefixlen })
            };
            interface.addr_info.into_iter().filter_map(named)
        });
        Ok(all.collect())
    }

    /// A node's addresses on the switches that the Kubernetes API is plugged into as well, or, where
    /// there is no such switch, on all its cables.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn rack_addresses(&self, node: &str) -> Result<Vec<IpAddr>, LabError> {
        let switches = |of: &str| -> Vec<String> {
            let others = self.topology.cables(of).map(|(_, other)| other.node.clone());
            others.filter(|other| self.topology.nodes[other].runs == Runs::Bridge).collect()
        };
        let api = self.topology.running(Runs::KubeApiserver).next();
        let rack = api.map(|api| switches(&api.name)).unwrap_or_default();
        let on_rack = |interface: &str| {
            let mut cables = self.topology.cables(node).filter(|(own, _)| own.interface == interface);
            cables.any(|(_, other)| rack.is_empty() || rack.contains(&other.node))
        };
        let all = self.addresses(node).await?;
        Ok(all.into_iter().filter(|address| on_rack(&address.interface)).map(|address| address.ip).collect())
    }
}

/// What a command printed, if it succeeded.
pub(crate) fn succeeded<S: AsRef<OsStr>>(
    place: &str,
    argv: &[S],
    output: Output,
) -> Result<String, LabError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Command {
        place: place.to_owned(),
        command: error::line(argv),
        status: output.status.to_string(),
        said: String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned(),
    })
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

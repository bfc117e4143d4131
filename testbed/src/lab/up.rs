//! Bringing a lab up, in the order in which things need each other:
//!
//! ```text
//!   files ─▶ namespaces ─▶ cables ─▶ every node set up ─┬▶ routers
//!                                    (all at once)      └▶ Kubernetes API ─▶ CRDs, manifests, Nodes ─▶ Manx nodes
//! ```

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use futures::future::try_join_all;
use nix::unistd::{User, geteuid};
use tokio::io::AsyncWriteExt;

use super::{Lab, LabError, State, exists, own_folder, succeeded};
use crate::daemon;
use crate::link;
use crate::programs;
use crate::topology::{Node, Runs, Topology, is_name};

/// How a lab is brought up.
#[derive(Clone)]
pub struct Options {
    /// Name of the lab; the topology's own unless set.
    pub name: Option<String>,
    /// Told what is being done, in words, as it is done.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: None, progress: Arc::new(|_| {}) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Lab {
    /// Builds a lab and waits until all its programs are ready. What was built is removed again if it
    /// fails, or if the future is dropped before its end.
    ///
    /// # Errors
    /// The first thing that failed, with the log of the program it failed at.
    pub async fn up(topology: &Topology, options: Options) -> Result<Self, LabError> {
        root()?;
        let name = options.name.clone().unwrap_or_else(|| topology.name.clone());
        if !is_name(&name) {
            return Err(LabError::BadName { name });
        }
        let state = State {
            name,
            topology_file: topology.file.clone(),
            programs: programs::folder().map_err(LabError::file("/proc/self/exe"))?,
        };
        let lab = Self { state, topology: topology.clone() };
        lab.check_installed()?;
        let _building = lab.claim()?;
        let undo = Undo(Some(lab.name().to_owned()));
        lab.build(&options).await?;
        undo.not_any_more();
        Ok(lab)
    }

    /// Takes the name: the one who makes the folder has it. The lock is held while it is built.
    fn claim(&self) -> Result<File, LabError> {
        let folder = self.folder();
        let taken = || LabError::Exists { name: self.name().to_owned() };
        if exists(self.name()) {
            return Err(taken());
        }
        fs::create_dir_all(super::ROOT).map_err(LabError::file(super::ROOT))?;
        // Kubeconfigs in it may hold an administrator's key.
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|_| taken())?;
        let path = folder.join("up.lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(LabError::file(&path))?;
        let path = folder.join("enter.lock");
        File::create(&path).map_err(LabError::file(&path))?;
        Ok(lock)
    }

    async fn build(&self, options: &Options) -> Result<(), LabError> {
        let say = &options.progress;
        let topology = &self.topology;
        self.write_files()?;
        say(&format!("{} nodes, {} cables", topology.nodes.len(), topology.links.len()));
        self.batch(&link::namespaces(self.name(), topology)).await?;
        self.batch(&link::cables(self.name(), topology)).await?;
        try_join_all(topology.nodes.keys().map(|node| self.set_up(node))).await?;
        let routers = async {
            let routers = topology
                .nodes
                .values()
                .filter(|node| node.runs != Runs::KubeApiserver && node.runs != Runs::Manx);
            try_join_all(routers.map(|node| self.start_node_daemons(node, say))).await
        };
        let cluster = async {
            let Some(api) = topology.running(Runs::KubeApiserver).next() else { return Ok(vec![]) };
            self.start_node_daemons(api, say).await?;
            crate::kube::fill(self, &api.name, &**say).await?;
            let nodes = topology.running(Runs::Manx);
            try_join_all(nodes.map(|node| self.start_node_daemons(node, say))).await
        };
        tokio::try_join!(routers, cluster).map(drop)
    }

    async fn start_node_daemons(
        &self,
        node: &Node,
        say: &Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<(), LabError> {
        let names = self.daemons(&node.name)?;
        if !names.is_empty() {
            self.start_daemons(&node.name).await?;
            say(&format!("{}: {}", node.name, names.join(", ")));
        }
        Ok(())
    }

    async fn set_up(&self, node: &str) -> Result<(), LabError> {
        let program = self.program("manx-lab")?;
        let argv = [
            program.to_string_lossy().into_owned(),
            "setup".into(),
            "--lab".into(),
            self.name().into(),
            node.into(),
        ];
        let output = self.child(&program).args(&argv[1..]).stdin(Stdio::null()).output().await;
        let output = output.map_err(|source| LabError::start(&argv, source))?;
        if output.status.success() {
            return Ok(());
        }
        // It has said which of its steps failed, as this program says everything.
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.trim().trim_start_matches("manx-lab: ").trim_start_matches(&format!("{node}: "));
        Err(LabError::Setup { node: node.to_owned(), why: why.to_owned() })
    }

    /// Gives text to `ip -batch`.
    async fn batch(&self, text: &str) -> Result<(), LabError> {
        let argv = ["ip", "-batch", "-"];
        let start = |source| LabError::start(&argv, source);
        let mut command = self.child(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).await.map_err(start)?;
        }
        succeeded("this machine", &argv, child.wait_with_output().await.map_err(start)?).map(drop)
    }

    fn write_files(&self) -> Result<(), LabError> {
        let folder = self.folder();
        let write = |path: &Path, text: &[u8]| fs::write(path, text).map_err(LabError::file(path));
        let topology = fs::read(&self.topology.file).map_err(LabError::file(&self.topology.file))?;
        write(&folder.join("topology.clab.yml"), &topology)?;
        for node in self.topology.nodes.values() {
            self.make_folders(node)?;
        }
        let state = serde_json::to_vec_pretty(&self.state).unwrap_or_default();
        write(&folder.join("lab.json"), &state)
    }

    fn make_folders(&self, node: &Node) -> Result<(), LabError> {
        let folder = self.node_folder(&node.name);
        let run = folder.join("run");
        let own = daemon::own_folders(node.runs).iter().map(|target| own_folder(&folder, target));
        let run_folders = daemon::run_folders(node.runs).iter().map(|name| run.join(name));
        for path in own.chain(run_folders.clone()).chain([run.join("netns"), folder.join("pods")]) {
            fs::create_dir_all(&path).map_err(LabError::file(&path))?;
        }
        if node.runs == Runs::Frr {
            // Without one vtysh complains at every call; a bind of the topology covers it.
            let path = own_folder(&folder, "/etc/frr").join("vtysh.conf");
            fs::write(&path, "service integrated-vtysh-config\n").map_err(LabError::file(&path))?;
        }
        // A program that drops root's rights makes its sockets afterwards.
        let user = daemon::of(node).iter().find_map(|daemon| daemon.user);
        let Some(user) = user.and_then(|name| User::from_name(name).ok().flatten()) else { return Ok(()) };
        for path in run_folders {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(LabError::file(&path))?;
        }
        Ok(())
    }

    /// Says what is missing before anything is made.
    fn check_installed(&self) -> Result<(), LabError> {
        for node in self.topology.nodes.values() {
            for daemon in daemon::of(node) {
                let program = &daemon.argv[0];
                if !program.starts_with('/') {
                    self.program(program)?;
                } else if let Some(package) = daemon::package(node.runs)
                    && !Path::new(program).exists()
                {
                    let (node, program) = (node.name.clone(), program.clone());
                    return Err(LabError::NotInstalled { node, program, package });
                }
            }
        }
        Ok(())
    }
}

/// Removes a lab whose building did not come to its end.
struct Undo(Option<String>);

impl Undo {
    fn not_any_more(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(name) = &self.0
            && let Err(error) = super::down::remove(name)
        {
            tracing::error!(%error, lab = name, "a half-built lab is left behind");
        }
    }
}

/// Namespaces, mounts and veths all need root.
pub(super) fn root() -> Result<(), LabError> {
    if geteuid().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

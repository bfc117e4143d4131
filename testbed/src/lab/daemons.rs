//! A node's programs: started, stopped, killed, started again. They are known by their pid files; a
//! pid counts only while its process lives in the node's namespace.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use manx_bgp::api::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::Child;

use super::{Lab, LabError};
use crate::daemon::{self, Daemon, Ready};
use crate::enter::Life;
use crate::eventually::eventually;
use crate::netns;
use crate::topology::Runs;

/// How long a program may take to become ready, on a machine that is building something else.
const READY: Duration = Duration::from_secs(20);
/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a log is shown with an error, in lines.
const TAIL: usize = 12;

impl Lab {
    /// The names of a node's programs, in the order they are started.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn daemons(&self, node: &str) -> Result<Vec<&'static str>, LabError> {
        let node = self.node(node)?;
        if node.runs == Runs::KubeApiserver {
            return Ok(vec![crate::kube::DAEMON]);
        }
        Ok(daemon::of(node).iter().map(|daemon| daemon.name).collect())
    }

    /// The log of a program.
    ///
    /// # Errors
    /// When the node does not run it.
    pub fn log(&self, node: &str, name: &str) -> Result<PathBuf, LabError> {
        self.known(node, name)?;
        Ok(self.node_folder(node).join(format!("{name}.log")))
    }

    /// The process of a program, if it is alive.
    ///
    /// # Errors
    /// When the node does not run it.
    pub fn pid(&self, node: &str, name: &str) -> Result<Option<Pid>, LabError> {
        self.known(node, name)?;
        let text = fs::read_to_string(self.pid_file(node, name)).unwrap_or_default();
        let pid = text.trim().parse().ok().map(Pid::from_raw);
        Ok(pid.filter(|pid| netns::lives_in(*pid, &netns::of_node(self.name(), node))))
    }

    /// Sends a signal to a program of a node.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self, node: &str, name: &str, signal: Signal) -> Result<(), LabError> {
        let not_running = || LabError::NotRunning { node: node.to_owned(), daemon: name.to_owned() };
        let pid = self.pid(node, name)?.ok_or_else(not_running)?;
        kill(pid, signal).map_err(|_| not_running())
    }

    /// Starts a program of a node that is not running, and waits until it is ready. The last of several
    /// that share a configuration (FRR's) is given it.
    ///
    /// # Errors
    /// When it runs already, cannot be started, ends at once or does not become ready.
    pub async fn start_daemon(&self, node: &str, name: &str) -> Result<(), LabError> {
        self.known(node, name)?;
        if name == crate::kube::DAEMON {
            return crate::kube::start(self, node).await;
        }
        let node = self.node(node)?;
        if let Some(daemon) = daemon::of(node).iter().find(|daemon| daemon.name == name) {
            self.start(&node.name, daemon).await?;
        }
        match daemon::configure(node.runs) {
            Some(argv) if self.is_complete(&node.name)? => self.run(&node.name, argv).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether all programs of a node run.
    fn is_complete(&self, node: &str) -> Result<bool, LabError> {
        let pids = self.daemons(node)?.into_iter().map(|name| self.pid(node, name));
        let pids = pids.collect::<Result<Vec<_>, _>>()?;
        Ok(pids.iter().all(Option::is_some))
    }

    /// Stops a node as a power switch with manners would: SIGTERM to its programs, last started first,
    /// SIGKILL to those that stay, then its links down.
    ///
    /// # Errors
    /// When a link cannot be set down.
    pub async fn stop_node(&self, node: &str) -> Result<(), LabError> {
        for name in self.daemons(node)?.into_iter().rev() {
            self.stop_daemon(node, name).await?;
        }
        self.set_links(node, "down").await
    }

    /// Starts a node that was stopped.
    ///
    /// # Errors
    /// When a link cannot be set up or a program does not become ready.
    pub async fn start_node(&self, node: &str) -> Result<(), LabError> {
        self.set_links(node, "up").await?;
        self.start_daemons(node).await
    }

    async fn stop_daemon(&self, node: &str, name: &str) -> Result<(), LabError> {
        let Some(pid) = self.pid(node, name)? else { return Ok(()) };
        let _ = kill(pid, Signal::SIGTERM);
        let gone = || async {
            match self.pid(node, name) {
                Ok(Some(_)) => Err(format!("{name} still runs")),
                _ => Ok(()),
            }
        };
        if eventually(GRACE, gone).await.is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Ok(())
    }

    async fn set_links(&self, node: &str, state: &str) -> Result<(), LabError> {
        for interface in self.topology.interfaces(node) {
            self.run(node, &["ip", "link", "set", interface, state]).await?;
        }
        Ok(())
    }

    /// Starts those programs of a node that do not run, one after the other.
    pub(super) async fn start_daemons(&self, node: &str) -> Result<(), LabError> {
        for name in self.daemons(node)? {
            if self.pid(node, name)?.is_none() {
                self.start_daemon(node, name).await?;
            }
        }
        Ok(())
    }

    async fn start(&self, node: &str, daemon: &Daemon) -> Result<(), LabError> {
        let mut argv = daemon.argv.clone();
        if !argv[0].starts_with('/') {
            argv[0] = self.program(&argv[0])?.to_string_lossy().into_owned();
        }
        let mut child = self.launch(node, daemon.name, &argv, Stdio::null())?;
        let ready = || self.is_ready(node, daemon.ready);
        self.until_ready(node, daemon.name, &mut child, READY, ready).await
    }

    async fn is_ready(&self, node: &str, ready: Ready) -> Result<(), String> {
        match ready {
            Ready::Socket(path) => {
                let socket = self.node_folder(node).join("run").join(path);
                UnixStream::connect(socket).await.map(drop).map_err(|error| error.to_string())
            }
            Ready::Command(argv) => self.run(node, argv).await.map(drop).map_err(|error| error.to_string()),
            Ready::Bgpd => {
                self.ask_bgpd(node, &Request::Status).await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// Starts a program with its log and pid file, in a session of its own.
    pub(crate) fn launch(
        &self,
        node: &str,
        name: &str,
        argv: &[String],
        stdin: Stdio,
    ) -> Result<Child, LabError> {
        if let Some(pid) = self.pid(node, name)? {
            return Err(LabError::Running { node: node.into(), daemon: name.into(), pid: pid.as_raw() });
        }
        let path = self.log(node, name)?;
        let log = File::options().append(true).create(true).open(&path);
        let log = log.and_then(|log| Ok((log.try_clone()?, log))).map_err(LabError::file(&path))?;
        let mut command = self.command(node, Life::Daemon, argv)?;
        let child = command
            .env("NO_COLOR", "1")
            .stdin(stdin)
            .stdout(log.0)
            .stderr(log.1)
            .kill_on_drop(false)
            .spawn()
            .map_err(|source| LabError::start(argv, source))?;
        let pid_file = self.pid_file(node, name);
        let pid = child.id().map(|pid| format!("{pid}\n")).unwrap_or_default();
        fs::write(&pid_file, pid).map_err(LabError::file(&pid_file))?;
        Ok(child)
    }

    /// Waits until a program that was launched answers; tells its log if it ends or stays silent.
    pub(crate) async fn until_ready<F: Future<Output = Result<(), String>>>(
        &self,
        node: &str,
        name: &str,
        child: &mut Child,
        patience: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<(), LabError> {
        let waited = tokio::select! {
            ended = child.wait() => {
                Err(ended.map_or_else(|error| error.to_string(), |status| format!("ended ({status})")))
            }
            late = eventually(patience, &mut ready) => {
                late.map_err(|late| format!("is not ready: {late}"))
            }
        };
        waited.map_err(|why| {
            let log = self.node_folder(node).join(format!("{name}.log"));
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            LabError::Daemon { node: node.to_owned(), daemon: name.to_owned(), why, log, tail }
        })
    }

    fn pid_file(&self, node: &str, name: &str) -> PathBuf {
        self.node_folder(node).join(format!("{name}.pid"))
    }

    fn known(&self, node: &str, name: &str) -> Result<(), LabError> {
        let there_are = self.daemons(node)?;
        if there_are.contains(&name) {
            return Ok(());
        }
        Err(LabError::NoDaemon {
            node: node.to_owned(),
            daemon: name.to_owned(),
            there_are: there_are.into_iter().map(str::to_owned).collect(),
        })
    }
}

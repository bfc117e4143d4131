//! Running commands in nodes and pods.

use std::ffi::OsStr;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::error::line;
use super::{Lab, LabError};
use crate::enter::Life;
use crate::netns;

impl Lab {
    /// A command that will run inside a node, or with `place` as `node/namespace/pod` in a pod.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        place: &str,
        life: Life,
        argv: &[S],
    ) -> Result<Command, LabError> {
        let mut command = self.child(self.program("manx-lab")?);
        command.arg("enter");
        if life == Life::Daemon {
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
        let mut command = self.command(node, Life::Attached, argv)?;
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
        let mut command = self.command(place, Life::Attached, argv)?;
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
        let mut command = self.command(node, Life::Attached, argv)?;
        command.envs(env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input has not failed by that.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await.map_err(start)
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
        command: line(argv),
        status: output.status.to_string(),
        said: String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned(),
    })
}

//! Puts the CNI plugin on its node: the program when the agent starts, the network configuration once it is ready.
//!
//! Runtimes take the first configuration they find and then start pods by it, so it comes last. Each file is written
//! beside its place and renamed: nobody runs half a program or reads half a configuration. Files of other names are
//! left alone, and a file that is as it should be is not touched.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use manx_cni::protocol::DEFAULT_SOCKET;
use manx_cni::spec::Version;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::health::Pulse;

/// Name of the program in its directory; a configuration's `type` names it.
pub const PLUGIN: &str = "manx";

/// Name of the configuration in its directory; runtimes take the first in order of name.
pub const CONFLIST: &str = "10-manx.conflist";

/// The plugin that leads ports of the node to pods (`hostPort`), which follows ours where the node has it.
const PORTMAP: &str = "portmap";

/// What is installed where.
#[derive(Clone, Debug)]
pub struct Install {
    /// The program to copy.
    plugin: PathBuf,
    bin_dir: Option<PathBuf>,
    conf_dir: Option<PathBuf>,
    socket: PathBuf,
}

/// Why a file was not installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot install {to}: {what}: {source}", to = .to.display())]
pub struct InstallError {
    /// Where it was to be.
    pub to: PathBuf,
    /// What could not be done.
    pub what: String,
    /// The file system's answer.
    pub source: io::Error,
}

impl Install {
    /// As the command line says. The program lies beside the agent's own.
    ///
    /// # Errors
    /// When the agent cannot tell where it lies itself.
    pub fn new(config: &Config) -> io::Result<Self> {
        Ok(Self {
            plugin: std::env::current_exe()?.with_file_name(PLUGIN),
            bin_dir: config.cni_bin_dir.clone(),
            conf_dir: config.cni_conf_dir.clone(),
            socket: config.socket.clone(),
        })
    }

    /// Installs the program now and the configuration when `pulse` first says that the agent is ready; what fails is
    /// tried again at each pulse. Never returns.
    pub async fn run(self, mut pulse: watch::Receiver<Pulse>) {
        let mut failure = None;
        loop {
            let ready = pulse.borrow_and_update().report.ready;
            let install = self.clone();
            let outcome = tokio::task::spawn_blocking(move || install.step(ready)).await;
            match outcome {
                Ok(Ok(())) if ready => break,
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let words = error.to_string();
                    if failure.as_ref() != Some(&words) {
                        tracing::error!("{words}; tried again");
                    }
                    failure = Some(words);
                }
                Err(error) => tracing::error!("cannot install the CNI plugin: {error}"),
            }
            if pulse.changed().await.is_err() {
                break;
            }
        }
        std::future::pending().await
    }

    fn step(&self, ready: bool) -> Result<(), InstallError> {
        if let Some(directory) = &self.bin_dir {
            self.install_plugin(directory)?;
        }
        match &self.conf_dir {
            Some(directory) if ready => self.install_conflist(directory),
            _ => Ok(()),
        }
    }

    fn install_plugin(&self, directory: &Path) -> Result<(), InstallError> {
        let to = directory.join(PLUGIN);
        let program = fs::read(&self.plugin).map_err(|source| InstallError {
            to: to.clone(),
            what: format!("reading {}", self.plugin.display()),
            source,
        })?;
        replace(&to, &program, 0o755)
    }

    fn install_conflist(&self, directory: &Path) -> Result<(), InstallError> {
        let text = format!("{:#}\n", self.conflist());
        replace(&directory.join(CONFLIST), text.as_bytes(), 0o644)
    }

    /// `cniVersion` is for runtimes that do not know `cniVersions`; those that do take the highest they speak.
    fn conflist(&self) -> Value {
        let mut plugin = json!({ "type": PLUGIN, "capabilities": { "ips": true, "mac": true } });
        if self.socket != Path::new(DEFAULT_SOCKET) {
            plugin["agentSocket"] = json!(self.socket);
        }
        let mut plugins = vec![plugin];
        let mut versions: Vec<&str> = Version::ALL.map(Version::as_str).into();
        let portmap = self.bin_dir.as_ref().map(|directory| directory.join(PORTMAP));
        if let Some(spoken) =
            portmap.filter(|program| program.exists()).and_then(|program| versions_of(&program))
        {
            let common: Vec<&str> =
                versions.iter().copied().filter(|version| spoken.iter().any(|one| one == version)).collect();
            if !common.is_empty() {
                plugins.push(json!({ "type": PORTMAP, "capabilities": { "portMappings": true } }));
                versions = common;
            }
        }
        let old = versions.iter().rfind(|version| **version <= Version::V1_0_0.as_str());
        json!({
            "cniVersion": old.or(versions.last()),
            "cniVersions": versions,
            "name": "manx",
            "plugins": plugins,
        })
    }
}

/// The versions of the specification that another plugin speaks; `None`, and said so, when it does not answer.
fn versions_of(program: &Path) -> Option<Vec<String>> {
    match ask_version(program) {
        Ok(versions) => Some(versions),
        // It is there, and the loader it names is not: an image without one, and a plugin linked dynamically, as
        // Debian's are. The runtime starts it on the node. Every portmap speaks these.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::info!("{} can be started on the node only: taken to speak 0.4.0", program.display());
            Some([Version::V0_3_1, Version::V0_4_0].map(|version| version.as_str().to_owned()).into())
        }
        Err(error) => {
            tracing::warn!("{} does not say what it speaks, and is left out: {error}", program.display());
            None
        }
    }
}

fn ask_version(program: &Path) -> io::Result<Vec<String>> {
    let mut child = Command::new(program)
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(br#"{"cniVersion":"1.0.0"}"#)?;
    }
    let output = child.wait_with_output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(serde_json::from_value(answer["supportedVersions"].clone())?)
}

/// Makes `to` hold `bytes`, with these permissions, at one stroke.
fn replace(to: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let failed = |what: &str| {
        let (to, what) = (to.to_owned(), what.to_owned());
        move |source| InstallError { to, what, source }
    };
    let as_it_should_be = fs::read(to).is_ok_and(|found| found == bytes)
        && fs::metadata(to).is_ok_and(|found| found.permissions().mode() & 0o777 == mode);
    if as_it_should_be {
        return Ok(());
    }
    let directory = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("making its directory"))?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let fresh = directory.join(format!(".{name}.new"));
    write(&fresh, bytes, mode).map_err(failed("writing beside it"))?;
    fs::rename(&fresh, to).map_err(failed("putting it in its place"))?;
    tracing::info!("installed {}", to.display());
    Ok(())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    // The mode above is subject to the umask, and an old file keeps its own. The node may lose power: a
    // configuration must not name a program that never reached the disk.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests;

//! Entering a node: its network namespace, and a mount and UTS namespace that make it look like a
//! machine of its own. Done by a fresh, single-threaded `manx-lab` that then executes the command.
//!
//! ```text
//!   /run                     <lab>/<node>/run, with the host's /run/netns inside
//!   /etc/frr, /etc/manx …    <lab>/<node>/etc/frr …: what a daemon keeps for itself
//!   binds of the topology    on top
//!   /sys                     mounted anew: /sys/class/net shows the node's interfaces; cgroups are the machine's
//! ```
//!
//! Nothing is made on the host for a mount point that is missing there: the nearest folder that exists
//! is covered, in the node's view alone, by a tmpfs showing the same entries and the new one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

use crate::netns;
use crate::topology::Bind;

/// What a process that enters sees.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its network namespace's name.
    pub netns: String,
    /// Its host name.
    pub hostname: String,
    /// The folder that becomes `/run`; none: the host's.
    pub run: Option<PathBuf>,
    /// The node's own folders, at their places; made if missing.
    pub own: Vec<Bind>,
    /// Binds of the topology.
    pub binds: Vec<Bind>,
    /// Held shared from before the namespace is opened until it is entered, so that whoever holds
    /// it alone knows that nobody is on the way in.
    pub lock: PathBuf,
}

/// Why a node could not be entered.
#[derive(Debug, Error)]
pub enum EnterError {
    /// The lab has gone, or is going.
    #[error("no namespace {name}: is the lab up? (manx-lab list)")]
    NoNamespace {
        /// The namespace.
        name: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The command could not be executed.
    #[error("{program}: {source}")]
    Exec {
        /// The command.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn system<T, E: Into<io::Error>>(what: impl ToString, result: Result<T, E>) -> Result<T, EnterError> {
    result.map_err(|source| EnterError::System { what: what.to_string(), source: source.into() })
}

const NONE: Option<&str> = None;
const CGROUPS: &str = "/sys/fs/cgroup";

impl View {
    /// Moves this process into the node. It must have one thread only.
    ///
    /// # Errors
    /// The first step that failed; the process is of no further use then.
    pub fn enter(&self) -> Result<(), EnterError> {
        self.enter_network()?;
        system("new mount and UTS namespaces", unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS))?;
        // Not private: pods' namespaces mounted later in /run/netns must appear here, and those
        // removed there must not be held by this view.
        system("mounts to slave", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE))?;
        system("set the host name", fs::write("/proc/sys/kernel/hostname", &self.hostname))?;
        self.mount_sysfs()?;
        for folder in &self.own {
            self.mount_point(&folder.target, true)?;
            bind(&folder.source, &folder.target)?;
        }
        // The node's own /run hides where these folders come from, so it is the last but for what
        // belongs inside it.
        let (inside, outside): (Vec<_>, Vec<_>) =
            self.binds.iter().partition(|bind| bind.target.starts_with("/run"));
        outside.into_iter().try_for_each(|bind| self.mount_bind(bind))?;
        if let Some(run) = &self.run {
            let netns = run.join("netns");
            bind(Path::new(netns::DIR), &netns)?;
            bind(run, Path::new("/run"))?;
        }
        inside.into_iter().try_for_each(|bind| self.mount_bind(bind))
    }

    fn enter_network(&self) -> Result<(), EnterError> {
        let gone = || EnterError::NoNamespace { name: self.netns.clone() };
        let lock = File::open(&self.lock).map_err(|_| gone())?;
        system("lock", lock.lock_shared())?;
        let namespace = File::open(netns::path(&self.netns)).map_err(|_| gone())?;
        system(format!("enter {}", self.netns), setns(&namespace, CloneFlags::CLONE_NEWNET))
    }

    fn mount_sysfs(&self) -> Result<(), EnterError> {
        // Over what is there: a container runtime in the node needs the cgroups mounted below it.
        let cgroups = File::open(CGROUPS);
        system("mount /sys", mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE))?;
        match cgroups {
            Ok(held) => bind(&below(&held), Path::new(CGROUPS)),
            Err(_) => Ok(()),
        }
    }

    fn mount_bind(&self, wanted: &Bind) -> Result<(), EnterError> {
        self.mount_point(&wanted.target, wanted.source.is_dir())?;
        bind(&wanted.source, &wanted.target)?;
        if wanted.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            system(
                format!("make {} read-only", wanted.target.display()),
                mount(NONE, &wanted.target, NONE, flags, NONE),
            )?;
        }
        Ok(())
    }

    /// Sees to it that something is there to mount on.
    fn mount_point(&self, target: &Path, folder: bool) -> Result<(), EnterError> {
        if target.exists() {
            return Ok(());
        }
        let existing = target.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let ours = |own: &Bind| existing.starts_with(&own.target);
        if !existing.starts_with("/run") && !self.own.iter().any(ours) {
            cover(existing)?;
        }
        let parent = target.parent().unwrap_or(target);
        system(format!("make {}", parent.display()), fs::create_dir_all(parent))?;
        let made = if folder { fs::create_dir(target) } else { File::create(target).map(drop) };
        system(format!("make {}", target.display()), made)
    }
}

fn bind(source: &Path, target: &Path) -> Result<(), EnterError> {
    let what = || format!("bind {} to {}", source.display(), target.display());
    let bound = mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE);
    bound.map_err(|errno| EnterError::System { what: what(), source: errno.into() })
}

/// A folder that is held open, by a path that leads there also when it is covered.
fn below(held: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// Covers a folder with a tmpfs that shows the same entries.
fn cover(folder: &Path) -> Result<(), EnterError> {
    if folder == Path::new("/") {
        let hint = "put it below a folder that every machine has, as /etc or /var/lib";
        return system(hint, Err(io::Error::from(io::ErrorKind::Unsupported)));
    }
    let what = format!("cover {}", folder.display());
    let held = system(&what, File::open(folder))?;
    let below = below(&held);
    let entries =
        system(&what, fs::read_dir(below.join(".")).and_then(Iterator::collect::<io::Result<Vec<_>>>))?;
    system(&what, mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755")))?;
    for entry in entries {
        let (from, to) = (below.join(entry.file_name()), folder.join(entry.file_name()));
        let kind = system(&what, entry.file_type())?;
        if kind.is_symlink() {
            system(&what, fs::read_link(&from).and_then(|link| std::os::unix::fs::symlink(link, &to)))?;
            continue;
        }
        system(&what, if kind.is_dir() { fs::create_dir(&to) } else { File::create(&to).map(drop) })?;
        bind(&from, &to)?;
    }
    Ok(())
}

/// Whether a command belongs to the caller's terminal or lives on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Ctrl-C of the caller's terminal reaches it.
    Attached,
    /// A session of its own.
    Daemon,
}

/// Becomes the command; comes back only with the reason why it could not.
pub fn exec(argv: &[OsString], env: impl IntoIterator<Item = (String, OsString)>, life: Life) -> EnterError {
    let Some((program, args)) = argv.split_first() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "no command");
        return EnterError::Exec { program: String::new(), source };
    };
    if life == Life::Daemon
        && let Err(errno) = nix::unistd::setsid()
    {
        return EnterError::System { what: "new session".into(), source: errno.into() };
    }
    let source = Command::new(program).args(args).envs(env).exec();
    EnterError::Exec { program: program.to_string_lossy().into_owned(), source }
}

//! Another network namespace, entered for as long as it takes to open a socket there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such file, or not ours to open.
    #[error("cannot open network namespace {path:?}: {source}")]
    Open {
        /// As it was given.
        path: PathBuf,
        /// The file's error.
        source: io::Error,
    },
    /// Some other file.
    #[error("{0:?} is not a namespace")]
    NotANamespace(PathBuf),
    /// The caller's own.
    #[error("{0:?} is the node's own network namespace")]
    Own(PathBuf),
    /// A namespace of another kind, or no right to enter it (CAP_SYS_ADMIN).
    #[error("cannot enter the network namespace: {0}")]
    Enter(io::Error),
}

const OWN: &str = "/proc/thread-self/ns/net";

impl Netns {
    /// Opens the namespace behind `path`.
    ///
    /// # Errors
    /// [`NetnsError::Open`]; [`NetnsError::NotANamespace`]; [`NetnsError::Own`] when the calling thread is in it already: a veth with both ends
    /// there would be a loop in the node, not a pod's interface.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open = |path: &Path| {
            File::open(path)
                .and_then(|file| file.metadata().map(|meta| (file, (meta.dev(), meta.ino()))))
                .map_err(|source| NetnsError::Open { path: path.to_owned(), source })
        };
        let (file, id) = open(path)?;
        let kind = fstatfs(&file).map(|stat| stat.filesystem_type());
        if kind != Ok(NSFS_MAGIC) {
            return Err(NetnsError::NotANamespace(path.to_owned()));
        }
        let (_, own) = open(Path::new(OWN))?;
        if id == own { Err(NetnsError::Own(path.to_owned())) } else { Ok(Self { file }) }
    }

    /// The open namespace, for IFLA_NET_NS_FD.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `inside` with the calling thread in the namespace, and comes back.
    ///
    /// # Errors
    /// [`NetnsError::Enter`], also when there is no way back; a socket opened before stays where it was.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let enter = |file: &File| {
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter(errno.into()))
        };
        let own = File::open(OWN).map_err(NetnsError::Enter)?;
        enter(&self.file)?;
        let outcome = inside();
        enter(&own)?;
        Ok(outcome)
    }
}

//! What the agent remembers of attachments over a restart: one JSON file each.
//!
//! ```text
//!   <state-dir>/attachments/<host ifname>.json   written by the agent: an [`Attachment`]
//!   <state-dir>/released/*.json                  written by the plugin on a DEL while the agent was down: a key
//! ```
//!
//! The directory lies under `/run` and dies with the boot, as the containers do. A file is replaced by rename, so a
//! reader sees the old one or the new one; nothing is synced to a disk, since nothing need outlive a power cut.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use manx_cni::protocol::{AttachmentKey, PodRef, host_ifname};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One attachment as it is kept in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Whose interface.
    pub key: AttachmentKey,
    /// Whose pod.
    pub pod: PodRef,
    /// CNI_NETNS.
    pub netns: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the host's end of the veth.
    pub host_ifname: String,
    /// How far it got.
    pub phase: Phase,
}

/// How far an attachment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Addresses are taken; the plugin is making the veth. Found at a restart: the plugin's connection is gone, undo.
    Allocated,
    /// The veth stands and the plugin was, or may have been, told so.
    Attached {
        /// MAC of the pod's end.
        pod_mac: [u8; 6],
        /// Interface index of the host's end.
        host_ifindex: u32,
    },
}

/// What was found at a start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The attachments, in order of key.
    pub attachments: Vec<Attachment>,
    /// Files that could not be understood, in words; they were moved aside, to `<name>.bad`.
    pub set_aside: Vec<String>,
}

/// The directory of attachments.
#[derive(Clone, Debug)]
pub struct Files {
    attachments: PathBuf,
    released: PathBuf,
}

impl Files {
    /// Opens the state directory and makes what is missing of it, for its owner only.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let files = Self { attachments: state_dir.join("attachments"), released: state_dir.join("released") };
        for directory in [&files.attachments, &files.released] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(files)
    }

    /// Writes an attachment's file, or replaces it.
    ///
    /// # Errors
    /// The file system's; then the old file is still there.
    pub fn save(&self, attachment: &Attachment) -> io::Result<()> {
        let path = file_of(&self.attachments, &attachment.key);
        let fresh = path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        serde_json::to_writer_pretty(&mut file, attachment)?;
        fs::rename(&fresh, &path)
    }

    /// Removes an attachment's file; one that is not there is fine.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, key: &AttachmentKey) -> io::Result<()> {
        remove_if_there(&file_of(&self.attachments, key))
    }

    /// Reads every attachment back. What cannot be understood is moved aside and told.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for path in json_files(&self.attachments)? {
            match read::<Attachment>(&path) {
                Ok(attachment) if file_of(&self.attachments, &attachment.key) == path => {
                    loaded.attachments.push(attachment);
                }
                Ok(attachment) => {
                    let reason = format!("it holds {:?}, whose file has another name", attachment.key);
                    loaded.set_aside.push(set_aside(&path, &reason));
                }
                Err(error) => loaded.set_aside.push(set_aside(&path, &error.to_string())),
            }
        }
        loaded.attachments.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(loaded)
    }

    /// What was deleted while the agent was down, in order of key. Their veths are gone: free what they held, then
    /// [`Released::forget`]. A plugin that finds no agent may leave a note just after this was read: read again
    /// from time to time.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn released(&self) -> io::Result<Notes> {
        let mut notes = Notes::default();
        for path in json_files(&self.released)? {
            match read::<AttachmentKey>(&path) {
                Ok(key) => notes.released.push(Released { key, path }),
                Err(error) => notes.set_aside.push(set_aside(&path, &error.to_string())),
            }
        }
        notes.released.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(notes)
    }
}

/// The notes plugins left.
#[derive(Debug, Default)]
pub struct Notes {
    /// In order of key.
    pub released: Vec<Released>,
    /// Notes that could not be understood, in words; they were moved aside, to `<name>.bad`.
    pub set_aside: Vec<String>,
}

/// The note of one deletion.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// Whose interface went.
    pub key: AttachmentKey,
    path: PathBuf,
}

impl Released {
    /// Removes the note, once it has been honoured.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(&self) -> io::Result<()> {
        remove_if_there(&self.path)
    }
}

fn file_of(directory: &Path, key: &AttachmentKey) -> PathBuf {
    directory.join(format!("{}.json", host_ifname(key)))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn json_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

/// Moves a file out of the way and says so; a file that cannot even be moved is told and left.
fn set_aside(path: &Path, reason: &str) -> String {
    let aside = path.with_extension("bad");
    match fs::rename(path, &aside) {
        Ok(()) => format!("{} cannot be used ({reason}): moved to {}", path.display(), aside.display()),
        Err(error) => format!("{} cannot be used ({reason}), nor moved aside: {error}", path.display()),
    }
}

//! What the agent remembers of attachments over a restart: one JSON file each, `<state-dir>/attachments/<name of the
//! host's end>.json`. What was deleted while the agent was down is noted by the plugin: see [`manx_cni::released`].
//!
//! The directory lies under `/run` and dies with the boot, as the containers do. A file is replaced by rename, so a
//! reader sees the old one or the new one; nothing is synced to a disk, since nothing need outlive a power cut.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use manx_cni::protocol::{AttachmentKey, PodRef, host_ifname};
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
    /// `name` of the network; empty in a file of an agent that did not write it: no GC ends such an attachment.
    #[serde(default)]
    pub network: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the host's end of the veth.
    pub host_ifname: String,
    /// How far it got.
    pub phase: Phase,
}

/// How far an attachment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase", rename_all_fields = "camelCase")]
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
pub struct Files(PathBuf);

impl Files {
    /// Opens the directory of attachments under the state directory; made, for its owner only, if missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("attachments");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self(directory))
    }

    /// Writes an attachment's file, or replaces it.
    ///
    /// # Errors
    /// The file system's; then the old file is still there.
    pub fn save(&self, attachment: &Attachment) -> io::Result<()> {
        let path = self.file_of(&attachment.key);
        let fresh = path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        // At one stroke: a file is written while a pod waits.
        file.write_all(&serde_json::to_vec_pretty(attachment)?)?;
        fs::rename(&fresh, &path)
    }

    /// Removes an attachment's file; one that is not there is fine.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, key: &AttachmentKey) -> io::Result<()> {
        match fs::remove_file(self.file_of(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads every attachment back. What cannot be understood is moved aside and told; what a killed agent had not
    /// written to its end is removed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for path in self.files_called("new")? {
            if let Err(error) = fs::remove_file(&path) {
                loaded.set_aside.push(format!("{} cannot be removed: {error}", path.display()));
            }
        }
        for path in self.files_called("json")? {
            match read(&path) {
                Ok(attachment) if self.file_of(&attachment.key) == path => {
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

    fn files_called(&self, wanted: &str) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == wanted) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn file_of(&self, key: &AttachmentKey) -> PathBuf {
        self.0.join(host_ifname(key)).with_extension("json")
    }
}

fn read(path: &Path) -> io::Result<Attachment> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str) -> Attachment {
        let key = AttachmentKey { container_id: container.to_owned(), ifname: "eth0".to_owned() };
        Attachment {
            host_ifname: host_ifname(&key),
            key,
            pod: PodRef { namespace: "default".to_owned(), name: "web".to_owned(), uid: "u1".to_owned() },
            netns: "/run/netns/web".to_owned(),
            network: "manx".to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            phase: Phase::Allocated,
        }
    }

    #[test]
    fn what_is_saved_is_loaded_in_order_and_gone_once_removed() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::open(state.path()).unwrap();
        let (a, b) = (attachment("a"), attachment("b"));
        files.save(&b).unwrap();
        files.save(&a).unwrap();
        let attached = Attachment {
            phase: Phase::Attached { pod_mac: [2, 0, 0, 0, 0, 1], host_ifindex: 7 },
            ..a.clone()
        };
        files.save(&attached).unwrap();

        let loaded = Files::open(state.path()).unwrap().load().unwrap();
        assert_eq!(loaded.attachments, [attached, b.clone()]);
        assert_eq!(loaded.set_aside, Vec::<String>::new());

        files.remove(&a.key).unwrap();
        files.remove(&a.key).unwrap();
        assert_eq!(files.load().unwrap().attachments, [b]);
    }

    #[test]
    fn only_their_owner_can_read_attachments() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let files = Files::open(state.path()).unwrap();
        files.save(&attachment("a")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.0), 0o700);
        assert_eq!(mode(&files.file_of(&attachment("a").key)), 0o600);
    }

    #[test]
    fn what_cannot_be_understood_is_moved_aside_and_said() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::open(state.path()).unwrap();
        files.save(&attachment("a")).unwrap();
        fs::write(files.0.join("torn.json"), "{\"key\":").unwrap();
        // As a copy by hand would leave it: two files would hold one attachment.
        fs::copy(files.file_of(&attachment("a").key), files.0.join("copy.json")).unwrap();
        // As a kill between write and rename leaves it.
        fs::write(files.0.join("half.new"), "{").unwrap();

        let loaded = files.load().unwrap();
        assert_eq!(loaded.attachments, [attachment("a")]);
        assert_eq!(loaded.set_aside.len(), 2, "{:?}", loaded.set_aside);
        assert!(loaded.set_aside[0].contains("copy.json cannot be used (it holds"), "{:?}", loaded.set_aside);
        assert!(
            loaded.set_aside[1].contains("torn.json cannot be used (EOF while parsing"),
            "{:?}",
            loaded.set_aside
        );
        assert!(files.0.join("torn.bad").exists());
        assert!(!files.0.join("half.new").exists());
        assert!(files.load().unwrap().set_aside.is_empty(), "said once");
    }

    #[test]
    fn a_file_of_an_earlier_agent_says_no_network_and_is_read() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::open(state.path()).unwrap();
        let mut text = serde_json::to_value(attachment("a")).unwrap();
        text.as_object_mut().unwrap().remove("network");
        fs::write(files.file_of(&attachment("a").key), text.to_string()).unwrap();
        let loaded = files.load().unwrap();
        assert_eq!(loaded.attachments, [Attachment { network: String::new(), ..attachment("a") }]);
    }

    #[test]
    fn a_file_is_json_a_person_can_read() {
        let text = serde_json::to_value(attachment("a")).unwrap();
        assert_eq!(
            text,
            serde_json::json!({
                "key": {"containerId": "a", "ifname": "eth0"},
                "pod": {"namespace": "default", "name": "web", "uid": "u1"},
                "netns": "/run/netns/web",
                "network": "manx",
                "addresses": ["10.0.0.1", "fd00::1"],
                "hostIfname": host_ifname(&attachment("a").key),
                "phase": {"is": "allocated"},
            })
        );
    }
}

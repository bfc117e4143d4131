//! Notes of attachments removed while the agent was away.
//!
//! A DEL must succeed without the agent. It leaves the attachment's key in a file beside the agent's socket; the
//! agent frees the address when it finds the note, and removes it. Notes live under `/run`: they
//! die with the boot, as the attachments do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::protocol::{AttachmentKey, host_ifname};

/// Where notes for the agent that listens on `socket` lie.
pub fn folder(socket: &Path) -> PathBuf {
    socket.with_file_name("released")
}

/// Leaves a note that `key` has gone. Twice is as good as once.
///
/// # Errors
/// The file's.
pub fn leave(socket: &Path, key: &AttachmentKey) -> io::Result<()> {
    fs::create_dir_all(folder(socket))?;
    // In place: half a note is passed over, and whoever was killed over it has not told the runtime that it is done.
    fs::write(note(socket, key), serde_json::to_vec(key)?)
}

/// The attachments with a note, in no order. A file that is not a note is passed over.
///
/// # Errors
/// The folder's; a folder that is not there holds no notes.
pub fn read(socket: &Path) -> io::Result<Vec<AttachmentKey>> {
    let entries = match fs::read_dir(folder(socket)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Ok(text) = fs::read(&path)
            && let Ok(key) = serde_json::from_slice(&text)
        {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Removes the note of `key`, once its address is free, or when a new ADD uses the key again. None there is success.
///
/// # Errors
/// The file's.
pub fn clear(socket: &Path, key: &AttachmentKey) -> io::Result<()> {
    match fs::remove_file(note(socket, key)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn note(socket: &Path, key: &AttachmentKey) -> PathBuf {
    folder(socket).join(host_ifname(key)).with_extension("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_until_it_is_cleared() {
        let run = tempfile::tempdir().unwrap();
        let socket = run.path().join("agent.sock");
        let key = AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() };
        assert_eq!(read(&socket).unwrap(), []);
        leave(&socket, &key).unwrap();
        leave(&socket, &key).unwrap();
        fs::write(folder(&socket).join("torn.json"), "{").unwrap();
        assert_eq!(read(&socket).unwrap(), std::slice::from_ref(&key));
        clear(&socket, &key).unwrap();
        clear(&socket, &key).unwrap();
        assert_eq!(read(&socket).unwrap(), []);
    }
}

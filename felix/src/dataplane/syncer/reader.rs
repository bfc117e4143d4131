//! Reads all routes for a comparison, beside the thread that writes: of a large table that takes longer than a pod can wait.

use std::io;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::thread;

use manx_cni::netlink::Netlink;

use super::Command;
use crate::dataplane::{Settings, snapshot};

/// Asked for routes; ends with this handle.
pub struct Reader(SyncSender<()>);

impl Reader {
    /// Starts in the calling thread's network namespace.
    ///
    /// # Errors
    /// No socket, or no thread.
    pub fn start(settings: Settings, syncer: Sender<Command>) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let (ask, asked) = sync_channel(1);
        thread::Builder::new().name("route-reader".to_owned()).spawn(move || {
            while asked.recv().is_ok() {
                let read = snapshot::read_routes(&mut netlink, Some(settings));
                if syncer.send(Command::Read(read)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(ask))
    }

    /// Has them read: answered by [`Command::Read`].
    pub fn ask(&self) {
        // One question is enough, and a thread that has ended ended with the syncer.
        let _ = self.0.try_send(());
    }
}

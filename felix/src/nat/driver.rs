//! The thread that keeps the table.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Nat, TABLE, is_right, replace};
use crate::acl::nft::{Nft, Table};

/// How often it is asked whether anybody has changed anything, and a failed write is tried again.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How the table is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How often the table was written.
    pub written: u64,
    /// How often someone else had changed it.
    pub repaired: u64,
    /// Why it is not as it should be, in words.
    pub failure: Option<String>,
}

/// A handle to the thread. It ends with the last clone; the table stays.
#[derive(Clone, Debug)]
pub struct Driver {
    wanted: Sender<Nat>,
    status: Arc<Mutex<Status>>,
}

impl Driver {
    /// Starts the thread, in the calling thread's network namespace. What an earlier agent left stays until it is told
    /// what is wanted.
    ///
    /// # Errors
    /// When the socket cannot be opened or the thread not started.
    pub fn start() -> io::Result<Self> {
        let nft = Nft::open()?;
        let (wanted, received) = channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let keeper = Keeper { nft, generation: None, status: Arc::clone(&status) };
        thread::Builder::new().name("nat".to_owned()).spawn(move || keeper.run(&received))?;
        Ok(Self { wanted, status })
    }

    /// From now on this is wanted.
    pub fn want(&self, nat: Nat) {
        // With the thread gone the status tells nothing new, and there is nobody to tell.
        let _ = self.wanted.send(nat);
    }

    /// How the table is.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Keeper {
    nft: Nft,
    /// Of the kernel's ruleset when our table was last found right: until it changes nobody has changed ours.
    generation: Option<u32>,
    status: Arc<Mutex<Status>>,
}

impl Keeper {
    fn run(mut self, received: &Receiver<Nat>) {
        let mut wanted: Option<Option<Table>> = None;
        loop {
            let mut news = false;
            match received.recv_timeout(ASK_EVERY) {
                Ok(first) => {
                    let newest = received.try_iter().last().unwrap_or(first);
                    wanted = Some(newest.table());
                    self.generation = None;
                    news = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(wanted) = &wanted else { continue };
            let outcome = self.keep(wanted.as_ref(), news);
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = &outcome
                && status.failure.as_ref() != Some(error)
            {
                tracing::warn!("{error}; tried again");
            }
            status.failure = outcome.err();
        }
    }

    fn keep(&mut self, wanted: Option<&Table>, news: bool) -> Result<(), String> {
        let unreadable = |error| format!("cannot read the nftables table inet {TABLE}: {error}");
        let generation = self.nft.generation().map_err(unreadable)?;
        if self.generation == Some(generation) {
            return Ok(());
        }
        let read = self.nft.read_table(TABLE).map_err(unreadable)?;
        if !is_right(wanted, read.as_ref()) {
            let unwritten = |error| {
                format!(
                    "cannot write the nftables table inet {TABLE}, by which pods' packets leave the cluster with the node's address: {error}"
                )
            };
            self.nft.commit(&replace(wanted)).map_err(unwritten)?;
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            status.written += 1;
            if !news {
                status.repaired += 1;
                tracing::warn!("put right what someone else had done to the nftables table inet {TABLE}");
            }
            return Ok(());
        }
        self.generation = Some(generation);
        Ok(())
    }
}

//! A small table of ours that is written whole: a thread of its own makes it what it shall be, looks after it, and puts
//! right what others do to it.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::nft::{Batch, CommitError, DumpError, Nft, ReadTable, Table};

/// How often it is asked whether anybody has changed anything, and a failed write is tried again.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A handle to the thread. It ends with the last clone; the table stays.
#[derive(Clone, Debug)]
pub struct Keeper {
    wanted: mpsc::Sender<Option<Table>>,
    status: Arc<Mutex<Status>>,
}

/// How the table is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How often it was written.
    pub written: u64,
    /// How often someone else had changed it.
    pub repaired: u64,
    /// Why it is not as it shall be, in words.
    pub failure: Option<String>,
}

/// Why the table is not as it shall be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("cannot read it: {0}")]
    Read(#[from] DumpError),
    #[error("cannot write it: {0}")]
    Write(#[from] CommitError),
}

impl Keeper {
    /// Of the table of this name, in the calling thread's network namespace. What is there stays until something is
    /// wanted.
    ///
    /// # Errors
    /// When there is no nfnetlink socket to be had, or no thread.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let nft = Nft::open()?;
        let (wanted, told) = mpsc::channel();
        let status = Arc::default();
        let kept = Kept { nft, name, generation: None, status: Arc::clone(&status) };
        thread::Builder::new().name(format!("nft {name}")).spawn(move || kept.run(&told))?;
        Ok(Self { wanted, status })
    }

    /// What the table shall be; none: it shall not be there.
    pub fn want(&self, table: Option<Table>) {
        // With the thread gone the table stays as it is.
        let _ = self.wanted.send(table);
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Kept {
    nft: Nft,
    name: &'static str,
    /// Of the kernel's ruleset when our table was last found right: until it changes nobody has changed ours.
    generation: Option<u32>,
    status: Arc<Mutex<Status>>,
}

impl Kept {
    fn run(mut self, told: &Receiver<Option<Table>>) {
        let Ok(mut wanted) = told.recv() else { return };
        let mut is_new = true;
        loop {
            let outcome = self.keep(wanted.as_ref());
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            let name = self.name;
            if matches!(outcome, Ok(true)) {
                status.written += 1;
                if !is_new {
                    status.repaired += 1;
                    tracing::warn!("put right what someone else had done to the nftables table inet {name}");
                }
            }
            is_new &= outcome.is_err();
            let failure = outcome.err().map(|error| format!("nftables table inet {name}: {error}"));
            if let Some(words) = &failure
                && status.failure != failure
            {
                tracing::warn!("{words}; tried again");
            }
            status.failure = failure;
            drop(status);
            match told.recv_timeout(ASK_EVERY) {
                Ok(table) => {
                    wanted = told.try_iter().last().unwrap_or(table);
                    (self.generation, is_new) = (None, true);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Makes the kernel's table what it shall be; whether it was something else.
    fn keep(&mut self, wanted: Option<&Table>) -> Result<bool, KeepError> {
        let generation = self.nft.generation()?;
        if self.generation == Some(generation) {
            return Ok(false);
        }
        let is_written = ensure(&mut self.nft, self.name, wanted)?;
        self.generation = (!is_written).then_some(generation);
        Ok(is_written)
    }
}

/// In one transaction.
fn ensure(nft: &mut Nft, name: &str, wanted: Option<&Table>) -> Result<bool, KeepError> {
    let actual = nft.read_table(name)?;
    if matches(actual.as_ref(), wanted) {
        return Ok(false);
    }
    let mut batch = Batch::new(name);
    if actual.is_some() {
        batch.delete_table();
    }
    if let Some(table) = wanted {
        batch.add_table();
        for counter in &table.counters {
            batch.add_counter(counter);
        }
        for (name, (set, elements)) in &table.sets {
            batch.add_set(name, set);
            batch.add_elements(name, set, elements);
        }
        for (name, chain) in &table.chains {
            batch.add_chain(name, chain.base.as_ref());
        }
        for (name, chain) in &table.chains {
            for rule in &chain.rules {
                batch.add_rule(name, &rule.body());
            }
        }
    }
    nft.commit(&batch)?;
    Ok(true)
}

fn matches(actual: Option<&ReadTable>, wanted: Option<&Table>) -> bool {
    let (actual, wanted) = match (actual, wanted) {
        (None, None) => return true,
        (Some(actual), Some(wanted)) => (actual, wanted),
        _ => return false,
    };
    let sets = actual.sets.len() == wanted.sets.len()
        && wanted.sets.iter().all(|(name, (set, elements))| {
            let there = actual.sets.get(name).and_then(Option::as_ref);
            there.is_some_and(|(kind, there)| kind.is_like(set) && there == elements)
        });
    let chains = actual.chains.len() == wanted.chains.len()
        && wanted.chains.iter().all(|(name, chain)| {
            actual.chains.get(name).is_some_and(|there| {
                let bodies = chain.rules.iter().map(super::nft::Rule::body);
                !there.is_strange && there.base == chain.base && there.rules.iter().cloned().eq(bodies)
            })
        });
    sets && chains && wanted.counters.iter().eq(actual.counters.keys())
}

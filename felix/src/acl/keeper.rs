//! A small table of ours that is written whole: a thread of its own makes it what it shall be, looks after it, and puts
//! right what others do to it.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::nft::{Batch, CommitError, DumpError, Nft, ReadTable, Table};

/// Between two looks at the kernel's table; after a failure, too.
const LOOK: Duration = Duration::from_secs(5);

/// A handle to the thread. It ends with the last clone; the table stays.
#[derive(Clone, Debug)]
pub struct Keeper(mpsc::Sender<Option<Table>>);

/// Why the table is not as it shall be.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] DumpError),
    /// It cannot be written.
    #[error(transparent)]
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
        thread::Builder::new().name(format!("nft {name}")).spawn(move || keep(nft, name, &told))?;
        Ok(Self(wanted))
    }

    /// What the table shall be; none: it shall not be there.
    pub fn want(&self, table: Option<Table>) {
        // With the thread gone the table stays as it is.
        let _ = self.0.send(table);
    }
}

fn keep(mut nft: Nft, name: &str, told: &Receiver<Option<Table>>) {
    let Ok(mut wanted) = told.recv() else { return };
    let mut failure = None;
    loop {
        match ensure(&mut nft, name, wanted.as_ref()) {
            Ok(_) => failure = None,
            Err(error) => {
                let words = error.to_string();
                if failure.as_ref() != Some(&words) {
                    tracing::warn!("nftables table inet {name} is not as it shall be: {words}; tried again");
                }
                failure = Some(words);
            }
        }
        match told.recv_timeout(LOOK) {
            Ok(table) => wanted = told.try_iter().last().unwrap_or(table),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Makes the kernel's table what it shall be, in one transaction; whether it was something else.
///
/// # Errors
/// [`KeepError`]; then it is as it was.
pub fn ensure(nft: &mut Nft, name: &str, wanted: Option<&Table>) -> Result<bool, KeepError> {
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

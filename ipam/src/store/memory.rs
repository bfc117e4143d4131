//! Blocks in memory, with faults on demand: for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;

use super::{Store, StoreError};
use crate::crd::{IPAMBlock, IPAMBlockStatus};

/// What goes wrong with a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request does not arrive.
    LostRequest,
    /// The request is done, the answer is lost.
    LostReply,
    /// This node creates the same block a moment before.
    Rival(String),
}

/// An API server's memory for [`IPAMBlock`] objects. Every call yields once before it acts, so that concurrent callers
/// interleave.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<String, IPAMBlock>,
    /// Counts writes: UIDs and resourceVersions.
    written: u64,
    requests: u64,
    outage: bool,
    faults: VecDeque<Fault>,
}

impl MemoryStore {
    /// Answers no request while `outage` is set.
    pub fn set_outage(&self, outage: bool) {
        self.state().outage = outage;
    }

    /// The next creation without a fault before it meets this one.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// All objects, whatever faults are set.
    pub fn blocks(&self) -> Vec<IPAMBlock> {
        self.state().blocks.values().cloned().collect()
    }

    /// Requests that arrived so far.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reach(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        if state.outage {
            return Err(unreachable("outage"));
        }
        state.requests += 1;
        Ok(state)
    }
}

fn unreachable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

impl State {
    fn create(&mut self, block: &IPAMBlock) -> Result<(), StoreError> {
        let name = block.name_any();
        if self.blocks.contains_key(&name) {
            return Err(StoreError::Exists(name));
        }
        self.written += 1;
        let mut block = block.clone();
        block.metadata.uid = Some(format!("uid-{}", self.written));
        block.metadata.resource_version = Some(self.written.to_string());
        self.blocks.insert(name, block);
        Ok(())
    }
}

impl Store for MemoryStore {
    async fn list_blocks(&self) -> Result<Vec<IPAMBlock>, StoreError> {
        Ok(self.reach().await?.blocks.values().cloned().collect())
    }

    async fn create_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        let mut state = self.reach().await?;
        match state.faults.pop_front() {
            None => state.create(block),
            Some(Fault::LostRequest) => Err(unreachable("request lost")),
            Some(Fault::LostReply) => {
                // Whatever the answer was, nobody hears it.
                let _ = state.create(block);
                Err(unreachable("reply lost"))
            }
            Some(Fault::Rival(node)) => {
                let mut rival = block.clone();
                rival.spec.node = node;
                state.create(&rival)?;
                state.create(block)
            }
        }
    }

    async fn update_status(&self, name: &str, status: &IPAMBlockStatus) -> Result<(), StoreError> {
        let mut state = self.reach().await?;
        state.written += 1;
        let written = state.written.to_string();
        let block = state.blocks.get_mut(name).ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        block.status = Some(status.clone());
        block.metadata.resource_version = Some(written);
        Ok(())
    }

    async fn delete_block(&self, name: &str, uid: &str, version: Option<&str>) -> Result<(), StoreError> {
        let mut state = self.reach().await?;
        match state.blocks.get(name) {
            Some(stored) if stored.uid().as_deref() != Some(uid) => {
                Err(StoreError::Refused(format!("IPAMBlock {name} is another object of the same name")))
            }
            Some(stored)
                if version.is_some_and(|version| stored.resource_version().as_deref() != Some(version)) =>
            {
                Err(StoreError::Refused(format!("IPAMBlock {name} was written since")))
            }
            _ => {
                state.blocks.remove(name);
                Ok(())
            }
        }
    }
}

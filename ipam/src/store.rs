//! Where blocks are kept: the API server, or memory in tests.

pub mod kube;
pub mod memory;

use std::future::Future;

use crate::crd::{IPAMBlock, IPAMBlockStatus};

/// Keeps [`IPAMBlock`] objects. Only creation decides who owns a block.
pub trait Store: Send + Sync {
    /// All blocks there are.
    fn list_blocks(&self) -> impl Future<Output = Result<Vec<IPAMBlock>, StoreError>> + Send;

    /// Creates the object; [`StoreError::Exists`] when there is one of its name. After [`StoreError::Unavailable`]
    /// it may have been created.
    fn create_block(&self, block: &IPAMBlock) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Replaces the status of the object; its owner alone calls this. One that is not there is
    /// [`StoreError::NotFound`].
    fn update_status(
        &self,
        name: &str,
        status: &IPAMBlockStatus,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes the object of this name, if its UID is still this and, where one is given, its resourceVersion; done,
    /// too, when there is none of the name. [`StoreError::Refused`] when it is another by now.
    fn delete_block(
        &self,
        name: &str,
        uid: &str,
        version: Option<&str>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// An object of this name is there already.
    #[error("IPAMBlock {0} exists")]
    Exists(String),
    /// No object of this name.
    #[error("IPAMBlock {0} does not exist")]
    NotFound(String),
    /// The API server does not answer, or asks to come back: retry later.
    #[error("the API server cannot be reached: {0}")]
    Unavailable(String),
    /// The API server says no; retrying does not help.
    #[error("the API server refused: {0}")]
    Refused(String),
}

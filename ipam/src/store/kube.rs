//! Blocks as custom resources.

use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{Store, StoreError};
use crate::crd::{IPAMBlock, IPAMBlockStatus};

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Objects a page of a list.
const PAGE: u32 = 500;

/// The API server's IPAMBlock objects.
#[derive(Clone, Debug)]
pub struct KubeStore(Api<IPAMBlock>);

impl KubeStore {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self(Api::all(client))
    }
}

impl Store for KubeStore {
    async fn list_blocks(&self) -> Result<Vec<IPAMBlock>, StoreError> {
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = within_deadline("", self.0.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    async fn create_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        within_deadline(&block.name_any(), self.0.create(&PostParams::default(), block)).await.map(drop)
    }

    async fn update_status(&self, name: &str, status: &IPAMBlockStatus) -> Result<(), StoreError> {
        let patch = Patch::Merge(json!({ "status": status }));
        within_deadline(name, self.0.patch_status(name, &PatchParams::default(), &patch)).await.map(drop)
    }

    async fn delete_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        let name = block.name_any();
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: block.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match within_deadline(&name, self.0.delete(&name, &params)).await {
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn within_deadline<T>(
    name: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(result) => result.map_err(|error| explain(name, error)),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

fn explain(name: &str, error: kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => StoreError::Exists(name.to_owned()),
            (404, _) if !name.is_empty() => StoreError::NotFound(name.to_owned()),
            (408 | 429 | 500.., _) => StoreError::Unavailable(status.message),
            _ => StoreError::Refused(status.message),
        },
        error => StoreError::Unavailable(error.to_string()),
    }
}

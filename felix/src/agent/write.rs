//! Writes statuses to the API, each as a merge patch of the status subresource.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use manx_ipam::crd::IPPool;
use manx_ipam::store::{Store, StoreError};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::mirror::{Verdict, Write};
use crate::crd::{BGPConfiguration, BGPPeer, NodeStatus, NodeStatusSpec};
use crate::watch::convert::words;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API said no, or nothing.
    #[error("{what}: {}", words(source.as_ref()))]
    Api {
        /// Kind and name.
        what: String,
        /// The client's.
        source: Box<kube::Error>,
    },
    /// It took too long.
    #[error("{what}: no answer within {} s", DEADLINE.as_secs())]
    Late {
        /// Kind and name.
        what: String,
    },
    /// A block's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes one after the other; what cannot be written does not keep the rest from being written, unless the API is
/// away. Returns what was written, and the first failure in words.
pub async fn write_all(
    client: Client,
    store: impl Store,
    writes: Vec<Write>,
) -> (Vec<Write>, Option<String>) {
    let (mut done, mut failure) = (Vec::new(), None);
    for write in writes {
        match perform(&client, &store, &write).await {
            Ok(()) => done.push(write),
            Err(error) => {
                let away =
                    matches!(error, WriteError::Late { .. } | WriteError::Store(StoreError::Unavailable(_)));
                failure.get_or_insert_with(|| error.to_string());
                if away {
                    break;
                }
            }
        }
    }
    (done, failure)
}

async fn perform(client: &Client, store: &impl Store, write: &Write) -> Result<(), WriteError> {
    match write {
        Write::Block { name, status } => match store.update_status(name, status).await {
            Err(StoreError::NotFound(_)) => Ok(()),
            outcome => Ok(outcome?),
        },
        Write::Pool { name, status, verdict } => {
            let conditions = merged(&status.conditions, verdict);
            let status = json!({ "size": status.size, "used": status.used, "blocks": status.blocks,
                "conditions": conditions });
            patch::<IPPool>(client, name, status).await.map(drop)
        }
        Write::Peer { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, verdict) });
            patch::<BGPPeer>(client, name, status).await.map(drop)
        }
        Write::Configuration { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, verdict) });
            patch::<BGPConfiguration>(client, name, status).await.map(drop)
        }
        Write::Node { name, uid, status } => {
            let status = json!(status);
            if patch::<NodeStatus>(client, name, status.clone()).await? == Found::Yes {
                return Ok(());
            }
            create_node_status(client, name, uid).await?;
            patch::<NodeStatus>(client, name, status).await.map(drop)
        }
    }
}

async fn create_node_status(client: &Client, name: &str, uid: &str) -> Result<(), WriteError> {
    let mut object = NodeStatus::new(name, NodeStatusSpec {});
    // The API server removes the status with the Node.
    object.owner_references_mut().push(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    });
    let api = Api::<NodeStatus>::all(client.clone());
    let parameters = PostParams::default();
    let what = format!("NodeStatus {name}");
    match timeout(DEADLINE, api.create(&parameters, &object)).await {
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(outcome) => outcome.map(drop).map_err(|error| WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

/// Whether the object is there.
#[derive(PartialEq, Eq)]
enum Found {
    Yes,
    No,
}

/// Answers are not parsed: an object that does not follow its schema is just what is to be told here.
async fn patch<K: Resource<DynamicType = ()>>(
    client: &Client,
    name: &str,
    status: Value,
) -> Result<Found, WriteError> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let what = format!("{} {name}", K::kind(&()));
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(json!({ "status": status })));
    match timeout(DEADLINE, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(Found::Yes),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Found::No),
        Ok(Err(error)) => Err(WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

/// The conditions with this one in its place; its time stays while its status does.
fn merged(conditions: &[Condition], verdict: &Verdict) -> Vec<Condition> {
    let before = conditions.iter().find(|condition| condition.type_ == verdict.type_);
    let since = before
        .filter(|before| before.status == verdict.status())
        .map(|before| before.last_transition_time.clone());
    let condition = Condition {
        type_: verdict.type_.to_owned(),
        status: verdict.status().to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.clone(),
        observed_generation: Some(verdict.generation),
        last_transition_time: since.unwrap_or_else(|| Time(jiff::Timestamp::now())),
    };
    let others = conditions.iter().filter(|condition| condition.type_ != verdict.type_).cloned();
    others.chain([condition]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays_and_leaves_the_others_alone() {
        let verdict =
            |holds, reason| Verdict { type_: "Ready", holds, reason, message: String::new(), generation: 2 };
        let mut first = merged(&[], &verdict(true, "Usable"));
        first[0].last_transition_time = Time(jiff::Timestamp::UNIX_EPOCH);
        first.push(Condition { type_: "Foreign".to_owned(), ..first[0].clone() });
        let same = merged(&first, &verdict(true, "StillUsable"));
        let ready =
            |conditions: &[Condition]| conditions.iter().find(|c| c.type_ == "Ready").cloned().unwrap();
        assert_eq!(ready(&same).last_transition_time, Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(ready(&same).reason, "StillUsable");
        assert_eq!(same.len(), 2);
        let turned = merged(&same, &verdict(false, "InvalidCIDR"));
        assert_ne!(ready(&turned).last_transition_time, Time(jiff::Timestamp::UNIX_EPOCH));
    }
}

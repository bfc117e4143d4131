//! Writes statuses to the API, each as a merge patch of the status subresource.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use manx_ipam::crd::{IPAMRequest, IPAMRequestSpec, IPPool, IPReservation};
use manx_ipam::store::{Store, StoreError};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::degraded::Concerned;
use super::mirror::{Verdict, Write};
use crate::cluster_network_policy::ClusterNetworkPolicy;
use crate::crd::{
    BGPConfiguration, BGPFilter, BGPPeer, NodeStatus, NodeStatusSpec, NodeStatusStatus, PolicyStatus,
    PolicyStatusSpec, PolicyStatusStatus,
};
use crate::model::policy::PolicyName;
use crate::model::{IP_ADDRESSES_EXHAUSTED, ROUTE_REFLECTOR};
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
    for mut write in writes {
        match perform(&client, &store, &mut write).await {
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

async fn perform(client: &Client, store: &impl Store, write: &mut Write) -> Result<(), WriteError> {
    match write {
        Write::Block { name, status } => match store.update_status(name, status).await {
            Err(StoreError::NotFound(_)) => Ok(()),
            outcome => Ok(outcome?),
        },
        Write::Pool { name, status, verdicts } => {
            let conditions = merged(&status.conditions, verdicts);
            let status = json!({ "size": status.size, "used": status.used, "free": status.free,
                "blocks": status.blocks, "conditions": conditions });
            patch::<IPPool>(client, name, status).await.map(drop)
        }
        Write::Reservation { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, std::slice::from_ref(verdict)) });
            patch::<IPReservation>(client, name, status).await.map(drop)
        }
        Write::Ask { name, node, block } => {
            let spec = IPAMRequestSpec { node: node.clone(), block: block.to_string() };
            let what = format!("IPAMRequest {name}");
            let api = Api::<IPAMRequest>::all(client.clone());
            let (parameters, object) = (PostParams::default(), IPAMRequest::new(name, spec));
            within_deadline(what, api.create(&parameters, &object), 409).await
        }
        Write::Asked { name } => {
            let api = Api::<IPAMRequest>::all(client.clone());
            let parameters = DeleteParams::default();
            within_deadline(format!("IPAMRequest {name}"), api.delete(name, &parameters), 404).await
        }
        Write::Exhausted { node, words } => {
            let said = match words {
                Some(words) => (true, "NoAddressFree", words.as_str()),
                None => (false, "AddressesFree", "pods can have addresses"),
            };
            node_condition(client, node, IP_ADDRESSES_EXHAUSTED, said).await
        }
        Write::Address { node, annotation, value } => {
            // By way of the status, which is all of a Node that an agent may write.
            let api = Api::<Node>::all(client.clone());
            let patch = Patch::Merge(json!({ "metadata": { "annotations": { *annotation: value } } }));
            let parameters = PatchParams::default();
            let request = api.patch_status(node, &parameters, &patch);
            within_deadline(format!("Node {node}"), request, 404).await
        }
        Write::Reflecting { node, reflects } => {
            let said = match reflects {
                true => (true, "Elected", "reflects the routes of the other nodes to them"),
                false => (false, "NotElected", "reflects no routes"),
            };
            node_condition(client, node, ROUTE_REFLECTOR, said).await
        }
        Write::Event { regarding, note } => {
            let (reason, action) = ("IPAddressesExhausted", "AssignAddress");
            let object = ObjectReference {
                api_version: Some(regarding.api_version.to_owned()),
                kind: Some(regarding.kind.to_owned()),
                name: Some(regarding.name.clone()),
                uid: Some(regarding.uid.clone()),
                ..ObjectReference::default()
            };
            tell(client, object, (reason, action), note).await
        }
        Write::Complaint { policy, uid, note, .. } => {
            tell(client, reference(policy, uid), ("NotAsWritten", "EnforcePolicy"), note).await
        }
        Write::ServiceEvent(event) => {
            let (namespace, name) = event.service.split_once('/').unwrap_or_default();
            let object = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: Some(event.uid.to_string()),
                ..ObjectReference::default()
            };
            tell(client, object, (event.reason, "AnnounceService"), &event.note).await
        }
        Write::Overlap { node, note } => {
            let object = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.clone()),
                // As the kubelet's own: kubectl describe node finds them by it.
                uid: Some(node.clone()),
                ..ObjectReference::default()
            };
            tell(client, object, ("ForeignRoute", "Route"), note).await
        }
        Write::Refuse { name, reason } => {
            patch::<IPAMRequest>(client, name, json!({ "refused": reason })).await.map(drop)
        }
        Write::Peer { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, std::slice::from_ref(verdict)) });
            patch::<BGPPeer>(client, name, status).await.map(drop)
        }
        Write::Configuration { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, std::slice::from_ref(verdict)) });
            patch::<BGPConfiguration>(client, name, status).await.map(drop)
        }
        Write::Degraded { object, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, std::slice::from_ref(verdict)) });
            match object {
                Concerned::Peer(name) => patch::<BGPPeer>(client, name, status).await.map(drop),
                Concerned::Configuration(name) => {
                    patch::<BGPConfiguration>(client, name, status).await.map(drop)
                }
            }
        }
        Write::Trouble { object, uid, note } => {
            let (kind, name) = match object {
                Concerned::Peer(name) => ("BGPPeer", name),
                Concerned::Configuration(name) => ("BGPConfiguration", name),
            };
            let object = ObjectReference {
                api_version: Some("manx.io/v1alpha1".to_owned()),
                kind: Some(kind.to_owned()),
                name: Some(name.clone()),
                uid: Some(uid.clone()),
                ..ObjectReference::default()
            };
            tell(client, object, ("Degraded", "Peer"), note).await
        }
        Write::Filter { name, conditions, verdict } => {
            let status = json!({ "conditions": merged(conditions, std::slice::from_ref(verdict)) });
            patch::<BGPFilter>(client, name, status).await.map(drop)
        }
        Write::ClusterPolicy { name, conditions, verdicts } => {
            let status = json!({ "conditions": merged(conditions, verdicts) });
            patch::<ClusterNetworkPolicy>(client, name, status).await.map(drop)
        }
        Write::Policy { name, owner, status, verdicts } => {
            let conditions = merged(&status.conditions, verdicts);
            let status = json!(PolicyStatusStatus { conditions, ..status.clone() });
            if patch::<PolicyStatus>(client, name, status.clone()).await?.is_some() {
                return Ok(());
            }
            create_policy_status(client, name, owner).await?;
            patch::<PolicyStatus>(client, name, status).await.map(drop)
        }
        Write::ForgetPolicy { name } => {
            let (namespace, short) = name.split_once('/').unwrap_or_default();
            let api = Api::<PolicyStatus>::namespaced(client.clone(), namespace);
            let parameters = DeleteParams::default();
            within_deadline(format!("PolicyStatus {name}"), api.delete(short, &parameters), 404).await
        }
        Write::Node { name, uid, status, is_first } => {
            let mut said = json!(status);
            if *is_first && let Some(fields) = said.as_object_mut() {
                // The answer tells what an earlier agent has said of them.
                fields.remove("conditions");
            }
            match patch::<NodeStatus>(client, name, said).await? {
                Some(there) if there.owner_references().iter().all(|owner| owner.uid == *uid) => {
                    if *is_first {
                        let earlier = there.data.pointer("/status/conditions").cloned().unwrap_or_default();
                        resume(serde_json::from_value(earlier).unwrap_or_default(), status);
                        let said = json!({ "conditions": status.conditions });
                        patch::<NodeStatus>(client, name, said).await?;
                    }
                    return Ok(());
                }
                // Of an earlier Node of this name, and to be removed with that one: sooner or later.
                Some(earlier) => delete_node_status(client, &earlier).await?,
                None => {}
            }
            create_node_status(client, name, uid).await?;
            patch::<NodeStatus>(client, name, json!(status)).await.map(drop)
        }
    }
}

/// Conditions of a Node are merged by their type.
async fn node_condition(
    client: &Client,
    node: &str,
    type_: &str,
    (holds, reason, message): (bool, &str, &str),
) -> Result<(), WriteError> {
    let now = Time(jiff::Timestamp::now());
    let condition = json!({
        "type": type_, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
        "lastTransitionTime": now, "lastHeartbeatTime": now,
    });
    let api = Api::<Node>::all(client.clone());
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    let parameters = PatchParams::default();
    let request = api.patch_status(node, &parameters, &patch);
    within_deadline(format!("Node {node}"), request, 404).await
}

/// An Event that the API does not take is not worth holding up what else is to be written.
async fn tell(
    client: &Client,
    object: ObjectReference,
    (reason, action): (&str, &str),
    note: &str,
) -> Result<(), WriteError> {
    let recorder =
        Recorder::new(client.clone(), Reporter { controller: "manx-felix".to_owned(), instance: None });
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        // The API's limit, in bytes.
        note: Some(note.chars().take(500).collect()),
        action: action.to_owned(),
        secondary: None,
    };
    let about = (object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
    let what = format!("Event of {} {}", about.0, about.1);
    match timeout(DEADLINE, recorder.publish(&event, &object)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => {
            tracing::warn!("{what}: {}", status.message);
            Ok(())
        }
        Ok(Err(error)) => Err(WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

fn reference(policy: &PolicyName, uid: &str) -> ObjectReference {
    let (kind, api_version, namespace, name) = match policy {
        PolicyName::Network(name) => {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            ("NetworkPolicy", "networking.k8s.io/v1", Some(namespace.to_owned()), name)
        }
        PolicyName::Cluster(name) => {
            ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", None, &**name)
        }
    };
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace,
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
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
    within_deadline(format!("NodeStatus {name}"), api.create(&parameters, &object), 409).await
}

async fn delete_node_status(client: &Client, earlier: &DynamicObject) -> Result<(), WriteError> {
    let name = earlier.name_any();
    let api = Api::<NodeStatus>::all(client.clone());
    let only = Preconditions { uid: earlier.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    within_deadline(format!("NodeStatus {name}"), api.delete(&name, &parameters), 404).await
}

async fn create_policy_status(client: &Client, name: &str, owner: &str) -> Result<(), WriteError> {
    let what = format!("PolicyStatus {name}");
    let (namespace, name) = name.split_once('/').unwrap_or_default();
    let mut object = PolicyStatus::new(name, PolicyStatusSpec {});
    object.owner_references_mut().push(OwnerReference {
        api_version: "networking.k8s.io/v1".to_owned(),
        kind: "NetworkPolicy".to_owned(),
        name: name.to_owned(),
        uid: owner.to_owned(),
        ..OwnerReference::default()
    });
    let api = Api::<PolicyStatus>::namespaced(client.clone(), namespace);
    let parameters = PostParams::default();
    match timeout(DEADLINE, api.create(&parameters, &object)).await {
        // The namespace goes or has gone, with all that is in it.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || is_terminating(&status) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(outcome) => outcome.map(drop).map_err(|error| WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

/// Whether a refusal is because of a namespace that ends.
fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Does a request; an answer of this code says that it was done before.
async fn within_deadline<T>(
    what: String,
    request: impl Future<Output = kube::Result<T>>,
    done: u16,
) -> Result<(), WriteError> {
    match timeout(DEADLINE, request).await {
        Ok(Err(kube::Error::Api(status))) if status.code == done => Ok(()),
        Ok(outcome) => outcome.map(drop).map_err(|error| WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

/// The object as it is then, unless there is none. It is not parsed: one that does not follow its schema is just what is to
/// be told here.
async fn patch<K: Resource<DynamicType = ()>>(
    client: &Client,
    name: &str,
    status: Value,
) -> Result<Option<DynamicObject>, WriteError> {
    let resource = ApiResource::erase::<K>(&());
    let what = format!("{} {name}", K::kind(&()));
    let (api, name) = match name.split_once('/') {
        Some((namespace, name)) => {
            (Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource), name)
        }
        None => (Api::<DynamicObject>::all_with(client.clone(), &resource), name),
    };
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(json!({ "status": status })));
    match timeout(DEADLINE, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(object)) => Ok(Some(object)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(error)) => Err(WriteError::Api { what, source: Box::new(error) }),
        Err(_) => Err(WriteError::Late { what }),
    }
}

/// The conditions with these in their places; the time of each stays while its status does.
pub fn merged(conditions: &[Condition], verdicts: &[Verdict]) -> Vec<Condition> {
    verdicts.iter().fold(conditions.to_vec(), |all, verdict| replaced(&all, verdict))
}

fn replaced(conditions: &[Condition], verdict: &Verdict) -> Vec<Condition> {
    let since = since(conditions, verdict.type_, verdict.status());
    let condition = Condition {
        type_: verdict.type_.to_owned(),
        status: verdict.status().to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.clone(),
        observed_generation: Some(verdict.generation),
        last_transition_time: since.unwrap_or_else(|| Time(jiff::Timestamp::now())),
    };
    let mut all = conditions.to_vec();
    match all.iter_mut().find(|before| before.type_ == condition.type_) {
        Some(before) => *before = condition,
        None => all.push(condition),
    }
    all
}

/// Since when a condition has had a status; none: it has another.
fn since(conditions: &[Condition], type_: &str, status: &str) -> Option<Time> {
    let same = conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status);
    same.map(|condition| condition.last_transition_time.clone())
}

/// What an earlier agent has said as well has been so since then, and what this one cannot say yet stays.
fn resume(earlier: Vec<Condition>, status: &mut NodeStatusStatus) {
    for condition in &mut status.conditions {
        if let Some(since) = since(&earlier, &condition.type_, &condition.status) {
            condition.last_transition_time = since;
        }
    }
    for condition in earlier {
        if status.conditions.iter().all(|said| said.type_ != condition.type_) {
            status.conditions.push(condition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays_and_leaves_the_others_alone() {
        let verdict =
            |holds, reason| Verdict { type_: "Ready", holds, reason, message: String::new(), generation: 2 };
        let mut first = replaced(&[], &verdict(true, "Usable"));
        first[0].last_transition_time = Time(jiff::Timestamp::UNIX_EPOCH);
        first.push(Condition { type_: "Foreign".to_owned(), ..first[0].clone() });
        let same = replaced(&first, &verdict(true, "StillUsable"));
        let ready =
            |conditions: &[Condition]| conditions.iter().find(|c| c.type_ == "Ready").cloned().unwrap();
        assert_eq!(ready(&same).last_transition_time, Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(ready(&same).reason, "StillUsable");
        assert_eq!(same.len(), 2);
        let mut resumed = NodeStatusStatus {
            conditions: replaced(&[], &verdict(true, "StillUsable")),
            ..NodeStatusStatus::default()
        };
        resume(first.clone(), &mut resumed);
        assert_eq!(resumed.conditions, same, "an agent that has been restarted goes on");
        let turned = replaced(&same, &verdict(false, "InvalidCIDR"));
        assert_ne!(ready(&turned).last_transition_time, Time(jiff::Timestamp::UNIX_EPOCH));
    }
}

//! Asks the API what no watch shows: a pod whose watch is behind, and its namespace; what nodes say of policies.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::choice::Learned;
use super::enforced::{Shown, Survey};
use crate::crd::{NodeStatus, NodeStatusStatus, PolicyStatus, PolicyStatusStatus};
use crate::model::labels::Interner;
use crate::watch::{convert, full_name};

/// An ADD waits for this.
const DEADLINE: Duration = Duration::from_secs(2);

/// Of one page, and objects in it.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);
const PAGE: u32 = 500;

/// What the API says within the deadline.
pub(super) async fn look_up(client: Client, namespace: &str, name: &str) -> Learned {
    let pods: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let namespaces: Api<v1::Namespace> = Api::all(client);
    let both = async { tokio::join!(pods.get_opt(name), namespaces.get_opt(namespace)) };
    let Ok((pod, of)) = timeout(DEADLINE, both).await else {
        tracing::warn!("the API does not say what pod {namespace}/{name} asks for: taken for nothing");
        return Learned::default();
    };
    if let Some(error) = pod.as_ref().err().or(of.as_ref().err()) {
        tracing::warn!(
            "the API does not say what pod {namespace}/{name} asks for: {}",
            convert::words(error)
        );
    }
    let mut interner = Interner::default();
    Learned {
        pod: pod.ok().flatten().and_then(|pod| {
            // It is being attached here, so where it runs is here.
            let here = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            convert::pod(pod, &here, &mut interner).spec.ok()
        }),
        namespace: of
            .ok()
            .flatten()
            .and_then(|namespace| convert::namespace(namespace, &mut Interner::default()).spec.ok()),
    }
}

/// What nodes say of policies and, where wanted, what is said of NetworkPolicies; none: the API does not answer.
pub(super) async fn survey(client: Client, statuses: bool) -> Option<Survey> {
    let of_nodes = list::<NodeStatus, NodeStatusStatus>(&client).await?;
    let nodes =
        of_nodes.into_iter().filter_map(|(object, status)| Some((object.name_any(), status.policies?)));
    let statuses = if statuses {
        let all = list::<PolicyStatus, PolicyStatusStatus>(&client).await?;
        let shown = all.into_iter().map(|(object, status)| {
            let owner = object.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
            (full_name(&object), Shown { owner, status })
        });
        Some(shown.collect())
    } else {
        None
    };
    Some(Survey { nodes: nodes.collect::<BTreeMap<_, _>>(), statuses })
}

/// Every object of a kind with its status; one that cannot be read has an empty one.
async fn list<K: Resource<DynamicType = ()>, S: DeserializeOwned + Default>(
    client: &Client,
) -> Option<Vec<(DynamicObject, S)>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let (mut all, mut parameters) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = match timeout(PAGE_DEADLINE, api.list(&parameters)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                tracing::warn!("cannot read {}: {}", K::plural(&()), convert::words(&error));
                return None;
            }
            Err(_) => {
                tracing::warn!(
                    "cannot read {}: no answer within {} s",
                    K::plural(&()),
                    PAGE_DEADLINE.as_secs()
                );
                return None;
            }
        };
        all.extend(page.items.into_iter().map(|mut object| {
            let status = object.data.get_mut("status").map(serde_json::Value::take).unwrap_or_default();
            (object, serde_json::from_value(status).unwrap_or_default())
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Some(all),
        }
    }
}

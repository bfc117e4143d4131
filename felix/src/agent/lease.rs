//! The API's part of election and of freeing vanished nodes' blocks.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use manx_ipam::store::{Store, StoreError};
use tokio::time::timeout;

use super::election::{Bid, Duty, LASTS, Record};
use super::vanished::{Collected, Condemned};
use crate::watch::convert::words;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Makes a bid. An error: it is not known how the lease is, or another was faster.
pub(super) async fn bid(
    client: Client,
    namespace: &str,
    me: &str,
    (duty, bid): (Duty, &Bid),
) -> Result<Option<Record>, ()> {
    let name = duty.lease();
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let request = async {
        match bid {
            Bid::Read => api.get_opt(name).await,
            Bid::Take { version, transitions } => {
                let lease = lease(name, me, version.as_deref(), *transitions);
                let parameters = PostParams::default();
                match version {
                    Some(_) => api.replace(name, &parameters, &lease).await.map(Some),
                    None => api.create(&parameters, &lease).await.map(Some),
                }
            }
        }
    };
    match timeout(DEADLINE, request).await {
        Ok(Ok(lease)) => Ok(lease.map(record)),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(()),
        Ok(Err(error)) => {
            tracing::warn!("Lease {namespace}/{name}: {}", words(&error));
            Err(())
        }
        Err(_) => Err(()),
    }
}

fn lease(name: &str, me: &str, version: Option<&str>, transitions: i32) -> Lease {
    let now = MicroTime(jiff::Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
        lease_transitions: Some(transitions),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        resource_version: version.map(str::to_owned),
        ..ObjectMeta::default()
    };
    Lease { metadata, spec: Some(spec) }
}

fn record(lease: Lease) -> Record {
    let version = lease.resource_version().unwrap_or_default();
    let spec = lease.spec.unwrap_or_default();
    let (holder, transitions) = (spec.holder_identity, spec.lease_transitions);
    Record { holder: holder.unwrap_or_default(), transitions: transitions.unwrap_or_default(), version }
}

/// Frees these blocks of a node, if neither it nor a pod of it is there.
pub(super) async fn collect(
    client: Client,
    store: &impl Store,
    node: &str,
    blocks: Vec<Condemned>,
    dry_run: bool,
) -> Collected {
    let mut freed = Vec::new();
    for block in blocks {
        match signs_of_life(client.clone(), node).await {
            Ok(None) => {}
            Ok(Some(sign)) => return Collected::Alive(sign),
            Err(why) => return Collected::Failed(why),
        }
        if dry_run {
            freed.push(block.cidr);
            continue;
        }
        let name = block.cidr.object_name();
        match store.delete_block(&name, &block.uid, Some(&block.version)).await {
            Ok(()) => freed.push(block.cidr),
            // Written since, or made anew: there is a life in it.
            Err(StoreError::Refused(why)) => return Collected::Alive(why),
            Err(error) => return Collected::Failed(error.to_string()),
        }
    }
    Collected::Freed(freed)
}

/// Why a node is not gone; nothing if it is.
///
/// # Errors
/// When the API does not say.
pub async fn signs_of_life(client: Client, node: &str) -> Result<Option<String>, String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client);
    let bound = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(1);
    let asked = async {
        if nodes.get_opt(node).await?.is_some() {
            return Ok(Some(format!("there is a Node \"{node}\"")));
        }
        let pod = pods.list(&bound).await?.items.into_iter().next();
        Ok::<_, kube::Error>(pod.map(|pod| {
            let namespace = pod.namespace().unwrap_or_default();
            format!("pod {namespace}/{} is bound to it", pod.name_any())
        }))
    };
    match timeout(DEADLINE, asked).await {
        Ok(outcome) => outcome.map_err(|error| words(&error)),
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    }
}

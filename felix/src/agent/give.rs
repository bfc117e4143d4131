//! The API's part of giving Services addresses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;

use super::balancing::{Grant, Granted};
use crate::model::Object;
use crate::model::labels::Interner;
use crate::model::service::Service;
use crate::watch::convert::words;
use crate::watch::service;

/// How long one request may take: one begun while this agent leads ends before another may.
const DEADLINE: Duration = Duration::from_secs(5);

/// Services a page.
const PAGE: u32 = 500;

/// All Services as the API has them now: not from a cache, which may be behind.
pub(super) async fn list(client: Client) -> Option<Vec<Object<Service>>> {
    let api: Api<v1::Service> = Api::all(client);
    let (mut services, mut interner) = (Vec::new(), Interner::default());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        match timeout(DEADLINE, api.list(&page)).await {
            Ok(Ok(list)) => {
                services.extend(list.items.into_iter().map(|read| service::service(read, &mut interner)));
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => return Some(services),
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    "Services cannot be listed: {}; no addresses are given to them yet",
                    words(&error)
                );
                return None;
            }
            Err(_) => return None,
        }
    }
}

/// Writes addresses into Services' statuses, each only if the Service is what it was, and none after `until`.
pub(super) async fn give(client: Client, grants: Vec<Grant>, until: Instant) -> Vec<(Arc<str>, Granted)> {
    let mut outcomes = Vec::new();
    for grant in grants {
        let outcome = if Instant::now() < until { write(&client, &grant).await } else { Granted::Not };
        outcomes.push((grant.service, outcome));
    }
    outcomes
}

async fn write(client: &Client, grant: &Grant) -> Granted {
    let Some((namespace, name)) = grant.service.split_once('/') else { return Granted::Not };
    let api: Api<v1::Service> = Api::namespaced(client.clone(), namespace);
    let status = service::shown(&grant.addresses);
    let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": grant.version }, "status": status }));
    let parameters = PatchParams::default();
    match timeout(DEADLINE, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(_)) => {
            let addresses: Vec<String> = grant.addresses.iter().map(ToString::to_string).collect();
            match addresses.is_empty() {
                true => tracing::info!("Service {} has no address any more", grant.service),
                false => tracing::info!("Service {} has {}", grant.service, addresses.join(" and ")),
            }
            Granted::Done
        }
        Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
            // A conflict is told by the watch.
            if !matches!(status.code, 404 | 409) {
                tracing::warn!("Service {}: {}", grant.service, status.message);
            }
            Granted::Not
        }
        Ok(Err(error)) => {
            tracing::warn!("Service {}: {}", grant.service, words(&error));
            Granted::Unknown
        }
        Err(_) => Granted::Unknown,
    }
}

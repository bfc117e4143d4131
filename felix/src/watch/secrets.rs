//! Secrets that sessions name: each is watched by itself, by name, so that an account that may read these alone
//! suffices, and nothing else of the namespace is ever held.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use manx_bgp::api::Secret;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Said, Update, convert};

/// A Secret's keys with their values, as far as those are text.
pub type Keys = BTreeMap<String, Secret>;

/// Watches the Secrets that are `named`, for as long as they are.
pub(super) async fn follow(
    client: Client,
    namespace: String,
    mut named: watch::Receiver<BTreeSet<String>>,
    tx: mpsc::Sender<Said>,
) {
    let mut followed: BTreeMap<String, Watched> = BTreeMap::new();
    loop {
        let wanted = named.borrow_and_update().clone();
        followed.retain(|name, _| wanted.contains(name));
        for name in wanted {
            followed.entry(name).or_insert_with_key(|name| {
                let api = Api::namespaced(client.clone(), &namespace);
                Watched(tokio::spawn(one(api, format!("{namespace}/{name}"), name.clone(), tx.clone())))
            });
        }
        if named.changed().await.is_err() {
            return;
        }
    }
}

/// Ends with the wish for it.
struct Watched(JoinHandle<()>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn one(api: Api<v1::Secret>, title: String, name: String, tx: mpsc::Sender<Said>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config));
    let mut backoff = DefaultBackoff::default();
    let missing = || Err(format!("there is no Secret {title}: create it"));
    let mut listed = missing();
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(Event::Init) => {
                listed = missing();
                continue;
            }
            Ok(Event::InitApply(secret)) => {
                listed = Ok(keys(secret));
                continue;
            }
            Ok(Event::InitDone) => std::mem::replace(&mut listed, missing()),
            Ok(Event::Apply(secret)) => Ok(keys(secret)),
            Ok(Event::Delete(_)) => missing(),
            Err(error) => {
                // While the API is away what is known of the Secret holds.
                if let Some(why) = convert::refusal(&error) {
                    let told =
                        Update::Secret(name.clone(), Err(format!("Secret {title} cannot be read: {why}")));
                    if tx.send(told.into()).await.is_err() {
                        return;
                    }
                }
                if let Some(pause) = backoff.next() {
                    sleep(pause).await;
                }
                continue;
            }
        };
        backoff.reset();
        if tx.send(Update::Secret(name.clone(), told).into()).await.is_err() {
            return;
        }
    }
}

fn keys(secret: v1::Secret) -> Keys {
    let data = secret.data.unwrap_or_default().into_iter();
    data.filter_map(|(key, value)| Some((key, Secret::from(String::from_utf8(value.0).ok()?)))).collect()
}

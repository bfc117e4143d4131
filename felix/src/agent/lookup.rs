//! Asks the API of a pod whose watch is behind, and of its namespace.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::time::timeout;

use super::choice::Learned;
use crate::model::labels::Interner;
use crate::watch::convert;

/// An ADD waits for this.
const DEADLINE: Duration = Duration::from_secs(2);

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

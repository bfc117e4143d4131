//! What the DaemonSet controller does when a set is to run another image: node after node, as many at a time as its
//! strategy allows, each replaced, ready, and for as long as the set wants, before the next.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams};
use tokio::time::sleep;

use super::Kubelet;
use crate::lab::LabError;

/// Replaces the pods of a DaemonSet on all these nodes by pods of an unpacked image, or of the programs built here.
///
/// # Errors
/// A set that is not there, or a container that does not end or become ready: nodes behind it keep the pods they have.
pub async fn rollout(nodes: &mut [Kubelet<'_>], set: &str, image: Option<&Path>) -> Result<(), LabError> {
    let Some(lab) = nodes.first().map(|kubelet| kubelet.lab) else { return Ok(()) };
    let client = lab.client().await?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "manx-system");
    let set = sets.get(set).await.map_err(LabError::kube(format!("DaemonSet {set}")))?;
    let settled = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let limit = at_a_time(&set, nodes.len());
    for several in nodes.chunks_mut(limit) {
        for kubelet in several.iter_mut() {
            kubelet.replace(&client, &set, image).await?;
        }
        sleep(Duration::from_secs(settled.unsigned_abs().into())).await;
    }
    Ok(())
}

/// How many pods may be missing: `maxUnavailable` of a rolling update, a percentage of all nodes rounded up.
fn at_a_time(set: &DaemonSet, nodes: usize) -> usize {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let limit = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref());
    let number = match limit {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or_default(),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or_default();
            (nodes * percent).div_ceil(100)
        }
        None => 1,
    };
    number.max(1)
}

impl Kubelet<'_> {
    /// Ends the pod of a set here, and runs another in its place.
    async fn replace(
        &mut self,
        client: &kube::Client,
        set: &DaemonSet,
        image: Option<&Path>,
    ) -> Result<(), LabError> {
        let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let containers: Vec<String> =
            spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone()).collect();
        for container in &containers {
            self.stop(container).await?;
        }
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let pod = self.pod_of(set);
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&pod, &at_once).await.map_err(LabError::kube(format!("delete Pod {pod}")))?;
        self.run(client, set, image).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_many_at_a_time_as_the_strategy_says() {
        let set = |limit: serde_json::Value| -> DaemonSet {
            let spec = json!({
                "selector": {}, "template": {},
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": limit } },
            });
            serde_json::from_value(json!({ "spec": spec })).unwrap()
        };
        assert_eq!(at_a_time(&set(json!(3)), 100), 3);
        assert_eq!(at_a_time(&set(json!("10%")), 100), 10);
        assert_eq!(at_a_time(&set(json!("10%")), 2), 1);
        assert_eq!(at_a_time(&DaemonSet::default(), 2), 1);
    }
}

//! `manxctl policy status`: on how many nodes each policy is in force, as the agents have written it.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, ResourceExt};
use manx_felix::cluster_network_policy::ClusterNetworkPolicy;
use manx_felix::crd::PolicyStatus;
use serde::Serialize;

use super::cluster;
use super::table::{or_dash, table};

/// A policy, and how far it is in force.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforced {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: &'static str,
    /// `namespace/name`, or the name of what has no namespace.
    pub name: String,
    /// Of the object now.
    pub generation: i64,
    /// Whether this generation is in force on all nodes; none: nothing is said of it yet.
    pub enforced: Option<bool>,
    /// On how many, and where not; what is not done as written.
    pub message: String,
}

/// Policies of this name (`namespace/name`, or that of a ClusterNetworkPolicy), or all there are.
pub async fn read(client: &Client, name: Option<&str>) -> anyhow::Result<Vec<Enforced>> {
    let statuses: Vec<PolicyStatus> = cluster::all(client).await?;
    let policies: Vec<NetworkPolicy> = cluster::all(client).await?;
    // Not every cluster knows the kind.
    let cluster: Vec<ClusterNetworkPolicy> = match cluster::all(client).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        all => all?,
    };
    let mut all = judged(&policies, &statuses);
    all.extend(cluster.iter().map(|policy| {
        let conditions = policy.status.as_ref().map_or(&[][..], |status| &status.conditions);
        enforced("ClusterNetworkPolicy", policy.name_any(), policy.metadata.generation, conditions)
    }));
    if let Some(name) = name {
        all.retain(|one| one.name == name);
        anyhow::ensure!(
            !all.is_empty(),
            "there is no NetworkPolicy (namespace/name) and no ClusterNetworkPolicy \"{name}\""
        );
    }
    Ok(all)
}

fn judged(policies: &[NetworkPolicy], statuses: &[PolicyStatus]) -> Vec<Enforced> {
    let of = |policy: &NetworkPolicy| {
        let (namespace, uid) = (policy.namespace(), policy.uid());
        let status = statuses.iter().find(|status| {
            status.namespace() == namespace
                && status.name_any() == policy.name_any()
                && status.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
        });
        status.and_then(|status| status.status.as_ref())
    };
    let each = policies.iter().map(|policy| {
        let conditions = of(policy).map_or(&[][..], |status| &status.conditions);
        let name = format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
        enforced("NetworkPolicy", name, policy.metadata.generation, conditions)
    });
    each.collect()
}

fn enforced(kind: &'static str, name: String, generation: Option<i64>, conditions: &[Condition]) -> Enforced {
    let generation = generation.unwrap_or_default();
    let of = |type_: &str| {
        conditions.iter().find(|it| it.type_ == type_ && it.observed_generation == Some(generation))
    };
    let known = of("Enforced");
    let message = known.map_or_else(
        || format!("nothing is said of generation {generation} yet"),
        |condition| condition.message.clone(),
    );
    let refused = of("Accepted").filter(|condition| condition.status != "True");
    let message = refused
        .map_or_else(|| message.clone(), |refused| format!("{message}; not as written: {}", refused.message));
    Enforced { kind, name, generation, enforced: known.map(|condition| condition.status == "True"), message }
}

/// A line a policy.
pub fn render(all: &[Enforced]) -> String {
    let word = |enforced| match enforced {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    table(
        ["KIND", "POLICY", "ENFORCED", "MESSAGE"],
        all.iter().map(|one| {
            let enforced = or_dash(word(one.enforced).to_owned());
            [one.kind.to_owned(), one.name.clone(), enforced, one.message.clone()]
        }),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(generation: i64, uid: &str, enforced: &str, message: &str) -> PolicyStatus {
        let condition = |type_: &str, status: &str, message: &str| -> Value {
            json!({
                "type": type_, "status": status, "reason": "R", "message": message, "observedGeneration": generation,
                "lastTransitionTime": "2026-11-21T12:00:00Z",
            })
        };
        let conditions = [
            condition("Enforced", enforced, message),
            condition("Accepted", if enforced == "True" { "True" } else { "False" }, "port \"x\" is none"),
        ];
        serde_json::from_value(json!({
            "apiVersion": "manx.io/v1alpha1", "kind": "PolicyStatus",
            "metadata": { "namespace": "shop", "name": "web", "ownerReferences": [
                { "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "web", "uid": uid } ] },
            "spec": {}, "status": { "conditions": conditions },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_said_of_an_earlier_policy_is_not_said_of_this_one() {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "u2", "generation": 5 });
        let policy: NetworkPolicy = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        let policies = [policy];
        let judge = |status: PolicyStatus| judged(&policies, &[status]).remove(0);
        let message = "enforced on 37 of 37 nodes at generation 5";
        let enforced = judge(status(5, "u2", "True", message));
        assert_eq!((enforced.enforced, &*enforced.message), (Some(true), message));
        for other in [status(4, "u2", "True", message), status(5, "u1", "True", message)] {
            assert_eq!(judge(other).message, "nothing is said of generation 5 yet");
        }
        let some = "enforced on 1 of 37 nodes at generation 5; not yet on a";
        insta::assert_snapshot!(render(&[enforced, judge(status(5, "u2", "False", some))]));
    }
}

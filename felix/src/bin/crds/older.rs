//! The custom resources for Kubernetes 1.30, which refuses a definition whose rules have the functions of addresses and
//! ranges that came with it: a server takes new rules only of the release before its own. Without these rules the agent
//! says in an object's conditions what the API server does not refuse.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde_json::{Value, json};

const RULES: &str = "x-kubernetes-validations";

/// Functions that Kubernetes 1.30 does not know in new rules.
const UNKNOWN: [&str; 4] = ["isIP(", "isCIDR(", "cidr(", "ip("];

/// A kustomization of the definitions in `base`, without these rules.
pub fn kustomization(crds: &[CustomResourceDefinition], base: &str) -> anyhow::Result<Value> {
    let mut patches = Vec::new();
    for crd in crds {
        let mut removed = Vec::new();
        for (index, version) in crd.spec.versions.iter().enumerate() {
            let schema = serde_json::to_value(&version.schema)?;
            let path = format!("/spec/versions/{index}/schema/openAPIV3Schema");
            remove(&schema["openAPIV3Schema"], &path, &mut removed);
        }
        if !removed.is_empty() {
            patches.push(json!({
                "target": { "kind": "CustomResourceDefinition", "name": crd.name_any() },
                "patch": serde_json::to_string_pretty(&removed)?,
            }));
        }
    }
    Ok(json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [base], "patches": patches,
    }))
}

/// JSON patches of the rules below a schema; of one list the last first, so that the others keep their places.
fn remove(schema: &Value, path: &str, removed: &mut Vec<Value>) {
    let rules = schema[RULES].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, rule) in rules.iter().enumerate().rev() {
        let text = rule["rule"].as_str().unwrap_or_default();
        if UNKNOWN.iter().any(|function| text.contains(function)) {
            removed.push(json!({ "op": "remove", "path": format!("{path}/{RULES}/{index}") }));
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        remove(inner, &format!("{path}/properties/{name}"), removed);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            remove(&schema[name], &format!("{path}/{name}"), removed);
        }
    }
}

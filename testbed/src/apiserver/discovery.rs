//! Discovery: what is served, in the old form (a document a group and version) and the aggregated one.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    resource::{Registry, Resource},
};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// The aggregated form's media type.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether the client would have the aggregated form.
pub fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|clause| {
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|part| clause.split(';').any(|have| have.trim() == *part))
    })
}

/// `GET /version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0+manx-testbed-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux",
    })
}

/// The document at `/api`, `/apis`, `/api/v1`, `/apis/GROUP` or `/apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for a group or version that is not served.
pub fn document(registry: &Registry, path: &[String]) -> Result<Value, ApiError> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["api"] => Ok(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        })),
        ["api", version] => resource_list(registry, "", version),
        ["apis"] => {
            let groups = registry.groups();
            let groups = groups.iter().filter(|(name, _)| !name.is_empty());
            let groups: Vec<_> = groups.map(|(name, versions)| group(name, versions)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => {
            let groups = registry.groups();
            let versions =
                groups.get(name).filter(|_| !name.is_empty()).ok_or_else(ApiError::unknown_path)?;
            let mut group = group(name, versions);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Ok(group)
        }
        ["apis", group, version] => resource_list(registry, group, version),
        _ => Err(ApiError::unknown_path()),
    }
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<_> = versions.iter().map(version).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn of_version<'r>(registry: &'r Registry, group: &str, version: &str) -> Vec<&'r Arc<Resource>> {
    registry.iter().filter(|resource| resource.group == group && resource.version == version).collect()
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Result<Value, ApiError> {
    let resources = of_version(registry, group, version);
    let first = resources.first().ok_or_else(ApiError::unknown_path)?;
    let group_version = first.api_version();
    let mut entries = Vec::new();
    for resource in resources {
        entries.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names,
            "categories": resource.categories,
        }));
        if resource.has_status {
            entries.push(json!({
                "name": format!("{}/status", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": STATUS_VERBS,
            }));
        }
    }
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries,
    }))
}

/// The aggregated document of `/api` (the core group) or `/apis` (all others).
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups();
    let groups = groups.iter().filter(|(name, _)| name.is_empty() == core);
    let items = groups.map(|(name, versions)| {
        let versions = versions.iter().map(|version| {
            let resources = of_version(registry, name, version);
            let resources: Vec<_> = resources.into_iter().map(|resource| aggregated_resource(resource)).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        });
        json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions.collect::<Vec<_>>()})
    });
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>(),
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind, "singularResource": resource.singular,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": VERBS,
        "shortNames": resource.short_names, "categories": resource.categories,
    });
    if resource.has_status {
        entry["subresources"] =
            json!([{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]);
    }
    entry
}

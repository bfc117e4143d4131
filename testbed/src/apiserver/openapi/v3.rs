//! OpenAPI v3, a document a group and version.

use serde_json::{Map, Value, json};

use super::{ApiError, KIND_EXTENSION, Registry, Resource, kind_of, schema_name};

/// The documents there are.
pub(super) fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = gv_path(group, version);
            // Clients cache by this address; it must change when a definition does.
            let hash = registry
                .iter()
                .filter(|resource| resource.group == group && resource.version == version)
                .fold(0, |hash: usize, resource| hash ^ std::sync::Arc::as_ptr(resource).addr());
            let url = format!("/openapi/v3/{path}?hash={hash:x}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn gv_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group and version.
pub(super) fn document(registry: &Registry, group: &str, version: &str) -> Result<Value, ApiError> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in registry.iter().filter(|r| r.group == group && r.version == version) {
        let mut schema = resource.schema.root().clone();
        schema[KIND_EXTENSION] = json!([kind_of(resource)]);
        schemas.insert(schema_name(resource), schema);
        add_paths(&mut paths, resource);
    }
    if schemas.is_empty() {
        return Err(ApiError::unknown_path());
    }
    Ok(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

/// Enough of the paths for `kubectl` to find a resource's kind, and to see that the server validates fields itself.
/// Strategic merge is left out on purpose: `kubectl` then takes the merge keys it was compiled with.
fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection =
        format!("/{}/{namespace}{}", gv_path(&resource.group, &resource.version), resource.plural);
    let reference = format!("#/components/schemas/{}", schema_name(resource));
    let content = json!({"schema": {"$ref": reference}});
    let operation = |action: &str, media: &[&str]| {
        let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        let parameters = ["dryRun", "fieldManager", "fieldValidation"].map(query);
        let bodies: Map<_, _> = media.iter().map(|media| ((*media).to_owned(), content.clone())).collect();
        let mut operation = json!({
            "x-kubernetes-action": action, KIND_EXTENSION: kind_of(resource),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": {"application/json": content}}},
        });
        if !media.is_empty() {
            operation["requestBody"] = json!({"content": bodies});
        }
        operation
    };
    let json = ["application/json"];
    let patches =
        ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", &[]), "put": operation("put", &json),
            "patch": operation("patch", &patches), "delete": operation("delete", &[]),
        }),
    );
    paths.insert(collection, json!({"get": operation("list", &[]), "post": operation("post", &json)}));
}

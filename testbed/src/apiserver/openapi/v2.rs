//! OpenAPI v2, one document of everything: for clients from before Kubernetes 1.24, Debian's `kubectl` among them.

use serde_json::{Map, Value, json};

use super::{KIND_EXTENSION, Registry, kind_of, schema_name};

/// Keywords v2 has too.
const KEPT: &[&str] = &["description", "type", "format", "required"];

/// The whole document.
pub(super) fn document(registry: &Registry) -> Value {
    let definitions = registry.iter().map(|resource| {
        let mut schema = downgrade(resource.schema.root());
        schema[KIND_EXTENSION] = json!([kind_of(resource)]);
        (schema_name(resource), schema)
    });
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {},
        "definitions": definitions.collect::<Map<_, _>>(),
    })
}

/// What both versions can say of a schema. A nullable value, one of two types, or one that keeps unknown fields has
/// no type here, so that old clients do not refuse what the server takes.
fn downgrade(schema: &Value) -> Value {
    let is = |name: &str| schema[name] == true;
    let open =
        is("nullable") || is("x-kubernetes-int-or-string") || is("x-kubernetes-preserve-unknown-fields");
    let mut out = Map::new();
    for name in KEPT.iter().filter(|name| !open || **name == "description") {
        if let Some(value) = schema.get(*name) {
            out.insert((*name).to_owned(), value.clone());
        }
    }
    for (name, value) in schema.as_object().into_iter().flatten() {
        if name.starts_with("x-kubernetes-patch-") {
            out.insert(name.clone(), value.clone());
        }
    }
    if open {
        return Value::Object(out);
    }
    if let Some(properties) = schema["properties"].as_object() {
        let properties: Map<_, _> =
            properties.iter().map(|(name, inner)| (name.clone(), downgrade(inner))).collect();
        out.insert("properties".to_owned(), properties.into());
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(name).filter(|inner| inner.is_object()) {
            out.insert(name.to_owned(), downgrade(inner));
        }
    }
    Value::Object(out)
}

//! OpenAPI documents: what `kubectl explain` shows and `kubectl apply` checks against.

mod protobuf;
mod v2;
mod v3;

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    resource::{Registry, Resource},
};

/// A document and its media type.
pub struct Document {
    /// For `Content-Type`.
    pub media_type: &'static str,
    /// The bytes of it.
    pub body: Vec<u8>,
}

impl Document {
    fn json(value: &Value) -> Self {
        Self { media_type: "application/json", body: value.to_string().into_bytes() }
    }
}

/// The document at `/openapi/...`.
///
/// # Errors
/// 404 where there is none.
pub fn document(registry: &Registry, path: &[String], headers: &HeaderMap) -> Result<Document, ApiError> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["v2"] => {
            let accept =
                headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let document = v2::document(registry);
            if !accept.contains("protobuf") {
                return Ok(Document::json(&document));
            }
            let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            Ok(Document { media_type, body: protobuf::encode(&document) })
        }
        ["v3"] => Ok(Document::json(&v3::index(registry))),
        ["v3", "api", version] => v3::document(registry, "", version).map(|doc| Document::json(&doc)),
        ["v3", "apis", group, version] => {
            v3::document(registry, group, version).map(|doc| Document::json(&doc))
        }
        _ => Err(ApiError::unknown_path()),
    }
}

/// What ties a schema or an operation to its kind.
const KIND_EXTENSION: &str = "x-kubernetes-group-version-kind";

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// The name of a kind's schema: `io.manx.v1alpha1.IPPool`.
fn schema_name(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core.api.k8s.io" } else { &resource.group };
    let reversed: Vec<_> = group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

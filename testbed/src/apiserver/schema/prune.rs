//! Pruning: what the schema does not specify is removed before an object is stored.

use serde_json::Value;

use super::{flag, join};

/// Removes unknown fields of `value`, and nulls where the schema does not allow them, gathering the unknown
/// fields' paths.
pub(super) fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let properties = &schema["properties"];
            let additional = &schema["additionalProperties"];
            let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
            // An embedded resource has these whatever its schema says.
            let embedded = flag(schema, "x-kubernetes-embedded-resource");
            fields.retain(|name, field| {
                let path = join(path, name);
                let known = match properties.get(name) {
                    Some(property) => Some(property),
                    None => additional.is_object().then_some(additional),
                };
                match known {
                    Some(inner) if field.is_null() => {
                        flag(inner, "nullable") || inner["type"].is_null() && inner["properties"].is_null()
                    }
                    Some(inner) => {
                        prune(inner, field, &path, unknown);
                        true
                    }
                    None if preserve || additional == &Value::Bool(true) => true,
                    None if embedded && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => true,
                    None => {
                        unknown.push(path);
                        false
                    }
                }
            });
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

//! Defaulting: `default` values of the schema are filled in where nothing is.

use serde_json::Value;

/// Fills the defaults of `schema` into `value`, outermost first, so that a defaulted object gets its own defaults too.
pub(super) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    if let Some(default) = property.get("default")
                        && !fields.contains_key(name)
                    {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = fields.get_mut(name) {
                        fill(property, field);
                    }
                }
            }
            let additional = &schema["additionalProperties"];
            if additional.is_object() {
                fields.values_mut().for_each(|field| fill(additional, field));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

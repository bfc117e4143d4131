//! How a value is merged and owned: field by field, item by item, or whole.

use serde_json::{Map, Value};

/// The merge behaviour of one value (`x-kubernetes-map-type`, `x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object whose fields are owned one by one.
    Fields,
    /// A list of objects told apart by these fields.
    ListMap(Vec<String>),
    /// A list of scalars without repetition.
    ListSet,
    /// Owned and replaced as a whole.
    Atomic,
}

/// The shape of `value`, where `schema` may say nothing of it.
pub fn of(schema: Option<&Value>, value: &Value) -> Shape {
    let says = |name: &str| schema.and_then(|s| s[name].as_str());
    match value {
        Value::Object(_) if says("x-kubernetes-map-type") == Some("atomic") => Shape::Atomic,
        Value::Object(_) => Shape::Fields,
        Value::Array(_) => match says("x-kubernetes-list-type") {
            Some("set") => Shape::ListSet,
            Some("map") => {
                let keys = schema.and_then(|s| s["x-kubernetes-list-map-keys"].as_array());
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                Shape::ListMap(keys.map(str::to_owned).collect())
            }
            _ => Shape::Atomic,
        },
        _ => Shape::Atomic,
    }
}

/// The schema of a field.
pub fn field<'s>(schema: Option<&'s Value>, name: &str) -> Option<&'s Value> {
    let schema = schema?;
    let additional = schema.get("additionalProperties").filter(|value| value.is_object());
    schema.get("properties").and_then(|properties| properties.get(name)).or(additional)
}

/// The schema of a list's items.
pub fn items(schema: Option<&Value>) -> Option<&Value> {
    schema?.get("items")
}

/// What tells a list item apart: its key fields, each with its default where it has none itself.
pub fn identity(keys: &[String], schema: Option<&Value>, item: &Value) -> Map<String, Value> {
    let identify = |key: &String| {
        let default = || field(schema, key).and_then(|s| s.get("default"));
        item.get(key).or_else(default).map(|value| (key.clone(), value.clone()))
    };
    keys.iter().filter_map(identify).collect()
}

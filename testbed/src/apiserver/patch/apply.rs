//! Server-side apply: who set which field, conflicts, and the removal of what is no longer applied.
//!
//! Simplified against structured-merge-diff: ownership is kept for leaves and list items, not for the containers
//! around them; versions are not converted (a field belongs to its manager whichever version set it); a field
//! becomes another's also when only its JSON type changes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        error::Cause,
        schema::shape::{self, Shape},
    },
    fields::{Fields, Path},
};

/// Who writes, and where.
#[derive(Clone, Debug)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// `status` where that is written on its own path.
    pub subresource: Option<&'a str>,
    /// The version the fields are written in.
    pub api_version: String,
    /// When.
    pub now: Timestamp,
}

/// What to do about fields others own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Leave everything and say so.
    Refuse,
    /// Take them.
    Force,
}

/// One entry of `managedFields`.
struct Entry {
    /// The entry without its fields.
    head: Value,
    fields: Fields,
}

impl Entry {
    fn is(&self, manager: &Manager<'_>, operation: &str) -> bool {
        self.head["manager"] == manager.name
            && self.head["operation"] == operation
            && self.head["subresource"].as_str() == manager.subresource
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let entry = |entry: &Value| Entry { head: entry.clone(), fields: Fields::from_json(&entry["fieldsV1"]) };
    entries.map(entry).collect()
}

/// Applies `config` to `live` in the name of a manager.
///
/// # Errors
/// The fields that others own and that would change, unless forced.
pub fn apply(
    live: &Value,
    config: &Value,
    schema: &Value,
    manager: &Manager<'_>,
    on_conflict: OnConflict,
) -> Result<Value, Vec<Cause>> {
    let mut entries = entries(live);
    let wanted = Fields::of(config, schema);
    let last = entries.iter().position(|entry| entry.is(manager, "Apply"));
    let last = last.map(|at| entries.remove(at)).map(|entry| entry.fields).unwrap_or_default();

    let differs = |path: &&Path| !wanted.has_below(path) && path.find(live) != path.find(config);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let taken: Vec<_> =
            entry.fields.iter().filter(|p| wanted.contains(p)).filter(differs).cloned().collect();
        match on_conflict {
            OnConflict::Force => entry.fields.subtract(&taken),
            OnConflict::Refuse => conflicts.extend(taken.iter().map(|path| conflict(entry, path))),
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }

    let mut merged = live.clone();
    merge(&mut merged, config, Some(schema));
    let kept = |path: &Path| {
        wanted.contains(path)
            || wanted.has_below(path)
            || entries.iter().any(|entry| entry.fields.contains(path) || entry.fields.has_below(path))
    };
    // From the back, so that an item's fields go before the item.
    for path in last.iter().rev().filter(|path| !kept(path)) {
        path.remove(&mut merged);
    }
    entries.push(Entry { head: head(manager, "Apply"), fields: wanted });
    write_entries(&mut merged, live, entries);
    Ok(merged)
}

fn conflict(entry: &Entry, path: &Path) -> Cause {
    let manager = entry.head["manager"].as_str().unwrap_or_default();
    let version = entry.head["apiVersion"].as_str().unwrap_or_default();
    let message = format!("conflict with {manager:?} using {version}");
    Cause { field: path.to_string(), reason: "FieldManagerConflict", message }
}

/// Notes what a create, update or other patch changed, in the name of its manager.
pub fn track(old: Option<&Value>, new: &mut Value, schema: &Value, manager: &Manager<'_>) {
    let nothing = Value::Null;
    let old = old.unwrap_or(&nothing);
    let (before, after) = (Fields::of(old, schema), Fields::of(new, schema));
    let is_changed =
        |path: &&Path| !before.contains(path) || (!after.has_below(path) && path.find(old) != path.find(new));
    let changed: Vec<_> = after.iter().filter(is_changed).cloned().collect();
    let removed: Vec<_> = before.iter().filter(|path| !after.contains(path)).cloned().collect();

    let mut entries = entries(old);
    let mine = entries.iter().position(|entry| entry.is(manager, "Update"));
    let mut mine = mine.map(|at| entries.remove(at)).map(|entry| entry.fields).unwrap_or_default();
    mine.extend(changed.iter().cloned());
    mine.subtract(&removed);
    for entry in &mut entries {
        entry.fields.subtract(changed.iter().chain(&removed));
    }
    entries.push(Entry { head: head(manager, "Update"), fields: mine });
    write_entries(new, old, entries);
}

fn head(manager: &Manager<'_>, operation: &str) -> Value {
    let mut head = json!({
        "manager": manager.name, "operation": operation, "apiVersion": manager.api_version,
        "time": manager.now.to_string(), "fieldsType": "FieldsV1",
    });
    if let Some(subresource) = manager.subresource {
        head["subresource"] = json!(subresource);
    }
    head
}

/// Writes the entries that own something; one whose fields did not change keeps its time.
fn write_entries(object: &mut Value, live: &Value, entries: Vec<Entry>) {
    let before = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let written = entries.into_iter().filter(|entry| !entry.fields.is_empty()).map(|entry| {
        let mut json = entry.head;
        json["fieldsV1"] = entry.fields.to_json();
        let same = |old: &&Value| {
            ["manager", "operation", "apiVersion", "subresource", "fieldsV1"]
                .iter()
                .all(|n| old[n] == json[n])
        };
        if let Some(old) = before.iter().find(same) {
            json["time"] = old["time"].clone();
        }
        json
    });
    let mut written: Vec<_> = written.collect();
    let order = |entry: &Value| {
        (entry["operation"] != "Apply", entry["time"].to_string(), entry["manager"].to_string())
    };
    written.sort_by_key(order);
    object["metadata"]["managedFields"] = Value::Array(written);
}

/// Puts `config` into `target` by the shapes of the schema.
fn merge(target: &mut Value, config: &Value, schema: Option<&Value>) {
    match (shape::of(schema, config), config) {
        (Shape::Fields, Value::Object(fields)) if target.is_object() || !fields.is_empty() => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                merge(&mut target[name], value, shape::field(schema, name));
            }
        }
        (Shape::ListMap(keys), Value::Array(wanted)) => {
            let schema = shape::items(schema);
            let Some(items) = as_list(target) else { return };
            for item in wanted {
                let identity = shape::identity(&keys, schema, item);
                match items.iter_mut().find(|other| shape::identity(&keys, schema, other) == identity) {
                    Some(other) => merge(other, item, schema),
                    None => items.push(item.clone()),
                }
            }
        }
        (Shape::ListSet, Value::Array(wanted)) => {
            let Some(items) = as_list(target) else { return };
            for item in wanted.iter().filter(|item| !items.contains(item)).collect::<Vec<_>>() {
                items.push(item.clone());
            }
        }
        _ => *target = config.clone(),
    }
}

fn as_list(value: &mut Value) -> Option<&mut Vec<Value>> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut()
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;

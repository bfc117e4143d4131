//! Between versions of a kind: custom resources change their `apiVersion` only (strategy `None`), and
//! the two kinds of Event call the same things by different names.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use super::resource::Resource;

/// Core's name and that of events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// A stored object in the version it was asked for.
pub fn to_version<'o>(object: &'o Arc<Value>, resource: &Resource) -> Cow<'o, Value> {
    if is_of(object, resource) {
        return Cow::Borrowed(object);
    }
    let mut object = (**object).clone();
    in_place(&mut object, resource);
    Cow::Owned(object)
}

/// Brings an object into a resource's version.
pub fn in_place(object: &mut Value, resource: &Resource) {
    if is_of(object, resource) {
        return;
    }
    object["apiVersion"] = resource.api_version().into();
    let Some(fields) = object.as_object_mut().filter(|_| resource.plural == "events") else { return };
    for (core, new) in EVENT_FIELDS {
        let (from, to) = if resource.group.is_empty() { (new, core) } else { (core, new) };
        if let Some(value) = fields.remove(*from) {
            fields.insert((*to).to_owned(), value);
        }
    }
}

fn is_of(object: &Value, resource: &Resource) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    match version.split_once('/') {
        Some((group, version)) => group == resource.group && version == resource.version,
        None => resource.group.is_empty() && version == resource.version,
    }
}

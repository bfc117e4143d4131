//! Strategic merge patch: JSON merge, with lists merged by their keys as the schema says.

use serde_json::{Map, Value};

use super::super::schema::shape;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target` by the schema's `x-kubernetes-patch-*` words.
///
/// The order a `$setElementOrder` directive asks for is not made: items keep their places, new ones go last.
pub fn strategic(target: &mut Value, patch: &Value, schema: Option<&Value>) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() || patch.get(DIRECTIVE).is_some_and(|d| d == "replace") {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    if let Some(keep) = patch.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|name, _| keep.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if name == DIRECTIVE || name == RETAIN || name.starts_with(ORDER) {
            continue;
        }
        if value.is_null() || value.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            fields.remove(name);
            continue;
        }
        let schema = shape::field(schema, name);
        let slot = fields.entry(name.clone()).or_insert(Value::Null);
        match value {
            Value::Array(items) => list(slot, items, schema),
            _ => strategic(slot, value, schema),
        }
    }
}

fn list(target: &mut Value, patch: &[Value], schema: Option<&Value>) {
    let merged = schema.is_some_and(|s| s["x-kubernetes-patch-strategy"] == "merge");
    let replace = patch.iter().any(|item| item[DIRECTIVE] == "replace");
    if !merged || replace || !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(items) = target else { return };
    let key = schema.and_then(|s| s["x-kubernetes-patch-merge-key"].as_str());
    for change in patch.iter().filter(|item| item[DIRECTIVE] != "replace") {
        let same = |item: &Value| match key {
            Some(key) if merged => !change[key].is_null() && item[key] == change[key],
            _ => merged && item == change,
        };
        let place = items.iter().position(same);
        match (place, change[DIRECTIVE] == "delete") {
            (Some(_), true) => items.retain(|item| !same(item)),
            (None, true) => {}
            (Some(at), false) => strategic(&mut items[at], change, shape::items(schema)),
            (None, false) => {
                let mut new = Value::Null;
                strategic(&mut new, change, shape::items(schema));
                items.push(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::super::builtin, *};

    fn patched(mut target: Value, patch: Value) -> Value {
        let registry = builtin::registry();
        let pods = registry.get("", "v1", "pods").expect("pods");
        strategic(&mut target, &patch, Some(pods.schema.root()));
        target
    }

    #[test]
    fn lists_merge_by_key_and_other_lists_are_replaced() {
        let pod = json!({"spec": {
            "containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}],
            "tolerations": [{"key": "k"}]}});
        let patch = json!({"spec": {
            "containers": [{"name": "a", "image": "9", "args": ["y"]}, {"name": "c", "image": "3"}],
            "$setElementOrder/containers": [{"name": "a"}, {"name": "c"}],
            "tolerations": [{"key": "z"}]}});
        assert_eq!(
            patched(pod, patch),
            json!({"spec": {
                "containers": [
                    {"name": "a", "image": "9", "args": ["y"]}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}],
                "tolerations": [{"key": "z"}]}})
        );
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        let pod = json!({
            "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null}},
            "spec": {
                "containers": [{"name": "a", "$patch": "delete"}],
                "volumes": [{"$patch": "replace"}, {"name": "w"}]}});
        let result = patched(pod, patch);
        assert_eq!(result["metadata"]["labels"], json!({"y": "2"}));
        assert_eq!(result["spec"], json!({"containers": [{"name": "b"}], "volumes": [{"name": "w"}]}));
        let mut finalizers: Vec<_> = result["metadata"]["finalizers"].as_array().expect("list").clone();
        finalizers.sort_by_key(Value::to_string);
        assert_eq!(finalizers, ["b", "c"]);
        let strategy = patched(
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        );
        assert_eq!(strategy, json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }
}

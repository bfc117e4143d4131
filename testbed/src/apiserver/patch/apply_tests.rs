use super::*;

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "metadata": {"properties": {"finalizers": {"type": "array", "x-kubernetes-list-type": "set"}}},
        "spec": {"properties": {
            "replicas": {"type": "integer"},
            "args": {"type": "array"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port", "protocol"],
                "items": {"properties": {"port": {}, "protocol": {"default": "TCP"}, "name": {}}}},
        }},
    }})
}

fn by(name: &str) -> Manager<'_> {
    Manager { name, subresource: None, api_version: "v1".to_owned(), now: Timestamp::UNIX_EPOCH }
}

fn applied(live: &Value, config: Value, name: &str, force: OnConflict) -> Result<Value, Vec<Cause>> {
    apply(live, &config, &schema(), &by(name), force)
}

#[test]
fn a_second_manager_conflicts_only_where_it_would_change_something() {
    let live =
        applied(&json!({}), json!({"spec": {"replicas": 1, "args": ["a"]}}), "one", OnConflict::Refuse);
    let live = live.expect("nobody owns anything");
    let same = applied(&live, json!({"spec": {"replicas": 1}}), "two", OnConflict::Refuse);
    let shared = same.expect("the same value is shared");
    assert_eq!(shared["metadata"]["managedFields"].as_array().map(Vec::len), Some(2));

    let causes =
        applied(&live, json!({"spec": {"replicas": 2}}), "two", OnConflict::Refuse).expect_err("owned");
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].field, ".spec.replicas");
    assert_eq!(causes[0].message, r#"conflict with "one" using v1"#);

    let forced = applied(&live, json!({"spec": {"replicas": 2}}), "two", OnConflict::Force).expect("forced");
    assert_eq!(forced["spec"], json!({"replicas": 2, "args": ["a"]}));
    let back = applied(&forced, json!({"spec": {"replicas": 1, "args": ["a"]}}), "one", OnConflict::Refuse);
    assert_eq!(back.expect_err("two owns it now")[0].field, ".spec.replicas");
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let first = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 1, "ports": [
        {"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]}});
    let live = applied(&json!({}), first, "one", OnConflict::Refuse).expect("new");
    let live = applied(&live, json!({"metadata": {"labels": {"b": "2"}}}), "two", OnConflict::Refuse)
        .expect("shared");
    let next = json!({"spec": {"ports": [{"port": 80, "name": "web"}]}});
    let live = applied(&live, next, "one", OnConflict::Refuse).expect("its own");
    assert_eq!(live["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(live["spec"], json!({"ports": [{"port": 80, "name": "web"}]}));
    let live = applied(&live, json!({}), "two", OnConflict::Refuse).expect("gives up");
    assert_eq!(live["metadata"].get("labels"), None);
}

#[test]
fn an_update_takes_the_fields_it_changes() {
    let live =
        applied(&json!({}), json!({"spec": {"replicas": 1, "args": ["a"]}}), "one", OnConflict::Refuse);
    let live = live.expect("new");
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(5);
    track(Some(&live), &mut new, &schema(), &by("editor"));
    let causes = applied(&new, json!({"spec": {"replicas": 1, "args": ["b"]}}), "one", OnConflict::Refuse);
    let causes = causes.expect_err("the editor has it");
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert!(causes[0].message.contains("editor"));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = json!({"metadata": {"finalizers": ["x/y"]}, "spec": {"ports": [{"port": 1}, {"port": 2}], "args": []}});
    let live = applied(&json!({}), config.clone(), "one", OnConflict::Refuse).expect("new");
    let later = Manager { now: Timestamp::from_second(9).expect("in range"), ..by("one") };
    let again = apply(&live, &config, &schema(), &later, OnConflict::Refuse).expect("own fields");
    assert_eq!(again, live);
}

#[test]
fn fields_survive_their_notation() {
    let object = json!({"metadata": {"name": "x", "labels": {"a.b/c": "1"}, "finalizers": ["f"]},
        "spec": {"ports": [{"port": 80, "name": "http"}], "args": ["q"], "empty": {}}});
    let fields = Fields::of(&object, &schema());
    let json = fields.to_json();
    assert_eq!(Fields::from_json(&json), fields);
    assert_eq!(
        json,
        json!({
            "f:metadata": {"f:labels": {"f:a.b/c": {}}, "f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {
                "f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}, "f:name": {}}},
                "f:args": {}, "f:empty": {}},
        })
    );
}

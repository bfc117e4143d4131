use serde_json::json;

use super::*;

fn schema() -> Schema {
    Schema::new(json!({"type": "object", "required": ["spec"], "properties": {"spec": {
        "type": "object",
        "required": ["cidr"],
        "properties": {
            "cidr": {"type": "string", "pattern": "^[0-9a-f./:]+$"},
            "as": {"type": "integer", "minimum": 1, "default": 64512},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "note": {"type": "string", "nullable": true},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "timers": {"type": "object", "default": {}, "properties": {"hold": {"type": "integer", "default": 90}}},
            "peers": {"type": "array", "maxItems": 2, "items": {
                "type": "object", "properties": {"ip": {"type": "string", "format": "ipv4"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    }}}))
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let mut object = json!({
        "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "bogus": 1},
        "spec": {"cidr": "1", "what": 1, "as": null, "note": null, "peers": [{"ip": "1.1.1.1", "x": 2}],
            "free": {"any": {"thing": null}}, "map": {"k": 1}},
    });
    let unknown = schema().prune(&mut object);
    assert_eq!(unknown, ["metadata.bogus", "spec.peers[0].x", "spec.what"]);
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {
            "cidr": "1", "note": null, "peers": [{"ip": "1.1.1.1"}], "free": {"any": {"thing": null}}, "map": {"k": 1}}})
    );
}

#[test]
fn defaults_fill_what_is_missing_and_reach_into_defaulted_objects() {
    let mut object = json!({"spec": {"cidr": "1"}});
    schema().default(&mut object);
    assert_eq!(object, json!({"spec": {"cidr": "1", "as": 64512, "timers": {"hold": 90}}}));
}

#[test]
fn errors_read_as_the_real_servers() {
    let said = |spec: Value| {
        let causes = schema().validate(&json!({"metadata": {"name": "x"}, "spec": spec}), None);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>()
    };
    assert_eq!(said(json!({})), ["spec.cidr: Required value"]);
    assert_eq!(
        said(json!({"cidr": "1", "as": 0})),
        ["spec.as: Invalid value: 0: spec.as in body should be greater than or equal to 1"]
    );
    assert_eq!(
        said(json!({"cidr": 7})),
        [r#"spec.cidr: Invalid value: "integer": spec.cidr in body must be of type string: "integer""#]
    );
    assert_eq!(
        said(json!({"cidr": "1", "mode": "c"})),
        [r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#]
    );
    assert_eq!(
        said(json!({"cidr": "x y"})),
        [r#"spec.cidr: Invalid value: "x y": spec.cidr in body should match '^[0-9a-f./:]+$'"#]
    );
    assert_eq!(
        said(json!({"cidr": "1", "peers": [{"ip": "::1"}]})),
        [r#"spec.peers[0].ip: Invalid value: "::1": spec.peers[0].ip in body must be of type ipv4: "::1""#]
    );
    assert_eq!(
        said(json!({"cidr": "1", "peers": [{}, {}, {}]})),
        ["spec.peers: Too many: 3: must have at most 2 items"]
    );
    assert_eq!(said(json!({"cidr": "1", "port": "http", "note": null, "map": {"a": 1}})), [""; 0]);
    assert_eq!(said(json!({"cidr": "1", "port": 1.5})).len(), 1);
}

#[test]
fn a_schema_that_cannot_be_used_says_why() {
    let broken = Schema::new(json!({"properties": {"spec": {"type": "string", "pattern": "("}}}));
    assert!(broken.check().is_err());
    assert!(schema().check().is_ok());
}

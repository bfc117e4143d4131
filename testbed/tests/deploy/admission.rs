//! The admission policies, evaluated: an agent writes of its own node only.

use cel::{Context, Program, Value as Cel};
use serde_json::{Value, json};

use super::{build, deploy};

/// What the API server asks a policy about.
#[derive(Clone)]
struct Request {
    verb: &'static str,
    resource: &'static str,
    subresource: &'static str,
    user: String,
    node: Option<&'static str>,
    object: Value,
    old: Value,
    /// Every object of the policy's `paramKind`.
    params: Vec<Value>,
}

fn by_agent_of(node: &'static str, verb: &'static str, resource: &'static str, object: Value) -> Request {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let old = if verb == "CREATE" { Value::Null } else { object.clone() };
    Request {
        verb,
        resource,
        subresource,
        user: "system:serviceaccount:manx-system:manx-felix".to_owned(),
        node: Some(node),
        object: if verb == "DELETE" { Value::Null } else { object },
        old,
        params: Vec::new(),
    }
}

/// The first policy of ours that refuses, by its name.
fn refused_by(request: &Request) -> Option<String> {
    let documents = build(&deploy().join("base"));
    let policies = documents.iter().filter(|document| document["kind"] == "ValidatingAdmissionPolicy");
    policies
        .filter(|policy| matches(policy, request))
        .find(|policy| {
            let params = match policy["spec"]["paramKind"].is_object() {
                true => request.params.clone(),
                false => vec![Value::Null],
            };
            params.iter().any(|params| !admits(policy, request, params))
        })
        .map(|policy| policy["metadata"]["name"].as_str().unwrap().to_owned())
}

fn matches(policy: &Value, request: &Request) -> bool {
    let resource = match request.subresource {
        "" => request.resource.to_owned(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap();
    let has = |list: &Value, wanted: &str| list.as_array().unwrap().iter().any(|one| *one == wanted);
    rules.iter().any(|rule| has(&rule["resources"], &resource) && has(&rule["operations"], request.verb))
        && policy["spec"]["matchConditions"].as_array().unwrap().iter().all(|condition| {
            is_true(condition["expression"].as_str().unwrap(), &context(request, &Value::Null, &json!({})))
        })
}

fn admits(policy: &Value, request: &Request, params: &Value) -> bool {
    let mut variables = json!({});
    for variable in policy["spec"]["variables"].as_array().into_iter().flatten() {
        let value = evaluate(variable["expression"].as_str().unwrap(), &context(request, params, &variables));
        let Cel::String(text) = value else { panic!("{value:?}") };
        variables[variable["name"].as_str().unwrap()] = json!(*text);
    }
    let context = context(request, params, &variables);
    let validations = policy["spec"]["validations"].as_array().unwrap();
    validations.iter().all(|validation| {
        if let Some(message) = validation["messageExpression"].as_str() {
            let said = evaluate(message, &context);
            assert!(matches!(said, Cel::String(_)), "{message}: {said:?}");
        }
        is_true(validation["expression"].as_str().unwrap(), &context)
    })
}

fn context(request: &Request, params: &Value, variables: &Value) -> Context<'static, 'static> {
    let extra = match request.node {
        Some(node) => json!({ "authentication.kubernetes.io/node-name": [node] }),
        None => json!({}),
    };
    let mut context = Context::default();
    let asked = json!({
        "userInfo": { "username": request.user, "extra": extra },
        "resource": { "resource": request.resource },
        "operation": request.verb,
    });
    for (name, value) in [
        ("request", &asked),
        ("object", &request.object),
        ("oldObject", &request.old),
        ("params", params),
        ("variables", variables),
    ] {
        context.add_variable(name, value.clone()).unwrap();
    }
    context
}

fn evaluate(expression: &str, context: &Context<'_, '_>) -> Cel {
    let program = Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    program.execute(context).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

fn is_true(expression: &str, context: &Context<'_, '_>) -> bool {
    match evaluate(expression, context) {
        Cel::Bool(answer) => answer,
        other => panic!("{expression}: {other:?}"),
    }
}

fn named(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

fn block(node: &str) -> Value {
    json!({ "metadata": { "name": "b", "uid": format!("uid-of-{node}") }, "spec": { "node": node } })
}

#[test]
fn an_agent_writes_of_its_own_node_only() {
    for (resource, own, other) in [
        ("ipamblocks", block("node1"), block("node2")),
        ("ipamblocks/status", block("node1"), block("node2")),
        ("ipamrequests", block("node1"), block("node2")),
        ("nodestatuses", named("node1"), named("node2")),
        ("nodestatuses/status", named("node1"), named("node2")),
        ("nodes/status", named("node1"), named("node2")),
    ] {
        let verb = if resource.contains('/') { "UPDATE" } else { "CREATE" };
        assert_eq!(refused_by(&by_agent_of("node1", verb, resource, own)), None, "{resource}");
        let refused = refused_by(&by_agent_of("node1", verb, resource, other));
        assert_eq!(refused.as_deref(), Some("manx-felix-own-node"), "{resource}");
    }
}

#[test]
fn an_agent_deletes_the_status_of_its_own_node_only() {
    let delete = |name: &str| by_agent_of("node1", "DELETE", "nodestatuses", named(name));
    assert_eq!(refused_by(&delete("node1")), None);
    assert_eq!(refused_by(&delete("node2")).as_deref(), Some("manx-felix-own-node"));
}

#[test]
fn a_token_of_no_node_writes_nothing_and_people_are_not_asked() {
    let mut request = by_agent_of("node1", "CREATE", "ipamblocks", block("node1"));
    request.node = None;
    assert_eq!(refused_by(&request).as_deref(), Some("manx-felix-own-node"));
    request.user = "kubernetes-admin".to_owned();
    assert_eq!(refused_by(&request), None);
}

#[test]
fn another_nodes_block_goes_only_with_its_node() {
    let mut request = by_agent_of("node1", "DELETE", "ipamblocks", block("node2"));
    request.params = vec![named("node1"), named("node3")];
    assert_eq!(refused_by(&request), None);
    request.params.push(named("node2"));
    assert_eq!(refused_by(&request).as_deref(), Some("manx-felix-gone-node"));
    let mut own = by_agent_of("node2", "DELETE", "ipamblocks", block("node2"));
    own.params = request.params;
    assert_eq!(refused_by(&own), None);
}

#[test]
fn where_there_is_nothing_to_ask_about_nothing_is_refused() {
    // The API server looks for params before it asks whether the request is meant, so Deny would refuse every node its
    // first block.
    let documents = build(&deploy().join("base"));
    let asking = documents.iter().filter(|document| document["spec"]["paramRef"].is_object());
    let actions: Vec<_> =
        asking.map(|binding| &binding["spec"]["paramRef"]["parameterNotFoundAction"]).collect();
    assert_eq!(actions, ["Allow", "Allow"]);
}

#[test]
fn a_part_is_carved_out_by_the_owner_of_the_whole() {
    let mut part = block("node2");
    part["spec"]["parent"] = json!({ "uid": "uid-of-node1" });
    let mut request = by_agent_of("node1", "CREATE", "ipamblocks", part.clone());
    request.params = vec![block("node1"), block("node3")];
    assert_eq!(refused_by(&request), None);
    // Neither for another node nor for its own does it take from what a third one owns.
    for node in ["node2", "node1"] {
        part["spec"] = json!({ "node": node, "parent": { "uid": "uid-of-node3" } });
        request.object = part.clone();
        assert_eq!(refused_by(&request).as_deref(), Some("manx-felix-own-parent"), "{node}");
    }
}

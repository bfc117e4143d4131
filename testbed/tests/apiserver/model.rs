//! Random requests against a naive model, and a watcher whose replay must end where the list does.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use manx_testbed::apiserver::ApiServer;
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Operation {
    Create {
        name: u8,
        held: bool,
    },
    /// With the version it has, or with one it had.
    Update {
        name: u8,
        stale: bool,
        value: u8,
    },
    Patch {
        name: u8,
        value: u8,
    },
    Delete {
        name: u8,
    },
    Release {
        name: u8,
    },
    EndWatches,
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = 0..5u8;
    prop_oneof![
        3 => (name.clone(), prop::bool::weighted(0.3)).prop_map(|(name, held)| Operation::Create { name, held }),
        3 => (name.clone(), any::<bool>(), 0..4u8).prop_map(|(name, stale, value)| Operation::Update { name, stale, value }),
        3 => (name.clone(), 0..4u8).prop_map(|(name, value)| Operation::Patch { name, value }),
        2 => name.clone().prop_map(|name| Operation::Delete { name }),
        2 => name.prop_map(|name| Operation::Release { name }),
        1 => Just(Operation::EndWatches),
    ]
}

/// All there is to know of an object.
#[derive(Clone, Debug, PartialEq)]
struct Modelled {
    value: Option<u8>,
    held: bool,
    deleting: bool,
    versions: Vec<String>,
}

const PATH: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let response = server.answer(request.body(Full::new(body)).expect("a request")).await.expect("no outage");
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (code, serde_json::from_slice(&bytes).expect("JSON"))
}

fn object(name: u8, value: Option<u8>, held: bool, version: Option<&String>) -> Value {
    let data = value.map_or(json!({}), |value| json!({"value": value.to_string()}));
    let finalizers = if held { json!(["example.com/held"]) } else { json!([]) };
    let metadata = json!({"name": format!("n{name}"), "finalizers": finalizers, "resourceVersion": version});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}

/// The code an operation must be answered with, and what it does to the model.
async fn run(server: &ApiServer, model: &mut BTreeMap<u8, Modelled>, operation: &Operation) {
    let path = |name: u8| format!("{PATH}/n{name}");
    let (name, (code, answer), wanted) = match *operation {
        Operation::EndWatches => {
            server.end_watches();
            return;
        }
        Operation::Create { name, held } => {
            let wanted = if model.contains_key(&name) { 409 } else { 201 };
            let answer = ask(server, "POST", PATH, object(name, None, held, None)).await;
            if wanted == 201 {
                model.insert(name, Modelled { value: None, held, deleting: false, versions: Vec::new() });
            }
            (name, answer, wanted)
        }
        Operation::Update { name, stale, value } => {
            let known = model.get_mut(&name);
            let first = known.as_ref().and_then(|known| known.versions.first().cloned());
            let last = known.as_ref().and_then(|known| known.versions.last().cloned());
            let version = if stale { first } else { last.clone() };
            let wanted = match &known {
                None => 404,
                Some(_) if version != last => 409,
                Some(_) => 200,
            };
            let held = known.as_ref().is_some_and(|known| known.held);
            let body = object(name, Some(value), held, version.as_ref().or(Some(&String::new())));
            let answer = ask(server, "PUT", &path(name), body).await;
            if let Some(known) = known.filter(|_| wanted == 200) {
                known.value = Some(value);
            }
            (name, answer, wanted)
        }
        Operation::Patch { name, value } => {
            let answer =
                ask(server, "PATCH", &path(name), json!({"data": {"value": value.to_string()}})).await;
            let known = model.get_mut(&name).map(|known| known.value = Some(value));
            (name, answer, if known.is_some() { 200 } else { 404 })
        }
        Operation::Delete { name } => {
            let answer = ask(server, "DELETE", &path(name), Value::Null).await;
            let wanted = if model.contains_key(&name) { 200 } else { 404 };
            if let Some(known) = model.get_mut(&name) {
                known.deleting = true;
                if !known.held {
                    model.remove(&name);
                }
            }
            (name, answer, wanted)
        }
        Operation::Release { name } => {
            let answer = ask(server, "PATCH", &path(name), json!({"metadata": {"finalizers": null}})).await;
            let wanted = if model.contains_key(&name) { 200 } else { 404 };
            if let Some(known) = model.get_mut(&name) {
                known.held = false;
                if known.deleting {
                    model.remove(&name);
                }
            }
            (name, answer, wanted)
        }
    };
    assert_eq!(code, wanted, "{operation:?}: {answer}");
    if let Some(known) = model.get_mut(&name) {
        let (_, now) = ask(server, "GET", &path(name), Value::Null).await;
        let version = now["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        if known.versions.last() != Some(&version) {
            known.versions.push(version);
        }
        assert_eq!(now["data"]["value"].as_str(), known.value.map(|v| v.to_string()).as_deref());
        assert_eq!(!now["metadata"]["deletionTimestamp"].is_null(), known.deleting);
    }
}

/// What a client knows that follows a watch: list, watch, and watch again from its last event.
struct Replica {
    objects: BTreeMap<String, Value>,
    version: String,
}

impl Replica {
    /// Reads what there is until nothing more comes.
    async fn catch_up(&mut self, server: &ApiServer) {
        let uri = format!("{PATH}?watch=1&resourceVersion={}&timeoutSeconds=0", self.version);
        let request = Request::get(uri).body(Full::<Bytes>::default()).expect("a request");
        let response = server.answer(request).await.expect("no outage");
        let lines = response.into_body().collect().await.expect("a body").to_bytes();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line).expect("an event");
            let object = &event["object"];
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            self.version = object["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
            let known = match event["type"].as_str() {
                Some("DELETED") => self.objects.remove(&name).is_some(),
                Some("ADDED") => self.objects.insert(name, object.clone()).is_none(),
                Some("MODIFIED") => self.objects.insert(name, object.clone()).is_some(),
                other => panic!("{other:?}: {event}"),
            };
            assert!(known, "out of order: {event}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_server_does_what_the_model_does_and_a_watch_tells_it_all(
        operations in prop::collection::vec(operation(), 1..60),
        rest in 1..12usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = ApiServer::new();
            let (_, list) = ask(&server, "GET", PATH, Value::Null).await;
            let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
            let mut replica = Replica { objects: BTreeMap::new(), version };
            let mut model = BTreeMap::new();
            for (at, operation) in operations.iter().enumerate() {
                run(&server, &mut model, operation).await;
                if at % rest == 0 {
                    replica.catch_up(&server).await;
                }
            }
            replica.catch_up(&server).await;
            let (_, list) = ask(&server, "GET", PATH, Value::Null).await;
            let listed: BTreeMap<_, _> = list["items"].as_array().expect("items").iter()
                .map(|item| (item["metadata"]["name"].as_str().expect("a name").to_owned(), item.clone()))
                .collect();
            assert_eq!(listed.keys().cloned().collect::<Vec<_>>(), model.keys().map(|n| format!("n{n}")).collect::<Vec<_>>());
            assert_eq!(replica.objects, listed);
        });
    }
}

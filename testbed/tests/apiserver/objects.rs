//! Create, read, update, patch, delete.

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, Request},
    runtime::events::{EventType, Recorder, Reporter},
};
use serde_json::{Value, json};

use super::subject::{Subject, config_map, eventually, refused, typed};

fn pod(name: &str, node: &str) -> Pod {
    let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
    typed(json!({"metadata": {"name": name}, "spec": spec}))
}

#[tokio::test]
async fn objects_are_made_once_and_replaced_only_by_who_has_read_them() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let post = PostParams::default();
        let made = api.create(&post, &config_map("one", json!({"a": "1"}))).await.expect("created");
        assert_eq!(made.uid().map(|uid| uid.len()), Some(36));
        assert!(made.creation_timestamp().is_some() && made.resource_version().is_some());

        let again = refused(api.create(&post, &config_map("one", json!({}))).await);
        assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
        assert_eq!(again.message, r#"configmaps "one" already exists"#);

        let mut next = made.clone();
        next.data = Some([("a".to_owned(), "2".to_owned())].into());
        let replaced = api.replace("one", &post, &next).await.expect("nobody else wrote");
        assert_ne!(replaced.resource_version(), made.resource_version());
        let stale = refused(api.replace("one", &post, &made).await);
        assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
        assert!(stale.message.contains("the object has been modified"), "{}", stale.message);

        let same = api.replace("one", &post, &replaced).await.expect("no change");
        assert_eq!(same.resource_version(), replaced.resource_version(), "writing the same is no write");

        let missing = refused(api.get("two").await);
        assert_eq!((missing.code, missing.reason.as_str()), (404, "NotFound"));
        assert_eq!(missing.message, r#"configmaps "two" not found"#);
    }
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let generated: ConfigMap = typed(json!({"metadata": {"generateName": "web-"}}));
        let create =
            async || api.create(&PostParams::default(), &generated).await.expect("created").name_any();
        let (a, b) = (create().await, create().await);
        assert!(a.starts_with("web-") && a.len() == 9 && a != b, "{a} {b}");

        let bad = refused(api.create(&PostParams::default(), &config_map("Not_A_Name", json!({}))).await);
        assert_eq!((bad.code, bad.reason.as_str()), (422, "Invalid"));
        let causes = &bad.details.as_ref().expect("details").causes;
        assert_eq!(causes[0].field, "metadata.name");
        let elsewhere: Api<ConfigMap> = Api::namespaced(subject.client.clone(), "nowhere");
        let nowhere = refused(elsewhere.create(&PostParams::default(), &generated).await);
        assert_eq!(nowhere.message, r#"namespaces "nowhere" not found"#);
    }
}

#[tokio::test]
async fn status_is_written_on_its_own_path_and_generation_counts_the_spec() {
    for subject in Subject::all().await {
        let api = subject.widgets().await;
        let mut widget = super::subject::widget("one", json!({"color": "red"}));
        widget.data["status"] = json!({"phase": "early"});
        let made = api.create(&PostParams::default(), &widget).await.expect("created");
        assert_eq!(made.metadata.generation, Some(1));
        assert_eq!(made.data["spec"]["size"], 10, "defaulted");
        assert!(made.data.get("status").is_none(), "{made:?}");

        let status = json!({"status": {"phase": "up"}, "spec": {"color": "blue"}});
        let patched =
            api.patch_status("one", &PatchParams::default(), &Patch::Merge(&status)).await.expect("patched");
        assert_eq!(patched.data["status"]["phase"], "up");
        assert_eq!(patched.data["spec"]["color"], "red", "the spec is not written there");
        assert_eq!(patched.metadata.generation, Some(1));

        let mut next = patched.clone();
        next.data["status"]["phase"] = json!("down");
        next.data["spec"]["size"] = json!(11);
        let replaced = api.replace("one", &PostParams::default(), &next).await.expect("replaced");
        assert_eq!(replaced.data["status"]["phase"], "up", "nor the status here");
        assert_eq!(replaced.metadata.generation, Some(2));

        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let labelled =
            api.patch("one", &PatchParams::default(), &Patch::Merge(&label)).await.expect("labelled");
        assert_eq!(labelled.metadata.generation, Some(2));
    }
}

#[tokio::test]
async fn merge_json_and_strategic_patches() {
    for subject in Subject::all().await {
        let api: Api<Pod> = subject.api();
        api.create(&PostParams::default(), &pod("web", "")).await.expect("created");
        let params = PatchParams::default();
        let merge = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        api.patch("web", &params, &Patch::Merge(&merge)).await.expect("merged");
        let operations = json!([
            {"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "remove", "path": "/metadata/labels/a"},
            {"op": "add", "path": "/metadata/labels/c", "value": "3"},
        ]);
        // kube's own type for it needs a feature nothing else wants.
        let json_patch = |body: &Value| {
            let path = format!("/api/v1/namespaces/{}/pods/web", subject.namespace);
            let request = http::Request::patch(path).header("content-type", "application/json-patch+json");
            subject.client.request::<Pod>(request.body(body.to_string().into_bytes()).expect("a request"))
        };
        json_patch(&operations).await.expect("patched");
        let failed = refused(json_patch(&operations).await);
        assert_eq!(failed.code, 422, "{failed:?}");

        let strategic = json!({"metadata": {"labels": {"b": null}}, "spec": {"containers": [{"name": "c", "image": "j"}]}});
        let pod = api.patch("web", &params, &Patch::Strategic(&strategic)).await.expect("merged by key");
        let spec = pod.spec.clone().expect("a spec");
        assert_eq!(spec.containers.len(), 1);
        assert_eq!(spec.containers[0].image.as_deref(), Some("j"));
        assert_eq!(pod.labels().keys().collect::<Vec<_>>(), ["c"]);
    }
}

#[tokio::test]
async fn lists_select_and_come_in_pages_of_one_moment() {
    for subject in Subject::all().await {
        let api: Api<Pod> = subject.api();
        for n in 0..5 {
            let mut pod = pod(&format!("p{n}"), if n % 2 == 0 { "even" } else { "odd" });
            pod.labels_mut().insert("n".into(), n.to_string());
            api.create(&PostParams::default(), &pod).await.expect("created");
        }
        let names = async |params: &ListParams| {
            let list = api.list(params).await.expect("a list");
            list.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        };
        assert_eq!(names(&ListParams::default().labels("n in (1,2),n!=2")).await, ["p1"]);
        assert_eq!(names(&ListParams::default().fields("spec.nodeName=odd")).await, ["p1", "p3"]);
        assert_eq!(names(&ListParams::default().fields("metadata.name=p4")).await, ["p4"]);
        let bad = refused(api.list(&ListParams::default().fields("spec.color=red")).await);
        assert_eq!(bad.code, 400, "{bad:?}");

        let page = ListParams::default().limit(2);
        let first = api.list(&page).await.expect("a page");
        assert_eq!(first.metadata.remaining_item_count, Some(3));
        // What is written between the pages belongs to none of them.
        api.delete("p3", &DeleteParams::default().grace_period(0)).await.expect("deleted");
        api.create(&PostParams::default(), &pod("p9", "late")).await.expect("created");
        let mut seen: Vec<_> = first.iter().map(ResourceExt::name_any).collect();
        let mut token = first.metadata.continue_.clone().expect("more");
        loop {
            let next = api.list(&page.clone().continue_token(&token)).await.expect("a page");
            assert_eq!(next.metadata.resource_version, first.metadata.resource_version);
            seen.extend(next.iter().map(ResourceExt::name_any));
            match next.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(more) => token = more,
                None => break,
            }
        }
        assert_eq!(seen, ["p0", "p1", "p2", "p3", "p4"]);
    }
}

#[tokio::test]
async fn deletion_heeds_preconditions_and_waits_for_finalizers() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let mut object = config_map("kept", json!({}));
        object.finalizers_mut().push("example.com/wait".into());
        let made = api.create(&PostParams::default(), &object).await.expect("created");
        let other = Preconditions { uid: Some("other".into()), resource_version: None };
        let wrong = refused(api.delete("kept", &DeleteParams::default().preconditions(other)).await);
        assert_eq!(wrong.code, 409, "{wrong:?}");
        // Releases say it in words of their own.
        for word in ["UID", "precondition", "other"] {
            assert!(wrong.message.contains(word), "{}", wrong.message);
        }

        let right = Preconditions { uid: made.uid(), resource_version: made.resource_version() };
        api.delete("kept", &DeleteParams::default().preconditions(right)).await.expect("marked");
        let waiting = api.get("kept").await.expect("waits for its finalizer");
        assert!(waiting.metadata.deletion_timestamp.is_some());
        let mut more = waiting.clone();
        more.finalizers_mut().push("example.com/late".into());
        let late = refused(api.replace("kept", &PostParams::default(), &more).await);
        assert_eq!(late.code, 422, "{late:?}");

        let mut done = waiting;
        done.finalizers_mut().clear();
        api.replace("kept", &PostParams::default(), &done).await.expect("released");
        assert_eq!(refused(api.get("kept").await).code, 404);
    }
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        for name in ["a", "b", "c"] {
            api.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
        }
        let selected = ListParams::default().labels("app in (a,b)");
        api.delete_collection(&DeleteParams::default(), &selected).await.expect("deleted");
        let left = api.list(&ListParams::default().labels("app in (a,b,c)")).await.expect("a list");
        assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
    }
}

#[tokio::test]
async fn a_pod_on_a_node_ends_when_its_kubelet_says_so() {
    for subject in Subject::all().await {
        let api: Api<Pod> = subject.api();
        api.create(&PostParams::default(), &pod("bound", "node1")).await.expect("created");
        api.create(&PostParams::default(), &pod("loose", "")).await.expect("created");
        api.delete("loose", &DeleteParams::default()).await.expect("gone at once");
        assert_eq!(refused(api.get("loose").await).code, 404);
        api.delete("bound", &DeleteParams::default()).await.expect("marked");
        let ending = api.get("bound").await.expect("still there");
        assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
        api.delete("bound", &DeleteParams::default().grace_period(0)).await.expect("the kubelet's word");
        assert_eq!(refused(api.get("bound").await).code, 404);
    }
}

#[tokio::test]
async fn unknown_fields_warn_or_are_refused_and_dry_runs_leave_nothing() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let create = |query: &str, body: Value| {
            let path = format!("/api/v1/namespaces/{}/configmaps?{query}", subject.namespace);
            let request = http::Request::post(path).header("content-type", "application/json");
            subject.client.request::<Value>(request.body(body.to_string().into_bytes()).expect("a request"))
        };
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "dada": {}});
        let strict = refused(create("fieldValidation=Strict", object.clone()).await);
        assert_eq!(strict.code, 400);
        assert!(strict.message.contains(r#"unknown field "dada""#), "{}", strict.message);
        let dry = create("dryRun=All", object.clone()).await.expect("would be created");
        assert!(dry["metadata"]["uid"].is_string() && dry.get("dada").is_none(), "{dry}");
        assert_eq!(refused(api.get("odd").await).code, 404);
        create("fieldValidation=Warn", object).await.expect("created, with a warning");
        let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
        assert_eq!(refused(create("", wrong).await).code, 400);
    }
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    // A real server leaves this to a controller beside it.
    for subject in [Subject::in_process(manx_testbed::apiserver::ApiServer::new()).await] {
        let api: Api<ConfigMap> = subject.api();
        let mut held = config_map("held", json!({}));
        held.finalizers_mut().push("example.com/wait".into());
        let mut held = api.create(&PostParams::default(), &held).await.expect("created");
        api.create(&PostParams::default(), &config_map("free", json!({}))).await.expect("created");
        let namespaces: Api<Namespace> = Api::all(subject.client.clone());
        namespaces.delete(&subject.namespace, &DeleteParams::default()).await.expect("marked");
        let ending = namespaces.get(&subject.namespace).await.expect("waits for its content");
        assert_eq!(ending.status.and_then(|status| status.phase).as_deref(), Some("Terminating"));
        assert_eq!(refused(api.get("free").await).code, 404);
        let late = refused(api.create(&PostParams::default(), &config_map("late", json!({}))).await);
        assert_eq!((late.code, late.reason.as_str()), (403, "Forbidden"));

        held = api.get(&held.name_any()).await.expect("held");
        held.finalizers_mut().clear();
        api.replace("held", &PostParams::default(), &held).await.expect("released");
        assert_eq!(refused(namespaces.get(&subject.namespace).await).code, 404);
    }
}

#[tokio::test]
async fn kinds_of_the_cluster_behave_as_their_own() {
    for subject in Subject::all().await {
        let nodes: Api<Node> = Api::all(subject.client.clone());
        let node: Node =
            typed(json!({"metadata": {"name": subject.namespace}, "spec": {"podCIDR": "10.0.0.0/24"}}));
        let mut node = nodes.create(&PostParams::default(), &node).await.expect("created");
        let address = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
        node.status = Some(typed(json!({"addresses": address})));
        let node =
            nodes.replace_status(&node.name_any(), &PostParams::default(), &node).await.expect("status");
        assert_eq!(node.status.and_then(|status| status.addresses).map(|a| a.len()), Some(1));

        let services: Api<Service> = subject.api();
        let service: Service = typed(json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}));
        let service = services.create(&PostParams::default(), &service).await.expect("created");
        let spec = service.spec.expect("a spec");
        assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
        assert!(spec.cluster_ip.is_some_and(|ip| ip.starts_with("10.96.")));
        assert_eq!(spec.ports.expect("ports")[0].protocol.as_deref(), Some("TCP"));

        let leases: Api<Lease> = subject.api();
        let lease: Lease = typed(json!({"metadata": {"name": "l"}, "spec": {
            "holderIdentity": "me", "renewTime": "2026-01-02T03:04:05.123456Z", "leaseDurationSeconds": 15}}));
        leases.create(&PostParams::default(), &lease).await.expect("created");
    }
}

#[tokio::test]
async fn events_of_both_groups_are_the_same_objects() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let about =
            api.create(&PostParams::default(), &config_map("about", json!({}))).await.expect("created");
        let reporter = Reporter { controller: "manx.io/test".into(), instance: Some("me".into()) };
        let recorder = Recorder::new(subject.client.clone(), reporter);
        let event = kube::runtime::events::Event {
            type_: EventType::Warning,
            reason: "Odd".into(),
            note: Some("it is odd".into()),
            action: "Look".into(),
            secondary: None,
        };
        let mut reference = kube::Resource::object_ref(&about, &());
        reference.namespace = Some(subject.namespace.clone());
        recorder.publish(&event, &reference).await.expect("published");
        let events: Api<Event> = subject.api();
        let found = eventually("the event in the core group", async || {
            let params = ListParams::default().fields("involvedObject.name=about");
            events.list(&params).await.expect("a list").items.into_iter().next()
        });
        let found = found.await;
        assert_eq!(found.message.as_deref(), Some("it is odd"));
        assert_eq!(found.type_.as_deref(), Some("Warning"));
    }
}

#[tokio::test]
async fn what_is_not_served_is_refused_as_a_status() {
    for subject in Subject::all().await {
        let get = |path: &str| {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            subject.client.request::<Value>(request)
        };
        for path in ["/apis/none.example.com/v1/things", "/api/v1/things", "/nothing", "/api/v1/pods/x/y/z/w"]
        {
            assert_eq!(refused(get(path).await).code, 404, "{path}");
        }
        let list =
            Request::new("/api/v1/nodes").list(&ListParams::default().labels("a b c")).expect("a request");
        let bad = refused(subject.client.request::<Value>(list).await);
        assert_eq!((bad.code, bad.reason.as_str()), (400, "BadRequest"));
        assert_eq!(subject.client.apiserver_version().await.expect("a version").major, "1");
    }
}

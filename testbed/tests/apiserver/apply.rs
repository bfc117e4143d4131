//! Server-side apply as kube's clients send it.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::subject::{Subject, config_map, refused};

fn applied(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data})
}

#[tokio::test]
async fn managers_share_conflict_and_force() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let by = |manager: &str| PatchParams::apply(manager);
        let first = applied(json!({"a": "1", "b": "2"}));
        let made = api.patch("one", &by("first"), &Patch::Apply(&first)).await.expect("created");
        let again = api.patch("one", &by("first"), &Patch::Apply(&first)).await.expect("the same");
        assert_eq!(again.resource_version(), made.resource_version(), "applying the same is no write");

        let second = applied(json!({"b": "3", "c": "4"}));
        let conflict = refused(api.patch("one", &by("second"), &Patch::Apply(&second)).await);
        assert_eq!((conflict.code, conflict.reason.as_str()), (409, "Conflict"));
        // Some releases name the version between the two.
        for words in [r#"conflict with "first""#, ": .data.b"] {
            assert!(conflict.message.contains(words), "{}", conflict.message);
        }
        let causes = &conflict.details.as_ref().expect("details").causes;
        assert_eq!(
            (causes[0].reason.as_str(), causes[0].field.as_str()),
            ("FieldManagerConflict", ".data.b")
        );

        let forced = api.patch("one", &by("second").force(), &Patch::Apply(&second)).await.expect("forced");
        let data = json!({"a": "1", "b": "3", "c": "4"});
        assert_eq!(json!(forced.data), data);

        // What the first no longer applies goes, but for what is the second's by now.
        let less = api.patch("one", &by("first"), &Patch::Apply(&applied(json!({})))).await.expect("less");
        assert_eq!(json!(less.data), json!({"b": "3", "c": "4"}));
        let managers: Vec<_> = less.managed_fields().iter().filter_map(|f| f.manager.clone()).collect();
        assert!(managers.contains(&"second".to_owned()), "{managers:?}");
    }
}

#[tokio::test]
async fn an_edit_takes_its_fields_from_an_applier() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let config = applied(json!({"a": "1"}));
        api.patch("one", &PatchParams::apply("applier"), &Patch::Apply(&config)).await.expect("created");
        let edit = PatchParams { field_manager: Some("editor".into()), ..PatchParams::default() };
        api.patch("one", &edit, &Patch::Merge(json!({"data": {"a": "2"}}))).await.expect("edited");
        let lost = refused(api.patch("one", &PatchParams::apply("applier"), &Patch::Apply(&config)).await);
        assert!(lost.message.contains("editor"), "{}", lost.message);
    }
}

#[tokio::test]
async fn list_items_have_owners_of_their_own() {
    for subject in Subject::all().await {
        let api: Api<Pod> = subject.api();
        let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": containers}});
        let web = pod(json!([{"name": "web", "image": "a", "ports": [{"containerPort": 80}]}]));
        api.patch("web", &PatchParams::apply("one"), &Patch::Apply(&web)).await.expect("created");
        let image = pod(json!([{"name": "web", "image": "b"}]));
        let conflict = refused(api.patch("web", &PatchParams::apply("two"), &Patch::Apply(&image)).await);
        let field = r#".spec.containers[name="web"].image"#;
        assert!(conflict.message.contains(field), "{}", conflict.message);
        let forced = PatchParams::apply("two").force();
        let pod = api.patch("web", &forced, &Patch::Apply(&image)).await.expect("forced");
        let container = &pod.spec.expect("a spec").containers[0];
        assert_eq!(container.image.as_deref(), Some("b"));
        assert_eq!(container.ports.as_ref().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn status_is_applied_apart() {
    for subject in Subject::all().await {
        let api = subject.widgets().await;
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "one"},
            "spec": {"color": "red",
            "parts": [{"name": "a"}, {"name": "b", "weight": 5}]}});
        let params = PatchParams::apply("controller");
        let made = api.patch("one", &params, &Patch::Apply(&widget)).await.expect("created");
        assert_eq!(
            made.data["spec"]["parts"],
            json!([{"name": "a", "weight": 1}, {"name": "b", "weight": 5}])
        );
        let status = json!({"apiVersion": "example.com/v1", "kind": "Widget", "status": {"phase": "up"}});
        let up = api.patch_status("one", &params, &Patch::Apply(&status)).await.expect("applied");
        assert_eq!(up.data["status"]["phase"], "up");
        let less = json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"color": "red", "parts": [{"name": "b"}]}});
        let less = api.patch("one", &params, &Patch::Apply(&less)).await.expect("applied");
        assert_eq!(less.data["spec"]["parts"], json!([{"name": "b", "weight": 1}]));
        assert_eq!(less.data["status"]["phase"], "up", "the status has its own entry");

        let missing = PatchParams { field_manager: None, ..params.clone() };
        let missing = refused(api.patch("one", &missing, &Patch::Apply(&widget)).await);
        assert_eq!((missing.code, missing.reason.as_str()), (422, "Invalid"));
        let unknown =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"color": "red", "colour": 1}});
        let unknown = refused(api.patch("one", &params, &Patch::Apply(&unknown)).await);
        assert!(unknown.message.contains("field not declared in schema"), "{}", unknown.message);
    }
}

#[tokio::test]
async fn updates_are_tracked_by_user_agent_or_name() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let post = PostParams { field_manager: Some("maker".into()), ..PostParams::default() };
        let made = api.create(&post, &config_map("one", json!({"a": "1"}))).await.expect("created");
        let entry = &made.managed_fields()[0];
        assert_eq!(entry.manager.as_deref(), Some("maker"));
        assert_eq!(entry.operation.as_deref(), Some("Update"));
        assert!(json!(entry.fields_v1)["f:data"]["f:a"].is_object());
    }
}

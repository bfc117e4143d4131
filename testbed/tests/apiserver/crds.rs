//! CustomResourceDefinitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, CustomResourceExt, Discovery, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    discovery::verbs,
};
use manx_testbed::apiserver::ApiServer;
use serde_json::json;

use super::subject::{Subject, eventually, refused, typed, widget, widget_definition, widget_resource};

#[tokio::test]
async fn what_breaks_the_schema_is_refused_with_causes() {
    for subject in Subject::all().await {
        let api = subject.widgets().await;
        let refusal = async |spec| refused(api.create(&PostParams::default(), &widget("x", spec)).await);
        let missing = refusal(json!({})).await;
        assert_eq!((missing.code, missing.reason.as_str()), (422, "Invalid"));
        assert_eq!(missing.message, r#"Widget.example.com "x" is invalid: spec.color: Required value"#);

        let small = refusal(json!({"color": "red", "size": 0})).await;
        let text = "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1";
        assert_eq!(small.message, format!(r#"Widget.example.com "x" is invalid: {text}"#));
        let cause = &small.details.as_ref().expect("details").causes[0];
        assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldValueInvalid", "spec.size"));

        let typo = refusal(json!({"color": "red", "size": "big"})).await;
        let text = r#"Invalid value: "string": spec.size in body must be of type integer: "string""#;
        assert!(typo.message.contains(text), "{}", typo.message);
        let pattern = refusal(json!({"color": "Red"})).await;
        let text = r#"spec.color: Invalid value: "Red": spec.color in body should match '^[a-z]+$'"#;
        assert!(pattern.message.contains(text), "{}", pattern.message);
        let two = refusal(json!({"size": 101, "color": "R"})).await;
        assert_eq!(two.details.expect("details").causes.len(), 2);
    }
}

#[tokio::test]
async fn custom_resources_are_pruned_defaulted_and_selected() {
    for subject in Subject::all().await {
        let api = subject.widgets().await;
        let odd = widget("one", json!({"color": "red", "colour": "rot", "parts": [{"name": "a", "x": 1}]}));
        let made = api.create(&PostParams::default(), &odd).await.expect("created");
        assert_eq!(
            made.data["spec"],
            json!({"color": "red", "size": 10, "parts": [{"name": "a", "weight": 1}]})
        );
        api.create(&PostParams::default(), &widget("two", json!({"color": "blue"}))).await.expect("created");
        let blue = api.list(&ListParams::default().fields("spec.color=blue")).await.expect("a list");
        assert_eq!(blue.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["two"]);
        let old: Api<DynamicObject> =
            Api::namespaced_with(subject.client.clone(), &subject.namespace, &widget_resource("v1alpha1"));
        let one = old.get("one").await.expect("in the other version");
        assert_eq!(one.types.expect("types").api_version, "example.com/v1alpha1");
        assert_eq!(one.data["spec"]["color"], "red");

        let mut unversioned = made;
        unversioned.metadata.resource_version = None;
        let refusal = refused(api.replace("one", &PostParams::default(), &unversioned).await);
        assert_eq!(refusal.code, 422, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_definition_is_discovered_and_gone_with_its_objects() {
    for subject in Subject::all().await {
        let api = subject.widgets().await;
        api.create(&PostParams::default(), &widget("one", json!({"color": "red"}))).await.expect("created");
        for aggregated in [false, true] {
            let kind = eventually("discovery", async || {
                let discovery = Discovery::new(subject.client.clone()).filter(&["example.com"]);
                let found = if aggregated { discovery.run_aggregated().await } else { discovery.run().await };
                let found = found.expect("discovery");
                let group = found.get("example.com")?;
                let kinds = group.recommended_resources();
                assert_eq!(group.versions().collect::<Vec<_>>(), ["v1", "v1alpha1"]);
                kinds.into_iter().find(|(resource, _)| resource.plural == "widgets")
            });
            let (resource, capabilities) = kind.await;
            assert_eq!(resource.version, "v1");
            assert!(capabilities.supports_operation(verbs::WATCH));
            assert!(
                capabilities.subresources.iter().any(|(sub, _)| sub.plural == "status"),
                "aggregated: {aggregated}"
            );
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(subject.client.clone());
        definitions.delete("widgets.example.com", &DeleteParams::default()).await.expect("deleted");
        eventually("the kind is gone", async || match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Some(()),
            _ => None,
        })
        .await;
        eventually("the definition is gone", async || {
            definitions.get_opt("widgets.example.com").await.expect("an answer").is_none().then_some(())
        })
        .await;
        let again = subject.widgets().await;
        assert_eq!(again.list(&ListParams::default()).await.expect("a list").items.len(), 0);
    }
}

#[tokio::test]
async fn a_definition_that_cannot_be_used_is_refused() {
    for subject in Subject::all().await {
        let definitions: Api<CustomResourceDefinition> = Api::all(subject.client.clone());
        let pattern = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color/pattern";
        let broken = [
            ("metadata.name", "/metadata/name", json!("gadgets.example.com")),
            ("spec.versions", "/spec/versions/0/storage", json!(false)),
            ("openAPIV3Schema", "/spec/versions/0/schema", json!({})),
            ("pattern", pattern, json!("(")),
        ];
        for (place, pointer, wrong) in broken {
            let mut definition = widget_definition();
            *definition.pointer_mut(pointer).expect("there") = wrong;
            let definition: CustomResourceDefinition = typed(definition);
            let refusal = refused(definitions.create(&PostParams::default(), &definition).await);
            assert_eq!(refusal.code, 422, "{place}");
            assert!(refusal.message.contains(place), "{place}: {}", refusal.message);
        }
    }
}

#[tokio::test]
async fn manxs_own_definitions_are_served() {
    let subject = Subject::in_process(ApiServer::new()).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(subject.client.clone());
    let own = [
        manx_ipam::crd::IPPool::crd(),
        manx_ipam::crd::IPAMBlock::crd(),
        manx_felix::crd::BGPConfiguration::crd(),
        manx_felix::crd::BGPPeer::crd(),
        manx_felix::crd::NodeStatus::crd(),
    ];
    for definition in own {
        definitions.create(&PostParams::default(), &definition).await.expect("created");
    }
    let pools: Api<manx_ipam::crd::IPPool> = Api::all(subject.client.clone());
    let pool = json!({"metadata": {"name": "p"}, "spec": {"cidr": "10.244.0.0/16"}});
    pools.create(&PostParams::default(), &typed(pool)).await.expect("created");
    assert_eq!(pools.list(&ListParams::default()).await.expect("a list").items.len(), 1);
}

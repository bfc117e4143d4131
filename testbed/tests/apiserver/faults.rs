//! Faults on demand, and counts.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Error,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use manx_testbed::apiserver::{ApiServer, Verb};
use serde_json::json;
use tokio::time::Instant;

use super::subject::{DEADLINE, Subject, config_map, refused};

#[tokio::test(start_paused = true)]
async fn latency_is_added_to_every_request() {
    let subject = Subject::in_process(ApiServer::new()).await;
    let faults = subject.small.as_ref().expect("a small server").faults();
    let api: Api<ConfigMap> = subject.api();
    faults.set_latency(Duration::from_secs(3));
    let start = Instant::now();
    api.list(&ListParams::default()).await.expect("late, but there");
    assert!(start.elapsed() >= Duration::from_secs(3));
    faults.clear();
    let start = Instant::now();
    api.list(&ListParams::default()).await.expect("at once");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn errors_come_at_their_rate_and_the_same_for_a_seed() {
    let subject = Subject::in_process(ApiServer::new()).await;
    let faults = subject.small.as_ref().expect("a small server").faults();
    let api: Api<ConfigMap> = subject.api();
    let round = async |seed| {
        faults.set_error_rate(0.3, seed);
        let mut failed = Vec::new();
        for _ in 0..200 {
            failed.push(api.list(&ListParams::default()).await.is_err());
        }
        failed
    };
    let first = round(1).await;
    let failures = first.iter().filter(|failed| **failed).count();
    assert!((30..90).contains(&failures), "{failures}");
    assert_eq!(round(1).await, first);
    assert_ne!(round(2).await, first);
    faults.set_error_rate(1.0, 0);
    let error = refused(api.create(&PostParams::default(), &config_map("a", json!({}))).await);
    assert_eq!(error.code, 500);
    faults.clear();
    assert!(api.get_opt("a").await.expect("an answer").is_none(), "a failed request did nothing");
}

#[tokio::test]
async fn conflicts_are_forced_on_updates_only() {
    let subject = Subject::in_process(ApiServer::new()).await;
    let faults = subject.small.as_ref().expect("a small server").faults();
    let api: Api<ConfigMap> = subject.api();
    faults.inject_conflicts(2);
    let made = api.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
    assert_eq!(refused(api.replace("a", &PostParams::default(), &made).await).code, 409);
    let patch = Patch::Merge(json!({"data": {"a": "b"}}));
    assert_eq!(refused(api.patch("a", &PatchParams::default(), &patch).await).reason, "Conflict");
    api.patch("a", &PatchParams::default(), &patch).await.expect("the third goes through");
}

#[tokio::test]
async fn an_outage_cuts_everything_and_ends_without_loss() {
    for subject in [Subject::in_process(ApiServer::new()).await, Subject::over_tcp(ApiServer::new()).await] {
        let server = subject.small.clone().expect("a small server");
        let api: Api<ConfigMap> = subject.api();
        let mut events = pin!(
            watcher::watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects()
        );
        api.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
        let mut hear = async |name: &str| {
            let listen = async {
                loop {
                    match events.next().await.expect("a watcher does not end") {
                        Ok(map) if map.metadata.name.as_deref() == Some(name) => return,
                        _ => {}
                    }
                }
            };
            tokio::time::timeout(DEADLINE, listen).await.unwrap_or_else(|_| panic!("{name} was not heard"));
        };
        hear("a").await;
        server.begin_outage();
        let down = api.list(&ListParams::default()).await.expect_err("nobody answers");
        assert!(!matches!(down, Error::Api(_)), "{down}");
        // Written while the clients are away.
        let late = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": subject.namespace}});
        server.put(late).expect("written");
        server.faults().end_outage();
        hear("b").await;
    }
}

#[tokio::test]
async fn requests_are_counted_by_verb_and_resource() {
    let subject = Subject::over_tcp(ApiServer::new()).await;
    let server = subject.small.as_ref().expect("a small server");
    let api: Api<ConfigMap> = subject.api();
    let before = server.requests();
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
    }
    refused(api.create(&PostParams::default(), &config_map("b", json!({}))).await);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    api.patch("a", &PatchParams::apply("me").force(), &Patch::Apply(&config)).await.expect("applied");
    api.list(&ListParams::default()).await.expect("a list");
    let counted = server.requests().since(&before);
    assert_eq!(counted.of(Verb::Create, "configmaps"), 3);
    assert_eq!(counted.of(Verb::Apply, "configmaps"), 1);
    assert_eq!(counted.of(Verb::List, "configmaps"), 1);
    assert_eq!((counted.writes_to("configmaps"), counted.writes(), counted.total()), (4, 4, 5));
}

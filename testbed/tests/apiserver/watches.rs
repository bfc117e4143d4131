//! Watches, by kube's runtime and by hand.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher::{self, Event, InitialListStrategy},
};
use manx_testbed::apiserver::{ApiServer, WatchSettings};
use serde_json::json;

use super::subject::{DEADLINE, Subject, config_map, refused};

const STRATEGIES: [InitialListStrategy; 2] =
    [InitialListStrategy::ListWatch, InitialListStrategy::StreamingList];

fn config(strategy: &InitialListStrategy) -> watcher::Config {
    // The root certificates' own ConfigMap, which a real cluster puts into every namespace, is not looked at.
    watcher::Config { initial_list_strategy: strategy.clone(), ..watcher::Config::default().labels("app") }
}

/// What a watcher knows: as a reflector keeps it.
#[derive(Default)]
struct Known {
    objects: BTreeMap<String, String>,
    fresh: BTreeMap<String, String>,
    inits: usize,
    errors: Vec<String>,
}

impl Known {
    fn hear(&mut self, event: Result<Event<ConfigMap>, watcher::Error>) {
        let entry = |map: &ConfigMap| (map.name_any(), map.resource_version().unwrap_or_default());
        match event {
            Ok(Event::Init) => self.fresh.clear(),
            Ok(Event::InitApply(map)) => self.fresh.extend([entry(&map)]),
            Ok(Event::InitDone) => {
                self.objects = std::mem::take(&mut self.fresh);
                self.inits += 1;
            }
            Ok(Event::Apply(map)) => self.objects.extend([entry(&map)]),
            Ok(Event::Delete(map)) => drop(self.objects.remove(&map.name_any())),
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    /// Listens until it knows this.
    async fn until(
        &mut self,
        mut events: impl Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin,
        what: &str,
        known: impl Fn(&Self) -> bool,
    ) {
        let listen = async {
            while !known(self) {
                let event = events.next().await.expect("a watcher does not end");
                self.hear(event);
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, listen).await.is_ok();
        assert!(in_time, "{what}: {:?}, errors {:?}", self.objects, self.errors);
    }

    fn has(&self, names: &[&str]) -> bool {
        self.inits > 0 && self.objects.keys().map(String::as_str).eq(names.iter().copied())
    }
}

#[tokio::test]
async fn both_strategies_see_what_is_and_what_happens() {
    for (subject, strategy) in
        Subject::all().await.iter().flat_map(|s| STRATEGIES.iter().map(move |i| (s, i)))
    {
        let api: Api<ConfigMap> = subject.api();
        api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("empty");
        api.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
        let mut events = pin!(watcher::watcher(api.clone(), config(strategy)));
        let mut known = Known::default();
        known.until(&mut events, "the first", |known| known.has(&["a"])).await;
        api.create(&PostParams::default(), &config_map("b", json!({}))).await.expect("created");
        let patch = Patch::Merge(json!({"data": {"x": "y"}}));
        let patched = api.patch("a", &PatchParams::default(), &patch).await.expect("patched");
        let version = patched.resource_version().expect("a version");
        known.until(&mut events, "both", |k| k.has(&["a", "b"]) && k.objects["a"] == version).await;
        api.delete("a", &DeleteParams::default()).await.expect("deleted");
        known.until(&mut events, "the second", |known| known.has(&["b"])).await;
        assert_eq!((known.inits, known.errors.len()), (1, 0));
    }
}

#[tokio::test]
async fn a_watcher_goes_on_where_it_was_cut_off() {
    for strategy in &STRATEGIES {
        for subject in
            [Subject::in_process(ApiServer::new()).await, Subject::over_tcp(ApiServer::new()).await]
        {
            let server = subject.small.as_ref().expect("a small server");
            let api: Api<ConfigMap> = subject.api();
            api.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
            let mut events = pin!(watcher::watcher(api.clone(), config(strategy)));
            let mut known = Known::default();
            known.until(&mut events, "the first", |known| known.has(&["a"])).await;
            // Once the connection breaks, once the watch ends as at its timeout.
            for (cut, name) in
                [(ApiServer::break_watches as fn(&ApiServer) -> usize, "b"), (ApiServer::end_watches, "c")]
            {
                // A change that is heard: the watch is open.
                let patch = Patch::Merge(json!({"data": {"before": name}}));
                let patched = api.patch("a", &PatchParams::default(), &patch).await.expect("patched");
                let version = patched.resource_version().expect("a version");
                known.until(&mut events, "the patch", |known| known.objects["a"] == version).await;
                assert!(cut(server) >= 1, "a watch was open");
                api.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
                known.until(&mut events, name, |known| known.objects.contains_key(name)).await;
            }
            assert_eq!(known.inits, 1, "nothing was listed again");
        }
    }
}

#[tokio::test]
async fn a_watcher_whose_past_is_gone_lists_again() {
    for subject in [Subject::in_process(ApiServer::new()).await, Subject::over_tcp(ApiServer::new()).await] {
        let server = subject.small.as_ref().expect("a small server");
        let api: Api<ConfigMap> = subject.api();
        for name in ["a", "b"] {
            api.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
        }
        let mut events = pin!(watcher::watcher(api.clone(), config(&InitialListStrategy::ListWatch)));
        let mut known = Known::default();
        known.until(&mut events, "the first", |known| known.has(&["a", "b"])).await;
        // The watcher starts its watch when it is polled again, from a revision that is forgotten by then.
        server.break_watches();
        api.delete("a", &DeleteParams::default()).await.expect("deleted");
        api.create(&PostParams::default(), &config_map("c", json!({}))).await.expect("created");
        server.compact();
        known.until(&mut events, "after the relist", |known| known.has(&["b", "c"])).await;
        assert_eq!(known.inits, 2);
        assert!(
            known.errors.iter().any(|error| error.contains("410") || error.contains("too old")),
            "{:?}",
            known.errors
        );
    }
}

#[tokio::test]
async fn what_is_compacted_is_410_in_a_watch_and_in_a_list() {
    let subject = Subject::in_process(ApiServer::new()).await;
    let server = subject.small.as_ref().expect("a small server");
    let api: Api<ConfigMap> = subject.api();
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &config_map(name, json!({}))).await.expect("created");
    }
    let page = api.list(&ListParams::default().limit(1)).await.expect("a page");
    api.create(&PostParams::default(), &config_map("d", json!({}))).await.expect("created");
    server.compact();
    let token = page.metadata.continue_.expect("more");
    let old = refused(api.list(&ListParams::default().limit(1).continue_token(&token)).await);
    assert_eq!((old.code, old.reason.as_str()), (410, "Expired"));
    let version = page.metadata.resource_version.expect("a version");
    let events: Vec<_> =
        api.watch(&WatchParams::default(), &version).await.expect("a stream").collect().await;
    let [Ok(WatchEvent::Error(status))] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn bookmarks_come_for_those_who_allow_them() {
    let settings = WatchSettings { bookmark_interval: Duration::from_millis(20), ..WatchSettings::default() };
    let subject = Subject::over_tcp(ApiServer::with(100, settings)).await;
    let api: Api<ConfigMap> = subject.api();
    let start =
        api.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let mut events = pin!(api.watch(&WatchParams::default(), &start).await.expect("a stream"));
    // A write elsewhere moves the revision, and is news to this watch by a bookmark alone.
    let elsewhere: Api<ConfigMap> = Api::namespaced(subject.client.clone(), "default");
    let other = elsewhere.create(&PostParams::default(), &config_map("x", json!({}))).await.expect("created");
    let version = other.resource_version().expect("a version");
    let bookmark = async {
        while let Some(event) = events.try_next().await.expect("an event") {
            let WatchEvent::Bookmark(bookmark) = event else { panic!("{event:?}") };
            if bookmark.metadata.resource_version == version {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(DEADLINE, bookmark).await.expect("a bookmark of that revision");
}

#[tokio::test]
async fn to_who_selects_a_change_can_be_an_arrival_or_a_departure() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let start = api
            .list(&ListParams::default())
            .await
            .expect("a list")
            .metadata
            .resource_version
            .expect("a version");
        let params = WatchParams::default().labels("on=yes").timeout(30);
        let mut events = pin!(api.watch(&params, &start).await.expect("a stream"));
        api.create(&PostParams::default(), &config_map("a", json!({}))).await.expect("created");
        for on in ["yes", "yes", "no"] {
            let patch =
                json!({"metadata": {"labels": {"on": on}}, "data": {"tick": uuid_like(on, &api).await}});
            api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");
        }
        api.delete("a", &DeleteParams::default()).await.expect("deleted");
        for wanted in ["ADDED", "MODIFIED", "DELETED"] {
            let event = tokio::time::timeout(DEADLINE, events.try_next()).await.expect("in time");
            let found = match event.expect("an event").expect("more") {
                WatchEvent::Added(_) => "ADDED",
                WatchEvent::Modified(_) => "MODIFIED",
                WatchEvent::Deleted(_) => "DELETED",
                other => panic!("{other:?}"),
            };
            assert_eq!(found, wanted);
        }
    }
}

/// Something that differs at each call: the object's version.
async fn uuid_like(on: &str, api: &Api<ConfigMap>) -> String {
    format!("{on}-{}", api.get("a").await.expect("there").resource_version().unwrap_or_default())
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout() {
    for subject in Subject::all().await {
        let api: Api<ConfigMap> = subject.api();
        let events = api.watch(&WatchParams::default().timeout(1), "0").await.expect("a stream");
        let all = tokio::time::timeout(DEADLINE, events.collect::<Vec<_>>()).await.expect("it ends");
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_listen_is_dropped_and_loses_nothing() {
    let settings = WatchSettings { queue: 4, ..WatchSettings::default() };
    let subject = Subject::in_process(ApiServer::with(1000, settings)).await;
    let server = subject.small.as_ref().expect("a small server");
    let api: Api<ConfigMap> = subject.api();
    let mut events = pin!(watcher::watcher(api.clone(), config(&InitialListStrategy::ListWatch)));
    let mut known = Known::default();
    known.until(&mut events, "nothing yet", |known| known.has(&[])).await;
    api.create(&PostParams::default(), &config_map("n", json!({}))).await.expect("created");
    known.until(&mut events, "its watch is open", |known| known.has(&["n"])).await;
    assert_eq!(server.open_watches(), 1);
    for n in 0..50 {
        api.create(&PostParams::default(), &config_map(&format!("n{n}"), json!({}))).await.expect("created");
    }
    assert_eq!(server.open_watches(), 0, "it lagged more than four changes behind");
    known.until(&mut events, "all", |known| known.objects.len() == 51).await;
    assert_eq!(known.inits, 1, "nothing was listed again");
}

//! Watches: the past from the log, the present from the store, the future through a bounded channel.
//!
//! A watcher is registered under the same lock that orders the writes, so nothing is lost or told twice between
//! its start and its first change. One that does not keep up is dropped and begins again where it was.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use super::{
    convert,
    error::{ApiError, Cause},
    read,
    request::{Query, View},
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    state::State,
    store::{Action, Change, Kind, StoreError},
    table::{self, Heading},
};

/// How long a watch lasts that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The watchers of one server.
#[derive(Default)]
pub(super) struct Watchers(Vec<Watcher>);

struct Watcher {
    kind: Kind,
    changes: mpsc::Sender<Arc<Change>>,
    broken: Arc<AtomicBool>,
}

impl Watchers {
    /// Hands a change to everyone who follows its kind.
    pub(super) fn publish(&mut self, change: &Arc<Change>) {
        self.0.retain(|watcher| {
            if watcher.kind != change.kind {
                return !watcher.changes.is_closed();
            }
            match watcher.changes.try_send(change.clone()) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    tracing::info!(kind = %watcher.kind, "a watcher is too slow and must start again");
                    false
                }
            }
        });
    }

    /// Ends the watches of one kind.
    pub(super) fn end(&mut self, kind: &Kind) {
        self.0.retain(|watcher| watcher.kind != *kind);
    }

    /// Ends every watch as at its timeout; gives how many there were.
    pub(super) fn end_all(&mut self) -> usize {
        let open = self.open();
        self.0.clear();
        open
    }

    /// Ends every watch in the middle, as a lost connection does.
    pub(super) fn break_all(&mut self) -> usize {
        self.0.iter().for_each(|watcher| watcher.broken.store(true, Ordering::Release));
        self.end_all()
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.0.iter().filter(|watcher| !watcher.changes.is_closed()).count()
    }
}

/// How the server treats its watchers.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
    /// Changes a watcher may lag behind before it is dropped.
    pub queue: usize,
    /// Time between bookmarks for those who allow them.
    pub bookmark_interval: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self { queue: 4096, bookmark_interval: Duration::from_secs(60) }
    }
}

/// One open watch.
pub(super) struct Watch {
    state: Arc<Mutex<State>>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
    view: View,
    heading: Heading,
    ready: VecDeque<Bytes>,
    changes: mpsc::Receiver<Arc<Change>>,
    broken: Arc<AtomicBool>,
    bookmarks: Option<Duration>,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
}

/// A watch was cut off.
#[derive(Debug, thiserror::Error)]
#[error("the connection was broken on purpose")]
pub struct Broken;

impl Watch {
    /// Starts a watch as the query asks.
    pub(super) fn open(
        shared: &Arc<Mutex<State>>,
        resource: Arc<Resource>,
        namespace: Option<&str>,
        query: &Query,
        view: View,
        settings: WatchSettings,
    ) -> Result<Self, ApiError> {
        let (labels, fields) = read::selectors(query, &resource)?;
        let initial = query.get("sendInitialEvents").map(|value| value == "true");
        check_initial(initial, query)?;
        let timeout = query.number("timeoutSeconds")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let since = query.number("resourceVersion")?.filter(|revision| *revision > 0);
        let bookmarks = query.flag("allowWatchBookmarks").then_some(settings.bookmark_interval);

        let now = Instant::now();
        let (sender, changes) = mpsc::channel(settings.queue);
        let broken = Arc::new(AtomicBool::new(false));
        let kind = resource.store_kind();
        let mut watch = Self {
            state: shared.clone(),
            resource,
            namespace: namespace.map(str::to_owned),
            labels,
            fields,
            view,
            heading: Heading::With,
            ready: VecDeque::new(),
            changes,
            broken: broken.clone(),
            bookmarks,
            next_bookmark: now + settings.bookmark_interval,
            deadline: now + timeout,
            ended: false,
        };
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        watch.begin(&state, &kind, since, initial);
        if !watch.ended {
            state.watchers.0.push(Watcher { kind, changes: sender, broken });
        }
        drop(state);
        Ok(watch)
    }

    /// Queues what comes before the first new change.
    fn begin(&mut self, state: &State, kind: &Kind, since: Option<u64>, initial: Option<bool>) {
        let present = initial.unwrap_or(since.is_none());
        match since.filter(|_| !present).map(|revision| state.store.changes_since(kind, revision)) {
            Some(Ok(past)) => past.iter().for_each(|change| self.tell(change)),
            Some(Err(error)) => {
                self.ready.push_back(line("ERROR", &gone(error).status()));
                self.ended = true;
            }
            None if present => {
                let namespace = self.namespace.clone();
                for (_, object) in state.store.list(kind, namespace.as_deref()) {
                    if self.selects(object) {
                        self.push("ADDED", object);
                    }
                }
            }
            None => {}
        }
        if initial == Some(true) && self.bookmarks.is_some() {
            let mut bookmark = self.bookmark(state.store.revision());
            bookmark["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
            self.ready.push_back(line("BOOKMARK", &bookmark));
        }
    }

    /// The next line, or the end of the watch.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.ended {
                return None;
            }
            let wake = self.bookmarks.map_or(self.deadline, |_| self.deadline.min(self.next_bookmark));
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => self.tell(&change),
                    None => {
                        self.ended = true;
                        if self.broken.load(Ordering::Acquire) {
                            return Some(Err(Broken));
                        }
                    }
                },
                () = tokio::time::sleep_until(wake) => self.wake(),
            }
        }
    }

    /// A bookmark is due, or the end is.
    fn wake(&mut self) {
        if let Some(interval) = self.bookmarks {
            let revision = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.store.revision()
            };
            // Everything up to that revision is in the channel by now, and must come first.
            while let Ok(change) = self.changes.try_recv() {
                self.tell(&change);
            }
            let bookmark = self.bookmark(revision);
            self.ready.push_back(line("BOOKMARK", &bookmark));
            self.next_bookmark = Instant::now() + interval;
        }
        self.ended = Instant::now() >= self.deadline;
    }

    /// Queues what a change is to this watcher: to one that selects, a change can be an arrival or a departure.
    fn tell(&mut self, change: &Change) {
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != change.key.namespace) {
            return;
        }
        let before = change.previous.as_ref().filter(|previous| self.selects(previous)).cloned();
        let after = (change.action != Action::Deleted).then_some(&change.object);
        let after = after.filter(|object| self.selects(object));
        match (before, after) {
            (None, Some(object)) => self.push("ADDED", object),
            (Some(_), Some(object)) => self.push("MODIFIED", object),
            (Some(_), None) if change.action == Action::Deleted => self.push("DELETED", &change.object),
            (Some(before), None) => {
                let mut last = (*before).clone();
                last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                self.push("DELETED", &Arc::new(last));
            }
            (None, None) => {}
        }
    }

    fn selects(&self, object: &Arc<Value>) -> bool {
        let object = convert::to_version(object, &self.resource);
        self.labels.matches(&object) && self.fields.matches(&object)
    }

    fn push(&mut self, event: &str, object: &Arc<Value>) {
        let object = convert::to_version(object, &self.resource);
        let line = match self.view {
            View::Object => line(event, &object),
            View::Partial => line(event, &table::partial(&object)),
            View::Table(include) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let row = std::iter::once(&*object);
                let heading = std::mem::replace(&mut self.heading, Heading::Without);
                line(event, &table::render(&self.resource.columns, row, metadata, include, heading))
            }
        };
        self.ready.push_back(line);
    }

    fn bookmark(&self, revision: u64) -> Value {
        let metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        match self.view {
            View::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            _ => json!({
                "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
            }),
        }
    }
}

fn check_initial(initial: Option<bool>, query: &Query) -> Result<(), ApiError> {
    let matching = query.get("resourceVersionMatch");
    let why = match (initial, matching) {
        (None, Some(_)) => "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        (Some(_), None) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid_options("ListOptions", &Cause::forbidden("resourceVersionMatch", why)))
}

fn gone(error: StoreError) -> ApiError {
    ApiError::expired(error.to_string())
}

fn line(event: &str, object: &Value) -> Bytes {
    let mut line = format!(r#"{{"type":"{event}","object":{object}}}"#);
    line.push('\n');
    line.into()
}

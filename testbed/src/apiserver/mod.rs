//! A small Kubernetes API server: in memory, in process or on a socket, with faults on demand.
//!
//! ```text
//!   kube::Client ──in process──┐
//!   kubectl, kube ──TCP─ serve ┴▶ service ─▶ write, delete, read ─▶ state ─┬▶ store    objects and their log
//!                                   │ watch ◀──────── bounded channel ─────┤  registry resources, from crd and builtin
//!                                   └ discovery, openapi, table            └▶ watchers
//! ```
//!
//! It is right in what it does and honest about what it does not; `testbed/README.md` says both. Requests go through
//! one lock and change one log, so their order is the order of revisions.

mod access;
mod admission;
mod base64;
mod builtin;
mod convert;
mod crd;
mod delete;
mod discovery;
pub mod error;
mod faults;
mod openapi;
mod patch;
mod protobuf;
mod random;
mod read;
pub mod real;
mod request;
mod requests;
mod resource;
mod schema;
mod selector;
mod serve;
mod service;
mod start;
mod state;
pub mod store;
mod table;
mod tls;
mod watch;
mod write;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

pub use access::Call;
pub use faults::{Faults, Outage};
pub use real::certificates::ClientCertificate;
pub use request::Verb;
pub use requests::Requests;
pub use serve::{kubeconfig, serve};
pub use service::Answer;
pub use start::{Running, StartError};
pub use tls::{Authority, Https};
pub use watch::{Broken, WatchSettings};

use error::ApiError;
use request::Query;
use requests::{Calls, Counter};
use state::State;
use write::Write;

/// How many changes the log keeps unless told.
const HISTORY: usize = 10_000;

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<Mutex<State>>,
    faults: Faults,
    requests: Counter,
    calls: Calls,
    watches: WatchSettings,
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("revision", &self.state().store.revision()).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A server with the namespaces every cluster has, and nothing else.
    pub fn new() -> Self {
        Self::with(HISTORY, WatchSettings::default())
    }

    /// A server whose log keeps `history` changes, at least one, and that treats its watchers so.
    pub fn with(history: usize, watches: WatchSettings) -> Self {
        let state = Arc::new(Mutex::new(State::new(history.max(1))));
        let inner = Inner {
            state,
            faults: Faults::default(),
            requests: Counter::default(),
            calls: Calls::default(),
            watches,
        };
        let server = Self { inner: Arc::new(inner) };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            if let Err(error) = server.put(namespace) {
                tracing::error!(name, %error, "a namespace could not be made");
            }
        }
        server
    }

    /// A client that talks to this server without a socket.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// What can go wrong.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// The requests for objects so far, refused ones too.
    pub fn requests(&self) -> Requests {
        self.inner.requests.read()
    }

    /// Answers nothing, and cuts every watch, until [`Faults::end_outage`]. Gives how many watches were cut.
    pub fn begin_outage(&self) -> usize {
        self.inner.faults.begin_outage();
        self.state().watchers.break_all()
    }

    /// Ends every watch as at its timeout. Gives how many there were.
    pub fn end_watches(&self) -> usize {
        self.state().watchers.end_all()
    }

    /// Cuts every watch in the middle, as a lost connection does. Gives how many there were.
    pub fn break_watches(&self) -> usize {
        self.state().watchers.break_all()
    }

    /// Watches that are open.
    pub fn open_watches(&self) -> usize {
        self.state().watchers.open()
    }

    /// Forgets all history: who asks for the past is told 410 Gone.
    pub fn compact(&self) {
        let mut state = self.state();
        let revision = state.store.revision();
        state.store.compact(revision);
    }

    /// Creates an object without a request: what a test's cluster starts with, CustomResourceDefinitions too.
    ///
    /// # Errors
    /// What a request would be answered with.
    pub fn put(&self, object: Value) -> Result<Value, ApiError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let mut state = self.state();
        let served =
            state.registry.iter().find(|r| r.kind == kind && r.api_version() == api_version).cloned();
        let resource = served.ok_or_else(ApiError::unknown_path)?;
        let namespace = match text(&object["metadata"]["namespace"]) {
            named if !named.is_empty() => named,
            _ => "default".to_owned(),
        };
        let query = Query::default();
        let manager = "manx-testbed".to_owned();
        let now = service::now();
        let write = Write {
            resource: &resource,
            namespace: &namespace,
            query: &query,
            manager,
            on_status: false,
            now,
        };
        write.create(&mut state, object).map(|written| (*written.object).clone())
    }
}

//! Deletion: preconditions, finalizers, the grace of pods, the content of namespaces.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    convert,
    error::ApiError,
    request::Query,
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    state::State,
    store::{Key, Kind},
    write::Write,
};

/// The seconds a pod on a node is given to end.
const DEFAULT_GRACE: i64 = 30;

/// `DeleteOptions`, from the body and the query. The propagation policy is not looked at: nothing here collects
/// garbage, as nothing does beside a bare API server.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    uid: Option<String>,
    resource_version: Option<String>,
    grace: Option<i64>,
    dry_run: bool,
}

impl Options {
    pub(super) fn read(body: &Value, query: &Query) -> Result<Self, ApiError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = query.number("gracePeriodSeconds")?.and_then(|n| i64::try_from(n).ok());
        Ok(Self {
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            grace: body["gracePeriodSeconds"].as_i64().or(grace),
            dry_run: query.get("dryRun").is_some()
                || body["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
        })
    }
}

/// What became of an object that was to be deleted.
pub(super) enum Deleted {
    /// It is gone.
    Gone(Arc<Value>),
    /// It waits for its finalizers, its grace period or its content.
    Waits(Arc<Value>),
}

impl Deleted {
    pub(super) fn object(&self) -> &Arc<Value> {
        match self {
            Self::Gone(object) | Self::Waits(object) => object,
        }
    }
}

impl Write<'_> {
    pub(super) fn delete(
        &self,
        state: &mut State,
        name: &str,
        options: &Options,
    ) -> Result<Deleted, ApiError> {
        let object = self.current(state, name)?;
        self.check_delete(name, &object, options)?;
        if options.dry_run {
            return Ok(Deleted::Gone(Arc::new(object)));
        }
        if self.resource.is_core("namespaces") {
            return Ok(self.delete_namespace(state, name, object));
        }
        let key = Key::new(self.key_namespace(), name);
        self.delete_object(state, &key, object, options.grace)
            .ok_or_else(|| ApiError::not_found(self.resource, name))
    }

    /// Deletes everything that the selectors match; gives what was there.
    pub(super) fn delete_collection(
        &self,
        state: &mut State,
        selectors: &(LabelSelector, FieldSelector),
        options: &Options,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let namespace = self.resource.namespaced.then_some(self.namespace).filter(|n| !n.is_empty());
        let listed = state.store.list(&self.resource.store_kind(), namespace);
        let keys: Vec<_> = listed
            .filter(|(_, object)| {
                let object = convert::to_version(object, self.resource);
                selectors.0.matches(&object) && selectors.1.matches(&object)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut deleted = Vec::new();
        for key in keys {
            let one = Write { namespace: &key.namespace, manager: self.manager.clone(), ..*self };
            match one.delete(state, &key.name, options) {
                Ok(gone) => deleted.push(gone.object().clone()),
                // Gone with another of the collection.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    fn check_delete(&self, name: &str, object: &Value, options: &Options) -> Result<(), ApiError> {
        let checks =
            [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.resource_version)];
        for (word, field, wanted) in checks {
            let found = object["metadata"][field].as_str().unwrap_or_default();
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {found}"
                );
                return Err(ApiError::conflict(self.resource, name, &why));
            }
        }
        Ok(())
    }

    fn delete_object(
        &self,
        state: &mut State,
        key: &Key,
        object: Value,
        grace: Option<i64>,
    ) -> Option<Deleted> {
        let kind = self.resource.store_kind();
        let grace = if self.resource.is_core("pods") { pod_grace(&object, grace) } else { 0 };
        let waits = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if grace == 0 && !waits {
            return state.remove(&kind, key).ok().map(Deleted::Gone);
        }
        let marked = !object["metadata"]["deletionTimestamp"].is_null();
        let shorter =
            object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some_and(|old| grace < old);
        if marked && !shorter {
            return Some(Deleted::Waits(Arc::new(object)));
        }
        let object = self.marked(object, grace);
        self.store_marked(state, &kind, key, object)
    }

    fn store_marked(&self, state: &mut State, kind: &Kind, key: &Key, mut object: Value) -> Option<Deleted> {
        if let Some(stored) = state.registry.stored_as(kind) {
            convert::in_place(&mut object, stored);
        }
        state.replace(kind, key, object).ok().map(Deleted::Waits)
    }

    fn marked(&self, mut object: Value, grace: i64) -> Value {
        let at = jiff::Timestamp::from_second(self.now.as_second().saturating_add(grace)).unwrap_or(self.now);
        let metadata = &mut object["metadata"];
        metadata["deletionTimestamp"] = at.to_string().into();
        metadata["deletionGracePeriodSeconds"] = grace.into();
        metadata["generation"] = (metadata["generation"].as_i64().unwrap_or(0) + 1).into();
        object
    }

    /// What the namespace controller does, at once: everything in it is deleted, and it when that has gone.
    fn delete_namespace(&self, state: &mut State, name: &str, object: Value) -> Deleted {
        let (kind, key) = (self.resource.store_kind(), Key::new("", name));
        let before = Arc::new(object.clone());
        if object["metadata"]["deletionTimestamp"].is_null() {
            let mut object = self.marked(object, 0);
            object["status"]["phase"] = json!("Terminating");
            object["spec"] = json!({});
            let _ = self.store_marked(state, &kind, &key, object);
        }
        for kind in state.store.kinds_in(name) {
            let Some(resource) = state.registry.stored_as(&kind).cloned() else { continue };
            let content =
                Write { resource: &resource, namespace: name, manager: self.manager.clone(), ..*self };
            let keys: Vec<_> = state.store.list(&kind, Some(name)).map(|(key, _)| key.clone()).collect();
            for key in keys {
                if let Some(object) = state.store.get(&kind, &key).map(|object| (**object).clone()) {
                    content.delete_object(state, &key, object, None);
                }
            }
        }
        let left = state.store.get(&kind, &key).cloned();
        state.finish_namespace(name);
        match (left, state.store.get(&kind, &key)) {
            (_, Some(waiting)) => Deleted::Waits(waiting.clone()),
            // The last of its content may have taken it along.
            (last, None) => Deleted::Gone(last.unwrap_or(before)),
        }
    }
}

/// A pod on a node ends when its kubelet says so (a deletion with a grace of 0), any other at once.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let runs = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
        && !["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == **phase);
    let own = || pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    if runs { asked.or_else(own).unwrap_or(DEFAULT_GRACE).max(0) } else { 0 }
}

/// The `Status` that says an object is gone.
pub(super) fn success(resource: &Resource, object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": metadata["name"], "group": resource.group, "kind": resource.plural, "uid": metadata["uid"],
        },
    })
}

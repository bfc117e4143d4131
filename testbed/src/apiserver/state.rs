//! Everything behind the server's one lock: objects, resources, watchers. A write to it is a write to the log, and
//! goes to the watchers in the same order.

use std::sync::Arc;

use serde_json::Value;

use super::{
    builtin, crd,
    random::Random,
    resource::{Registry, Resource},
    store::{Change, Key, Kind, Store, StoreError},
    watch::Watchers,
};

pub(super) struct State {
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) watchers: Watchers,
    pub(super) random: Random,
}

impl State {
    pub(super) fn new(history: usize) -> Self {
        Self {
            store: Store::new(history),
            registry: builtin::registry(),
            watchers: Watchers::default(),
            random: Random::from_system(),
        }
    }

    pub(super) fn create(&mut self, kind: &Kind, key: Key, object: Value) -> Result<Arc<Value>, StoreError> {
        let change = self.store.create(kind, key, object)?;
        self.publish(&change);
        self.serve_definition(&change);
        Ok(change.object.clone())
    }

    pub(super) fn replace(
        &mut self,
        kind: &Kind,
        key: &Key,
        object: Value,
    ) -> Result<Arc<Value>, StoreError> {
        let change = self.store.replace(kind, key, object)?;
        self.publish(&change);
        self.serve_definition(&change);
        Ok(change.object.clone())
    }

    /// Removes an object, and the namespace it was the last in, where that is waiting for it.
    pub(super) fn remove(&mut self, kind: &Kind, key: &Key) -> Result<Arc<Value>, StoreError> {
        let change = self.store.delete(kind, key)?;
        self.publish(&change);
        if is_definition(kind) {
            self.forget_definition(&change.object);
        }
        if !key.namespace.is_empty() {
            self.finish_namespace(&key.namespace);
        }
        Ok(change.object.clone())
    }

    /// Removes a namespace that is being deleted once nothing is in it.
    pub(super) fn finish_namespace(&mut self, name: &str) {
        let (kind, key) = (Kind::new("", "namespaces"), Key::new("", name));
        let Some(namespace) = self.store.get(&kind, &key) else { return };
        let metadata = &namespace["metadata"];
        let waits = metadata["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if metadata["deletionTimestamp"].is_null() || waits || !self.store.kinds_in(name).is_empty() {
            return;
        }
        if let Ok(change) = self.store.delete(&kind, &key) {
            self.publish(&change);
        }
    }

    fn publish(&mut self, change: &Arc<Change>) {
        self.watchers.publish(change);
    }

    /// Serves what a new or changed CustomResourceDefinition defines. It was checked before it was stored.
    fn serve_definition(&mut self, change: &Change) {
        if !is_definition(&change.kind) {
            return;
        }
        let Ok(resources) = crd::resources(&change.object) else { return };
        if let Some(first) = resources.first() {
            self.registry.remove(&first.group, &first.plural);
        }
        resources.into_iter().for_each(|resource: Resource| self.registry.insert(resource));
    }

    /// Stops serving a kind: its objects go, its watches end.
    fn forget_definition(&mut self, definition: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) =
            (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["plural"]));
        let kind = Kind::new(&group, &plural);
        let keys: Vec<_> = self.store.list(&kind, None).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Ok(change) = self.store.delete(&kind, &key) {
                self.publish(&change);
            }
        }
        self.registry.remove(&group, &plural);
        self.watchers.end(&kind);
    }
}

pub(super) fn is_definition(kind: &Kind) -> bool {
    *kind == Kind::new("apiextensions.k8s.io", "customresourcedefinitions")
}

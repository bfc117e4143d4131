//! The objects, and the log of what happened to them: pure, in memory, no clock and no async.
//!
//! Every write takes the next revision, as etcd gives them, and the revision becomes the object's
//! `resourceVersion`. The log keeps the last changes, each with what was there before, so that a
//! watch can start in the past and a paged list can be read as it was at its first page. What falls
//! out of the log is compacted: asking for it is answered with 410 Gone.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use serde_json::Value;

/// A kind of object in the store: `plural.group`, one for all versions of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(Arc<str>);

impl Kind {
    /// The kind of these objects; the core group is the empty string.
    pub fn new(group: &str, plural: &str) -> Self {
        Self(if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an object lives within its kind. Ordered as Kubernetes lists: by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    /// Unique within kind and namespace.
    pub name: String,
}

impl Key {
    /// A key; the namespace is empty for objects of the whole cluster.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The object is new.
    Added,
    /// It was replaced.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its place in the order of all writes.
    pub revision: u64,
    /// Of what kind.
    pub kind: Kind,
    /// Which object.
    pub key: Key,
    /// What happened.
    pub action: Action,
    /// The object after the change; after a deletion its last state, with the deletion's revision.
    pub object: Arc<Value>,
    /// The object before the change.
    pub previous: Option<Arc<Value>>,
}

/// Why the store cannot do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The key is taken.
    #[error("an object of that name exists")]
    Exists,
    /// Nothing has that key.
    #[error("no object has that name")]
    Missing,
    /// The log no longer reaches back that far.
    #[error("too old resource version: {asked} ({oldest})")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest one that can be asked for.
        oldest: u64,
    },
    /// The revision has not happened: the client speaks of another server, or of an earlier life of this one.
    #[error("resource version {asked} is from the future, the newest is {current}")]
    Future {
        /// The revision asked for.
        asked: u64,
        /// The newest one.
        current: u64,
    },
}

/// All objects of one server.
#[derive(Debug)]
pub struct Store {
    revision: u64,
    compacted: u64,
    objects: BTreeMap<Kind, BTreeMap<Key, Arc<Value>>>,
    log: VecDeque<Arc<Change>>,
    history: usize,
}

impl Store {
    /// An empty store whose log holds up to `history` changes.
    pub fn new(history: usize) -> Self {
        Self { revision: 1, compacted: 1, objects: BTreeMap::new(), log: VecDeque::new(), history }
    }

    /// The revision of the newest write.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, kind: &Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(kind)?.get(key)
    }

    /// The objects of a kind, in one namespace or in all, in order of their keys.
    pub fn list<'a>(
        &'a self,
        kind: &Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> + use<'a> {
        let start = Key::new(namespace.unwrap_or_default(), "");
        self.objects
            .get(kind)
            .into_iter()
            .flat_map(move |objects| objects.range(start.clone()..))
            .take_while(move |(key, _)| namespace.is_none_or(|n| key.namespace == n))
    }

    /// The kinds that have objects in this namespace.
    pub fn kinds_in(&self, namespace: &str) -> Vec<Kind> {
        let occupied = |kind: &&Kind| self.list(kind, Some(namespace)).next().is_some();
        self.objects.keys().filter(occupied).cloned().collect()
    }

    /// Adds an object.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the key is taken.
    pub fn create(&mut self, kind: &Kind, key: Key, object: Value) -> Result<Arc<Change>, StoreError> {
        if self.get(kind, &key).is_some() {
            return Err(StoreError::Exists);
        }
        let object = self.stamp(object);
        self.objects.entry(kind.clone()).or_default().insert(key.clone(), object.clone());
        Ok(self.record(kind, key, Action::Added, object, None))
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none.
    pub fn replace(&mut self, kind: &Kind, key: &Key, object: Value) -> Result<Arc<Change>, StoreError> {
        let previous = self.get(kind, key).cloned().ok_or(StoreError::Missing)?;
        let object = self.stamp(object);
        self.objects.entry(kind.clone()).or_default().insert(key.clone(), object.clone());
        Ok(self.record(kind, key.clone(), Action::Modified, object, Some(previous)))
    }

    /// Removes an object.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none.
    pub fn delete(&mut self, kind: &Kind, key: &Key) -> Result<Arc<Change>, StoreError> {
        let removed = self.objects.get_mut(kind).and_then(|objects| objects.remove(key));
        let previous = removed.ok_or(StoreError::Missing)?;
        let object = self.stamp((*previous).clone());
        Ok(self.record(kind, key.clone(), Action::Deleted, object, Some(previous)))
    }

    /// The changes of a kind after `revision`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] when the log does not reach there.
    pub fn changes_since(&self, kind: &Kind, revision: u64) -> Result<Vec<Arc<Change>>, StoreError> {
        Ok(self.log_after(revision)?.filter(|change| change.kind == *kind).cloned().collect())
    }

    /// The objects of a kind as they were at `revision`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] when the log does not reach there.
    pub fn at(&self, kind: &Kind, revision: u64) -> Result<BTreeMap<Key, Arc<Value>>, StoreError> {
        let undo: Vec<_> = self.log_after(revision)?.filter(|change| change.kind == *kind).collect();
        let mut objects = self.objects.get(kind).cloned().unwrap_or_default();
        for change in undo.into_iter().rev() {
            match &change.previous {
                Some(previous) => objects.insert(change.key.clone(), previous.clone()),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    /// Forgets the log up to and including `revision`, or all of it where that is newer than the newest.
    pub fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.revision);
        while self.log.front().is_some_and(|change| change.revision <= revision) {
            self.log.pop_front();
        }
        self.compacted = self.compacted.max(revision);
    }

    fn log_after(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Change>>, StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        let first = self.log.partition_point(|change| change.revision <= revision);
        Ok(self.log.range(first..))
    }

    /// Takes the next revision and writes it into the object.
    fn stamp(&mut self, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        Arc::new(object)
    }

    fn record(
        &mut self,
        kind: &Kind,
        key: Key,
        action: Action,
        object: Arc<Value>,
        previous: Option<Arc<Value>>,
    ) -> Arc<Change> {
        let change = Change { revision: self.revision, kind: kind.clone(), key, action, object, previous };
        let change = Arc::new(change);
        self.log.push_back(change.clone());
        while self.log.len() > self.history {
            if let Some(forgotten) = self.log.pop_front() {
                self.compacted = forgotten.revision;
            }
        }
        change
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

//! What can be asked for: every served resource, and the registry of them.

use std::{collections::BTreeMap, sync::Arc};

use super::{schema::Schema, store::Kind, table::Columns};

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version, as `v1`.
    pub version: String,
    /// Kind, as `Pod`.
    pub kind: String,
    /// Kind of its lists, as `PodList`.
    pub list_kind: String,
    /// Name in paths, as `pods`.
    pub plural: String,
    /// Name `kubectl` also takes, as `pod`.
    pub singular: String,
    /// Short names, as `po`.
    pub short_names: Vec<String>,
    /// Groups of resources `kubectl get` takes, as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is written on its own path only.
    pub has_status: bool,
    /// Built in, or from a CustomResourceDefinition.
    pub origin: Origin,
    /// The structural schema.
    pub schema: Arc<Schema>,
    /// What `kubectl get` prints.
    pub columns: Columns,
    /// Fields a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<String>,
}

/// Where a resource comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Builtin,
    /// Registered by a CustomResourceDefinition.
    Custom {
        /// Whether objects are kept in this version.
        storage: bool,
    },
}

impl Resource {
    /// `v1`, or `manx.io/v1alpha1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods`, or `ippools.manx.io`: what messages call it.
    pub fn qualified(&self) -> String {
        self.store_kind().to_string()
    }

    /// Where its objects are kept. Both kinds of Event are one set of objects.
    pub fn store_kind(&self) -> Kind {
        match (self.group.as_str(), self.plural.as_str()) {
            ("events.k8s.io", "events") => Kind::new("", "events"),
            (group, plural) => Kind::new(group, plural),
        }
    }

    /// Whether a CustomResourceDefinition made it.
    pub fn is_custom(&self) -> bool {
        self.origin != Origin::Builtin
    }

    /// Whether this is that builtin of the core group.
    pub fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }
}

/// Every resource served now.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// Serves a resource, in place of one with the same group, version and name.
    pub fn insert(&mut self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.insert(key, Arc::new(resource));
    }

    /// Serves no version of it any more.
    pub fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|(g, _, p), _| g != group || p != plural);
    }

    /// The resource at a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// All of them, by group, version and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The version objects of a kind are kept in.
    pub fn stored_as(&self, kind: &Kind) -> Option<&Arc<Resource>> {
        let kept = |resource: &&Arc<Resource>| {
            resource.store_kind() == *kind && resource.origin != Origin::Custom { storage: false }
        };
        // Core Events come before those of events.k8s.io in the order of groups.
        self.iter().find(kept)
    }

    /// Groups in order, each with its versions, the preferred first: `v1` before `v1beta1` before `v1alpha1`.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, version, _) in self.resources.keys() {
            let versions = groups.entry(group).or_default();
            if !versions.contains(&version.as_str()) {
                versions.push(version);
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups
    }
}

/// Kubernetes' version priority: stable over beta over alpha over anything else, then the higher number.
fn priority(version: &str) -> (u8, u64, u64) {
    fn number(text: &str) -> Option<u64> {
        text.parse().ok()
    }
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return number(major).zip(number(minor)).map_or((0, 0, 0), |(a, b)| (stage, a, b));
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_are_preferred() {
        let mut versions = ["v1alpha1", "v2", "v1", "v1beta2", "foo", "v10", "v1beta10"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}

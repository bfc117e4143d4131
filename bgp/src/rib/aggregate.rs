//! Aggregates: routes that begin here for as long as there is one more specific (RFC 4271, section 9.2.2.2).

use super::net::Net;
use super::originate::Told;
use super::path::{Path, PathKey};
use super::peers::Peers;
use crate::types::Prefix;
use crate::wire::{Attributes, Origin};

/// The path by which one is originated: a network of the same prefix would have its own.
pub(super) const KEY: PathKey = PathKey { source: None, path_id: PATH_ID };
pub(super) const PATH_ID: u32 = 1;

/// What is wanted of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) suppress: bool,
    pub(super) told: Told,
}

#[derive(Debug)]
pub(super) struct Aggregate<K> {
    pub(super) key: K,
    pub(super) wanted: Wanted,
    /// Best paths to what is in it.
    count: usize,
    /// Of those, the ones with an AS path, which it hides.
    with_path: usize,
    /// Of those, the ones of each ORIGIN.
    origins: [usize; 3],
    /// As it is originated.
    told: Option<Form>,
}

/// What the best paths in it make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    atomic: bool,
    origin: Origin,
}

impl<K: Net> Aggregate<K> {
    pub(super) fn new(key: K, wanted: Wanted) -> Self {
        Self { key, wanted, count: 0, with_path: 0, origins: [0; 3], told: None }
    }

    /// Whether `prefix` is in it, and more specific.
    pub(super) fn hides(&self, prefix: Prefix) -> bool {
        let own = self.key.prefix();
        own.length() < prefix.length() && own.covers(prefix)
    }

    /// A best path in it comes.
    pub(super) fn add(&mut self, path: &Path) {
        self.count += 1;
        self.with_path += usize::from(!path.attributes.as_path.0.is_empty());
        self.origins[path.attributes.origin as usize] += 1;
    }

    /// A best path in it goes.
    pub(super) fn take(&mut self, path: &Path) {
        self.count -= 1;
        self.with_path -= usize::from(!path.attributes.as_path.0.is_empty());
        self.origins[path.attributes.origin as usize] -= 1;
    }

    /// What is to be originated, where that is not what is; none inside: nothing.
    pub(super) fn news(&mut self) -> Option<Option<Form>> {
        let worst = [Origin::Incomplete, Origin::Egp, Origin::Igp];
        let origin = worst.into_iter().find(|origin| self.origins[*origin as usize] > 0);
        let now = origin.map(|origin| Form { atomic: self.with_path > 0, origin });
        (std::mem::replace(&mut self.told, now) != now).then_some(now)
    }

    pub(super) fn is_originated(&self) -> bool {
        self.told.is_some()
    }

    /// RFC 4271, sections 5.1.6 and 5.1.7.
    pub(super) fn attributes(&self, form: Form, peers: &Peers) -> Attributes {
        Attributes {
            origin: form.origin,
            atomic_aggregate: form.atomic,
            aggregator: Some((peers.asn, peers.router_id.0)),
            ..self.wanted.told.attributes()
        }
    }
}

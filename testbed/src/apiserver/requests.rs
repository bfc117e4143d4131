//! Counts of requests, for tests that say how many there may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::{access::Call, request::Verb};

/// How many requests there were, by verb and resource (`pods`, `ippools.manx.io/status`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<(Verb, String), u64>);

impl Requests {
    /// Of one verb on one resource.
    pub fn of(&self, verb: Verb, resource: &str) -> u64 {
        self.0.get(&(verb, resource.to_owned())).copied().unwrap_or(0)
    }

    /// That change objects, on one resource.
    pub fn writes_to(&self, resource: &str) -> u64 {
        self.sum(|verb, of| verb.is_write() && of == resource)
    }

    /// That change objects, on all resources.
    pub fn writes(&self) -> u64 {
        self.sum(|verb, _| verb.is_write())
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.sum(|_, _| true)
    }

    /// Those since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |(verb, resource): &(Verb, String)| earlier.of(*verb, resource);
        Self(
            self.0
                .iter()
                .map(|(key, count)| (key.clone(), count - less(key)))
                .filter(|(_, n)| *n > 0)
                .collect(),
        )
    }

    fn sum(&self, counts: impl Fn(Verb, &str) -> bool) -> u64 {
        self.0.iter().filter(|((verb, resource), _)| counts(*verb, resource)).map(|(_, count)| count).sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Requests>);

/// What service accounts have asked, allowed or not, each once.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<BTreeSet<Call>>);

impl Calls {
    pub(super) fn note(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
    }

    pub(super) fn read(&self) -> BTreeSet<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Counter {
    pub(super) fn count(&self, verb: Verb, resource: String) {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.0.entry((verb, resource)).or_default() += 1;
    }

    pub(super) fn read(&self) -> Requests {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

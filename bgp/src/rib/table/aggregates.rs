//! Aggregates among the destinations: originated, and their parts hidden.

use std::collections::BTreeMap;

use super::Table;
use crate::rib::aggregate::{self, Aggregate, Wanted};
use crate::rib::net::Net;
use crate::rib::originate;
use crate::rib::path::Interner;
use crate::rib::peers::Peers;
use crate::types::Prefix;

impl<K: Net> Table<K> {
    /// Originates exactly these, as far as there is something in them.
    pub(in crate::rib) fn set_aggregates(&mut self, wanted: &BTreeMap<Prefix, Wanted>, peers: &Peers) {
        let wanted: Vec<_> =
            wanted.iter().filter_map(|(prefix, wanted)| Some((K::new(*prefix)?, wanted.clone()))).collect();
        let stays =
            |one: &Aggregate<K>| wanted.iter().any(|(key, wanted)| (*key, wanted) == (one.key, &one.wanted));
        let before = std::mem::take(&mut self.followers.aggregates);
        let (kept, gone): (Vec<_>, Vec<_>) = before.into_iter().partition(stays);
        for (key, wanted) in wanted {
            if kept.iter().any(|one| one.key == key) {
                continue;
            }
            let mut new = Aggregate::new(key, wanted);
            for (_, destination) in self.destinations.iter() {
                if new.hides(destination.key().prefix()) {
                    destination.paths().best().into_iter().for_each(|path| new.add(path));
                }
            }
            self.followers.aggregates.push(new);
        }
        self.followers.aggregates.extend(kept);
        self.followers.stirred = true;
        for one in gone {
            self.abandon(one.key, aggregate::KEY, peers);
        }
    }

    /// Whether something in an aggregate is another.
    pub(in crate::rib) fn stirred(&self) -> bool {
        self.followers.stirred
    }

    /// Originates aggregates as what is in them has it.
    pub(in crate::rib) fn aggregate(&mut self, peers: &Peers, interner: &mut Interner) {
        // One may be in another.
        while std::mem::take(&mut self.followers.stirred) {
            let news = self.followers.aggregates.iter_mut().filter_map(|one| {
                let form = one.news()?;
                Some((one.key, form.map(|form| one.attributes(form, peers))))
            });
            for (key, attributes) in news.collect::<Vec<_>>() {
                match attributes {
                    Some(attributes) => {
                        let path = originate::path(key.prefix(), aggregate::PATH_ID, attributes);
                        self.originate(key, interner.intern(path), peers);
                    }
                    None => self.abandon(key, aggregate::KEY, peers),
                }
            }
        }
    }

    /// Those whose parts are not told to external peers.
    pub(in crate::rib) fn suppressing(&self) -> impl Iterator<Item = Prefix> {
        let aggregates =
            self.followers.aggregates.iter().filter(|one| one.wanted.suppress && one.is_originated());
        aggregates.map(|one| one.key.prefix())
    }

    /// Has everything in `prefix` looked at again.
    pub(in crate::rib) fn note_within(&mut self, prefix: Prefix) {
        for (slot, destination) in
            self.destinations.iter().filter(|(_, one)| prefix.covers(one.key().prefix()))
        {
            for group in &mut self.followers.groups {
                let best = destination.paths().best();
                group.note(slot, best, best);
            }
        }
    }
}

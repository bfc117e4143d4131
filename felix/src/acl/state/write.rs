//! The transactions that make the kernel have what is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Place, State};
use crate::acl::compile::{self, TABLE};
use crate::acl::nft::{Batch, ReadChain, Set};
use crate::acl::ruleset::SetId;
use crate::acl::tracker::Change;

/// Elements of a transaction that only adds to sets, some megabytes: several make the load of large ones.
const LOAD: usize = 100_000;

impl State {
    /// The table, where there is none yet, and what holds the members of sets: what is added beside it need not be one
    /// transaction then. The kernel looks for a set from the first that was made, and for these with every rule.
    pub fn creation(&mut self) -> Option<Batch> {
        if std::mem::replace(&mut self.has_table, true) {
            return None;
        }
        let mut batch = Batch::new(TABLE);
        batch.add_table();
        for (name, set) in compile::sets() {
            batch.add_set(name, &set);
            self.sets.done([name.to_owned()]);
        }
        Some(batch)
    }

    /// What can be added beside what is there, none of which names it: sets and their members, without a grace
    /// period. At most some megabytes of members; `None`: there is none. [`State::added`] says that it was done.
    pub fn additions(&mut self) -> Option<(Batch, Added)> {
        if !self.has_table || self.is_beyond_repair {
            return None;
        }
        let mut batch = Batch::new(TABLE);
        let mut added = Added { sets: self.sets.added(), ..Added::default() };
        for name in &added.sets {
            self.write_set(&mut batch, name);
        }
        // Whose a number is is known before its set has members.
        let elements = self.elements.added().into_iter();
        let (numbers, elements) = elements.partition::<Vec<_>, _>(|(_, set)| **set == *compile::NUMBERS);
        self.write_elements(&mut batch, &numbers);
        added.elements = numbers;
        let mut room = LOAD;
        while room > 0
            && let Some(id) = self.whole.pop_first()
        {
            room = room.saturating_sub(self.write_whole(&mut batch, id));
        }
        for (name, waiting) in &mut self.members {
            let mut now = std::mem::take(&mut waiting.add);
            if let Some(first) = now.iter().nth(room).cloned() {
                waiting.add = now.split_off(&first);
            }
            if let Some(set) = self.sets.tracker.wanted().get(name) {
                batch.add_elements(name, set, &now);
            }
            room -= now.len();
        }
        let loading = !self.whole.is_empty() || self.members.values().any(|waiting| !waiting.add.is_empty());
        let replaces = self.chains.changes().any(|(_, change)| matches!(change, Change::Replace(_)));
        if !loading && !replaces {
            added.counters = self.counters.added();
            added.counters.iter().for_each(|name| batch.add_counter(name));
            added.chains = self.chains.added();
            self.write_chains(&mut batch, &added.chains);
            self.write_elements(&mut batch, &elements);
            added.elements.extend(elements);
        }
        (!batch.is_empty()).then_some((batch, added))
    }

    /// The kernel has taken additions.
    pub fn added(&mut self, added: Added) {
        self.sets.done(added.sets);
        self.counters.done(added.counters);
        self.chains.done(added.chains);
        self.elements.done(added.elements);
    }

    /// Everything that waits, as one transaction. [`State::done`] says that it was done.
    pub fn everything(&self) -> Batch {
        let mut batch = Batch::new(TABLE);
        if self.is_beyond_repair {
            batch.add_table();
            batch.delete_table();
            batch.add_table();
        }
        for name in self.counters.added() {
            batch.add_counter(&name);
        }
        for name in self.sets.added() {
            self.write_set(&mut batch, &name);
        }
        for id in &self.whole {
            self.write_whole(&mut batch, *id);
        }
        for (name, waiting) in &self.members {
            if let Some(set) = self.sets.tracker.wanted().get(name) {
                batch.add_elements(name, set, &waiting.add);
            }
        }
        let changed = |wanted: fn(&Change<'_, Arc<ReadChain>>) -> bool| -> Vec<String> {
            self.chains.changes().filter(|(_, change)| wanted(change)).map(|(name, _)| name.clone()).collect()
        };
        let replaced = changed(|change| matches!(change, Change::Replace(_)));
        let removed = changed(|change| matches!(change, Change::Remove));
        // A chain that goes may still be led to from another that goes, until both are empty.
        replaced.iter().chain(&removed).for_each(|name| batch.flush_chain(name));
        self.write_chains(&mut batch, &self.chains.added());
        for name in &replaced {
            self.write_rules(&mut batch, name);
        }
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (key, change) in self.elements.changes() {
            match change {
                Change::Add(_) => come.push(key.clone()),
                Change::Replace(_) => {
                    gone.push(key.clone());
                    come.push(key.clone());
                }
                Change::Remove => gone.push(key.clone()),
            }
        }
        for (name, places) in by_set(&gone) {
            if let Some(set) = self.sets.tracker.wanted().get(name) {
                let there = places.into_iter().filter_map(|place| self.elements.tracker.actual().get(place));
                batch.delete_elements(name, set, there);
            }
        }
        self.write_elements(&mut batch, &come);
        for (name, waiting) in &self.members {
            if let Some(set) = self.sets.tracker.wanted().get(name) {
                batch.delete_elements(name, set, &waiting.remove);
            }
        }
        // Maps before the chains that their elements lead to.
        for (name, change) in self.sets.changes() {
            if change == Change::Remove {
                batch.delete_set(name);
            }
        }
        removed.iter().for_each(|name| batch.delete_chain(name));
        for (name, change) in self.counters.changes() {
            if change == Change::Remove {
                batch.delete_counter(name);
            }
        }
        batch
    }

    fn write_set(&self, batch: &mut Batch, name: &str) {
        let Some(set) = self.sets.tracker.wanted().get(name) else { return };
        let found = self.own.get(name).and_then(|id| self.ruleset.sets.get(id));
        let comment = found.map(|found| found.of.to_string());
        batch.add_set(name, &Set { comment, ..set.clone() });
    }

    /// All members of a set; how many.
    fn write_whole(&self, batch: &mut Batch, id: SetId) -> usize {
        let name = compile::shared(id).map_or_else(|| id.to_string(), str::to_owned);
        let (Some(set), Some(shape)) = (self.ruleset.sets.get(&id), self.sets.tracker.wanted().get(&name))
        else {
            return 0;
        };
        batch.add_elements(&name, shape, compile::elements(self.numbers.of(id), &set.members));
        set.members.len()
    }

    fn write_chains(&self, batch: &mut Batch, names: &[String]) {
        for name in names {
            let base = self.chains.tracker.wanted().get(name).and_then(|chain| chain.base);
            batch.add_chain(name, base.as_ref());
        }
        for name in names {
            self.write_rules(batch, name);
        }
    }

    fn write_rules(&self, batch: &mut Batch, name: &str) {
        let rules = self.chains.tracker.wanted().get(name);
        rules.iter().flat_map(|chain| &chain.rules).for_each(|rule| batch.add_rule(name, rule));
    }

    fn write_elements(&self, batch: &mut Batch, places: &[Place]) {
        for (name, places) in by_set(places) {
            if let Some(set) = self.sets.tracker.wanted().get(name) {
                let wanted = places.into_iter().filter_map(|place| self.elements.tracker.wanted().get(place));
                batch.add_elements(name, set, wanted);
            }
        }
    }
}

/// Elements of one set go together.
fn by_set(places: &[Place]) -> BTreeMap<&str, Vec<&Place>> {
    let mut sets: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    places.iter().for_each(|place| sets.entry(&*place.1).or_default().push(place));
    sets
}

/// What [`State::additions`] adds.
#[derive(Debug, Default)]
pub struct Added {
    sets: Vec<String>,
    counters: Vec<String>,
    chains: Vec<String>,
    elements: Vec<Place>,
}

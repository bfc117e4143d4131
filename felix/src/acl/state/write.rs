//! The transactions that make the kernel have what is wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use crate::acl::compile::{self, TABLE};
use crate::acl::nft::{Batch, Element, Key, ReadChain, Set};
use crate::acl::ruleset::SetId;
use crate::acl::tracker::Change;

/// Octets of a transaction that only adds to sets: several make the load of a large one.
const LOAD: usize = 4 << 20;

impl State {
    /// The table alone, where there is none yet: what is added beside it need not be one transaction then.
    pub fn creation(&mut self) -> Option<Batch> {
        let mut batch = Batch::new(TABLE);
        batch.add_table();
        (!std::mem::replace(&mut self.has_table, true)).then_some(batch)
    }

    /// What can be added beside what is there, none of which names it: sets and their members, without a grace
    /// period. At most some megabytes of it; `None`: there is none. [`State::added`] says that it was done.
    pub fn additions(&mut self) -> Option<(Batch, Added)> {
        if !self.has_table || self.is_beyond_repair {
            return None;
        }
        let mut batch = Batch::new(TABLE);
        let mut added = Added { sets: self.sets.added(), ..Added::default() };
        for name in &added.sets {
            self.write_set(&mut batch, name);
        }
        for (id, waiting) in &mut self.members {
            if waiting.add.is_empty() || batch.len() >= LOAD {
                continue;
            }
            let elements = std::mem::take(&mut waiting.add);
            batch.add_elements(&id.to_string(), &compile::set(*id, ""), &elements);
            added.members.push((*id, elements));
        }
        let loading = self.members.values().any(|waiting| !waiting.add.is_empty());
        let replaces = self.chains.changes().any(|(_, change)| matches!(change, Change::Replace(_)));
        if !loading && !replaces {
            added.counters = self.counters.added();
            added.counters.iter().for_each(|name| batch.add_counter(name));
            added.chains = self.chains.added();
            self.write_chains(&mut batch, &added.chains);
            added.elements = self.elements.added();
            self.write_elements(&mut batch, &added.elements);
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
        for (id, waiting) in &self.members {
            batch.add_elements(&id.to_string(), &compile::set(*id, ""), &waiting.add);
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
        for (name, key) in &gone {
            let (Some(set), Some(element)) = (
                self.sets.tracker.wanted().get(name),
                self.elements.tracker.actual().get(&(name.clone(), key.clone())),
            ) else {
                continue;
            };
            batch.delete_elements(name, set, [element]);
        }
        self.write_elements(&mut batch, &come);
        for (id, waiting) in &self.members {
            batch.delete_elements(&id.to_string(), &compile::set(*id, ""), &waiting.remove);
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
        let found = self.large.get(name).and_then(|id| self.ruleset.sets.get(id));
        let comment = found.map(|found| found.of.to_string());
        batch.add_set(name, &Set { comment, ..set.clone() });
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

    /// Those of one set behind each other go in one message.
    fn write_elements(&self, batch: &mut Batch, keys: &[(String, Key)]) {
        for chunk in keys.chunk_by(|one, next| one.0 == next.0) {
            let Some(set) = chunk.first().and_then(|(name, _)| self.sets.tracker.wanted().get(name)) else {
                continue;
            };
            let elements = chunk.iter().filter_map(|key| self.elements.tracker.wanted().get(key));
            batch.add_elements(&chunk[0].0, set, elements);
        }
    }
}

/// What [`State::additions`] adds.
#[derive(Debug, Default)]
pub struct Added {
    sets: Vec<String>,
    members: Vec<(SetId, BTreeSet<Element>)>,
    counters: Vec<String>,
    chains: Vec<String>,
    elements: Vec<(String, Key)>,
}

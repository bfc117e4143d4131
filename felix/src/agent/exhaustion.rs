//! A node whose pods cannot have addresses says so where operators look: a condition of its Node, and an Event on the
//! Node and on the pools that are full. Both end within a second of an address being free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use manx_ipam::Pool;
use manx_ipam::allocator::AssignError;

use super::blocks::Want;
use super::core::Core;
use super::mirror::Write;

/// An Event of one object is not told again before this.
const REPEAT: Duration = Duration::from_secs(600);

/// How long a pod that was refused is thought to come back: its runtime tries again.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Regarding {
    /// Of the object.
    pub kind: &'static str,
    /// Of its kind: `manx.io/v1alpha1`.
    pub api_version: &'static str,
    /// Of the object.
    pub name: String,
    /// Of the object.
    pub uid: String,
}

/// Whether pods here can have addresses, and what has been said of it.
#[derive(Debug, Default)]
pub struct Exhaustion {
    /// Why not, in words.
    words: Option<String>,
    /// Pools a pod waited for in vain, and when it last did.
    short: BTreeMap<Want, (Vec<Pool>, Instant)>,
    /// When an Event was last told.
    told: BTreeMap<Regarding, Instant>,
    /// Events not written yet.
    events: Vec<(Regarding, String)>,
}

impl Exhaustion {
    /// An Event is written.
    pub(super) fn said(&mut self, regarding: &Regarding) {
        self.events.retain(|(event, _)| event != regarding);
    }
}

impl Core {
    /// Once a second.
    pub(super) fn see_exhaustion(&mut self, now: Instant) {
        if !self.in_sync() {
            return;
        }
        for (want, pools) in self.shortages() {
            if self.exhausted(&pools).is_some() {
                self.exhaustion.short.insert(want, (pools, now));
            }
        }
        let allocator = &self.allocator;
        self.exhaustion.short.retain(|_, (pools, at)| {
            now.saturating_duration_since(*at) < REMEMBERED && allocator.can_assign(pools).is_err()
        });
        let waited = self.exhaustion.short.values().find_map(|(pools, _)| self.refused(pools));
        let full = waited.or_else(|| self.exhausted(&self.general_pools()));
        let before = self.exhaustion.words.is_some();
        let Some((words, pools)) = full else {
            if before {
                tracing::info!("pods can have addresses again");
            }
            self.exhaustion.words = None;
            return;
        };
        if !before {
            tracing::warn!("{words}");
            for regarding in self.concerned(&pools) {
                let told = self.exhaustion.told.get(&regarding);
                if told.is_none_or(|told| now.saturating_duration_since(*told) >= REPEAT) {
                    self.exhaustion.told.insert(regarding.clone(), now);
                    self.exhaustion.events.push((regarding, format!("node {}: {words}", self.me)));
                }
            }
        }
        self.exhaustion.words = Some(words);
    }

    /// Why a pod with this choice cannot have an address, and the names of the full pools.
    fn refused(&self, pools: &[Pool]) -> Option<(String, BTreeSet<String>)> {
        let Err(error) = self.allocator.can_assign(pools) else { return None };
        let AssignError::Exhausted { pools, .. } = &error else { return None };
        Some((error.to_string(), pools.iter().map(|used| used.pool.name.clone()).collect()))
    }

    /// The same, if there is no block to claim either, nor one under way.
    fn exhausted(&self, pools: &[Pool]) -> Option<(String, BTreeSet<String>)> {
        let (words, names) = self.refused(pools)?;
        let full: Vec<Pool> = pools.iter().filter(|pool| names.contains(&pool.name)).cloned().collect();
        let want = Want::of(&full)?;
        (!self.claims_in_hope(want.family) && self.blocks.full(&want)).then_some((words, names))
    }

    /// This node and these pools.
    fn concerned(&self, pools: &BTreeSet<String>) -> Vec<Regarding> {
        let node = self.cluster.nodes.get(&self.me).map(|node| Regarding {
            kind: "Node",
            api_version: "v1",
            name: self.me.clone(),
            uid: node.uid.clone(),
        });
        let pools = pools.iter().filter_map(|name| self.cluster.pools.get(name)?.spec.as_ref().ok());
        let pools = pools.map(|pool| Regarding {
            kind: "IPPool",
            api_version: "manx.io/v1alpha1",
            name: pool.name_any(),
            uid: pool.uid().unwrap_or_default(),
        });
        node.into_iter().chain(pools).collect()
    }

    /// The Node's condition, if it does not say how it is, and Events not told yet.
    pub(super) fn exhaustion_writes(&self) -> Vec<Write> {
        let words = &self.exhaustion.words;
        let said = self.cluster.nodes.get(&self.me).map(|node| node.exhausted);
        // A node that has always had addresses needs no condition.
        let differs = said.is_some_and(|said| said.unwrap_or(false) != words.is_some());
        let condition = differs.then(|| Write::Exhausted { node: self.me.clone(), words: words.clone() });
        let events = self.exhaustion.events.iter();
        let events =
            events.map(|(regarding, note)| Write::Event { regarding: regarding.clone(), note: note.clone() });
        condition.into_iter().chain(events).collect()
    }
}

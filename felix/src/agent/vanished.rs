//! Blocks of nodes that are gone: freed by one elected agent, once Node and pods have been gone for a grace period.
//!
//! Agents compete only while there is something to free, the first by name at once, others the later: a thousand agents
//! do not all ask for one Lease. What is freed is judged anew by the API just before: the Node must not be there, nor
//! a pod bound to it, nor may the block's object have been written since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use manx_ipam::BlockCidr;

use super::core::{Core, Effect};
use super::election::{Bid, Duty, Election, Record};

/// Each agent waits this much longer than the one whose name sorts before its own.
const STAGGER: Duration = Duration::from_secs(10);

/// Agents behind this place wait no longer than it.
const PLACES: u32 = 30;

/// How the blocks of nodes that are gone are freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// How long Node and pods must be gone.
    pub grace: Duration,
    /// Blocks a minute, at most.
    pub budget: usize,
    /// Say what would be freed, and free nothing.
    pub dry_run: bool,
}

impl Default for Collection {
    fn default() -> Self {
        Self { grace: Duration::from_secs(600), budget: 60, dry_run: false }
    }
}

/// A block's object as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// Its range.
    pub cidr: BlockCidr,
    /// Of the object.
    pub uid: String,
    /// `metadata.resourceVersion`: its owner has written nothing since.
    pub version: String,
}

/// What came of freeing a node's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collected {
    /// These are free.
    Freed(Vec<BlockCidr>),
    /// The node, or a pod of it, is there after all.
    Alive(String),
    /// It is not known, in words.
    Failed(String),
}

/// Nodes that own blocks and are not there.
#[derive(Debug)]
pub struct Vanished {
    collection: Collection,
    since: BTreeMap<String, Instant>,
    election: Election,
    running: bool,
    /// When blocks were freed, of the last minute.
    freed: VecDeque<Instant>,
    /// Told in a dry run.
    told: BTreeSet<String>,
}

impl Vanished {
    /// Of the agent of this node.
    pub fn new(me: &str, collection: Collection) -> Self {
        Self {
            collection,
            since: BTreeMap::new(),
            election: Election::new(me),
            running: false,
            freed: VecDeque::new(),
            told: BTreeSet::new(),
        }
    }

    /// How much of the budget is left.
    fn left(&mut self, now: Instant) -> usize {
        let minute = Duration::from_secs(60);
        while self.freed.front().is_some_and(|at| now.saturating_duration_since(*at) >= minute) {
            self.freed.pop_front();
        }
        self.collection.budget.saturating_sub(self.freed.len())
    }
}

impl Core {
    /// With another budget.
    #[cfg(test)]
    pub(super) fn limit_collection(&mut self, budget: usize) {
        self.vanished.collection.budget = budget;
    }

    /// Once a second.
    pub(super) fn collect_vanished(&mut self, now: Instant) {
        // An agent whose own Node is gone is the last to judge others.
        if !self.in_sync() || !self.cluster.nodes.contains_key(&self.me) {
            self.vanished.since.clear();
            return;
        }
        let owners = self.cluster.blocks.values().map(|block| &block.claim.node);
        let gone: BTreeSet<&String> = owners.filter(|node| !self.cluster.nodes.contains_key(*node)).collect();
        let vanished = &mut self.vanished;
        vanished.since.retain(|node, _| gone.contains(node));
        vanished.told.retain(|node| gone.contains(node));
        for node in gone {
            vanished.since.entry(node.clone()).or_insert(now);
        }
        let place = self.cluster.nodes.range(..self.me.clone()).count();
        let place = u32::try_from(place).unwrap_or(PLACES).min(PLACES);
        let patience = vanished.collection.grace + STAGGER * place;
        let mut ripe = vanished.since.iter().filter(|(node, since)| {
            now.saturating_duration_since(**since) >= patience && !vanished.told.contains(*node)
        });
        let Some(node) = ripe.next().map(|(node, _)| node.clone()) else { return };
        if let Some(bid) = vanished.election.bid(now) {
            self.effects.push(Effect::Bid(Duty::Collection, bid));
        }
        let left = vanished.left(now);
        if vanished.running || left == 0 || !vanished.election.leads(now) {
            return;
        }
        let blocks = self.cluster.blocks.values().filter(|block| block.claim.node == node);
        let blocks = blocks.take(left).map(|block| Condemned {
            cidr: block.claim.cidr,
            uid: block.uid.clone(),
            version: block.version.clone(),
        });
        let (blocks, dry_run) = (blocks.collect(), vanished.collection.dry_run);
        vanished.running = true;
        self.effects.push(Effect::Collect { node, blocks, dry_run });
    }

    /// The API has answered a bid for the lease.
    pub fn bid_answered(
        &mut self,
        (duty, bid): (Duty, &Bid),
        lease: Result<Option<Record>, ()>,
        now: Instant,
    ) {
        match duty {
            Duty::Collection => self.vanished.election.answered(bid, lease, now),
            Duty::Services => self.balancing_answered(bid, lease, now),
        }
    }

    /// Freeing a node's blocks has ended.
    pub fn collected(&mut self, node: String, outcome: Collected, now: Instant) {
        let vanished = &mut self.vanished;
        vanished.running = false;
        match outcome {
            Collected::Freed(blocks) => {
                let listed = blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                if vanished.collection.dry_run {
                    tracing::info!("node {node} is gone: {listed} would be freed");
                    vanished.told.insert(node);
                    return;
                }
                if !blocks.is_empty() {
                    tracing::info!("node {node} is gone: freed {listed}");
                }
                vanished.freed.extend(blocks.iter().map(|_| now));
            }
            Collected::Alive(why) => {
                tracing::info!("blocks of node {node} stay: {why}");
                vanished.since.insert(node, now);
            }
            Collected::Failed(why) => {
                self.metrics.api_errors.with_label_values(&["collect"]).inc();
                tracing::warn!("blocks of node {node}, which is gone, are not freed yet: {why}");
            }
        }
    }
}

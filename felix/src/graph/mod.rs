//! What this node should be, as a function of what is known.
//!
//! The contract of everything in here: desired state is a function of current inputs; synchronous; no IO, no
//! locks, no clock; nothing remembers what was good before. [`Graph::apply`] marks what an input touches,
//! [`Graph::flush`] once a batch computes what changed. References may dangle (a BGPPeer that selects no node):
//! they are kept as they are and resolved when output is computed.
//!
//! ```text
//!   nodes, BGPConfiguration, BGPPeers, ──▶ sessions ──▶ Speaking ─┐
//!   BGPFilters, Secrets, own blocks ───────┤                     ├─▶ Desired / Delta
//!   Services, EndpointSlices ─▶ services ──┘
//!   pods, own blocks, learned routes ─────▶ routes ──▶ Fib ──────┘
//!   endpoints, pods, policies ────────────▶ policy ──▶ acl::Delta
//! ```

mod desired;
mod policies;
pub mod policy;
pub mod reflectors;
mod routes;
mod selector;
mod services;
mod sessions;
#[cfg(test)]
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manx_bgp::types::Prefix;

pub use desired::{Delta, Desired, Guard, Problem, Speaking};
pub use routes::{Counts, SLICE};
pub use selector::{Requirement, Selector, SelectorError};
pub use services::PoolRanges;
pub use sessions::Known;

use crate::dataplane::next_hops::NextHops;
use crate::model::service::{Service, Slice};
use crate::model::{BgpConfig, Filter, Node, Peer};
use policy::Policies;
use reflectors::{Elected, Topology};
use routes::Routes;
use services::Services;

/// One change of what is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A node of the cluster by name; none: it is gone.
    Node(String, Option<Arc<Node>>),
    /// How nodes speak; none: what is configured cannot be used.
    Bgp(Option<BgpConfig>),
    /// A neighbour by the name of its BGPPeer; none: it is gone.
    Peer(String, Option<Peer>),
    /// What neighbours may tell and are told, by the name of the BGPFilter; none: it is gone.
    Filter(String, Option<Filter>),
    /// A Secret by name; none: it has not been read, or is of no use any more.
    Secret(String, Option<Known>),
    /// With whom of its AS this node peers, where the mesh is `Auto`.
    Topology(Topology),
    /// The API has acknowledged that this node owns a block.
    BlockOwned(Prefix),
    /// This node owns the block no longer.
    BlockGone(Prefix),
    /// Ranges of pools that are not announced: all of them.
    Unexported(BTreeSet<Prefix>),
    /// Parts of blocks here that belong to other nodes: all of them.
    Parts(BTreeSet<Prefix>),
    /// Ranges of pools: all of them.
    Pools(PoolRanges),
    /// A Service by `namespace/name`; none: it is gone.
    Service(Arc<str>, Option<Arc<Service>>),
    /// An EndpointSlice by `namespace/name`; none: it is gone.
    Slice(Arc<str>, Option<Slice>),
    /// The interface behind a pod's address; none: the pod is gone.
    Pod(IpAddr, Option<u32>),
    /// The speaker's next hops for a destination; empty: it has none.
    Learned(Prefix, NextHops),
    /// The kernel holds no route of an earlier agent's.
    NothingKept,
    /// The speaker begins to tell its table.
    Relearn,
    /// The speaker's table has been told.
    LearnedAll,
}

/// All inputs, and what they have changed since the last flush.
#[derive(Debug)]
pub struct Graph {
    me: String,
    nodes: BTreeMap<String, Arc<Node>>,
    bgp: Option<BgpConfig>,
    peers: BTreeMap<String, Peer>,
    filters: BTreeMap<String, Filter>,
    secrets: BTreeMap<String, Known>,
    topology: Topology,
    unexported: BTreeSet<Prefix>,
    parts: BTreeSet<Prefix>,
    routes: Routes,
    services: Services,
    /// Which packets pass. It has a flush of its own: what it says before all is read would open what is closed.
    pub policy: Policies,
    speaking: Speaking,
    guard: Guard,
    speaking_dirty: bool,
}

impl Graph {
    /// The graph of the node of this name, knowing nothing.
    pub fn new(me: impl Into<String>) -> Self {
        let me = me.into();
        Self {
            policy: Policies::new(&me),
            me,
            nodes: BTreeMap::new(),
            bgp: None,
            peers: BTreeMap::new(),
            filters: BTreeMap::new(),
            secrets: BTreeMap::new(),
            topology: Topology::default(),
            unexported: BTreeSet::new(),
            parts: BTreeSet::new(),
            routes: Routes::default(),
            services: Services::default(),
            speaking: Speaking::default(),
            guard: Guard::default(),
            speaking_dirty: false,
        }
    }

    /// Takes one change.
    pub fn apply(&mut self, input: Input) {
        match input {
            Input::Node(name, node) => self.speaking_dirty |= replace(&mut self.nodes, name, node),
            Input::Peer(name, peer) => self.speaking_dirty |= replace(&mut self.peers, name, peer),
            Input::Filter(name, filter) => self.speaking_dirty |= replace(&mut self.filters, name, filter),
            Input::Secret(name, secret) => self.speaking_dirty |= replace(&mut self.secrets, name, secret),
            Input::Topology(topology) => {
                self.speaking_dirty |= self.topology != topology;
                self.topology = topology;
            }
            Input::Bgp(bgp) => {
                self.services.rule(&bgp.as_ref().map(|bgp| bgp.services.clone()).unwrap_or_default());
                self.speaking_dirty |= self.bgp != bgp;
                self.bgp = bgp;
            }
            Input::BlockOwned(block) => {
                self.speaking_dirty = true;
                self.routes.add_block(block);
            }
            Input::BlockGone(block) => {
                self.speaking_dirty = true;
                self.routes.remove_block(block);
            }
            Input::Unexported(ranges) => {
                self.speaking_dirty |= self.unexported != ranges;
                self.unexported = ranges;
            }
            Input::Parts(parts) => {
                self.speaking_dirty |= self.parts != parts;
                self.parts = parts;
            }
            Input::Pools(pools) => self.speaking_dirty |= self.services.set_pools(pools),
            Input::Service(name, service) => {
                self.speaking_dirty |= self.services.set_service(&name, service);
            }
            Input::Slice(name, slice) => self.speaking_dirty |= self.services.set_slice(&name, slice),
            Input::Pod(address, ifindex) => self.routes.set_pod(address, ifindex),
            Input::Learned(prefix, next_hops) => self.routes.learn(prefix, next_hops),
            Input::NothingKept => self.routes.know_all(),
            Input::Relearn => self.routes.relearn(),
            Input::LearnedAll => self.routes.learned_all(),
        }
    }

    /// What has changed since the last call; of what is learned a part, while [`Graph::is_behind`].
    pub fn flush(&mut self) -> Delta {
        let (fib, learned) = self.routes.flush();
        let mut delta = Delta { speaker: None, fib, learned, guard: None };
        if std::mem::take(&mut self.speaking_dirty) {
            let speaking = self.speaking();
            if speaking != self.speaking {
                self.speaking = speaking.clone();
                delta.speaker = Some(speaking);
            }
            let guard = self.wanted_guard();
            if guard != self.guard {
                self.guard = guard.clone();
                delta.guard = Some(guard);
            }
        }
        delta
    }

    /// Whether the next flush has more of what is learned.
    pub fn is_behind(&self) -> bool {
        self.routes.is_behind()
    }

    /// The whole wanted state, computed from nothing.
    pub fn desired(&self) -> Desired {
        Desired { speaker: self.speaking(), fib: self.routes.fib(), guard: self.wanted_guard() }
    }

    /// The speaker's orders as of the last flush, and what stands in the way of better ones.
    pub fn spoken(&self) -> &Speaking {
        &self.speaking
    }

    /// A node as it is known.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(|node| &**node)
    }

    /// How many routes of each class are wanted.
    pub fn counts(&self) -> Counts {
        self.routes.counts()
    }

    /// Names of the Secrets this node's sessions need, and of those the ones that have not been read.
    pub fn secrets(&self) -> (BTreeSet<&str>, bool) {
        let named = sessions::secrets(self.sessions());
        let all_read = named.iter().all(|name| self.secrets.contains_key(*name));
        (named, all_read)
    }

    /// Who is to reflect routes in this node's AS; none where the mesh is not `Auto`, or this node is not known.
    pub fn elected(&self) -> Option<Elected> {
        reflectors::elect(&self.me, &self.nodes, self.bgp.as_ref()?)
    }

    /// How nodes speak.
    pub fn bgp(&self) -> Option<&BgpConfig> {
        self.bgp.as_ref()
    }

    /// The nodes of this node's AS, itself among them.
    pub fn members(&self) -> Vec<(&String, &Node)> {
        let (Some(me), Some(bgp)) = (self.nodes.get(&self.me), &self.bgp) else { return Vec::new() };
        let asn = |node: &Node| node.asn.unwrap_or(bgp.asn);
        self.nodes
            .iter()
            .map(|(name, node)| (name, &**node))
            .filter(|(_, node)| asn(node) == asn(me))
            .collect()
    }

    /// How many Services there are, and how many of their addresses are announced here.
    pub fn services(&self) -> (usize, usize) {
        self.services.counts()
    }

    fn wanted_guard(&self) -> Guard {
        let nodes = self.nodes.values().flat_map(|node| node.addresses.iter().copied());
        self.services.guard(&nodes.collect())
    }

    fn speaking(&self) -> Speaking {
        sessions::speaking(self.sessions())
    }

    fn sessions(&self) -> sessions::Inputs<'_> {
        sessions::Inputs {
            me: &self.me,
            nodes: &self.nodes,
            bgp: self.bgp.as_ref(),
            peers: &self.peers,
            filters: &self.filters,
            secrets: &self.secrets,
            topology: &self.topology,
            blocks: self.routes.blocks(),
            unexported: &self.unexported,
            parts: &self.parts,
            services: &self.services,
        }
    }
}

/// Whether the map is different afterwards.
fn replace<V: PartialEq>(map: &mut BTreeMap<String, V>, name: String, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&name) == Some(&value) => false,
        Some(value) => {
            map.insert(name, value);
            true
        }
        None => map.remove(&name).is_some(),
    }
}

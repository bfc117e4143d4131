//! From one topology of the nodes' sessions to the next without losing a route: the new sessions are made before the
//! old ones are broken.
//!
//! ```text
//!   elected: Mesh ──────▶ with all; who reflected goes on for LINGER, while agents that lag catch up
//!   elected: Reflectors ▶ with them, and with whom it was before, until they say that they reflect (a condition of
//!                         their Node), sessions with them are up, and have been for OVERLAP
//!   one of them ────────▶ with all, reflecting; says so when all that can be up is up
//! ```
//!
//! A reflector that was part of the mesh has its sessions already, with agents that lag as well: it needs only begin to
//! reflect. Pure: what is seen and the time in, the topology out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use manx_bgp::api::SessionState;
use manx_bgp::types::Family;

use super::core::Core;
use crate::graph::Input;
use crate::graph::reflectors::{Elected, Topology};
use crate::model::{Mesh, Node};

/// How long the new topology has stood before the old one goes: what was told over the new sessions is in kernels.
const OVERLAP: Duration = Duration::from_secs(30);

/// How long it is waited for reflectors that do not come up; one of them suffices then.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a node goes on reflecting that is not to any more.
const LINGER: Duration = Duration::from_secs(600);

/// What is in force, and what is kept of before.
#[derive(Debug, Default)]
pub struct Meshing {
    current: Option<Current>,
    /// Whether this node's condition should say that it reflects.
    confirms: bool,
}

#[derive(Debug)]
struct Current {
    elected: Elected,
    /// Since when.
    at: Instant,
    /// Of before.
    kept: Option<Topology>,
    /// Since when all is there to let go of it.
    stands: Option<Instant>,
}

/// What a step goes by.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// This node.
    pub me: &'a str,
    /// What is to be.
    pub elected: &'a Elected,
    /// Nodes sessions are up with.
    pub up: &'a BTreeSet<String>,
    /// Nodes that say that they reflect.
    pub reflecting: &'a BTreeSet<String>,
    /// Nodes sessions could be up with.
    pub dependable: &'a BTreeSet<String>,
}

impl Meshing {
    /// With whom to peer now.
    pub fn step(&mut self, seen: Seen<'_>, now: Instant) -> Topology {
        let wanted = wanted(seen.me, seen.elected);
        // An agent that starts goes on with what it finds, and with what its node says.
        if self.current.is_none() {
            self.confirms = seen.reflecting.contains(seen.me);
        }
        let current = self.current.get_or_insert_with(|| Current {
            elected: seen.elected.clone(),
            at: now,
            kept: Some(Topology {
                with: Some(seen.up.clone()),
                reflecting: seen.reflecting.contains(seen.me),
            }),
            stands: None,
        });
        if current.elected != *seen.elected {
            let before = self::wanted(seen.me, &current.elected);
            let kept = match current.kept.take() {
                Some(kept) => both(&kept, &before),
                None => before,
            };
            *current = Current { elected: seen.elected.clone(), at: now, kept: Some(kept), stands: None };
        }
        let topology = match &current.kept {
            Some(kept) => both(kept, &wanted),
            None => wanted.clone(),
        };
        if !made(seen, current.at, now) {
            current.stands = None;
        } else if let Some(kept) = &current.kept {
            let since = *current.stands.get_or_insert(now);
            let hold = if kept.reflecting && !wanted.reflecting { LINGER } else { OVERLAP };
            if now.saturating_duration_since(since) >= hold {
                current.kept = None;
            }
        }
        let all_up = seen.dependable.iter().all(|name| name == seen.me || seen.up.contains(name));
        let patient = now.saturating_duration_since(current.at) < PATIENCE;
        self.confirms = topology.reflecting && (self.confirms || all_up || !patient);
        topology
    }

    /// Whether this node is to say that it reflects.
    pub fn confirms(&self) -> bool {
        self.confirms
    }
}

fn wanted(me: &str, elected: &Elected) -> Topology {
    match elected {
        Elected::Mesh => Topology { with: None, reflecting: false },
        Elected::Reflectors(names) if names.contains(me) => Topology { with: None, reflecting: true },
        Elected::Reflectors(names) => Topology { with: Some(names.clone()), reflecting: false },
    }
}

fn both(one: &Topology, other: &Topology) -> Topology {
    let with = one.with.as_ref().zip(other.with.as_ref());
    Topology {
        with: with.map(|(one, other)| one.union(other).cloned().collect()),
        reflecting: one.reflecting || other.reflecting,
    }
}

/// Whether what is to be is there.
fn made(seen: Seen<'_>, since: Instant, now: Instant) -> bool {
    match seen.elected {
        Elected::Mesh => true,
        Elected::Reflectors(names) => {
            let others = names.iter().filter(|name| *name != seen.me);
            let mut there = others.map(|name| seen.up.contains(name) && seen.reflecting.contains(name));
            let late = now.saturating_duration_since(since) >= PATIENCE;
            if late { names.contains(seen.me) || there.any(|there| there) } else { there.all(|there| there) }
        }
    }
}

impl Core {
    /// Tells the graph with whom this node peers, where the nodes arrange that among themselves.
    pub(super) fn mesh(&mut self, now: Instant) {
        if !std::mem::take(&mut self.mesh_due) {
            return;
        }
        let Some(elected) = self.graph.elected() else {
            self.meshing = Meshing::default();
            return;
        };
        let unknown = self.meshing.current.is_none() && self.heard.status.is_none();
        if unknown && matches!(elected, Elected::Reflectors(_)) {
            // Sessions of an earlier agent's time would be ended before there are others.
            return;
        }
        let nodes = self.graph.members();
        let addresses: BTreeMap<IpAddr, &String> = nodes
            .iter()
            .flat_map(|(name, node)| {
                Family::ALL.iter().filter_map(|family| Some((node.address(*family)?, *name)))
            })
            .collect();
        let sessions = self.heard.status.iter().flat_map(|status| &status.sessions);
        let up = sessions.filter(|session| session.state == SessionState::Established);
        let up = up
            .filter_map(|session| addresses.get(&session.address.addr).map(|name| (*name).clone()))
            .collect();
        let names = |of: fn(&Node) -> bool| -> BTreeSet<String> {
            nodes.iter().filter(|(_, node)| of(node)).map(|(name, _)| (*name).clone()).collect()
        };
        let seen = Seen {
            me: &self.me,
            elected: &elected,
            up: &up,
            reflecting: &names(|node| node.reflecting),
            dependable: &names(|node| node.dependable),
        };
        let topology = self.meshing.step(seen, now);
        self.graph.apply(Input::Topology(topology));
    }

    /// Whether it is known with whom to peer.
    pub(super) fn meshed(&self) -> bool {
        self.meshing.current.is_some()
            || !matches!(self.graph.bgp().map(|bgp| bgp.mesh), Some(Mesh::Auto { .. }))
    }
}

#[cfg(test)]
mod tests;

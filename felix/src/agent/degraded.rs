//! What a node cannot do of what BGPPeers and the BGPConfiguration say, and sessions with neighbours outside the cluster
//! that do not come up: told on the object itself by one node that sees it, and as an Event, once. Every node says what it
//! sees in its own NodeStatus.
//!
//! The condition `Degraded` names the node whose trouble it is. While it stands no other node writes, however many have
//! the same trouble; its node takes it back, and the leader takes back what a node left that is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use manx_bgp::api::SessionState;

use super::core::Core;
use super::mirror::{Verdict, Write};

/// The condition's type.
const DEGRADED: &str = "Degraded";

/// A session that comes up within this was never down.
const PATIENCE: Duration = Duration::from_secs(10);

/// Trouble that ends and comes back is told of by another Event after this.
const REPEAT: Duration = Duration::from_secs(600);

/// Words change with every try: a condition that has been written is not written anew before this.
const SETTLE: Duration = Duration::from_secs(60);

/// An object that nodes have trouble with, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concerned {
    /// A BGPPeer.
    Peer(String),
    /// A BGPConfiguration.
    Configuration(String),
}

/// What is amiss here.
#[derive(Debug, Default)]
pub struct Degraded {
    trouble: BTreeMap<Concerned, Trouble>,
    /// When an Event was told.
    told: BTreeMap<Concerned, Instant>,
    /// When a condition was written, of late.
    written: BTreeMap<Concerned, Instant>,
    /// When all this was looked at last.
    now: Option<Instant>,
    /// Since when sessions are down, by BGPPeer.
    down: BTreeMap<String, Instant>,
}

#[derive(Debug)]
struct Trouble {
    message: String,
    /// From when on it is this node's turn to tell.
    due: Instant,
}

impl Degraded {
    /// An Event is written.
    pub(super) fn told(&mut self, object: &Concerned, now: Instant) {
        self.told.insert(object.clone(), now);
    }

    /// A condition is written.
    pub(super) fn wrote(&mut self, object: &Concerned, now: Instant) {
        self.written.insert(object.clone(), now);
    }
}

impl Core {
    /// Once a second.
    pub(super) fn see_trouble(&mut self, now: Instant) {
        let mut found: BTreeMap<Concerned, Vec<String>> = BTreeMap::new();
        for problem in &self.graph.spoken().problems {
            let object = match problem.object.split_once('/') {
                Some(("BGPPeer", name)) => Concerned::Peer(name.to_owned()),
                Some(("BGPConfiguration", name)) => Concerned::Configuration(name.to_owned()),
                _ => continue,
            };
            found.entry(object).or_default().push(problem.message.clone());
        }
        for (peer, reason) in self.sessions_down(now) {
            found.entry(Concerned::Peer(peer)).or_default().push(reason);
        }
        // Who is first to tell is spread, as all nodes may see the same at once.
        let window = Duration::from_millis(10) * u32::try_from(self.cluster.nodes.len()).unwrap_or(u32::MAX);
        let due = now + window.mul_f64(self.share());
        self.degraded.trouble.retain(|object, _| found.contains_key(object));
        for (object, messages) in found {
            let message = messages.join("; ");
            let trouble = self.degraded.trouble.entry(object);
            trouble
                .and_modify(|known| known.message.clone_from(&message))
                .or_insert(Trouble { message, due });
        }
        let Degraded { trouble, told, written, .. } = &mut self.degraded;
        let fresh = |at: Instant, limit| now.saturating_duration_since(at) < limit;
        told.retain(|object, at| trouble.contains_key(object) || fresh(*at, REPEAT));
        written.retain(|_, at| fresh(*at, SETTLE));
        self.degraded.now = Some(now);
    }

    /// BGPPeers whose sessions have been down for a while, and why.
    fn sessions_down(&mut self, now: Instant) -> BTreeMap<String, String> {
        let Some(status) = &self.heard.status else { return BTreeMap::new() };
        let mut down = BTreeMap::new();
        for session in status.sessions.iter().filter(|session| session.range.is_none()) {
            if !self.cluster.peers.contains_key(&session.name) || session.state == SessionState::Established {
                continue;
            }
            let reason = session.reason.as_deref().unwrap_or("no answer");
            down.insert(session.name.clone(), format!("session with {} is down: {reason}", session.address));
        }
        self.degraded.down.retain(|name, _| down.contains_key(name));
        down.retain(|name, _| {
            let since = *self.degraded.down.entry(name.clone()).or_insert(now);
            now.saturating_duration_since(since) >= PATIENCE
        });
        down
    }

    /// Conditions and Events that are not as they should be.
    pub(super) fn degraded_writes(&self) -> Vec<Write> {
        let peers = self.cluster.peers.iter().map(|(name, object)| {
            (Concerned::Peer(name.clone()), &object.conditions, object.generation, &object.uid)
        });
        let configurations = self.cluster.configurations.iter().map(|(name, object)| {
            (Concerned::Configuration(name.clone()), &object.conditions, object.generation, &object.uid)
        });
        let mut writes = Vec::new();
        for (object, conditions, generation, uid) in peers.chain(configurations) {
            let said =
                conditions.iter().find(|condition| condition.type_ == DEGRADED && condition.status == "True");
            let by = said.and_then(|said| said.message.split_once(": ")).map(|(node, _)| node);
            let verdict = |holds: bool, message: String| Verdict {
                type_: DEGRADED,
                holds,
                reason: if holds { "NotAsWritten" } else { "AsWritten" },
                message,
                generation,
            };
            let degraded =
                |verdict| Write::Degraded { object: object.clone(), conditions: conditions.clone(), verdict };
            match (self.degraded.trouble.get(&object), by) {
                (Some(trouble), None) if !self.is_due(trouble) => {}
                (Some(trouble), by) if by.is_none_or(|by| by == self.me) => {
                    let note = format!("{}: {}", self.me, trouble.message);
                    let verdict = verdict(true, note.clone());
                    let settling = by.is_some() && self.degraded.written.contains_key(&object);
                    if !settling && !said_as(said, &verdict) {
                        writes.push(degraded(verdict));
                    }
                    if !self.degraded.told.contains_key(&object) {
                        writes.push(Write::Trouble { object: object.clone(), uid: uid.clone(), note });
                    }
                }
                (None, Some(by)) if by == self.me => writes.push(degraded(verdict(false, String::new()))),
                (_, Some(by)) if self.cluster.leads() && !self.cluster.nodes.contains_key(by) => {
                    writes.push(degraded(verdict(false, String::new())));
                }
                _ => {}
            }
        }
        writes
    }

    /// Whether it is this node's turn to tell.
    fn is_due(&self, trouble: &Trouble) -> bool {
        self.degraded.now.is_some_and(|now| trouble.due <= now)
    }
}

fn said_as(said: Option<&Condition>, verdict: &Verdict) -> bool {
    said.is_some_and(|said| {
        said.observed_generation == Some(verdict.generation) && said.message == verdict.message
    })
}

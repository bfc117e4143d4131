//! What the API is told: blocks' mirrors, conditions, this node's status. Computed once a second as the difference
//! between what should be there and what the watches show, so that what failed or was overwritten is written again.
//!
//! Pools, neighbours and configurations are one for the cluster: the agent of the node whose name sorts first among
//! all Nodes answers them. For a moment two may think so, and then write the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use manx_ipam::crd::{IPAMBlockStatus, IPPoolStatus};
use manx_ipam::{BlockCidr, Pool};

use super::balancing::ServiceEvent;
use super::core::{Core, Effect};
use super::degraded::Concerned;
use super::enforced::Shown;
use super::exhaustion::Regarding;
use super::heartbeat::Heartbeat;
use super::write::merged;
use crate::crd::{NodeStatusStatus, PolicyStatusStatus};
use crate::model::policy::{Policy, PolicyName};
use crate::model::{Bad, Object};

/// Pauses after a write that failed: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The largest number JSON keeps exactly.
const MAX_SIZE: u128 = 1 << 53;

/// One write of a status.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The mirror of an own block.
    Block {
        /// Of the object.
        name: String,
        /// All of it.
        status: IPAMBlockStatus,
    },
    /// A pool's numbers and conditions.
    Pool {
        /// Of the object.
        name: String,
        /// The numbers; the conditions in it are those that are there.
        status: IPPoolStatus,
        /// To be merged into the conditions.
        verdicts: Vec<Verdict>,
    },
    /// An IPReservation's `Accepted` condition.
    Reservation {
        /// Of the object.
        name: String,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdict: Verdict,
    },
    /// Asks for a part of a block.
    Ask {
        /// Of the object.
        name: String,
        /// Who asks.
        node: String,
        /// Whose owner is asked.
        block: BlockCidr,
    },
    /// The request is not needed any more.
    Asked {
        /// Of the object.
        name: String,
    },
    /// Whether pods of this node can have addresses: the Node's condition.
    Exhausted {
        /// Of the Node.
        node: String,
        /// Why not; none: they can.
        words: Option<String>,
    },
    /// An annotation of the Node.
    Address {
        /// Of the Node.
        node: String,
        /// Its key.
        annotation: &'static str,
        /// None: it goes.
        value: Option<String>,
    },
    /// Whether this node reflects routes because it was elected: the Node's condition.
    Reflecting {
        /// Of the Node.
        node: String,
        /// Whether it does.
        reflects: bool,
    },
    /// An Event: addresses are exhausted.
    Event {
        /// What about.
        regarding: Regarding,
        /// For people.
        note: String,
    },
    /// An Event: another program's route takes packets from one of ours.
    Overlap {
        /// Of this node.
        node: String,
        /// For people.
        note: String,
    },
    /// Why a request is not granted.
    Refuse {
        /// Of the object.
        name: String,
        /// In words.
        reason: String,
    },
    /// A BGPPeer's `Accepted` condition.
    Peer {
        /// Of the object.
        name: String,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdict: Verdict,
    },
    /// A BGPConfiguration's `Accepted` condition.
    Configuration {
        /// Of the object.
        name: String,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdict: Verdict,
    },
    /// The `Degraded` condition of a BGPPeer or BGPConfiguration.
    Degraded {
        /// Which.
        object: Concerned,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdict: Verdict,
    },
    /// An Event: a node cannot do as a BGPPeer or BGPConfiguration says.
    Trouble {
        /// Which.
        object: Concerned,
        /// Of the object.
        uid: String,
        /// Which node, and why.
        note: String,
    },
    /// A BGPFilter's `Accepted` condition.
    Filter {
        /// Of the object.
        name: String,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdict: Verdict,
    },
    /// A ClusterNetworkPolicy's conditions.
    ClusterPolicy {
        /// Of the object.
        name: String,
        /// Those that are there.
        conditions: Vec<Condition>,
        /// To be merged into them.
        verdicts: Vec<Verdict>,
    },
    /// A NetworkPolicy's PolicyStatus.
    Policy {
        /// `namespace/name` of both.
        name: String,
        /// UID of the NetworkPolicy: the status goes when that goes.
        owner: String,
        /// The numbers; the conditions in it are those that are there.
        status: PolicyStatusStatus,
        /// To be merged into the conditions.
        verdicts: Vec<Verdict>,
    },
    /// A PolicyStatus whose policy is gone, or another of its name.
    ForgetPolicy {
        /// `namespace/name`.
        name: String,
    },
    /// An Event: a policy is not done as written.
    Complaint {
        /// Which.
        policy: PolicyName,
        /// Of the object.
        uid: String,
        /// Of the object: an Event is told once of each.
        generation: i64,
        /// What is done instead.
        note: String,
    },
    /// An Event about a Service.
    ServiceEvent(ServiceEvent),
    /// What this node says of itself.
    Node {
        /// Of the node.
        name: String,
        /// Of its Node: the status goes when the Node goes.
        uid: String,
        /// All of it. What an earlier agent said is in it once it is written.
        status: Box<NodeStatusStatus>,
        /// Whether this agent does not know that it has said anything yet.
        is_first: bool,
    },
}

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Ready`, `Accepted`, `Exhausted` …
    pub type_: &'static str,
    /// Whether it is true.
    pub holds: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Of the object judged.
    pub generation: i64,
}

impl Verdict {
    /// `True`, `False`: as conditions spell it.
    pub fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }

    /// Whether these conditions say so already.
    pub(super) fn said(&self, conditions: &[Condition]) -> bool {
        conditions.iter().any(|condition| {
            condition.type_ == self.type_
                && condition.status == self.status()
                && condition.reason == self.reason
                && condition.message == self.message
                && condition.observed_generation == Some(self.generation)
        })
    }
}

/// How writing goes.
#[derive(Debug, Default)]
pub struct Mirror {
    running: bool,
    next: Option<Instant>,
    pause: Duration,
    failure: Option<String>,
    /// Policies of which an Event was told, by UID and generation.
    complained: BTreeMap<PolicyName, (String, i64)>,
    /// Overlaps of which an Event was told, as long as there are.
    overlaps: BTreeSet<String>,
    node: Heartbeat,
}

impl Mirror {
    /// What this node wrote of itself may be gone: with its Node, or with all an API server knew.
    pub(super) fn doubt_node(&mut self) {
        self.node.doubt();
    }

    /// One that went and comes again is told again.
    pub(super) fn see_overlaps(&mut self, overlaps: &[String]) {
        self.overlaps.retain(|told| overlaps.contains(told));
    }
}

impl Core {
    /// Asks for what differs to be written; one batch at a time.
    pub(super) fn write(&mut self, now: Instant) {
        let due = !self.mirror.running && self.mirror.next.is_none_or(|next| next <= now);
        if !due || !self.in_sync() {
            return;
        }
        let mut writes = self.writes(now);
        writes.extend(self.node_status(now));
        if !writes.iter().any(|write| matches!(write, Write::Policy { .. } | Write::ForgetPolicy { .. })) {
            self.enforcement.is_due = false;
        }
        if !writes.is_empty() {
            self.mirror.running = true;
            self.effects.push(Effect::Write(writes));
        }
    }

    /// A batch has ended: what was written, and the first failure in words.
    pub fn written(&mut self, done: Vec<Write>, failure: Option<String>, now: Instant) {
        self.mirror.running = false;
        for write in done {
            match write {
                Write::Node { status, .. } => self.mirror.node.wrote(*status, now),
                Write::ServiceEvent(event) => self.balancing.said(&event),
                Write::Event { regarding, .. } => self.exhaustion.said(&regarding),
                Write::Overlap { note, .. } => drop(self.mirror.overlaps.insert(note)),
                Write::Trouble { object, .. } => self.degraded.told(&object, now),
                Write::Degraded { object, .. } => self.degraded.wrote(&object, now),
                Write::Complaint { policy, uid, generation, .. } => {
                    self.mirror.complained.insert(policy, (uid, generation));
                }
                Write::ClusterPolicy { name, .. } => {
                    self.enforcement.told(PolicyName::Cluster(name.into()), None, now);
                }
                Write::Policy { name, owner, status, verdicts } => {
                    let conditions = merged(&status.conditions, &verdicts);
                    let shown = Shown { owner, status: PolicyStatusStatus { conditions, ..status } };
                    self.enforcement.told(PolicyName::Network(name.into()), Some(shown), now);
                }
                Write::ForgetPolicy { name } => self.enforcement.removed(&name),
                _ => {}
            }
        }
        match failure {
            None => {
                self.mirror.pause = Duration::ZERO;
                self.mirror.next = None;
                self.mirror.failure = None;
            }
            Some(failure) => {
                self.metrics.api_errors.with_label_values(&["write"]).inc();
                self.mirror.pause = (self.mirror.pause * 2).clamp(PAUSES.0, PAUSES.1);
                self.mirror.next = Some(now + self.mirror.pause);
                if self.mirror.failure.as_ref() != Some(&failure) {
                    tracing::warn!("a status is not written yet: {failure}");
                    self.mirror.failure = Some(failure);
                }
            }
        }
    }

    /// All that the API does not show as it should.
    pub(super) fn writes(&self, now: Instant) -> Vec<Write> {
        let mut writes: Vec<Write> = self.own_blocks().collect();
        writes.extend(self.request_writes());
        writes.extend(self.exhaustion_writes());
        writes.extend(self.degraded_writes());
        let overlaps = self.kernel.overlaps.iter().filter(|note| !self.mirror.overlaps.contains(*note));
        writes.extend(overlaps.map(|note| Write::Overlap { node: self.me.clone(), note: note.clone() }));
        writes.extend(self.address_write());
        let reflects = self.meshing.confirms();
        let known = self.graph.bgp().is_some() && self.meshed();
        let said = self.graph.node(&self.me).filter(|node| known && node.reflecting != reflects);
        writes.extend(said.map(|_| Write::Reflecting { node: self.me.clone(), reflects }));
        writes.extend(self.service_events(Instant::now()));
        if self.cluster.leads() {
            writes.extend(self.pool_statuses());
            writes.extend(judge(&self.cluster.reservations).map(|(name, object, verdict)| {
                Write::Reservation { name: name.clone(), conditions: object.conditions.clone(), verdict }
            }));
            writes.extend(judge(&self.cluster.peers).map(|(name, object, verdict)| Write::Peer {
                name: name.clone(),
                conditions: object.conditions.clone(),
                verdict,
            }));
            writes.extend(judge(&self.cluster.configurations).map(|(name, object, verdict)| {
                Write::Configuration { name: name.clone(), conditions: object.conditions.clone(), verdict }
            }));
            writes.extend(judge(&self.cluster.filters).map(|(name, object, verdict)| Write::Filter {
                name: name.clone(),
                conditions: object.conditions.clone(),
                verdict,
            }));
            writes.extend(self.judged_policies(now));
            writes.extend(self.policy_statuses(now));
            writes.extend(self.complaints());
        }
        writes
    }

    /// What this node says of itself, if it is to be said now.
    fn node_status(&mut self, now: Instant) -> Option<Write> {
        let uid = self.graph.node(&self.me)?.uid.clone();
        let policies = self.enforcement.said();
        let before = self.mirror.node.conditions();
        let is_first = before.is_empty();
        let conditions = merged(before, &self.kernel_verdicts());
        let status = NodeStatusStatus { policies, conditions, ..NodeStatusStatus::from(&self.report(now)) };
        let (nodes, share) = (self.cluster.nodes.len(), self.share());
        let due = self.mirror.node.is_due(&status, nodes, share, now);
        due.then(|| Write::Node { name: self.me.clone(), uid, status: Box::new(status), is_first })
    }

    /// Of whatever is spread over the nodes: from 0 to 1, by this node's place among their names.
    pub(super) fn share(&self) -> f64 {
        let before = self.cluster.nodes.range::<String, _>(..&self.me).count();
        #[expect(clippy::cast_precision_loss, reason = "a share of some thousand nodes")]
        let share = before as f64 / self.cluster.nodes.len().max(1) as f64;
        share
    }

    /// ClusterNetworkPolicies whose conditions do not say what is to be said; a NetworkPolicy has no status.
    fn judged_policies(&self, now: Instant) -> impl Iterator<Item = Write> {
        let cluster = self.cluster.policies.iter().filter(|(name, _)| matches!(name, PolicyName::Cluster(_)));
        cluster.filter_map(move |(name, object)| {
            let accepted = Some(accepted(object)).filter(|verdict| !verdict.said(&object.conditions));
            let enforced = self.enforced(name, object, &object.conditions, now).map(|(_, verdict)| verdict);
            let verdicts: Vec<Verdict> = accepted.into_iter().chain(enforced).collect();
            (!verdicts.is_empty()).then(|| Write::ClusterPolicy {
                name: name.name().to_string(),
                conditions: object.conditions.clone(),
                verdicts,
            })
        })
    }

    /// Events nobody has been told yet; a NetworkPolicy has no status to say it in.
    fn complaints(&self) -> impl Iterator<Item = Write> {
        self.cluster.policies.iter().filter_map(|(name, object)| {
            let policy = object.spec.as_ref().ok().filter(|policy| !policy.complaints.is_empty())?;
            let told = (policy.uid.to_string(), object.generation);
            (self.mirror.complained.get(name) != Some(&told)).then(|| Write::Complaint {
                policy: name.clone(),
                uid: told.0,
                generation: told.1,
                note: policy.complaints.join("; "),
            })
        })
    }

    fn own_blocks(&self) -> impl Iterator<Item = Write> {
        let me = self.graph.node(&self.me);
        self.cluster.own_blocks().filter_map(move |seen| {
            let node_uid = me.map_or(&seen.node_uid, |me| &me.uid).clone();
            let status = IPAMBlockStatus { node_uid, ..self.allocator.block(seen.claim.cidr)?.mirror() };
            let differs = (status.used, status.free) != (seen.used, seen.free)
                || status.node_uid != seen.node_uid
                || status.allocations != seen.allocations;
            differs.then(|| Write::Block { name: seen.claim.cidr.object_name(), status })
        })
    }

    fn pool_statuses(&self) -> impl Iterator<Item = Write> {
        let mut use_of: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for block in self.cluster.blocks.values() {
            let (blocks, used) = use_of.entry(&block.claim.pool).or_default();
            *blocks += 1;
            *used += block.used;
        }
        let services = self.service_addresses();
        self.cluster.pools.iter().filter_map(move |(name, object)| {
            let verdict = self.cluster.verdicts.get(name)?;
            let pool = verdict.as_ref().ok();
            let number = |count: u128| i64::try_from(count.min(MAX_SIZE)).unwrap_or(i64::MAX);
            let size = number(pool.map_or(0, Pool::size));
            let kept_back = number(pool.map_or(0, |pool| self.cluster.reserved_of(pool.cidr)));
            let (blocks, used) = use_of.get(name.as_str()).copied().unwrap_or_default();
            let of_services = pool
                .filter(|pool| pool.for_services)
                .map_or(0, |pool| services.range(pool.cidr.address()..=pool.cidr.last()).count() as i64);
            let used = used + of_services;
            let status = IPPoolStatus {
                size,
                used,
                // Who holds what is kept back is not known of other nodes: at worst too few are counted.
                free: (size - used - kept_back).max(0),
                blocks,
                conditions: object.conditions.clone(),
            };
            let mut verdicts = vec![pool_verdict(verdict, object.generation)];
            verdicts.extend(pool.into_iter().flat_map(|_| exhaustion(&status, kept_back, object.generation)));
            let seen = object.spec.as_ref().ok().and_then(|pool| pool.status.clone());
            let numbers = |it: &IPPoolStatus| (it.size, it.used, it.free, it.blocks);
            // Of a malformed object the numbers cannot be read back: its conditions alone decide.
            let same = object.spec.is_err() || seen.is_some_and(|seen| numbers(&seen) == numbers(&status));
            let said = verdicts.iter().all(|verdict| verdict.said(&object.conditions));
            (!same || !said).then(|| Write::Pool { name: name.clone(), status, verdicts })
        })
    }
}

/// Whether a policy is done as written.
pub(super) fn accepted(object: &Object<Arc<Policy>>) -> Verdict {
    let (holds, reason, message) = match &object.spec {
        Ok(policy) if policy.complaints.is_empty() => (true, "Accepted", String::new()),
        Ok(policy) => (false, "NotAsWritten", policy.complaints.join("; ")),
        Err(bad) => (false, bad.reason, bad.message.clone()),
    };
    Verdict { type_: "Accepted", holds, reason, message, generation: object.generation }
}

fn pool_verdict(verdict: &Result<Pool, Bad>, generation: i64) -> Verdict {
    let (holds, reason, message) = match verdict {
        Ok(pool) if pool.disabled => {
            (false, "Disabled", "spec.disabled is set: no new addresses are handed out".to_owned())
        }
        Ok(pool) if pool.for_services => (true, "ForServices", String::new()),
        Ok(_) => (true, "Usable", String::new()),
        Err(bad) => (false, bad.reason, bad.message.clone()),
    };
    Verdict { type_: "Ready", holds, reason, message, generation }
}

/// How near a pool is to its end: nearly there when at most a tenth of what pods may have is free.
fn exhaustion(status: &IPPoolStatus, kept_back: i64, generation: i64) -> [Verdict; 2] {
    let nearly = status.free <= (status.size - kept_back) / 10;
    let words = || {
        let IPPoolStatus { size, used, free, blocks, .. } = status;
        format!("{used} of {size} addresses are held, {kept_back} kept back, {free} free, in {blocks} blocks")
    };
    // Numbers only while they matter: they would be a write each time they change.
    [("NearlyExhausted", nearly, "FewAddressesFree"), ("Exhausted", status.free == 0, "NoAddressFree")].map(
        |(type_, holds, reason)| {
            let (reason, message) = if holds { (reason, words()) } else { ("AddressesFree", String::new()) };
            Verdict { type_, holds, reason, message, generation }
        },
    )
}

/// Objects whose `Accepted` condition does not say what is to be said of them.
fn judge<T>(objects: &BTreeMap<String, Object<T>>) -> impl Iterator<Item = (&String, &Object<T>, Verdict)> {
    objects.iter().filter_map(|(name, object)| {
        let (holds, reason, message) = match &object.spec {
            Ok(_) => (true, "Accepted", String::new()),
            Err(bad) => (false, bad.reason, bad.message.clone()),
        };
        let verdict = Verdict { type_: "Accepted", holds, reason, message, generation: object.generation };
        (!verdict.said(&object.conditions)).then_some((name, object, verdict))
    })
}

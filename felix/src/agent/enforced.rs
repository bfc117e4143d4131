//! On which nodes policies are in force. Each node says up to which version of the objects its kernel has them; the
//! agent of the node whose name is first reads that of all nodes, and says of each policy on how many it is. Pure.
//!
//! ```text
//!   the kernel has it ─▶ NodeStatus.policies ─ Survey ─▶ how many nodes ─▶ PolicyStatus of a NetworkPolicy
//!                                                                      └─▶ condition Enforced of a ClusterNetworkPolicy
//! ```
//!
//! A node says two numbers, whatever the number of policies, and not at each change: the first change after a pause at
//! once, then those of a pause together. The pause grows with the cluster, so that all nodes together write at most
//! [`WRITES`] times a second. What is the same but for its numbers is written again only after [`REFRESH`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::core::{Core, Effect};
use super::mirror::{Verdict, Write, accepted};
use crate::acl::driver;
use crate::crd::{PolicyEnforcement, PolicyStatusStatus};
use crate::model::Object;
use crate::model::policy::{Policy, PolicyName};
use crate::watch::Kind;

/// Writes a second of all nodes together, at most, and the least pause between two of one node.
const WRITES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(2);

/// Between two looks at what nodes say while nothing changes: doubled up to this.
const LOOK: Duration = Duration::from_secs(60);

/// A node that has never said anything is missed after this long: before, it is about to start.
const STARTS: Duration = Duration::from_secs(120);

/// What is in force everywhere, and what is not, is told with its new numbers after so long.
const REFRESH: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(60));

/// Our own objects are read again after this long: someone may have removed one.
const LIST: Duration = Duration::from_secs(600);

/// Policies whose status is written in one batch.
const BATCH: usize = 100;

/// Nodes named where a policy is not in force.
const NAMED: usize = 5;

/// What is known of policies in force, here and elsewhere.
#[derive(Debug, Default)]
pub struct Enforcement {
    /// The packet filter as last seen.
    pub(super) filter: driver::Status,
    /// What the kernel of this node has; none: not known yet.
    here: Option<PolicyEnforcement>,
    /// What this node says of that, and since when.
    said: Option<(PolicyEnforcement, Instant)>,
    /// What nodes say, and when they were asked; only of the agent that says it for all.
    nodes: BTreeMap<String, PolicyEnforcement>,
    asked: Option<Instant>,
    /// Since when there is such a Node.
    since: BTreeMap<String, Instant>,
    /// Whether statuses may differ from what is to be said.
    pub(super) is_due: bool,
    /// The PolicyStatuses there are, by `namespace/name`, and when they were read.
    statuses: BTreeMap<String, Shown>,
    listed: Option<Instant>,
    seen: BTreeMap<PolicyName, Seen>,
    written: BTreeMap<PolicyName, Instant>,
    asking: bool,
    next: Option<Instant>,
    wait: Duration,
}

/// A PolicyStatus as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// UID of the policy that owns it.
    pub owner: String,
    /// All of it.
    pub status: PolicyStatusStatus,
}

/// What the API says of all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// By name.
    pub nodes: BTreeMap<String, PolicyEnforcement>,
    /// Where they were asked for.
    pub statuses: Option<BTreeMap<String, Shown>>,
}

/// A policy's generation, and the first version of the object that had it: later ones differ in their status alone.
#[derive(Debug)]
struct Seen {
    uid: String,
    generation: i64,
    version: Option<u64>,
    at: Instant,
}

impl Enforcement {
    /// What this node says; none: nothing yet.
    pub(super) fn said(&self) -> Option<PolicyEnforcement> {
        self.said.as_ref().map(|(said, _)| said.clone())
    }

    /// Policies or nodes have changed: their statuses will.
    pub(super) fn hurry(&mut self, now: Instant, nodes: usize) {
        self.wait = pause(nodes);
        let soon = now + self.wait;
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
    }

    /// A PolicyStatus was written, or a condition.
    pub(super) fn told(&mut self, policy: PolicyName, shown: Option<Shown>, now: Instant) {
        if let (PolicyName::Network(name), Some(shown)) = (&policy, shown) {
            self.statuses.insert(name.to_string(), shown);
        }
        self.written.insert(policy, now);
    }

    /// A PolicyStatus was removed.
    pub(super) fn removed(&mut self, name: &str) {
        self.statuses.remove(name);
    }

    fn see(&mut self, policies: &BTreeMap<PolicyName, Object<Arc<Policy>>>, now: Instant) {
        self.seen.retain(|name, _| policies.contains_key(name));
        self.written.retain(|name, _| policies.contains_key(name));
        for (name, object) in policies {
            let Ok(policy) = &object.spec else { continue };
            let is_it = |seen: &Seen| *seen.uid == *policy.uid && seen.generation == object.generation;
            if !self.seen.get(name).is_some_and(is_it) {
                let (uid, generation, version) = (policy.uid.to_string(), object.generation, policy.version);
                self.seen.insert(name.clone(), Seen { uid, generation, version, at: now });
            }
        }
    }

    /// On how many nodes of how many a policy is in force; none: it is not known since it is as it is.
    fn verdict(
        &self,
        name: &PolicyName,
        object: &Object<Arc<Policy>>,
        now: Instant,
    ) -> Option<((i64, i64), Verdict)> {
        let (asked, generation) = (self.asked?, object.generation);
        // A node that has said nothing yet may be about to start.
        let is_awaited = |since: &Instant| now < *since + STARTS;
        let counted =
            self.since.iter().filter(|(node, since)| self.nodes.contains_key(*node) || !is_awaited(since));
        let of = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let all = of(counted.clone().count());
        let verdict =
            |holds, reason, message| Verdict { type_: "Enforced", holds, reason, message, generation };
        if object.spec.is_err() {
            let message = "what it said before that can be read is in force, if anything was".to_owned();
            return Some(((0, all), verdict(false, "NotAccepted", message)));
        }
        let seen = self.seen.get(name).filter(|seen| seen.at <= asked)?;
        let has_it = |node: &str| {
            let said = self.nodes.get(node).map(|said| match name {
                PolicyName::Network(_) => &said.network_policies,
                PolicyName::Cluster(_) => &said.cluster_network_policies,
            });
            let version = said.and_then(|version| version.parse::<u64>().ok());
            version.is_some_and(|version| seen.version.is_some_and(|wanted| wanted <= version))
        };
        let without: Vec<&String> = counted.map(|(node, _)| node).filter(|node| !has_it(node)).collect();
        let there = all - of(without.len());
        let mut message = format!("enforced on {there} of {all} nodes at generation {generation}");
        if without.is_empty() {
            return Some(((there, all), verdict(true, "OnAllNodes", message)));
        }
        let named = without.iter().take(NAMED).map(|node| match self.nodes.get(*node) {
            Some(said) if !said.failing.is_empty() => format!("{node} ({})", said.failing),
            Some(_) | None => (*node).clone(),
        });
        message += &format!("; not yet on {}", named.collect::<Vec<_>>().join(", "));
        if without.len() > NAMED {
            message += &format!(" and {} more", without.len() - NAMED);
        }
        Some(((there, all), verdict(false, "NotOnAllNodes", message)))
    }
}

/// Between two writes of one node of so many.
fn pause(nodes: usize) -> Duration {
    let seconds = u64::try_from(nodes).unwrap_or(u64::MAX) / u64::from(WRITES);
    PAUSE.max(Duration::from_secs(seconds))
}

impl Core {
    /// Takes what the packet filter says of itself; `waits`: not all it was told has been answered yet.
    pub fn see_filter(&mut self, filter: driver::Status, waits: bool, now: Instant) {
        let complete = self.policed_all() && !waits && filter.in_force;
        let enforcement = &mut self.enforcement;
        if complete {
            let newest = |is_it: fn(&PolicyName) -> bool| {
                let of_kind = self.cluster.policies.iter().filter(|(name, _)| is_it(name));
                let versions = of_kind.filter_map(|(_, object)| object.spec.as_ref().ok()?.version);
                versions.max().map(|version| version.to_string()).unwrap_or_default()
            };
            enforcement.here = Some(PolicyEnforcement {
                network_policies: newest(|name| matches!(name, PolicyName::Network(_))),
                cluster_network_policies: newest(|name| matches!(name, PolicyName::Cluster(_))),
                failing: String::new(),
            });
        } else if let Some(why) = &filter.failing {
            enforcement.here.get_or_insert_default().failing.clone_from(why);
        }
        enforcement.filter = filter;
        let pause = pause(self.cluster.nodes.len());
        let differs = enforcement.said.as_ref().map(|(said, _)| said) != enforcement.here.as_ref();
        let rested = enforcement.said.as_ref().is_none_or(|(_, since)| *since + pause <= now);
        if differs && rested {
            enforcement.said = enforcement.here.clone().map(|here| (here, now));
        }
    }

    /// Asks what nodes say, when it is time to.
    pub(super) fn survey(&mut self, now: Instant) {
        let enforcement = &mut self.enforcement;
        if !self.cluster.leads() {
            // Who leads later begins with what is there then.
            (enforcement.listed, enforcement.asked) = (None, None);
            return;
        }
        let nodes = &self.cluster.nodes;
        enforcement.since.retain(|name, _| nodes.contains_key(name));
        for name in nodes.keys() {
            if !enforcement.since.contains_key(name) {
                enforcement.since.insert(name.clone(), now);
            }
        }
        enforcement.see(&self.cluster.policies, now);
        if !enforcement.asking
            && enforcement.next.is_none_or(|next| next <= now)
            && self.cluster.has_read(&Kind::ALL)
        {
            enforcement.asking = true;
            let statuses = enforcement.listed.is_none_or(|listed| listed + LIST <= now);
            self.effects.push(Effect::Survey { statuses });
        }
    }

    /// The API has answered a survey; none: it has not.
    pub fn surveyed(&mut self, survey: Option<Survey>, now: Instant) {
        let enforcement = &mut self.enforcement;
        enforcement.asking = false;
        let least = pause(self.cluster.nodes.len());
        enforcement.wait = (enforcement.wait * 2).min(LOOK).max(least);
        enforcement.next = Some(now + enforcement.wait);
        let Some(Survey { nodes, statuses }) = survey else { return };
        // What has come since the question is asked of again.
        (enforcement.nodes, enforcement.asked, enforcement.is_due) = (nodes, Some(now), true);
        if let Some(statuses) = statuses {
            (enforcement.statuses, enforcement.listed) = (statuses, Some(now));
        }
    }

    /// Statuses of NetworkPolicies that are to be written, and those of policies that are gone.
    pub(super) fn policy_statuses(&self, now: Instant) -> Vec<Write> {
        let enforcement = &self.enforcement;
        if enforcement.listed.is_none() || !enforcement.is_due {
            return Vec::new();
        }
        let policies = &self.cluster.policies;
        let gone = enforcement.statuses.iter().filter(|(name, shown)| {
            let policy = policies.get(&PolicyName::Network(name.as_str().into()));
            policy.is_none_or(|object| uid(object).is_some_and(|uid| **uid != *shown.owner))
        });
        let gone = gone.map(|(name, _)| Write::ForgetPolicy { name: name.clone() });
        let there = policies.iter().filter_map(|(policy, object)| {
            let (PolicyName::Network(name), Some(owner)) = (policy, uid(object)) else { return None };
            let shown = enforcement.statuses.get(&**name);
            if shown.is_some_and(|shown| *shown.owner != **owner) {
                return None;
            }
            let conditions = shown.map_or_else(Vec::new, |shown| shown.status.conditions.clone());
            let ((there, all), verdict) = self.enforced(policy, object, &conditions, now)?;
            let status = PolicyStatusStatus {
                nodes: format!("{there}/{all}"),
                observed_generation: object.generation,
                conditions,
            };
            let (name, owner) = (name.to_string(), owner.to_string());
            Some(Write::Policy { name, owner, status, verdicts: vec![accepted(object), verdict] })
        });
        gone.chain(there).take(BATCH).collect()
    }

    /// The condition `Enforced` of a policy with these conditions, if it is to be written.
    pub(super) fn enforced(
        &self,
        policy: &PolicyName,
        object: &Object<Arc<Policy>>,
        conditions: &[Condition],
        now: Instant,
    ) -> Option<((i64, i64), Verdict)> {
        let (count, verdict) = self.enforcement.verdict(policy, object, now)?;
        if verdict.said(conditions) {
            return None;
        }
        let told = self.enforcement.written.get(policy).or(self.enforcement.listed.as_ref());
        let after = if verdict.holds { REFRESH.0 } else { REFRESH.1 };
        let is_like = conditions.iter().any(|said| {
            said.type_ == verdict.type_
                && said.status == verdict.status()
                && said.observed_generation == Some(verdict.generation)
        });
        let is_fresh = told.is_some_and(|told| now < *told + after);
        (!is_like || !is_fresh).then_some((count, verdict))
    }
}

fn uid(object: &Object<Arc<Policy>>) -> Option<&Arc<str>> {
    Some(&object.spec.as_ref().ok()?.uid)
}

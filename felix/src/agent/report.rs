//! What the agent says of its node.

use std::fmt::Write as _;
use std::time::Instant;

use manx_ipam::block::Block;

use super::core::Core;
use super::mirror::Verdict;
use super::pods::Held;
use crate::attach::files::Phase;
use crate::model::policy::PolicyName;
use crate::status::{
    ApiReport, BlockReport, FilterReport, NodeReport, PodReport, ProblemReport, RouteReport, ServiceReport,
    SpeakerReport,
};
use crate::watch::Kind;

/// Overlaps told one by one in a condition.
const TOLD: usize = 3;

impl Core {
    /// All of it, as known now.
    pub fn report(&self, now: Instant) -> NodeReport {
        let mut pods: Vec<PodReport> = self.attachments.values().map(|held| self.pod(held)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        NodeReport {
            node: self.me.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            ready: self.ready(),
            api: self.api(),
            speaker: self.speaker(),
            blocks: self.allocator.blocks().map(|block| self.block(block)).collect(),
            pods,
            routes: self.routes(),
            filter: self.filter(),
            services: self.services(),
            problems: self.problems(),
        }
    }

    fn api(&self) -> ApiReport {
        ApiReport {
            reachable: matches!(self.cluster.api, Some(Ok(()))),
            reason: self.cluster.api.as_ref().and_then(|api| api.as_ref().err().cloned()),
            in_sync: Kind::ALL.map(|kind| (kind.to_string(), self.cluster.synced.contains(&kind))).into(),
        }
    }

    fn speaker(&self) -> SpeakerReport {
        let status = self.heard.status.as_ref();
        SpeakerReport {
            up: self.heard.up,
            daemon: self.heard.daemon.clone(),
            reason: self.heard.away.clone().or_else(|| self.heard.refused.clone()),
            asn: status.and_then(|status| status.asn),
            router_id: status.and_then(|status| status.router_id),
            synced: self.heard.synced,
            sessions: status.map(|status| status.sessions.clone()).unwrap_or_default(),
            originated: status.map(|status| status.originated.clone()).unwrap_or_default(),
        }
    }

    fn block(&self, block: &Block) -> BlockReport {
        let seen = self.cluster.own_blocks().any(|seen| seen.claim.cidr == block.cidr());
        BlockReport {
            cidr: block.cidr().to_string(),
            pool: block.pool().to_owned(),
            used: block.used(),
            size: block.size(),
            acknowledged: seen || self.blocks.acknowledged(block.cidr()),
        }
    }

    fn pod(&self, held: &Held) -> PodReport {
        let file = &held.file;
        let known = self.cluster.pods.get(&format!("{}/{}", file.pod.namespace, file.pod.name));
        let state = match file.phase {
            _ if held.leaving => "leaving",
            Phase::Allocated => "attaching",
            Phase::Attached { .. } => "attached",
        };
        PodReport {
            namespace: file.pod.namespace.clone(),
            name: file.pod.name.clone(),
            container_id: file.key.container_id.clone(),
            ifname: file.key.ifname.clone(),
            host_ifname: file.host_ifname.clone(),
            addresses: file.addresses.clone(),
            state: state.to_owned(),
            known: known.is_some_and(|pod| file.pod.uid.is_empty() || pod.uid == file.pod.uid),
        }
    }

    fn routes(&self) -> RouteReport {
        let counts = self.graph.counts();
        RouteReport {
            pods: counts.pods,
            blocks: counts.blocks,
            learned: counts.learned,
            wanted: self.kernel.wanted,
            installed: self.kernel.installed,
            failing: self.kernel.failing,
            failures: self.kernel.failures.iter().map(ToString::to_string).collect(),
            swept: self.kernel.swept,
        }
    }

    fn filter(&self) -> FilterReport {
        let filter = &self.enforcement.filter;
        FilterReport {
            in_force: filter.in_force,
            generation: filter.generation,
            endpoints: filter.endpoints,
            policies: filter.policies,
            sets: filter.sets,
            members: filter.members,
            commits: filter.commits,
            refused: filter.refused,
            failing: filter.failing.clone(),
            repaired: filter.repaired,
            ended: filter.ended,
            swept: filter.swept,
        }
    }

    fn services(&self) -> ServiceReport {
        let (known, announced) = self.graph.services();
        ServiceReport { known, announced }
    }

    /// How it is with the kernel, as conditions of the NodeStatus.
    /// What is not known yet, as an agent begins, is left as an earlier one has said it.
    pub(super) fn kernel_verdicts(&self) -> Vec<Verdict> {
        let verdict =
            |type_, holds, reason, message| Verdict { type_, holds, reason, message, generation: 1 };
        let told = &self.kernel.overlaps[..self.kernel.overlaps.len().min(TOLD)];
        let more = self.kernel.overlapping.max(told.len()) - told.len();
        let mut words = told.join("; ");
        if more > 0 {
            let _ = write!(words, "; and {more} more");
        }
        let overlap = match told {
            [] => self.kernel.sought_overlaps.then(|| {
                let none = "no other program's route takes packets from Manx's".to_owned();
                verdict("RouteOverlap", false, "NoForeignRoute", none)
            }),
            _ => Some(verdict("RouteOverlap", true, "ForeignRoute", words)),
        };
        let prepared = self.settings.as_ref().map(|failed| match failed.as_slice() {
            [] => verdict("KernelPrepared", true, "AsNeeded", String::new()),
            failed => verdict("KernelPrepared", false, "NotAsNeeded", failed.join("; ")),
        });
        overlap.into_iter().chain(prepared).collect()
    }

    /// What is not done as policies say, and pods that are closed.
    fn policy_problems(&self) -> impl Iterator<Item = ProblemReport> {
        let policies = self.cluster.policies.iter().flat_map(|(name, object)| {
            let kind = match name {
                PolicyName::Network(_) => "NetworkPolicy",
                PolicyName::Cluster(_) => "ClusterNetworkPolicy",
            };
            let said = match &object.spec {
                Ok(policy) => policy.complaints.clone(),
                Err(bad) => vec![bad.message.clone()],
            };
            said.into_iter()
                .map(move |message| ProblemReport { object: format!("{kind}/{}", name.name()), message })
        });
        let closed = self.graph.policy.unknown().map(|pod| ProblemReport {
            object: format!("Pod/{pod}"),
            message: "the API does not show it: nothing passes to it or from it but what its node sends"
                .to_owned(),
        });
        policies.chain(closed)
    }

    /// In order of object: what graph, watches, claims and pools complain of.
    fn problems(&self) -> Vec<ProblemReport> {
        let problem = |object: String, message: String| ProblemReport { object, message };
        let graph = self.graph.spoken().problems.iter();
        let mut problems: Vec<ProblemReport> =
            graph.map(|said| problem(said.object.clone(), said.message.clone())).collect();
        problems.extend(
            self.cluster.refused.iter().map(|(kind, reason)| problem(kind.to_string(), reason.clone())),
        );
        let pools =
            self.cluster.verdicts.iter().filter_map(|(name, verdict)| Some((name, verdict.as_ref().err()?)));
        problems.extend(pools.map(|(name, bad)| problem(format!("IPPool/{name}"), bad.message.clone())));
        let peers =
            self.cluster.peers.iter().filter_map(|(name, peer)| Some((name, peer.spec.as_ref().err()?)));
        problems.extend(peers.map(|(name, bad)| problem(format!("BGPPeer/{name}"), bad.message.clone())));
        let configurations = self.cluster.configurations.iter();
        let bad = configurations.filter_map(|(name, object)| Some((name, object.spec.as_ref().err()?)));
        problems
            .extend(bad.map(|(name, bad)| problem(format!("BGPConfiguration/{name}"), bad.message.clone())));
        let filters = self.cluster.filters.iter();
        let bad = filters.filter_map(|(name, object)| Some((name, object.spec.as_ref().err()?)));
        problems.extend(bad.map(|(name, bad)| problem(format!("BGPFilter/{name}"), bad.message.clone())));
        problems.extend(
            self.cluster
                .unmarked
                .iter()
                .map(|(name, bad)| problem(format!("Service/{name}"), bad.message.clone())),
        );
        problems.extend(self.policy_problems());
        problems.extend(self.address_fault().map(|why| problem(format!("Node/{}", self.me), why)));
        problems.extend(self.unregistered().map(|why| problem(format!("Node/{}", self.me), why)));
        let kernel = |message: &String| problem(format!("Node/{}", self.me), message.clone());
        problems.extend(self.settings.iter().flatten().map(kernel));
        problems.extend(self.kernel.overlaps.iter().map(kernel));
        let failures = self.claim_failures();
        if !failures.is_empty() {
            problems.push(problem("IPAMBlock".to_owned(), failures));
        }
        problems.sort_unstable();
        problems
    }
}

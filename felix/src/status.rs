//! What a node says of itself: the report `manxctl` shows, and the digest of it kept in the node's `NodeStatus`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manx_bgp::api::{Session, SessionState};
use manx_bgp::types::{Asn, Prefix, RouterId};
use serde::{Deserialize, Serialize};

use crate::crd::{NodeStatusStatus, ProblemStatus, SessionStatus};

/// How many problems a NodeStatus has at most: what ails a node this much is told by its agent.
const MAX_PROBLEMS: usize = 20;

/// All an agent knows of its node, for people. The answer to [`manx_cni::protocol::Request::Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeReport {
    /// The node's name.
    pub node: String,
    /// The agent's version: `0.1.0`.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Whether the watches are in sync and the kernel is programmed with what they said.
    pub ready: bool,
    /// The Kubernetes API as the agent sees it.
    pub api: ApiReport,
    /// The speaker as the agent sees it.
    pub speaker: SpeakerReport,
    /// Blocks this node owns, in order.
    pub blocks: Vec<BlockReport>,
    /// Pods attached, in order of namespace and name.
    pub pods: Vec<PodReport>,
    /// Routes of ours.
    pub routes: RouteReport,
    /// The packet filter.
    pub filter: FilterReport,
    /// Services, and what is announced of them here.
    pub services: ServiceReport,
    /// What an operator should know, in words.
    pub problems: Vec<ProblemReport>,
}

/// The Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiReport {
    /// Whether it answers.
    pub reachable: bool,
    /// What happens instead.
    pub reason: Option<String>,
    /// Each watched kind, and whether all of it has been read.
    pub in_sync: BTreeMap<String, bool>,
}

/// The BGP speaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpeakerReport {
    /// Whether the daemon answers.
    pub up: bool,
    /// `manx-bgpd 0.1.0`; the last one that answered.
    pub daemon: String,
    /// Why it is not up, or why it did not take its last orders.
    pub reason: Option<String>,
    /// Our AS.
    pub asn: Option<Asn>,
    /// Our BGP Identifier.
    pub router_id: Option<RouterId>,
    /// Whether it has told its whole table.
    pub synced: bool,
    /// In order of address.
    pub sessions: Vec<Session>,
    /// Prefixes announced.
    pub originated: Vec<Prefix>,
}

/// One owned block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockReport {
    /// Its range.
    pub cidr: String,
    /// The IPPool it was cut from.
    pub pool: String,
    /// Addresses held.
    pub used: usize,
    /// Addresses in it.
    pub size: usize,
    /// Whether the API has acknowledged it: only then is it announced.
    pub acknowledged: bool,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Of the pod; empty where the runtime did not say.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
    /// The host's end.
    pub host_ifname: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// `attaching`, `attached` or `leaving`.
    pub state: String,
    /// Whether the API knows such a pod on this node.
    pub known: bool,
}

/// Routes by class, and how the kernel takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteReport {
    /// To pods here.
    pub pods: usize,
    /// Own blocks.
    pub blocks: usize,
    /// Learned.
    pub learned: usize,
    /// Routes the dataplane wants.
    pub wanted: usize,
    /// Routes of ours in the kernel.
    pub installed: usize,
    /// Routes the kernel refused at the last try.
    pub failing: usize,
    /// The first of those, in words.
    pub failures: Vec<String>,
    /// Whether routes nobody wants are removed yet.
    pub swept: bool,
}

/// What decides which packets pass, and how the kernel takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterReport {
    /// Whether the kernel has all that is wanted.
    pub in_force: bool,
    /// Of the kernel's ruleset after our last transaction, as `nft monitor` counts.
    pub generation: u32,
    /// Pods it is about.
    pub endpoints: usize,
    /// One a direction of those that select one of these pods.
    pub policies: usize,
    /// Sets they name.
    pub sets: usize,
    /// Of all these sets.
    pub members: usize,
    /// Transactions the kernel has taken.
    pub commits: u64,
    /// Transactions it has refused: what was in force stays, and it is tried again.
    pub refused: u64,
    /// Why the last was refused; none: it was not.
    pub failing: Option<String>,
    /// How often something was put right that someone else had done to the table.
    pub repaired: u64,
    /// Connections ended because a policy forbids them now.
    pub ended: u64,
    /// Whether what nobody wants is removed yet.
    pub swept: bool,
}

/// Services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceReport {
    /// All there are.
    pub known: usize,
    /// Addresses of theirs that this node announces one by one.
    pub announced: usize,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemReport {
    /// Kind and name: `BGPPeer/tor1`.
    pub object: String,
    /// What is wrong, and what is done instead.
    pub message: String,
}

/// The part worth a write to the API whenever it changes: nothing in it that changes by itself.
impl From<&NodeReport> for NodeStatusStatus {
    fn from(report: &NodeReport) -> Self {
        let sessions = &report.speaker.sessions;
        let up = sessions.iter().filter(|session| session.state == SessionState::Established).count();
        Self {
            session_summary: format!("{up}/{}", sessions.len()),
            sessions: sessions.iter().map(session).collect(),
            blocks: report.blocks.iter().map(|block| block.cidr.clone()).collect(),
            routes: report.routes.installed.try_into().unwrap_or(i64::MAX),
            pods: report.pods.len().try_into().unwrap_or(i64::MAX),
            version: report.version.clone(),
            // What is there stays.
            policies: None,
            conditions: Vec::new(),
            problems: report.problems.iter().take(MAX_PROBLEMS).map(problem).collect(),
        }
    }
}

fn problem(problem: &ProblemReport) -> ProblemStatus {
    ProblemStatus { object: problem.object.clone(), message: problem.message.clone() }
}

fn session(session: &Session) -> SessionStatus {
    let up = session.state == SessionState::Established;
    SessionStatus {
        address: session.address.to_string(),
        name: session.name.clone(),
        as_number: session.asn.0,
        // A neighbour that is away is tried for ever: Idle, Connect and Active would each be a write.
        state: if up { "Established" } else { "Down" }.to_owned(),
        reason: session.reason.clone().filter(|_| !up),
    }
}

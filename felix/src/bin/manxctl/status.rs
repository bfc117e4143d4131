//! `manxctl status`: this node by its agent, the cluster by its objects; one of them is enough.

use std::fmt::Write;
use std::path::Path;

use manx_bgp::api::SessionState;
use manx_felix::status::{FilterReport, NodeReport};
use manx_felix::watch::convert::words;
use serde::Serialize;

use super::cluster::{self, ClusterReport};
use super::table::{age, list, or_dash, table};
use super::{agent, bgp};

/// Both halves, or why not.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// This node.
    pub node: Option<NodeReport>,
    /// Why there is no report of this node.
    pub node_error: Option<String>,
    /// The cluster.
    pub cluster: Option<ClusterReport>,
    /// Why there is no report of the cluster.
    pub cluster_error: Option<String>,
}

/// Asks both.
pub async fn gather(agent_socket: &Path, kubeconfig: Option<&Path>) -> Report {
    let (node, node_error) = halves(agent::report(agent_socket));
    let (cluster, cluster_error) = halves(cluster::read(kubeconfig).await);
    Report { node, node_error, cluster, cluster_error }
}

fn halves<T>(result: anyhow::Result<T>) -> (Option<T>, Option<String>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(words(&*error))),
    }
}

impl Report {
    /// Fails when there is nothing to show.
    pub fn verdict(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.node.is_some() || self.cluster.is_some(),
            "neither this node's agent nor the cluster can be reached"
        );
        Ok(())
    }
}

/// For people.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    match (&report.node, &report.node_error) {
        (Some(node), _) => render_node(&mut text, node),
        (None, error) => section(&mut text, "THIS NODE", &format!("{}\n", or_dash(error.clone()))),
    }
    match (&report.cluster, &report.cluster_error) {
        (Some(cluster), _) => render_cluster(&mut text, cluster),
        (None, error) => section(&mut text, "CLUSTER", &format!("{}\n", or_dash(error.clone()))),
    }
    text
}

pub fn section(text: &mut String, title: &str, body: &str) {
    let gap = if text.is_empty() { "" } else { "\n" };
    // Writing to a String cannot fail.
    let _ = write!(text, "{gap}{title}\n{body}");
}

pub fn render_node(text: &mut String, node: &NodeReport) {
    let speaker = &node.speaker;
    let ready = if node.ready { "ready" } else { "not ready" };
    let agent = format!("manx-felix {}, up {}, {ready}", node.version, age(node.uptime_seconds));
    let api = away_or(node.api.reachable, &node.api.reason, || {
        let waiting: Vec<&String> =
            node.api.in_sync.iter().filter(|(_, done)| !**done).map(|(kind, _)| kind).collect();
        if waiting.is_empty() { "in sync".to_owned() } else { format!("waiting for {}", list(waiting)) }
    });
    let daemon = away_or(speaker.up, &speaker.reason, || {
        let asn = or_dash(speaker.asn.map(|asn| asn.to_string()));
        let router_id = or_dash(speaker.router_id.map(|id| id.to_string()));
        let synced = if speaker.synced { "table complete" } else { "still learning" };
        format!("{}, {asn}, router id {router_id}, {synced}", speaker.daemon)
    });
    let about = [("agent", agent), ("api", api), ("speaker", daemon)];
    let about: String = about.iter().map(|(name, what)| format!("{name:<10}{what}\n")).collect();
    section(text, &format!("NODE {}", node.node), &about);

    let up = speaker.sessions.iter().filter(|session| session.state == SessionState::Established).count();
    section(
        text,
        &format!("SESSIONS ({up} of {} up)", speaker.sessions.len()),
        &bgp::sessions(&speaker.sessions),
    );
    let blocks = node.blocks.iter().map(|block| {
        let announced = if block.acknowledged { "announced" } else { "not acknowledged by the API" };
        [
            block.cidr.clone(),
            block.pool.clone(),
            format!("{}/{}", block.used, block.size),
            announced.to_owned(),
        ]
    });
    section(text, "BLOCKS", &table(["CIDR", "POOL", "USED", "STATE"], blocks));
    section(text, "ROUTES", &routes(node));
    section(text, "PACKET FILTER", &filter(&node.filter));
    let pods = node.pods.iter().map(|pod| {
        let name = match (pod.namespace.as_str(), pod.name.as_str()) {
            ("", "") => format!("container {}", pod.container_id),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        let known = if pod.known { "" } else { " (unknown to the API)" };
        [name, list(&pod.addresses), pod.host_ifname.clone(), format!("{}{known}", pod.state)]
    });
    section(text, "PODS", &table(["POD", "ADDRESSES", "INTERFACE", "STATE"], pods));
    if !node.problems.is_empty() {
        let problems = node.problems.iter().map(|problem| [problem.object.clone(), problem.message.clone()]);
        section(text, "PROBLEMS", &table(["OBJECT", "PROBLEM"], problems));
    }
}

fn away_or(there: bool, reason: &Option<String>, words: impl FnOnce() -> String) -> String {
    match (there, reason) {
        (false, None) => "no answer yet".to_owned(),
        (false, Some(reason)) => format!("away: {reason}"),
        (true, None) => words(),
        (true, Some(reason)) => format!("{}; {reason}", words()),
    }
}

fn routes(node: &NodeReport) -> String {
    let routes = &node.routes;
    let counts =
        [routes.pods, routes.blocks, routes.learned, routes.wanted, routes.installed, routes.failing];
    let mut text = table(
        ["PODS", "BLOCKS", "LEARNED", "WANTED", "IN KERNEL", "FAILING"],
        [counts.map(|n| n.to_string())],
    );
    for failure in &routes.failures {
        text.push_str(failure);
        text.push('\n');
    }
    text
}

fn filter(filter: &FilterReport) -> String {
    let counts =
        [filter.endpoints, filter.policies, filter.sets, filter.members].map(|count| count.to_string());
    let [endpoints, policies, sets, members] = counts;
    let state = match (&filter.failing, filter.in_force) {
        (Some(why), _) => format!("as it was before, tried again: {why}"),
        (None, true) => "in force".to_owned(),
        (None, false) => "being written".to_owned(),
    };
    let row = [
        endpoints,
        policies,
        sets,
        members,
        filter.generation.to_string(),
        filter.commits.to_string(),
        filter.refused.to_string(),
        filter.repaired.to_string(),
        state,
    ];
    let headers =
        ["PODS", "POLICIES", "SETS", "MEMBERS", "GENERATION", "WRITTEN", "REFUSED", "REPAIRED", "STATE"];
    table(headers, [row])
}

fn render_cluster(text: &mut String, cluster: &ClusterReport) {
    let nodes = cluster.nodes.iter().map(|node| {
        let state = match (node.registered, node.reported) {
            (true, true) => "ok".to_owned(),
            (true, false) => "no NodeStatus: manx-felix has not run there".to_owned(),
            (false, _) => "no Node of this name: its blocks wait to be freed".to_owned(),
        };
        [
            node.name.clone(),
            or_dash(node.sessions.clone()),
            list(&node.blocks),
            node.routes.to_string(),
            node.pods.to_string(),
            or_dash(node.version.clone()),
            if node.sessions_down.is_empty() { state } else { down(node) },
        ]
    });
    let headers = ["NAME", "SESSIONS", "BLOCKS", "ROUTES", "PODS", "VERSION", "STATE"];
    section(text, "CLUSTER NODES", &table(headers, nodes));
    let pools = cluster.pools.iter().map(|pool| {
        [
            pool.name.clone(),
            pool.cidr.clone(),
            format!("{}/{}", pool.used, size(pool.size)),
            pool.blocks.to_string(),
            if pool.ready { "yes" } else { "no" }.to_owned(),
            or_dash(pool.reason.clone()),
        ]
    });
    section(text, "POOLS", &table(["NAME", "CIDR", "USED", "BLOCKS", "READY", "REASON"], pools));
}

fn down(node: &cluster::NodeSummary) -> String {
    let sessions = node.sessions_down.iter().map(|session| {
        let name = if session.name.is_empty() { &session.address } else { &session.name };
        format!("{name}: {}", session.reason.clone().unwrap_or_else(|| session.state.clone()))
    });
    sessions.collect::<Vec<_>>().join("; ")
}

/// The report's largest size stands for itself and everything beyond.
fn size(addresses: u64) -> String {
    if addresses >= 1 << 53 { "2^53+".to_owned() } else { addresses.to_string() }
}

#[cfg(test)]
mod tests;

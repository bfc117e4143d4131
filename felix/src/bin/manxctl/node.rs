//! `manxctl node status | drain | undrain`: how a node is; it leaves for maintenance, and comes back.

use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use manx_felix::crd::{NodeStatus, NodeStatusStatus};
use manx_felix::model::DRAIN;
use manx_felix::status::NodeReport;
use serde::Serialize;
use serde_json::{Value, json};

use super::status::{render_node, section};
use super::table::{facts, list, or_dash, table};
use super::{agent, cluster};

/// What a node says of itself: to those who ask its agent, or to all by the API.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Status {
    /// This node.
    Here(Box<NodeReport>),
    /// As its agent last wrote it.
    Written {
        /// Its name.
        node: String,
        /// What it wrote.
        status: Box<NodeStatusStatus>,
    },
}

/// Whether `node` is the one whose agent listens here.
pub fn is_this(node: &str, agent_socket: &Path) -> bool {
    agent::report(agent_socket).is_ok_and(|report| report.node == node)
}

/// Asks this node's agent, or reads what that of another has written.
///
/// # Errors
/// When the agent or the API does not answer, or there is no NodeStatus.
pub async fn status(
    node: Option<&str>,
    agent_socket: &Path,
    kubeconfig: Option<&Path>,
) -> anyhow::Result<Status> {
    let here = agent::report(agent_socket);
    let name = match (node, here) {
        (None, report) => return Ok(Status::Here(Box::new(report?))),
        (Some(name), Ok(report)) if report.node == name => return Ok(Status::Here(Box::new(report))),
        (Some(name), _) => name,
    };
    let (client, url) = cluster::client(kubeconfig).await?;
    // Listed, which the agent's account may do.
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let listed =
        Api::<NodeStatus>::all(client).list(&named).await.with_context(|| format!("reading {url}"))?;
    let found = listed.items.into_iter().find(|status| status.name_any() == name);
    let found = found.with_context(|| {
        format!("there is no NodeStatus \"{name}\": there is no such node, or its agent has never run")
    })?;
    Ok(Status::Written { node: name.to_owned(), status: Box::new(found.status.unwrap_or_default()) })
}

/// For people.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    match status {
        Status::Here(report) => render_node(&mut text, report),
        Status::Written { node, status } => render_written(&mut text, node, status),
    }
    text
}

fn render_written(text: &mut String, node: &str, status: &NodeStatusStatus) {
    let about = [
        ("version", or_dash(status.version.clone())),
        ("blocks", list(&status.blocks)),
        ("routes", status.routes.to_string()),
        ("pods", status.pods.to_string()),
    ];
    section(text, &format!("NODE {node}, as its agent wrote it"), &facts(about));
    let sessions = status.sessions.iter().map(|session| {
        [
            or_dash(session.name.clone()),
            session.address.clone(),
            format!("AS{}", session.as_number),
            session.state.clone(),
            or_dash(session.reason.clone()),
        ]
    });
    let title = format!("SESSIONS ({} up)", or_dash(status.session_summary.clone()));
    section(text, &title, &table(["NAME", "ADDRESS", "AS", "STATE", "REASON"], sessions));
    if !status.conditions.is_empty() {
        let conditions = status.conditions.iter().map(|condition| {
            let since = condition.last_transition_time.0.to_string();
            let message = or_dash(condition.message.clone());
            [condition.type_.clone(), condition.status.clone(), condition.reason.clone(), since, message]
        });
        section(text, "CONDITIONS", &table(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], conditions));
    }
    if !status.problems.is_empty() {
        let problems =
            status.problems.iter().map(|problem| [problem.object.clone(), problem.message.clone()]);
        section(text, "PROBLEMS", &table(["OBJECT", "PROBLEM"], problems));
    }
}

/// Cordons a node and has its agent drain it: after `wait` seconds its routes are withdrawn.
pub async fn drain(client: Client, node: &str, wait: u32) -> anyhow::Result<String> {
    let drained = json!({
        "metadata": { "annotations": { DRAIN: wait.to_string() } },
        "spec": { "unschedulable": true },
    });
    patch(client, node, drained).await?;
    Ok(format!(
        "{node} is cordoned; its neighbours are told to use other ways, and its routes are withdrawn in {wait}s. \
         `manxctl node undrain {node}` takes it back.\n"
    ))
}

/// Takes that back.
pub async fn undrain(client: Client, node: &str) -> anyhow::Result<String> {
    let undrained =
        json!({ "metadata": { "annotations": { DRAIN: null } }, "spec": { "unschedulable": null } });
    patch(client, node, undrained).await?;
    Ok(format!("{node} is uncordoned; its routes are told as before\n"))
}

async fn patch(client: Client, node: &str, change: Value) -> anyhow::Result<()> {
    let api = Api::<Node>::all(client);
    let patched = api.patch(node, &PatchParams::default(), &Patch::Merge(change)).await;
    patched.map(drop).with_context(|| format!("Node {node}"))
}

#[cfg(test)]
mod tests {
    use manx_felix::crd::{ProblemStatus, SessionStatus};

    use super::*;

    #[test]
    fn what_another_node_wrote_is_shown_with_reasons_in_words() {
        let session = SessionStatus {
            address: "10.10.0.251".to_owned(),
            name: "tor1".to_owned(),
            as_number: 65001,
            state: "Down".to_owned(),
            reason: Some("connection refused".to_owned()),
        };
        let condition = serde_json::from_value(json!({
            "type": "RouteOverlap", "status": "True", "reason": "ForeignRoute", "message": "the route to 10.244.1.0/26",
            "lastTransitionTime": "2026-11-21T20:00:00Z",
        }));
        let status = NodeStatusStatus {
            session_summary: "0/1".to_owned(),
            sessions: vec![session],
            blocks: vec!["10.244.3.0/26".to_owned()],
            routes: 7,
            conditions: vec![condition.unwrap()],
            problems: vec![ProblemStatus {
                object: "BGPPeer/tor1".to_owned(),
                message: "no Secret".to_owned(),
            }],
            ..NodeStatusStatus::default()
        };
        let text = render(&Status::Written { node: "node2".to_owned(), status: Box::new(status) });
        for words in
            ["NODE node2", "0/1 up", "connection refused", "10.244.3.0/26", "RouteOverlap", "no Secret"]
        {
            assert!(text.contains(words), "no {words} in\n{text}");
        }
    }
}

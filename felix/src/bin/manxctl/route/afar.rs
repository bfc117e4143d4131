//! `manxctl route --from NODE` of a node that is not this one: as far as the cluster's objects tell it. Its speaker's paths
//! and its kernel's table are known there alone.

use std::net::IpAddr;

use anyhow::Context;
use kube::ResourceExt;
use manx_bgp::types::Prefix;
use manx_felix::crd::{NodeStatus, NodeStatusStatus};
use manx_ipam::crd::IPAMBlock;

use super::super::cluster::Objects;
use super::{Step, Traced, owned};

/// What the objects say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The node packets start from.
    pub from: String,
    /// The most specific block that holds the address, and its owner.
    pub block: Option<(Prefix, String)>,
    /// Whether there is a `Node` of the owner's name.
    pub registered: bool,
    /// What the owner's agent has written.
    pub owner: Option<NodeStatusStatus>,
    /// What that of `from` has written.
    pub here: Option<NodeStatusStatus>,
}

/// Puts together what concerns an address.
///
/// # Errors
/// When there is neither a Node nor a NodeStatus of the name `from`.
pub fn told(address: IpAddr, from: &str, objects: &Objects) -> anyhow::Result<Told> {
    let has = |name: &str| objects.nodes.iter().any(|node| node.name_any() == name);
    let status = |name: &str| {
        let found = objects.statuses.iter().find(|status| status.name_any() == name);
        found.map(|found: &NodeStatus| found.status.clone().unwrap_or_default())
    };
    let here = status(from);
    let known = here.is_some() || has(from);
    known.then_some(()).with_context(|| format!("there is no node \"{from}\": see manxctl status"))?;
    let holds = |(prefix, _): &(Prefix, String)| prefix.covers(Prefix::host(address));
    let blocks = objects.blocks.iter().filter_map(|block: &IPAMBlock| owned(block));
    let block = blocks.filter(holds).max_by_key(|(prefix, _)| prefix.length());
    let owner = block.as_ref().and_then(|(_, owner)| status(owner));
    let registered = block.as_ref().is_some_and(|(_, owner)| has(owner));
    Ok(Told { from: from.to_owned(), block, registered, owner, here })
}

/// The steps, and the first place where one does not follow from the one before. Pure.
pub fn judge(address: IpAddr, told: &Told) -> Traced {
    let Told { from, .. } = told;
    let mut steps = Vec::new();
    let mut step = |who, says: String| steps.push(Step { who, says });
    let own = told.block.as_ref().is_some_and(|(_, owner)| owner == from);
    match &told.block {
        None => step("object", "no IPAMBlock holds it: it is no pod's".to_owned()),
        Some((block, owner)) => {
            step("object", format!("IPAMBlock {block} is owned by node {owner}"));
            step(
                "announcement",
                match &told.owner {
                    None => format!("not known: the agent of {owner} has written no NodeStatus"),
                    Some(status) if status.blocks.contains(&block.to_string()) => {
                        format!("{owner} has {block}, and {} of its sessions up", status.session_summary)
                    }
                    Some(_) => format!("{owner} does not have {block} among its blocks"),
                },
            );
        }
    }
    if !own {
        step(
            "path",
            match &told.here {
                None => format!("not known: the agent of {from} has written no NodeStatus"),
                Some(status) => {
                    let direct = told.block.as_ref().and_then(|(_, owner)| session(status, owner));
                    let direct =
                        direct.map(|it| format!("; with {}: {}", it.name, state(it))).unwrap_or_default();
                    format!("{from} has {} of its sessions up{direct}", status.session_summary)
                }
            },
        );
    }
    step(
        "kernel",
        format!(
            "which route {from} takes is known there alone: run `manxctl route {address}` on it, or in its agent's pod"
        ),
    );
    Traced { address: address.to_string(), steps, disagreement: disagreement(told, own) }
}

fn session<'a>(status: &'a NodeStatusStatus, name: &str) -> Option<&'a manx_felix::crd::SessionStatus> {
    status.sessions.iter().find(|session| session.name == name)
}

fn state(session: &manx_felix::crd::SessionStatus) -> String {
    let reason = session.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{}{reason}", session.state)
}

/// Whether none of a node's sessions is up, though there are some.
fn is_cut_off(status: &NodeStatusStatus) -> bool {
    !status.sessions.is_empty() && status.sessions.iter().all(|session| session.state != "Established")
}

fn disagreement(told: &Told, own: bool) -> Option<String> {
    let from = &told.from;
    if let Some((block, owner)) = &told.block {
        if !told.registered {
            return Some(format!(
                "node {owner} owns {block}, but there is no Node of this name: its blocks wait to be freed"
            ));
        }
        match &told.owner {
            None => {
                return Some(format!(
                    "node {owner} owns {block}, but its agent has never run: see its manx-node pod"
                ));
            }
            Some(status) if !status.blocks.contains(&block.to_string()) => {
                return Some(format!(
                    "{owner} owns {block}, but its agent does not say that it has it: see its log"
                ));
            }
            Some(status) if !own && is_cut_off(status) => {
                return Some(format!(
                    "{owner} has no session up, so nobody is told of {block}: see manxctl node status {owner}"
                ));
            }
            Some(_) => {}
        }
    }
    let here = told.here.as_ref()?;
    if !own && is_cut_off(here) {
        return Some(format!(
            "{from} has no session up, so it is told of nothing: see manxctl node status {from}"
        ));
    }
    if let Some((_, owner)) = told.block.as_ref().filter(|_| !own)
        && let Some(down) = session(here, owner).filter(|session| session.state != "Established")
    {
        return Some(format!("{from} and {owner} are neighbours, but their session is {}", state(down)));
    }
    let overlap = here.conditions.iter().find(|it| it.type_ == "RouteOverlap" && it.status == "True")?;
    let (block, _) = told.block.as_ref()?;
    overlap.message.contains(&block.to_string()).then(|| overlap.message.clone())
}

#[cfg(test)]
mod tests {
    use manx_felix::crd::SessionStatus;

    use super::*;

    fn status(blocks: &[&str], sessions: &[(&str, &str)]) -> NodeStatusStatus {
        NodeStatusStatus {
            session_summary: format!(
                "{}/{}",
                sessions.iter().filter(|it| it.1 == "Established").count(),
                sessions.len()
            ),
            blocks: blocks.iter().map(|it| (*it).to_owned()).collect(),
            sessions: sessions
                .iter()
                .map(|(name, state)| SessionStatus {
                    name: (*name).to_owned(),
                    state: (*state).to_owned(),
                    reason: (*state == "Down").then(|| "connection refused".to_owned()),
                    ..SessionStatus::default()
                })
                .collect(),
            ..NodeStatusStatus::default()
        }
    }

    fn known() -> Told {
        Told {
            from: "node1".to_owned(),
            block: Some(("10.244.3.0/26".parse().unwrap(), "node2".to_owned())),
            registered: true,
            owner: Some(status(&["10.244.3.0/26"], &[("node1", "Established")])),
            here: Some(status(&[], &[("node2", "Established")])),
        }
    }

    fn judged(change: impl FnOnce(&mut Told)) -> (String, Option<String>) {
        let mut told = known();
        change(&mut told);
        let traced = judge("10.244.3.7".parse().unwrap(), &told);
        (
            traced.steps.iter().map(|step| format!("{}: {}\n", step.who, step.says)).collect(),
            traced.disagreement,
        )
    }

    #[test]
    fn what_the_objects_tell_is_told_and_that_the_kernel_is_not_among_it() {
        let (steps, disagreement) = judged(|_| ());
        assert_eq!(disagreement, None);
        for words in [
            "owned by node node2",
            "node2 has 10.244.3.0/26",
            "with node2: Established",
            "run `manxctl route 10.244.3.7`",
        ] {
            assert!(steps.contains(words), "no {words} in {steps}");
        }
        let (steps, disagreement) = judged(|it| it.from = "node2".to_owned());
        assert!(!steps.contains("path:") && disagreement.is_none(), "{steps}");
    }

    #[test]
    fn the_first_that_does_not_follow_is_named() {
        let why = |change: fn(&mut Told)| judged(change).1.unwrap();
        assert!(why(|it| it.registered = false).contains("no Node of this name"));
        assert!(why(|it| it.owner = None).contains("never run"));
        assert!(why(|it| it.owner = Some(status(&[], &[]))).contains("does not say that it has it"));
        assert!(
            why(|it| it.owner = Some(status(&["10.244.3.0/26"], &[("node1", "Down")])))
                .contains("node2 has no session up")
        );
        assert!(
            why(|it| it.here = Some(status(&[], &[("tor", "Down")]))).contains("node1 has no session up")
        );
        let one = why(|it| it.here = Some(status(&[], &[("node2", "Down"), ("tor", "Established")])));
        assert!(one.contains("Down (connection refused)"), "{one}");
    }
}

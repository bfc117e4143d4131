//! `manxctl route`: the way of an address, from the cluster's objects to the kernel, and where they first disagree.

mod afar;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use ipnetwork::IpNetwork;
use manx_bgp::api::{PathInfo, Request};
use manx_bgp::types::Prefix;
use manx_felix::dataplane::lookup::{KernelRoute, lookup};
use manx_felix::speaker;
use manx_felix::watch::convert::words;
use manx_ipam::claim::Claim;
use serde::Serialize;

use super::{agent, cluster};

/// All that is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traced {
    /// The address.
    pub address: String,
    /// Each who has a word, in the order in which it is handed on.
    pub steps: Vec<Step>,
    /// Where they first disagree, in words; none: nowhere.
    pub disagreement: Option<String>,
}

/// What one of them says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `object`, `announcement`, `path`, `kernel`.
    pub who: &'static str,
    /// What it says.
    pub says: String,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// This node's name.
    pub node: Option<String>,
    /// The most specific block that holds the address, and its owner; or why that is not known.
    pub block: Result<Option<(Prefix, String)>, String>,
    /// Interface of the pod of this node that has it.
    pub pod: Option<String>,
    /// Whether this node announces the block.
    pub announced: bool,
    /// The speaker's paths to what the kernel has, or else to the block, best first; or why they are not known.
    pub paths: Result<Vec<PathInfo>, String>,
    /// What the kernel does.
    pub kernel: Option<KernelRoute>,
}

impl Default for Known {
    fn default() -> Self {
        Self { node: None, block: Ok(None), pod: None, announced: false, paths: Ok(Vec::new()), kernel: None }
    }
}

fn address_of(target: &str) -> anyhow::Result<IpAddr> {
    let asked: IpNetwork = target.parse().with_context(|| {
        format!("\"{target}\" is neither an address nor a prefix, as 10.244.3.7 or 10.244.3.0/26")
    })?;
    Ok(asked.ip())
}

/// Asks the cluster how packets get there from a node that is not this one.
///
/// # Errors
/// When `target` is neither an address nor a prefix, the API does not answer, or there is no such node.
pub async fn trace_from(from: &str, target: &str, kubeconfig: Option<&Path>) -> anyhow::Result<Traced> {
    let address = address_of(target)?;
    let (client, url) = cluster::client(kubeconfig).await?;
    let objects = cluster::objects(&client).await.with_context(|| format!("reading {url}"))?;
    Ok(afar::judge(address, &afar::told(address, from, &objects)?))
}

/// Asks the cluster, this node's agent, its speaker and its kernel.
///
/// # Errors
/// When `target` is neither an address nor a prefix, or the kernel does not answer.
pub async fn trace(
    target: &str,
    kubeconfig: Option<&Path>,
    agent_socket: &Path,
    speaker_socket: &Path,
) -> anyhow::Result<Traced> {
    let address = address_of(target)?;
    let block = match blocks(kubeconfig).await {
        Ok(blocks) => {
            let holds = |(prefix, _): &(Prefix, String)| prefix.covers(Prefix::host(address));
            Ok(blocks.into_iter().filter(holds).max_by_key(|(prefix, _)| prefix.length()))
        }
        Err(error) => Err(words(&*error)),
    };
    let kernel = lookup(address).context("asking the kernel")?;
    let report = agent::report(agent_socket);
    let mut known = Known { block, kernel, ..Known::default() };
    if let Ok(report) = &report {
        known.node = Some(report.node.clone());
        let has = |pod: &&manx_felix::status::PodReport| pod.addresses.contains(&address);
        known.pod = report.pods.iter().find(has).map(|pod| pod.host_ifname.clone());
        known.announced = match &known.block {
            Ok(Some((block, _))) => report.speaker.originated.contains(block),
            _ => false,
        };
    }
    // A destination of Manx's in the kernel, else the block it should be.
    let of_kernel = known.kernel.as_ref().filter(|route| route.ours);
    let destination = of_kernel.and_then(|route| route.destination.parse::<Prefix>().ok());
    let block = known.block.as_ref().ok().and_then(|block| block.as_ref().map(|(block, _)| *block));
    known.paths = match destination.or(block) {
        None => Ok(Vec::new()),
        Some(prefix) => {
            let table = speaker::table(speaker_socket, Request::Routes { prefix: Some(prefix) }).await;
            let paths =
                |table: Vec<manx_bgp::api::Destination>| table.into_iter().flat_map(|it| it.paths).collect();
            table.map(paths).map_err(|error| error.to_string())
        }
    };
    Ok(judge(address, &known))
}

async fn blocks(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<(Prefix, String)>> {
    let (client, url) = cluster::client(kubeconfig).await?;
    let blocks: Vec<manx_ipam::crd::IPAMBlock> =
        cluster::all(&client).await.with_context(|| format!("reading {url}"))?;
    Ok(blocks.iter().filter_map(owned).collect())
}

/// A block and its owner; none: its object cannot be read.
fn owned(block: &manx_ipam::crd::IPAMBlock) -> Option<(Prefix, String)> {
    let claim = Claim::try_from(block).ok()?;
    Some((Prefix::try_from(IpNetwork::from(claim.cidr)).ok()?, claim.node))
}

/// The steps, and the first place where one does not follow from the one before. Pure.
pub fn judge(address: IpAddr, known: &Known) -> Traced {
    let mut traced = Traced { address: address.to_string(), ..Traced::default() };
    let mut step = |who, says: String| traced.steps.push(Step { who, says });
    let here = known.node.as_deref();
    step(
        "object",
        match &known.block {
            Ok(Some((block, owner))) => format!("IPAMBlock {block} is owned by node {owner}"),
            Ok(None) => "no IPAMBlock holds it: it is no pod's".to_owned(),
            Err(why) => format!("not known: {why}"),
        },
    );
    let owner = known.block.as_ref().ok().and_then(|block| block.as_ref());
    let own = owner.is_some_and(|(_, owner)| Some(owner.as_str()) == here);
    if let (true, Some((block, _))) = (own, owner) {
        let said = if known.announced { "announced by this node" } else { "not announced by this node" };
        step("announcement", format!("{block} is {said}"));
    }
    let best: Vec<&PathInfo> = match &known.paths {
        Ok(paths) => {
            paths.iter().filter(|path| matches!(path.verdict.as_str(), "best" | "multipath")).collect()
        }
        Err(_) => Vec::new(),
    };
    if !own {
        step(
            "path",
            match &known.paths {
                Ok(paths) if paths.is_empty() => "the speaker knows no path".to_owned(),
                Ok(paths) => {
                    let one = |path: &PathInfo| {
                        let by = path.next_hop.map_or("here".to_owned(), |hop| hop.to_string());
                        format!("by {by} from {}: {}", path.peer_name, path.verdict)
                    };
                    paths.iter().map(one).collect::<Vec<_>>().join("; ")
                }
                Err(why) => format!("not known: {why}"),
            },
        );
    }
    step(
        "kernel",
        match &known.kernel {
            Some(route) => route.to_string(),
            None => "no route: packets are refused as unreachable".to_owned(),
        },
    );
    traced.disagreement = disagreement(known, own, owner, &best);
    traced
}

fn disagreement(
    known: &Known,
    own: bool,
    owner: Option<&(Prefix, String)>,
    best: &[&PathInfo],
) -> Option<String> {
    let kernel = known.kernel.as_ref();
    let foreign = |route: &KernelRoute| {
        format!("the kernel takes {route}: whoever made it must remove it, or Manx's route is never used")
    };
    if own {
        let (block, _) = owner?;
        return match (&known.pod, kernel) {
            (_, Some(route)) if !route.ours => Some(foreign(route)),
            (_, None) => {
                Some(format!("this node owns {block}, but its kernel has no route: see manxctl status"))
            }
            (Some(interface), Some(route)) if route.interface.as_ref() != Some(interface) => Some(format!(
                "the pod is behind {interface}, but the kernel takes {route}: see manxctl status"
            )),
            _ if !known.announced => Some(format!(
                "this node owns {block}, but does not announce it: see the pool's bgpExport, and manxctl status"
            )),
            _ => None,
        };
    }
    if let (Some((block, owner)), Ok(paths)) = (owner, &known.paths)
        && best.is_empty()
    {
        return Some(match paths.first() {
            None => format!(
                "node {owner} owns {block}, but no neighbour of this node says so: see manxctl status there, and manxctl \
                 bgp peers here"
            ),
            Some(_) => format!(
                "this node was told of {block}, but uses none of the paths: see manxctl bgp why {block}"
            ),
        });
    }
    let Some(route) = kernel else {
        return (!best.is_empty()).then(|| {
            "the speaker has a path, but the kernel has no route: see ROUTES in manxctl status".to_owned()
        });
    };
    if !best.is_empty() && !route.ours {
        return Some(foreign(route));
    }
    let missing = best.iter().filter_map(|path| path.next_hop).map(|hop| hop.addr.to_string());
    let unused: Vec<String> = missing
        .filter(|hop| !route.gateways.iter().any(|gateway| gateway.split('%').next() == Some(hop)))
        .collect();
    // A next hop that is no neighbour is reached by a router that is.
    (route.ours && !best.is_empty() && unused.len() == best.len() && route.gateways.is_empty())
        .then(|| format!("the speaker goes by {}, but the kernel takes {route}", unused.join(", ")))
}

/// For people.
pub fn render(traced: &Traced) -> String {
    let mut text = format!("{}\n", traced.address);
    for step in &traced.steps {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<13} {}", step.who, step.says);
    }
    let verdict = traced.disagreement.as_deref().unwrap_or("all agree");
    let _ = writeln!(text, "  {:<13} {verdict}", "verdict");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(next_hop: &str, verdict: &str) -> PathInfo {
        serde_json::from_value(serde_json::json!({
            "peer": "10.10.0.251", "peerName": "tor", "nextHop": next_hop, "asPath": "65001", "localPref": 100,
            "med": null, "communities": [], "verdict": verdict,
        }))
        .unwrap()
    }

    fn kernel(ours: bool, gateways: &[&str]) -> Option<KernelRoute> {
        Some(KernelRoute {
            destination: "10.244.3.0/26".to_owned(),
            ours,
            protocol: if ours { 77 } else { 4 },
            kind: "unicast".to_owned(),
            gateways: gateways.iter().map(|gateway| (*gateway).to_owned()).collect(),
            interface: None,
        })
    }

    fn known(owner: &str) -> Known {
        let block = ("10.244.3.0/26".parse().unwrap(), owner.to_owned());
        Known {
            node: Some("node1".to_owned()),
            block: Ok(Some(block)),
            paths: Ok(vec![path("10.10.0.251", "best")]),
            kernel: kernel(true, &["10.10.0.251"]),
            ..Known::default()
        }
    }

    fn verdict(known: &Known) -> Option<String> {
        judge("10.244.3.7".parse().unwrap(), known).disagreement
    }

    #[test]
    fn what_follows_from_each_other_agrees() {
        assert_eq!(verdict(&known("node2")), None);
        let here = Known {
            announced: true,
            pod: Some("manx1".to_owned()),
            kernel: Some(KernelRoute { interface: Some("manx1".to_owned()), ..kernel(true, &[]).unwrap() }),
            ..known("node1")
        };
        assert_eq!(verdict(&here), None);
        let text = render(&judge("10.244.3.7".parse().unwrap(), &known("node2")));
        for line in
            ["IPAMBlock 10.244.3.0/26 is owned by node node2", "by 10.10.0.251 from tor: best", "all agree"]
        {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn the_first_that_does_not_follow_is_named() {
        let told = |change: &dyn Fn(&mut Known), owner: &str| {
            let mut known = known(owner);
            change(&mut known);
            verdict(&known).unwrap()
        };
        assert!(told(&|it| it.paths = Ok(vec![]), "node2").contains("no neighbour of this node says so"));
        let refused = told(&|it| it.paths = Ok(vec![path("10.10.0.251", "refused: martian")]), "node2");
        assert!(refused.contains("manxctl bgp why"), "{refused}");
        assert!(told(&|it| it.kernel = None, "node2").contains("the kernel has no route"));
        assert!(told(&|it| it.kernel = kernel(false, &["10.10.0.9"]), "node2").contains("whoever made it"));
        assert!(told(&|it| it.kernel = kernel(true, &[]), "node2").contains("goes by 10.10.0.251"));
        assert!(told(&|it| it.announced = false, "node1").contains("does not announce it"));
        let elsewhere = told(&|it| it.pod = Some("manx1".to_owned()), "node1");
        assert!(elsewhere.contains("behind manx1"), "{elsewhere}");
    }
}

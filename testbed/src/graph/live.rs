//! What a running lab's own programs say of their sessions, each asked in its own way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::future::join_all;
use kube::Api;
use kube::api::ListParams;
use manx_bgp::api::{Reply, Request};
use manx_ipam::crd::IPAMBlock;
use serde_json::Value;

use super::{Picture, SessionPicture};
use crate::daemon;
use crate::lab::{Lab, LabError};
use crate::topology::Runs;

/// A neighbour and the name of its session's state.
type Neighbour = (IpAddr, String);

impl Picture {
    /// A running lab. What cannot be learned is left out: a picture of a broken lab is still of use.
    ///
    /// # Errors
    /// When the addresses of its nodes cannot be read.
    pub async fn of_lab(lab: &Lab) -> Result<Self, LabError> {
        let mut picture = Self::of_topology(lab.topology());
        picture.name = lab.name().to_owned();
        picture.live = true;
        for (name, node) in &mut picture.nodes {
            node.addresses = lab.addresses(name).await?.into_iter().map(|address| address.ip).collect();
            node.addresses.sort();
            node.pods = lab.pods().iter().filter(|pod| pod.node == *name).count();
            let daemons = lab.daemons(name)?.into_iter();
            let dead = daemons.filter(|daemon| !matches!(lab.pid(name, daemon), Ok(Some(_))));
            node.dead = dead.map(str::to_owned).collect();
        }
        for (node, block) in blocks(lab).await {
            if let Some(node) = picture.nodes.get_mut(&node) {
                node.blocks.push(block);
            }
        }
        picture.sessions = sessions(lab, &picture).await;
        Ok(picture)
    }
}

async fn blocks(lab: &Lab) -> Vec<(String, String)> {
    let Ok(client) = lab.client().await else { return vec![] };
    let blocks = Api::<IPAMBlock>::all(client).list(&ListParams::default()).await;
    let blocks = blocks.map(|list| list.items).unwrap_or_default();
    blocks.into_iter().map(|block| (block.spec.node, block.spec.cidr)).collect()
}

async fn sessions(lab: &Lab, picture: &Picture) -> BTreeMap<(String, String), SessionPicture> {
    let owners =
        picture.nodes.iter().flat_map(|(name, node)| node.addresses.iter().map(move |ip| (*ip, name)));
    let owners: BTreeMap<IpAddr, &String> = owners.collect();
    let asked = join_all(picture.nodes.iter().map(|(name, node)| neighbours(lab, name, node.runs))).await;
    let mut sessions: BTreeMap<(String, String), SessionPicture> = BTreeMap::new();
    for (name, neighbours) in picture.nodes.keys().zip(asked) {
        for (address, state) in neighbours {
            let Some(&other) = owners.get(&address) else { continue };
            let key = if name < other { (name, other) } else { (other, name) };
            let session = sessions.entry((key.0.clone(), key.1.clone()));
            let session = session.or_insert_with(|| SessionPicture { state: state.clone() });
            if session.is_up() {
                session.state = state;
            }
        }
    }
    sessions
}

/// The sessions of one node; none where its program does not answer.
async fn neighbours(lab: &Lab, node: &str, runs: Runs) -> Vec<Neighbour> {
    let ask = async |argv: &[&str]| lab.run(node, argv).await.unwrap_or_default();
    let json = async |argv: &[&str]| serde_json::from_str::<Value>(&ask(argv).await).unwrap_or_default();
    match runs {
        Runs::Bridge | Runs::Host | Runs::Exabgp | Runs::KubeApiserver => vec![],
        Runs::Manx | Runs::ManxBgpd => {
            let Ok(Reply::Status(status)) = lab.ask_bgpd(node, &Request::Status).await else { return vec![] };
            status
                .sessions
                .into_iter()
                .map(|session| (session.address.addr, session.state.to_string()))
                .collect()
        }
        Runs::Frr => frr(&json(&["vtysh", "-c", "show bgp summary json"]).await),
        Runs::Bird => bird(&ask(&["birdc", "show", "protocols", "all"]).await),
        Runs::Bird1 => {
            let mut both = vec![];
            for client in daemon::BIRDC1 {
                both.extend(bird(&ask(&[client, "show", "protocols", "all"]).await));
            }
            both
        }
        Runs::Gobgp => gobgp(&json(&["gobgp", "neighbor", "-j"]).await),
        Runs::Openbgpd => openbgpd(&json(&["bgpctl", "-j", "show", "neighbor"]).await),
    }
}

/// `show bgp summary json`: per family, peers by address.
fn frr(summary: &Value) -> Vec<Neighbour> {
    let families = summary.as_object().into_iter().flat_map(|families| families.values());
    let peers = families.filter_map(|family| family["peers"].as_object()).flatten();
    let known =
        peers.filter_map(|(address, peer)| Some((address.parse().ok()?, peer["state"].as_str()?.to_owned())));
    known.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// `birdc show protocols all`: a block of indented lines a protocol.
fn bird(text: &str) -> Vec<Neighbour> {
    let mut state = None;
    let mut found = vec![];
    for line in text.lines() {
        if let Some((_, value)) = line.split_once("BGP state:") {
            state = Some(value.trim().to_owned());
        } else if let Some((_, value)) = line.split_once("Neighbor address:")
            && let (Ok(address), Some(state)) = (value.trim().parse(), state.take())
        {
            found.push((address, state));
        }
    }
    found
}

/// `gobgp neighbor -j`: RFC 4271's states counted from Idle as 1.
fn gobgp(neighbours: &Value) -> Vec<Neighbour> {
    const STATES: [&str; 7] =
        ["Unknown", "Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"];
    let neighbours = neighbours.as_array().into_iter().flatten();
    let known = neighbours.filter_map(|neighbour| {
        let state = &neighbour["state"];
        let name = STATES.get(usize::try_from(state["session_state"].as_u64()?).ok()?)?;
        Some((state["neighbor_address"].as_str()?.parse().ok()?, (*name).to_owned()))
    });
    known.collect()
}

/// `bgpctl -j show neighbor`.
fn openbgpd(neighbours: &Value) -> Vec<Neighbour> {
    let neighbours = neighbours["neighbors"].as_array().into_iter().flatten();
    let known = neighbours.filter_map(|neighbour| {
        Some((neighbour["remote_addr"].as_str()?.parse().ok()?, neighbour["state"].as_str()?.to_owned()))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_frr_and_bird_are_understood() {
        let up: Neighbour = ("10.0.0.1".parse().unwrap(), "Established".into());
        let summary = serde_json::json!({
            "ipv4Unicast": { "as": 65001, "peers": { "10.0.0.1": { "state": "Established" } } },
            "ipv6Unicast": { "as": 65001, "peers": { "10.0.0.1": { "state": "Established" } } },
        });
        assert_eq!(frr(&summary), std::slice::from_ref(&up));
        let text = "BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\n\
                    device1    Device     ---        up     09:47:15.324\n\n\
                    a          BGP        ---        up     09:47:15.324  Established\n  \
                    BGP state:          Established\n    Neighbor address: 10.0.0.1\n    Neighbor AS:      65001\n";
        assert_eq!(bird(text), [up]);
    }
}

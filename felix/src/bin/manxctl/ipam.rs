//! Addresses: who has which, and whether all who should know agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use manx_felix::agent::lease::signs_of_life;
use manx_felix::dataplane::links;
use manx_felix::status::NodeReport;
use manx_ipam::claim::Claim;
use manx_ipam::crd::{Allocation, IPAMBlock};
use manx_ipam::pool::{self, Pool};
use manx_ipam::store::Store;
use manx_ipam::store::kube::KubeStore;
use serde::Serialize;

use super::cluster::{Objects, PoolSummary};
use super::table::{list, or_dash, table};

/// What `manxctl ipam show` tells.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    pub pools: Vec<PoolSummary>,
    pub blocks: Vec<ShownBlock>,
    pub addresses: Vec<ShownAddress>,
}

/// A block.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownBlock {
    pub cidr: String,
    pub pool: String,
    pub node: String,
    pub used: i64,
    pub free: i64,
    /// The block it was carved out of.
    pub parent: Option<String>,
}

/// An address that is held.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownAddress {
    pub address: String,
    /// `namespace/name`, or the container where the runtime did not say.
    pub pod: String,
    pub node: String,
    pub block: String,
}

/// What the cluster's objects say of an address, a pod (`namespace/name` or its name), a node or a pool; of all pools
/// where nothing is named.
///
/// # Errors
/// When there is nothing of that name.
pub fn show(objects: &Objects, target: Option<&str>) -> anyhow::Result<Shown> {
    let pools = super::cluster::summarise(objects).pools;
    let Some(target) = target else { return Ok(Shown { pools, ..Shown::default() }) };
    let address: Option<IpAddr> = target.parse().ok();
    let holds = |block: &IPAMBlock| {
        let range = Claim::try_from(block).ok().map(|claim| claim.cidr);
        range.zip(address).is_some_and(|(range, address)| range.contains(address))
    };
    let blocks: Vec<&IPAMBlock> = match address {
        Some(_) => objects.blocks.iter().filter(|block| holds(block)).collect(),
        None => {
            let of = |block: &&IPAMBlock| block.spec.node == target || block.spec.pool == target;
            objects.blocks.iter().filter(of).collect()
        }
    };
    let held = |of: &mut dyn Iterator<Item = &IPAMBlock>, wanted: &dyn Fn(&Allocation) -> bool| {
        let held = of.flat_map(|block| allocations(block).map(move |allocation| (block, allocation)));
        held.filter(|(_, allocation)| wanted(allocation))
            .map(|(block, it)| shown(block, it))
            .collect::<Vec<_>>()
    };
    let of_target = |it: &Allocation| pod_name(it) == target || it.pod == target;
    let addresses = match address {
        Some(_) => held(&mut blocks.iter().copied(), &|it| it.address.parse().ok() == address),
        None if blocks.is_empty() => held(&mut objects.blocks.iter(), &of_target),
        None => held(&mut blocks.iter().copied(), &|_| true),
    };
    let pools: Vec<PoolSummary> = match address {
        Some(address) => pools.into_iter().filter(|pool| covers(&pool.cidr, address)).collect(),
        None => pools.into_iter().filter(|pool| pool.name == target).collect(),
    };
    let known = objects.nodes.iter().any(|node| node.name_any() == target);
    if pools.is_empty() && blocks.is_empty() && addresses.is_empty() && !known {
        bail!(
            "there is no pool, node or pod with addresses called \"{target}\", and no pool holds such an address"
        );
    }
    let blocks = blocks.into_iter().map(|block| ShownBlock {
        cidr: block.spec.cidr.clone(),
        pool: block.spec.pool.clone(),
        node: block.spec.node.clone(),
        used: block.status.as_ref().map_or(0, |status| status.used),
        free: block.status.as_ref().map_or(0, |status| status.free),
        parent: block.spec.parent.as_ref().map(|parent| parent.cidr.clone()),
    });
    Ok(Shown { pools, blocks: blocks.collect(), addresses })
}

/// For people.
pub fn render(shown: &Shown) -> String {
    let mut text = String::new();
    let mut section = |title: &str, body: String| {
        let gap = if text.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{gap}{title}\n{body}");
    };
    let pools = shown.pools.iter().map(|pool| {
        let state = if pool.ready { "ready".to_owned() } else { or_dash(pool.reason.clone()) };
        let free = i64::try_from(pool.size).unwrap_or(i64::MAX).saturating_sub(pool.used).max(0);
        let numbers =
            [pool.size.to_string(), pool.used.to_string(), free.to_string(), pool.blocks.to_string()];
        let [size, used, free, blocks] = numbers;
        [pool.name.clone(), pool.cidr.clone(), size, used, free, blocks, state]
    });
    section("POOLS", table(["NAME", "CIDR", "SIZE", "USED", "FREE", "BLOCKS", "STATE"], pools));
    if !shown.blocks.is_empty() {
        let blocks = shown.blocks.iter().map(|block| {
            let (used, free) = (block.used.to_string(), block.free.to_string());
            [
                block.cidr.clone(),
                block.pool.clone(),
                block.node.clone(),
                used,
                free,
                or_dash(block.parent.clone()),
            ]
        });
        section("BLOCKS", table(["CIDR", "POOL", "NODE", "USED", "FREE", "CARVED OUT OF"], blocks));
    }
    if !shown.addresses.is_empty() || !shown.blocks.is_empty() {
        let addresses = shown.addresses.iter();
        let addresses =
            addresses.map(|it| [it.address.clone(), it.pod.clone(), it.node.clone(), it.block.clone()]);
        section("ADDRESSES", table(["ADDRESS", "POD", "NODE", "BLOCK"], addresses));
    }
    text
}

/// What this machine's agent and kernel say: only of the node manxctl runs on.
pub struct Here {
    pub report: NodeReport,
    /// Addresses the kernel leads to pods by routes of ours.
    pub routed: BTreeSet<IpAddr>,
}

impl Here {
    /// Of this node.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn new(report: NodeReport) -> anyhow::Result<Self> {
        let links = links::pod_links().context("reading the kernel's routes")?;
        Ok(Self { report, routed: links.into_iter().map(|(address, ..)| address).collect() })
    }
}

/// Everything that does not fit together, in words, in a fixed order.
pub fn discrepancies(objects: &Objects, here: Option<&Here>) -> Vec<String> {
    let mut found = Vec::new();
    let verdicts = pool::check_overlaps(&objects.pools);
    for (name, verdict) in &verdicts {
        found.extend(verdict.as_ref().err().map(|error| format!("IPPool {name}: {error}")));
    }
    let claims = claims(objects, &mut found);
    check_blocks(objects, &claims, &verdicts, &mut found);
    let held = check_allocations(objects, &claims, &mut found);
    check_pods(objects, &verdicts, &held, &mut found);
    if let Some(here) = here {
        check_here(objects, here, &mut found);
    }
    found
}

/// For people: each discrepancy a line, or what was compared and agrees.
pub fn render_check(found: &[String], objects: &Objects, here: Option<&Here>) -> String {
    if !found.is_empty() {
        return found.iter().map(|line| format!("{line}\n")).collect();
    }
    let also =
        here.map_or(String::new(), |here| format!(", and the agent and kernel of node {}", here.report.node));
    format!("{} blocks and {} pods agree{also}\n", objects.blocks.len(), objects.pods.len())
}

/// The blocks that are ones, by name.
fn claims<'a>(objects: &'a Objects, found: &mut Vec<String>) -> BTreeMap<String, (Claim, &'a IPAMBlock)> {
    let mut claims = BTreeMap::new();
    for block in &objects.blocks {
        match Claim::try_from(block) {
            Ok(claim) => _ = claims.insert(block.name_any(), (claim, block)),
            Err(error) => found.push(format!("IPAMBlock {}: {error}", block.name_any())),
        }
    }
    claims
}

fn check_blocks(
    objects: &Objects,
    claims: &BTreeMap<String, (Claim, &IPAMBlock)>,
    verdicts: &BTreeMap<String, Result<Pool, pool::PoolError>>,
    found: &mut Vec<String>,
) {
    let nodes: BTreeSet<String> = objects.nodes.iter().map(ResourceExt::name_any).collect();
    for (claim, _) in claims.values() {
        let Claim { cidr, pool, node, .. } = claim;
        if !nodes.contains(node) {
            found.push(format!("block {cidr} belongs to node {node}, and there is no such Node"));
        }
        match verdicts.get(pool) {
            None => found.push(format!("block {cidr} is of IPPool {pool}, and there is no such pool")),
            Some(Ok(of)) if !of.cidr.covers(cidr.cidr()) => {
                found.push(format!("block {cidr} is of IPPool {pool}, which is {}", of.cidr));
            }
            Some(_) => {}
        }
        // An orphan is used all the same: its parent's owner is gone.
        let others = claims.values().filter(|(other, _)| other.cidr != *cidr && claim.parent.is_none());
        let others: Vec<(&Claim, String)> =
            others.map(|(other, object)| (other, object.uid().unwrap_or_default())).collect();
        if let Err(crossed) = claim.stands(others.iter().map(|(other, uid)| (*other, uid.as_str()))) {
            found.extend(claim.parent.is_none().then(|| format!("block {cidr} of node {node}: {crossed}")));
        }
    }
}

/// Checks the mirrors against the pods. Returns who holds each address.
fn check_allocations<'a>(
    objects: &'a Objects,
    claims: &BTreeMap<String, (Claim, &'a IPAMBlock)>,
    found: &mut Vec<String>,
) -> BTreeMap<IpAddr, &'a Allocation> {
    let mut held: BTreeMap<IpAddr, &Allocation> = BTreeMap::new();
    for (claim, block) in claims.values() {
        for allocation in allocations(block) {
            let (cidr, who) = (claim.cidr, pod_name(allocation));
            let Ok(address) = allocation.address.parse::<IpAddr>() else {
                found.push(format!(
                    "block {cidr}: \"{}\", which {who} holds, is no address",
                    allocation.address
                ));
                continue;
            };
            if !cidr.contains(address) {
                found.push(format!("block {cidr}: {address}, which {who} holds, is outside it"));
            }
            if let Some(other) = held.insert(address, allocation) {
                found.push(format!("{address} is held twice: by {} and by {who}", pod_name(other)));
            }
            if allocation.pod.is_empty() {
                continue;
            }
            let same = |pod: &&Pod| {
                pod.namespace().as_deref() == Some(&allocation.namespace) && pod.name_any() == allocation.pod
            };
            match objects.pods.iter().find(same) {
                None => found.push(format!("{address} is held by pod {who}, and there is no such pod")),
                Some(pod) if !allocation.uid.is_empty() && pod.uid().as_deref() != Some(&allocation.uid) => {
                    found.push(format!("{address} is held by an earlier pod called {who}"));
                }
                Some(pod) => {
                    let ips = pod_ips(pod);
                    if !ips.is_empty() && !ips.contains(&address) {
                        found.push(format!(
                            "{address} is held by pod {who}, whose addresses are {}",
                            list(ips)
                        ));
                    }
                }
            }
        }
    }
    held
}

/// Pods that say they have an address of a pool, and nobody gave it to them.
fn check_pods(
    objects: &Objects,
    verdicts: &BTreeMap<String, Result<Pool, pool::PoolError>>,
    held: &BTreeMap<IpAddr, &Allocation>,
    found: &mut Vec<String>,
) {
    for pod in &objects.pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        if host || matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        for address in pod_ips(pod) {
            let of_pool = verdicts.values().flatten().any(|pool| pool.cidr.contains(address));
            if of_pool && !held.contains_key(&address) {
                let namespace = pod.namespace().unwrap_or_default();
                found.push(format!(
                    "pod {namespace}/{} has {address}, which no block says is held",
                    pod.name_any()
                ));
            }
        }
    }
}

/// The agent of this node against its objects and its kernel.
fn check_here(objects: &Objects, here: &Here, found: &mut Vec<String>) {
    let report = &here.report;
    let me = &report.node;
    let owned: BTreeSet<&str> = report.blocks.iter().map(|block| block.cidr.as_str()).collect();
    let mine = || objects.blocks.iter().filter(|block| block.spec.node == *me);
    let given: BTreeSet<&str> = mine().map(|block| block.spec.cidr.as_str()).collect();
    found.extend(given.difference(&owned).map(|cidr| {
        format!("block {cidr} is node {me}'s, and its agent does not use it: it is new, or being given back")
    }));
    found.extend(
        owned
            .difference(&given)
            .map(|cidr| format!("the agent of {me} uses block {cidr}, which is not its own")),
    );
    let mirrored: BTreeSet<IpAddr> =
        mine().flat_map(allocations).filter_map(|allocation| allocation.address.parse().ok()).collect();
    let held: BTreeSet<IpAddr> = report.pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
    found.extend(
        mirrored
            .difference(&held)
            .map(|ip| format!("{ip} is held by its block's status, not by the agent of {me}")),
    );
    found.extend(
        held.difference(&mirrored)
            .map(|ip| format!("{ip} is held by the agent of {me}, not by a block's status")),
    );
    let attached = report.pods.iter().filter(|pod| pod.state == "attached");
    let attached: BTreeSet<IpAddr> = attached.flat_map(|pod| pod.addresses.iter().copied()).collect();
    found.extend(
        attached
            .difference(&here.routed)
            .map(|ip| format!("{ip} is attached, and the kernel has no route to it")),
    );
    found.extend(
        here.routed
            .difference(&attached)
            .map(|ip| format!("the kernel leads {ip} to a pod the agent does not hold")),
    );
    for pod in report.pods.iter().filter(|pod| !pod.known && !pod.name.is_empty()) {
        let (namespace, name) = (&pod.namespace, &pod.name);
        found
            .push(format!("pod {namespace}/{name} is attached on {me}, and the API knows no such pod there"));
    }
}

/// Frees the blocks of a node that is gone: as agents do by themselves after a while.
///
/// # Errors
/// When the node or a pod of it is there, or the API says no.
pub async fn release_node(client: Client, objects: &Objects, node: &str) -> anyhow::Result<Vec<String>> {
    if let Some(sign) = signs_of_life(client.clone(), node).await.map_err(anyhow::Error::msg)? {
        bail!("the blocks of node {node} are not freed: {sign}");
    }
    let store = KubeStore::new(client);
    let mut freed = Vec::new();
    for block in objects.blocks.iter().filter(|block| block.spec.node == node) {
        let (uid, version) = (block.uid().unwrap_or_default(), block.resource_version());
        let deleted = store.delete_block(&block.name_any(), &uid, version.as_deref()).await;
        deleted.with_context(|| format!("freeing {}", block.spec.cidr))?;
        freed.push(block.spec.cidr.clone());
    }
    Ok(freed)
}

fn allocations(block: &IPAMBlock) -> impl Iterator<Item = &Allocation> {
    block.status.iter().flat_map(|status| &status.allocations)
}

fn shown(block: &IPAMBlock, allocation: &Allocation) -> ShownAddress {
    ShownAddress {
        address: allocation.address.clone(),
        pod: pod_name(allocation),
        node: block.spec.node.clone(),
        block: block.spec.cidr.clone(),
    }
}

fn pod_name(allocation: &Allocation) -> String {
    match allocation.pod.as_str() {
        "" => format!("container {}", allocation.container_id),
        pod => format!("{}/{pod}", allocation.namespace),
    }
}

fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    ips.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn covers(cidr: &str, address: IpAddr) -> bool {
    cidr.parse::<manx_ipam::Cidr>().is_ok_and(|cidr| cidr.contains(address))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use manx_felix::status::{BlockReport, PodReport};
    use manx_ipam::crd::IPPool;
    use serde_json::json;

    use super::*;

    fn allocation(address: &str, pod: &str) -> serde_json::Value {
        json!({"address": address, "containerId": "c", "ifname": "eth0", "namespace": "default", "pod": pod, "uid": ""})
    }

    fn block(cidr: &str, node: &str, allocations: &[serde_json::Value]) -> IPAMBlock {
        let name = cidr.parse::<manx_ipam::Cidr>().unwrap().object_name();
        let status =
            json!({"used": allocations.len(), "free": 64 - allocations.len(), "allocations": allocations});
        let spec = json!({"cidr": cidr, "pool": "default", "node": node});
        let object = json!({"apiVersion": "manx.io/v1alpha1", "kind": "IPAMBlock", "metadata": {"name": name}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn pod(name: &str, address: &str) -> Pod {
        let metadata = json!({"namespace": "default", "name": name, "uid": "u"});
        let status = json!({"phase": "Running", "podIPs": [{"ip": address}]});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    fn objects() -> Objects {
        let pool = json!({"apiVersion": "manx.io/v1alpha1", "kind": "IPPool", "metadata": {"name": "default"}, "spec": {"cidr": "10.0.0.0/16"}});
        let pool: IPPool = serde_json::from_value(pool).unwrap();
        Objects {
            nodes: vec![node("node1"), node("node2")],
            pools: vec![pool],
            blocks: vec![
                block("10.0.0.0/26", "node1", &[allocation("10.0.0.1", "web")]),
                block("10.0.0.64/26", "node2", &[]),
            ],
            pods: vec![pod("web", "10.0.0.1")],
            ..Objects::default()
        }
    }

    fn here() -> Here {
        let pod = PodReport {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            container_id: "c".to_owned(),
            ifname: "eth0".to_owned(),
            host_ifname: "manxa".to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            state: "attached".to_owned(),
            known: true,
        };
        let block = BlockReport {
            cidr: "10.0.0.0/26".to_owned(),
            pool: "default".to_owned(),
            used: 1,
            size: 64,
            acknowledged: true,
        };
        let report = NodeReport {
            node: "node1".to_owned(),
            blocks: vec![block],
            pods: vec![pod],
            ..NodeReport::default()
        };
        Here { report, routed: ["10.0.0.1".parse().unwrap()].into() }
    }

    #[test]
    fn where_all_agree_there_is_nothing_to_say() {
        assert_eq!(discrepancies(&objects(), Some(&here())), Vec::<String>::new());
        let said = render_check(&[], &objects(), Some(&here()));
        assert_eq!(said, "2 blocks and 1 pods agree, and the agent and kernel of node node1\n");
    }

    #[test]
    fn what_does_not_fit_together_is_said_in_words() {
        let mut objects = objects();
        objects.nodes.pop();
        objects.blocks.push(block("10.0.0.64/28", "node1", &[]));
        objects.blocks.push(block("10.9.0.0/26", "node1", &[allocation("10.0.0.1", "gone")]));
        objects.pods.push(pod("lost", "10.0.3.3"));
        let mut here = here();
        here.routed = ["10.0.0.9".parse().unwrap()].into();
        let found = discrepancies(&objects, Some(&here));
        for words in [
            "block 10.0.0.64/26 belongs to node node2, and there is no such Node",
            "block 10.0.0.64/26 of node node2: 10.0.0.64/28 of node node1 lies across it",
            "block 10.9.0.0/26 is of IPPool default, which is 10.0.0.0/16",
            "10.0.0.1 is held twice: by default/web and by default/gone",
            "10.0.0.1 is held by pod default/gone, and there is no such pod",
            "pod default/lost has 10.0.3.3, which no block says is held",
            "block 10.9.0.0/26 is node node1's, and its agent does not use it: it is new, or being given back",
            "10.0.0.1 is attached, and the kernel has no route to it",
            "the kernel leads 10.0.0.9 to a pod the agent does not hold",
        ] {
            assert!(found.iter().any(|said| said == words), "{words} is not in {found:#?}");
        }
    }

    #[test]
    fn an_address_a_pod_a_node_and_a_pool_are_found() {
        let objects = objects();
        let address = show(&objects, Some("10.0.0.1")).unwrap();
        assert_eq!(
            (address.addresses[0].pod.as_str(), address.blocks[0].node.as_str()),
            ("default/web", "node1")
        );
        assert_eq!(show(&objects, Some("default/web")).unwrap().addresses, address.addresses);
        assert_eq!(show(&objects, Some("node2")).unwrap().blocks[0].cidr, "10.0.0.64/26");
        assert_eq!(show(&objects, Some("default")).unwrap().blocks.len(), 2);
        assert_eq!(show(&objects, None).unwrap().pools.len(), 1);
        assert!(show(&objects, Some("nowhere")).unwrap_err().to_string().contains("\"nowhere\""));
        assert!(
            render(&address).contains("10.0.0.1   default/web   node1   10.0.0.0/26"),
            "{}",
            render(&address)
        );
    }
}

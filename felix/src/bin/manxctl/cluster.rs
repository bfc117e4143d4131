//! The cluster as its objects in the Kubernetes API tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use manx_felix::crd::{NodeStatus, SessionStatus};
use manx_ipam::crd::{AllowedUse, IPAMBlock, IPPool};
use manx_ipam::pool;
use serde::Serialize;

/// For each request, and to connect.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the agent's own kubeconfig lies on a node.
const NODE_KUBECONFIG: &str = "/etc/manx/kubeconfig";

/// Largest number JSON's readers keep exactly.
const LARGEST: u128 = 1 << 53;

/// Nodes and pools.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReport {
    /// In order of name.
    pub nodes: Vec<NodeSummary>,
    /// In order of name.
    pub pools: Vec<PoolSummary>,
}

/// A node: its `Node`, its `NodeStatus`, its blocks.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    pub name: String,
    /// Whether there is a `Node` of this name.
    pub registered: bool,
    /// Whether its agent has written a `NodeStatus`.
    pub reported: bool,
    /// Sessions up of all, as `4/4`.
    pub sessions: String,
    /// Those that are not up.
    pub sessions_down: Vec<SessionStatus>,
    /// Blocks it owns, by their objects.
    pub blocks: Vec<String>,
    /// Addresses held of those.
    pub used: i64,
    /// Routes of ours in its kernel.
    pub routes: i64,
    /// Pods attached.
    pub pods: i64,
    /// Its agent's version.
    pub version: String,
}

/// A pool and what is taken of it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSummary {
    pub name: String,
    pub cidr: String,
    /// Addresses; at most 2^53. None in a pool that cannot be used.
    pub size: u64,
    /// Addresses held by pods, or by Services.
    pub used: i64,
    /// Blocks owned by nodes.
    pub blocks: usize,
    /// Whether it can be used, and hands out addresses.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Everything the summary is made of.
#[derive(Default)]
pub struct Objects {
    pub nodes: Vec<Node>,
    pub statuses: Vec<NodeStatus>,
    pub pools: Vec<IPPool>,
    pub blocks: Vec<IPAMBlock>,
    /// Read only where they matter.
    pub pods: Vec<Pod>,
}

/// A client of the cluster's API, and where that is.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<(Client, String)> {
    let mut config = configuration(kubeconfig).await?;
    config.connect_timeout = Some(DEADLINE);
    config.read_timeout = Some(DEADLINE);
    let url = config.cluster_url.to_string();
    Ok((Client::try_from(config)?, url))
}

/// Reads the cluster.
pub async fn read(kubeconfig: Option<&Path>) -> anyhow::Result<ClusterReport> {
    let (client, url) = client(kubeconfig).await?;
    Ok(summarise(&objects(&client).await.with_context(|| format!("reading {url}"))?))
}

/// Reads the objects of the cluster, but for its pods.
pub async fn objects(client: &Client) -> kube::Result<Objects> {
    Ok(Objects {
        nodes: all(client).await?,
        statuses: all(client).await?,
        pools: all(client).await?,
        blocks: all(client).await?,
        pods: Vec::new(),
    })
}

/// By a kubeconfig, or as the pod it runs in.
pub async fn configuration(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let on_node = || Some(Path::new(NODE_KUBECONFIG)).filter(|path| path.exists());
    let path = match kubeconfig {
        Some(path) => Some(path),
        None if std::env::var_os("KUBECONFIG").is_some() => None,
        None => on_node(),
    };
    let Some(path) = path else { return Config::infer().await.context("no kubeconfig and not in a pod") };
    let file = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("kubeconfig {}", path.display()))
}

/// All objects of a kind.
pub async fn all<K>(client: &Client) -> kube::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let mut items = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

/// What the objects say together.
pub fn summarise(objects: &Objects) -> ClusterReport {
    ClusterReport { nodes: nodes(objects), pools: pools(objects) }
}

fn nodes(objects: &Objects) -> Vec<NodeSummary> {
    let registered: BTreeSet<String> = objects.nodes.iter().map(ResourceExt::name_any).collect();
    let reporting = objects.statuses.iter().map(ResourceExt::name_any);
    let owning = objects.blocks.iter().map(|block| block.spec.node.clone());
    let mut nodes: BTreeMap<String, NodeSummary> =
        (registered.iter().cloned().chain(reporting).chain(owning))
            .map(|name| {
                let registered = registered.contains(&name);
                (name.clone(), NodeSummary { name, registered, ..NodeSummary::default() })
            })
            .collect();
    for object in &objects.statuses {
        let Some(node) = nodes.get_mut(&object.name_any()) else { continue };
        node.reported = true;
        let Some(status) = &object.status else { continue };
        node.sessions = status.session_summary.clone();
        node.sessions_down = status.sessions.iter().filter(|it| it.state != "Established").cloned().collect();
        node.routes = status.routes;
        node.pods = status.pods;
        node.version = status.version.clone();
    }
    for block in &objects.blocks {
        let Some(node) = nodes.get_mut(&block.spec.node) else { continue };
        node.blocks.push(block.spec.cidr.clone());
        node.used += block.status.as_ref().map_or(0, |status| status.used);
    }
    nodes.into_values().collect()
}

fn pools(objects: &Objects) -> Vec<PoolSummary> {
    let verdicts = pool::check_overlaps(&objects.pools);
    let mut pools: Vec<PoolSummary> = objects
        .pools
        .iter()
        .map(|object| {
            let name = object.name_any();
            let verdict = verdicts.get(&name);
            let (size, reason) = match verdict {
                Some(Ok(pool)) => (pool.size(), pool.disabled.then(|| "disabled".to_owned())),
                Some(Err(error)) => (0, Some(error.to_string())),
                None => (0, None),
            };
            let blocks = || objects.blocks.iter().filter(|block| block.spec.pool == name);
            // Services have theirs of no block: who gives them counts.
            let by_services = object.spec.allowed_uses.contains(&AllowedUse::Services);
            let counted = object.status.as_ref().filter(|_| by_services).map(|status| status.used);
            let by_pods =
                || blocks().filter_map(|block| block.status.as_ref()).map(|status| status.used).sum();
            PoolSummary {
                cidr: object.spec.cidr.clone(),
                size: u64::try_from(size.min(LARGEST)).unwrap_or(u64::MAX),
                used: counted.unwrap_or_else(by_pods),
                blocks: blocks().count(),
                ready: reason.is_none(),
                reason,
                name,
            }
        })
        .collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    pools
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use manx_felix::crd::{NodeStatusSpec, NodeStatusStatus};
    use manx_ipam::crd::{IPAMBlockSpec, IPAMBlockStatus, IPPoolSpec, IPPoolStatus};

    use super::*;

    fn node(name: &str) -> Node {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Node { metadata, ..Node::default() }
    }

    fn pool(name: &str, cidr: &str, disabled: bool) -> IPPool {
        IPPool::new(name, IPPoolSpec { disabled, ..IPPoolSpec::new(cidr) })
    }

    fn block(name: &str, cidr: &str, node: &str, used: i64) -> IPAMBlock {
        let (cidr, pool, node) = (cidr.to_owned(), "default".to_owned(), node.to_owned());
        let spec = IPAMBlockSpec { cidr, pool, node, parent: None };
        let mut block = IPAMBlock::new(name, spec);
        block.status = Some(IPAMBlockStatus { used, free: 64 - used, ..IPAMBlockStatus::default() });
        block
    }

    /// Two nodes of which one has reported, one that is gone, and pools of every kind.
    pub fn small_cluster() -> ClusterReport {
        let mut status = NodeStatus::new("node1", NodeStatusSpec {});
        status.status = Some(NodeStatusStatus {
            conditions: Vec::new(),
            session_summary: "1/2".to_owned(),
            sessions: vec![
                SessionStatus {
                    state: "Established".to_owned(),
                    name: "tor1".to_owned(),
                    ..SessionStatus::default()
                },
                SessionStatus {
                    address: "10.0.0.2".to_owned(),
                    name: "tor2".to_owned(),
                    as_number: 65002,
                    state: "Down".to_owned(),
                    reason: Some("connection refused".to_owned()),
                },
            ],
            blocks: vec!["10.244.3.64/26".to_owned()],
            routes: 7,
            pods: 2,
            problems: Vec::new(),
            version: "0.1.0".to_owned(),
            policies: None,
        });
        summarise(&Objects {
            nodes: vec![node("node2"), node("node1")],
            statuses: vec![status],
            pools: vec![
                pool("six", "fd00:10:244::/48", false),
                pool("default", "10.244.0.0/16", false),
                pool("old", "10.245.0.0/16", true),
                pool("wrong", "10.246.0.5/16", false),
            ],
            blocks: vec![
                block("10-244-3-64-26", "10.244.3.64/26", "node1", 2),
                block("10-244-7-0-26", "10.244.7.0/26", "gone", 1),
            ],
            pods: Vec::new(),
        })
    }

    #[test]
    fn a_pool_is_as_full_as_its_blocks_say() {
        let cluster = small_cluster();
        let default = cluster.pools.iter().find(|pool| pool.name == "default").unwrap();
        assert_eq!((default.size, default.used, default.blocks, default.ready), (65536, 3, 2, true));
        let six = cluster.pools.iter().find(|pool| pool.name == "six").unwrap();
        assert_eq!(u128::from(six.size), LARGEST);
    }

    #[test]
    fn a_pool_of_services_is_as_full_as_who_gives_them_says() {
        let mut services = pool("services", "192.0.2.0/24", false);
        services.spec.allowed_uses = vec![AllowedUse::Services];
        services.status = Some(IPPoolStatus { used: 3, ..IPPoolStatus::default() });
        let (nodes, pods) = (Vec::new(), Vec::new());
        let objects =
            Objects { nodes, statuses: Vec::new(), pools: vec![services], blocks: Vec::new(), pods };
        let pools = pools(&objects);
        assert_eq!((pools[0].used, pools[0].size, pools[0].ready), (3, 256, true));
    }

    #[test]
    fn a_pool_that_cannot_be_used_says_why() {
        let cluster = small_cluster();
        let reason =
            |name: &str| cluster.pools.iter().find(|pool| pool.name == name).unwrap().reason.clone().unwrap();
        assert_eq!(reason("old"), "disabled");
        assert_eq!(
            reason("wrong"),
            "spec.cidr: 10.246.0.5/16 has host bits set: did you mean 10.246.0.0/16?"
        );
    }

    #[test]
    fn a_node_is_shown_if_anything_speaks_of_it() {
        let cluster = small_cluster();
        let seen: Vec<(&str, bool, bool)> =
            cluster.nodes.iter().map(|node| (node.name.as_str(), node.registered, node.reported)).collect();
        assert_eq!(seen, [("gone", false, false), ("node1", true, true), ("node2", true, false)]);
    }
}

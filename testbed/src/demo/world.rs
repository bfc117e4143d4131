//! The lab as the checks see it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Api;
use kube::api::ListParams;
use manx_bgp::api::SessionState;
use manx_cni::protocol::{self, Reply, Request, read_frame, write_frame};
use manx_felix::status::NodeReport;
use manx_ipam::crd::IPAMBlock;
use tokio::process::Child;

use crate::eventually;
use crate::lab::Lab;
use crate::pod::PodInfo;
use crate::terminal::say;

/// The Manx nodes.
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// Sessions a node has: two other nodes, two routers.
const SESSIONS: usize = 4;
/// How long things may take that take milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The lab, its pods, and what is known of its nodes.
pub struct World {
    pub lab: Lab,
    pub pods: Vec<PodInfo>,
    /// Each node's addresses on the rack.
    pub nodes: BTreeMap<&'static str, Vec<IpAddr>>,
    /// The address the client is known by, of each family.
    pub client: Vec<IpAddr>,
    /// The echo services in the pods and the client; they end with the world.
    services: Vec<Child>,
}

impl World {
    pub async fn new(lab: Lab) -> anyhow::Result<Self> {
        let mut nodes = BTreeMap::new();
        for node in NODES {
            nodes.insert(node, lab.rack_addresses(node).await?);
        }
        let addresses = lab.addresses("client").await?;
        let client =
            addresses.into_iter().filter(|address| address.interface == "lo").map(|address| address.ip);
        let client = client.collect();
        let services = vec![lab.spawn("client", &["manx-lab", "echo"])?];
        Ok(Self { lab, pods: vec![], nodes, client, services })
    }

    /// What a node's agent says of it.
    pub async fn report(&self, node: &str) -> anyhow::Result<NodeReport> {
        let socket = self.lab.node_folder(node).join("run/manx/agent.sock");
        let ask = move || -> anyhow::Result<NodeReport> {
            let mut stream = UnixStream::connect(&socket).with_context(|| format!("{}", socket.display()))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write_frame(&mut stream, &Request::Status { version: protocol::VERSION })?;
            match read_frame(&mut stream)? {
                Some(Reply::Status { report }) => Ok(serde_json::from_value(report)?),
                other => bail!("the agent answered {other:?}"),
            }
        };
        tokio::task::spawn_blocking(ask).await?
    }

    /// Waits until each node has all its sessions; says which have not.
    pub async fn sessions_up(&self) -> Vec<Result<(), String>> {
        let mut outcomes = vec![];
        for node in NODES {
            let all_up = || async {
                let report = self.report(node).await.map_err(|error| error.to_string())?;
                let sessions = report.speaker.sessions;
                let down = sessions.iter().filter(|session| session.state != SessionState::Established);
                let down: Vec<_> =
                    down.map(|session| format!("{} is {}", session.name, session.state)).collect();
                if down.is_empty() && sessions.len() == SESSIONS {
                    return Ok(());
                }
                Err(format!("{node} has {} sessions; {}", sessions.len(), down.join(", ")))
            };
            let up = eventually(PATIENCE, all_up).await.map_err(|late| late.to_string());
            outcomes.extend(vec![up; SESSIONS]);
        }
        outcomes
    }

    pub fn sessions_in_words(&self) -> &'static str {
        "3 nodes: 2 × iBGP and 2 × eBGP each"
    }

    /// Starts two pods a node with an echo service in each.
    pub async fn start_pods(&mut self) -> anyhow::Result<Vec<Result<(), String>>> {
        let mut outcomes = vec![];
        for node in NODES {
            for letter in ["a", "b"] {
                let name = format!("{node}-{letter}");
                let pod = self.lab.pod_add(node, "default", &name).await?;
                say(format_args!("    {name}: {}", words(&pod.addresses)));
                let families = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|of| pod.addresses.iter().any(of));
                let both = families == [true, true];
                outcomes
                    .push(both.then_some(()).ok_or_else(|| format!("{name} has {}", words(&pod.addresses))));
                self.services.push(self.lab.pod_spawn(&pod, &["manx-lab", "echo"])?);
                self.pods.push(pod);
            }
        }
        Ok(outcomes)
    }

    /// All blocks, as the Kubernetes API has them: range and node.
    pub async fn blocks(&self) -> anyhow::Result<Vec<(String, String)>> {
        let api: Api<IPAMBlock> = Api::all(self.lab.client().await?);
        let blocks = api.list(&ListParams::default()).await?;
        Ok(blocks.into_iter().map(|block| (block.spec.cidr, block.spec.node)).collect())
    }

    /// A pod of a node.
    pub fn pod_on(&self, node: &str) -> anyhow::Result<&PodInfo> {
        self.pods.iter().find(|pod| pod.node == node).with_context(|| format!("no pod on {node}"))
    }
}

/// Addresses with commas.
pub fn words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

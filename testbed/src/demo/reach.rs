//! Who reaches whom, with real packets.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;

use super::Report;
use super::world::World;
use crate::echo;
use crate::pod::PodInfo;

/// How many probes run at once: enough to be quick, few enough not to be the load themselves.
const AT_ONCE: usize = 8;

/// Pings from every pod to every other pod, and from every node to every pod.
pub async fn pods_and_nodes(world: &World, report: &mut Report) {
    for family in [Family::V4, Family::V6] {
        let mut probes = vec![];
        for from in &world.pods {
            for to in world.pods.iter().filter(|to| to.name != from.name) {
                probes.push(ping_from_pod(world, from, to, family));
            }
        }
        report.check(&format!("every pod pings every other pod, {}", family.name()), "", all(probes).await);
    }
    for family in [Family::V4, Family::V6] {
        let mut probes = vec![];
        for node in world.nodes.keys() {
            for to in &world.pods {
                probes.push(ping_from_node(world, node, to, family));
            }
        }
        report.check(&format!("every node pings every pod, {}", family.name()), "", all(probes).await);
    }
}

/// TCP from the client to every pod and from every pod to the client; each side sees the other's own address.
pub async fn client(world: &World, report: &mut Report) {
    for family in [Family::V4, Family::V6] {
        let inward = world.pods.iter().map(|pod| client_to_pod(world, pod, family));
        let outcomes = all(inward.collect()).await;
        report.check(
            &format!("the client reaches every pod over TCP, {}", family.name()),
            seen(world, family),
            outcomes,
        );
    }
    for family in [Family::V4, Family::V6] {
        let outward = world.pods.iter().map(|pod| pod_to_client(world, pod, family));
        let outcomes = all(outward.collect()).await;
        report.check(
            &format!("every pod reaches the client over TCP, {}", family.name()),
            "each seen by its own address",
            outcomes,
        );
    }
}

/// From the client to a pod: the pod must see the client's address.
pub async fn client_to_pod(world: &World, pod: &PodInfo, family: Family) -> Result<(), String> {
    let (own, to) = (family.pick(&world.client)?, family.pick(&pod.addresses)?);
    let argv = ["manx-lab", "probe", &SocketAddr::new(to, echo::PORT).to_string()].map(str::to_owned);
    let said = world.lab.run("client", &argv).await.map_err(|error| error.to_string())?;
    same(&said, own, &format!("{}, called by the client,", pod.name))
}

/// From a pod to the client: the client must see the pod's address.
pub async fn pod_to_client(world: &World, pod: &PodInfo, family: Family) -> Result<(), String> {
    let (own, to) = (family.pick(&pod.addresses)?, family.pick(&world.client)?);
    let to = SocketAddr::new(to, echo::PORT).to_string();
    let said =
        world.lab.pod_run(pod, &["manx-lab", "probe", &to]).await.map_err(|error| error.to_string())?;
    same(&said, own, &format!("the client, called by {},", pod.name))
}

async fn ping_from_pod(world: &World, from: &PodInfo, to: &PodInfo, family: Family) -> Result<(), String> {
    let address = family.pick(&to.addresses)?.to_string();
    let pinged = world.lab.pod_run(from, &["ping", "-n", "-q", "-c1", "-W2", &address]).await;
    pinged.map(drop).map_err(|_| format!("{} does not reach {} ({address})", from.name, to.name))
}

async fn ping_from_node(world: &World, node: &str, to: &PodInfo, family: Family) -> Result<(), String> {
    let address = family.pick(&to.addresses)?.to_string();
    let pinged = world.lab.run(node, &["ping", "-n", "-q", "-c1", "-W2", &address]).await;
    pinged.map(drop).map_err(|_| format!("{node} does not reach {} ({address})", to.name))
}

fn same(said: &str, expected: IpAddr, who: &str) -> Result<(), String> {
    match said.trim() == expected.to_string() {
        true => Ok(()),
        false => Err(format!("{who} saw {} instead of {expected}", said.trim())),
    }
}

fn seen(world: &World, family: Family) -> String {
    family.pick(&world.client).map(|own| format!("seen as {own}")).unwrap_or_default()
}

/// Waits for all probes, a few at a time.
pub async fn all<F: Future<Output = Result<(), String>>>(probes: Vec<F>) -> Vec<Result<(), String>> {
    futures::stream::iter(probes).buffered(AT_ONCE).collect().await
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address of this family.
    pub fn pick(self, addresses: &[IpAddr]) -> Result<IpAddr, String> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == (self == Self::V4);
        addresses.iter().find(of_family).copied().ok_or_else(|| format!("no {} address", self.name()))
    }
}

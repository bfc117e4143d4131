//! CHECK: is an attachment still what its ADD gave? The pod's namespace, the node and the agent are each compared with
//! `prevResult`, and every difference is told.
//!
//! Plugins later in the chain may change what they list in the result, and may lower the pod's MTU without listing it;
//! neither is a difference.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::client::{Agent, AgentError};
use crate::config::Config;
use crate::inspect::{self, End};
use crate::netlink::Netlink;
use crate::netns::Netns;
use crate::protocol::{
    Attached, AttachmentKey, GATEWAY_V4, GATEWAY_V6, Reply, Request, VERSION, host_ifname,
};
use crate::spec::{CniError, code, format_mac, parse_mac};
use crate::veth::{HOST_MAC, gateway_of};

/// What `prevResult` says this plugin made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    ifname: String,
    host_ifname: String,
    mac: [u8; 6],
    /// Of the pod's end and of the host's; not said before 1.1.0.
    mtus: [Option<u32>; 2],
    addresses: Vec<IpNetwork>,
    /// Those by this plugin's gateways.
    routes: Vec<(IpNetwork, IpAddr)>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    pod: Option<End>,
    host: Option<End>,
    /// For each address given, the node's route to it.
    host_routes: Vec<Option<(IpNetwork, Option<u32>)>>,
    agent: Option<Attached>,
}

/// Compares an attachment with what its ADD gave.
///
/// # Errors
/// Code 102 and every difference; 3 when nothing of it is there at all; 7 when `prevResult` is missing or lists no
/// such interface; 4, 5 or the agent's when something cannot be looked at.
pub fn check(config: &Config, key: AttachmentKey, netns: &str) -> Result<(), CniError> {
    let given = Given::read(config, &key)?;
    let agent = attached(Path::new(&config.agent_socket), &key)?;
    let seen = Seen::look(&given, agent, netns)
        .map_err(|error| CniError::new(code::IO, "cannot look at the attachment", error))?;
    if seen.pod.is_none() && seen.host.is_none() && seen.agent.is_none() {
        let details = format!("{} of container {} is not attached", key.ifname, key.container_id);
        return Err(CniError::new(code::UNKNOWN_CONTAINER, "unknown container", details));
    }
    let differences = differences(&given, &seen);
    if differences.is_empty() {
        return Ok(());
    }
    Err(CniError::new(code::DIFFERENT, "the attachment is not as it was made", differences.join("; ")))
}

/// What the agent holds; `None` when it knows of no such attachment.
fn attached(socket: &Path, key: &AttachmentKey) -> Result<Option<Attached>, AgentError> {
    let mut agent = Agent::connect(socket, Duration::ZERO)?;
    match agent.ask(&Request::Check { version: VERSION, key: key.clone() }) {
        Ok(Reply::Attached(attached)) => Ok(Some(attached)),
        Ok(other) => Err(AgentError::OutOfTurn(Box::new(other))),
        Err(AgentError::Refused { code: code::UNKNOWN_CONTAINER, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A result of any version: those differ in what this does not look at.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    interfaces: Vec<ListedInterface>,
    #[serde(default)]
    ips: Vec<ListedIp>,
    #[serde(default)]
    routes: Vec<ListedRoute>,
}

#[derive(Deserialize)]
struct ListedInterface {
    name: String,
    #[serde(default)]
    mac: String,
    mtu: Option<u32>,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct ListedIp {
    address: IpNetwork,
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct ListedRoute {
    dst: IpNetwork,
    gw: Option<IpAddr>,
}

impl Given {
    fn read(config: &Config, key: &AttachmentKey) -> Result<Self, CniError> {
        let invalid =
            |details: String| CniError::new(code::INVALID_CONFIG, "invalid network configuration", details);
        let previous = config.previous.clone();
        let previous = previous.ok_or_else(|| {
            invalid("prevResult is not set; a CHECK compares with what the ADD gave".into())
        })?;
        let listed: Listed = serde_json::from_value(previous)
            .map_err(|error| invalid(format!("prevResult cannot be read: {error}")))?;
        let place = |name: &str, inside: bool| {
            listed.interfaces.iter().position(|one| one.name == name && one.sandbox.is_empty() != inside)
        };
        let pod = place(&key.ifname, true)
            .ok_or_else(|| invalid(format!("prevResult lists no interface {} in a container", key.ifname)))?;
        let mac = &listed.interfaces[pod].mac;
        let mac = parse_mac(mac)
            .ok_or_else(|| invalid(format!("prevResult says that {} has the MAC {mac:?}", key.ifname)))?;
        let host_ifname = host_ifname(key);
        let host_mtu = place(&host_ifname, false).and_then(|host| listed.interfaces[host].mtu);
        let ours = |gateway: &IpAddr| [IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6)].contains(gateway);
        let addresses = listed.ips.iter().filter(|ip| ip.interface.is_none_or(|place| place == pod));
        let routes = listed.routes.iter().filter_map(|route| Some((route.dst, route.gw.filter(ours)?)));
        Ok(Self {
            ifname: key.ifname.clone(),
            host_ifname,
            mac,
            mtus: [listed.interfaces[pod].mtu, host_mtu],
            addresses: addresses.map(|ip| ip.address).collect(),
            routes: routes.collect(),
        })
    }
}

impl Seen {
    /// Looks, or says in words what cannot be looked at.
    fn look(given: &Given, agent: Option<Attached>, netns: &str) -> Result<Self, String> {
        let namespace = Netns::open(Path::new(netns)).map_err(|error| error.to_string())?;
        let mut inside = namespace
            .run(Netlink::open)
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("cannot open a netlink socket: {error}"))?;
        let words = |error| format!("the kernel does not say what there is: {error}");
        let pod = inspect::end(&mut inside, &given.ifname).map_err(words)?;
        let mut node = Netlink::open().map_err(|error| format!("cannot open a netlink socket: {error}"))?;
        let host = inspect::end(&mut node, &given.host_ifname).map_err(words)?;
        let routes = given.addresses.iter().map(|address| inspect::route_to(&mut node, address.ip()));
        let host_routes = routes.collect::<Result<_, _>>().map_err(words)?;
        Ok(Self { pod, host, host_routes, agent })
    }
}

/// Every difference, in words.
fn differences(given: &Given, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    match &seen.pod {
        Some(pod) => pod_differences(given, pod, seen.host.as_ref(), &mut found),
        None => found.push(format!("the container has no interface {}", given.ifname)),
    }
    match &seen.host {
        Some(host) => host_differences(given, host, &seen.host_routes, &mut found),
        None => found.push(format!("the node has no interface {}", given.host_ifname)),
    }
    match &seen.agent {
        Some(agent) => agent_differences(given, agent, seen.host.as_ref(), &mut found),
        None => found.push("the agent knows of no such attachment".to_owned()),
    }
    found
}

fn pod_differences(given: &Given, pod: &End, host: Option<&End>, found: &mut Vec<String>) {
    let ifname = &given.ifname;
    if !pod.up {
        found.push(format!("{ifname} in the container is down"));
    }
    if pod.mac != given.mac {
        found.push(format!("{ifname} has the MAC {}, not {}", format_mac(pod.mac), format_mac(given.mac)));
    }
    if let Some(mtu) = given.mtus[0]
        && pod.mtu > mtu
    {
        found.push(format!("{ifname} has an MTU of {}, more than the {mtu} it was given", pod.mtu));
    }
    if let Some(host) = host
        && pod.peer != host.index
    {
        found.push(format!("{ifname} is not the other end of {}", given.host_ifname));
    }
    for address in &given.addresses {
        if !pod.addresses.contains(address) {
            found.push(format!("{ifname} has no usable address {address}"));
        }
        let gateway = gateway_of(address.ip());
        if !pod.neighbours.contains(&(gateway, HOST_MAC)) {
            found.push(format!("{ifname} has no permanent neighbour {gateway}"));
        }
        let link_route = (IpNetwork::from(gateway), None);
        if address.is_ipv4() && !pod.routes.contains(&link_route) {
            found.push(format!("the container has no link route to {gateway}"));
        }
    }
    for (destination, gateway) in &given.routes {
        if !pod.routes.contains(&(*destination, Some(*gateway))) {
            found.push(format!("the container has no route to {destination} by {gateway}"));
        }
    }
}

fn host_differences(
    given: &Given,
    host: &End,
    routes: &[Option<(IpNetwork, Option<u32>)>],
    found: &mut Vec<String>,
) {
    let ifname = &given.host_ifname;
    if !host.up {
        found.push(format!("{ifname} on the node is down"));
    }
    if host.mac != HOST_MAC {
        found.push(format!("{ifname} has the MAC {}, not {}", format_mac(host.mac), format_mac(HOST_MAC)));
    }
    if let Some(mtu) = given.mtus[1]
        && host.mtu != mtu
    {
        found.push(format!("{ifname} has an MTU of {}, not {mtu}", host.mtu));
    }
    let gateway = IpAddr::from(GATEWAY_V6);
    if given.addresses.iter().any(IpNetwork::is_ipv6)
        && !host.addresses.iter().any(|address| address.ip() == gateway)
    {
        found.push(format!("{ifname} has no usable address {gateway}"));
    }
    for (address, route) in given.addresses.iter().zip(routes) {
        let ip = address.ip();
        if !host.neighbours.contains(&(ip, given.mac)) {
            found.push(format!("{ifname} has no permanent neighbour {ip} with the container's MAC"));
        }
        if *route != Some((IpNetwork::from(ip), Some(host.index))) {
            found.push(format!("the node's route to {ip} does not lead to {ifname}"));
        }
    }
}

fn agent_differences(given: &Given, agent: &Attached, host: Option<&End>, found: &mut Vec<String>) {
    let words = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let sorted = |mut ips: Vec<IpAddr>| {
        ips.sort_unstable();
        ips
    };
    let listed = sorted(given.addresses.iter().map(IpNetwork::ip).collect());
    let held = sorted(agent.addresses.clone());
    if listed != held {
        found.push(format!("the agent holds the addresses {}, not {}", words(&held), words(&listed)));
    }
    if let Some(host) = host
        && host.index != agent.host_ifindex
    {
        let index = agent.host_ifindex;
        found.push(format!("the agent knows {} as interface {index}, not {}", given.host_ifname, host.index));
    }
}

#[cfg(test)]
mod tests;

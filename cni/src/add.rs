//! ADD: attach a container.

use std::path::Path;

use serde_json::Value;

use crate::client::{ADD_PATIENCE, Agent, AgentError};
use crate::config::Config;
use crate::environment::{Args, wrong};
use crate::netns::{Netns, NetnsError};
use crate::protocol::{AttachmentKey, Reply, Request, VERSION, pod_mac};
use crate::spec::{CniError, add_document, code};
use crate::veth::{self, Veth};

/// Attaches a container and returns the result document.
///
/// # Errors
/// [`CniError`]; the interface is gone again, and the agent undoes its part when the connection ends.
pub fn add(config: &Config, key: AttachmentKey, netns: &str, args: Args) -> Result<Value, CniError> {
    if config.previous.is_some() {
        let details =
            "prevResult is set; manx makes the pod's interface and must be the first plugin of its list";
        return Err(CniError::new(code::INVALID_CONFIG, "invalid network configuration", details));
    }
    if let Some(field) = &config.unsupported {
        let details = format!("runtimeConfig asks for {field}, which this version of manx does not do");
        return Err(CniError::new(code::UNSUPPORTED_FIELD, "unsupported field", details));
    }
    let namespace = open(netns)?;
    let ifname = key.ifname.clone();
    let mac = config.mac.or(args.mac).unwrap_or_else(|| pod_mac(&key));
    let mut agent = Agent::connect(Path::new(&config.agent_socket), ADD_PATIENCE)?;
    let asked = if config.ips.is_empty() { args.ip.into_iter().collect() } else { config.ips.clone() };
    let request = Request::Add {
        version: VERSION,
        key,
        pod: args.pod,
        netns: netns.to_owned(),
        network: config.name.clone(),
        ips: asked,
    };
    let mut attach = match agent.ask(&request)? {
        Reply::Attach(attach) => attach,
        other => return Err(AgentError::OutOfTurn(Box::new(other)).into()),
    };
    attach.mtu = config.mtu.unwrap_or(attach.mtu);
    let veth = match veth::create(&attach, &namespace, &ifname, mac) {
        Ok(veth) => veth,
        Err(error) => {
            agent.fail(&error);
            return Err(CniError::new(code::INTERFACE, "cannot make the interface", error.to_string()));
        }
    };
    program(&mut agent, &veth).inspect_err(|_| {
        // The failure that made us give up is the one to tell; the runtime's DEL finds the interface by name.
        let _ = veth::delete(&attach.host_ifname);
    })?;
    Ok(add_document(config, &attach, &veth, &ifname, netns))
}

fn open(netns: &str) -> Result<Netns, CniError> {
    Netns::open(Path::new(netns)).map_err(|error| match error {
        NetnsError::Open { ref source, .. } => {
            wrong("CNI_NETNS", netns, &format!("it cannot be opened: {source}"))
        }
        NetnsError::NotANamespace(_) => wrong("CNI_NETNS", netns, "that is a file, not a network namespace"),
        NetnsError::Own(_) => {
            wrong("CNI_NETNS", netns, "that is the node's own network namespace, not a pod's")
        }
        NetnsError::Enter(_) => {
            CniError::new(code::INTERFACE, "cannot make the interface", error.to_string())
        }
    })
}

/// Waits until the pod can be reached.
fn program(agent: &mut Agent, veth: &Veth) -> Result<(), AgentError> {
    let ready = Request::Ready { pod_mac: veth.pod_mac, host_ifindex: veth.host_ifindex };
    match agent.ask(&ready)? {
        Reply::Programmed => Ok(()),
        other => Err(AgentError::OutOfTurn(Box::new(other))),
    }
}

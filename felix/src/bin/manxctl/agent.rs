//! Asks this node's agent.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use manx_cni::client::Agent;
use manx_cni::protocol::{Reply, Request, VERSION};
use manx_felix::status::NodeReport;

/// The agent's report of its node.
pub fn report(socket: &Path) -> anyhow::Result<NodeReport> {
    match Agent::connect(socket, Duration::ZERO)?.ask(&Request::Status { version: VERSION })? {
        Reply::Status { report } => serde_json::from_value(report)
            .context("the agent's report cannot be read: is manxctl of its version?"),
        reply => bail!("the agent answered out of turn: {reply:?}"),
    }
}

/// Frees an address of this node whose pod is gone; says who held it.
///
/// # Errors
/// The agent's, in words.
pub fn free(socket: &Path, address: IpAddr) -> anyhow::Result<String> {
    match Agent::connect(socket, Duration::ZERO)?.ask(&Request::Free { version: VERSION, address })? {
        Reply::Freed { holder } => Ok(holder),
        reply => bail!("the agent answered out of turn: {reply:?}"),
    }
}

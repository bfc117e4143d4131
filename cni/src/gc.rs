//! GC: remove what this network has attached and the runtime does not know any more.

use std::path::Path;
use std::time::Duration;

use crate::client::{Agent, AgentError};
use crate::config::Config;
use crate::del::del;
use crate::protocol::{AttachmentKey, Reply, Request, VERSION};
use crate::spec::{CniError, code};

/// Ends every attachment of this network that `cni.dev/valid-attachments` does not name, each as a DEL would.
/// An ADD on its way is left alone: its own end undoes it.
///
/// # Errors
/// Code 7 without a list; the agent's; otherwise the code of the first attachment that could not be ended, and why
/// each of those could not: the others are gone.
pub fn gc(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid else {
        let details = "cni.dev/valid-attachments is not set; without it nothing can be told to be garbage";
        return Err(CniError::new(code::INVALID_CONFIG, "invalid network configuration", details));
    };
    let stale = stale(config, valid)?;
    let failures: Vec<(AttachmentKey, CniError)> = stale
        .iter()
        .filter_map(|key| del(config, key.clone()).err().map(|error| (key.clone(), error)))
        .collect();
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let words =
        failures.iter().map(|(key, error)| format!("{} of {}: {error}", key.ifname, key.container_id));
    let details = words.collect::<Vec<_>>().join("; ");
    let msg = format!("{} of {} stale attachments could not be removed", failures.len(), stale.len());
    Err(CniError::new(first.code, msg, details))
}

fn stale(config: &Config, valid: &[AttachmentKey]) -> Result<Vec<AttachmentKey>, AgentError> {
    let mut agent = Agent::connect(Path::new(&config.agent_socket), Duration::ZERO)?;
    let request = Request::Gc { version: VERSION, network: config.name.clone(), valid: valid.to_vec() };
    match agent.ask(&request)? {
        Reply::Stale { attachments } => Ok(attachments),
        other => Err(AgentError::OutOfTurn(Box::new(other))),
    }
}

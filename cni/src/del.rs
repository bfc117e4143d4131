//! DEL: detach a container. It succeeds with the namespace, the interface, the agent or all of them gone.

use std::path::Path;
use std::time::Duration;

use crate::client::{Agent, AgentError};
use crate::config::Config;
use crate::protocol::{AttachmentKey, Reply, Request, VERSION, host_ifname};
use crate::released;
use crate::spec::{CniError, code};
use crate::veth;

/// Detaches a container. One never attached is success.
///
/// # Errors
/// Code 100 when the kernel keeps the interface; the agent's when it refuses; code 5 when the agent is away and not
/// even a note can be left for it. The runtime tries again.
pub fn del(config: &Config, key: AttachmentKey) -> Result<(), CniError> {
    // First the interface, by the name its key gives: removing either end removes both, and then nothing can use
    // the address any more when the agent frees it.
    veth::delete(&host_ifname(&key))
        .map_err(|error| CniError::new(code::INTERFACE, "cannot remove the interface", error.to_string()))?;
    let socket = Path::new(&config.agent_socket);
    match release(socket, &key) {
        Ok(()) => Ok(()),
        Err(error @ (AgentError::Refused { .. } | AgentError::OutOfTurn(_))) => Err(error.into()),
        Err(away) => released::leave(socket, &key).map_err(|error| {
            let folder = released::folder(socket);
            CniError::new(
                code::IO,
                "cannot leave a note for the agent",
                format!("{away}; {folder:?}: {error}"),
            )
        }),
    }
}

fn release(socket: &Path, key: &AttachmentKey) -> Result<(), AgentError> {
    let mut agent = Agent::connect(socket, Duration::ZERO)?;
    match agent.ask(&Request::Del { version: VERSION, key: key.clone() })? {
        Reply::Deleted => Ok(()),
        other => Err(AgentError::OutOfTurn(Box::new(other))),
    }
}

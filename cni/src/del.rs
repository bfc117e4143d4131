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
/// The agent ends what leads to the interface, takes it down, and removes it after that, many at once: the kernel makes
/// whoever removes one wait for some 20 ms. Without the agent that is done here.
///
/// # Errors
/// Code 100 when the kernel keeps the interface; the agent's when it refuses; code 5 when the agent is away and not
/// even a note can be left for it. The runtime tries again.
pub fn del(config: &Config, key: AttachmentKey) -> Result<(), CniError> {
    let socket = Path::new(&config.agent_socket);
    let Err(error) = release(socket, &key) else { return Ok(()) };
    // By the name its key gives: removing either end removes both, and then nothing can use the address any more when
    // the agent frees it.
    veth::delete(&host_ifname(&key))
        .map_err(|error| CniError::new(code::INTERFACE, "cannot remove the interface", error.to_string()))?;
    if matches!(error, AgentError::Refused { .. } | AgentError::OutOfTurn(_)) {
        return Err(error.into());
    }
    eprintln!(
        "manx: DEL of {} of {}: {error}; it finds a note when it is back",
        key.ifname, key.container_id
    );
    released::leave(socket, &key).map_err(|why| {
        let folder = released::folder(socket);
        CniError::new(code::IO, "cannot leave a note for the agent", format!("{error}; {folder:?}: {why}"))
    })
}

fn release(socket: &Path, key: &AttachmentKey) -> Result<(), AgentError> {
    let mut agent = Agent::connect(socket, Duration::ZERO)?;
    match agent.ask(&Request::Del { version: VERSION, key: key.clone() })? {
        Reply::Deleted => Ok(()),
        other => Err(AgentError::OutOfTurn(Box::new(other))),
    }
}

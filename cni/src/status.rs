//! STATUS: whether a container can be attached now. The agent answers from memory: runtimes ask every few seconds.

use std::path::Path;

use crate::client::{Agent, AgentError, STATUS_PATIENCE};
use crate::config::Config;
use crate::protocol::{Reply, Request, VERSION};
use crate::spec::{CniError, code};

/// Says whether an ADD would be served.
///
/// # Errors
/// Code 50 when it would not, 51 when containers that are attached may not be reached either; with the reason.
pub fn status(config: &Config) -> Result<(), CniError> {
    let asked = Agent::connect(Path::new(&config.agent_socket), STATUS_PATIENCE)
        .and_then(|mut agent| agent.ask(&Request::NodeReady { version: VERSION }));
    match asked {
        Ok(Reply::NodeReady) => Ok(()),
        Ok(other) => Err(AgentError::OutOfTurn(Box::new(other)).into()),
        Err(error @ (AgentError::Refused { .. } | AgentError::OutOfTurn(_))) => Err(error.into()),
        Err(away) => Err(CniError::new(code::NOT_AVAILABLE, "no pod can be attached now", away.to_string())),
    }
}

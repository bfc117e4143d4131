//! The plugin's side of the agent's socket. Every wait has a deadline.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Reply, Request, read_frame, write_frame};
use crate::spec::{CniError, code};

/// How long an ADD waits for an agent that is being restarted; the runtime tries again anyway.
pub const ADD_PATIENCE: Duration = Duration::from_secs(3);
/// How long a STATUS waits for one. A failed STATUS makes the Node `NotReady` at once, and with it the pods that run
/// there; a kubelet that asks waits for half a minute before it calls its runtime down (`kubelet/runtime.go`).
pub const STATUS_PATIENCE: Duration = Duration::from_secs(15);

/// How long the agent may take over one answer: it may have to claim a block from the API server.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Pause between two attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// A conversation with the agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens.
    #[error("the agent is not running: cannot connect to {path:?}: {source}")]
    NotRunning {
        /// Its socket.
        path: PathBuf,
        /// The last attempt's error.
        source: io::Error,
    },
    /// It listens and does not answer.
    #[error("the agent did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Silent,
    /// The conversation broke off.
    #[error("lost the agent: {0}")]
    Lost(io::Error),
    /// It said no.
    #[error("{message}: {details}")]
    Refused {
        /// A CNI error code.
        code: u32,
        /// What was wrong.
        message: String,
        /// What to do about it.
        details: String,
    },
    /// It answered another question.
    #[error("the agent answered out of turn: {0:?}")]
    OutOfTurn(Box<Reply>),
}

impl From<AgentError> for CniError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Refused { code, message, details } => Self::new(code, message, details),
            AgentError::OutOfTurn(_) => Self::new(code::PROTOCOL, "protocol error", error.to_string()),
            AgentError::NotRunning { .. } | AgentError::Silent | AgentError::Lost(_) => {
                Self::new(code::TRY_AGAIN, "try again later", error.to_string())
            }
        }
    }
}

impl Agent {
    /// Connects, trying for `patience` while nobody listens.
    ///
    /// # Errors
    /// [`AgentError::NotRunning`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, AgentError> {
        let end = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(source) if Instant::now() >= end => {
                    return Err(AgentError::NotRunning { path: path.to_owned(), source });
                }
                Err(_) => thread::sleep(RETRY_PAUSE),
            }
        };
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(AgentError::Lost)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(AgentError::Lost)?;
        Ok(Self { stream })
    }

    /// Says why the ADD that was begun comes to nothing, for the agent's log.
    pub fn fail(mut self, why: &impl ToString) {
        // The runtime is told the same, and the end of the connection undoes what was begun.
        let _ = write_frame(&mut self.stream, &Request::Failed { why: why.to_string() });
    }

    /// Asks one question and waits for its answer. A [`Reply::Error`] is an error.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn ask(&mut self, request: &Request) -> Result<Reply, AgentError> {
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AgentError::Silent,
            _ => AgentError::Lost(error),
        };
        write_frame(&mut self.stream, request).map_err(broken)?;
        match read_frame(&mut self.stream).map_err(broken)? {
            Some(Reply::Error { code, message, details }) => {
                Err(AgentError::Refused { code, message, details })
            }
            Some(reply) => Ok(reply),
            None => Err(AgentError::Lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

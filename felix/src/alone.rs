//! One agent in a network namespace: two would take each other's routes away.
//!
//! The lock is a name among abstract unix sockets, of which each network namespace has its own. The kernel gives it to
//! one, and takes it back when the process is gone, however it ended.

use std::io;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

/// The name; the zero octet makes it an abstract one.
const NAME: &str = "\0manx-felix";

/// Why this agent may not run.
#[derive(Debug, thiserror::Error)]
pub enum NotAlone {
    /// Another one runs.
    #[error("another manx-felix{} runs in this network namespace: only one can keep its routes", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Another {
        /// Its process, where it can be seen from here.
        pid: Option<i32>,
    },
    /// The socket's error.
    #[error("cannot find out whether another manx-felix runs: {0}")]
    Io(#[from] io::Error),
}

/// A predecessor that was killed may take a moment to be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// Takes the lock of this network namespace, for as long as the process lives. Waits for at most three seconds for
/// another agent to end.
///
/// # Errors
/// [`NotAlone`].
pub async fn alone() -> Result<(), NotAlone> {
    let end = Instant::now() + PATIENCE;
    loop {
        match take(NAME).await {
            Err(NotAlone::Another { .. }) if Instant::now() < end => sleep(Duration::from_millis(50)).await,
            outcome => return outcome.map(drop),
        }
    }
}

async fn take(name: &str) -> Result<Option<tokio::task::JoinHandle<()>>, NotAlone> {
    match UnixListener::bind(name) {
        Ok(listener) => Ok(Some(tokio::spawn(hold(listener)))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // Anyone in this namespace can take a name; only root and we ourselves can be an agent.
            let holder = UnixStream::connect(name).await.and_then(|holder| holder.peer_cred());
            match holder {
                Ok(holder) if holder.uid() == 0 || holder.uid() == geteuid().as_raw() => {
                    Err(NotAlone::Another { pid: holder.pid() })
                }
                Ok(holder) => {
                    tracing::warn!("user {} holds the name of the agent's lock: passed over", holder.uid());
                    Ok(None)
                }
                // An agent always lets callers in.
                Err(error) => {
                    tracing::warn!("whoever holds the name of the agent's lock does not answer: {error}");
                    Ok(None)
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Lets callers in, who want no more than to see who is there.
async fn hold(listener: UnixListener) {
    while listener.accept().await.is_ok() {}
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_agent_is_told_of_the_first_until_that_is_gone() {
        let name = format!("\0manx-felix-test-{}", std::process::id());
        let first = take(&name).await.unwrap().unwrap();
        for _ in 0..300 {
            let error = take(&name).await.unwrap_err();
            let words =
                format!("another manx-felix (process {}) runs in this network namespace", std::process::id());
            assert!(error.to_string().starts_with(&words), "{error}");
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(take(&name).await.unwrap().is_some());
    }
}

//! Accepting connections.

use std::net::SocketAddr;
use std::time::Duration;
use std::{io, process};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::words;
use super::task::Input;

/// Connections the kernel holds for us: more than a whole cluster calling at once.
const BACKLOG: i32 = 1024;

/// Why we cannot listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {address}: {why}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// In words, with what may help.
    pub why: String,
}

/// A listening socket and the task that accepts on it.
pub(super) struct Listener(JoinHandle<()>);

impl Listener {
    /// Listens on one address; `[::]` is IPv6 only, so that both wildcards can be listened on.
    pub fn open(address: SocketAddr, inputs: mpsc::Sender<Input>) -> Result<Self, ListenError> {
        let listener =
            bind(address).map_err(|error| ListenError { address, why: explain(address, error) })?;
        Ok(Self(tokio::spawn(accept(listener, inputs))))
    }

    /// Comes back when the address is free again.
    pub async fn close(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of the process before us may linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn explain(address: SocketAddr, error: io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process has the port, perhaps another BGP speaker (bird, bgpd, gobgpd, openbgpd) or a second \
             manx-bgpd; `ss -ltnp sport = :{port}` names it"
        ),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied if port < 1024 => {
            format!(
                "ports below 1024 need root or CAP_NET_BIND_SERVICE, which process {} lacks",
                process::id()
            )
        }
        _ => words(error),
    }
}

async fn accept(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if inputs.send(Input::Accepted(stream, from.ip().to_canonical())).await.is_err() {
                    return;
                }
            }
            // The connection is gone already, or we are out of file descriptors: a pause gives some back.
            Err(error) => {
                tracing::warn!(error = %words(error), "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

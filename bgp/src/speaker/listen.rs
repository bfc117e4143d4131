//! Accepting connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::{io, process};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::keys::Keys;
use super::link::words;
use super::scope::scoped;
use super::task::Input;
use super::{guard, sockopt};
use crate::types::{Family, Prefix, ScopedAddr};

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
pub(super) struct Listener {
    address: SocketAddr,
    /// The same socket, to put keys on.
    socket: Socket,
    keys: BTreeMap<Prefix, Keys>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens on one address; `[::]` is IPv6 only, so that both wildcards can be listened on.
    pub fn open(address: SocketAddr, inputs: mpsc::Sender<Input>) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address, why: explain(address, error) };
        let socket = bind(address).map_err(failed)?;
        let listener = socket.try_clone().and_then(|same| TcpListener::from_std(same.into()));
        let task = tokio::spawn(accept(listener.map_err(failed)?, inputs));
        Ok(Self { address, socket, keys: BTreeMap::new(), task })
    }

    /// Takes calls of these peers and ranges with these keys only, and of all others without any.
    pub fn require(&mut self, keys: &BTreeMap<Prefix, Keys>) -> Result<(), ListenError> {
        let address = self.address;
        let failed = |peers: Prefix, error| {
            let why = format!("the password or keys of {peers}: {}", words(error));
            ListenError { address, why }
        };
        // TCP-AO takes keys of the same identifiers once for an address: those of the range are enough.
        let covered = |peers: &Prefix, own: &Keys| {
            let same =
                |(range, theirs): (&Prefix, &Keys)| range != peers && range.covers(*peers) && theirs == own;
            matches!(own, Keys::TcpAo(_)) && keys.iter().any(same)
        };
        let wanted: BTreeMap<_, _> = (keys.iter())
            .filter(|(peers, _)| peers.family() == Family::of(address.ip()))
            .filter(|(peers, own)| !covered(peers, own))
            .collect();
        let other: Vec<_> = self
            .keys
            .iter()
            .filter(|(peers, keys)| wanted.get(peers) != Some(keys))
            .map(|(peers, keys)| (*peers, keys.clone()))
            .collect();
        for (peers, keys) in other {
            // One password takes the place of another, without a moment between.
            if !matches!((&keys, wanted.get(&peers)), (Keys::Password(_), Some(Keys::Password(_)))) {
                keys.forget(&self.socket, peers).map_err(|error| failed(peers, error))?;
            }
            self.keys.remove(&peers);
        }
        for (peers, keys) in wanted {
            if !self.keys.contains_key(peers) {
                keys.listen(&self.socket, *peers).map_err(|error| failed(*peers, error))?;
                self.keys.insert(*peers, keys.clone());
            }
        }
        Ok(())
    }

    /// Comes back when the address is free again.
    pub async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of the process before us may linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    guard::listening(&socket, address.ip())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
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

/// Who calls.
#[derive(Debug)]
pub(super) struct Caller {
    pub stream: TcpStream,
    pub from: ScopedAddr,
    /// The TTL or hop limit its first segment came with, where the kernel tells.
    pub syn_ttl: Option<u8>,
}

async fn accept(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let caller = Caller { from: scoped(from), syn_ttl: sockopt::syn_ttl(&stream), stream };
                if inputs.send(Input::Accepted(caller)).await.is_err() {
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

//! The API server's process: it lives in its node's namespaces and answers there, and carries what
//! comes in by a socket it was given at birth, which belongs to the host's network.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use thiserror::Error;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::apiserver::{ApiServer, Https, StartError, real};

/// Where the kubeconfig is put once the server answers, as the node sees it.
pub(super) const KUBECONFIG: &str = "/run/kubeconfig";

/// Where the certificate of the authority is put that vouches for it, as the node sees it.
pub(crate) const AUTHORITY: &str = "/run/ca.crt";

/// Where a real server's audit log is found, as the node sees it.
pub(super) const AUDIT_LOG: &str = "/run/audit.log";

/// Where pods reach the small server, which the machine's own programs reach without TLS.
pub(super) const HTTPS_PORT: u16 = 443;

/// Why there is no API server.
#[derive(Debug, Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Standard input is not a listening socket, or the kubeconfig could not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs an API server on `listen`, the small one or that of `KUBEBUILDER_ASSETS`, until the process is
/// ended; callers of the listening socket that is this process's standard input, if `host`, are let
/// through to it.
///
/// # Errors
/// When it cannot be started.
pub async fn serve(listen: SocketAddr, host: bool) -> Result<(), ServeError> {
    let io = |what| move |source| ServeError::Io { what, source };
    let running = ApiServer::start(listen).await?;
    match running.small_server().cloned() {
        Some(server) => {
            let https = Https::bind(SocketAddr::new(listen.ip(), HTTPS_PORT)).await;
            let https = https.map_err(io("listen for pods, by HTTPS"))?;
            fs::write(AUTHORITY, https.authority().certificate()).map_err(io("write /run/ca.crt"))?;
            tokio::spawn(https.serve(server));
        }
        // A real one speaks TLS with everybody; its authority lies beside its kubeconfig.
        None => {
            let authority = running.kubeconfig_path.with_file_name(AUTHORITY.trim_start_matches("/run/"));
            fs::copy(authority, AUTHORITY).map(drop).map_err(io("write /run/ca.crt"))?;
            let audit_log = running.kubeconfig_path.with_file_name(real::AUDIT_LOG);
            let _ = fs::remove_file(AUDIT_LOG);
            symlink(audit_log, AUDIT_LOG).map_err(io("link /run/audit.log"))?;
        }
    }
    let text = fs::read(&running.kubeconfig_path).map_err(io("read the server's kubeconfig"))?;
    // Whoever sees the file sees all of it.
    let half = Path::new(KUBECONFIG).with_extension("half");
    fs::write(&half, text)
        .and_then(|()| fs::rename(&half, KUBECONFIG))
        .map_err(io("write /run/kubeconfig"))?;
    if !host {
        std::future::pending::<()>().await;
    }
    let inherited = stdin_listener().map_err(io("standard input as a listening socket"))?;
    loop {
        // Only a shortage of this machine fails here; the callers in the lab are not to suffer for it.
        let Ok((caller, _)) = inherited.accept().await else { continue };
        tokio::spawn(forward(caller, listen));
    }
}

fn stdin_listener() -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn forward(mut caller: TcpStream, server: SocketAddr) {
    let carried = async {
        let mut stream = TcpStream::connect(server).await?;
        caller.set_nodelay(true)?;
        stream.set_nodelay(true)?;
        copy_bidirectional(&mut caller, &mut stream).await
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, "a connection from the host ended");
    }
}

//! The server on a TCP socket.

use std::io;

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};

use super::{ApiServer, access::Until};

/// Serves HTTP/1.1 on a listener the caller has bound, in whatever network namespace, until the future is dropped;
/// its connections end with it.
///
/// # Errors
/// When the listener itself fails. What a connection does wrong ends that connection.
pub async fn serve(listener: TcpListener, server: ApiServer) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // A server that is out answers nobody.
                Ok(_) if server.faults().is_out() => {}
                Ok((stream, _)) => {
                    // A watch is many small writes, each of them waited for.
                    stream.set_nodelay(true)?;
                    connections.spawn(connection(stream, server.clone(), None));
                }
                // The peer was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers what comes by one connection, until it ends; `until`: of the certificate that was shown.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    server: ApiServer,
    until: Option<Until>,
) {
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let server = server.clone();
        if let Some(until) = until {
            request.extensions_mut().insert(until);
        }
        async move { server.answer(request).await }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

/// A kubeconfig for a server without authentication, as YAML.
pub fn kubeconfig(url: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: manx-testbed\n\
         \x20 cluster:\n\
         \x20   server: {url:?}\n\
         users:\n\
         - name: manx-testbed\n\
         \x20 user: {{}}\n\
         contexts:\n\
         - name: manx-testbed\n\
         \x20 context:\n\
         \x20   cluster: manx-testbed\n\
         \x20   user: manx-testbed\n\
         current-context: manx-testbed\n"
    )
}

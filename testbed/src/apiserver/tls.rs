//! HTTPS for those who know nothing but the cluster's authority: pods with a service account.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::{
    ApiServer,
    real::certificates::{AUTHORITY, Certificates, SERVER_CERTIFICATE, SERVER_KEY},
    serve::connection,
};

/// A socket that speaks TLS, and the certificate of the authority that vouches for it.
pub struct Https {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    authority: String,
}

impl Https {
    /// Listens on an address, with a certificate made for it.
    ///
    /// # Errors
    /// When it cannot listen there, or no certificate be made.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (config, authority) = configuration(listener.local_addr()?.ip()).map_err(io::Error::other)?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), authority })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub async fn serve(self, server: ApiServer) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let (acceptor, server) = (self.acceptor.clone(), server.clone());
                    connections.spawn(async move {
                        match acceptor.accept(stream).await {
                            Ok(stream) => connection(stream, server).await,
                            Err(error) => tracing::debug!(%error, "no TLS"),
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

fn configuration(ip: IpAddr) -> Result<(ServerConfig, String), Box<dyn std::error::Error + Send + Sync>> {
    let certificates = Certificates::make(ip)?;
    let chain = CertificateDer::pem_slice_iter(certificates.file(SERVER_CERTIFICATE).as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificates.file(SERVER_KEY).as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, certificates.file(AUTHORITY).to_owned()))
}

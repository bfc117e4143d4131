//! HTTPS for those who know nothing but the cluster's authority: pods with a service account; and for those who show a
//! certificate of that authority, as kubelets do.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::{
    ApiServer,
    access::Until,
    real::certificates::{AUTHORITY, Certificates, ClientCertificate, SERVER_CERTIFICATE, SERVER_KEY},
    serve::connection,
};

/// A socket that speaks TLS, and the certificate of the authority that vouches for it.
pub struct Https {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    authority: Authority,
}

/// Who vouches for the server and its clients. Clones are the same one.
#[derive(Clone)]
pub struct Authority {
    certificates: Arc<Certificates>,
    issued: Arc<Mutex<Vec<Issued>>>,
}

/// A client's certificate, as it shows it.
struct Issued {
    der: Vec<u8>,
    until: Until,
}

impl Authority {
    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        self.certificates.file(AUTHORITY)
    }

    /// A certificate for an administrator. As with a real kube-apiserver, what is asked with it after its time is refused,
    /// by a connection that was made before as well.
    ///
    /// # Errors
    /// When none can be made.
    pub fn client(
        &self,
        lasts: Duration,
    ) -> Result<ClientCertificate, Box<dyn std::error::Error + Send + Sync>> {
        let client = self.certificates.client(lasts)?;
        let until = Until(Timestamp::now().checked_add(lasts)?);
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Issued { der: client.der.clone(), until });
        Ok(client)
    }

    fn until(&self, shown: &CertificateDer<'_>) -> Option<Until> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.iter().find(|issued| issued.der == shown.as_ref()).map(|issued| issued.until)
    }
}

impl Https {
    /// Listens on an address, with a certificate made for it.
    ///
    /// # Errors
    /// When it cannot listen there, or no certificate be made.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let certificates = Certificates::make(listener.local_addr()?.ip()).map_err(io::Error::other)?;
        let config = configuration(&certificates).map_err(io::Error::other)?;
        let authority = Authority { certificates: Arc::new(certificates), issued: Arc::default() };
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), authority })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Who vouches for it, and for its clients.
    pub fn authority(&self) -> &Authority {
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
                    let (acceptor, server, authority) = (self.acceptor.clone(), server.clone(), self.authority.clone());
                    connections.spawn(async move {
                        match acceptor.accept(stream).await {
                            Ok(stream) => {
                                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                                let until = shown.and_then(|shown| authority.until(shown));
                                connection(stream, server, until).await;
                            }
                            Err(error) => tracing::debug!(%error, "no TLS"),
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

fn configuration(
    certificates: &Certificates,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let chain = CertificateDer::pem_slice_iter(certificates.file(SERVER_CERTIFICATE).as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificates.file(SERVER_KEY).as_bytes())?;
    let provider = Arc::new(ring::default_provider());
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_slice(certificates.file(AUTHORITY).as_bytes())?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

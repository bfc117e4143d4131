//! One way to start a server for a test, the small one or a real one.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    ApiServer, kubeconfig,
    real::{self, RealServer},
    serve,
};

/// The environment variable that names a folder with `etcd` and `kube-apiserver`, as envtest has it.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// A server that runs until it is dropped.
pub struct Running {
    /// Where it listens.
    pub url: String,
    /// A file for `kubectl --kubeconfig`.
    pub kubeconfig_path: PathBuf,
    /// An administrator's client, by the network.
    pub client: kube::Client,
    server: Server,
    _folder: tempfile::TempDir,
}

enum Server {
    Small { server: ApiServer, task: JoinHandle<()> },
    Real { _processes: Box<RealServer> },
}

/// Why no server runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address could not be bound, or a file not be written.
    #[error("the API server's socket or files: {0}")]
    Io(#[from] io::Error),
    /// The real server did not start.
    #[error(transparent)]
    Real(#[from] real::RealError),
    /// The client could not be made of the kubeconfig.
    #[error("a client of {path}: {source}")]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ApiServer {
    /// Starts a server on an address (port 0: a free one): a real kube-apiserver with its etcd where
    /// `KUBEBUILDER_ASSETS` names the folder of both, this one otherwise.
    ///
    /// # Errors
    /// When it cannot listen, or the real one does not get ready.
    pub async fn start(listen: SocketAddr) -> Result<Running, StartError> {
        match std::env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
            Some(folder) => Running::real(Path::new(&folder), listen).await,
            None => Running::small(ApiServer::new(), listen).await,
        }
    }
}

impl Running {
    /// Serves a server of ours on an address (port 0: a free one).
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn small(server: ApiServer, listen: SocketAddr) -> Result<Self, StartError> {
        let listener = TcpListener::bind(listen).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let folder = tempfile::Builder::new().prefix("manx-apiserver-").tempdir()?;
        let kubeconfig_path = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig_path, kubeconfig(&url))?;
        let client = client(&kubeconfig_path).await?;
        let serving = serve(listener, server.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the API server ended");
            }
        });
        let server = Server::Small { server, task };
        Ok(Self { url, kubeconfig_path, client, server, _folder: folder })
    }

    /// Runs the real programs of a folder.
    ///
    /// # Errors
    /// When one of them does not start or get ready.
    pub async fn real(assets: &Path, listen: SocketAddr) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("manx-apiserver-").tempdir()?;
        let processes = RealServer::start(assets, folder.path(), listen).await?;
        let (url, kubeconfig_path) = (processes.url().to_owned(), processes.kubeconfig_path().to_owned());
        let client = client(&kubeconfig_path).await?;
        Ok(Self {
            url,
            kubeconfig_path,
            client,
            server: Server::Real { _processes: Box::new(processes) },
            _folder: folder,
        })
    }

    /// The handle on the small server, for faults and counts; `None` when a real one runs.
    pub fn small_server(&self) -> Option<&ApiServer> {
        match &self.server {
            Server::Small { server, .. } => Some(server),
            Server::Real { .. } => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Server::Small { task, .. } = &self.server {
            task.abort();
        }
    }
}

/// A client by a kubeconfig file.
pub(super) async fn client(path: &Path) -> Result<kube::Client, StartError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Client {
        path: path.to_owned(),
        source,
    };
    let kubeconfig = kube::config::Kubeconfig::read_from(path).map_err(|error| failed(error.into()))?;
    let options = kube::config::KubeConfigOptions::default();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| failed(e.into()))?;
    kube::Client::try_from(config).map_err(|error| failed(error.into()))
}

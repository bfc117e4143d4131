//! A client of the Kubernetes API with the credentials that are in force.
//!
//! A pod's token and its cluster's authority are read again by the client itself, every minute. What a kubeconfig names, a
//! kubelet's certificate for one, is renewed in files: when one of them changes, a new client takes the old one's place
//! behind all that use it. Watches go on by the connections they have.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;
use tower::Service;

use crate::api;
use crate::watch::convert::words;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file, or one that it names, cannot be used.
    #[error("kubeconfig {}", file.display())]
    Kubeconfig {
        /// Which.
        file: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// There is no file, and no pod.
    #[error("no --kubeconfig, and not in a pod with a service account: say where the Kubernetes API is")]
    NoPod(#[from] kube::config::InClusterError),
    /// What they say cannot be done.
    #[error("Kubernetes client")]
    Client(#[from] kube::Error),
}

/// A client by a kubeconfig, which is followed from then on, or by the service account of the pod this is.
///
/// # Errors
/// When there are no credentials, or bad ones.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, CredentialsError> {
    match kubeconfig {
        Some(file) => followed(file, LOOK).await,
        None => Ok(api::client(Config::incluster()?)?),
    }
}

async fn followed(file: &Path, every: Duration) -> Result<Client, CredentialsError> {
    let mut seen = contents(file);
    let (client, namespace) = read(file).await?;
    let (current, followed) = watch::channel(client);
    let file = file.to_owned();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            if current.is_closed() {
                return;
            }
            let now = contents(&file);
            if now == seen {
                continue;
            }
            match read(&file).await {
                Ok((client, _)) => {
                    tracing::info!(
                        "{} or what it names has changed: new credentials are used",
                        file.display()
                    );
                    current.send_replace(client);
                    seen = now;
                }
                // They may be written one after the other.
                Err(error) => tracing::warn!("{}: the credentials before are used on", words(&error)),
            }
        }
    });
    Ok(Client::new(Followed(followed), namespace))
}

async fn read(file: &Path) -> Result<(Client, String), CredentialsError> {
    let bad = |source| CredentialsError::Kubeconfig { file: file.to_owned(), source };
    let read = Kubeconfig::read_from(file).map_err(bad)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(bad)?;
    let namespace = config.default_namespace.clone();
    Ok((api::client(config)?, namespace))
}

/// What is in the file and in those it names; nothing for one that cannot be read.
fn contents(file: &Path) -> Vec<Vec<u8>> {
    let named = Kubeconfig::read_from(file).map(|read| names(&read)).unwrap_or_default();
    [file.to_owned()].into_iter().chain(named).map(|file| fs::read(file).unwrap_or_default()).collect()
}

/// Files of authorities, certificates and keys. Names are absolute once the kubeconfig is read from its file.
fn names(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let authorities = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let authorities = authorities.filter_map(|cluster| cluster.certificate_authority.clone());
    let own = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let own = own.flat_map(|own| [own.client_certificate.clone(), own.client_key.clone()]).flatten();
    authorities.chain(own).map(PathBuf::from).collect()
}

/// Whatever client is current.
struct Followed(watch::Receiver<Client>);

impl Service<Request<Body>> for Followed {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.borrow().clone();
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives back the token it was asked with, as its version.
    async fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = |request: Request<hyper::body::Incoming>| async move {
                    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
                    let text = serde_json::json!({
                        "major": "1", "minor": "30", "gitVersion": token, "gitCommit": "", "gitTreeState": "",
                        "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
                    });
                    Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from(text.to_string()))))
                };
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(serving);
            }
        });
        url
    }

    fn kubeconfig(url: &str, token: &str) -> String {
        serde_json::json!({
            "clusters": [{ "name": "c", "cluster": { "server": url } }],
            "users": [{ "name": "u", "user": { "token": token } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }], "current-context": "x",
        })
        .to_string()
    }

    async fn token(client: &Client) -> String {
        client.apiserver_version().await.unwrap().git_version
    }

    #[tokio::test]
    async fn credentials_that_are_renewed_are_used_and_bad_ones_are_not() {
        let (url, folder) = (server().await, tempfile::tempdir().unwrap());
        let file = folder.path().join("kubeconfig");
        fs::write(&file, kubeconfig(&url, "first")).unwrap();
        let client = followed(&file, Duration::from_millis(5)).await.unwrap();
        assert_eq!(token(&client).await, "Bearer first");
        fs::write(&file, "clusters: [").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(token(&client).await, "Bearer first");
        fs::write(&file, kubeconfig(&url, "second")).unwrap();
        let renewed = async {
            while token(&client).await != "Bearer second" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    }

    #[test]
    fn a_certificate_that_is_renewed_beside_its_kubeconfig_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        let text = serde_json::json!({
            "clusters": [{ "name": "c", "cluster": { "server": "https://a", "certificate-authority": "ca.crt" } }],
            "users": [{ "name": "u", "user": { "client-certificate": "own.pem", "client-key": "own.pem" } }],
        });
        fs::write(&file, text.to_string()).unwrap();
        for name in ["ca.crt", "own.pem"] {
            let before = contents(&file);
            fs::write(folder.path().join(name), name).unwrap();
            assert_ne!(contents(&file), before, "{name}");
        }
    }
}

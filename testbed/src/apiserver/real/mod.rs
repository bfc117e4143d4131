//! A real kube-apiserver on a real etcd, as envtest runs them: for tests of ours where both programs are at hand.

pub(super) mod certificates;

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use http::Request;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use super::{base64::base64, start::client};
use certificates::Certificates;

/// How long the programs get to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// What service accounts have asked, an `audit.k8s.io/v1` Event a line; beside the kubeconfig.
pub const AUDIT_LOG: &str = "audit.log";
const AUDIT_POLICY_FILE: &str = "audit.yaml";
/// Told when they ask, whatever the answer is.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
  - {level: Metadata, userGroups: [\"system:serviceaccounts\"]}
  - {level: None}
";

/// The two programs; killed when this is dropped.
#[derive(Debug)]
pub struct RealServer {
    url: String,
    kubeconfig_path: PathBuf,
    // The order of the fields is the order they are killed in.
    _apiserver: Program,
    _etcd: Program,
}

/// Why the real server does not run.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// A file could not be written or a port found.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it could not be.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("making certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A program ended before it was ready.
    #[error("{program} ended before it was ready; the end of what it said:\n{log}")]
    Ended {
        /// Which one.
        program: &'static str,
        /// The last lines of its output.
        log: String,
    },
    /// A program runs and does not get ready.
    #[error("{program} is not ready after {START_TIMEOUT:?}; the end of what it said:\n{log}")]
    NotReady {
        /// Which one.
        program: &'static str,
        /// The last lines of its output.
        log: String,
    },
}

impl RealServer {
    /// Starts `etcd` and `kube-apiserver` of the folder `assets`, with their files in `folder`, which must outlive
    /// them. Listens on `listen`; port 0 is a free one.
    ///
    /// # Errors
    /// When one of them does not start or get ready.
    pub async fn start(assets: &Path, folder: &Path, listen: SocketAddr) -> Result<Self, RealError> {
        let etcd_url = free_url()?;
        let arguments = etcd_arguments(folder, &etcd_url, &free_url()?);
        let mut etcd = Program::start("etcd", assets, folder, arguments)?;
        etcd.wait_ready(async || etcd_is_ready(&etcd_url).await).await?;

        let certificates = Certificates::make(listen.ip())?;
        let write = |name: &str, content: &str| write_private(&folder.join(name), content);
        for (name, content) in certificates.files() {
            write(name, content)?;
        }
        write(AUDIT_POLICY_FILE, AUDIT_POLICY)?;
        let listen = match listen.port() {
            0 => SocketAddr::new(listen.ip(), free_port(listen.ip())?),
            _ => listen,
        };
        let arguments = apiserver_arguments(folder, &etcd_url, listen);
        let mut apiserver = Program::start("kube-apiserver", assets, folder, arguments)?;
        let url = format!("https://{}", reachable(listen));
        let kubeconfig_path = folder.join("kubeconfig");
        write("kubeconfig", &kubeconfig(&url, &certificates))?;
        apiserver.wait_ready(async || apiserver_is_ready(&kubeconfig_path).await).await?;
        Ok(Self { url, kubeconfig_path, _apiserver: apiserver, _etcd: etcd })
    }

    /// Where the API server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }
}

fn etcd_arguments(folder: &Path, client_url: &str, peer_url: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
    ]
}

/// For kube-apiserver 1.30 and later: no insecure port, bound service account tokens, both families.
fn apiserver_arguments(folder: &Path, etcd_url: &str, listen: SocketAddr) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers={etcd_url}"),
        format!("--bind-address={}", listen.ip()),
        format!("--secure-port={}", listen.port()),
        format!("--advertise-address={}", reachable(listen).ip()),
        // Nobody looks for the endpoints of the service `kubernetes`, and a loopback address is refused in them.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--service-cluster-ip-range={}", service_ranges(listen.ip())),
        format!("--cert-dir={}", file("certificates")),
        format!("--tls-cert-file={}", file(certificates::SERVER_CERTIFICATE)),
        format!("--tls-private-key-file={}", file(certificates::SERVER_KEY)),
        format!("--client-ca-file={}", file(certificates::AUTHORITY)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file(certificates::SERVICE_ACCOUNT_PUBLIC)),
        format!("--service-account-signing-key-file={}", file(certificates::SERVICE_ACCOUNT_KEY)),
        "--authorization-mode=RBAC".to_owned(),
        // Pods need no service account where no controller makes one.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", file(AUDIT_POLICY_FILE)),
        format!("--audit-log-path={}", file(AUDIT_LOG)),
    ]
}

/// The first range must be of the family the server is advertised in.
fn service_ranges(advertised: IpAddr) -> &'static str {
    match advertised {
        IpAddr::V4(_) => "10.96.0.0/16,fd00:10:96::/112",
        IpAddr::V6(_) => "fd00:10:96::/112,10.96.0.0/16",
    }
}

/// Where a client on this machine finds a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

/// Complete in itself, so that it can be copied to where the other files are not.
fn kubeconfig(url: &str, certificates: &Certificates) -> String {
    let data = |name: &str| base64(certificates.file(name).as_bytes());
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: manx-testbed\n\
         \x20 cluster:\n\
         \x20   server: {url:?}\n\
         \x20   certificate-authority-data: {}\n\
         users:\n\
         - name: manx-testbed\n\
         \x20 user:\n\
         \x20   client-certificate-data: {}\n\
         \x20   client-key-data: {}\n\
         contexts:\n\
         - name: manx-testbed\n\
         \x20 context: {{cluster: manx-testbed, user: manx-testbed}}\n\
         current-context: manx-testbed\n",
        data(certificates::AUTHORITY),
        data(certificates::ADMIN_CERTIFICATE),
        data(certificates::ADMIN_KEY),
    )
}

async fn etcd_is_ready(url: &str) -> bool {
    let Ok(address) = url.trim_start_matches("http://").parse::<SocketAddr>() else { return false };
    let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return false };
    let request = "GET /health HTTP/1.0\r\n\r\n";
    let (mut reader, mut writer) = stream.into_split();
    let asked = tokio::io::AsyncWriteExt::write_all(&mut writer, request.as_bytes()).await;
    let mut answer = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut answer).await;
    asked.is_ok() && read.is_ok() && answer.contains(r#""health":"true""#)
}

async fn apiserver_is_ready(kubeconfig: &Path) -> bool {
    let Ok(client) = client(kubeconfig).await else { return false };
    // Ready, and its controllers have made the first namespace.
    for path in ["/readyz", "/api/v1/namespaces/default"] {
        let Ok(request) = Request::get(path).body(Vec::new()) else { return false };
        if client.request_text(request).await.is_err() {
            return false;
        }
    }
    true
}

#[derive(Debug)]
struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(
        name: &'static str,
        assets: &Path,
        folder: &Path,
        arguments: Vec<String>,
    ) -> Result<Self, RealError> {
        let program = assets.join(name);
        let failed = |source| RealError::Io { what: format!("starting {}", program.display()), source };
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).map_err(failed)?;
        let child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, child, log })
    }

    async fn wait_ready(&mut self, is_ready: impl AsyncFn() -> bool) -> Result<(), RealError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready().await {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Err(RealError::Ended { program: self.name, log: self.last_words() });
            }
            if Instant::now() > deadline {
                return Err(RealError::NotReady { program: self.name, log: self.last_words() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The end of the log.
    fn last_words(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

fn write_private(path: &Path, content: &str) -> Result<(), RealError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content.as_bytes())
    };
    write().map_err(|source| RealError::Io { what: format!("writing {}", path.display()), source })
}

fn free_port(ip: IpAddr) -> Result<u16, RealError> {
    let bound = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|source| RealError::Io { what: format!("a free port on {ip}"), source })
}

fn free_url() -> Result<String, RealError> {
    let ip = Ipv4Addr::LOCALHOST.into();
    Ok(format!("http://{}", SocketAddr::new(ip, free_port(ip)?)))
}

#[cfg(test)]
mod tests;

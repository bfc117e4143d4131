//! What a kubelet does with the pods of DaemonSets, by a real container runtime: a node is set up from manifests alone.
//!
//! ```text
//!   DaemonSet ─▶ Pod on this node ─▶ token, host paths ─▶ oci: config.json ─▶ runc ─▶ the readiness probe
//! ```
//!
//! Nothing is added to what the manifests say but what every pod gets: the API's address, and where it is not refused
//! the token of its service account. Containers are not started again when they end.

pub mod oci;
mod rollout;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, PodSpec, ServiceAccount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::eventually::eventually;
use crate::kube as cluster;
use crate::lab::{Lab, LabError};
use crate::topology::Runs;
use oci::{Image, Place};
pub use rollout::rollout;

/// How long a container may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long one may take to end.
const GRACE: Duration = Duration::from_secs(15);
/// Where Manx's DaemonSets are.
const NAMESPACE: &str = "manx-system";
/// Where its files are, as the node sees it.
const FOLDER: &str = "/run/kubelet";
/// What an image of Manx holds.
const PROGRAMS: [&str; 4] = ["manx-bgpd", "manx-felix", "manxctl", "manx"];
/// What programs that are not static need of the machine they were built on.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

/// The containers of a node. They end with this.
#[derive(Debug)]
pub struct Kubelet<'a> {
    lab: &'a Lab,
    node: String,
    running: Vec<Running>,
    /// How long tokens are good; the API server's default unless it was said.
    tokens_last: Option<Duration>,
}

#[derive(Debug)]
struct Running {
    name: String,
    runc: Child,
    pid: Pid,
}

impl<'a> Kubelet<'a> {
    /// Runs a pod of each DaemonSet on a node and waits until all are ready. `image` is the root of an unpacked image;
    /// without one it is made of the programs built here.
    ///
    /// # Errors
    /// What a manifest says and is not known here, or a container that does not become ready, with what it said.
    pub async fn start(lab: &'a Lab, node: &str, image: Option<PathBuf>) -> Result<Self, LabError> {
        let mut kubelet = Self::idle(lab, node)?;
        let client = lab.client().await?;
        let sets: Api<DaemonSet> = Api::all(client.clone());
        let sets = sets.list(&ListParams::default()).await.map_err(LabError::kube("list DaemonSets"))?;
        for set in sets {
            kubelet.run(&client, &set, image.as_deref()).await?;
        }
        Ok(kubelet)
    }

    /// A node that runs nothing yet.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn idle(lab: &'a Lab, node: &str) -> Result<Self, LabError> {
        lab.node(node)?;
        Ok(Self { lab, node: node.to_owned(), running: Vec::new(), tokens_last: None })
    }

    /// Has tokens be good for this long from now on, whole seconds. A real API server gives none for less than ten minutes.
    pub fn tokens_last(&mut self, lasts: Duration) {
        self.tokens_last = Some(lasts);
    }

    /// Puts a new token in the place of that of a DaemonSet's pod, as a kubelet does before its time is over.
    ///
    /// # Errors
    /// When there is no such DaemonSet, or the API server gives no token.
    pub async fn renew_token(&self, set: &str) -> Result<(), LabError> {
        let client = self.lab.client().await?;
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
        let set = sets.get(set).await.map_err(LabError::kube(format!("DaemonSet {set}")))?;
        let name = self.pod_of(&set);
        let spec = set.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
        self.token(&client, NAMESPACE, &name, &spec).await.map(drop)
    }

    /// The token that the pod of a DaemonSet has now.
    ///
    /// # Errors
    /// When it has none.
    pub fn token_of(&self, set: &str) -> Result<String, LabError> {
        let file = self.file(&format!("tokens/{set}-{}/token", self.node));
        fs::read_to_string(&file).map_err(LabError::file(&file))
    }

    /// Runs the pod of one DaemonSet of `manx-system` and waits until it is ready; `image` as for [`Self::start`].
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn begin(&mut self, set: &str, image: Option<&Path>) -> Result<(), LabError> {
        let client = self.lab.client().await?;
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
        let set = sets.get(set).await.map_err(LabError::kube(format!("DaemonSet {set}")))?;
        self.run(&client, &set, image).await
    }

    /// The process of a container, by its name.
    pub fn pid(&self, container: &str) -> Option<Pid> {
        self.running.iter().find(|running| running.name == container).map(|running| running.pid)
    }

    /// What a container has said.
    pub fn log(&self, container: &str) -> String {
        fs::read_to_string(self.file(&format!("{container}.log"))).unwrap_or_default()
    }

    /// Asks a container of the node by HTTP, in the node's network; the answer with its head.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, port: u16, path: &str) -> Result<String, LabError> {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET {path} HTTP/1.0\\r\\nhost: x\\r\\n\\r\\n' >&3 && cat <&3"
        );
        self.lab.run(&self.node, &["bash", "-c", &script]).await
    }

    /// Ends a container as a deleted pod's: SIGTERM, and its end.
    ///
    /// # Errors
    /// When it runs on.
    pub async fn stop(&mut self, container: &str) -> Result<(), LabError> {
        let Some(index) = self.running.iter().position(|running| running.name == container) else {
            return Ok(());
        };
        let mut running = self.running.remove(index);
        let _ = kill(running.pid, Signal::SIGTERM);
        let ended = tokio::time::timeout(GRACE, running.runc.wait()).await;
        let said = self.log(container);
        let failed = |why: String| LabError::Daemon {
            node: self.node.clone(),
            daemon: container.to_owned(),
            why,
            log: self.file(&format!("{container}.log")),
            tail: said,
        };
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => {
                let _ = kill(running.pid, Signal::SIGKILL);
                Err(failed("does not end".to_owned()))
            }
        }
    }

    async fn run(&mut self, client: &Client, set: &DaemonSet, image: Option<&Path>) -> Result<(), LabError> {
        let bad = |why: String| LabError::Answer { of: format!("DaemonSet {}", set.name_any()), why };
        let template = set.spec.as_ref().map(|spec| spec.template.clone());
        let template = template.ok_or_else(|| bad("it has no spec".to_owned()))?;
        let mut spec = template.spec.ok_or_else(|| bad("it has no pods".to_owned()))?;
        spec.node_name = Some(self.node.clone());
        let namespace = set.namespace().unwrap_or_default();
        let name = self.pod_of(set);
        let metadata = ObjectMeta { name: Some(name.clone()), ..template.metadata.unwrap_or_default() };
        let pod = Pod { metadata, spec: Some(spec.clone()), status: None };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        pods.create(&PostParams::default(), &pod)
            .await
            .map_err(LabError::kube(format!("create Pod {name}")))?;
        for volume in spec.volumes.iter().flatten() {
            if let Some(host) = volume.host_path.as_ref() {
                let argv = match host.type_.as_deref() {
                    Some("DirectoryOrCreate") => ["mkdir", "-p", &host.path],
                    _ => ["test", "-e", &host.path],
                };
                self.lab.run(&self.node, &argv).await?;
            }
        }
        let token = self.token(client, &namespace, &name, &spec).await?;
        for container in &spec.containers {
            let place = Place {
                node: self.node.clone(),
                namespace: namespace.clone(),
                api: self.api().await?,
                token: token.clone(),
                image: self.image(&container.name, image)?,
                cgroup: format!("/manx-lab-{}.{}.{}", self.lab.name(), self.node, container.name),
            };
            let config = oci::config(&spec, container, &place).map_err(|error| bad(error.to_string()))?;
            self.start_container(container, &config.to_string()).await?;
        }
        Ok(())
    }

    /// The name of a set's pod here.
    fn pod_of(&self, set: &DaemonSet) -> String {
        format!("{}-{}", set.name_any(), self.node)
    }

    async fn start_container(&mut self, container: &Container, config: &str) -> Result<(), LabError> {
        let name = &container.name;
        let bundle = self.file(name);
        fs::create_dir_all(&bundle).map_err(LabError::file(&bundle))?;
        let file = bundle.join("config.json");
        fs::write(&file, config).map_err(LabError::file(&file))?;
        let pid_file = self.file(&format!("{name}.pid"));
        let _ = fs::remove_file(&pid_file);
        let id = format!("{}.{}.{name}", self.lab.name(), self.node);
        let script = format!(
            "exec runc --root {FOLDER}/runc run --bundle {FOLDER}/{name} --pid-file {FOLDER}/{name}.pid {id} \
             >>{FOLDER}/{name}.log 2>&1"
        );
        let mut runc = self.lab.spawn(&self.node, &["sh", "-c", &script])?;
        let started = || async {
            let text = fs::read_to_string(&pid_file).map_err(|error| error.to_string())?;
            text.trim().parse().map(Pid::from_raw).map_err(|_| format!("\"{text}\" is no process id"))
        };
        let failed = |why: String| LabError::Daemon {
            node: self.node.clone(),
            daemon: name.clone(),
            why,
            log: self.file(&format!("{name}.log")),
            tail: self.log(name),
        };
        let pid = tokio::select! {
            pid = eventually(READY, started) => pid.map_err(|late| failed(late.to_string()))?,
            ended = runc.wait() => return Err(failed(format!("ended ({ended:?})"))),
        };
        self.running.push(Running { name: name.clone(), runc, pid });
        let Some(get) = container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()) else {
            return Ok(());
        };
        let (port, path) = (port(container, get), get.path.clone().unwrap_or_default());
        let ready = || async {
            let answer = self.get(port, &path).await.map_err(|error| error.to_string())?;
            let line = answer.lines().next().unwrap_or_default();
            if line.contains(" 200 ") { Ok(()) } else { Err(answer) }
        };
        eventually(READY, ready).await.map_err(|late| LabError::Daemon {
            node: self.node.clone(),
            daemon: name.clone(),
            why: format!("is not ready: {late}"),
            log: self.file(&format!("{name}.log")),
            tail: self.log(name),
        })
    }

    /// The folder with the token of a pod's service account, as the node sees it.
    async fn token(
        &self,
        client: &Client,
        namespace: &str,
        pod: &str,
        spec: &PodSpec,
    ) -> Result<Option<PathBuf>, LabError> {
        if spec.automount_service_account_token == Some(false) {
            return Ok(None);
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let name = spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let account = accounts.get(&name).await.map_err(LabError::kube(format!("ServiceAccount {name}")))?;
        if spec.automount_service_account_token.is_none()
            && account.automount_service_account_token == Some(false)
        {
            return Ok(None);
        }
        let bound_object_ref = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid: None,
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                bound_object_ref: Some(bound_object_ref),
                expiration_seconds: self.tokens_last.and_then(|lasts| i64::try_from(lasts.as_secs()).ok()),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let request = accounts.create_token_request(&name, &PostParams::default(), &request).await;
        let request = request.map_err(LabError::kube(format!("token of ServiceAccount {name}")))?;
        let folder = format!("tokens/{pod}");
        let on_host = self.file(&folder);
        fs::create_dir_all(&on_host).map_err(LabError::file(&on_host))?;
        let authority = self.authority()?;
        let files = [
            ("token", request.status.map(|status| status.token).unwrap_or_default()),
            ("ca.crt", authority),
            ("namespace", namespace.to_owned()),
        ];
        for (name, text) in files {
            let (file, half) = (on_host.join(name), on_host.join(format!("{name}.half")));
            // Whoever reads it meanwhile reads the one or the other.
            fs::write(&half, text).and_then(|()| fs::rename(&half, &file)).map_err(LabError::file(&file))?;
        }
        Ok(Some(PathBuf::from(FOLDER).join(folder)))
    }

    /// The node that runs the API server.
    fn api_node(&self) -> Result<&str, LabError> {
        let node = self.lab.topology().running(Runs::KubeApiserver).next();
        node.map(|node| node.name.as_str())
            .ok_or_else(|| LabError::NoKube { name: self.lab.name().to_owned() })
    }

    async fn api(&self) -> Result<(String, u16), LabError> {
        let addresses = self.lab.rack_addresses(self.api_node()?).await?;
        let address = addresses.into_iter().min().map(|address| address.to_string());
        Ok((address.unwrap_or_default(), cluster::pods_port(self.lab)?))
    }

    fn authority(&self) -> Result<String, LabError> {
        let file = self.lab.node_folder(self.api_node()?).join(cluster::AUTHORITY.trim_start_matches('/'));
        fs::read_to_string(&file).map_err(LabError::file(&file))
    }

    /// The image of a container.
    fn image(&self, container: &str, unpacked: Option<&Path>) -> Result<Image, LabError> {
        // A root of its own, in which the runtime makes what is mounted on.
        let name = format!("{container}.image");
        let root = self.file(&name);
        fs::create_dir_all(&root).map_err(LabError::file(&root))?;
        let mounts = match unpacked {
            Some(folder) => {
                let entries = fs::read_dir(folder).map_err(LabError::file(folder))?.flatten();
                entries.map(|entry| (entry.path(), PathBuf::from("/").join(entry.file_name()))).collect()
            }
            None => {
                let programs =
                    PROGRAMS.map(|name| (self.lab.programs().join(name), PathBuf::from("/").join(name)));
                let libraries = LIBRARIES.map(|folder| (PathBuf::from(folder), PathBuf::from(folder)));
                let libraries = libraries.into_iter().filter(|(folder, _)| folder.exists());
                programs.into_iter().chain(libraries).collect()
            }
        };
        Ok(Image { root: PathBuf::from(FOLDER).join(name), mounts })
    }

    /// A file of the kubelet's, on the host.
    fn file(&self, name: &str) -> PathBuf {
        self.lab.node_folder(&self.node).join(FOLDER.trim_start_matches('/')).join(name)
    }
}

/// A probe's port, by its number or by its name.
fn port(container: &Container, get: &HTTPGetAction) -> u16 {
    let number = match &get.port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).unwrap_or_default()
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        for running in &self.running {
            let _ = kill(running.pid, Signal::SIGKILL);
        }
        // It is runc that removes what it has made for them.
        let end = Instant::now() + GRACE;
        for running in &mut self.running {
            while matches!(running.runc.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

//! The Kubernetes side of a lab: its API server, the custom resources and manifests it starts with,
//! and what kubelets would say: the Node objects.

mod server;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, Scope};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::apiserver::Call;
use crate::eventually::eventually;
use crate::lab::{Lab, LabError, NODE_KUBECONFIG, own_folder, succeeded};
use crate::topology::{MANIFESTS_LABEL, RUNS_LABEL, Runs};

pub(crate) use server::AUTHORITY;
pub use server::{ServeError, serve};

/// Name of the API server among its node's programs.
pub const DAEMON: &str = "kube-apiserver";

const PORT: u16 = 6443;
/// How long the API server may take to answer; a real one brings its etcd.
const READY: Duration = Duration::from_secs(90);
/// How long the API server may take to serve a resource it has just been told of.
const ESTABLISHED: Duration = Duration::from_secs(10);

impl Lab {
    /// A client of the lab's Kubernetes API, for programs on the host.
    ///
    /// # Errors
    /// When the lab has none, or its kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client, LabError> {
        if self.topology().running(Runs::KubeApiserver).next().is_none() {
            return Err(LabError::NoKube { name: self.name().to_owned() });
        }
        let file = self.kubeconfig();
        let bad = |why: String| LabError::Kubeconfig { file: file.clone(), why };
        let read = Kubeconfig::read_from(&file).map_err(|error| bad(error.to_string()))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let config = config.map_err(|error| bad(error.to_string()))?;
        Client::try_from(config).map_err(|error| bad(error.to_string()))
    }
}

impl Lab {
    /// What service accounts have asked of the lab's API: the small server tells it, a real one keeps an audit log.
    ///
    /// # Errors
    /// When there is no API server, or it does not say.
    pub async fn calls(&self) -> Result<Vec<Call>, LabError> {
        let client = self.client().await?;
        let api = self.topology().running(Runs::KubeApiserver).next().map(|api| api.name.as_str());
        let log = server::AUDIT_LOG.trim_start_matches('/');
        if let Some(api) = api.filter(|api| self.node_folder(api).join(log).is_symlink()) {
            // It is not there before there is something in it.
            let script = format!("cat {} 2>/dev/null || true", server::AUDIT_LOG);
            let text = self.run(api, &["sh", "-c", &script]).await?;
            // The last line may be in the middle of being written.
            let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let calls: Result<Vec<Option<Call>>, _> = lines.map(Call::audited).collect();
            let bad = |error: serde_json::Error| LabError::Answer {
                of: "audit log".into(),
                why: error.to_string(),
            };
            return Ok(calls.map_err(bad)?.into_iter().flatten().collect());
        }
        let asked = Request::get("/testbed/calls").body(Vec::new());
        let asked = asked
            .map_err(|error| LabError::Answer { of: "/testbed/calls".into(), why: error.to_string() })?;
        client.request(asked).await.map_err(LabError::kube("ask what was asked"))
    }
}

/// Where pods reach the API by HTTPS: on a real server's only port, or on one of the small server's own.
pub(crate) fn pods_port(lab: &Lab) -> Result<u16, LabError> {
    let file = lab.kubeconfig();
    let read = Kubeconfig::read_from(&file);
    let read = read.map_err(|error| LabError::Kubeconfig { file, why: error.to_string() })?;
    let mut servers = read.clusters.iter().filter_map(|named| named.cluster.as_ref()?.server.as_deref());
    Ok(if servers.any(|server| server.starts_with("https:")) { PORT } else { server::HTTPS_PORT })
}

/// Starts the API server of `node` and waits until it answers. It listens on the node's own address
/// for the nodes, and, by a socket that is opened here and handed to it, on the host's loopback.
pub(crate) async fn start(lab: &Lab, node: &str) -> Result<(), LabError> {
    let addresses = lab.rack_addresses(node).await?;
    let no_address = || LabError::Answer {
        of: format!("addresses of {node}"),
        why: "it has none: give it one in exec".into(),
    };
    let address = addresses.into_iter().min().ok_or_else(no_address)?;
    let rack = SocketAddr::new(address, PORT);
    let loopback = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0));
    let (loopback, host) = loopback
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|source| LabError::start(&["listen on 127.0.0.1"], source))?;
    let written = lab.node_folder(node).join(server::KUBECONFIG.trim_start_matches('/'));
    let _ = fs::remove_file(&written);
    let program = lab.program("manx-lab")?.to_string_lossy().into_owned();
    let argv = [program, "apiserver".into(), "--host".into(), "--listen".into(), rack.to_string()];
    let mut child = lab.launch(node, DAEMON, &argv, Stdio::from(OwnedFd::from(host)))?;
    let ready = || async { if written.exists() { Ok(()) } else { Err(format!("no {}", written.display())) } };
    lab.until_ready(node, DAEMON, &mut child, READY, ready).await?;
    write_kubeconfigs(lab, node, &written, loopback)?;
    let client = lab.client().await?;
    let answers = || async { client.apiserver_version().await.map(drop).map_err(|error| error.to_string()) };
    lab.until_ready(node, DAEMON, &mut child, READY, answers).await
}

/// Copies the kubeconfig of a server that answers to where it is looked for: in the nodes as it is, on
/// the host with the address that is reached from there.
fn write_kubeconfigs(lab: &Lab, api: &str, written: &Path, loopback: SocketAddr) -> Result<(), LabError> {
    let bad = |why: String| LabError::Kubeconfig { file: written.to_owned(), why };
    let mut config = Kubeconfig::read_from(written).map_err(|error| bad(error.to_string()))?;
    let text =
        |config: &Kubeconfig| serde_json::to_vec_pretty(config).map_err(|error| bad(error.to_string()));
    let inside = text(&config)?;
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        let server = cluster.server.clone().unwrap_or_default();
        let (scheme, address) = server.split_once("://").unwrap_or(("http", &server));
        if scheme == "https" {
            // The certificate is that of the address in the rack.
            cluster.tls_server_name =
                address.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
        }
        cluster.server = Some(format!("{scheme}://{loopback}"));
    }
    let folder = Path::new(NODE_KUBECONFIG).parent().unwrap_or(Path::new("/"));
    let name = Path::new(NODE_KUBECONFIG).file_name().unwrap_or_default();
    let nodes = lab.topology().running(Runs::Manx).map(|node| node.name.as_str()).chain([api]);
    for node in nodes {
        let file = own_folder(&lab.node_folder(node), &folder.to_string_lossy()).join(name);
        fs::write(&file, &inside).map_err(LabError::file(&file))?;
    }
    let file = lab.kubeconfig();
    fs::write(&file, text(&config)?).map_err(LabError::file(&file))
}

/// Gives a new API server what a lab begins with: the custom resources, the topology's manifests, and
/// a Node for each Manx node.
pub(crate) async fn fill(lab: &Lab, api: &str, say: &(dyn Fn(&str) + Send + Sync)) -> Result<(), LabError> {
    let client = lab.client().await?;
    let crds = create_crds(&client).await?;
    let manifests = match lab.node(api)?.labels.get(MANIFESTS_LABEL) {
        Some(folder) => apply_manifests(lab, &client, &lab.topology().relative(folder)).await?,
        None => 0,
    };
    let mut nodes = 0;
    for node in lab.topology().running(Runs::Manx) {
        create_node(lab, &client, &node.name).await?;
        nodes += 1;
    }
    say(&format!("Kubernetes: {crds} custom resources, {manifests} manifests, {nodes} Nodes"));
    Ok(())
}

async fn create_crds(client: &Client) -> Result<usize, LabError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crds = manx_felix::crd::all();
    for crd in &crds {
        let name = crd.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), crd)
            .await
            .map_err(LabError::kube(format!("create CRD {name}")))?;
    }
    for crd in &crds {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let established = || async {
            let crd = api.get(name).await.map_err(|error| error.to_string())?;
            let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
            let yes = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
            if yes { Ok(()) } else { Err("not established".to_owned()) }
        };
        let late = eventually(ESTABLISHED, established).await;
        late.map_err(|late| LabError::Late { what: format!("CRD {name}"), late })?;
    }
    Ok(crds.len())
}

/// Applies what the kustomization of a folder builds, or every document of every `*.yaml` in it, in order of file name.
async fn apply_manifests(lab: &Lab, client: &Client, folder: &Path) -> Result<usize, LabError> {
    if folder.join("kustomization.yaml").exists() {
        let argv = ["kubectl", "kustomize", &folder.to_string_lossy()];
        let output = lab.child(argv[0]).args(&argv[1..]).output().await;
        let output = output.map_err(|source| LabError::start(&argv, source))?;
        return apply(client, folder, &succeeded("this machine", &argv, output)?).await;
    }
    let entries = fs::read_dir(folder).map_err(LabError::file(folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut applied = 0;
    for file in files {
        let text = fs::read_to_string(&file).map_err(LabError::file(&file))?;
        applied += apply(client, &file, &text).await?;
    }
    Ok(applied)
}

/// Applies every document of a text, which is that of `file`.
async fn apply(client: &Client, file: &Path, text: &str) -> Result<usize, LabError> {
    let bad = |why: String| LabError::Manifest { file: file.to_owned(), why };
    let discovery = Discovery::new(client.clone()).run().await.map_err(LabError::kube("discovery"))?;
    let documents: Vec<DynamicObject> =
        serde_saphyr::from_multiple(text).map_err(|error| bad(error.to_string()))?;
    for document in &documents {
        let types = document.types.clone().ok_or_else(|| bad("apiVersion and kind are missing".into()))?;
        let gvk = kube::core::GroupVersionKind::try_from(&types).map_err(|error| bad(error.to_string()))?;
        let unknown = || bad(format!("the API server has no {} {}", types.api_version, types.kind));
        let (resource, capabilities) = discovery.resolve_gvk(&gvk).ok_or_else(unknown)?;
        let name = document.metadata.name.clone().ok_or_else(|| bad("metadata.name is missing".into()))?;
        let api: Api<DynamicObject> = match (capabilities.scope, &document.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let patch = api.patch(&name, &PatchParams::apply("manx-lab").force(), &Patch::Apply(document)).await;
        patch.map_err(LabError::kube(format!("apply {} {name} of {}", types.kind, file.display())))?;
    }
    Ok(documents.len())
}

/// The Node object a kubelet would make, with the node's addresses on the rack.
async fn create_node(lab: &Lab, client: &Client, name: &str) -> Result<(), LabError> {
    let api: Api<Node> = Api::all(client.clone());
    let labels = lab.node(name)?.labels.iter().filter(|(key, _)| *key != RUNS_LABEL);
    let mut labels: BTreeMap<String, String> =
        labels.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.insert("kubernetes.io/hostname".into(), name.to_owned());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    let node = Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        ..Node::default()
    };
    api.create(&PostParams::default(), &node).await.map_err(LabError::kube(format!("create Node {name}")))?;

    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let rack = lab.rack_addresses(name).await?;
    let internal = rack.iter().map(|ip| address("InternalIP", ip.to_string()));
    let now = Some(Time(Timestamp::now()));
    let status = NodeStatus {
        addresses: Some(internal.chain([address("Hostname", name.to_owned())]).collect()),
        conditions: Some(vec![NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: Some("LabNode".into()),
            message: Some("a network namespace of manx-lab".into()),
            last_heartbeat_time: now.clone(),
            last_transition_time: now,
        }]),
        ..NodeStatus::default()
    };
    let patch = Patch::Merge(json!({ "status": status }));
    let patched = api.patch_status(name, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(LabError::kube(format!("status of Node {name}")))
}

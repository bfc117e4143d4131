//! Pods: what the scheduler, kubelet and containerd would do with one, down to executing the real CNI
//! plugin with the variables containerd gives it. A pod here is a network namespace to run things in.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Output;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Child;

use crate::lab::{Lab, LabError, succeeded};
use crate::netns;

/// The interface a CNI runtime asks for.
const IFNAME: &str = "eth0";
/// The network configuration given to the plugin: what `/etc/cni/net.d` would hold.
const NETWORK: &str = r#"{"cniVersion":"1.1.0","name":"manx","type":"manx"}"#;

/// What a pod's object says it runs.
const CONTAINER: &str = "netns";
const IMAGE: &str = "manx-lab";

/// A pod of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its UID in Kubernetes.
    pub uid: String,
    /// The runtime's id of its sandbox: 64 hexadecimal digits.
    pub container_id: String,
    /// Name of its network namespace in `/run/netns`.
    pub netns: String,
    /// Its addresses, as the plugin gave them.
    pub addresses: Vec<IpAddr>,
}

impl PodInfo {
    /// Where it is, as commands name it: `node/namespace/pod`.
    pub fn place(&self) -> String {
        format!("{}/{}/{}", self.node, self.namespace, self.name)
    }
}

/// What the plugin prints on success; see the CNI specification, "Success".
#[derive(Deserialize)]
struct AddResult {
    #[serde(default)]
    ips: Vec<AddedIp>,
}

#[derive(Deserialize)]
struct AddedIp {
    address: IpNetwork,
}

/// What the plugin prints on failure; see the CNI specification, "Error".
#[derive(Deserialize)]
struct CniFailure {
    code: u64,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Lab {
    /// Starts a pod on a node: its object, its network namespace, CNI ADD, its status. What was made is
    /// removed again if it fails.
    ///
    /// # Errors
    /// When there is a pod of this name, or the first step that failed; the plugin's error in its words.
    pub async fn pod_add(&self, node: &str, namespace: &str, name: &str) -> Result<PodInfo, LabError> {
        self.pod_create(node, namespace, object(node, name)).await
    }

    /// As [`Lab::pod_add`], with labels and ports of one's own: `pod` must be for this node, and have a name.
    ///
    /// # Errors
    /// As there.
    pub async fn pod_create(&self, node: &str, namespace: &str, pod: Pod) -> Result<PodInfo, LabError> {
        self.node(node)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let name = name.as_str();
        if let Some(pod) = self.pods().into_iter().find(|pod| pod.namespace == namespace && pod.name == name)
        {
            return Err(LabError::PodExists { namespace: pod.namespace, name: pod.name, node: pod.node });
        }
        let api: Api<Pod> = Api::namespaced(self.client().await?, namespace);
        let created = api.create(&PostParams::default(), &pod).await;
        let created = created.map_err(LabError::kube(format!("create Pod {name}")))?;
        let pod = PodInfo {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: node.to_owned(),
            uid: created.metadata.uid.unwrap_or_default(),
            container_id: container_id().map_err(LabError::file("/proc/sys/kernel/random/uuid"))?,
            netns: netns::of_pod(self.name(), node, namespace, name),
            addresses: vec![],
        };
        match self.attach(&pod).await {
            Ok(pod) => {
                self.write_status(&api, &pod).await?;
                Ok(pod)
            }
            Err(error) => {
                // The first failure is the one to tell.
                let _ = self.pod_remove(&pod).await;
                Err(error)
            }
        }
    }

    async fn attach(&self, pod: &PodInfo) -> Result<PodInfo, LabError> {
        self.write_pod(pod)?;
        let argv = ["ip", "netns", "add", &pod.netns];
        let output = self.child("ip").args(&argv[1..]).output().await;
        succeeded("this machine", &argv, output.map_err(|source| LabError::start(&argv, source))?)?;
        let said = self.cni("ADD", pod).await?;
        let result: AddResult = serde_json::from_str(&said)
            .map_err(|error| LabError::Answer { of: "manx ADD".into(), why: format!("{error} in {said}") })?;
        let addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
        let pod = PodInfo { addresses, ..pod.clone() };
        self.write_pod(&pod)?;
        Ok(pod)
    }

    /// Ends a pod: CNI DEL, its network namespace, its object.
    ///
    /// # Errors
    /// When there is no such pod, or the plugin fails: the pod is then still there, as with a kubelet.
    pub async fn pod_del(&self, namespace: &str, name: &str) -> Result<(), LabError> {
        let pod = self.pod(namespace, name)?;
        self.cni("DEL", &pod).await?;
        self.pod_remove(&pod).await
    }

    async fn pod_remove(&self, pod: &PodInfo) -> Result<(), LabError> {
        netns::destroy(&pod.netns).map_err(LabError::file(netns::path(&pod.netns)))?;
        let api: Api<Pod> = Api::namespaced(self.client().await?, &pod.namespace);
        match api.delete(&pod.name, &DeleteParams::default().grace_period(0)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(LabError::kube(format!("delete Pod {}", pod.name))(error)),
        }
        let file = self.pod_file(pod);
        fs::remove_file(&file).map_err(LabError::file(&file))
    }

    /// The pods of this lab, by node, namespace and name.
    pub fn pods(&self) -> Vec<PodInfo> {
        let folders = self.topology().nodes.keys().map(|node| self.node_folder(node).join("pods"));
        let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let pods = files.filter_map(|file| serde_json::from_slice(&fs::read(file.path()).ok()?).ok());
        let mut pods: Vec<PodInfo> = pods.collect();
        pods.sort_by(|a, b| (&a.node, &a.namespace, &a.name).cmp(&(&b.node, &b.namespace, &b.name)));
        pods
    }

    /// A pod by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<PodInfo, LabError> {
        let found = self.pods().into_iter().find(|pod| pod.namespace == namespace && pod.name == name);
        found.ok_or_else(|| LabError::NoPod { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Runs a command in a pod and waits for it.
    ///
    /// # Errors
    /// When it could not be started; that it failed is said by [`Output::status`].
    pub async fn pod_exec(&self, pod: &PodInfo, argv: &[&str]) -> Result<Output, LabError> {
        let child = self.pod_spawn(pod, argv)?;
        child.wait_with_output().await.map_err(|source| LabError::start(argv, source))
    }

    /// Runs a command in a pod and gives what it printed.
    ///
    /// # Errors
    /// When it could not be started, or failed: with what it said.
    pub async fn pod_run(&self, pod: &PodInfo, argv: &[&str]) -> Result<String, LabError> {
        succeeded(&pod.name, argv, self.pod_exec(pod, argv).await?)
    }

    /// Starts a command in a pod; its standard output and error are piped, and it dies with the handle.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn pod_spawn(&self, pod: &PodInfo, argv: &[&str]) -> Result<Child, LabError> {
        self.spawn_at(&pod.place(), argv)
    }

    /// Executes the plugin in the pod's node as containerd does.
    async fn cni(&self, verb: &'static str, pod: &PodInfo) -> Result<String, LabError> {
        let plugin = self.program("manx")?;
        let args = format!(
            "K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={};IgnoreUnknown=1",
            pod.namespace, pod.name, pod.container_id, pod.uid
        );
        let env = [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", pod.container_id.clone()),
            ("CNI_NETNS", netns::path(&pod.netns).to_string_lossy().into_owned()),
            ("CNI_IFNAME", IFNAME.to_owned()),
            ("CNI_PATH", self.programs().to_string_lossy().into_owned()),
            ("CNI_ARGS", args),
        ];
        let output = self.exec_with(&pod.node, &[&plugin], &env, NETWORK.as_bytes()).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        match serde_json::from_str::<CniFailure>(&said) {
            Ok(CniFailure { code, msg: message, details }) => {
                let pod = format!("{}/{}", pod.namespace, pod.name);
                Err(LabError::Cni { verb, pod, code, message, details })
            }
            Err(_) => succeeded(&pod.node, &[&plugin], output),
        }
    }

    async fn write_status(&self, api: &Api<Pod>, pod: &PodInfo) -> Result<(), LabError> {
        let ips: Vec<_> = pod.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let conditions: Vec<_> = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .iter()
            .map(|condition| json!({ "type": condition, "status": "True" }))
            .collect();
        let container = json!({
            "name": CONTAINER, "image": IMAGE, "imageID": IMAGE, "ready": true, "started": true, "restartCount": 0,
            "containerID": format!("manx-lab://{}", pod.container_id), "state": { "running": {} },
        });
        let host = self.rack_addresses(&pod.node).await?.into_iter().min();
        let status = json!({ "status": {
            "phase": "Running", "podIP": pod.addresses.first(), "podIPs": ips, "hostIP": host, "conditions": conditions,
            "containerStatuses": [container],
        }});
        let patched = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(status)).await;
        patched.map(drop).map_err(LabError::kube(format!("status of Pod {}", pod.name)))
    }

    fn pod_file(&self, pod: &PodInfo) -> PathBuf {
        self.node_folder(&pod.node).join("pods").join(format!("{}.{}.json", pod.namespace, pod.name))
    }

    fn write_pod(&self, pod: &PodInfo) -> Result<(), LabError> {
        let file = self.pod_file(pod);
        fs::write(&file, serde_json::to_vec_pretty(pod).unwrap_or_default()).map_err(LabError::file(&file))
    }
}

fn object(node: &str, name: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.labels = Some([("app".to_owned(), name.to_owned())].into());
    let container = k8s_openapi::api::core::v1::Container {
        name: CONTAINER.into(),
        image: Some(IMAGE.into()),
        ..Default::default()
    };
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        node_name: Some(node.to_owned()),
        containers: vec![container],
        ..Default::default()
    });
    pod
}

/// 64 hexadecimal digits at random, as containerd's sandbox ids are.
fn container_id() -> io::Result<String> {
    let uuid = || fs::read_to_string("/proc/sys/kernel/random/uuid");
    Ok([uuid()?, uuid()?].concat().chars().filter(char::is_ascii_hexdigit).collect())
}

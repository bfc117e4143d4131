//! A client of the Container Runtime Interface: what a kubelet asks of containerd, as far as a pod needs it. The
//! messages are those of `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`, with the fields that are used here.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use manx_testbed::{Late, eventually};
use prost::Message;

use super::grpc::{CallError, Channel};
use super::image;

/// A connection to a runtime.
pub struct Cri(Channel);

/// What a pod's sandbox is made of.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
}

/// Requests that are nothing but an id: RunPodSandbox's and CreateContainer's answers too.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "3")]
    runtime_version: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

/// A condition of the runtime: `RuntimeReady`, `NetworkReady`.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(bool, tag = "2")]
    pub status: bool,
    #[prost(string, tag = "3")]
    pub reason: String,
    #[prost(string, tag = "4")]
    pub message: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

/// How long a command in a container may take, in seconds.
const EXEC_SECONDS: i64 = 20;

impl Cri {
    /// Connects to the runtime that listens on `socket`, or will within `patience`.
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self, Late> {
        eventually(patience, || async {
            let channel = Channel::connect(socket).await.map_err(|error| error.to_string())?;
            let cri = Self(channel);
            cri.conditions().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(cri)
        })
        .await
    }

    async fn call<A: Message + Default>(&self, verb: &str, message: &impl Message) -> Result<A, CallError> {
        self.0.call(&format!("runtime.v1.RuntimeService/{verb}"), message).await
    }

    /// The runtime's version.
    pub async fn version(&self) -> Result<String, CallError> {
        Ok(self.call::<VersionResponse>("Version", &Empty {}).await?.runtime_version)
    }

    /// What the runtime says of itself.
    pub async fn conditions(&self) -> Result<Vec<RuntimeCondition>, CallError> {
        let answer: StatusResponse = self.call("Status", &Empty {}).await?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    /// Starts a sandbox; returns its id.
    pub async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, CallError> {
        let request = RunPodSandboxRequest { config: Some(config.clone()) };
        Ok(self.call::<Id>("RunPodSandbox", &request).await?.id)
    }

    /// The sandbox's addresses.
    pub async fn addresses(&self, sandbox: &str) -> Result<Vec<IpAddr>, CallError> {
        let answer: PodSandboxStatusResponse =
            self.call("PodSandboxStatus", &Id { id: sandbox.to_owned() }).await?;
        let network = answer.status.unwrap_or_default().network.unwrap_or_default();
        let texts = [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        let unreadable = |text: String| CallError::Answer(format!("address {text:?}"));
        texts.map(|text| text.parse().map_err(|_| unreadable(text))).collect()
    }

    /// Starts a container that stays; returns its id.
    pub async fn run_container(
        &self,
        sandbox: &str,
        config: &PodSandboxConfig,
        name: &str,
    ) -> Result<String, CallError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.to_owned() }),
                image: Some(ImageSpec { image: image::NAME.to_owned() }),
                command: image::STAY.map(str::to_owned).to_vec(),
            }),
            sandbox_config: Some(config.clone()),
        };
        let Id { id } = self.call("CreateContainer", &request).await?;
        self.call::<Empty>("StartContainer", &Id { id: id.clone() }).await?;
        Ok(id)
    }

    /// What a command in a container printed, or the error with what it said.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<String, String> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: EXEC_SECONDS,
        };
        let said: ExecSyncResponse =
            self.call("ExecSync", &request).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.exit_code == 0 {
            return Ok(text);
        }
        Err(format!(
            "{command:?} ended with {}: {text}{}",
            said.exit_code,
            String::from_utf8_lossy(&said.stderr)
        ))
    }

    /// Ends a sandbox's containers and its network: the first DEL.
    pub async fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), CallError> {
        self.call::<Empty>("StopPodSandbox", &Id { id: sandbox.to_owned() }).await.map(drop)
    }

    /// Removes what is left of a sandbox: a second DEL, without namespace or earlier result.
    pub async fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), CallError> {
        self.call::<Empty>("RemovePodSandbox", &Id { id: sandbox.to_owned() }).await.map(drop)
    }
}

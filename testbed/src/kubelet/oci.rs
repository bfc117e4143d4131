//! A container of a pod as the OCI runtime specification has it (`config.json`), as containerd makes it of what the
//! kubelet says. What a pod asks for and is not known here is refused: a container runs as its manifest says, or not.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, VolumeMount};
use serde_json::{Value, json};
use thiserror::Error;

/// What a container needs to know of its node and cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// `spec.nodeName`.
    pub node: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Where the API is, as the Service `kubernetes` tells pods.
    pub api: (String, u16),
    /// The folder with the service account's token; none where the pod wants none.
    pub token: Option<PathBuf>,
    /// The image's root, and what is mounted into it to make it one.
    pub image: Image,
    /// The cgroup it is put into.
    pub cgroup: String,
}

/// What a container sees as `/`.
#[derive(Clone, Debug)]
pub struct Image {
    /// The folder.
    pub root: PathBuf,
    /// Files and folders that it holds: an unpacked image's, or programs that are built here and the machine's
    /// libraries, to which they are linked.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

/// Why a container is not run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field}: {why}")]
pub struct Unsupported {
    /// Where in the pod.
    pub field: &'static str,
    /// What of it is not known here.
    pub why: String,
}

fn unsupported<T>(field: &'static str, why: impl Into<String>) -> Result<T, Unsupported> {
    Err(Unsupported { field, why: why.into() })
}

/// The `config.json` of a container.
///
/// # Errors
/// What the pod asks for and is not known here.
pub fn config(pod: &PodSpec, container: &Container, place: &Place) -> Result<Value, Unsupported> {
    check(pod, container)?;
    let security = container.security_context.clone().unwrap_or_default();
    let capabilities = security.capabilities.unwrap_or_default();
    if capabilities.drop.as_deref() != Some(&["ALL".to_owned()][..]) {
        return unsupported("securityContext.capabilities.drop", "anything but ALL");
    }
    let added: Vec<String> =
        capabilities.add.unwrap_or_default().into_iter().map(|name| format!("CAP_{name}")).collect();
    let args = container.command.iter().chain(&container.args).flatten().collect::<Vec<_>>();
    let mut mounts = system_mounts();
    mounts.extend(place.image.mounts.iter().map(|(from, to)| bind(from, to, true)));
    for mount in container.volume_mounts.iter().flatten() {
        mounts.push(bind(
            &host_path(pod, mount)?,
            Path::new(&mount.mount_path),
            mount.read_only == Some(true),
        ));
    }
    if let Some(token) = &place.token {
        mounts.push(bind(token, Path::new("/var/run/secrets/kubernetes.io/serviceaccount"), true));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": security.run_as_user.unwrap_or(0), "gid": 0 },
            "args": args,
            "env": environment(container, place)?,
            "cwd": "/",
            // The default of a container of uid 0: what is added is in all sets but the ambient one.
            "capabilities": { "bounding": added, "effective": added, "permitted": added },
            "noNewPrivileges": security.allow_privilege_escalation == Some(false),
            "oomScoreAdj": 0,
        },
        "root": { "path": place.image.root, "readonly": security.read_only_root_filesystem == Some(true) },
        "mounts": mounts,
        "linux": {
            // Of the node, with hostNetwork: its network and its host name.
            "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }],
            "cgroupsPath": place.cgroup,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp(),
        },
    }))
}

/// What is said and would be passed over is refused instead.
fn check(pod: &PodSpec, container: &Container) -> Result<(), Unsupported> {
    if pod.init_containers.iter().flatten().next().is_some() {
        return unsupported("initContainers", "there are some");
    }
    if pod.host_network != Some(true) || pod.host_pid == Some(true) || pod.host_ipc == Some(true) {
        return unsupported("hostNetwork, hostPID, hostIPC", "anything but the host's network alone");
    }
    let seccomp = pod.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    if seccomp.is_none_or(|profile| profile.type_ != "RuntimeDefault") {
        return unsupported("securityContext.seccompProfile", "anything but RuntimeDefault");
    }
    if container.security_context.as_ref().is_none_or(|context| context.privileged == Some(true)) {
        return unsupported("securityContext.privileged", "a container without bounds");
    }
    if container.command.as_ref().is_none_or(Vec::is_empty) {
        return unsupported("command", "the image's own entrypoint");
    }
    Ok(())
}

fn environment(container: &Container, place: &Place) -> Result<Vec<String>, Unsupported> {
    let mut environment = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOSTNAME={}", place.node),
        format!("KUBERNETES_SERVICE_HOST={}", place.api.0),
        format!("KUBERNETES_SERVICE_PORT={}", place.api.1),
    ];
    for EnvVar { name, value, value_from } in container.env.iter().flatten() {
        let path =
            value_from.as_ref().and_then(|from| from.field_ref.as_ref()).map(|field| &*field.field_path);
        let value = match (value, path) {
            (Some(value), None) => value.clone(),
            (None, Some("spec.nodeName")) => place.node.clone(),
            (None, Some("metadata.namespace")) => place.namespace.clone(),
            _ => return unsupported("env", name),
        };
        environment.push(format!("{name}={value}"));
    }
    for from in container.env_from.iter().flatten() {
        // What is there only where an operator has made it.
        if from.config_map_ref.as_ref().is_none_or(|map| map.optional != Some(true)) {
            return unsupported("envFrom", "anything but optional ConfigMaps");
        }
    }
    Ok(environment)
}

fn host_path(pod: &PodSpec, mount: &VolumeMount) -> Result<PathBuf, Unsupported> {
    if mount.sub_path.is_some() || mount.mount_propagation.is_some() {
        return unsupported("volumeMounts", format!("subPath or mountPropagation of {}", mount.name));
    }
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
    match volume.and_then(|volume| volume.host_path.as_ref()) {
        Some(host) => Ok(PathBuf::from(&host.path)),
        None => unsupported("volumes", format!("{} is no hostPath", mount.name)),
    }
}

fn bind(from: &Path, to: &Path, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({ "destination": to, "type": "bind", "source": from, "options": ["rbind", "rprivate", access] })
}

/// What containerd gives to every container.
fn system_mounts() -> Vec<Value> {
    let mount = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

/// The calls that the default profiles of containerd and Docker refuse to everybody without CAP_SYS_ADMIN and its like;
/// they allow by name, this refuses by name, so that it needs no list of each kernel's calls.
fn seccomp() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{
            "action": "SCMP_ACT_ERRNO",
            "names": [
                "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "delete_module", "finit_module",
                "fsconfig", "fsmount", "fsopen", "fspick", "get_mempolicy", "init_module", "ioperm", "iopl", "kcmp",
                "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "mount", "mount_setattr",
                "move_mount", "move_pages", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open",
                "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl",
                "quotactl_fd", "reboot", "request_key", "set_mempolicy", "setdomainname", "sethostname", "setns",
                "settimeofday", "swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd", "vhangup",
            ],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(change: impl Fn(&mut Value)) -> Result<Value, Unsupported> {
        let mut pod = json!({
            "hostNetwork": true,
            "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "a", "command": ["/a"], "args": ["--b"],
                "env": [{ "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
                },
                "volumeMounts": [{ "name": "run", "mountPath": "/run/a" }],
            }],
            "volumes": [{ "name": "run", "hostPath": { "path": "/run/b" } }],
        });
        change(&mut pod);
        let pod: PodSpec = serde_json::from_value(pod).unwrap();
        let place = Place {
            node: "node1".to_owned(),
            namespace: "default".to_owned(),
            api: ("10.0.0.1".to_owned(), 443),
            token: None,
            image: Image { root: "/image".into(), mounts: Vec::new() },
            cgroup: "/lab".to_owned(),
        };
        config(&pod, &pod.containers[0], &place)
    }

    #[test]
    fn a_container_has_what_its_manifest_says_and_no_more() {
        let config = pod(|_| {}).unwrap();
        assert_eq!(config["process"]["args"], json!(["/a", "--b"]));
        assert_eq!(config["process"]["capabilities"]["bounding"], json!(["CAP_NET_ADMIN"]));
        assert_eq!(
            (&config["process"]["noNewPrivileges"], &config["root"]["readonly"]),
            (&json!(true), &json!(true))
        );
        let env = config["process"]["env"].as_array().unwrap();
        assert!(
            env.contains(&json!("NODE=node1")) && env.contains(&json!("KUBERNETES_SERVICE_HOST=10.0.0.1"))
        );
        let mounts = config["mounts"].as_array().unwrap();
        let run = mounts.iter().find(|mount| mount["destination"] == "/run/a").unwrap();
        assert_eq!((&run["source"], &run["options"][2]), (&json!("/run/b"), &json!("rw")));
        assert!(
            !mounts.iter().any(|mount| mount["destination"].as_str().unwrap().contains("serviceaccount"))
        );
    }

    #[test]
    fn what_is_not_known_here_is_refused() {
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 6] = [
            ("initContainers", |pod| pod["initContainers"] = json!([{ "name": "i" }])),
            ("hostNetwork", |pod| pod["hostPID"] = json!(true)),
            ("seccompProfile", |pod| pod["securityContext"] = json!({})),
            ("privileged", |pod| pod["containers"][0]["securityContext"]["privileged"] = json!(true)),
            ("volumes", |pod| pod["volumes"] = json!([{ "name": "run", "emptyDir": {} }])),
            ("capabilities", |pod| {
                pod["containers"][0]["securityContext"]["capabilities"] = json!({ "add": ["NET_RAW"] });
            }),
        ];
        for (field, change) in changes {
            let refused = pod(change).unwrap_err();
            assert!(refused.field.contains(field), "{refused}");
        }
    }
}

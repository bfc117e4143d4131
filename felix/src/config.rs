//! The agent's command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::acl::driver::Connections;
use crate::dataplane::Settings;

/// The Manx node agent: watches Kubernetes, programs this node's pod routes, tells manx-bgpd whom to speak with.
///
/// Runs once on every node, as root or with CAP_NET_ADMIN, in the host's network namespace. It can be stopped, killed
/// and upgraded at any time: routes stay in the kernel, manx-bgpd keeps its sessions, and the next agent goes on
/// where this one was.
#[derive(Clone, Debug, Parser)]
#[command(name = "manx-felix", version, after_help = AFTER_HELP)]
pub struct Config {
    /// Name of this node's Node object; in a DaemonSet from the downward API's spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: String,

    /// A kubeconfig file; without one the service account the cluster gives to the pod is used.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where the CNI plugin and manxctl find the agent.
    #[arg(long, value_name = "PATH", default_value = manx_cni::protocol::DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// Where manx-bgpd listens.
    #[arg(long, env = "MANX_SPEAKER_SOCKET", value_name = "PATH", default_value = manx_bgp::api::DEFAULT_SOCKET)]
    pub speaker_socket: PathBuf,

    /// What must outlive the agent, but not the boot: a directory on a tmpfs; the one the socket is in unless set.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// MTU of pods' interfaces, in octets; that of this node's uplinks, the smallest, unless set.
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// Where routes are put.
    #[command(flatten)]
    pub routes: Settings,

    /// Install the CNI plugin, which lies beside this program, in this directory; /opt/cni/bin on most nodes.
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,

    /// Install the network configuration 10-manx.conflist in this directory once the node is ready; /etc/cni/net.d on
    /// most nodes.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,

    /// How long a node and its pods must be gone before its blocks are freed, in seconds.
    #[arg(long, env = "MANX_GC_GRACE", value_name = "SECONDS", default_value = "600", value_parser = clap::value_parser!(u64).range(30..))]
    pub gc_grace: u64,

    /// How many blocks of nodes that are gone are freed a minute, at most.
    #[arg(long, value_name = "BLOCKS", default_value = "60")]
    pub gc_budget: usize,

    /// Log which blocks of nodes that are gone would be freed, and free none.
    #[arg(long)]
    pub gc_dry_run: bool,

    /// The namespace of the Lease by which the agent is elected that frees them; in a DaemonSet from the downward API's
    /// metadata.namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", default_value = "kube-system")]
    pub namespace: String,

    /// What becomes of connections that were let through and that a later change of policies forbids: `end` has their
    /// next packet judged anew, `keep` lets them go on.
    #[arg(long, value_enum, value_name = "end|keep", default_value_t)]
    pub connections: Connections,

    /// Where the kernel's settings are written; a container that is not privileged has its own /proc/sys read-only, and
    /// the node's mounted elsewhere.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys")]
    pub proc_sys: PathBuf,

    /// Where to serve /healthz, /readyz and /metrics (Prometheus).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9098")]
    pub health_addr: SocketAddr,

    /// What to log: error, warn, info, debug, trace, or per module as in `info,manx_felix::agent=debug`.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

const AFTER_HELP: &str = "\
Examples:
  manx-felix --node-name node1 --kubeconfig /etc/kubernetes/kubelet.conf
  NODE_NAME=node1 manx-felix --log debug
  manxctl status        what the agent on this node sees
  curl -s http://127.0.0.1:9098/readyz";

impl Config {
    /// Where attachments are kept.
    pub fn state_dir(&self) -> &Path {
        self.state_dir.as_deref().or_else(|| self.socket.parent()).unwrap_or(Path::new("/run/manx"))
    }
}

/// A DNS subdomain (RFC 1123), as every Node's name is: one that is not would only never be found.
fn node_name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() <= 253 && bytes.iter().copied().all(good) && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(text.to_owned());
    }
    Err("a Node's name has at most 253 lowercase letters, digits, '-' and '.', and begins and ends with a letter or \
         digit: see `kubectl get nodes`"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn state_lies_beside_the_socket_unless_told_otherwise() {
        let parse = |arguments: &[&str]| {
            Config::parse_from([&["manx-felix", "--node-name", "n"], arguments].concat())
        };
        assert_eq!(parse(&[]).state_dir(), Path::new("/run/manx"));
        assert_eq!(parse(&["--socket", "/run/lab/a.sock"]).state_dir(), Path::new("/run/lab"));
        assert_eq!(parse(&["--state-dir", "/x"]).state_dir(), Path::new("/x"));
    }

    #[test]
    fn a_name_no_node_can_have_is_refused() {
        for name in ["", "Node1", "node_1", "-node", "node."] {
            assert!(node_name(name).is_err(), "{name}");
        }
        assert!(node_name("node1.example.com").is_ok());
    }
}

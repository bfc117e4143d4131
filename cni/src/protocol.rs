//! What the plugin and the agent say to each other over the agent's unix socket.
//!
//! Frames are a big-endian `u32` length and that many bytes of JSON, at most [`MAX_FRAME`]. One
//! connection serves one verb:
//!
//! ```text
//!   ADD   plugin ── Add ──▶ agent      addresses are taken and written down
//!         plugin ◀─ Attach ─ agent     the plugin makes the veth in the pod's namespace
//!         plugin ── Ready ──▶ agent    the agent programs the pod's route
//!         plugin ◀─ Programmed ─ agent the plugin prints its result
//!   DEL   plugin ── Del ──▶ agent      the route goes, the veth is taken down
//!         plugin ◀─ Deleted ─ agent    the agent removes the veth, then frees the address
//!   CHECK plugin ── Check ──▶ agent    what the agent holds of the attachment
//!         plugin ◀─ Attached ─ agent   the plugin compares it, the kernel and prevResult
//!   GC    plugin ── Gc ──▶ agent       the attachments the runtime does not know
//!         plugin ◀─ Stale ─ agent      the plugin ends each by a DEL
//!   STATUS plugin ── NodeReady ──▶ agent
//!         plugin ◀─ NodeReady ─ agent
//! ```
//!
//! An ADD whose connection ends before `Programmed` is undone by the agent. A DEL that finds no agent removes the veth
//! itself and leaves a note (see [`crate::released`]).

use std::io::{self, Read, Write};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The protocol's version; carried in every first message, refused in words where it differs. What an older reader
/// may miss (a field with a default, a verb it refuses) keeps the number.
pub const VERSION: u32 = 1;

/// Largest frame, in bytes.
pub const MAX_FRAME: u32 = 1 << 20;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/manx/agent.sock";

/// Every interface the plugin makes on the host begins with this: how ours are told apart.
pub const HOST_IFNAME_PREFIX: &str = "manx";

/// The gateway of every IPv4 pod: link-local, the same everywhere, owned by nobody (RFC 3927).
pub const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// The gateway of every IPv6 pod: set on the host side of every veth.
pub const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One attachment: the CNI specification's key of a network interface in a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

/// The name of the host's end of an attachment: [`HOST_IFNAME_PREFIX`] and 11 base-32 digits (55 bits) of a
/// hash of the key, 15 characters in all (the kernel's longest). The same in every version: it is how a DEL
/// finds the interface with the agent down and the pod's namespace gone.
pub fn host_ifname(key: &AttachmentKey) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = hash(key);
    let digits = (0..11).map(|i| char::from(DIGITS[(hash >> (5 * i)) as usize & 31]));
    HOST_IFNAME_PREFIX.chars().chain(digits).collect()
}

/// The MAC of an attachment's end in the pod, unless another is asked for: locally administered, and like the name of
/// the host's end it follows from the key. Set by us, so that nobody in the pod changes it.
pub fn pod_mac(key: &AttachmentKey) -> [u8; 6] {
    let [.., a, b, c, d, e] = hash(key).to_be_bytes();
    [0x02, a, b, c, d, e]
}

fn hash(key: &AttachmentKey) -> u64 {
    let key = key.container_id.bytes().chain([b'/']).chain(key.ifname.bytes());
    // FNV-1a, 64 bits; then its bits are mixed, for FNV leaves the last bytes' mark in the low ones.
    let hash = key.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// The pod an attachment belongs to, from CNI_ARGS; empty where the runtime did not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
    /// K8S_POD_UID.
    pub uid: String,
}

/// From the plugin to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Begin an ADD. Answered by [`Reply::Attach`].
    Add {
        /// [`VERSION`].
        version: u32,
        /// Whose interface.
        key: AttachmentKey,
        /// Whose pod.
        pod: PodRef,
        /// CNI_NETNS.
        netns: String,
        /// `name` of the network: what a GC is about. Empty from a plugin that did not say.
        #[serde(default)]
        network: String,
        /// Addresses the runtime asks for, at most one a family; of other families the agent chooses.
        #[serde(default)]
        ips: Vec<IpAddr>,
    },
    /// The veth stands. Answered by [`Reply::Programmed`].
    Ready {
        /// MAC of the pod's end, as six bytes.
        pod_mac: [u8; 6],
        /// Interface index of the host's end.
        host_ifindex: u32,
    },
    /// The veth could not be made: what was begun is undone, and the reason goes to the agent's log. Not answered.
    Failed {
        /// Why, in words.
        why: String,
    },
    /// A DEL; a key never seen is success. Answered by [`Reply::Deleted`].
    Del {
        /// [`VERSION`].
        version: u32,
        /// Whose interface.
        key: AttachmentKey,
    },
    /// A CHECK. Answered by [`Reply::Attached`]; a key the agent does not hold is an error of code 3.
    Check {
        /// [`VERSION`].
        version: u32,
        /// Whose interface.
        key: AttachmentKey,
    },
    /// A GC. Answered by [`Reply::Stale`]; nothing is changed by it.
    Gc {
        /// [`VERSION`].
        version: u32,
        /// `name` of the network: attachments of others are not looked at.
        network: String,
        /// What the runtime knows.
        valid: Vec<AttachmentKey>,
    },
    /// A STATUS. Answered by [`Reply::NodeReady`], or an error of code 50 or 51.
    NodeReady {
        /// [`VERSION`].
        version: u32,
    },
    /// The node's part of `manxctl status`. Answered by [`Reply::Status`].
    Status {
        /// [`VERSION`].
        version: u32,
    },
    /// Free an address whose pod is gone. Answered by [`Reply::Freed`].
    Free {
        /// [`VERSION`].
        version: u32,
        /// Which.
        address: IpAddr,
    },
    /// Why a packet passes or not. Answered by [`Reply::Explained`].
    Explain {
        /// [`VERSION`].
        version: u32,
        /// See `manx_felix::graph::policy::Question`.
        question: serde_json::Value,
    },
    /// What `manxctl` asks of the packet filter. Answered by [`Reply::Policy`], any number of them, and the end of the
    /// connection.
    Policy {
        /// [`VERSION`].
        version: u32,
        /// See `manx_felix::acl::question::Question`.
        question: serde_json::Value,
    },
}

impl Request {
    /// The version a first message carries; `None` for one that only follows another.
    pub fn version(&self) -> Option<u32> {
        match self {
            Self::Add { version, .. }
            | Self::Del { version, .. }
            | Self::Check { version, .. }
            | Self::Gc { version, .. }
            | Self::NodeReady { version }
            | Self::Status { version }
            | Self::Free { version, .. }
            | Self::Explain { version, .. }
            | Self::Policy { version, .. } => Some(*version),
            Self::Ready { .. } | Self::Failed { .. } => None,
        }
    }
}

/// From the agent to the plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// What to make.
    Attach(Attach),
    /// The pod's routes are in the kernel: it can be reached.
    Programmed,
    /// Nothing leads to the interface any more and it is down; the agent removes it.
    Deleted,
    /// What the agent holds of an attachment.
    Attached(Attached),
    /// Attachments of the network that the runtime did not name.
    Stale {
        /// In order.
        attachments: Vec<AttachmentKey>,
    },
    /// A pod can be attached now.
    NodeReady,
    /// The node's status, a document of the agent's own.
    Status {
        /// See `manx_felix::status::NodeReport`.
        report: serde_json::Value,
    },
    /// The address is free, or will be when its interface is gone.
    Freed {
        /// Who held it, in words.
        holder: String,
    },
    /// Why a packet passes or not.
    Explained {
        /// See `manx_felix::graph::policy::Explanation`; one a pair of addresses.
        explanations: serde_json::Value,
    },
    /// A part of the answer to [`Request::Policy`].
    Policy {
        /// See `manx_felix::acl::question::Answer`.
        answer: serde_json::Value,
    },
    /// Nothing was done, or all that was done was undone.
    Error {
        /// A CNI error code: 11 try again later, 100 and above our own.
        code: u32,
        /// What was wrong.
        message: String,
        /// What to do about it.
        details: String,
    },
}

/// The veth to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Name of the host's end: [`HOST_IFNAME_PREFIX`] and a hash of the key.
    pub host_ifname: String,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends, in octets.
    pub mtu: u32,
    /// Destinations to route to the gateway of their family; the default routes.
    pub routes: Vec<IpNetwork>,
    /// Whether an earlier ADD of the same key did not get to its end: what it left on the node under this name is
    /// removed first.
    #[serde(default)]
    pub replaces: bool,
}

/// A complete attachment as the agent holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Interface index of the host's end.
    pub host_ifindex: u32,
}

/// Writes one frame.
///
/// # Errors
/// The writer's, or `InvalidInput` when the message does not fit [`MAX_FRAME`].
pub fn write_frame(writer: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message exceeds a frame"))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    writer.write_all(&frame)
}

/// Reads one frame; `None` at a clean end.
///
/// # Errors
/// The reader's, or `InvalidData` for a frame too long or not of type `T`.
pub fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("frame of {length} bytes, at most {MAX_FRAME}"),
        ));
    }
    let mut body = vec![0; length as usize];
    reader.read_exact(&mut body)?;
    serde_json::from_slice(&body).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_end_keeps_its_name_from_version_to_version() {
        let name = |container_id: &str, ifname: &str| {
            host_ifname(&AttachmentKey { container_id: container_id.into(), ifname: ifname.into() })
        };
        // From a second implementation: a change here orphans the interfaces of running pods.
        assert_eq!(name("c1", "eth0"), "manx6orwko3gpc6");
        assert_eq!(name("c2", "eth0"), "manxej3izmaxugd");
        assert_eq!(name("c1", "eth1"), "manxddclneiwisn");
        assert_eq!(name("6f1e8c", "net1").len(), 15);
    }

    #[test]
    fn a_pods_mac_is_unicast_and_locally_administered_and_differs_by_container_and_interface() {
        let mac = |container_id: &str, ifname: &str| {
            pod_mac(&AttachmentKey { container_id: container_id.into(), ifname: ifname.into() })
        };
        let macs = [mac("c1", "eth0"), mac("c2", "eth0"), mac("c1", "eth1")];
        assert!(macs.iter().all(|mac| mac[0] == 0x02), "{macs:x?}");
        assert!(macs[0] != macs[1] && macs[0] != macs[2] && macs[1] != macs[2], "{macs:x?}");
        assert_eq!(mac("c1", "eth0"), macs[0]);
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let request = Request::Status { version: VERSION };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &request).unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read_frame::<Request>(&mut reader).unwrap(), Some(request));
        assert_eq!(read_frame::<Request>(&mut reader).unwrap(), None);
    }

    #[test]
    fn what_an_older_plugin_says_is_understood() {
        let text = r#"{"type":"add","version":1,"key":{"containerId":"c","ifname":"eth0"},
            "pod":{"namespace":"","name":"","uid":""},"netns":"/n"}"#;
        let Request::Add { network, ips, .. } = serde_json::from_str(text).unwrap() else { panic!("no ADD") };
        assert_eq!((network.as_str(), ips), ("", Vec::new()));
    }

    #[test]
    fn a_frame_longer_than_allowed_is_refused_before_it_is_read() {
        let bytes = (MAX_FRAME + 1).to_be_bytes();
        let error = read_frame::<Request>(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

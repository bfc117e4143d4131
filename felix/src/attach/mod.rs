//! Serves the CNI protocol ([`manx_cni::protocol`]) to the plugin, and the node's part of `manxctl status`.
//!
//! ```text
//!   plugin ◀── unix socket ──▶ server ── Command ──▶ the agent (owns all state)
//!                                        ◀─ oneshot ─┘      │
//!                                                           ▼
//!                                              files: one JSON file an attachment
//! ```
//!
//! The server only moves frames and keeps deadlines: what a command does is the agent's. Order is kept: all
//! commands of one connection are sent by one task, so an [`Command::Abort`] is always behind the
//! [`Command::Allocate`] it undoes.

pub mod files;
mod server;

use std::net::IpAddr;

use manx_cni::protocol::{Attach, Attached, AttachmentKey, PodRef, Reply};
use manx_cni::spec::code;
use tokio::sync::oneshot;

use crate::graph::policy::{Explanation, Question};

pub use server::{ListenError, Listener, listen, serve};

/// Tells one ADD from a later one of the same key, so that the end of a dead plugin's connection cannot undo
/// what its successor has done. Unique while the agent lives; an attachment read back from its file has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What an ADD asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose interface.
    pub key: AttachmentKey,
    /// Whose pod.
    pub pod: PodRef,
    /// CNI_NETNS.
    pub netns: String,
    /// `name` of the network.
    pub network: String,
    /// Addresses, at most one a family.
    pub ips: Vec<IpAddr>,
}

/// What the server asks of the agent. A dropped `reply` is told to the plugin as "try again later".
#[derive(Debug)]
pub enum Command {
    /// Begin an ADD: take addresses, write the attachment's file.
    ///
    /// A complete attachment of the same key is refused with [`Refusal::already_attached`]; what the half-done one
    /// of a plugin that died left is taken over.
    Allocate {
        /// Which ADD.
        attempt: Attempt,
        /// What for.
        asked: Asked,
        /// What to make, or why not.
        reply: oneshot::Sender<Result<Attach, Refusal>>,
    },
    /// The veth stands: program what makes the pod reachable, then answer.
    Ready {
        /// Which ADD. One that is no longer the key's newest is refused.
        attempt: Attempt,
        /// Whose interface.
        key: AttachmentKey,
        /// MAC of the pod's end.
        pod_mac: [u8; 6],
        /// Interface index of the host's end.
        host_ifindex: u32,
        /// Answered when the pod's routes are in the kernel.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A DEL. A key never seen is success.
    Release {
        /// Whose interface.
        key: AttachmentKey,
        /// Answered when the route is gone.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The plugin is gone before it was told "programmed": undo, if this attempt is still the key's newest.
    Abort {
        /// Which ADD.
        attempt: Attempt,
        /// Whose interface.
        key: AttachmentKey,
    },
    /// A CHECK.
    Inspect {
        /// Whose interface.
        key: AttachmentKey,
        /// The complete attachment of this key, if there is one.
        reply: oneshot::Sender<Option<Attached>>,
    },
    /// A GC.
    Stale {
        /// `name` of the network.
        network: String,
        /// What the runtime knows.
        valid: Vec<AttachmentKey>,
        /// The attachments of the network that it does not; those on their way are not among them.
        reply: oneshot::Sender<Vec<AttachmentKey>>,
    },
    /// A STATUS.
    CanAttach {
        /// Why a pod cannot be attached now.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Why a packet passes or not.
    Explain {
        /// Which.
        question: Question,
        /// What `manxctl policy explain` shows, or why nothing can be said.
        reply: oneshot::Sender<Result<Vec<Explanation>, String>>,
    },
    /// Frees an address whose pod is gone.
    Free {
        /// Which.
        address: IpAddr,
        /// Who held it, or why it stays.
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// What `manxctl status` shows of this node.
    Status {
        /// A `NodeReport` as JSON.
        reply: oneshot::Sender<serde_json::Value>,
    },
}

/// Why a command was not done, in the terms of a CNI error result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({details})")]
pub struct Refusal {
    /// A CNI error code: of [`manx_cni::spec::code`], or one of those below.
    pub code: u32,
    /// What was wrong.
    pub message: String,
    /// What to do about it.
    pub details: String,
}

impl Refusal {
    /// Ours: the key has a complete attachment.
    pub const ALREADY_ATTACHED: u32 = 110;
    /// Ours: an address asked for cannot be given on this node.
    pub const NO_SUCH_ADDRESS: u32 = 112;
    /// Ours: an annotation of the pod or its namespace cannot be followed.
    pub const NO_SUCH_POOL: u32 = 113;
    /// Ours: what is asked about is not known.
    pub const NOT_KNOWN: u32 = 114;
    /// Ours: an address is not freed.
    pub const NOT_FREED: u32 = 115;
    /// Ours: the caller is neither root nor the agent's own user.
    pub const FORBIDDEN: u32 = 111;

    /// The runtime may retry as it is.
    pub fn try_again(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code: code::TRY_AGAIN, message: message.into(), details: details.into() }
    }

    /// A second ADD without a DEL between: the CNI specification forbids runtimes to do that.
    pub fn already_attached(key: &AttachmentKey) -> Self {
        Self {
            code: Self::ALREADY_ATTACHED,
            message: format!(
                "interface {} of container {} is already attached",
                key.ifname, key.container_id
            ),
            details: "a runtime must DEL an attachment before it ADDs it again".to_owned(),
        }
    }

    /// The answer to a STATUS, of [`code::NOT_AVAILABLE`] or [`code::LIMITED`].
    pub fn not_available(code: u32, details: impl Into<String>) -> Self {
        Self { code, message: "no pod can be attached now".to_owned(), details: details.into() }
    }

    fn unknown(key: &AttachmentKey) -> Self {
        Self {
            code: code::UNKNOWN_CONTAINER,
            message: "unknown container".to_owned(),
            details: format!("{} of container {} is not attached", key.ifname, key.container_id),
        }
    }

    fn protocol(message: impl Into<String>) -> Self {
        Self {
            code: code::PROTOCOL,
            message: message.into(),
            details: "the manx plugin and the manx-felix agent must be of one version".to_owned(),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Error { code: refusal.code, message: refusal.message, details: refusal.details }
    }
}

//! The CNI plugin: the specification's types, what the plugin and the agent say to each other, and the veth.
//!
//! The `manx` binary is one short run a pod. It knows nothing of Kubernetes, BGP or IPAM and links
//! neither tokio nor kube: it asks the agent for addresses, makes the veth, says so, and prints the
//! CNI result once the agent has the pod's route (and ACLs) in the kernel.
//!
//! ```text
//!   main ─▶ environment, config, spec (result, errors)
//!     ├──▶ add ─▶ client (protocol) ─▶ agent
//!     │      └──▶ veth ─▶ netns, message, netlink
//!     ├──▶ del ─▶ veth, client, released (notes for an agent that is away)
//!     ├──▶ check ─▶ inspect (what the kernel has), client
//!     ├──▶ gc ─▶ client, del
//!     └──▶ status ─▶ client
//! ```

pub mod add;
pub mod check;
pub mod client;
pub mod config;
pub mod del;
pub mod environment;
pub mod gc;
pub mod inspect;
pub mod message;
pub mod netlink;
pub mod netns;
pub mod protocol;
pub mod released;
pub mod spec;
pub mod status;
pub mod veth;

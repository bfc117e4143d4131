//! The node agent: watches Kubernetes, computes the wanted state of this node, programs it.
//!
//! ```text
//!   watch ──▶ graph (pure) ──▶ Desired ──▶ dataplane ──▶ kernel      pod, block and learned routes
//!                 ▲                └─────▶ speaker   ──▶ manx-bgpd   peers and prefixes to announce
//!   attach ───────┘ pods                      │
//!   speaker ────────┘ learned routes ◀────────┘
//! ```
//!
//! `agent` is the one task that owns the state; everything else moves values to it and from it.

pub mod acl;
pub mod agent;
pub mod alone;
pub mod api;
pub mod attach;
pub mod cluster_network_policy;
pub mod config;
pub mod crd;
pub mod credentials;
pub mod dataplane;
pub mod discovery;
pub mod graph;
pub mod health;
pub mod install;
pub mod model;
pub mod nat;
pub mod speaker;
pub mod status;
pub mod uninstall;
pub mod watch;

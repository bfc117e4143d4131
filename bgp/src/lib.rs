//! A minimal BGP speaker for the nodes of a routed cluster.
//!
//! The crate is a set of pure cores with one thin shell around them:
//!
//! ```text
//!   bytes ──▶ wire ──▶ fsm ──▶ rib ──▶ wire ──▶ bytes        pure: no clock, socket, lock or async
//!   ───────────────────────────────────────────────
//!   speaker: one task owns every peer and the RIB; a link task a connection moves bytes
//!   api:     what the agent and manxctl say to the daemon over its unix socket
//! ```
//!
//! The pure part builds with `--no-default-features`; the feature `speaker` adds the shell.

pub mod api;
pub mod bfd;
pub mod fsm;
pub mod iana;
pub mod rib;
#[cfg(feature = "speaker")]
pub mod speaker;
pub mod types;
pub mod wire;

//! Which packets pass: from a ruleset that no kernel is named in, to the kernel.
//!
//! ```text
//!   graph ──Delta──▶ ruleset ──▶ kernel
//!                       └──────▶ evaluate: what would become of a packet, for people and for tests
//! ```

pub mod evaluate;
pub mod ruleset;

pub use ruleset::{Delta, Ruleset};

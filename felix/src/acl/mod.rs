//! Which packets pass: from a ruleset that no kernel is named in, to the kernel.
//!
//! ```text
//!   graph ──Delta──▶ ruleset ──compile──▶ state: wanted against actual ──driver──▶ nft ──▶ kernel
//!                       └──────▶ evaluate: what would become of a packet, for people and for tests
//! ```

pub mod compile;
pub mod conntrack;
pub mod denied;
pub mod driver;
pub mod evaluate;
pub mod keeper;
mod merge;
pub mod nft;
pub mod question;
pub mod ruleset;
pub mod services;
mod state;
mod tracker;

pub use ruleset::{Delta, Ruleset};

/// 32 hexadecimal digits that no two texts share, whoever chose them: SHA-256, cut to 128 bits.
fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..16].iter().map(|octet| format!("{octet:02x}")).collect()
}

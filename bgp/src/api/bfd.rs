//! BFD as the API wants and tells it.

use serde::{Deserialize, Serialize};

use crate::bfd::State;

/// BFD with a neighbour (RFC 5880). Over several hops (RFC 5883) where the neighbour's `multihop` is more
/// than 1; otherwise over one (RFC 5881), where only what no router has handed on is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Bfd {
    /// The shortest interval we can receive at, in milliseconds: 10–60,000; 300 unless set.
    pub min_rx_ms: u32,
    /// The shortest interval we would send at, in milliseconds: 10–60,000; 300 unless set. The longer of it
    /// and what the neighbour can receive at is used, and a second until both hear each other.
    pub min_tx_ms: u32,
    /// After this many packets in a row did not arrive the neighbour takes us for lost: 2–50; 3 unless set.
    pub multiplier: u8,
}

impl Default for Bfd {
    /// Three packets in 900 ms, as FRR has it: a hundredth of BGP's own hold time, and still more than a
    /// busy machine keeps a thread waiting.
    fn default() -> Self {
        Self { min_rx_ms: 300, min_tx_ms: 300, multiplier: 3 }
    }
}

/// One neighbour's BFD session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// Ours.
    pub state: State,
    /// Seconds in that state.
    pub since_seconds: u64,
    /// Why it is in that state or cannot leave it, in words: `control detection time expired after 150 ms`.
    pub reason: Option<String>,
    /// The neighbour's; none: it is not heard.
    pub remote_state: Option<State>,
    /// Why the neighbour's last changed, in words.
    pub remote_diagnostic: Option<String>,
    /// Between two packets of ours, in milliseconds, before jitter; none: the neighbour wants no packets.
    pub tx_interval_ms: Option<u64>,
    /// Silence after which the neighbour is lost, in milliseconds; 0 while it is not heard.
    pub detection_time_ms: u64,
    /// Times the way was lost.
    pub flaps: u64,
}

//! Leaving gracefully (RFC 8326): neighbours are told to use other ways before ours end.

use serde::{Deserialize, Serialize};

/// What is done when the neighbours have had their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AfterDrain {
    /// All routes are withdrawn; the sessions stay, and what the neighbours say is used as before.
    #[default]
    Withdraw,
    /// The sessions end with Cease/Administrative Shutdown and the reason (RFC 9003), and stay down.
    Shutdown,
}

/// How far a drain has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Where it is.
    pub phase: DrainPhase,
    /// What follows [`DrainPhase::Announced`].
    pub then: AfterDrain,
    /// Seconds until then; none once it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// For the neighbours' operators.
    #[serde(default)]
    pub reason: String,
}

/// The steps of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainPhase {
    /// All routes are told with GRACEFUL_SHUTDOWN, and inside our AS with LOCAL_PREF 0.
    Announced,
    /// No routes are told.
    Withdrawn,
    /// There is no session.
    Shutdown,
}

impl DrainPhase {
    /// What a drain ends in.
    pub fn after(then: AfterDrain) -> Self {
        match then {
            AfterDrain::Withdraw => Self::Withdrawn,
            AfterDrain::Shutdown => Self::Shutdown,
        }
    }
}

impl std::fmt::Display for DrainPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Announced => "announced",
            Self::Withdrawn => "withdrawn",
            Self::Shutdown => "shut down",
        })
    }
}

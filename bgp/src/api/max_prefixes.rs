//! How many prefixes a neighbour may give, as the API wants and tells it.

use serde::{Deserialize, Serialize};

use crate::types::Family;

/// A bound on what is held of a neighbour (RFC 4271, section 6.7). Every prefix of it that is held counts, those
/// that the import policy or a loop check refuses and those that are stale as well: they cost the same memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MaxPrefixes {
    /// Of IPv4: at least 1; 1,000,000 unless set.
    pub ipv4: u32,
    /// Of IPv6: at least 1; 1,000,000 unless set.
    pub ipv6: u32,
    /// Percent of the limit at which a warning is due: 1–100; 75 unless set.
    pub warn_percent: u8,
    /// What happens to one that gives more.
    pub action: MaxPrefixesAction,
    /// With [`MaxPrefixesAction::Cease`]: seconds until it is spoken with again, 1–86,400. Unless set it is not,
    /// until its session is reset or other limits are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_after: Option<u32>,
}

/// What happens to a neighbour that gives too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MaxPrefixesAction {
    /// Its session ends with Cease/Maximum Number of Prefixes Reached (RFC 4486, section 4), and what it said goes.
    #[default]
    Cease,
    /// It is warned of, and all is taken: what it may cost is not bounded then.
    Warn,
}

impl Default for MaxPrefixes {
    fn default() -> Self {
        Self {
            ipv4: 1_000_000,
            ipv6: 1_000_000,
            warn_percent: 75,
            action: MaxPrefixesAction::Cease,
            restart_after: None,
        }
    }
}

impl MaxPrefixes {
    /// Of one family.
    pub fn limit(&self, family: Family) -> u32 {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// What a neighbour gives of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Which.
    pub family: Family,
    /// Prefixes held of it.
    pub held: usize,
    /// How many it may give.
    pub limit: u32,
}

//! What the daemon shows: the table, its sessions.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{BfdStatus, DrainStatus, Held, RangeStatus};
use crate::types::{Asn, Family, Prefix, RouterId, ScopedAddr};

/// What the best paths of some destinations are now. Originated prefixes are never told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteGroup {
    /// The destinations, which have all the rest in common.
    pub prefixes: Vec<Prefix>,
    /// On-link next hops of the best path and all equal to it (ECMP), sorted; empty: the destinations are gone. An IPv4
    /// destination may have IPv6 next hops (RFC 8950).
    pub next_hops: Vec<ScopedAddr>,
    /// The share of each, 1–255, by the link bandwidths their paths tell (draft-ietf-idr-link-bandwidth); empty: all
    /// have the same, as where one path tells of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<u8>,
}

/// A destination with all its candidates, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The destination.
    pub prefix: Prefix,
    /// Best first.
    pub paths: Vec<PathInfo>,
}

/// One candidate path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathInfo {
    /// The neighbour it came from; none: originated here. In an Adj-RIB-Out, the neighbour it was told to.
    pub peer: Option<ScopedAddr>,
    /// The neighbour's name.
    #[serde(default)]
    pub peer_name: String,
    /// Its next hop; none: originated here.
    pub next_hop: Option<ScopedAddr>,
    /// As people write it: `65001 64512 {64513}`.
    pub as_path: String,
    /// LOCAL_PREF in force.
    pub local_pref: u32,
    /// ORIGIN, as RFC 4271 writes it: `IGP`, `EGP` or `INCOMPLETE`.
    #[serde(default)]
    pub origin: String,
    /// MULTI_EXIT_DISC, if any.
    pub med: Option<u32>,
    /// `asn:value`.
    pub communities: Vec<String>,
    /// The path identifier it came with, or was told with (RFC 7911); none where the session has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// The identifier of who brought it into our AS, where it was reflected (RFC 4456).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<RouterId>,
    /// The clusters it has been reflected by, the last first (RFC 4456).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_list: Vec<Ipv4Addr>,
    /// The neighbour is restarting, or says everything again, and has not said it again yet.
    #[serde(default)]
    pub stale: bool,
    /// `best`, `multipath`, by what it lost, or what refused it, in words; `advertised` in an Adj-RIB-Out.
    pub verdict: String,
    /// The step of the decision process it lost at, from 1 ([`crate::rib::decision`] has the table); none: it did
    /// not lose.
    #[serde(default)]
    pub step: Option<u8>,
}

/// What the speaker is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `manx-bgpd 0.1.0`.
    pub daemon: String,
    /// Our AS; none before the first [`Request::Apply`].
    pub asn: Option<Asn>,
    /// Our BGP Identifier.
    pub router_id: Option<RouterId>,
    /// In order of address.
    pub sessions: Vec<Session>,
    /// How many neighbours each range has, in order of prefix.
    #[serde(default)]
    pub ranges: Vec<RangeStatus>,
    /// Prefixes originated, sorted.
    pub originated: Vec<Prefix>,
    /// Destinations in the Loc-RIB.
    pub destinations: usize,
    /// Whether [`super::News::Synced`] has been reached.
    pub synced: bool,
    /// How far a drain of the whole speaker has come, if there is one.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
}

/// One neighbour's session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The neighbour.
    pub address: ScopedAddr,
    /// Its name.
    pub name: String,
    /// The range it called from: it is a dynamic neighbour, and gone when its session is.
    #[serde(default)]
    pub range: Option<Prefix>,
    /// Its AS; 0: one from a range that may have several has not told.
    pub asn: Asn,
    /// RFC 4271's name: Idle, Connect, Active, OpenSent, OpenConfirm, Established.
    pub state: SessionState,
    /// Seconds in that state.
    pub since_seconds: u64,
    /// Why the session last went down or is not up, in words: `peer says AS65010, we expect AS65001`.
    pub reason: Option<String>,
    /// The neighbour's BGP Identifier, once known.
    pub router_id: Option<RouterId>,
    /// Negotiated hold time in seconds, once established.
    pub hold_time: Option<u16>,
    /// What comes with a lower TTL or hop limit is not heard (GTSM, RFC 5082); none: anything is.
    #[serde(default)]
    pub least_ttl: Option<u8>,
    /// Families negotiated.
    pub families: Vec<Family>,
    /// Prefixes held from it.
    pub received: usize,
    /// What it may give of each family negotiated, and what is held of it.
    #[serde(default)]
    pub prefixes: Vec<Held>,
    /// Prefixes of those that passed the import policy.
    pub accepted: usize,
    /// Prefixes of those held that it has not said again since it restarted, or since it began a route refresh.
    #[serde(default)]
    pub stale: usize,
    /// Of those, prefixes kept as the last resort: it has been gone for longer than its restart time (RFC 9494).
    #[serde(default)]
    pub long_lived: usize,
    /// Prefixes it has been told.
    pub advertised: usize,
    /// Messages in and out since the session came up.
    pub messages_in: u64,
    /// Messages out.
    pub messages_out: u64,
    /// Times the session has left Established.
    pub flaps: u64,
    /// The BFD session, if one is configured.
    #[serde(default)]
    pub bfd: Option<BfdStatus>,
    /// How far its drain, or that of the whole speaker, has come, if there is one.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
}

/// RFC 4271, section 8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionState {
    /// Refuses connections; waits before it tries again.
    Idle,
    /// A connection is being opened.
    Connect,
    /// Listens; the next try is timed.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// Their OPEN was good.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl SessionState {
    /// All, in the order a session goes through them.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];
}

impl std::fmt::Display for SessionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

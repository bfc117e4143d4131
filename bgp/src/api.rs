//! What the agent and `manxctl` say to the daemon over its unix socket.
//!
//! Frames are a big-endian `u32` length and that many bytes of JSON. A connection opens with
//! [`Request::Hello`] and [`Reply::Hello`]; a request is answered by one reply, in order;
//! [`Request::Watch`] turns the connection into a stream of [`News`], on which nothing more may be asked. A request that
//! cannot be read, or is asked out of turn, is answered by [`Reply::Error`] and the end of the connection; one that
//! cannot be done leaves it open. A client that reads nothing for 30 s is parted from and starts anew.
//!
//! [`Config`] is the whole wanted state and can be handed over at any time: the daemon does the
//! difference and keeps the last one while its client is away.

mod add_paths;
mod bfd;
pub mod community;
mod config;
mod drain;
mod max_prefixes;
mod policy;
mod range;
mod status;
mod tcp_ao;
mod underlay;

pub use add_paths::{AddPaths, PathCount};
pub use bfd::{Bfd, BfdStatus};
pub use config::{Aggregate, Config, Decision, GracefulRestart, Network, NextHopMode, PeerConfig, Secret};
pub use drain::{AfterDrain, DrainPhase, DrainStatus};
pub use max_prefixes::{Held, MaxPrefixes, MaxPrefixesAction};
pub use policy::{Match, Outcome, PathMatch, Policy, PrefixRange, RangeError, Rule, Source, Then, Verdict};

pub use range::{AsnRange, AsnRangeError, Range, RangeId, RangeStatus};
use serde::{Deserialize, Serialize};
pub use status::{Destination, PathInfo, RouteGroup, Session, SessionState, Status};
pub use tcp_ao::{TcpAoAlgorithm, TcpAoKey};
pub use underlay::Reach;

use crate::types::{Prefix, ScopedAddr};

/// The protocol's version; a client and a daemon that differ say so in words and part.
pub const VERSION: u32 = 2;

/// The largest frame, in bytes, either side accepts.
pub const MAX_FRAME: usize = 64 << 20;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/manx/bgpd.sock";

/// From a client to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Request {
    /// First on every connection.
    Hello {
        /// The client's [`VERSION`].
        version: u32,
        /// Who is calling, for the daemon's log: `manx-felix 0.1.0`.
        client: String,
    },
    /// Replace the wanted state. Answered by [`Reply::Applied`] once it is in force.
    Apply {
        /// All of it.
        config: Config,
    },
    /// Answered by [`Reply::Status`].
    Status,
    /// Answered by [`Reply::Table`]: the Loc-RIB with every candidate and why each lost.
    Routes {
        /// Only this prefix, or all.
        prefix: Option<Prefix>,
    },
    /// Answered by [`Reply::Table`]: the Adj-RIB-In, what a neighbour has said, refused paths too, each with
    /// what became of it.
    Received {
        /// The neighbour's address.
        peer: ScopedAddr,
        /// Only this prefix, or all.
        #[serde(default)]
        prefix: Option<Prefix>,
    },
    /// Answered by [`Reply::Table`]: the Adj-RIB-Out, what a neighbour has been told, as it was told: with the
    /// AS path and next hop it was given. What is being told again (a route refresh) is not in it meanwhile.
    Advertised {
        /// The neighbour's address.
        peer: ScopedAddr,
        /// Only this prefix, or all.
        #[serde(default)]
        prefix: Option<Prefix>,
    },
    /// Ends a neighbour's session and begins a new one. Answered by [`Reply::Done`] once it is told.
    Reset {
        /// Which.
        peer: ScopedAddr,
        /// For its operator (RFC 9003): cut at 255 octets; empty: none.
        #[serde(default)]
        reason: String,
    },
    /// All routes of a session are said again (RFC 2918, RFC 7313): the neighbour is asked for its own, or told ours.
    /// Answered by [`Reply::Done`] once that has begun.
    Refresh {
        /// Which.
        peer: ScopedAddr,
        /// Whose.
        #[serde(default)]
        direction: Direction,
    },
    /// Neighbours are to use other ways before ours end (RFC 8326): all routes are told with GRACEFUL_SHUTDOWN, inside
    /// our AS with LOCAL_PREF 0, and after a wait withdrawn, or the sessions end. Asked again, it begins anew.
    /// Whatever is applied meanwhile, it lasts until [`Request::Undrain`], or the daemon's end. Answered by
    /// [`Reply::Done`] once it has begun.
    Drain {
        /// Of one neighbour, whose routes are then used only where there are no others; or of all.
        #[serde(default)]
        peer: Option<ScopedAddr>,
        /// The wait, in seconds; 60 unless set.
        #[serde(default = "default_wait")]
        wait: u32,
        /// What comes then.
        #[serde(default)]
        then: AfterDrain,
        /// For the neighbours' operators where the sessions end (RFC 9003): cut at 255 octets; empty: none.
        #[serde(default)]
        reason: String,
    },
    /// Takes a drain back, at any moment. Answered by [`Reply::Done`].
    Undrain {
        /// That of one neighbour, or all there are.
        #[serde(default)]
        peer: Option<ScopedAddr>,
    },
    /// From now on: best paths, first all that are there, then changes.
    Watch,
}

/// Whose routes are said again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The neighbour's.
    #[default]
    In,
    /// Ours.
    Out,
}

/// From the daemon to a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Reply {
    /// Answers [`Request::Hello`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
        /// `manx-bgpd 0.1.0`.
        daemon: String,
    },
    /// Answers [`Request::Apply`].
    Applied {
        /// What changed, in words, for the agent's log; empty when nothing did.
        changes: Vec<String>,
    },
    /// Answers [`Request::Reset`], [`Request::Refresh`], [`Request::Drain`] and [`Request::Undrain`].
    Done,
    /// Answers [`Request::Status`].
    Status(Status),
    /// Answers [`Request::Routes`], [`Request::Received`] and [`Request::Advertised`].
    Table {
        /// In order of prefix.
        destinations: Vec<Destination>,
    },
    /// The request could not be done; nothing changed.
    Error {
        /// What was wrong and what would be right.
        message: String,
    },
}

/// From the daemon on a watching connection, in place of [`Reply`]. The variant comes before what it holds, so that a
/// frame is read in one go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum News {
    /// Destinations whose best paths are now these, each once; at most 1,024 a frame.
    Routes(Vec<RouteGroup>),
    /// Once: the table is complete. Every configured peer has sent its End-of-RIB or the start-up wait (30 s from the
    /// first [`Request::Apply`]) has passed, and all that is known has been said. Before the first [`Request::Apply`] it
    /// is never said. Only now may a client remove a route it has not been told of.
    Synced,
    /// The connection ends.
    Error {
        /// What was wrong and what would be right.
        message: String,
    },
}

/// Seconds between a drain's announcement and what follows it, unless set.
pub const DEFAULT_WAIT: u32 = 60;

fn default_wait() -> u32 {
    DEFAULT_WAIT
}

//! What the agent and `manxctl` say to the daemon over its unix socket.
//!
//! Frames are a big-endian `u32` length and that many bytes of JSON. A connection opens with
//! [`Request::Hello`] and [`Reply::Hello`]; a request is answered by one reply, in order;
//! [`Request::Watch`] turns the connection into a stream of [`Reply::Routes`] and [`Reply::Synced`], on
//! which nothing more may be asked. A request that cannot be read, or is asked out of turn, is answered by
//! [`Reply::Error`] and the end of the connection; one that cannot be done leaves it open. A client that
//! reads nothing for 30 s is parted from and starts anew.
//!
//! [`Config`] is the whole wanted state and can be handed over at any time: the daemon does the
//! difference and keeps the last one while its client is away.

mod add_paths;
mod bfd;
pub mod community;
mod drain;
mod max_prefixes;
mod policy;
mod range;
mod underlay;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use add_paths::{AddPaths, PathCount};
pub use bfd::{Bfd, BfdStatus};
pub use drain::{AfterDrain, DrainPhase, DrainStatus};
pub use max_prefixes::{Held, MaxPrefixes, MaxPrefixesAction};
pub use policy::{Match, Outcome, PathMatch, Policy, PrefixRange, RangeError, Rule, Source, Then, Verdict};

pub use range::{AsnRange, AsnRangeError, Range, RangeId, RangeStatus};
use serde::{Deserialize, Serialize};
pub use underlay::Reach;

use crate::types::{Asn, Family, Interface, Prefix, RouterId, ScopedAddr};

/// The protocol's version; a client and a daemon that differ say so in words and part.
pub const VERSION: u32 = 1;

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
    /// On a watching connection: destinations whose best paths are now these.
    Routes {
        /// At most 4,096 a frame.
        changes: Vec<RouteChange>,
    },
    /// On a watching connection, once: the table is complete. Every configured peer has sent its
    /// End-of-RIB or the start-up wait (30 s from the first [`Request::Apply`]) has passed, and all that
    /// is known has been said. Before the first [`Request::Apply`] it is never said. Only now may
    /// a client remove a route it has not been told of.
    Synced,
    /// The request could not be done; nothing changed.
    Error {
        /// What was wrong and what would be right.
        message: String,
    },
}

/// The whole wanted state of the speaker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// What we call our cluster as a route reflector (RFC 4456, section 7): the same on all reflectors of
    /// one; our BGP Identifier unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<RouterId>,
    /// Addresses to accept connections on; usually `0.0.0.0:179` and `[::]:179`.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// In any order; two with one address are refused.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Neighbours known by where they call from: dynamic ones. Two of one prefix and interface are refused.
    #[serde(default)]
    pub ranges: Vec<Range>,
    /// Prefixes to originate.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Prefixes to originate in place of what is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<Aggregate>,
    /// How paths are compared.
    #[serde(default)]
    pub decision: Decision,
    /// How this machine reaches next hops: every way it has but those it has of the speaker. Without it, whatever
    /// a neighbour names counts as an on-link neighbour of ours; with it, paths whose next hop no way leads to
    /// are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Vec<Reach>>,
    /// With the first orders after the speaker's start: an earlier speaker was here, and what it learned
    /// is still forwarded (RFC 4724: the neighbours are told, and keep our routes until we have said them
    /// again). Later it changes nothing.
    #[serde(default)]
    pub restarting: bool,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerConfig {
    /// The neighbour's address. A link-local one needs `interface`. Left out, with an interface, it is not known yet: the
    /// session waits until it is told here.
    #[serde(default = "unspecified")]
    pub address: IpAddr,
    /// The interface its session runs over, and no other; any unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// The neighbour's port, 179 unless set.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The AS it must claim; equal to ours makes it iBGP. To be left out only in a range.
    #[serde(default = "no_asn")]
    pub asn: Asn,
    /// A name for people: the node or the BGPPeer it comes from.
    #[serde(default)]
    pub name: String,
    /// Families to offer; both unless set.
    #[serde(default = "default_families")]
    pub families: Vec<Family>,
    /// Address to call from; the kernel's choice unless set.
    #[serde(default)]
    pub local_address: Option<IpAddr>,
    /// Next hop to announce for a family other than the session's own, and to override the session's.
    #[serde(default)]
    pub next_hops: Vec<IpAddr>,
    /// Hold time to offer, in seconds: 0 or 3–65535 (RFC 4271, section 4.2); 90 unless set.
    #[serde(default = "default_hold_time")]
    pub hold_time: u16,
    /// Seconds between two KEEPALIVEs: at least 1 and at most a third of `holdTime`, 0 where that is 0. A third of
    /// the hold time agreed on unless set, and never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u16>,
    /// Seconds a neighbour may take not one octet of what it is sent (RFC 9687): more than `holdTime`. Eight minutes
    /// or twice the hold time agreed on, whichever is more, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_hold_time: Option<u16>,
    /// Upper bound of the ConnectRetry timer, in seconds, before jitter; 5 unless set.
    #[serde(default = "default_connect_retry")]
    pub connect_retry: u16,
    /// Wait for the neighbour to call, never call it.
    #[serde(default)]
    pub passive: bool,
    /// Signs every segment (TCP MD5, RFC 2385); the neighbour has the same: 1–80 octets.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Take only what comes from at most so many hops away, 1–254 (GTSM, RFC 5082): the neighbour has to send
    /// with a TTL of 255, as its own GTSM does. 1: it is at the other end of the cable. Anything is taken unless set.
    #[serde(default)]
    pub ttl_security: Option<u8>,
    /// The neighbour is so many hops away, 1–255: the TTL of what is sent to it. Unless set it is 255 to
    /// other ASes, so that they can require it, and the kernel's choice inside our own.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Watch the way to it by BFD, and end the session as soon as that is lost.
    #[serde(default)]
    pub bfd: Option<Bfd>,
    /// What it may expect of us when we restart.
    #[serde(default)]
    pub graceful_restart: GracefulRestart,
    /// How many prefixes it may give.
    #[serde(default)]
    pub max_prefixes: MaxPrefixes,
    /// Routes of an external neighbour with the community GRACEFUL_SHUTDOWN are used only where there is no other:
    /// their LOCAL_PREF is 0, whatever `import` says (RFC 8326). On unless set.
    #[serde(default = "default_true")]
    pub graceful_shutdown: bool,
    /// What is taken from it. Without one, everything from an internal neighbour and nothing from an
    /// external one (RFC 8212).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Policy>,
    /// What is told to it, of what BGP's rules allow. Without one, as for `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Policy>,
    /// What it is told as next hop of learned routes.
    #[serde(default)]
    pub next_hop: NextHopMode,
    /// The AS we say to be to it, in place of our own: in our OPEN, and in the AS paths it hears; ours unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_asn: Option<Asn>,
    /// How many times our own AS may be in the AS paths it tells (allowas-in): 0, refuse all that have it, unless set.
    #[serde(default)]
    pub allow_own_as: u8,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950): sent where we have no IPv4 address to name, if the
    /// neighbour offers it too.
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Tell it, or take from it, several paths to one destination.
    #[serde(default)]
    pub add_paths: AddPaths,
    /// Take a default route from it. One is refused unless this says otherwise.
    #[serde(default)]
    pub accept_default_route: bool,
    /// Reflect routes to and from it (RFC 4456): it is one of our clients. Internal neighbours only.
    #[serde(default)]
    pub route_reflector_client: bool,
}

impl Config {
    /// A speaker of this AS and identifier that does nothing yet.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            listen: Vec::new(),
            peers: Vec::new(),
            ranges: Vec::new(),
            networks: Vec::new(),
            aggregates: Vec::new(),
            decision: Decision::default(),
            underlay: None,
            restarting: false,
        }
    }

    /// [`Config::cluster_id`], or what stands for it.
    pub fn cluster(&self) -> RouterId {
        self.cluster_id.unwrap_or(self.router_id)
    }
}

impl PeerConfig {
    /// A neighbour of which nothing more is said: everything else as it is where a file leaves it out.
    pub fn new(address: IpAddr, asn: Asn) -> Self {
        Self {
            address,
            interface: None,
            port: default_port(),
            asn,
            name: String::new(),
            families: default_families(),
            local_address: None,
            next_hops: Vec::new(),
            hold_time: default_hold_time(),
            keepalive: None,
            send_hold_time: None,
            connect_retry: default_connect_retry(),
            passive: false,
            password: None,
            ttl_security: None,
            multihop: None,
            bfd: None,
            graceful_restart: GracefulRestart::default(),
            max_prefixes: MaxPrefixes::default(),
            graceful_shutdown: true,
            import: None,
            export: None,
            next_hop: NextHopMode::Auto,
            local_asn: None,
            allow_own_as: 0,
            extended_next_hop: false,
            add_paths: AddPaths::default(),
            accept_default_route: false,
            route_reflector_client: false,
        }
    }

    /// What tells the neighbour from others.
    pub fn scoped(&self) -> ScopedAddr {
        ScopedAddr::new(self.address, self.interface)
    }
}

impl Default for PeerConfig {
    /// Of a neighbour that is yet to be named.
    fn default() -> Self {
        Self::new(unspecified(), no_asn())
    }
}

/// What must not be seen: no log, error or status shows it. It is written out only where a client says
/// it to the daemon.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// For the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Graceful restart (RFC 4724, RFC 8538, RFC 9494) as the one that restarts. Neighbours that restart are always
/// helped as they ask, and End-of-RIB is always sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GracefulRestart {
    /// How long the neighbour is to wait for us, in seconds: 0–4095; 120 unless set.
    #[serde(default = "default_restart_time")]
    pub restart_time: u16,
    /// Somebody goes on forwarding by what was learned while the speaker is away: the neighbour may keep
    /// sending. The speaker's end then is a restart: the neighbour is parted from without a word.
    #[serde(default)]
    pub preserve_forwarding: bool,
    /// How long after that the neighbour is to keep our routes where it has no others (RFC 9494), in seconds:
    /// 0–16777215, which is 194 days; 0, not at all, unless set. Only with `preserveForwarding`.
    #[serde(default)]
    pub long_lived_stale_time: u32,
    /// How long we keep the neighbour's routes so, at most, in seconds; as long as it asks unless set; 0: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_limit: Option<u32>,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time: default_restart_time(),
            preserve_forwarding: false,
            long_lived_stale_time: 0,
            long_lived_limit: None,
        }
    }
}

/// What a neighbour is told as next hop of learned routes. Routes that begin here have our own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NextHopMode {
    /// Our own address to external neighbours, the next hop as learned to internal ones (RFC 4271, section 5.1.3).
    #[default]
    Auto,
    /// Our own address.
    #[serde(rename = "self")]
    Own,
    /// As learned.
    Keep,
    /// As learned where that is on a network we share with the neighbour, so that packets go there without us
    /// (RFC 4271, section 5.1.3: a third party's); our own address elsewhere. Needs [`Config::underlay`], which has
    /// the networks.
    Direct,
}

/// A prefix to originate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// The destination.
    pub prefix: Prefix,
    /// Standard communities to attach, as `asn:value` (RFC 1997).
    #[serde(default)]
    pub communities: Vec<String>,
}

/// A prefix to originate for as long as there is a usable route to something more specific in it. It is told to
/// external neighbours only: those inside need the parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Aggregate {
    /// The destination; not among [`Config::networks`].
    pub prefix: Prefix,
    /// External neighbours are not told of the parts while it is originated.
    #[serde(default)]
    pub suppress: bool,
    /// Standard communities to attach, as `asn:value` (RFC 1997).
    #[serde(default)]
    pub communities: Vec<String>,
}

/// How paths are compared where RFC 4271 leaves it to an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Decision {
    /// MED is compared among paths of different neighbouring ASes too.
    pub always_compare_med: bool,
    /// A path without MED loses to one with any; otherwise it counts as 0.
    pub missing_med_as_worst: bool,
    /// Only paths of the neighbouring AS the best one is of share its load.
    pub multipath_same_as: bool,
}

/// What a destination's best paths are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteChange {
    /// The destination.
    pub prefix: Prefix,
    /// On-link next hops of the best path and all equal to it (ECMP), sorted; empty: the destination is gone. An IPv4
    /// destination may have IPv6 next hops (RFC 8950).
    /// Originated prefixes are never told.
    pub next_hops: Vec<ScopedAddr>,
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
    /// Whether [`Reply::Synced`] has been reached.
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

fn default_true() -> bool {
    true
}

/// Seconds between a drain's announcement and what follows it, unless set.
pub const DEFAULT_WAIT: u32 = 60;

fn default_wait() -> u32 {
    DEFAULT_WAIT
}

fn unspecified() -> IpAddr {
    Ipv6Addr::UNSPECIFIED.into()
}

fn no_asn() -> Asn {
    Asn(0)
}

fn default_port() -> u16 {
    crate::iana::BGP_PORT
}

fn default_families() -> Vec<Family> {
    Family::ALL.to_vec()
}

fn default_hold_time() -> u16 {
    90
}

fn default_restart_time() -> u16 {
    120
}

fn default_connect_retry() -> u16 {
    5
}

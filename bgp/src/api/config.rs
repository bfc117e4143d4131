//! The whole wanted state, as a client hands it over and as a file says it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{AddPaths, Bfd, MaxPrefixes, Policy, Range, Reach, TcpAoKey};
use crate::types::{Asn, Family, Interface, Prefix, RouterId, ScopedAddr};

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
    /// Keys of TCP-AO (RFC 5925), in place of `password`: every segment carries a code made with one of them, at first
    /// with the first. Without it in the kernel no session is opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp_ao: Vec<TcpAoKey>,
    /// Take only what comes from at most so many hops away, 1–254 (GTSM, RFC 5082): the neighbour has to send
    /// with a TTL of 255, as its own GTSM does. 1: it is at the other end of the cable. Unless set, that is so with an
    /// external neighbour without `multihop` once it has called with a TTL of 255, and anything is taken of others.
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
    /// It is a mere peer, to whom neither side pays: external, and not told learned routes with the community NOPEER
    /// (RFC 3765).
    #[serde(default)]
    pub bilateral: bool,
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
            tcp_ao: Vec::new(),
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
            bilateral: false,
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
    /// Communities to attach: `asn:value` or a name (RFC 1997), three numbers (RFC 8092).
    #[serde(default)]
    pub communities: Vec<String>,
    /// LOCAL_PREF, which internal neighbours are told; 100 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
}

impl Network {
    /// Without communities, of the usual preference.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, communities: Vec::new(), local_pref: None }
    }
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
    /// Communities to attach: `asn:value` or a name (RFC 1997), three numbers (RFC 8092).
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

fn default_true() -> bool {
    true
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

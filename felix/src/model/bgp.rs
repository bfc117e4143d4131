//! How nodes speak BGP, and with whom, as the agent understands it.

use std::net::IpAddr;

use manx_bgp::api::{Aggregate, AsnRange, Bfd, GracefulRestart, PeerConfig, Rule, TcpAoAlgorithm};
use manx_bgp::types::{Asn, Interface, Prefix, RouterId};

use super::service::ServiceAddresses;
use crate::graph::Selector;

/// A key of a Secret of Manx's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// The Secret.
    pub name: String,
    /// Its key.
    pub key: String,
}

/// A key of TCP-AO, and where its secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAo {
    /// The KeyID in what we send.
    pub send_id: u8,
    /// The KeyID in what comes.
    pub recv_id: u8,
    /// How codes are made.
    pub algorithm: TcpAoAlgorithm,
    /// Where it is.
    pub secret: SecretKey,
}

/// How nodes speak BGP.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpConfig {
    /// AS of nodes that have none of their own.
    pub asn: Asn,
    /// Which nodes peer with each other.
    pub mesh: Mesh,
    /// TCP port nodes listen on.
    pub listen_port: u16,
    /// Seconds: 0 or 3–65535.
    pub hold_time: u16,
    /// Seconds; a third of the hold time unless set.
    pub keepalive: Option<u16>,
    /// Seconds, more than the hold time; the speaker's choice unless set.
    pub send_hold_time: Option<u16>,
    /// Upper bound of the ConnectRetry timer, in seconds.
    pub connect_retry: u16,
    /// What neighbours are to do while the speaker restarts.
    pub graceful_restart: GracefulRestart,
    /// Between nodes.
    pub bfd: Option<Bfd>,
    /// Between nodes.
    pub password: Option<SecretKey>,
    /// How nodes find their own addresses.
    pub wanted: Wanted,
    /// Communities of what is announced inside these ranges.
    pub communities: Vec<(Prefix, Vec<String>)>,
    /// In place of their parts.
    pub aggregates: Vec<Aggregate>,
    /// Which service addresses are announced.
    pub services: ServiceAddresses,
}

/// Which nodes peer with each other by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// None.
    None,
    /// Every node with every other.
    Full,
    /// All of one AS up to a size; above it with some that are elected.
    Auto {
        /// The size, in nodes.
        limit: usize,
        /// How many are elected.
        reflectors: usize,
    },
}

/// How a node finds its own addresses for BGP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The first InternalIP of each family.
    #[default]
    Internal,
    /// The first of each family on this interface.
    Interface(Interface),
    /// The first of each family in one of these.
    Inside(Vec<Prefix>),
    /// With which it would call these.
    CanReach(Vec<IpAddr>),
}

impl Default for BgpConfig {
    /// What a cluster without a BGPConfiguration does; the defaults of the resource.
    fn default() -> Self {
        Self {
            asn: Asn(64512),
            mesh: Mesh::Auto { limit: 100, reflectors: 3 },
            listen_port: manx_bgp::iana::BGP_PORT,
            hold_time: 90,
            keepalive: None,
            send_hold_time: None,
            connect_retry: 5,
            graceful_restart: GracefulRestart { preserve_forwarding: true, ..GracefulRestart::default() },
            bfd: None,
            password: None,
            wanted: Wanted::Internal,
            communities: Vec::new(),
            aggregates: Vec::new(),
            services: ServiceAddresses { classless: true, ..ServiceAddresses::default() },
        }
    }
}

/// With whom some nodes speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Nodes that do.
    pub nodes: Selector,
    /// With whom.
    pub neighbour: Neighbour,
    /// What of the session is the same on every node; timers and graceful restart only where they are said.
    pub settings: Box<PeerConfig>,
    /// The configuration's unless set.
    pub hold_time: Option<u16>,
    /// The configuration's unless set.
    pub connect_retry: Option<u16>,
    /// The configuration's unless set.
    pub graceful_restart: Option<GracefulRestart>,
    /// With which address nodes call it.
    pub source: Source,
    /// Of the session.
    pub password: Option<SecretKey>,
    /// In place of a password.
    pub tcp_ao: Vec<TcpAo>,
    /// BGPFilters, in order.
    pub filters: Vec<String>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// One address of one AS; both are in the settings. Without an address, who is found on the interface there.
    One,
    /// Whoever calls from there.
    Range {
        /// From there.
        prefix: Prefix,
        /// What they may claim to be.
        asns: Vec<AsnRange>,
        /// At one time.
        limit: u32,
    },
    /// Other nodes.
    Nodes {
        /// These.
        selector: Selector,
        /// They reflect routes between those that peer with them, as this cluster.
        cluster: Option<RouterId>,
    },
}

/// With which address a node calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its own.
    Node,
    /// That of the interface the way leads over.
    Interface,
}

/// What is taken and told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of what neighbours tell.
    pub import: Vec<FilterRule>,
    /// Of what they are told.
    pub export: Vec<FilterRule>,
}

/// A rule, and the sessions it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Only for sessions over this interface.
    pub interface: Option<Interface>,
    /// As the speaker has it.
    pub rule: Rule,
}

//! What can be wrong with a wanted state, in words that say what would be right.

use std::net::{IpAddr, SocketAddr};

use crate::api::RangeId;
use crate::rib::NetworkError;
use crate::types::{Prefix, ScopedAddr};

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// RFC 7607.
    #[error("asn is 0, which no AS has: give ours, as in 64512")]
    NoAsn,
    /// RFC 6286.
    #[error("routerId is 0.0.0.0: give an identifier that is ours alone, usually one of our IPv4 addresses")]
    NoRouterId,
    /// Listed twice.
    #[error("listen has {0} twice: list it once")]
    ListenTwice(SocketAddr),
    /// One neighbour's settings.
    #[error("peer {address}: {fault}")]
    Peer {
        /// Which.
        address: ScopedAddr,
        /// What is wrong with it.
        fault: PeerFault,
    },
    /// One range's settings.
    #[error("range {range}: {fault}")]
    Range {
        /// Which.
        range: RangeId,
        /// What is wrong with it.
        fault: RangeFault,
    },
    /// The kernel knows a key by address alone, and asks everybody in a range with one for it.
    #[error(
        "{0} and {1} hold the same address and have different passwords or keys, or only the other has some: give both the same"
    )]
    Passwords(String, String),
    /// RFC 4456, section 7.
    #[error(
        "clusterId is 0.0.0.0: leave it out for our BGP Identifier, or give one the cluster's reflectors share"
    )]
    NoClusterId,
    /// Nobody to hand packets to.
    #[error("underlay: {0} is no gateway to {1}: give a neighbour's address, of the prefix's family or IPv6")]
    Gateway(IpAddr, Prefix),
    /// The prefixes to originate.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What is wrong with a [`PeerConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Sessions are told apart by address.
    #[error("it is listed twice; a neighbour has one session, so list it once")]
    Twice,
    /// RFC 7607.
    #[error("asn is missing or 0, which no AS has: give the neighbour's")]
    NoAsn,
    /// RFC 4271, section 4.2.
    #[error("holdTime is {0} s; it is 0 (none) or at least 3")]
    HoldTime(u16),
    /// RFC 4271, section 4.4.
    #[error(
        "keepalive is {0} s with a holdTime of {1} s; it is at least 1 and at most a third of that, or left out for a third"
    )]
    Keepalive(u16, u16),
    /// RFC 4271, section 4.4: there must be none.
    #[error("keepalive is {0} s with a holdTime of 0, which means no KEEPALIVEs: leave it out")]
    KeepaliveWithoutHold(u16),
    /// RFC 9687, section 3: it is for neighbours whose KEEPALIVEs come.
    #[error("sendHoldTime is {0} s; it is more than holdTime, which is {1} s")]
    SendHoldTime(u16, u16),
    /// One session's limits.
    #[error("maxPrefixes: {0}")]
    MaxPrefixes(&'static str),
    /// The field has twelve bits (RFC 4724, section 3).
    #[error("gracefulRestart.restartTime is {0} s; it is at most 4095")]
    RestartTime(u16),
    /// The field has 24 bits (RFC 9494, section 3.1).
    #[error("gracefulRestart.{0} is {1} s; it is at most 16777215")]
    LongLived(&'static str, u32),
    /// RFC 9494 goes beyond RFC 4724, which promises nothing then.
    #[error(
        "gracefulRestart.longLivedStaleTime without preserveForwarding: nobody forwards what the neighbour would keep"
    )]
    LongLivedWithoutForwarding,
    /// A connection has keys of one kind.
    #[error("password and tcpAo exclude each other: leave one out")]
    TwoKinds,
    /// The kernel's limit.
    #[error("the secret of a key of tcpAo has {0} octets; it has 1 to 80")]
    Secret(usize),
    /// RFC 5925, section 3.1: which key a segment was made with is told by it.
    #[error("two keys of tcpAo have {0} {1}: each has its own")]
    KeyId(&'static str, u8),
    /// The kernel's limit.
    #[error("password has {0} octets; it has 1 to 80, or is left out for none")]
    Password(usize),
    /// RFC 5082: 255 less the hops is what arrives.
    #[error("ttlSecurity is {0}; it is the neighbour's distance in hops, 1 to 254, or left out for none")]
    TtlSecurity(u8),
    /// Nothing would arrive.
    #[error("multihop is 0; it is the neighbour's distance in hops, 1 to 255")]
    Multihop,
    /// GTSM sends with 255.
    #[error("ttlSecurity and multihop exclude each other: ttlSecurity takes the number of hops itself")]
    TtlTwice,
    /// There would be no pause between two tries.
    #[error("connectRetry is 0 s; it is at least 1")]
    ConnectRetry,
    /// Nothing to talk about.
    #[error("families is empty: list \"ipv4\", \"ipv6\" or both, or leave it out for both")]
    NoFamilies,
    /// Nobody listens there.
    #[error("port is 0; BGP's is 179, which it is when left out")]
    NoPort,
    /// Of no use as a neighbour.
    #[error("it is not the address of one host: give the neighbour's own address")]
    NotAHost,
    /// It is of one link only.
    #[error(
        "a link-local address says nothing without its interface: add interface = \"eth1\", or give a global one"
    )]
    LinkLocal,
    /// Nobody to speak with.
    #[error("address is missing: give the neighbour's, or the interface it is on")]
    NoAddress,
    /// It is on the link.
    #[error("multihop is {0}, but a neighbour with a link-local address is one hop away: leave it out")]
    FarLinkLocal(u8),
    /// The kernel could not call.
    #[error("localAddress {0} is of the other family than the neighbour's address")]
    LocalFamily(IpAddr),
    /// RFC 7607, and a session with ourselves.
    #[error("localAsn is {0}; it is neither 0 nor the neighbour's own AS")]
    LocalAsn(u32),
    /// They are numbered in two octets.
    #[error("a policy of it has {0} rules; it may have up to 65535")]
    Rules(usize),
    /// RFC 4456 reflects inside one AS.
    #[error("routeReflectorClient is for a neighbour in our own AS: its asn is another")]
    ExternalClient,
    /// RFC 3765 is about neighbours in other ASes.
    #[error("bilateral is for a neighbour in another AS: its asn is ours")]
    InternalBilateral,
    /// Too fast for a thread, or too slow to be of use.
    #[error("bfd.{0} is {1} ms; it is 10 to 60000")]
    BfdInterval(&'static str, u32),
    /// One packet is easily lost.
    #[error("bfd.multiplier is {0}; it is 2 to 50")]
    BfdMultiplier(u8),
    /// It would call itself.
    #[error(
        "localAddress is the neighbour's own address: give ours, or leave it out for the kernel's choice"
    )]
    LocalIsPeer,
}

/// What is wrong with a [`Range`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeFault {
    /// Ranges are told apart by prefix and interface.
    #[error("it is listed twice: list it once")]
    Twice,
    /// Nobody could call.
    #[error("asns is empty: list the ASes its neighbours may claim, as in [65001, \"65100-65199\"]")]
    NoAsns,
    /// Nobody could call.
    #[error("limit is 0; it is at least 1")]
    NoRoom,
    /// They are what the caller says.
    #[error("settings.{0} is not for a range, whose neighbours each have their own: leave it out")]
    Settings(&'static str),
    /// They say nothing without it.
    #[error("link-local addresses say nothing without their interface: add settings.interface")]
    LinkLocal,
    /// RFC 4456 reflects inside one AS.
    #[error("settings.routeReflectorClient is for neighbours in our own AS: asns has others")]
    ExternalClient,
    /// What is said of each.
    #[error("settings: {0}")]
    Peer(PeerFault),
}

//! Wanted states: what is wrong with one, what differs between two, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::sockopt;
use crate::api::{
    Aggregate, AsnRange, Bfd, Config, GracefulRestart, MaxPrefixes, MaxPrefixesAction, PeerConfig, Range,
    RangeId, Secret,
};
use crate::fsm::restart;
use crate::iana::BGP_PORT;
use crate::rib::{NetworkError, Rib};
use crate::types::{Asn, Family, Prefix, ScopedAddr, is_link_local};

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
        "{0} and {1} hold the same address and have different passwords, or only the other has one: give both the same"
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

/// Judges a wanted state by itself; what the machine says to it is found out by applying it.
///
/// # Errors
/// The first fault found.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    if config.asn == Asn(0) {
        return Err(ConfigError::NoAsn);
    }
    if config.router_id.0.is_unspecified() {
        return Err(ConfigError::NoRouterId);
    }
    if config.cluster().0.is_unspecified() {
        return Err(ConfigError::NoClusterId);
    }
    if let Some(way) = config.underlay.iter().flatten().find(|way| !way.is_sound())
        && let Some(gateway) = way.gateway
    {
        return Err(ConfigError::Gateway(gateway, way.prefix));
    }
    let mut listen = BTreeSet::new();
    if let Some(twice) = config.listen.iter().find(|address| !listen.insert(**address)) {
        return Err(ConfigError::ListenTwice(*twice));
    }
    let mut addresses = BTreeSet::new();
    for peer in &config.peers {
        let fault = if addresses.insert(peer.scoped()) { check_peer(peer) } else { Err(PeerFault::Twice) };
        let fault = if peer.route_reflector_client && peer.asn != config.asn {
            Err(PeerFault::ExternalClient)
        } else {
            fault
        };
        fault.map_err(|fault| ConfigError::Peer { address: peer.scoped(), fault })?;
    }
    let mut ranges = BTreeSet::new();
    for range in &config.ranges {
        let fault =
            if ranges.insert(range.id()) { check_range(range, config) } else { Err(RangeFault::Twice) };
        fault.map_err(|fault| ConfigError::Range { range: range.id(), fault })?;
    }
    check_passwords(config)?;
    let mut rib = Rib::new(config.asn, config.router_id);
    rib.set_networks(&config.networks)?;
    Ok(rib.set_aggregates(&config.aggregates)?)
}

fn check_peer(peer: &PeerConfig) -> Result<(), PeerFault> {
    let link_local = match peer.address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() && peer.interface.is_none(),
    };
    let far = peer.multihop.filter(|_| peer.scoped().zone.is_some());
    let nobody = peer.address.is_unspecified();
    let rules = [&peer.import, &peer.export].into_iter().flatten().map(|policy| policy.rules.len()).max();
    let broadcast = matches!(peer.address, IpAddr::V4(address) if address.is_broadcast());
    let bad_password = peer.password.as_ref().map(|password| password.reveal().len());
    let bad_password = bad_password.filter(|length| !(1..=sockopt::MAX_KEY).contains(length));
    match peer.local_address {
        _ if peer.asn == Asn(0) => Err(PeerFault::NoAsn),
        _ if matches!(peer.hold_time, 1 | 2) => Err(PeerFault::HoldTime(peer.hold_time)),
        _ if let Err(fault) = check_timers(peer).and_then(|()| check_limits(&peer.max_prefixes)) => {
            Err(fault)
        }
        _ if peer.graceful_restart.restart_time > restart::MAX_TIME => {
            Err(PeerFault::RestartTime(peer.graceful_restart.restart_time))
        }
        _ if let Err(fault) = check_long_lived(&peer.graceful_restart) => Err(fault),
        _ if bad_password.is_some() => Err(PeerFault::Password(bad_password.unwrap_or_default())),
        _ if matches!(peer.ttl_security, Some(0 | 255)) => {
            Err(PeerFault::TtlSecurity(peer.ttl_security.unwrap_or_default()))
        }
        _ if peer.multihop == Some(0) => Err(PeerFault::Multihop),
        _ if peer.ttl_security.is_some() && peer.multihop.is_some() => Err(PeerFault::TtlTwice),
        _ if peer.connect_retry == 0 => Err(PeerFault::ConnectRetry),
        _ if peer.families.is_empty() => Err(PeerFault::NoFamilies),
        _ if rules > Some(usize::from(u16::MAX)) => Err(PeerFault::Rules(rules.unwrap_or_default())),
        _ if peer.local_asn == Some(Asn(0)) || peer.local_asn == Some(peer.asn) => {
            Err(PeerFault::LocalAsn(peer.local_asn.map_or(0, |asn| asn.0)))
        }
        _ if peer.port == 0 => Err(PeerFault::NoPort),
        _ if nobody && peer.scoped().zone.is_none() => Err(PeerFault::NoAddress),
        _ if far.is_some_and(|hops| hops > 1) => Err(PeerFault::FarLinkLocal(far.unwrap_or_default())),
        _ if peer.address.is_multicast() || broadcast => Err(PeerFault::NotAHost),
        _ if link_local => Err(PeerFault::LinkLocal),
        _ if let Some(bfd) = &peer.bfd
            && let Err(fault) = check_bfd(bfd) =>
        {
            Err(fault)
        }
        Some(local) if Family::of(local) != Family::of(peer.address) => Err(PeerFault::LocalFamily(local)),
        Some(local) if local == peer.address => Err(PeerFault::LocalIsPeer),
        Some(_) | None => Ok(()),
    }
}

fn check_range(range: &Range, config: &Config) -> Result<(), RangeFault> {
    let Range { prefix, asns, limit, settings } = range;
    let local = settings.local_asn.unwrap_or(config.asn);
    let ours = |asns: &AsnRange| asns.single() == Some(config.asn);
    match settings {
        _ if asns.is_empty() => Err(RangeFault::NoAsns),
        _ if *limit == 0 => Err(RangeFault::NoRoom),
        _ if !settings.address.is_unspecified() => Err(RangeFault::Settings("address")),
        _ if settings.asn != Asn(0) => Err(RangeFault::Settings("asn")),
        _ if settings.port != BGP_PORT => Err(RangeFault::Settings("port")),
        _ if is_link_local(prefix.addr()) && settings.interface.is_none() => Err(RangeFault::LinkLocal),
        _ if settings.route_reflector_client && !asns.iter().all(ours) => Err(RangeFault::ExternalClient),
        _ if settings.local_asn.is_some() && asns.iter().any(|asns| asns.contains(local)) => {
            Err(RangeFault::Peer(PeerFault::LocalAsn(local.0)))
        }
        _ => {
            // What holds for any neighbour in it.
            let address = prefix.addr();
            let address = if address.is_unspecified() { host_of(prefix.family()) } else { address };
            let one = PeerConfig { address, asn: Asn(u32::MAX), ..settings.clone() };
            check_peer(&one).map_err(RangeFault::Peer)
        }
    }
}

fn host_of(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}

fn check_passwords(config: &Config) -> Result<(), ConfigError> {
    let peers = config.peers.iter().filter(|peer| !peer.address.is_unspecified());
    let peers: Vec<_> = peers
        .map(|peer| (Prefix::host(peer.address), &peer.password, || format!("peer {}", peer.scoped())))
        .collect();
    let ranges = config.ranges.iter();
    let ranges: Vec<_> = ranges
        .map(|range| (range.prefix, &range.settings.password, || format!("range {}", range.id())))
        .collect();
    for (who, password, name) in &peers {
        if let Some((.., other)) = peers.iter().find(|(other, key, _)| other == who && key != password) {
            return Err(ConfigError::Passwords(name(), other()));
        }
        let unsigned = |(range, key, _): &&(Prefix, &Option<Secret>, _)| {
            range.covers(*who) && key.is_some() && password.is_none()
        };
        if let Some((.., other)) = ranges.iter().find(unsigned) {
            return Err(ConfigError::Passwords(name(), other()));
        }
    }
    for (who, password, name) in &ranges {
        let differ = |(other, key, _): &&(Prefix, &Option<Secret>, _)| {
            *other == *who && key != password || other.covers(*who) && key.is_some() && password.is_none()
        };
        if let Some((.., other)) = ranges.iter().find(differ) {
            return Err(ConfigError::Passwords(name(), other()));
        }
    }
    Ok(())
}

fn check_timers(peer: &PeerConfig) -> Result<(), PeerFault> {
    let hold_time = peer.hold_time;
    match (peer.keepalive, peer.send_hold_time) {
        (Some(keepalive @ 1..), _) if hold_time == 0 => Err(PeerFault::KeepaliveWithoutHold(keepalive)),
        (Some(keepalive), _) if hold_time > 0 && !(1..=hold_time / 3).contains(&keepalive) => {
            Err(PeerFault::Keepalive(keepalive, hold_time))
        }
        (_, Some(send_hold_time)) if send_hold_time <= hold_time => {
            Err(PeerFault::SendHoldTime(send_hold_time, hold_time))
        }
        _ => Ok(()),
    }
}

fn check_limits(limits: &MaxPrefixes) -> Result<(), PeerFault> {
    let fault = match limits {
        MaxPrefixes { ipv4: 0, .. } | MaxPrefixes { ipv6: 0, .. } => {
            "ipv4 and ipv6 are at least 1; to take nothing, refuse it by the import policy"
        }
        MaxPrefixes { warn_percent: 0 | 101.., .. } => "warnPercent is 1 to 100",
        MaxPrefixes { restart_after: Some(_), action: MaxPrefixesAction::Warn, .. } => {
            "restartAfter is of no use where action is \"warn\": nothing is ended"
        }
        MaxPrefixes { restart_after: Some(0 | 86_401..), .. } => "restartAfter is 1 to 86400 s",
        MaxPrefixes { .. } => return Ok(()),
    };
    Err(PeerFault::MaxPrefixes(fault))
}

fn check_long_lived(restart: &GracefulRestart) -> Result<(), PeerFault> {
    let times = [
        ("longLivedStaleTime", restart.long_lived_stale_time),
        ("longLivedLimit", restart.long_lived_limit.unwrap_or_default()),
    ];
    match times.into_iter().find(|(_, time)| *time > restart::MAX_LONG_LIVED) {
        Some((name, time)) => Err(PeerFault::LongLived(name, time)),
        None if restart.long_lived_stale_time > 0 && !restart.preserve_forwarding => {
            Err(PeerFault::LongLivedWithoutForwarding)
        }
        None => Ok(()),
    }
}

fn check_bfd(bfd: &Bfd) -> Result<(), PeerFault> {
    for (name, interval) in [("minRxMs", bfd.min_rx_ms), ("minTxMs", bfd.min_tx_ms)] {
        if !(10..=60_000).contains(&interval) {
            return Err(PeerFault::BfdInterval(name, interval));
        }
    }
    if !(2..=50).contains(&bfd.multiplier) {
        return Err(PeerFault::BfdMultiplier(bfd.multiplier));
    }
    Ok(())
}

/// Whether the change needs a new session. Names, policies, limits, BFD and what is only of our own concern do not.
pub(super) fn needs_restart(old: &PeerConfig, new: &PeerConfig) -> bool {
    let session = |peer: &PeerConfig| PeerConfig {
        name: String::new(),
        import: None,
        export: None,
        bfd: None,
        max_prefixes: MaxPrefixes::default(),
        graceful_shutdown: true,
        graceful_restart: GracefulRestart { long_lived_limit: None, ..peer.graceful_restart },
        ..peer.clone()
    };
    session(old) != session(new)
}

/// What differs, a line each; nothing when nothing does.
pub(super) fn describe(old: Option<&Config>, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    match old {
        Some(old) if (old.asn, old.router_id) == (new.asn, new.router_id) => {}
        Some(old) => changes.push(format!(
            "now {} with identifier {}, was {} with {}: all sessions restart",
            new.asn, new.router_id, old.asn, old.router_id
        )),
        None => changes.push(format!("{} with identifier {}", new.asn, new.router_id)),
    }
    if let Some(old) = old
        && old.cluster_id != new.cluster_id
    {
        changes.push(format!("cluster id {}, was {}", new.cluster(), old.cluster()));
    }
    let aggregates = |config: &Config| {
        let of = |one: &Aggregate| (one.prefix, (one.suppress, one.communities.clone()));
        config.aggregates.iter().map(of).collect()
    };
    differ(
        &old.map(aggregates).unwrap_or_default(),
        &aggregates(new),
        &mut changes,
        |prefix, _| format!("aggregate {prefix} announced while there is something in it"),
        |prefix| format!("aggregate {prefix} no longer announced"),
        |prefix, _, (suppress, communities)| {
            let parts = if *suppress { "hides" } else { "shows" };
            format!("aggregate {prefix} {parts} its parts, and has communities [{}]", communities.join(" "))
        },
    );
    if old.is_some_and(|old| old.decision != new.decision) {
        changes.push("paths are compared by other rules".to_owned());
    }
    if old.and_then(|old| old.underlay.as_ref()) != new.underlay.as_ref() {
        changes.push(match &new.underlay {
            Some(ways) => format!("next hops are reached by {} ways", ways.len()),
            None => "every next hop counts as reached".to_owned(),
        });
    }
    let set = |config: &Config| config.listen.iter().copied().collect::<BTreeSet<_>>();
    differ(
        &old.map(|old| set(old).into_iter().map(|address| (address, ())).collect()).unwrap_or_default(),
        &set(new).into_iter().map(|address| (address, ())).collect(),
        &mut changes,
        |address, ()| format!("listening on {address}"),
        |address| format!("no longer listening on {address}"),
        |_, (), ()| String::new(),
    );
    let peers = |config: &Config| config.peers.iter().map(|peer| (peer.scoped(), peer.clone())).collect();
    differ(
        &old.map(peers).unwrap_or_default(),
        &peers(new),
        &mut changes,
        |_, peer| format!("peer {} added", title(peer)),
        |address| format!("peer {address} removed"),
        describe_peer,
    );
    let ranges = |config: &Config| config.ranges.iter().map(|range| (range.id(), range.clone())).collect();
    differ(
        &old.map(ranges).unwrap_or_default(),
        &ranges(new),
        &mut changes,
        |id, _| format!("range {id} added"),
        |id| format!("range {id} removed, and its neighbours"),
        describe_range,
    );
    let networks = |config: &Config| {
        config.networks.iter().map(|network| (network.prefix, network.communities.clone())).collect()
    };
    differ(
        &old.map(networks).unwrap_or_default(),
        &networks(new),
        &mut changes,
        |prefix, _| format!("network {prefix} announced"),
        |prefix| format!("network {prefix} withdrawn"),
        |prefix, _, communities| format!("network {prefix} now has communities [{}]", communities.join(" ")),
    );
    changes
}

fn describe_range(id: &RangeId, old: &Range, new: &Range) -> String {
    let others = |range: &Range| Range { limit: 0, settings: PeerConfig::default(), ..range.clone() };
    if others(old) == others(new) && !needs_restart(&old.settings, &new.settings) {
        format!("range {id}: limits, policies or BFD settings changed")
    } else {
        format!("range {id}: settings changed, its neighbours begin anew")
    }
}

fn describe_peer(_: &ScopedAddr, old: &PeerConfig, new: &PeerConfig) -> String {
    let mut what = Vec::new();
    if old.name != new.name {
        what.push(format!("renamed from \"{}\"", old.name));
    }
    if old.import != new.import {
        what.push("import policy changed".to_owned());
    }
    if old.export != new.export {
        what.push("export policy changed".to_owned());
    }
    if old.max_prefixes != new.max_prefixes {
        what.push("limits changed".to_owned());
    }
    if old.bfd != new.bfd {
        what.push("BFD settings changed".to_owned());
    }
    if old.graceful_shutdown != new.graceful_shutdown {
        let words = if new.graceful_shutdown { "honoured" } else { "not honoured" };
        what.push(format!("GRACEFUL_SHUTDOWN {words}"));
    }
    if old.graceful_restart.long_lived_limit != new.graceful_restart.long_lived_limit {
        what.push("longLivedLimit changed".to_owned());
    }
    if needs_restart(old, new) {
        what.push("session settings changed, it restarts".to_owned());
    }
    format!("peer {}: {}", title(new), what.join(", "))
}

/// `node2 (10.0.0.2, AS64512)`.
pub(super) fn title(peer: &PeerConfig) -> String {
    if peer.name.is_empty() {
        format!("{} ({})", peer.scoped(), peer.asn)
    } else {
        format!("{} ({}, {})", peer.name, peer.scoped(), peer.asn)
    }
}

fn differ<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    changes: &mut Vec<String>,
    added: impl Fn(&K, &V) -> String,
    removed: impl Fn(&K) -> String,
    changed: impl Fn(&K, &V, &V) -> String,
) {
    changes.extend(old.keys().filter(|key| !new.contains_key(key)).map(removed));
    for (key, value) in new {
        match old.get(key) {
            None => changes.push(added(key, value)),
            Some(before) if before != value => changes.push(changed(key, before, value)),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Policy;

    fn config(toml: &str) -> Config {
        toml::from_str(&format!("asn = 64512\nrouterId = \"10.0.0.1\"\n{toml}")).unwrap()
    }

    fn fault(toml: &str) -> String {
        check(&config(toml)).unwrap_err().to_string()
    }

    #[test]
    fn faults_are_told_with_their_peer_and_what_would_be_right() {
        let peer = |rest: &str| format!("[[peers]]\naddress = \"10.0.0.2\"\nasn = 65001\n{rest}\n");
        assert_eq!(check(&config(&peer(""))), Ok(()));
        assert_eq!(
            fault(&peer("").repeat(2)),
            "peer 10.0.0.2: it is listed twice; a neighbour has one session, so list it once"
        );
        assert_eq!(
            fault(&peer("holdTime = 2")),
            "peer 10.0.0.2: holdTime is 2 s; it is 0 (none) or at least 3"
        );
        assert!(fault(&peer("gracefulRestart = { restartTime = 4096 }")).contains("at most 4095"));
        assert!(
            fault(&peer("gracefulRestart = { preserveForwarding = true, longLivedStaleTime = 16777216 }"))
                .ends_with("longLivedStaleTime is 16777216 s; it is at most 16777215")
        );
        assert!(fault(&peer("gracefulRestart = { longLivedLimit = 16777216 }")).contains("longLivedLimit"));
        assert!(
            fault(&peer("gracefulRestart = { longLivedStaleTime = 60 }"))
                .contains("without preserveForwarding")
        );
        let long = "secret".repeat(14);
        let told = fault(&peer(&format!("password = \"{long}\"")));
        assert!(told.contains("84 octets") && !told.contains("secret"), "{told}");
        assert!(fault(&peer("password = \"\"")).contains("0 octets"));
        assert!(fault(&peer("ttlSecurity = 255")).contains("1 to 254"));
        assert!(fault(&peer("multihop = 0")).contains("1 to 255"));
        assert!(fault(&peer("multihop = 2\nttlSecurity = 2")).contains("exclude each other"));
        assert!(fault(&peer("keepalive = 31")).contains("keepalive is 31 s with a holdTime of 90 s"));
        assert!(fault(&peer("keepalive = 0")).contains("at least 1"));
        assert!(fault(&peer("holdTime = 0\nkeepalive = 9")).contains("no KEEPALIVEs"));
        assert_eq!(check(&config(&peer("holdTime = 0\nkeepalive = 0"))), Ok(()));
        assert_eq!(check(&config(&peer("holdTime = 3\nkeepalive = 1\nsendHoldTime = 4"))), Ok(()));
        assert!(fault(&peer("sendHoldTime = 90")).contains("more than holdTime"));
        let limits = |limits: &str| peer(&format!("maxPrefixes = {{ {limits} }}"));
        assert_eq!(check(&config(&limits("ipv4 = 9, restartAfter = 1"))), Ok(()));
        assert!(fault(&limits("ipv6 = 0")).ends_with("refuse it by the import policy"));
        assert!(fault(&limits("warnPercent = 101")).contains("1 to 100"));
        assert!(fault(&limits("restartAfter = 0")).contains("1 to 86400"));
        assert!(fault(&limits("action = \"warn\", restartAfter = 9")).contains("nothing is ended"));
        assert!(fault(&peer("connectRetry = 0")).contains("at least 1"));
        assert!(fault(&peer("families = []")).contains("\"ipv4\""));
        assert!(fault(&peer("port = 0")).contains("179"));
        assert!(fault(&peer("localAddress = \"fd00::1\"")).contains("fd00::1 is of the other family"));
        assert!(fault(&peer("localAddress = \"10.0.0.2\"")).contains("own address"));
        assert!(fault("[[peers]]\naddress = \"fe80::1\"\nasn = 1\n").contains("link-local"));
        assert!(fault("[[peers]]\naddress = \"0.0.0.0\"\nasn = 1\n").contains("address is missing"));
        assert!(fault("[[peers]]\naddress = \"224.0.0.1\"\nasn = 1\n").contains("one host"));
        assert!(fault("[[peers]]\naddress = \"10.0.0.2\"\n").contains("asn is missing"));
        let on_link = "[[peers]]\naddress = \"fe80::1\"\ninterface = \"eth1\"\nasn = 1\n";
        assert_eq!(check(&config(on_link)), Ok(()));
        assert_eq!(check(&config(&on_link.replace("address = \"fe80::1\"\n", ""))), Ok(()));
        assert!(fault(&format!("{on_link}multihop = 2")).starts_with("peer fe80::1%eth1: multihop is 2"));
        assert!(fault("[[peers]]\naddress = \"10.0.0.2\"\nasn = 0\n").contains("asn is missing or 0"));
        assert!(fault(&peer("localAsn = 65001")).contains("localAsn is 65001"));
        assert!(fault(&peer("routeReflectorClient = true")).contains("our own AS"));
        assert!(fault("clusterId = \"0.0.0.0\"").contains("clusterId"));
        let way = |gateway| format!("[[underlay]]\nprefix = \"10.1.0.0/16\"\ngateway = \"{gateway}\"\n");
        assert_eq!(check(&config(&way("10.0.0.1"))), Ok(()));
        assert_eq!(check(&config(&way("fe80::1"))), Ok(()));
        assert!(fault(&way("0.0.0.0")).contains("0.0.0.0 is no gateway to 10.1.0.0/16"));
        assert_eq!(check(&config(&peer("bfd = {}"))), Ok(()));
        assert!(fault(&peer("bfd = { minTxMs = 9 }")).ends_with("bfd.minTxMs is 9 ms; it is 10 to 60000"));
        assert!(fault(&peer("bfd = { minRxMs = 60001 }")).contains("bfd.minRxMs is 60001 ms"));
        assert!(fault(&peer("bfd = { multiplier = 1 }")).ends_with("bfd.multiplier is 1; it is 2 to 50"));
        assert!(fault("listen = [\"[::]:179\", \"[::]:179\"]").contains("[::]:179 twice"));
        assert!(
            fault("[[networks]]\nprefix = \"10.1.0.0/26\"\ncommunities = [\"x\"]").contains("10.1.0.0/26")
        );
        assert_eq!(check(&Config { asn: Asn(0), ..config("") }), Err(ConfigError::NoAsn));
    }

    #[test]
    fn faults_of_ranges_are_told_with_the_range() {
        let range = |rest: &str| format!("[[ranges]]\nprefix = \"10.0.0.0/24\"\nasns = [65001]\n{rest}\n");
        assert_eq!(check(&config(&range(""))), Ok(()));
        assert_eq!(check(&config(&range("[ranges.settings]\nholdTime = 9\npassword = \"k\""))), Ok(()));
        assert_eq!(fault(&range("").repeat(2)), "range 10.0.0.0/24: it is listed twice: list it once");
        assert!(fault(&range("").replace("65001", "")).contains("asns is empty"));
        assert!(fault(&range("limit = 0")).contains("at least 1"));
        assert!(fault(&range("[ranges.settings]\nasn = 1")).contains("settings.asn is not for a range"));
        assert!(fault(&range("[ranges.settings]\nholdTime = 1")).contains("settings: holdTime is 1 s"));
        assert!(fault(&range("[ranges.settings]\nrouteReflectorClient = true")).contains("our own AS"));
        let link_local = range("").replace("10.0.0.0/24", "fe80::/10");
        assert!(fault(&link_local).contains("settings.interface"));
        assert_eq!(check(&config(&format!("{link_local}[ranges.settings]\ninterface = \"eth1\""))), Ok(()));
    }

    #[test]
    fn one_address_has_one_password() {
        let peer = |interface: &str, password: &str| {
            format!(
                "[[peers]]\naddress = \"fe80::1\"\ninterface = \"{interface}\"\nasn = 1\npassword = \"{password}\"\n"
            )
        };
        assert_eq!(check(&config(&(peer("eth1", "a") + &peer("eth2", "a")))), Ok(()));
        let told = fault(&(peer("eth1", "a") + &peer("eth2", "b")));
        assert!(told.starts_with("peer fe80::1%eth1 and peer fe80::1%eth2 hold the same address"), "{told}");
        let range = "[[ranges]]\nprefix = \"10.0.0.0/24\"\nasns = [65001]\nsettings = { password = \"k\" }\n";
        let inside = "[[peers]]\naddress = \"10.0.0.2\"\nasn = 65001\n";
        assert!(fault(&format!("{range}{inside}")).starts_with("peer 10.0.0.2 and range 10.0.0.0/24"));
        assert_eq!(check(&config(&format!("{range}{inside}password = \"other\"\n"))), Ok(()));
    }

    #[test]
    fn a_password_is_in_no_debug_output() {
        let config = config("[[peers]]\naddress = \"10.0.0.2\"\nasn = 1\npassword = \"hunter2\"\n");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(describe(None, &config).iter().all(|line| !line.contains("hunter2")));
    }

    #[test]
    fn only_what_differs_is_told() {
        let old = config(
            "listen = [\"0.0.0.0:179\"]\n\
             [[peers]]\naddress = \"10.0.0.2\"\nasn = 64512\nname = \"node2\"\n\
             [[peers]]\naddress = \"10.0.0.3\"\nasn = 64512\n\
             [[networks]]\nprefix = \"10.1.0.0/26\"\n",
        );
        assert!(describe(Some(&old), &old).is_empty());
        assert_eq!(describe(None, &old).len(), 5);
        let mut new = old.clone();
        new.peers.remove(1);
        new.peers[0].hold_time = 9;
        new.peers[0].export = Some(Policy::accept());
        new.networks[0].communities = vec!["64512:1".to_owned()];
        new.listen.clear();
        assert_eq!(
            describe(Some(&old), &new),
            [
                "no longer listening on 0.0.0.0:179",
                "peer 10.0.0.3 removed",
                "peer node2 (10.0.0.2, AS64512): export policy changed, session settings changed, it restarts",
                "network 10.1.0.0/26 now has communities [64512:1]",
            ]
        );
    }

    #[test]
    fn policies_names_and_bfd_need_no_new_session() {
        let old = config("[[peers]]\naddress = \"10.0.0.2\"\nasn = 64512\n").peers.remove(0);
        let policy = PeerConfig {
            name: "tor1".to_owned(),
            import: Some(Policy::reject()),
            export: Some(Policy::accept()),
            bfd: Some(Bfd::default()),
            max_prefixes: MaxPrefixes { ipv4: 9, ..MaxPrefixes::default() },
            ..old.clone()
        };
        assert!(!needs_restart(&old, &policy));
        assert!(needs_restart(&old, &PeerConfig { hold_time: 9, ..old.clone() }));
        assert!(needs_restart(&old, &PeerConfig { next_hops: vec![old.address], ..old.clone() }));
    }
}

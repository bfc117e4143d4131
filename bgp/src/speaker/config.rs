//! Wanted states: what is wrong with one; what differs between two is in `change`.

mod change;
mod fault;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) use change::{describe, needs_restart, title};
pub use fault::{ConfigError, PeerFault, RangeFault};

use super::keys::Keys;
use super::sockopt;
use crate::api::{AsnRange, Bfd, Config, GracefulRestart, MaxPrefixes, MaxPrefixesAction, PeerConfig, Range};
use crate::fsm::restart;
use crate::iana::BGP_PORT;
use crate::rib::Rib;
use crate::types::{Asn, Family, Prefix, is_link_local};

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
        let fault = match peer.asn == config.asn {
            true if peer.bilateral => Err(PeerFault::InternalBilateral),
            false if peer.route_reflector_client => Err(PeerFault::ExternalClient),
            _ => fault,
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
        _ if let Err(fault) = check_keys(peer) => Err(fault),
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

fn check_keys(peer: &PeerConfig) -> Result<(), PeerFault> {
    if peer.password.is_some() && !peer.tcp_ao.is_empty() {
        return Err(PeerFault::TwoKinds);
    }
    let mut known = BTreeSet::new();
    for key in &peer.tcp_ao {
        let length = key.secret.reveal().len();
        if !(1..=sockopt::MAX_KEY).contains(&length) {
            return Err(PeerFault::Secret(length));
        }
        for id in [("sendId", key.send_id), ("recvId", key.recv_id)] {
            if !known.insert(id) {
                return Err(PeerFault::KeyId(id.0, id.1));
            }
        }
    }
    Ok(())
}

fn check_passwords(config: &Config) -> Result<(), ConfigError> {
    let peers = config.peers.iter().filter(|peer| !peer.address.is_unspecified());
    let peers: Vec<_> = peers
        .map(|peer| (Prefix::host(peer.address), Keys::of(peer), || format!("peer {}", peer.scoped())))
        .collect();
    let ranges = config.ranges.iter();
    let ranges: Vec<_> = ranges
        .map(|range| (range.prefix, Keys::of(&range.settings), || format!("range {}", range.id())))
        .collect();
    for (who, keys, name) in &peers {
        if let Some((.., other)) = peers.iter().find(|(other, theirs, _)| other == who && theirs != keys) {
            return Err(ConfigError::Passwords(name(), other()));
        }
        let unsigned = |(range, theirs, _): &&(Prefix, Option<Keys>, _)| {
            range.covers(*who) && theirs.is_some() && keys.is_none()
        };
        if let Some((.., other)) = ranges.iter().find(unsigned) {
            return Err(ConfigError::Passwords(name(), other()));
        }
    }
    for (who, keys, name) in &ranges {
        let differ = |(other, theirs, _): &&(Prefix, Option<Keys>, _)| {
            *other == *who && theirs != keys || other.covers(*who) && theirs.is_some() && keys.is_none()
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

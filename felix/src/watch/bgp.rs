//! BGPConfigurations, BGPPeers and BGPFilters become [`crate::model`].
//!
//! What the resources' schemas refuse is refused here as well: an object may be older than its schema, and one that the
//! speaker would refuse must not keep the others from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use kube::ResourceExt;
use kube::api::DynamicObject;
use manx_bgp::api::community::{CommunityPattern, CommunityValue};
use manx_bgp::api::{
    AddPaths, Aggregate, Bfd, GracefulRestart, Match, MaxPrefixes, MaxPrefixesAction, NextHopMode, Outcome,
    PathCount, PathMatch, PeerConfig, PrefixRange, Rule, Source as RouteSource, TcpAoAlgorithm, Then,
};
use manx_bgp::types::{Asn, Interface, Prefix, RouterId, is_link_local};

use super::convert::custom;
use crate::crd::{
    self, BGPConfiguration, BGPConfigurationSpec, BGPFilter, BGPFilterSpec, BGPPeer, BGPPeerSpec,
    ServiceAddressesSpec, WithoutClass,
};
use crate::graph::Selector;
use crate::model::service::{ServiceAddresses, ServiceRange, Unassigned};
use crate::model::{
    Bad, BgpConfig, Filter, FilterRule, Mesh, Neighbour, Object, Peer, SecretKey, Source, TcpAo, Wanted,
};

/// Seconds of a hold time that nobody says.
const DEFAULT_HOLD_TIME: u16 = 90;

/// The name of the one BGPConfiguration that counts.
pub const DEFAULT_CONFIGURATION: &str = "default";

/// A BGPConfiguration; of all but one the name alone is wrong.
pub fn bgp_configuration(object: DynamicObject) -> Object<BgpConfig> {
    custom(object, |configuration: BGPConfiguration| {
        if configuration.name_any() == DEFAULT_CONFIGURATION {
            return BgpConfig::try_from(&configuration.spec);
        }
        let message = format!("only the BGPConfiguration named \"{DEFAULT_CONFIGURATION}\" counts");
        Err(Bad::new("NotDefault", message))
    })
}

/// A BGPPeer.
pub fn bgp_peer(object: DynamicObject) -> Object<Peer> {
    custom(object, |peer: BGPPeer| Peer::try_from(&peer.spec))
}

/// A BGPFilter.
pub fn bgp_filter(object: DynamicObject) -> Object<Filter> {
    custom(object, |filter: BGPFilter| Filter::try_from(&filter.spec))
}

impl TryFrom<&BGPConfigurationSpec> for BgpConfig {
    type Error = Bad;

    fn try_from(spec: &BGPConfigurationSpec) -> Result<Self, Bad> {
        let timers = timers(&spec.timers, Some(DEFAULT_HOLD_TIME))?;
        let communities = spec.prefix_advertisements.iter().map(|advertisement| {
            let prefix = prefix("spec.prefixAdvertisements.cidr", &advertisement.cidr)?;
            Ok((prefix, standard("spec.prefixAdvertisements.communities", &advertisement.communities)?))
        });
        let aggregates = spec.aggregates.iter().map(|aggregate| {
            Ok(Aggregate {
                prefix: prefix("spec.aggregates.cidr", &aggregate.cidr)?,
                suppress: aggregate.suppress,
                communities: standard("spec.aggregates.communities", &aggregate.communities)?,
            })
        });
        Ok(Self {
            asn: asn("spec.asNumber", spec.as_number)?,
            mesh: match spec.mesh {
                crd::MeshMode::None => Mesh::None,
                crd::MeshMode::Full => Mesh::Full,
                crd::MeshMode::Auto => Mesh::Auto {
                    limit: within("spec.meshLimit", spec.mesh_limit, 1..=1000)?.into(),
                    reflectors: within("spec.reflectors", spec.reflectors, 1..=16)?.into(),
                },
            },
            listen_port: port("spec.listenPort", spec.listen_port)?,
            hold_time: timers.hold_time_seconds.unwrap_or(DEFAULT_HOLD_TIME),
            keepalive: timers.keepalive_seconds,
            send_hold_time: timers.send_hold_time_seconds,
            connect_retry: timers.connect_retry_seconds.unwrap_or(5),
            graceful_restart: graceful_restart(&spec.graceful_restart)?,
            bfd: spec.bfd.as_ref().map(bfd).transpose()?,
            password: spec.password.as_ref().map(SecretKey::from),
            wanted: spec.node_address.as_ref().map_or(Ok(Wanted::Internal), wanted)?,
            communities: communities.collect::<Result<_, Bad>>()?,
            aggregates: distinct(aggregates.collect::<Result<_, Bad>>()?)?,
            services: ServiceAddresses::try_from(&spec.service_addresses)?,
        })
    }
}

impl TryFrom<&ServiceAddressesSpec> for ServiceAddresses {
    type Error = Bad;

    fn try_from(spec: &ServiceAddressesSpec) -> Result<Self, Bad> {
        let selector = Selector::try_from(spec.selector.clone()).map_err(|error| {
            Bad::new("InvalidSelector", format_args!("spec.serviceAddresses.selector: {error}"))
        })?;
        let mut ranges = BTreeMap::new();
        for range in &spec.ranges {
            let range_prefix: Prefix = prefix("spec.serviceAddresses.ranges.cidr", &range.cidr)?;
            if ranges.insert(range_prefix, range.aggregate).is_some() {
                let message = format!("spec.serviceAddresses.ranges: {range_prefix} is listed twice");
                return Err(Bad::new("Repeated", message));
            }
        }
        Ok(Self {
            selector,
            ranges: ranges
                .into_iter()
                .map(|(prefix, aggregate)| ServiceRange { prefix, aggregate })
                .collect(),
            unassigned: match spec.unassigned {
                crd::Unassigned::Drop => Unassigned::Drop,
                crd::Unassigned::Reject => Unassigned::Reject,
                crd::Unassigned::Forward => Unassigned::Forward,
            },
            classless: spec.without_class == WithoutClass::Assign,
        })
    }
}

/// The speaker refuses two of one prefix.
fn distinct(aggregates: Vec<Aggregate>) -> Result<Vec<Aggregate>, Bad> {
    let twice = aggregates.iter().enumerate().find(|(index, aggregate)| {
        aggregates[..*index].iter().any(|before| before.prefix == aggregate.prefix)
    });
    match twice {
        Some((_, aggregate)) => Err(Bad::new(
            "DuplicateAggregate",
            format_args!("spec.aggregates: {} is listed twice: list it once", aggregate.prefix),
        )),
        None => Ok(aggregates),
    }
}

impl TryFrom<&BGPPeerSpec> for Peer {
    type Error = Bad;

    fn try_from(spec: &BGPPeerSpec) -> Result<Self, Bad> {
        let neighbour = neighbour(spec)?;
        let interface =
            spec.interface.as_deref().map(|name| interface("spec.interface", name)).transpose()?;
        let address = spec.address.as_deref().map(|text| unicast(text, interface)).transpose()?;
        let unnumbered = address.is_none_or(is_link_local) && interface.is_some();
        let timers = timers(&spec.timers, None)?;
        if spec.ttl_security.is_some() && spec.multihop.is_some() {
            let message =
                "spec.ttlSecurity and spec.multihop: set one; ttlSecurity says how far away it is, too";
            return Err(Bad::new("ContradictingTTL", message));
        }
        if let Some(hops @ 2..) = spec.multihop
            && unnumbered
        {
            let message = format!("spec.multihop is {hops}: a link-local neighbour is one hop away");
            return Err(Bad::new("ContradictingTTL", message));
        }
        let as_number = spec.as_number.map(|number| asn("spec.asNumber", number)).transpose()?;
        let local_asn = spec.local_as_number.map(|number| asn("spec.localAsNumber", number)).transpose()?;
        if local_asn.is_some() && local_asn == as_number {
            let message =
                "spec.localAsNumber is the neighbour's own AS: leave it out for a session inside one AS";
            return Err(Bad::new("InvalidASN", message));
        }
        let base = PeerConfig::default();
        let settings = PeerConfig {
            address: address.unwrap_or(base.address),
            interface,
            port: port("spec.port", spec.port)?,
            asn: as_number.unwrap_or(base.asn),
            local_asn,
            keepalive: timers.keepalive_seconds,
            send_hold_time: timers.send_hold_time_seconds,
            passive: spec.passive,
            ttl_security: spec
                .ttl_security
                .map(|hops| within("spec.ttlSecurity", hops, 1..=254))
                .transpose()?,
            multihop: spec.multihop.map(|hops| within("spec.multihop", hops, 1..=255)).transpose()?,
            bfd: spec.bfd.as_ref().map(bfd).transpose()?,
            max_prefixes: spec.max_prefixes.as_ref().map_or(Ok(MaxPrefixes::default()), max_prefixes)?,
            next_hop: match spec.next_hop {
                crd::NextHop::Auto => NextHopMode::Auto,
                crd::NextHop::Own => NextHopMode::Own,
                crd::NextHop::Keep => NextHopMode::Keep,
                crd::NextHop::Direct => NextHopMode::Direct,
            },
            allow_own_as: spec.allow_own_as,
            extended_next_hop: spec.extended_next_hop || unnumbered,
            add_paths: AddPaths {
                send: (spec.add_paths.send > 0).then_some(PathCount::Best(spec.add_paths.send)),
                receive: spec.add_paths.receive,
            },
            accept_default_route: spec.accept_default_route,
            route_reflector_client: spec.route_reflector_client,
            bilateral: spec.bilateral,
            ..base
        };
        Ok(Self {
            nodes: Selector::try_from(spec.node_selector.clone()).map_err(|error| {
                Bad::new("InvalidNodeSelector", format_args!("spec.nodeSelector: {error}"))
            })?,
            neighbour,
            settings: Box::new(settings),
            hold_time: timers.hold_time_seconds,
            connect_retry: timers.connect_retry_seconds,
            graceful_restart: spec.graceful_restart.as_ref().map(graceful_restart).transpose()?,
            source: match spec.source {
                crd::SourceAddress::Node if !unnumbered => Source::Node,
                crd::SourceAddress::Node | crd::SourceAddress::Interface => Source::Interface,
            },
            password: spec.password.as_ref().map(SecretKey::from),
            tcp_ao: tcp_ao(spec)?,
            filters: spec.filters.clone(),
        })
    }
}

/// Who is at the other end: said in one way of three.
fn neighbour(spec: &BGPPeerSpec) -> Result<Neighbour, Bad> {
    let one = spec.address.is_some() || spec.interface.is_some() && spec.range.is_none();
    if [one, spec.range.is_some(), spec.peer_selector.is_some()].into_iter().filter(|said| *said).count() != 1
    {
        let message = "give one of spec.address (or spec.interface), spec.range and spec.peerSelector";
        return Err(Bad::new("AmbiguousNeighbour", message));
    }
    if one != spec.as_number.is_some() {
        let message = match one {
            true => "spec.asNumber is missing: give the AS the neighbour is to claim",
            false => {
                "spec.asNumber is not for ranges, which have asNumbers, nor for nodes, which have their own"
            }
        };
        return Err(Bad::new("InvalidASN", message));
    }
    if spec.bilateral && spec.peer_selector.is_some() {
        let message = "spec.bilateral is for neighbours of other ASes, not for nodes: leave it out";
        return Err(Bad::new("InvalidBilateral", message));
    }
    if spec.cluster_id.is_some() && spec.peer_selector.is_none() {
        return Err(Bad::new("InvalidClusterID", "spec.clusterId goes with spec.peerSelector alone"));
    }
    if let Some(range) = &spec.range {
        let prefix = prefix("spec.range.cidr", &range.cidr)?;
        if is_link_local(prefix.addr()) && spec.interface.is_none() {
            let message = "spec.range.cidr is link-local, which says nothing without spec.interface";
            return Err(Bad::new("InvalidCIDR", message));
        }
        if spec.port != crd::default_port() {
            let message = "spec.port is not for a range, whose neighbours call: leave it out";
            return Err(Bad::new("InvalidPort", message));
        }
        let asns =
            parsed::<_, manx_bgp::api::AsnRange>("InvalidASN", "spec.range.asNumbers", &range.as_numbers)?;
        if asns.is_empty() {
            return Err(Bad::new(
                "InvalidASN",
                "spec.range.asNumbers is empty: list the ASes they may claim",
            ));
        }
        return Ok(Neighbour::Range {
            prefix,
            asns,
            limit: within("spec.range.limit", range.limit, 1..=100_000)?,
        });
    }
    let Some(selector) = &spec.peer_selector else { return Ok(Neighbour::One) };
    let selector = Selector::try_from(Some(selector.clone()))
        .map_err(|error| Bad::new("InvalidPeerSelector", format_args!("spec.peerSelector: {error}")))?;
    let cluster = spec.cluster_id.as_deref().map(|text| match text.parse() {
        Ok(address) if !std::net::Ipv4Addr::is_unspecified(&address) => Ok(RouterId(address)),
        _ => Err(Bad::new(
            "InvalidClusterID",
            format_args!("spec.clusterId: \"{text}\" is none, expected as in 192.0.2.1"),
        )),
    });
    Ok(Neighbour::Nodes { selector, cluster: cluster.transpose()? })
}

impl TryFrom<&BGPFilterSpec> for Filter {
    type Error = Bad;

    fn try_from(spec: &BGPFilterSpec) -> Result<Self, Bad> {
        let import = spec
            .import
            .iter()
            .enumerate()
            .map(|(index, rule)| filter_rule(&format!("spec.import[{index}]"), rule, None));
        let export = spec.export.iter().enumerate().map(|(index, rule)| {
            filter_rule(&format!("spec.export[{index}]"), rule, Some(RouteSource::Originated))
        });
        Ok(Self { import: import.collect::<Result<_, Bad>>()?, export: export.collect::<Result<_, Bad>>()? })
    }
}

/// `unsaid`: where a route begins that the rule says nothing of.
fn filter_rule(at: &str, rule: &crd::FilterRule, unsaid: Option<RouteSource>) -> Result<FilterRule, Bad> {
    let matches = &rule.matches;
    let set = rule.set.clone().unwrap_or_default();
    if rule.set.is_some() && rule.action == crd::FilterAction::Reject {
        return Err(Bad::new("NothingToSet", format_args!("{at}.set: a rejected route has nothing set")));
    }
    let next_hop = set.next_hop.as_deref().map(|text| match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => {
            Err(Bad::new("InvalidAddress", format_args!("{at}.set.nextHop: \"{text}\" is nobody's address")))
        }
    });
    let field = |name: &str| format!("{at}.{name}");
    let values =
        |name: &str, texts: &[String]| parsed::<_, CommunityValue>("InvalidCommunity", &field(name), texts);
    let patterns =
        |name: &str, texts: &[String]| parsed::<_, CommunityPattern>("InvalidCommunity", &field(name), texts);
    let path = matches.as_path.clone().unwrap_or_default();
    let prefixes = matches.prefixes.iter().map(|range| prefix_range(&field("match.prefixes"), range));
    Ok(FilterRule {
        interface: matches
            .interface
            .as_deref()
            .map(|name| interface(&field("match.interface"), name))
            .transpose()?,
        rule: Rule {
            name: if rule.name.is_empty() {
                at.trim_start_matches("spec.").to_owned()
            } else {
                rule.name.clone()
            },
            matches: Match {
                prefixes: prefixes.collect::<Result<_, Bad>>()?,
                communities: patterns("match.communities", &matches.communities)?,
                as_path: PathMatch {
                    contains: path.contains.into_iter().map(Asn).collect(),
                    originates: path.originates.into_iter().map(Asn).collect(),
                    min_length: path.min_length.map(usize::from),
                    max_length: path.max_length.map(usize::from),
                },
                next_hop: matches
                    .next_hop
                    .iter()
                    .map(|text| prefix(&field("match.nextHop"), text))
                    .collect::<Result<_, Bad>>()?,
                peer: Vec::new(),
                source: match matches.source {
                    None => unsaid,
                    Some(crd::FilterSource::Originated) => Some(RouteSource::Originated),
                    Some(crd::FilterSource::Learned) => Some(RouteSource::Learned),
                    Some(crd::FilterSource::Any) => None,
                },
            },
            then: Then {
                verdict: match rule.action {
                    crd::FilterAction::Accept => Outcome::Accept,
                    crd::FilterAction::Reject => Outcome::Reject,
                    crd::FilterAction::Next => Outcome::Next,
                },
                set_communities: set
                    .communities
                    .as_deref()
                    .map(|texts| values("set.communities", texts))
                    .transpose()?,
                remove_communities: patterns("set.removeCommunities", &set.remove_communities)?,
                add_communities: values("set.addCommunities", &set.add_communities)?,
                local_pref: set.local_pref,
                med: set.med,
                prepend: set.prepend.unwrap_or_default(),
                next_hop: next_hop.transpose()?,
            },
        },
    })
}

fn prefix_range(field: &str, range: &crd::FilterPrefix) -> Result<PrefixRange, Bad> {
    let within = prefix(field, &range.cidr)?;
    // The speaker's own form has the checks, and the words.
    let written = serde_json::json!({ "prefix": within, "ge": range.min_length, "le": range.max_length });
    serde_json::from_value(written)
        .map_err(|error| Bad::new("InvalidLength", format_args!("{field}: {error}")))
}

impl From<&crd::SecretKey> for SecretKey {
    fn from(written: &crd::SecretKey) -> Self {
        Self { name: written.name.clone(), key: written.key.clone() }
    }
}

fn tcp_ao(spec: &BGPPeerSpec) -> Result<Vec<TcpAo>, Bad> {
    if spec.password.is_some() && !spec.tcp_ao.is_empty() {
        return Err(Bad::new("TwoKindsOfKeys", "spec.password and spec.tcpAo: set one"));
    }
    let mut known = BTreeSet::new();
    for key in &spec.tcp_ao {
        for (name, id) in [("sendId", key.send_id), ("recvId", key.recv_id)] {
            if !known.insert((name, id)) {
                let message = format!("spec.tcpAo: {name} {id} is there twice: give each key its own");
                return Err(Bad::new("DuplicateKeyID", message));
            }
        }
    }
    let key = |key: &crd::TcpAoKey| TcpAo {
        send_id: key.send_id,
        recv_id: key.recv_id,
        algorithm: match key.algorithm {
            crd::TcpAoAlgorithm::HmacSha1 => TcpAoAlgorithm::HmacSha1,
            crd::TcpAoAlgorithm::Aes128Cmac => TcpAoAlgorithm::Aes128Cmac,
        },
        secret: SecretKey::from(&key.secret),
    };
    Ok(spec.tcp_ao.iter().map(key).collect())
}

fn wanted(spec: &crd::NodeAddress) -> Result<Wanted, Bad> {
    let field = "spec.nodeAddress";
    match (&spec.interface, &spec.cidrs, &spec.can_reach) {
        (Some(name), None, None) => Ok(Wanted::Interface(interface(&format!("{field}.interface"), name)?)),
        (None, Some(cidrs), None) => {
            let ranges = cidrs.iter().map(|text| prefix(&format!("{field}.cidrs"), text));
            Ok(Wanted::Inside(ranges.collect::<Result<_, Bad>>()?))
        }
        (None, None, Some(addresses)) => {
            Ok(Wanted::CanReach(parsed("InvalidAddress", &format!("{field}.canReach"), addresses)?))
        }
        _ => {
            let message = format!("{field}: give one of interface, cidrs and canReach");
            Err(Bad::new("AmbiguousAddress", message))
        }
    }
}

fn bfd(spec: &crd::Bfd) -> Result<Bfd, Bad> {
    Ok(Bfd {
        min_rx_ms: within("spec.bfd.minRxMilliseconds", spec.min_rx_milliseconds, 10..=60_000)?,
        min_tx_ms: within("spec.bfd.minTxMilliseconds", spec.min_tx_milliseconds, 10..=60_000)?,
        multiplier: within("spec.bfd.multiplier", spec.multiplier, 2..=50)?,
    })
}

/// Learned routes stay in the kernel while the speaker is away, so neighbours may keep sending.
fn graceful_restart(spec: &crd::GracefulRestart) -> Result<GracefulRestart, Bad> {
    const LONGEST: u32 = (1 << 24) - 1;
    let field = |name: &str| format!("spec.gracefulRestart.{name}");
    let limit = spec.long_lived_limit_seconds;
    Ok(GracefulRestart {
        restart_time: within(&field("restartTimeSeconds"), spec.restart_time_seconds, 0..=4095)?,
        preserve_forwarding: true,
        long_lived_stale_time: within(
            &field("longLivedStaleTimeSeconds"),
            spec.long_lived_stale_time_seconds,
            0..=LONGEST,
        )?,
        long_lived_limit: limit
            .map(|limit| within(&field("longLivedLimitSeconds"), limit, 0..=LONGEST))
            .transpose()?,
    })
}

fn max_prefixes(spec: &crd::MaxPrefixes) -> Result<MaxPrefixes, Bad> {
    let field = |name: &str| format!("spec.maxPrefixes.{name}");
    let action = match spec.action {
        crd::MaxPrefixesAction::Cease => MaxPrefixesAction::Cease,
        crd::MaxPrefixesAction::Warn => MaxPrefixesAction::Warn,
    };
    if spec.restart_after_seconds.is_some() && action == MaxPrefixesAction::Warn {
        let message = format!("{}: goes with the action Cease", field("restartAfterSeconds"));
        return Err(Bad::new("InvalidLimit", message));
    }
    Ok(MaxPrefixes {
        ipv4: within(&field("ipv4"), spec.ipv4, 1..=u32::MAX)?,
        ipv6: within(&field("ipv6"), spec.ipv6, 1..=u32::MAX)?,
        warn_percent: within(&field("warnPercent"), spec.warn_percent, 1..=100)?,
        action,
        restart_after: spec
            .restart_after_seconds
            .map(|seconds| within(&field("restartAfterSeconds"), seconds, 1..=86_400))
            .transpose()?,
    })
}

/// A neighbour's address; link-local only where the interface is said.
fn unicast(text: &str, interface: Option<Interface>) -> Result<IpAddr, Bad> {
    let bad = |why: &str| {
        Err(Bad::new(
            "InvalidAddress",
            format_args!("spec.address: \"{text}\" {why}, expected as in 192.0.2.1"),
        ))
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return bad("is not an IP address");
    };
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return bad("is IPv4-mapped: write it as IPv4");
    }
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() && interface.is_none(),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || local {
        return bad(
            "is not an address every node can reach (unspecified, loopback, multicast, or link-local without spec.interface)",
        );
    }
    Ok(address)
}

fn interface(field: &str, name: &str) -> Result<Interface, Bad> {
    name.parse().map_err(|error| Bad::new("InvalidInterface", format_args!("{field}: {error}")))
}

fn asn(field: &str, number: u32) -> Result<Asn, Bad> {
    if number == 0 {
        return Err(Bad::new(
            "InvalidASN",
            format_args!("{field}: 0 is reserved (RFC 7607), expected 1–4294967295"),
        ));
    }
    Ok(Asn(number))
}

fn port(field: &str, port: u16) -> Result<u16, Bad> {
    if port == 0 {
        return Err(Bad::new("InvalidPort", format_args!("{field}: 0 is not a port, expected 1–65535")));
    }
    Ok(port)
}

/// Timers that fit each other: with the hold time that is said, else with `unsaid`; where that is another's to say, it is
/// judged there.
fn timers(spec: &crd::Timers, unsaid: Option<u16>) -> Result<crd::Timers, Bad> {
    if let Some(seconds @ (1 | 2)) = spec.hold_time_seconds {
        let message =
            format!("spec.holdTimeSeconds: {seconds} is neither 0 nor 3–65535 (RFC 4271, section 4.2)");
        return Err(Bad::new("InvalidHoldTime", message));
    }
    if let Some(hold_time) = spec.hold_time_seconds.or(unsaid) {
        keepalive(spec.keepalive_seconds, hold_time)?;
        send_hold_time(spec.send_hold_time_seconds, hold_time)?;
    }
    for (field, seconds) in [
        ("spec.connectRetrySeconds", spec.connect_retry_seconds),
        ("spec.sendHoldTimeSeconds", spec.send_hold_time_seconds),
    ] {
        seconds.map(|seconds| within(field, seconds, 1..=u16::MAX)).transpose()?;
    }
    Ok(*spec)
}

/// Whether KEEPALIVEs so many seconds apart keep a session with this hold time.
///
/// # Errors
/// They do not.
pub fn keepalive(seconds: Option<u16>, hold_time: u16) -> Result<(), Bad> {
    match seconds {
        Some(seconds) if seconds > hold_time / 3 || (seconds == 0 && hold_time > 0) => {
            let message = format!(
                "spec.keepaliveSeconds: {seconds} is not 1 to a third of the hold time, which is {hold_time} (0 goes with 0)"
            );
            Err(Bad::new("InvalidKeepalive", message))
        }
        _ => Ok(()),
    }
}

/// Whether this send hold time goes with this hold time (RFC 9687).
///
/// # Errors
/// It is not more.
pub fn send_hold_time(seconds: Option<u16>, hold_time: u16) -> Result<(), Bad> {
    match seconds {
        Some(seconds) if seconds <= hold_time => {
            let message = format!(
                "spec.sendHoldTimeSeconds: {seconds} is not more than the hold time, which is {hold_time} (RFC 9687)"
            );
            Err(Bad::new("InvalidSendHoldTime", message))
        }
        _ => Ok(()),
    }
}

fn within<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<T, Bad> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (from, to) = range.into_inner();
    Err(Bad::new("OutOfRange", format_args!("{field}: {value} is not {from} to {to}")))
}

fn prefix(field: &str, text: &str) -> Result<Prefix, Bad> {
    let bad = |why: &dyn Display| Bad::new("InvalidCIDR", format_args!("{field}: \"{text}\" {why}"));
    let network: IpNetwork = text.parse().map_err(|_| bad(&"is no range, expected as in 10.0.0.0/8"))?;
    Prefix::try_from(network).map_err(|error| bad(&format_args!("is no range: {error}")))
}

fn parsed<S: AsRef<str>, T: FromStr<Err: Display>>(
    reason: &'static str,
    field: &str,
    texts: &[S],
) -> Result<Vec<T>, Bad> {
    let read = |text: &S| {
        let text = text.as_ref();
        text.parse().map_err(|error| Bad::new(reason, format_args!("{field}: \"{text}\": {error}")))
    };
    texts.iter().map(read).collect()
}

/// What a node announces itself has communities of RFC 1997 alone.
fn standard(field: &str, texts: &[String]) -> Result<Vec<String>, Bad> {
    for (text, value) in texts.iter().zip(parsed::<_, CommunityValue>("InvalidCommunity", field, texts)?) {
        if matches!(value, CommunityValue::Large(_)) {
            let message = format!("{field}: \"{text}\" is a large community: set those with a BGPFilter");
            return Err(Bad::new("InvalidCommunity", message));
        }
    }
    Ok(texts.to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json).unwrap()
    }

    fn peer(spec: serde_json::Value) -> Result<Peer, Bad> {
        bgp_peer(object(json!({"metadata": {"name": "tor1", "generation": 3}, "spec": spec}))).spec
    }

    #[test]
    fn defaults_of_a_peer_are_those_of_its_schema() {
        let peer = peer(json!({"address": "192.0.2.1", "asNumber": 65001})).unwrap();
        assert_eq!((peer.settings.port, peer.hold_time, peer.settings.asn), (179, None, Asn(65001)));
        assert_eq!(*peer.settings, PeerConfig::new(peer.settings.address, Asn(65001)));
    }

    #[test]
    fn a_bad_peer_is_refused_in_words() {
        for (spec, reason, words) in [
            (json!({"address": "tor1", "asNumber": 1}), "InvalidAddress", "\"tor1\" is not an IP address"),
            (json!({"address": "fe80::1", "asNumber": 1}), "InvalidAddress", "link-local"),
            (json!({"address": "::ffff:192.0.2.1", "asNumber": 1}), "InvalidAddress", "write it as IPv4"),
            (json!({"address": "192.0.2.1", "asNumber": 0}), "InvalidASN", "0 is reserved"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "holdTimeSeconds": 2}),
                "InvalidHoldTime",
                "neither 0 nor",
            ),
            (json!({"address": "192.0.2.1", "asNumber": 1, "port": 0}), "InvalidPort", "0 is not a port"),
            (json!({"address": "192.0.2.1", "asNumber": -1}), "Malformed", "does not follow its schema"),
            (json!({"asNumber": 1}), "AmbiguousNeighbour", "spec.address"),
            (json!({"address": "192.0.2.1"}), "InvalidASN", "is missing"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "password": {"name": "a"},
                    "tcpAo": [{"sendId": 1, "recvId": 2, "secret": {"name": "a"}}]}),
                "TwoKindsOfKeys",
                "set one",
            ),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "tcpAo": [
                    {"sendId": 1, "recvId": 2, "secret": {"name": "a"}}, {"sendId": 3, "recvId": 2, "secret": {"name": "b"}}]}),
                "DuplicateKeyID",
                "recvId 2 is there twice",
            ),
            (json!({"peerSelector": {}, "asNumber": 1}), "InvalidASN", "have their own"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "clusterId": "1.1.1.1"}),
                "InvalidClusterID",
                "peerSelector",
            ),
            (json!({"peerSelector": {}, "clusterId": "0.0.0.0"}), "InvalidClusterID", "expected as in"),
            (json!({"range": {"cidr": "10.0.0.1/24", "asNumbers": ["1"]}}), "InvalidCIDR", "10.0.0.1/24"),
            (json!({"range": {"cidr": "10.0.0.0/24", "asNumbers": ["9-8"]}}), "InvalidASN", "65100-65199"),
            (json!({"range": {"cidr": "fe80::/10", "asNumbers": ["1"]}}), "InvalidCIDR", "spec.interface"),
            (json!({"address": "192.0.2.1", "asNumber": 1, "interface": "a b"}), "InvalidInterface", "a b"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "multihop": 2, "ttlSecurity": 1}),
                "ContradictingTTL",
                "one",
            ),
            (json!({"interface": "eth1", "asNumber": 1, "multihop": 2}), "ContradictingTTL", "one hop away"),
            (json!({"address": "192.0.2.1", "asNumber": 1, "localAsNumber": 1}), "InvalidASN", "own AS"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "holdTimeSeconds": 9, "keepaliveSeconds": 4}),
                "InvalidKeepalive",
                "a third",
            ),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "holdTimeSeconds": 9, "sendHoldTimeSeconds": 9}),
                "InvalidSendHoldTime",
                "which is 9",
            ),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "sendHoldTimeSeconds": 0}),
                "OutOfRange",
                "spec.sendHoldTimeSeconds",
            ),
            (json!({"peerSelector": {}, "bilateral": true}), "InvalidBilateral", "of other ASes"),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "bfd": {"multiplier": 1}}),
                "OutOfRange",
                "1 is not 2 to 50",
            ),
            (
                json!({"address": "192.0.2.1", "asNumber": 1, "maxPrefixes": {"ipv4": 0}}),
                "OutOfRange",
                "spec.maxPrefixes.ipv4",
            ),
            (
                json!({"address": "192.0.2.1", "asNumber": 1,
                    "nodeSelector": {"matchExpressions": [{"key": "k", "operator": "In"}]}}),
                "InvalidNodeSelector",
                "needs at least one value",
            ),
        ] {
            let bad = peer(spec).unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }

    #[test]
    fn only_the_default_configuration_counts() {
        let named =
            |name: &str| bgp_configuration(object(json!({"metadata": {"name": name}, "spec": {}}))).spec;
        assert_eq!(named("default"), Ok(BgpConfig::default()));
        assert_eq!(named("other").unwrap_err().reason, "NotDefault");
    }

    #[test]
    fn a_neighbour_on_an_interface_is_whoever_is_found_there() {
        let peer = peer(json!({"interface": "eth1", "asNumber": 65001})).unwrap();
        assert_eq!(peer.neighbour, Neighbour::One);
        assert_eq!(peer.settings.scoped().to_string(), "eth1");
        assert!(peer.settings.extended_next_hop && peer.source == Source::Interface);
    }

    #[test]
    fn a_filter_becomes_rules_of_the_speaker_in_order() {
        let spec = json!({
            "import": [
                {"match": {"prefixes": [{"cidr": "0.0.0.0/0"}], "interface": "eth1"}, "action": "Reject"},
                {"name": "near", "match": {"asPath": {"originates": [65001], "maxLength": 2}},
                    "set": {"localPref": 200, "addCommunities": ["64512:1:2"]}, "action": "Next"},
            ],
            "export": [
                {"match": {"prefixes": [{"cidr": "10.0.0.0/8", "minLength": 24}]}, "set": {"med": 5, "prepend": 2}},
                {"match": {"source": "Any", "communities": ["64512:*"]}},
            ],
        });
        let filter = bgp_filter(object(json!({"metadata": {"name": "f"}, "spec": spec}))).spec.unwrap();
        assert_eq!(filter.import[0].interface.unwrap().as_str(), "eth1");
        assert_eq!(filter.import[0].rule.name, "import[0]");
        assert_eq!(filter.import[0].rule.then.verdict, Outcome::Reject);
        assert_eq!(filter.import[1].rule.then.local_pref, Some(200));
        assert_eq!(filter.import[1].rule.matches.source, None);
        let lengths = filter.export[0].rule.matches.prefixes[0].lengths();
        assert_eq!((lengths, filter.export[0].rule.then.prepend), ((24, 32), 2));
        let sources: Vec<_> = filter.export.iter().map(|rule| rule.rule.matches.source).collect();
        assert_eq!(
            sources,
            [Some(RouteSource::Originated), None],
            "nothing learned is handed on unless it is said"
        );
    }

    #[test]
    fn a_bad_filter_is_refused_in_words() {
        for (rule, reason, words) in [
            (
                json!({"match": {"prefixes": [{"cidr": "10.0.0.1/8"}]}}),
                "InvalidCIDR",
                "spec.import[0].match.prefixes",
            ),
            (
                json!({"match": {"prefixes": [{"cidr": "10.0.0.0/8", "maxLength": 33}]}}),
                "InvalidLength",
                "from 8 to 32",
            ),
            (json!({"match": {"communities": ["1"]}}), "InvalidCommunity", "expected a community"),
            (json!({"set": {"addCommunities": ["1:*"]}}), "InvalidCommunity", "expected asn:value"),
            (json!({"set": {"nextHop": "0.0.0.0"}}), "InvalidAddress", "nobody's"),
            (json!({"set": {"med": 1}, "action": "Reject"}), "NothingToSet", "rejected"),
            (json!({"action": "Drop"}), "Malformed", "Drop"),
        ] {
            let object = object(json!({"metadata": {"name": "f"}, "spec": {"import": [rule]}}));
            let bad = bgp_filter(object).spec.unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }

    #[test]
    fn a_bad_configuration_is_refused_in_words() {
        for (spec, reason, words) in [
            (json!({"nodeAddress": {}}), "AmbiguousAddress", "one of"),
            (json!({"nodeAddress": {"canReach": ["gateway"]}}), "InvalidAddress", "gateway"),
            (
                json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["1:2:3"]}]}),
                "InvalidCommunity",
                "BGPFilter",
            ),
            (
                json!({"aggregates": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8"}]}),
                "DuplicateAggregate",
                "twice",
            ),
            (json!({"mesh": "Some"}), "Malformed", "Some"),
            (json!({"keepaliveSeconds": 40}), "InvalidKeepalive", "which is 90"),
            (json!({"sendHoldTimeSeconds": 90}), "InvalidSendHoldTime", "which is 90"),
        ] {
            let object = object(json!({"metadata": {"name": "default"}, "spec": spec}));
            let bad = bgp_configuration(object).spec.unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }
}

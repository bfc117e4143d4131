//! A BGPPeer: who is at the other end, and how it is spoken with.

use std::collections::BTreeSet;
use std::net::IpAddr;

use manx_bgp::api::{
    AddPaths, MaxPrefixes, MaxPrefixesAction, NextHopMode, PathCount, PeerConfig, TcpAoAlgorithm,
};
use manx_bgp::types::{Interface, RouterId, is_link_local};

use super::field::{asn, interface, parsed, port, prefix, within};
use super::session::{bfd, graceful_restart, timers};
use crate::crd::{self, BGPPeerSpec};
use crate::graph::Selector;
use crate::model::{Bad, Neighbour, Peer, SecretKey, Source, TcpAo};

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

#[cfg(test)]
mod tests {
    use manx_bgp::types::Asn;
    use serde_json::json;

    use super::super::{bgp_peer, object};
    use super::*;

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
    fn a_neighbour_on_an_interface_is_whoever_is_found_there() {
        let peer = peer(json!({"interface": "eth1", "asNumber": 65001})).unwrap();
        assert_eq!(peer.neighbour, Neighbour::One);
        assert_eq!(peer.settings.scoped().to_string(), "eth1");
        assert!(peer.settings.extended_next_hop && peer.source == Source::Interface);
    }
}

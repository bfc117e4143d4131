//! The RIB as its owner sees it: told what happened, asked what follows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod add_path;
mod aggregates;
mod behaviour;
mod decision;
mod export;
mod graceful;
mod neighbours;
mod next_hops;
mod policy;
mod properties;
mod reflection;
mod shares;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::BytesMut;
use manx_bgp::api::{self, Network, NextHopMode};
use manx_bgp::rib::{Drain, PeerFacts, PeerId, Policy, Rib, RouteChange};
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::{
    AddPath, Announcement, AsPath, Attributes, Community, Message, NextHop, Nlri, Origin, Segment, Session,
    Update, frame, parse,
};

const OUR_AS: Asn = Asn(64512);

fn rib() -> Rib {
    Rib::new(OUR_AS, RouterId(Ipv4Addr::new(10, 0, 0, 100)))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| prefix(text)).collect()
}

/// All with one path identifier.
fn nlri(texts: &[&str], path_id: u32) -> Vec<Nlri> {
    texts.iter().map(|text| Nlri { prefix: prefix(text), path_id }).collect()
}

/// As it is compiled.
fn policy(written: &api::Policy) -> Option<Policy> {
    Some(written.into())
}

fn accept() -> Option<Policy> {
    policy(&api::Policy::accept())
}

fn reject() -> Option<Policy> {
    policy(&api::Policy::reject())
}

fn originated() -> Option<Policy> {
    policy(&api::Policy::originated())
}

/// All but what is in these.
fn except(texts: &[&str]) -> Option<Policy> {
    policy(&api::Policy::accept_except("", prefixes(texts)))
}

/// The peer numbered `n`: 10.0.0.n and fd00::n, we are .100.
fn facts(n: u8, asn: u32) -> PeerFacts {
    PeerFacts {
        address: Ipv4Addr::new(10, 0, 0, n).into(),
        zone: None,
        name: format!("peer{n}"),
        asn: Asn(asn),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, n)),
        session: Session {
            asn4: true,
            families: Family::ALL.to_vec(),
            ebgp: Asn(asn) != OUR_AS,
            extended: false,
            add_path: AddPath::default(),
        },
        next_hops: vec!["10.0.0.100".parse().unwrap(), "fd00::100".parse().unwrap()],
        extended_next_hop: false,
        add_paths: None,
        enhanced_refresh: false,
        long_lived: false,
        graceful_shutdown: true,
        drain: Drain::default(),
        client: false,
        bilateral: false,
        next_hop: NextHopMode::Auto,
        multihop: false,
        local_asn: OUR_AS,
        allow_own_as: 0,
        default_route: true,
        import: accept(),
        export: accept(),
    }
}

/// Brings up the peer numbered `n` and takes its first, empty exchange away.
fn up(rib: &mut Rib, n: u8, asn: u32) -> PeerId {
    up_with(rib, n, facts(n, asn))
}

fn up_with(rib: &mut Rib, n: u8, facts: PeerFacts) -> PeerId {
    let peer = PeerId::new(n.into());
    rib.peer_up(peer, facts);
    peer
}

fn sequence(asns: &[u32]) -> AsPath {
    let segment = Segment::Sequence(asns.iter().copied().map(Asn).collect());
    AsPath::from(if asns.is_empty() { Vec::new() } else { vec![segment] })
}

fn attributes(as_path: &[u32]) -> Attributes {
    Attributes {
        origin: Origin::Igp,
        as_path: sequence(as_path),
        med: None,
        local_pref: None,
        atomic_aggregate: false,
        aggregator: None,
        communities: Vec::new(),
        originator_id: None,
        cluster_list: Vec::new(),
        ext_communities: Vec::new(),
        large_communities: Vec::new(),
        unknown: Vec::new(),
    }
}

fn with_community(as_path: &[u32], community: Community) -> Attributes {
    Attributes { communities: vec![community], ..attributes(as_path) }
}

/// All of one family.
fn announce(next_hop: &str, attributes: Attributes, texts: &[&str]) -> Update {
    let next_hop = NextHop::from(next_hop.parse::<IpAddr>().unwrap());
    Update {
        announced: vec![Announcement { next_hop, prefixes: nlri(texts, 0) }],
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    }
}

fn withdraw(texts: &[&str]) -> Update {
    Update { withdrawn: nlri(texts, 0), ..Update::default() }
}

fn network(text: &str) -> Network {
    Network::new(prefix(text))
}

fn change(text: &str, next_hops: &[&str]) -> RouteChange {
    let next_hops = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
    RouteChange { prefix: prefix(text), next_hops, weights: Vec::new() }
}

/// What a peer holds after all it was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Heard {
    /// By path identifier too: 0 where there is only one path.
    routes: BTreeMap<Nlri, (NextHop, Arc<Attributes>)>,
    ends: Vec<Family>,
}

impl Heard {
    fn hear(&mut self, update: Update) {
        for nlri in update.withdrawn {
            assert!(self.routes.remove(&nlri).is_some(), "{nlri:?} is withdrawn but was never told");
        }
        for Announcement { next_hop, prefixes } in update.announced {
            let attributes = update.attributes.as_ref().expect("announcements have attributes");
            self.routes.extend(prefixes.into_iter().map(|nlri| (nlri, (next_hop, attributes.clone()))));
        }
        self.ends.extend(update.end_of_rib);
    }

    fn hear_octets(&mut self, octets: &[u8], session: &Session) {
        let mut octets = BytesMut::from(octets);
        while let Some(frame) = frame(&mut octets, session.max_message()).unwrap() {
            if let Message::Update(update) = parse(&frame, Some(session)).unwrap() {
                self.hear(update);
            }
        }
    }

    /// Takes all there is.
    fn drain(&mut self, rib: &mut Rib, peer: PeerId) {
        while rib.has_pending(peer) {
            rib.take_updates(peer, 64).into_iter().for_each(|update| self.hear(update));
        }
    }

    fn prefixes(&self) -> Vec<String> {
        self.routes.keys().map(|nlri| nlri.prefix.to_string()).collect()
    }

    fn attributes(&self, text: &str) -> &Attributes {
        &self.routes[&prefix(text).into()].1
    }

    fn next_hop(&self, text: &str) -> String {
        self.routes[&prefix(text).into()].0.addr().to_string()
    }
}

/// Everything a peer is to hear, taken at once.
fn heard(rib: &mut Rib, peer: PeerId) -> Heard {
    let mut heard = Heard::default();
    heard.drain(rib, peer);
    heard
}

/// Peer address and verdict of each path of one prefix, best first.
fn verdicts(rib: &Rib, text: &str) -> Vec<String> {
    let destinations = rib.destinations(Some(prefix(text)));
    let paths = destinations.iter().flat_map(|destination| &destination.paths);
    paths.map(|path| format!("{}: {}", path.peer_name, path.verdict)).collect()
}

//! One speaker: its RIB, its neighbours' state machines, and what a watcher was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use manx_bgp::api::{self, Network, NextHopMode, PathCount};
use manx_bgp::fsm::restart::{Forwarding, Offer, Start};
use manx_bgp::fsm::{Local, Negotiated, Peer, Role};
use manx_bgp::rib::{Drain, PeerFacts, PeerId, Policy, Rib};
use manx_bgp::types::{Asn, Family, Prefix, RouterId};
use manx_bgp::wire::{SendReceive, Session};

/// A TCP connection, by the order of the calls.
pub type Conn = usize;

/// Whose packets are to arrive.
pub struct Link {
    pub conn: Conn,
    pub session: Option<Session>,
    /// Runs of updates sent and not yet delivered: a neighbour reads as fast as the network lets it.
    pub in_flight: usize,
}

/// A neighbour as a speaker keeps it.
pub struct Neighbour {
    pub fsm: Peer,
    pub id: PeerId,
    pub calling: Option<Conn>,
    /// By [`Role`].
    pub links: [Option<Link>; 2],
    pub up: Option<Role>,
}

/// A speaker.
pub struct Node {
    pub rib: Rib,
    pub neighbours: BTreeMap<usize, Neighbour>,
    /// What a watcher holds who is told every change.
    pub watched: BTreeMap<Prefix, Vec<IpAddr>>,
    next: u32,
}

pub fn asn(node: usize) -> Asn {
    Asn(65001 + node as u32)
}

pub fn address(node: usize, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 0, 0, node as u8 + 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, node as u16 + 1).into(),
    }
}

fn router_id(node: usize) -> RouterId {
    RouterId(Ipv4Addr::new(10, 0, 0, node as u8 + 1))
}

impl Node {
    /// A fresh process without neighbours.
    pub fn new(node: usize, networks: &BTreeSet<Prefix>) -> Self {
        let rib = Rib::new(asn(node), router_id(node));
        let mut node = Self { rib, neighbours: BTreeMap::new(), watched: BTreeMap::new(), next: 0 };
        node.originate(networks);
        node
    }

    pub fn originate(&mut self, networks: &BTreeSet<Prefix>) {
        let network = |prefix: &Prefix| Network { prefix: *prefix, communities: Vec::new() };
        self.rib.set_networks(&networks.iter().map(network).collect::<Vec<_>>()).unwrap();
    }

    /// Adds a neighbour that has not been started.
    pub fn add(&mut self, node: usize, other: usize, seed: u64, now: Instant) {
        let local = Local {
            asn: asn(node),
            router_id: router_id(node),
            peer_asn: asn(other),
            families: Family::ALL.to_vec(),
            hold_time: 9,
            keepalive: None,
            send_hold_time: None,
            connect_retry: Duration::from_secs(5),
            // A lost session is forgotten at once here: what is kept beyond it is the speaker's own work.
            authenticated: false,
            restart: Offer { time: 0, long_lived: 0, forwarding: Forwarding::Lost, start: Start::Over },
            // One of the pair always calls.
            extended_next_hop: false,
            // Some sessions have path identifiers; who is told one path is told the same by them.
            add_path: (node + other).is_multiple_of(2).then_some(SendReceive::Both),
            passive: node > other && (node + other).is_multiple_of(3),
        };
        let id = PeerId::new(self.next);
        self.next += 1;
        let fsm = Peer::new(local, seed, now);
        let neighbour = Neighbour { fsm, id, calling: None, links: [None, None], up: None };
        self.neighbours.insert(other, neighbour);
    }

    pub fn watch(&mut self) {
        for change in self.rib.take_changes() {
            if change.next_hops.is_empty() {
                self.watched.remove(&change.prefix);
            } else {
                self.watched.insert(change.prefix, change.next_hops);
            }
        }
    }
}

/// What the RIB is told of an established neighbour.
pub fn facts(node: usize, other: usize, negotiated: &Negotiated) -> PeerFacts {
    PeerFacts {
        address: address(other, Family::Ipv4),
        name: format!("node{other}"),
        asn: asn(other),
        router_id: negotiated.router_id,
        session: negotiated.session.clone(),
        next_hops: Family::ALL.map(|family| address(node, family)).to_vec(),
        extended_next_hop: negotiated.extended_next_hop,
        add_paths: Some(PathCount::Best(1)),
        enhanced_refresh: false,
        long_lived: false,
        graceful_shutdown: true,
        drain: Drain::default(),
        client: false,
        next_hop: NextHopMode::Auto,
        local_asn: asn(node),
        allow_own_as: 0,
        default_route: true,
        import: Some(Policy::from(&api::Policy::accept())),
        export: Some(Policy::from(&api::Policy::accept())),
    }
}

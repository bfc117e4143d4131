//! One speaker: its RIB, its neighbours' state machines, and what a watcher was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use manx_bgp::api::{self, Network, NextHopMode, PathCount};
use manx_bgp::fsm::negotiate::Authentication;
use manx_bgp::fsm::restart::{Forwarding, Helper, Offer, Progress, Start};
use manx_bgp::fsm::{Local, Negotiated, Peer, Role};
use manx_bgp::rib::{Drain, PeerFacts, PeerId, Policy, Rib};
use manx_bgp::types::{Family, Prefix, RouterId};
use manx_bgp::wire::{SendReceive, Session};

use crate::topology::Topology;

/// How long one that has restarted waits for the others at most, as in the speaker.
pub const DEFERRAL: Duration = Duration::from_secs(30);

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
    pub helper: Helper,
    pub progress: Progress,
    /// End-of-RIBs kept back after a restart.
    pub held: Vec<Bytes>,
    /// Families it is to hear all of again.
    pub asked: BTreeSet<Family>,
}

impl Neighbour {
    pub fn next_timeout(&self) -> Option<Instant> {
        self.fsm.next_timeout().into_iter().chain(self.helper.next_timeout()).min()
    }
}

/// A speaker.
pub struct Node {
    pub rib: Rib,
    pub neighbours: BTreeMap<usize, Neighbour>,
    /// What a watcher holds who is told every change.
    pub watched: BTreeMap<Prefix, Vec<IpAddr>>,
    /// After a restart: until when it keeps its End-of-RIBs back at the latest.
    pub deferred: Option<Instant>,
    /// What came before its first sessions.
    start: Start,
    next: u32,
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
    pub fn new(
        topology: &Topology,
        node: usize,
        networks: &BTreeSet<Prefix>,
        start: Start,
        now: Instant,
    ) -> Self {
        let mut node = Self {
            rib: Rib::new(topology.asn(node), router_id(node)),
            neighbours: BTreeMap::new(),
            watched: BTreeMap::new(),
            deferred: (start == Start::Restarted).then_some(now + DEFERRAL),
            start,
            next: 0,
        };
        node.originate(networks);
        node
    }

    pub fn originate(&mut self, networks: &BTreeSet<Prefix>) {
        let network = |prefix: &Prefix| Network::new(*prefix);
        self.rib.set_networks(&networks.iter().map(network).collect::<Vec<_>>()).unwrap();
    }

    /// Adds a neighbour that has not been started.
    pub fn add(&mut self, topology: &Topology, node: usize, other: usize, seed: u64, now: Instant) {
        let external = topology.is_external(node, other);
        let over = self.start == Start::Restarted && self.deferred.is_none();
        let local = Local {
            asn: topology.asn(node),
            router_id: router_id(node),
            peer_asns: vec![topology.asn(other).into()],
            families: Family::ALL.to_vec(),
            hold_time: 9,
            keepalive: None,
            send_hold_time: None,
            connect_retry: Duration::from_secs(5),
            authentication: Authentication::None,
            // Some promise less than others.
            restart: Offer {
                time: if other.is_multiple_of(3) { 0 } else { 6 },
                long_lived: if node.is_multiple_of(2) { 20 } else { 0 },
                forwarding: if node % 5 == 4 { Forwarding::Lost } else { Forwarding::Preserved },
                start: if over { Start::Over } else { self.start },
            },
            extended_next_hop: false,
            // Some sessions have path identifiers; who is told one path is told the same by them, where all of
            // them may go out.
            add_path: (external && (node + other).is_multiple_of(2)).then_some(SendReceive::Both),
            // One of the pair always calls.
            passive: node > other && (node + other).is_multiple_of(3),
        };
        let id = PeerId::new(self.next);
        self.next += 1;
        let neighbour = Neighbour {
            fsm: Peer::new(local, seed, now),
            id,
            calling: None,
            links: [None, None],
            up: None,
            helper: Helper::default(),
            progress: Progress::default(),
            held: Vec::new(),
            asked: BTreeSet::new(),
        };
        self.neighbours.insert(other, neighbour);
    }

    pub fn watch(&mut self) {
        for change in self.rib.take_changes() {
            if change.next_hops.is_empty() {
                self.watched.remove(&change.prefix);
            } else {
                let next_hops = change.next_hops.iter().map(|hop| hop.addr).collect();
                self.watched.insert(change.prefix, next_hops);
            }
        }
    }

    /// Whether it still keeps its End-of-RIBs back (RFC 4724, section 4.1).
    pub fn defers(&mut self, now: Instant) -> bool {
        let waits = !self.neighbours.values().all(|neighbour| neighbour.progress.is_not_waited_for());
        let before = self.deferred.is_some();
        self.deferred = self.deferred.filter(|until| waits && now < *until);
        if before && self.deferred.is_none() {
            self.neighbours.values_mut().for_each(|neighbour| neighbour.fsm.started());
        }
        self.deferred.is_some()
    }
}

/// What the RIB is told of an established neighbour. `refused` are the prefixes of the pool it refuses.
pub fn facts(
    topology: &Topology,
    node: usize,
    other: usize,
    negotiated: &Negotiated,
    refused: &[Prefix],
) -> PeerFacts {
    let prepend = api::Rule {
        then: api::Then { prepend: topology.prepends(node, other), ..api::Then::default() },
        ..api::Rule::default()
    };
    let export = api::Policy { rules: vec![prepend], default: api::Verdict::Accept };
    PeerFacts {
        address: address(other, Family::Ipv4),
        zone: None,
        name: format!("node{other}"),
        asn: topology.asn(other),
        router_id: negotiated.router_id,
        session: negotiated.session.clone(),
        next_hops: Family::ALL.map(|family| address(node, family)).to_vec(),
        extended_next_hop: negotiated.extended_next_hop,
        add_paths: Some(PathCount::Best(1)),
        enhanced_refresh: negotiated.enhanced_refresh,
        long_lived: negotiated.restart.as_ref().is_some_and(|restart| restart.long_lived.is_some()),
        bilateral: false,
        graceful_shutdown: true,
        drain: Drain::default(),
        client: topology.is_client(node, other),
        next_hop: NextHopMode::Auto,
        multihop: false,
        local_asn: topology.asn(node),
        allow_own_as: 0,
        default_route: true,
        import: Some(Policy::from(&api::Policy::accept_except("", refused.iter().copied()))),
        export: Some(Policy::from(&export)),
    }
}

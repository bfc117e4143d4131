//! What happens in networks.

use bytes::Bytes;
use manx_bgp::fsm::Event;
use manx_bgp::fsm::restart::Start;
use manx_bgp::rib::{Drain, Leaving};
use manx_bgp::types::Family;
use manx_bgp::wire::{Message, Notification, RouteRefresh};

use super::{Delivery, Kind, World, written};
use crate::node::{Conn, Node};
use crate::topology::edge;

impl World {
    /// One thing that happens in networks.
    pub(super) fn disturb(&mut self) {
        self.events += 1;
        let pairs = self.topology.pairs();
        let (a, b) = pairs[self.random.below(pairs.len())];
        match self.random.below(18) {
            // A connection is reset: both ends hear of it.
            0 => self.reset(a, b),
            // Nothing arrives any more, on what there is or on what is tried, until it heals.
            1 => {
                let conns = [self.all_conns(a, b), self.all_conns(b, a)].concat();
                self.dead.extend(conns);
                self.cut.insert(edge(a, b));
            }
            2 | 3 => drop(self.cut.pop_first()),
            // A crash: the others learn of it when they next say something.
            4 => self.crash(a, Start::Cold),
            12 => self.crash(a, Start::Restarted),
            13 => {
                self.crash(a, Start::Restarted);
                self.crash(b, Start::Restarted);
            }
            5 => {
                let stop = Event::Stop(Notification::peer_deconfigured());
                self.event(a, b, stop, None);
                if let Some(gone) = self.nodes[a].neighbours.remove(&b) {
                    self.nodes[a].rib.peer_down(gone.id);
                    self.pump(a);
                }
            }
            14 => {
                if let Some(neighbour) = self.nodes[a].neighbours.get(&b)
                    && let Some(conn) = neighbour.up.and_then(|role| neighbour.links[role as usize].as_ref())
                {
                    let conn = conn.conn;
                    for family in Family::ALL {
                        let octets = written(&Message::RouteRefresh(RouteRefresh::request(family)));
                        self.send(b, a, Delivery::Octets(conn, octets, Kind::Control));
                    }
                }
            }
            15 | 16 => {
                let told = [Leaving::Stays, Leaving::Announced, Leaving::Withdrawn][self.random.below(3)];
                let drain = Drain { told, avoided: self.random.one_in(2) };
                self.drain(a, b, drain);
            }
            6 => self.configure(a, b),
            7 => {
                if let Some(link) = self.link(a, b) {
                    let garbage = Bytes::from_static(b"\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n");
                    self.send(b, a, Delivery::Octets(link, garbage, Kind::Control));
                }
            }
            // A call that is nobody's: the neighbour called twice.
            8 => {
                self.conns += 1;
                self.send(b, a, Delivery::Call(self.conns));
            }
            _ => self.renumber(a),
        }
    }

    pub(super) fn crash(&mut self, node: usize, start: Start) {
        let others: Vec<_> = self.nodes[node].neighbours.keys().copied().collect();
        self.nodes[node] = Node::new(&self.topology, node, &self.networks[node], start, self.now);
        others.into_iter().for_each(|other| self.configure(node, other));
    }

    pub(super) fn drain(&mut self, node: usize, other: usize, drain: Drain) {
        let Node { rib, neighbours, .. } = &mut self.nodes[node];
        if let Some(neighbour) = neighbours.get(&other).filter(|neighbour| neighbour.up.is_some()) {
            rib.set_drain(neighbour.id, drain);
            self.pump(node);
        }
    }

    /// Prefixes come and go; some are originated by several.
    fn renumber(&mut self, node: usize) {
        for _ in 0..1 + self.random.below(4) {
            let pool = if self.random.one_in(3) { self.pools.len() - 1 } else { node };
            let prefix = self.pools[pool][self.random.below(self.pools[pool].len())];
            if !self.networks[node].remove(&prefix) {
                self.networks[node].insert(prefix);
            }
        }
        self.nodes[node].originate(&self.networks[node]);
        self.pump(node);
    }

    pub(super) fn configure(&mut self, node: usize, other: usize) {
        if !self.nodes[node].neighbours.contains_key(&other) {
            let seed = self.random.below(usize::MAX >> 11) as u64;
            self.nodes[node].add(&self.topology, node, other, seed, self.now);
            self.event(node, other, Event::Start, None);
        }
    }

    fn link(&self, node: usize, other: usize) -> Option<Conn> {
        let neighbour = self.nodes[node].neighbours.get(&other)?;
        Some(neighbour.links.iter().flatten().next()?.conn)
    }

    fn all_conns(&self, node: usize, other: usize) -> Vec<Conn> {
        let neighbour = self.nodes[node].neighbours.get(&other);
        let links = neighbour.into_iter().flat_map(|n| n.links.iter().flatten().map(|link| link.conn));
        links.chain(neighbour.and_then(|n| n.calling)).collect()
    }

    fn reset(&mut self, a: usize, b: usize) {
        let Some(conn) = self.link(a, b) else { return };
        self.send(a, b, Delivery::End(conn));
        self.send(b, a, Delivery::End(conn));
    }
}

//! When the network has settled, and what is to be true of it then.

use std::collections::BTreeMap;
use std::time::Duration;

use manx_bgp::fsm::Event;
use manx_bgp::rib::Drain;
use manx_bgp::wire::Notification;

use super::{Delivery, Kind, SETTLED, World};
use crate::expected;
use crate::node::{Conn, Node};

impl World {
    /// All is put back as wanted; then time passes until nothing is left to do.
    pub fn rest(&mut self) {
        self.cut.clear();
        for (node, other) in self.topology.pairs() {
            self.drain(node, other, Drain::default());
        }
        for (a, b) in self.topology.pairs() {
            self.configure(a, b);
        }
        let end = self.now + SETTLED;
        while !self.is_settled() {
            assert!(self.step(end), "not settled in {SETTLED:?}: {}", self.describe());
        }
    }

    fn is_settled(&self) -> bool {
        let updates = |(_, _, delivery): &(usize, usize, Delivery)| {
            matches!(delivery, Delivery::Octets(_, _, Kind::Updates))
        };
        self.topology.pairs().into_iter().all(|(node, other)| {
            let Node { rib, neighbours, deferred, .. } = &self.nodes[node];
            let neighbour = &neighbours[&other];
            let said =
                neighbour.held.is_empty() && neighbour.asked.is_empty() && !rib.has_pending(neighbour.id);
            let heard = neighbour.progress.is_synced() && neighbour.helper.next_timeout().is_none();
            neighbour.up.is_some() && said && heard && deferred.is_none()
        }) && self.topology.edges.iter().all(|(a, b)| self.is_one(*a, *b))
            && !self.queue.values().any(updates)
    }

    /// Whether both ends have one living connection, and the same.
    fn is_one(&self, a: usize, b: usize) -> bool {
        let conns = self.conns_of(a, b);
        conns.len() == 1 && conns == self.conns_of(b, a) && !self.dead.contains(&conns[0])
    }

    fn conns_of(&self, node: usize, other: usize) -> Vec<Conn> {
        self.nodes[node].neighbours[&other].links.iter().flatten().map(|link| link.conn).collect()
    }

    fn describe(&self) -> String {
        let of = |(a, b): &(usize, usize)| {
            let one = |node: usize, other: usize| {
                let neighbour = &self.nodes[node].neighbours[&other];
                let reason = neighbour.fsm.reason().map(ToString::to_string).unwrap_or_default();
                format!(
                    "{node}->{other} {} {:?} ({reason})",
                    neighbour.fsm.state(),
                    self.conns_of(node, other)
                )
            };
            [one(*a, *b), one(*b, *a)]
        };
        self.topology.edges.iter().flat_map(of).collect::<Vec<_>>().join(", ")
    }

    /// Every table is what the topology says; every Adj-RIB-Out what its neighbour holds.
    pub fn check(&mut self) {
        let pool = |prefix| self.pools.iter().position(|pool| pool.contains(&prefix)).unwrap();
        let tables = expected::tables(&self.topology, &self.networks, pool);
        for (number, expected) in tables.iter().enumerate() {
            let node = &self.nodes[number];
            let mut held = expected::Table::new();
            for route in node.rib.snapshot() {
                let best = &node.rib.destinations(Some(route.prefix))[0].paths[0];
                let hops = route.next_hops.iter().map(|hop| hop.addr).collect();
                held.insert(route.prefix, (best.as_path.clone(), hops));
            }
            assert_eq!(held, *expected, "left: the table of node {number}; right: from scratch");
            let watched: BTreeMap<_, _> =
                expected.iter().map(|(prefix, (_, hops))| (*prefix, hops.clone())).collect();
            assert_eq!(node.watched, watched, "left: what a watcher of node {number} holds");
        }
        for (a, b) in self.topology.pairs() {
            let paths = |destinations: Vec<manx_bgp::api::Destination>| -> Vec<_> {
                let one = |shown: manx_bgp::api::Destination| {
                    let path = &shown.paths[0];
                    (shown.prefix, path.next_hop, path.as_path.clone())
                };
                destinations.into_iter().map(one).collect()
            };
            let (teller, hearer) = (&self.nodes[a], &self.nodes[b]);
            let counts = hearer.rib.counts(hearer.neighbours[&a].id);
            assert_eq!((counts.stale, counts.long_lived), (0, 0), "all has been said again");
            let told = paths(teller.rib.advertised(teller.neighbours[&b].id, None));
            let heard = paths(hearer.rib.received(hearer.neighbours[&a].id, None));
            assert_eq!(told, heard, "left: what node {a} told {b}; right: what that holds of it");
        }
    }

    /// Everything is stopped: no timer, no connection and no learned route may be left.
    pub fn stop(&mut self) {
        for (node, other) in self.topology.pairs() {
            let stop = Event::Stop(Notification::administrative_shutdown(""));
            self.event(node, other, stop, None);
        }
        let end = self.now + Duration::from_secs(60);
        while self.step(end) {}
        for node in &mut self.nodes {
            for neighbour in node.neighbours.values() {
                assert_eq!(neighbour.fsm.next_timeout(), None, "a timer is left");
                assert!(neighbour.links.iter().all(Option::is_none) && neighbour.calling.is_none());
            }
            assert_eq!(node.rib.snapshot(), []);
            assert_eq!(node.watched, BTreeMap::new());
        }
    }
}

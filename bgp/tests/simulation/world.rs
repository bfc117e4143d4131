//! The network between the nodes, and the clock that jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use manx_bgp::fsm::{Action, Event, Role};
use manx_bgp::types::{Family, Prefix};
use manx_bgp::wire::{self, Message, Notification};

use crate::node::{Conn, Link, Node, address, facts};
use crate::{Random, expected};

/// Runs of updates on their way to a neighbour before it has read one.
const WINDOW: usize = 2;

/// How long the network may take to settle once it is left alone.
const SETTLED: Duration = Duration::from_secs(600);

enum Delivery {
    Call(Conn),
    Answer(Conn),
    Refused(Conn),
    Octets(Conn, Bytes, Kind),
    End(Conn),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Control,
    Updates,
}

pub struct World {
    pub events: u64,
    now: Instant,
    nodes: Vec<Node>,
    edges: BTreeSet<(usize, usize)>,
    /// Edges over which nothing arrives.
    cut: BTreeSet<(usize, usize)>,
    networks: Vec<BTreeSet<Prefix>>,
    /// What each node may originate; the last is everyone's.
    pools: Vec<Vec<Prefix>>,
    random: Random,
    /// By arrival and order: to whom, from whom.
    queue: BTreeMap<(Instant, u64), (usize, usize, Delivery)>,
    sequence: u64,
    /// A connection delivers in order.
    last: BTreeMap<(usize, Conn), Instant>,
    conns: Conn,
    /// Connections on which nothing arrives any more.
    dead: BTreeSet<Conn>,
}

fn edge(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = 2 + random.below(6);
        let mut edges: BTreeSet<_> = (1..count).map(|node| edge(node, random.below(node))).collect();
        for _ in 0..random.below(2 * count) {
            let (a, b) = (random.below(count), random.below(count));
            if a != b {
                edges.insert(edge(a, b));
            }
        }
        let pool = |node: usize| {
            let of = |n: usize| [format!("10.{}.{n}.0/24", node + 1), format!("fd00:{}:{n}::/64", node + 1)];
            (0..6).flat_map(of).map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>()
        };
        let pools: Vec<_> = (0..=count).map(pool).collect();
        let networks: Vec<BTreeSet<_>> =
            (0..count).map(|node| pools[node].iter().copied().take(4).collect()).collect();
        Self {
            events: 0,
            now: Instant::now(),
            nodes: networks.iter().enumerate().map(|(node, own)| Node::new(node, own)).collect(),
            edges,
            cut: BTreeSet::new(),
            networks,
            pools,
            random,
            queue: BTreeMap::new(),
            sequence: 0,
            last: BTreeMap::new(),
            conns: 0,
            dead: BTreeSet::new(),
        }
    }

    pub fn start(&mut self) {
        for (a, b) in self.edges.clone() {
            self.configure(a, b);
            self.configure(b, a);
        }
    }

    /// Random events for so long.
    pub fn unrest(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let next = self.now + self.random.millis(1, 2_000);
            while self.step(next) {}
            self.now = next;
            self.disturb();
        }
    }

    /// All is put back as wanted; then time passes until nothing is left to do.
    pub fn rest(&mut self) {
        self.cut.clear();
        for (a, b) in self.edges.clone() {
            self.configure(a, b);
            self.configure(b, a);
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
        let both = |(a, b): &(usize, usize)| [(*a, *b), (*b, *a)];
        self.edges.iter().flat_map(both).all(|(node, other)| {
            let neighbour = &self.nodes[node].neighbours[&other];
            let established = neighbour.fsm.established().is_some();
            established && neighbour.up.is_some() && !self.nodes[node].rib.has_pending(neighbour.id)
        }) && self.edges.iter().all(|(a, b)| self.is_one(*a, *b))
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
        self.edges.iter().flat_map(of).collect::<Vec<_>>().join(", ")
    }

    /// Every table is what the topology says; every Adj-RIB-Out what its neighbour holds.
    pub fn check(&mut self) {
        let tables = expected::tables(&self.edges, &self.networks);
        for (number, expected) in tables.iter().enumerate() {
            let node = &self.nodes[number];
            let mut held = expected::Table::new();
            for route in node.rib.snapshot() {
                let best = &node.rib.destinations(Some(route.prefix))[0].paths[0];
                held.insert(route.prefix, (best.as_path.clone(), route.next_hops));
            }
            assert_eq!(held, *expected, "left: the table of node {number}; right: from scratch");
            let watched: BTreeMap<_, _> =
                expected.iter().map(|(prefix, (_, hops))| (*prefix, hops.clone())).collect();
            assert_eq!(node.watched, watched, "left: what a watcher of node {number} holds");
        }
        for (a, b) in self.edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
            let paths = |destinations: Vec<manx_bgp::api::Destination>| -> Vec<_> {
                let one = |shown: manx_bgp::api::Destination| {
                    let path = &shown.paths[0];
                    (shown.prefix, path.next_hop, path.as_path.clone())
                };
                destinations.into_iter().map(one).collect()
            };
            let (teller, hearer) = (&self.nodes[a], &self.nodes[b]);
            let told = paths(teller.rib.advertised(teller.neighbours[&b].id, None));
            let heard = paths(hearer.rib.received(hearer.neighbours[&a].id, None));
            assert_eq!(told, heard, "left: what node {a} told {b}; right: what that holds of it");
        }
    }

    /// Everything is stopped: no timer, no connection and no learned route may be left.
    pub fn stop(&mut self) {
        for (a, b) in self.edges.clone() {
            for (node, other) in [(a, b), (b, a)] {
                let stop = Event::Stop(Notification::administrative_shutdown(""));
                self.event(node, other, stop, None);
            }
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

    /// One thing that happens in networks.
    fn disturb(&mut self) {
        self.events += 1;
        let edges: Vec<_> = self.edges.iter().copied().collect();
        let (a, b) = edges[self.random.below(edges.len())];
        let (a, b) = if self.random.one_in(2) { (a, b) } else { (b, a) };
        match self.random.below(12) {
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
            4 => {
                let others: Vec<_> = self.nodes[a].neighbours.keys().copied().collect();
                self.nodes[a] = Node::new(a, &self.networks[a]);
                others.into_iter().for_each(|other| self.configure(a, other));
            }
            5 => {
                let stop = Event::Stop(Notification::peer_deconfigured());
                self.event(a, b, stop, None);
                self.nodes[a].neighbours.remove(&b);
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

    fn configure(&mut self, node: usize, other: usize) {
        if !self.nodes[node].neighbours.contains_key(&other) {
            let seed = self.random.below(usize::MAX >> 11) as u64;
            self.nodes[node].add(node, other, seed, self.now);
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

    /// The next thing that is due before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let timeouts = self.nodes.iter().enumerate().flat_map(|(node, state)| {
            state.neighbours.iter().filter_map(move |(other, n)| Some((n.fsm.next_timeout()?, node, *other)))
        });
        let timeout = timeouts.min();
        let due = timeout.map(|(at, ..)| at).into_iter().chain(arrival).min().filter(|at| *at <= end);
        let Some(at) = due else {
            return false;
        };
        self.events += 1;
        self.now = self.now.max(at);
        match timeout {
            Some((due, node, other)) if arrival.is_none_or(|arrival| due < arrival) => {
                self.event(node, other, Event::Tick, None);
                let next = self.nodes[node].neighbours[&other].fsm.next_timeout();
                assert!(next.is_none_or(|next| next > self.now), "a tick leaves nothing due");
            }
            _ => {
                if let Some((_, (to, from, delivery))) = self.queue.pop_first() {
                    self.deliver(to, from, delivery);
                }
            }
        }
        true
    }

    fn deliver(&mut self, to: usize, from: usize, delivery: Delivery) {
        match delivery {
            Delivery::Call(conn) if !self.nodes[to].neighbours.contains_key(&from) => {
                self.send(from, to, Delivery::Refused(conn));
            }
            Delivery::Call(conn) => {
                self.send(from, to, Delivery::Answer(conn));
                self.event(to, from, Event::Incoming, Some(conn));
            }
            Delivery::Answer(conn) => match self.nodes[to].neighbours.get_mut(&from) {
                Some(neighbour) if neighbour.calling == Some(conn) => {
                    neighbour.calling = None;
                    neighbour.links[Role::Active as usize] = Some(Link { conn, session: None, in_flight: 0 });
                    self.event(to, from, Event::Connected, None);
                }
                // The call was given up in the meantime, or is none of ours.
                _ => self.send(from, to, Delivery::End(conn)),
            },
            Delivery::Refused(conn) => {
                if let Some(neighbour) = self.nodes[to].neighbours.get_mut(&from)
                    && neighbour.calling == Some(conn)
                {
                    neighbour.calling = None;
                    self.event(to, from, Event::ConnectFailed("connection refused".to_owned()), None);
                }
            }
            Delivery::Octets(conn, octets, kind) => self.read(to, from, conn, octets, kind),
            Delivery::End(conn) => {
                if let Some(role) = self.role(to, from, conn) {
                    self.nodes[to].neighbours.get_mut(&from).unwrap().links[role as usize] = None;
                    self.event(to, from, Event::Lost(role, "connection lost".to_owned()), None);
                }
            }
        }
    }

    fn role(&self, node: usize, other: usize, conn: Conn) -> Option<Role> {
        let neighbour = self.nodes[node].neighbours.get(&other)?;
        let has =
            |role: &Role| neighbour.links[*role as usize].as_ref().is_some_and(|link| link.conn == conn);
        [Role::Active, Role::Passive].into_iter().find(has)
    }

    /// Octets arrive: whole messages, or garbage.
    fn read(&mut self, to: usize, from: usize, conn: Conn, octets: Bytes, kind: Kind) {
        let mut buffer = BytesMut::from(&octets[..]);
        if kind == Kind::Updates
            && let Some(role) = self.role(from, to, conn)
        {
            let neighbour = self.nodes[from].neighbours.get_mut(&to).unwrap();
            neighbour.links[role as usize].as_mut().unwrap().in_flight -= 1;
            self.pump(from);
        }
        loop {
            // Closed on the way, or by an earlier message: the rest is of no interest.
            let Some(role) = self.role(to, from, conn) else {
                return self.send(from, to, Delivery::End(conn));
            };
            let link = self.nodes[to].neighbours[&from].links[role as usize].as_ref().unwrap();
            let session = link.session.clone();
            let heard = wire::frame(&mut buffer, wire::frame::MAX_MESSAGE)
                .and_then(|frame| frame.map(|frame| wire::parse(&frame, session.as_ref())).transpose());
            match heard {
                Ok(Some(message)) => self.event(to, from, Event::Received(role, message), None),
                Ok(None) => return,
                Err(answer) => return self.event(to, from, Event::Malformed(role, answer), None),
            }
        }
    }

    fn send(&mut self, to: usize, from: usize, delivery: Delivery) {
        let (Delivery::Call(conn)
        | Delivery::Answer(conn)
        | Delivery::Refused(conn)
        | Delivery::Octets(conn, ..)
        | Delivery::End(conn)) = delivery;
        if self.cut.contains(&edge(to, from)) {
            self.dead.insert(conn);
        }
        // What is cut once stays so: TCP never leaves out a part.
        if self.dead.contains(&conn) {
            return;
        }
        let latency =
            if self.random.one_in(20) { self.random.millis(50, 3_000) } else { self.random.millis(1, 50) };
        let at = (self.now + latency).max(self.last.get(&(to, conn)).copied().unwrap_or(self.now));
        self.last.insert((to, conn), at);
        self.queue.insert((at, self.sequence), (to, from, delivery));
        self.sequence += 1;
    }

    fn event(&mut self, node: usize, other: usize, event: Event, pending: Option<Conn>) {
        let Some(neighbour) = self.nodes[node].neighbours.get_mut(&other) else { return };
        let actions = neighbour.fsm.handle(event, self.now);
        for action in actions {
            self.act(node, other, action, pending);
        }
        self.pump(node);
    }

    fn act(&mut self, node: usize, other: usize, action: Action, pending: Option<Conn>) {
        let Node { rib, neighbours, .. } = &mut self.nodes[node];
        let neighbour = neighbours.get_mut(&other).unwrap();
        match action {
            Action::Connect => {
                assert_eq!(neighbour.calling, None, "one call at a time");
                self.conns += 1;
                neighbour.calling = Some(self.conns);
                self.send(other, node, Delivery::Call(self.conns));
            }
            Action::Admit => {
                let conn = pending.expect("a call to admit");
                let link = Link { conn, session: None, in_flight: 0 };
                let old = neighbour.links[Role::Passive as usize].replace(link);
                assert!(old.is_none(), "the slot was closed before");
            }
            Action::Refuse(notification) => {
                let conn = pending.expect("a call to refuse");
                let octets = written(&Message::Notification(notification));
                self.send(other, node, Delivery::Octets(conn, octets, Kind::Control));
                self.send(other, node, Delivery::End(conn));
            }
            Action::Send(role, message) => {
                // A connection that was lost takes nothing any more.
                if let Some(link) = &neighbour.links[role as usize] {
                    let conn = link.conn;
                    self.send(other, node, Delivery::Octets(conn, written(&message), Kind::Control));
                }
            }
            Action::Close(role) => {
                if let Some(link) = neighbour.links[role as usize].take() {
                    self.send(other, node, Delivery::End(link.conn));
                } else if role == Role::Active {
                    neighbour.calling = None;
                }
            }
            Action::Negotiated(role, negotiated) => {
                neighbour.links[role as usize].as_mut().unwrap().session = Some(negotiated.session);
            }
            Action::Up(role) => {
                assert_eq!(neighbour.up.replace(role), None, "up once");
                let facts = facts(node, other, neighbour.fsm.established().expect("it is up"));
                rib.peer_up(neighbour.id, facts);
            }
            Action::Down(_) => {
                assert!(neighbour.up.take().is_some(), "down once");
                rib.peer_down(neighbour.id);
            }
            Action::Update(update) => {
                assert_eq!(update.faults, [], "nobody says what RFC 7606 has to forgive");
                rib.update(neighbour.id, update);
            }
            Action::Refresh(refresh) => {
                for family in Family::ALL.into_iter().filter(|family| refresh.family() == Some(*family)) {
                    rib.refresh(neighbour.id, family);
                }
            }
        }
    }

    /// Tells what there is to tell, as far as the neighbours keep up.
    fn pump(&mut self, node: usize) {
        self.nodes[node].watch();
        let others: Vec<_> = self.nodes[node].neighbours.keys().copied().collect();
        for other in others {
            loop {
                let Node { rib, neighbours, .. } = &mut self.nodes[node];
                let neighbour = neighbours.get_mut(&other).unwrap();
                let Some(link) = neighbour.up.and_then(|role| neighbour.links[role as usize].as_mut()) else {
                    break;
                };
                if link.in_flight == WINDOW {
                    break;
                }
                let Some(run) = rib.take_run(neighbour.id) else { break };
                link.in_flight += 1;
                let conn = link.conn;
                self.send(other, node, Delivery::Octets(conn, run.octets.clone(), Kind::Updates));
            }
        }
        if self.random.one_in(64) {
            self.nodes[node].rib.tidy();
        }
    }
}

fn written(message: &Message) -> Bytes {
    let mut octets = Vec::new();
    wire::write(message, None, &mut octets).unwrap();
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_computation_from_scratch_knows_a_line_and_a_square() {
        let own = |node: usize| -> BTreeSet<Prefix> {
            if node == 0 { [("10.1.0.0/24").parse().unwrap()].into() } else { BTreeSet::new() }
        };
        let line = expected::tables(&[(0, 1), (1, 2)].into(), &[own(0), own(1), own(2)]);
        let prefix = "10.1.0.0/24".parse().unwrap();
        assert!(line[0].is_empty());
        assert_eq!(line[2][&prefix], ("65002 65001".to_owned(), vec![address(1, Family::Ipv4)]));
        let square = [(0, 1), (0, 2), (1, 3), (2, 3)].into();
        let square = expected::tables(&square, &[own(0), own(1), own(2), own(3)]);
        let hops = vec![address(1, Family::Ipv4), address(2, Family::Ipv4)];
        assert_eq!(square[3][&prefix], ("65002 65001".to_owned(), hops));
    }
}

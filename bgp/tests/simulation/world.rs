//! The network between the nodes, and the clock that jumps.

mod check;
mod unrest;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use manx_bgp::fsm::restart::{Due, Start};
use manx_bgp::fsm::{Action, Event, Role};
use manx_bgp::iana::refresh;
use manx_bgp::types::Prefix;
use manx_bgp::wire::{self, Message, RouteRefresh, Update};

use crate::Random;
use crate::node::{Conn, Link, Neighbour, Node, facts};
use crate::topology::{Topology, edge};

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

/// How often what the runs are about has come to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Routes kept over a lost session.
    pub stale: u64,
    /// Of those, the last resort.
    pub long_lived: u64,
    /// Stale routes that went unsaid.
    pub swept: u64,
    /// Refreshes between marks.
    pub refreshes: u64,
    /// End-of-RIBs kept back after a restart.
    pub deferred: u64,
    /// Restarts that were over without having waited their time out.
    pub in_time: u64,
    /// Routes that were reflected.
    pub reflected: u64,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        self.stale += other.stale;
        self.long_lived += other.long_lived;
        self.swept += other.swept;
        self.refreshes += other.refreshes;
        self.deferred += other.deferred;
        self.in_time += other.in_time;
        self.reflected += other.reflected;
    }
}

pub struct World {
    pub events: u64,
    pub seen: Seen,
    now: Instant,
    nodes: Vec<Node>,
    topology: Topology,
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

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let topology = Topology::random(&mut random);
        Self::of(topology, random)
    }

    /// Two speakers whose forwarding stays restart at one time. How long until each has heard all of the other.
    pub fn two_restart(seed: u64) -> Duration {
        let mut world = Self::of(Topology::two(), Random::new(seed));
        world.start();
        world.rest();
        for node in 0..2 {
            world.crash(node, Start::Restarted);
        }
        let before = world.now;
        world.rest();
        world.check();
        world.now - before
    }

    fn of(topology: Topology, random: Random) -> Self {
        let (count, now) = (topology.nodes(), Instant::now());
        let pool = |node: usize| {
            let of = |n: usize| [format!("10.{}.{n}.0/24", node + 1), format!("fd00:{}:{n}::/64", node + 1)];
            (0..6).flat_map(of).map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>()
        };
        let pools: Vec<_> = (0..=count).map(pool).collect();
        let networks: Vec<BTreeSet<_>> =
            (0..count).map(|node| pools[node].iter().copied().take(4).collect()).collect();
        Self {
            events: 0,
            seen: Seen::default(),
            now,
            nodes: (networks.iter().enumerate())
                .map(|(node, own)| Node::new(&topology, node, own, Start::Cold, now))
                .collect(),
            topology,
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
        for (a, b) in self.topology.pairs() {
            self.configure(a, b);
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

    /// The next thing that is due before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let timeouts = self.nodes.iter().enumerate().flat_map(|(node, state)| {
            let each = state.neighbours.iter();
            let each = each.filter_map(move |(other, n)| Some((n.next_timeout()?, node, *other)));
            let deferred = state.deferred.zip(state.neighbours.keys().next());
            each.chain(deferred.map(|(until, other)| (until, node, *other)))
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
                self.expire(node, other);
                let next = self.nodes[node].neighbours[&other].next_timeout();
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

    /// What is stale has been waited for long enough.
    fn expire(&mut self, node: usize, other: usize) {
        let Node { rib, neighbours, .. } = &mut self.nodes[node];
        let neighbour = neighbours.get_mut(&other).unwrap();
        for due in neighbour.helper.expired(self.now) {
            match due {
                Due::Gone(family) => {
                    self.seen.swept += rib.counts(neighbour.id).stale as u64;
                    rib.sweep(neighbour.id, family);
                }
                Due::LongLived(family) => {
                    rib.live_long(neighbour.id, family);
                    self.seen.long_lived += rib.counts(neighbour.id).long_lived as u64;
                }
            }
        }
        self.pump(node);
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
                let negotiated = neighbour.fsm.established().expect("it is up").clone();
                let refused = self.topology.refuses(node, other);
                let refused = refused.map(|pool| self.pools[pool].as_slice()).unwrap_or_default();
                neighbour.progress.up(&negotiated);
                for family in neighbour.helper.up(&negotiated, self.now) {
                    rib.sweep(neighbour.id, family);
                }
                rib.peer_up(neighbour.id, facts(&self.topology, node, other, &negotiated, refused));
            }
            Action::Down(cause) => {
                assert!(neighbour.up.take().is_some(), "down once");
                neighbour.held.clear();
                neighbour.asked.clear();
                neighbour.progress.down();
                let kept = neighbour.helper.down(&cause, self.now);
                if kept.is_empty() {
                    rib.peer_down(neighbour.id);
                } else {
                    let stay = kept.iter().filter(|kept| kept.stale);
                    stay.for_each(|kept| rib.freshen(neighbour.id, kept.family));
                    let families: Vec<_> = kept.iter().map(|kept| kept.family).collect();
                    rib.peer_stale(neighbour.id, &families);
                    self.seen.stale += rib.counts(neighbour.id).stale as u64;
                }
            }
            Action::Update(update) => self.update(node, other, update),
            Action::Refresh(refresh) => self.refresh(node, other, refresh),
        }
    }

    fn update(&mut self, node: usize, other: usize, update: Update) {
        assert_eq!(update.faults, [], "nobody says what RFC 7606 has to forgive");
        let Node { rib, neighbours, .. } = &mut self.nodes[node];
        let neighbour = neighbours.get_mut(&other).unwrap();
        let end = update.end_of_rib;
        let reflected = update.attributes.as_ref().is_some_and(|all| !all.cluster_list.is_empty());
        self.seen.reflected += u64::from(reflected);
        rib.update(neighbour.id, update);
        let Some(family) = end else { return };
        neighbour.progress.end_of_rib(family);
        if neighbour.helper.end_of_rib(family) {
            rib.sweep(neighbour.id, family);
        }
    }

    fn refresh(&mut self, node: usize, other: usize, refresh: RouteRefresh) {
        let Node { rib, neighbours, .. } = &mut self.nodes[node];
        let Neighbour { helper, id, asked, .. } = neighbours.get_mut(&other).unwrap();
        let family = refresh.family().expect("one we speak");
        match refresh.subtype {
            refresh::REQUEST => drop(asked.insert(family)),
            refresh::BORR => {
                if helper.refresh_begins(family, self.now) {
                    rib.refreshes(*id, family);
                }
            }
            refresh::EORR => {
                if helper.refresh_ends(family) {
                    rib.sweep(*id, family);
                    self.seen.refreshes += 1;
                }
            }
            other => panic!("subtype {other}"),
        }
    }

    /// Tells what there is to tell, as far as the neighbours keep up.
    fn pump(&mut self, node: usize) {
        self.nodes[node].watch();
        let deferred = self.nodes[node].deferred;
        let defers = self.nodes[node].defers(self.now);
        self.seen.in_time += u64::from(!defers && deferred.is_some_and(|until| self.now < until));
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
                if !defers && neighbour.held.is_empty() {
                    let asked = std::mem::take(&mut neighbour.asked);
                    asked.into_iter().for_each(|family| rib.refresh(neighbour.id, family));
                }
                let octets = match rib.take_run(neighbour.id) {
                    Some(run) if defers && run.end_of_rib.is_some() => {
                        self.seen.deferred += 1;
                        neighbour.held.push(run.octets);
                        continue;
                    }
                    Some(run) => run.octets,
                    None if defers || neighbour.held.is_empty() => break,
                    None => neighbour.held.remove(0),
                };
                link.in_flight += 1;
                let conn = link.conn;
                self.send(other, node, Delivery::Octets(conn, octets, Kind::Updates));
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

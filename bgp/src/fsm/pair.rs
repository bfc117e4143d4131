//! Two peers, a network between them and a clock that jumps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::negotiate::Authentication;
use super::restart::{Forwarding, Offer, Start};
use super::{Action, Cause, Event, Local, Peer, Role};
use crate::types::{Asn, Family, RouterId};
use crate::wire::{Message, Notification};

/// Which of the two.
pub(super) type Side = usize;
pub(super) const LEFT: Side = 0;
pub(super) const RIGHT: Side = 1;

/// A TCP connection, by the order of the calls.
type Conn = usize;

#[derive(Debug)]
enum Delivery {
    Call(Conn),
    Answer(Conn),
    Refused(Conn),
    Message(Conn, Message),
    End(Conn),
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) peers: [Peer; 2],
    /// Whether the side accepts TCP connections at all.
    pub(super) listening: [bool; 2],
    /// Whether packets arrive.
    pub(super) connected: bool,
    /// One-way delays to choose from, in turn.
    pub(super) latencies: Vec<Duration>,
    /// Every notification that arrived, by receiver.
    pub(super) notified: [Vec<Notification>; 2],
    pub(super) ups: [u32; 2],
    pub(super) downs: [Vec<Cause>; 2],
    /// When each side called.
    pub(super) calls: [Vec<Instant>; 2],
    pub(super) keepalives: u32,
    callers: Vec<Side>,
    calling: [Option<Conn>; 2],
    links: [BTreeMap<Role, Conn>; 2],
    queue: BTreeMap<(Instant, u64), (Side, Delivery)>,
    sequence: u64,
    /// A connection delivers in order.
    last: BTreeMap<(Side, Conn), Instant>,
}

pub(super) fn local(asn: u32, id: u8, peer_asn: u32) -> Local {
    Local {
        asn: Asn(asn),
        router_id: RouterId([10, 0, 0, id].into()),
        peer_asns: vec![Asn(peer_asn).into()],
        families: Family::ALL.to_vec(),
        hold_time: 9,
        keepalive: None,
        send_hold_time: None,
        connect_retry: Duration::from_secs(5),
        extended_next_hop: false,
        add_path: None,
        passive: false,
        authentication: Authentication::None,
        restart: Offer { time: 120, long_lived: 0, forwarding: Forwarding::Preserved, start: Start::Over },
    }
}

impl Pair {
    /// Both listening, 10 ms apart, not started.
    pub(super) fn new(left: Local, right: Local) -> Self {
        let now = Instant::now();
        Self {
            now,
            peers: [Peer::new(left, 1, now), Peer::new(right, 2, now)],
            listening: [true; 2],
            connected: true,
            latencies: vec![Duration::from_millis(10)],
            notified: Default::default(),
            ups: [0; 2],
            downs: Default::default(),
            calls: Default::default(),
            keepalives: 0,
            callers: Vec::new(),
            calling: [None; 2],
            links: Default::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            last: BTreeMap::new(),
        }
    }

    pub(super) fn start_both(&mut self) {
        self.event(LEFT, Event::Start);
        self.event(RIGHT, Event::Start);
    }

    pub(super) fn event(&mut self, side: Side, event: Event) {
        let actions = self.peers[side].handle(event, self.now);
        self.act(side, actions, None);
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Whether `wanted` came true within `limit`.
    pub(super) fn run_until(&mut self, limit: Duration, wanted: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !wanted(self) {
            if !self.step(end) {
                self.now = end;
                return wanted(self);
            }
        }
        true
    }

    pub(super) fn both_up(&self) -> bool {
        self.peers.iter().all(|peer| peer.established().is_some())
    }

    pub(super) fn reason(&self, side: Side) -> String {
        self.peers[side].reason().map(Cause::to_string).unwrap_or_default()
    }

    /// Who called on the connections that are left; panics when the sides disagree.
    pub(super) fn survivors(&self) -> Vec<Side> {
        let conns = |side: Side| self.links[side].values().copied().collect::<Vec<_>>();
        assert_eq!(conns(LEFT), conns(RIGHT));
        conns(LEFT).into_iter().map(|conn| self.callers[conn]).collect()
    }

    /// Puts a fresh process in a side's place, of which the other learns nothing but resets.
    pub(super) fn reboot(&mut self, side: Side, local: Local) {
        self.peers[side] = Peer::new(local, 3, self.now);
        self.links[side].clear();
        self.calling[side] = None;
    }

    /// Cuts every connection: both ends are told.
    pub(super) fn cut(&mut self) {
        for side in [LEFT, RIGHT] {
            for role in std::mem::take(&mut self.links[side]).into_keys() {
                self.event(side, Event::Lost(role, "connection reset by peer".to_owned()));
            }
        }
    }

    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let timeouts = [LEFT, RIGHT].map(|side| self.peers[side].next_timeout());
        let Some(at) = timeouts.into_iter().flatten().chain(arrival).min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if arrival == Some(at) {
            if let Some((_, (side, delivery))) = self.queue.pop_first() {
                self.deliver(side, delivery);
            }
        } else {
            let due = [LEFT, RIGHT].into_iter().find(|side| timeouts[*side] == Some(at));
            self.event(due.unwrap(), Event::Tick);
            let next = self.peers[due.unwrap()].next_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a tick leaves nothing due");
        }
        true
    }

    fn deliver(&mut self, side: Side, delivery: Delivery) {
        let other = 1 - side;
        match delivery {
            Delivery::Call(conn) if !self.listening[side] => self.send(other, Delivery::Refused(conn)),
            Delivery::Call(conn) => {
                self.send(other, Delivery::Answer(conn));
                let actions = self.peers[side].handle(Event::Incoming, self.now);
                self.act(side, actions, Some(conn));
            }
            Delivery::Answer(conn) if self.calling[side] == Some(conn) => {
                self.calling[side] = None;
                self.links[side].insert(Role::Active, conn);
                self.event(side, Event::Connected);
            }
            Delivery::Refused(conn) if self.calling[side] == Some(conn) => {
                self.calling[side] = None;
                self.event(side, Event::ConnectFailed("connection refused".to_owned()));
            }
            // The call was given up in the meantime.
            Delivery::Answer(conn) => self.send(other, Delivery::End(conn)),
            Delivery::Refused(_) => {}
            Delivery::Message(conn, message) => match self.role(side, conn) {
                Some(role) => {
                    if let Message::Notification(notification) = &message {
                        self.notified[side].push(notification.clone());
                    }
                    self.keepalives += u32::from(message == Message::Keepalive);
                    self.event(side, Event::Received(role, message));
                }
                None => self.send(other, Delivery::End(conn)),
            },
            Delivery::End(conn) => {
                if let Some(role) = self.role(side, conn) {
                    self.links[side].remove(&role);
                    self.event(side, Event::Lost(role, "connection closed by the neighbour".to_owned()));
                }
            }
        }
    }

    fn role(&self, side: Side, conn: Conn) -> Option<Role> {
        self.links[side].iter().find(|(_, c)| **c == conn).map(|(role, _)| *role)
    }

    fn send(&mut self, to: Side, delivery: Delivery) {
        if !self.connected {
            return;
        }
        let (Delivery::Call(conn)
        | Delivery::Answer(conn)
        | Delivery::Refused(conn)
        | Delivery::Message(conn, _)
        | Delivery::End(conn)) = delivery;
        let latency = self.latencies[self.sequence as usize % self.latencies.len()];
        let at = (self.now + latency).max(self.last.get(&(to, conn)).copied().unwrap_or(self.now));
        self.last.insert((to, conn), at);
        self.queue.insert((at, self.sequence), (to, delivery));
        self.sequence += 1;
    }

    fn act(&mut self, side: Side, actions: Vec<Action>, pending: Option<Conn>) {
        let other = 1 - side;
        for action in actions {
            match action {
                Action::Connect => {
                    assert_eq!(self.calling[side], None, "one call at a time");
                    self.calls[side].push(self.now);
                    self.callers.push(side);
                    let conn = self.callers.len() - 1;
                    self.calling[side] = Some(conn);
                    self.send(other, Delivery::Call(conn));
                }
                Action::Admit => {
                    let old = self.links[side].insert(Role::Passive, pending.expect("a call to admit"));
                    assert_eq!(old, None, "the slot was closed before");
                }
                Action::Refuse(notification) => {
                    let conn = pending.expect("a call to refuse");
                    self.send(other, Delivery::Message(conn, Message::Notification(notification)));
                    self.send(other, Delivery::End(conn));
                }
                Action::Send(role, message) => {
                    // A connection that was lost takes nothing any more.
                    if let Some(conn) = self.links[side].get(&role).copied() {
                        self.send(other, Delivery::Message(conn, message));
                    }
                }
                Action::Close(role) => {
                    if let Some(conn) = self.links[side].remove(&role) {
                        self.send(other, Delivery::End(conn));
                    } else if role == Role::Active {
                        self.calling[side] = None;
                    }
                }
                Action::Up(_) => {
                    self.ups[side] += 1;
                    assert_eq!(self.ups[side] as usize, self.downs[side].len() + 1, "up once");
                }
                Action::Down(cause) => {
                    self.downs[side].push(cause);
                    assert_eq!(self.ups[side] as usize, self.downs[side].len(), "down once");
                }
                Action::Negotiated(..) | Action::Update(_) | Action::Refresh(_) => {}
            }
        }
    }
}

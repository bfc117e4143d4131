//! The thread itself: sessions, their sockets, their timers.

use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver as Orders, TryRecvError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::socket::{Datagram, Hops, Receiver, sender};
use super::{Failure, Wanted, Way};
use crate::bfd::{Change, Diagnostic, Packet, Session, State};
use crate::speaker::scope::socket_addr;
use crate::types::{Family, ScopedAddr};

/// Longer than any packet: what follows a packet's own length is ignored.
const BUFFER: usize = 256;

/// Packets taken from a socket before timers have their turn: a flood must not stop what we send.
const TURN: usize = 256;

/// The next try to tell what found no room.
const TELL_AGAIN: Duration = Duration::from_millis(10);

/// A session with what belongs to it.
struct Entry {
    wanted: Wanted,
    session: Session,
    discriminator: u32,
    socket: Option<(UdpSocket, u16)>,
    /// As in [`Thread::timers`].
    due: Option<Instant>,
    /// No longer wanted; gone then, when the neighbour has heard of it.
    parting: Option<Instant>,
    reason: Option<String>,
    failures: u64,
    failure: Option<Failure>,
    /// Why nothing is sent or received.
    trouble: Option<String>,
    told: Option<Told>,
}

/// What a new report is worth it for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    state: State,
    failures: u64,
    remote: Option<(State, Diagnostic)>,
    tx_interval: Option<Duration>,
    detection_time: Duration,
    trouble: Option<String>,
}

impl Entry {
    fn note(&mut self, change: Change) {
        self.reason = Some(change.reason.to_string());
        if change.is_failure() {
            self.failures += 1;
            self.failure = Some(Failure { why: change.reason.to_string(), independent: change.independent });
        }
    }

    fn remote(&self) -> Option<(State, Diagnostic)> {
        self.session.remote().map(|remote| (remote.state, remote.diagnostic))
    }

    /// The report, if it says anything new.
    fn report(&mut self, peer: ScopedAddr) -> Option<Way> {
        let told = Told {
            state: self.session.state(),
            failures: self.failures,
            remote: self.remote(),
            tx_interval: self.session.tx_interval(),
            detection_time: self.session.detection_time(),
            trouble: self.trouble.clone(),
        };
        if self.parting.is_some() || self.told.as_ref() == Some(&told) {
            return None;
        }
        let report = Way {
            peer,
            session: self.discriminator,
            state: told.state,
            since: self.session.since(),
            remote: told.remote,
            tx_interval: told.tx_interval,
            detection_time: told.detection_time,
            reason: self.trouble.clone().or_else(|| self.reason.clone()),
            failures: self.failures,
            failure: self.failure.clone(),
        };
        self.told = Some(told);
        Some(report)
    }
}

pub(super) struct Thread {
    orders: Orders<BTreeMap<ScopedAddr, Wanted>>,
    wake: UnixStream,
    reports: Sender<Way>,
    /// Ways that found no room; one a neighbour.
    untold: BTreeMap<ScopedAddr, Way>,
    entries: BTreeMap<ScopedAddr, Entry>,
    discriminators: BTreeMap<u32, ScopedAddr>,
    ports: BTreeSet<u16>,
    receivers: BTreeMap<(Family, Hops), Receiver>,
    timers: BTreeSet<(Instant, ScopedAddr)>,
    discarded: u64,
    random: RandomState,
    /// Makes each number drawn another.
    drawn: u64,
}

impl Thread {
    pub fn new(orders: Orders<BTreeMap<ScopedAddr, Wanted>>, wake: UnixStream, reports: Sender<Way>) -> Self {
        Self {
            orders,
            wake,
            reports,
            untold: BTreeMap::new(),
            entries: BTreeMap::new(),
            discriminators: BTreeMap::new(),
            ports: BTreeSet::new(),
            receivers: BTreeMap::new(),
            timers: BTreeSet::new(),
            discarded: 0,
            random: RandomState::new(),
            drawn: 0,
        }
    }

    /// Until nobody gives orders any more. What has arrived is read before any timer is judged: if this
    /// thread was kept waiting, that is no silence of the neighbour's.
    pub fn run(mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(wanted) => self.order(wanted, Instant::now()),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return self.order(BTreeMap::new(), Instant::now()),
            }
            let now = Instant::now();
            while let Some(&(due, peer)) = self.timers.first()
                && due <= now
            {
                self.serve(peer, None, now);
            }
            self.tell();
            let ready = self.wait();
            for kind in ready {
                self.read(kind);
            }
        }
    }

    fn order(&mut self, wanted: BTreeMap<ScopedAddr, Wanted>, now: Instant) {
        let gone: Vec<ScopedAddr> = (self.entries.iter())
            .filter(|(peer, entry)| entry.parting.is_none() && !wanted.contains_key(peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            self.untold.remove(&peer);
            if let Some(entry) = self.entries.get_mut(&peer) {
                entry.parting = Some(now + entry.session.farewell());
                let _ = entry.session.disable(now);
            }
            self.serve(peer, None, now);
        }
        for (peer, wanted) in wanted {
            match self.entries.get_mut(&peer) {
                Some(entry) if entry.parting.is_none() && entry.wanted.same_way(&wanted) => {
                    entry.session.set(wanted.settings, now);
                    entry.wanted = wanted;
                }
                _ => self.begin(peer, wanted, now),
            }
            self.serve(peer, None, now);
        }
        let used: BTreeSet<_> =
            self.entries.iter().map(|(peer, entry)| (peer.family(), entry.wanted.hops)).collect();
        self.receivers.retain(|kind, _| used.contains(kind));
    }

    fn begin(&mut self, peer: ScopedAddr, wanted: Wanted, now: Instant) {
        self.end(peer);
        let discriminator = loop {
            let number = self.draw() as u32;
            if number != 0 && !self.discriminators.contains_key(&number) {
                break number;
            }
        };
        self.discriminators.insert(discriminator, peer);
        let entry = Entry {
            session: Session::new(wanted.settings, discriminator, self.draw(), now),
            wanted,
            discriminator,
            socket: None,
            due: None,
            parting: None,
            reason: None,
            failures: 0,
            failure: None,
            trouble: None,
            told: None,
        };
        self.entries.insert(peer, entry);
    }

    fn end(&mut self, peer: ScopedAddr) {
        let Some(entry) = self.entries.remove(&peer) else { return };
        self.discriminators.remove(&entry.discriminator);
        if let Some((_, port)) = entry.socket {
            self.ports.remove(&port);
        }
        if let Some(due) = entry.due {
            self.timers.remove(&(due, peer));
        }
    }

    /// A number nobody can guess: what makes a session hard to forge from afar.
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    /// Does all that a session has to do, after a packet for it or not.
    fn serve(&mut self, peer: ScopedAddr, packet: Option<&Packet>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        if entry.parting.is_some_and(|until| until <= now) {
            return self.end(peer);
        }
        let heard = packet.and_then(|packet| entry.session.receive(packet, now));
        for change in [heard, entry.session.tick(now)].into_iter().flatten() {
            entry.note(change);
        }
        while let Some(packet) = self.entries.get_mut(&peer).and_then(|entry| entry.session.transmit(now)) {
            let sent = self.send(peer, &packet);
            if let Some(entry) = self.entries.get_mut(&peer) {
                entry.trouble = sent.err();
            }
        }
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        if let Some(report) = entry.report(peer) {
            self.untold.insert(peer, report);
        }
        let due = entry.session.next_timeout().into_iter().chain(entry.parting).min();
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.timers.remove(&(old, peer));
        }
        self.timers.extend(due.map(|due| (due, peer)));
    }

    /// Sends, first opening what is missing for it, to receive on as well: until that works, each packet
    /// is another try.
    fn send(&mut self, peer: ScopedAddr, packet: &Packet) -> Result<(), String> {
        let start = self.draw() as u16;
        let Some(entry) = self.entries.get_mut(&peer) else { return Ok(()) };
        let (family, hops) = (peer.family(), entry.wanted.hops);
        if let Vacant(kind) = self.receivers.entry((family, hops)) {
            kind.insert(Receiver::open(family, hops).map_err(|error| error.to_string())?);
        }
        if entry.socket.is_none() {
            let opened = sender(entry.wanted.local, family, &self.ports, start);
            let (socket, port) = opened.map_err(|error| error.to_string())?;
            self.ports.insert(port);
            entry.socket = Some((socket, port));
        }
        let Some((socket, _)) = &entry.socket else { return Ok(()) };
        let to = socket_addr(peer, hops.port()).map_err(|error| error.to_string())?;
        socket.send_to(&packet.write(), to).map_err(|error| format!("cannot send to {to}: {error}"))?;
        Ok(())
    }

    /// Tells what there is room for; a speaker that has ended needs nothing.
    fn tell(&mut self) {
        while let Some((peer, report)) = self.untold.pop_first() {
            if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
                self.untold.insert(peer, report);
                return;
            }
        }
    }

    /// Until something is due, ordered or received; gives where something can be read.
    fn wait(&mut self) -> Vec<(Family, Hops)> {
        let due = self.timers.first().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let again = (!self.untold.is_empty()).then_some(TELL_AGAIN);
        // Rounded up: a wake before the time would find nothing to do.
        let timeout = due.into_iter().chain(again).min().map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        let sockets = self.receivers.values().map(|receiver| receiver.socket.as_fd());
        let mut waiting: Vec<PollFd<'_>> = std::iter::once(self.wake.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // Interrupted: as if the time had come.
        let _ = poll(&mut waiting, timeout);
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let woken = waiting.first().is_some_and(is_ready);
        let kinds = self.receivers.keys().zip(&waiting[1..]);
        let ready = kinds.filter(|(_, fd)| is_ready(fd)).map(|(kind, _)| *kind).collect();
        if woken {
            // Orders may have come several at a time; the next turn takes the next.
            let _ = (&self.wake).read(&mut [0]);
        }
        ready
    }

    fn read(&mut self, kind: (Family, Hops)) {
        let mut buffer = [0; BUFFER];
        let now = Instant::now();
        for _ in 0..TURN {
            let Some(receiver) = self.receivers.get_mut(&kind) else { return };
            let Some(datagram) = receiver.receive(&mut buffer) else { return };
            let octets = &buffer[..datagram.length.min(BUFFER)];
            match self.accept(octets, datagram, kind.1) {
                Ok((peer, packet)) => self.serve(peer, Some(&packet), now),
                Err(why) => self.discard(datagram.from, &why),
            }
        }
    }

    /// Whose packet it is: RFC 5880, section 6.8.6; RFC 5881, sections 3 and 5.
    fn accept(&self, octets: &[u8], datagram: Datagram, hops: Hops) -> Result<(ScopedAddr, Packet), String> {
        if !hops.admit(datagram.ttl) {
            let ttl = datagram.ttl.map_or_else(|| "unknown".to_owned(), |ttl| ttl.to_string());
            return Err(format!("its TTL is {ttl}; over one hop it is 255"));
        }
        let packet = Packet::parse(octets).map_err(|reject| reject.to_string())?;
        let peer = match packet.your_discriminator {
            0 => datagram.from,
            number => *self.discriminators.get(&number).ok_or("its discriminator is none of ours")?,
        };
        match self.entries.get(&peer) {
            None => Err("no such neighbour is configured with BFD".to_owned()),
            // Every neighbour sends from the address we send to: anything else is not from it.
            Some(_) if peer != datagram.from => Err(format!("its discriminator is that of {peer}")),
            Some(entry) if entry.wanted.hops != hops => Err(format!(
                "it came to port {}, that neighbour's is {}",
                hops.port(),
                entry.wanted.hops.port()
            )),
            Some(_) => Ok((peer, packet)),
        }
    }

    fn discard(&mut self, from: ScopedAddr, why: &str) {
        self.discarded += 1;
        if self.discarded.is_power_of_two() {
            tracing::warn!(%from, why, count = self.discarded, "discarded a BFD packet");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, SyncSender};

    use tokio::sync::mpsc as channel;

    use std::net::IpAddr;

    use super::*;
    use crate::bfd::Settings;

    const ROOM: usize = 1;

    struct Setup {
        thread: Thread,
        ways: channel::Receiver<Way>,
        _orders: SyncSender<BTreeMap<ScopedAddr, Wanted>>,
        now: Instant,
    }

    fn peer(host: u8) -> ScopedAddr {
        IpAddr::from([192, 0, 2, host]).into()
    }

    fn wanted(hops: Hops) -> Wanted {
        let interval = Duration::from_millis(50);
        let settings = Settings { min_tx: interval, min_rx: interval, multiplier: 3 };
        Wanted { settings, local: Some(peer(100).addr), hops }
    }

    /// With sessions that have not been served yet, so that no socket is open.
    fn setup(hosts: &[(u8, Hops)]) -> Setup {
        let (orders, ordered) = mpsc::sync_channel(1);
        let (told, ways) = channel::channel(ROOM);
        let (_, woken) = UnixStream::pair().unwrap();
        let mut thread = Thread::new(ordered, woken, told);
        let now = Instant::now();
        for (host, hops) in hosts {
            thread.begin(peer(*host), wanted(*hops), now);
        }
        Setup { thread, ways, _orders: orders, now }
    }

    impl Setup {
        /// The session's own number, which its neighbour says back.
        fn number(&self, host: u8) -> u32 {
            self.thread.entries[&peer(host)].discriminator
        }

        fn accept(
            &self,
            your_discriminator: u32,
            from: u8,
            ttl: Option<u8>,
            hops: Hops,
        ) -> Result<ScopedAddr, String> {
            let octets = packet(State::Down, your_discriminator).write();
            let datagram = Datagram { from: peer(from), ttl, length: octets.len() };
            self.thread.accept(&octets, datagram, hops).map(|(peer, _)| peer)
        }

        fn hear(&mut self, host: u8, state: State) {
            let packet = packet(state, self.number(host));
            // Only the session: nothing is sent.
            let entry = self.thread.entries.get_mut(&peer(host)).unwrap();
            if let Some(change) = entry.session.receive(&packet, self.now) {
                entry.note(change);
            }
            if let Some(way) = entry.report(peer(host)) {
                self.thread.untold.insert(peer(host), way);
            }
            self.thread.tell();
        }
    }

    fn packet(state: State, your_discriminator: u32) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 7,
            your_discriminator,
            desired_min_tx: 50_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    #[test]
    fn a_session_is_found_by_our_discriminator_and_before_that_by_the_senders_address() {
        let setup = setup(&[(1, Hops::One), (2, Hops::One), (3, Hops::Several)]);
        for host in [1, 2] {
            assert_eq!(setup.accept(0, host, Some(255), Hops::One), Ok(peer(host)));
            assert_eq!(setup.accept(setup.number(host), host, Some(255), Hops::One), Ok(peer(host)));
        }
        assert_eq!(setup.accept(0, 3, Some(60), Hops::Several), Ok(peer(3)));
    }

    #[test]
    fn rfc5881_a_packet_that_crossed_a_router_is_not_from_a_neighbour_one_hop_away() {
        let setup = setup(&[(1, Hops::One)]);
        assert_eq!(
            setup.accept(0, 1, Some(254), Hops::One),
            Err("its TTL is 254; over one hop it is 255".to_owned())
        );
        assert!(setup.accept(0, 1, None, Hops::One).is_err());
        // Nor does the port for several hops let it in.
        assert!(setup.accept(0, 1, Some(254), Hops::Several).unwrap_err().contains("port 4784"));
        assert!(setup.accept(setup.number(1), 1, Some(254), Hops::Several).is_err());
    }

    #[test]
    fn a_packet_for_no_session_of_ours_or_from_another_address_is_discarded() {
        let setup = setup(&[(1, Hops::One), (2, Hops::One)]);
        assert!(setup.accept(0, 9, Some(255), Hops::One).unwrap_err().contains("no such neighbour"));
        let unknown = (1..).find(|number| ![setup.number(1), setup.number(2)].contains(number)).unwrap();
        assert!(setup.accept(unknown, 1, Some(255), Hops::One).unwrap_err().contains("none of ours"));
        assert!(setup.accept(setup.number(2), 1, Some(255), Hops::One).unwrap_err().contains("192.0.2.2"));
    }

    #[test]
    fn a_failure_nobody_had_time_to_hear_of_is_told_with_the_next_word() {
        let mut setup = setup(&[(1, Hops::One), (2, Hops::One)]);
        // The first fills the channel; all of the other's ups and downs find no room.
        setup.hear(1, State::Down);
        for state in [State::Init, State::Down, State::Down, State::Init] {
            setup.hear(2, state);
        }
        let first = setup.ways.try_recv().unwrap();
        assert_eq!((first.peer, first.state, first.news(None)), (peer(1), State::Init, None));
        setup.thread.tell();
        let second = setup.ways.try_recv().unwrap();
        assert_eq!((second.peer, second.state, second.failures), (peer(2), State::Up, 1));
        let why = second.news(None).unwrap();
        assert_eq!(why.why, "neighbor signaled session down (no diagnostic)");
        assert!(!why.independent);
        assert_eq!(second.news(Some(&second)), None, "told once");
        // Another session with the same neighbour counts from the beginning.
        let earlier = Way { session: second.session.wrapping_add(1), failures: 5, ..second.clone() };
        assert_eq!(second.news(Some(&earlier)), Some(why));
        assert!(setup.ways.try_recv().is_err());
    }

    #[test]
    fn nothing_is_told_that_is_known() {
        let mut setup = setup(&[(1, Hops::One)]);
        setup.hear(1, State::Down);
        assert!(setup.ways.try_recv().is_ok());
        setup.hear(1, State::Down);
        assert!(setup.ways.try_recv().is_err());
    }
}

//! The task that owns everything.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::bfd::{Bfd, Way};
use super::drain::{Drains, NotDrained};
use super::link::{self, Heard, Link, LinkId};
use super::listen::{Caller, Listener};
use super::metrics::Report;
use super::neighbour::{self, Neighbour, Table};
use super::orders::Orders;
use super::watch::{Watch, Watcher};
use super::{Command, NAME, NoPeer, Options, dynamic};
use crate::api::{Destination, PeerConfig, RangeId, Session, Status};
use crate::fsm::restart::Progress;
use crate::fsm::{Event, Role};
use crate::rib::{PeerId, Rib};
use crate::types::{Prefix, ScopedAddr};
use crate::wire::Notification;

/// Octets heard on links and not yet worked in. Routes on the way take ten times their octets on the wire.
const INTAKE: usize = 64 << 10;

/// Inputs waiting for the speaker. Many small ones at a time are one batch of what follows from them.
const INPUTS: usize = 64;

/// Inputs taken before timers and writers get their turn.
const TURN: usize = 64;

/// Connections of strangers being refused at one time; more are closed without a word.
const REFUSALS: usize = 64;

/// How long the neighbours may take to hear that we go.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the other tasks tell.
#[derive(Debug)]
pub(super) enum Input {
    /// On a link, in order, with its share of the intake.
    Heard(LinkId, Vec<Heard>, Option<OwnedSemaphorePermit>),
    /// The call to this neighbour with this number was answered.
    Called(ScopedAddr, u64, Result<TcpStream, String>),
    /// Somebody calls.
    Accepted(Caller),
}

/// Tasks of the speaker's and what they need.
pub(super) struct Io {
    pub(super) inputs: mpsc::Sender<Input>,
    intake: Arc<Semaphore>,
    /// A link or a watcher has room again.
    wake: Arc<Notify>,
    tasks: JoinSet<()>,
    links: BTreeMap<LinkId, (ScopedAddr, Role)>,
    refusals: Arc<Semaphore>,
    /// Numbers links and calls.
    next: u64,
}

impl Io {
    /// Starts moving bytes on a connection.
    pub fn link(&mut self, stream: TcpStream, peer: &PeerConfig, role: Role) -> io::Result<Link> {
        let id = LinkId(self.number());
        let (link, run) = Link::new(id, stream, self.inputs.clone(), self.intake.clone(), self.wake.clone())?;
        self.tasks.spawn(run);
        self.links.insert(id, (peer.scoped(), role));
        Ok(link)
    }

    /// Starts a call; its outcome arrives as [`Input::Called`] with the number given back.
    pub fn call(
        &mut self,
        address: ScopedAddr,
        call: impl Future<Output = Result<TcpStream, String>> + Send + 'static,
    ) -> (u64, AbortHandle) {
        let (number, inputs) = (self.number(), self.inputs.clone());
        let task = self.tasks.spawn(async move {
            // Nobody is interested any more where the speaker has ended.
            let _ = inputs.send(Input::Called(address, number, call.await)).await;
        });
        (number, task)
    }

    /// Says no and closes.
    pub fn refuse(&mut self, stream: TcpStream, notification: Notification) {
        if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            self.tasks.spawn(async move {
                link::refuse(stream, notification).await;
                drop(permit);
            });
        }
    }

    /// What the link still says is not heard any more.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The owner.
pub(super) struct Speaker {
    pub(super) options: Options,
    pub(super) orders: Option<Orders>,
    pub(super) neighbours: BTreeMap<ScopedAddr, Neighbour>,
    pub(super) listeners: BTreeMap<SocketAddr, Listener>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) io: Io,
    inputs: mpsc::Receiver<Input>,
    /// Started with the first neighbour that wants it.
    pub(super) bfd: Option<Bfd>,
    /// Closed while there is no [`Speaker::bfd`].
    pub(super) ways: mpsc::Receiver<Way>,
    pub(super) next_peer: u32,
    strangers: u64,
    pub(super) drains: Drains,
    /// Nothing forwards what an earlier life announced.
    pub(super) cold: bool,
    /// Calls refused because their range was full.
    pub(super) crowded: BTreeMap<RangeId, u64>,
}

impl Speaker {
    pub fn new(options: Options) -> Self {
        let (sender, inputs) = mpsc::channel(INPUTS);
        Self {
            options,
            orders: None,
            neighbours: BTreeMap::new(),
            listeners: BTreeMap::new(),
            watchers: Vec::new(),
            io: Io {
                inputs: sender,
                intake: Arc::new(Semaphore::new(INTAKE)),
                wake: Arc::default(),
                tasks: JoinSet::new(),
                links: BTreeMap::new(),
                refusals: Arc::new(Semaphore::new(REFUSALS)),
                next: 0,
            },
            inputs,
            bfd: None,
            ways: mpsc::channel(1).1,
            next_peer: 0,
            strangers: 0,
            drains: Drains::default(),
            cold: false,
            crowded: BTreeMap::new(),
        }
    }

    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(TURN);
        let wake = self.io.wake.clone();
        loop {
            let due = self.next_timeout();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown(text, reply)) => {
                        self.shutdown(&text).await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.command(command).await,
                    None => return self.shutdown("").await,
                },
                _ = self.inputs.recv_many(&mut batch, TURN) => {
                    for input in batch.drain(..) {
                        self.input(input);
                    }
                }
                Some(way) = self.ways.recv() => self.way(way),
                Some(_) = self.io.tasks.join_next() => {}
                () = wake.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
            }
            self.tick();
            self.flush();
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let completion =
            self.orders.as_ref().filter(|orders| !orders.synced).map(|orders| orders.complete_by);
        let others = completion.into_iter().chain(self.drains.next_timeout());
        self.neighbours.values().filter_map(Neighbour::next_timeout).chain(others).min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.drop_parted();
        if self.drains.tick(now) {
            self.drain_all(now);
        }
        let Some(orders) = &mut self.orders else { return };
        for neighbour in self.neighbours.values_mut() {
            if neighbour.next_timeout().is_some_and(|due| due <= now) {
                neighbour.tick(&mut self.io, &mut orders.rib, now);
            }
        }
        let all =
            |done: fn(&Progress) -> bool| self.neighbours.values().filter_map(Neighbour::progress).all(done);
        let late = now >= orders.complete_by;
        if orders.table == Table::Restarting && (late || all(Progress::is_not_waited_for)) {
            orders.table = Table::Complete;
        }
        if !orders.synced && (late || all(Progress::is_synced)) {
            orders.synced = true;
            self.neighbours.values_mut().for_each(Neighbour::started);
            tracing::info!(destinations = orders.rib.len(), "the table is complete");
        }
    }

    /// Tells watchers and neighbours what came of the inputs, as far as they can take it.
    fn flush(&mut self) {
        let now = Instant::now();
        let Some(orders) = &mut self.orders else { return };
        if self.watchers.is_empty() {
            orders.rib.drop_changes();
        } else {
            let changes = orders.rib.take_changes();
            self.watchers.retain_mut(|watcher| {
                watcher.merge(&changes);
                watcher.push(orders.synced)
            });
        }
        for neighbour in self.neighbours.values_mut() {
            neighbour.pump(&mut orders.rib, orders.table, now);
        }
        orders.rib.tidy();
    }

    fn input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Heard(link, heard, _intake) => {
                for heard in heard {
                    // Closed on the way: the rest is of no interest.
                    let Some((address, role)) = self.io.links.get(&link).copied() else { return };
                    self.handle(address, neighbour::event(role, heard), None, now);
                }
            }
            Input::Called(address, call, result) => {
                if let (Some(neighbour), Some(orders)) = (self.neighbours.get_mut(&address), &mut self.orders)
                {
                    neighbour.called(call, result, &mut self.io, &mut orders.rib, now);
                }
            }
            Input::Accepted(caller) if self.neighbours.contains_key(&caller.from) => {
                self.handle(caller.from, Event::Incoming, Some(caller), now);
            }
            Input::Accepted(caller) => {
                let Some(Caller { stream, from, .. }) = self.welcome(caller, now) else { return };
                self.strangers += 1;
                if self.strangers.is_power_of_two() {
                    tracing::warn!(%from, count = self.strangers, "refused a connection: no such peer is configured");
                }
                self.io.refuse(stream, Notification::connection_rejected());
            }
        }
    }

    pub(super) fn handle(
        &mut self,
        address: ScopedAddr,
        event: Event,
        incoming: Option<Caller>,
        now: Instant,
    ) {
        if let (Some(neighbour), Some(orders)) = (self.neighbours.get_mut(&address), &mut self.orders) {
            neighbour.handle(event, incoming, &mut self.io, &mut orders.rib, now);
        }
    }

    fn way(&mut self, way: Way) {
        if let (Some(neighbour), Some(orders)) = (self.neighbours.get_mut(&way.peer), &mut self.orders) {
            neighbour.bfd(way, &mut self.io, &mut orders.rib, Instant::now());
        }
    }

    /// An answer nobody waits for any more is dropped.
    async fn command(&mut self, command: Command) {
        match command {
            Command::Apply(config, reply) => drop(reply.send(self.apply(config).await)),
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Report(reply) => drop(reply.send(self.report())),
            Command::Routes(prefix, reply) => drop(reply.send(self.routes(prefix))),
            Command::Received(peer, prefix, reply) => {
                drop(reply.send(self.of_peer(peer, |rib, id| rib.received(id, prefix))));
            }
            Command::Advertised(peer, prefix, reply) => {
                drop(reply.send(self.of_peer(peer, |rib, id| rib.advertised(id, prefix))));
            }
            Command::Reset(peer, reason, reply) => {
                let cease = Notification::administrative_reset(&reason);
                drop(reply.send(self.with_peer(peer, |neighbour, io, rib| {
                    if neighbour.is_shut() {
                        return Err(NoPeer::Drained(peer));
                    }
                    neighbour.reset(cease, io, rib, Instant::now());
                    Ok(())
                })));
            }
            Command::Refresh(peer, direction, reply) => {
                drop(reply.send(self.with_peer(peer, |neighbour, _, _| neighbour.refresh_all(direction))));
            }
            Command::Drain(peer, wanted, reply) => {
                let known = peer.map_or(Ok(()), |peer| self.with_peer(peer, |_, _, _| Ok(())));
                if known.is_ok() {
                    let now = Instant::now();
                    self.drains.begin(peer, wanted, now);
                    self.drain_all(now);
                }
                drop(reply.send(known));
            }
            Command::Undrain(peer, reply) => drop(reply.send(self.undrain(peer))),
            Command::Watch(reply) => drop(reply.send(self.watch())),
            Command::Shutdown(_, reply) => drop(reply.send(())),
        }
    }

    fn undrain(&mut self, peer: Option<ScopedAddr>) -> Result<(), NoPeer> {
        peer.map_or(Ok(()), |peer| self.with_peer(peer, |_, _, _| Ok(())))?;
        self.drains
            .end(peer)
            .map_err(|error| NoPeer::NotDrained { peer, whole: error == NotDrained::Whole })?;
        self.drain_all(Instant::now());
        Ok(())
    }

    /// Has every neighbour do what its drain says.
    fn drain_all(&mut self, now: Instant) {
        let Some(orders) = &mut self.orders else { return };
        for (address, neighbour) in &mut self.neighbours {
            neighbour.drain(self.drains.stage(*address), &mut self.io, &mut orders.rib, now);
        }
    }

    fn watch(&mut self) -> Watch {
        let snapshot = self.orders.as_ref().map(|orders| orders.rib.snapshot()).unwrap_or_default();
        let (watcher, watch) = Watcher::new(&snapshot, self.io.wake.clone());
        self.watchers.push(watcher);
        watch
    }

    fn routes(&self, prefix: Option<Prefix>) -> Vec<Destination> {
        let mut destinations =
            self.orders.as_ref().map(|orders| orders.rib.destinations(prefix)).unwrap_or_default();
        self.name(&mut destinations);
        destinations
    }

    fn with_peer(
        &mut self,
        peer: ScopedAddr,
        act: impl FnOnce(&mut Neighbour, &mut Io, &mut Rib) -> Result<(), NoPeer>,
    ) -> Result<(), NoPeer> {
        match (self.neighbours.get_mut(&peer), &mut self.orders) {
            (Some(neighbour), Some(orders)) => act(neighbour, &mut self.io, &mut orders.rib),
            _ => Err(NoPeer::Unknown { peer, known: self.neighbours.keys().copied().collect() }),
        }
    }

    /// What the RIB shows of one neighbour.
    fn of_peer(
        &self,
        peer: ScopedAddr,
        view: impl FnOnce(&Rib, PeerId) -> Vec<Destination>,
    ) -> Result<Vec<Destination>, NoPeer> {
        match (self.neighbours.get(&peer), &self.orders) {
            (Some(neighbour), Some(orders)) => {
                let mut destinations = view(&orders.rib, neighbour.id);
                self.name(&mut destinations);
                Ok(destinations)
            }
            _ => Err(NoPeer::Unknown { peer, known: self.neighbours.keys().copied().collect() }),
        }
    }

    /// The RIB knows the names peers had when they came up: here they get those they have now.
    fn name(&self, destinations: &mut [Destination]) {
        for path in destinations.iter_mut().flat_map(|destination| &mut destination.paths) {
            if let Some(neighbour) = path.peer.and_then(|address| self.neighbours.get(&address)) {
                path.peer_name.clone_from(&neighbour.config.name);
            }
        }
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let mut status = Status {
            daemon: NAME.to_owned(),
            ranges: Vec::new(),
            asn: None,
            router_id: None,
            sessions: Vec::new(),
            originated: Vec::new(),
            destinations: 0,
            synced: false,
            drain: self.drains.whole(now),
        };
        if let Some(orders) = &self.orders {
            status.asn = Some(orders.config.asn);
            status.router_id = Some(orders.config.router_id);
            status.sessions = (self.neighbours.values())
                .map(|n| {
                    let session = n.stats.session(&n.config, &n.fsm, orders.rib.counts(n.id), now);
                    Session {
                        bfd: n.bfd.as_ref().map(|way| way.status(now)),
                        prefixes: n.held(&orders.rib),
                        drain: self.drains.status(n.config.scoped(), now),
                        range: n.range.map(|range| range.prefix),
                        reason: n.obstacle().or(session.reason),
                        least_ttl: n.least_ttl(),
                        ..session
                    }
                })
                .collect();
            status.ranges = dynamic::status(&orders.config.ranges, &self.neighbours, &self.crowded);
            status.originated = orders.config.networks.iter().map(|network| network.prefix).collect();
            status.originated.sort();
            status.originated.dedup();
            status.destinations = orders.rib.len();
            status.synced = orders.synced;
        }
        status
    }

    fn report(&self) -> Report {
        Report {
            status: self.status(),
            totals: (self.neighbours.iter()).map(|(address, n)| (*address, n.stats.totals.clone())).collect(),
            sizes: self.orders.as_ref().map(|orders| orders.rib.sizes()).unwrap_or_default(),
            strangers: self.strangers,
        }
    }

    async fn shutdown(&mut self, text: &str) {
        self.listeners.clear();
        let now = Instant::now();
        if let Some(orders) = &mut self.orders {
            // One that is to keep our routes would forget them at a word: its connection ends, no more.
            let told = |neighbour: &&mut Neighbour| !neighbour.config.graceful_restart.preserve_forwarding;
            for neighbour in self.neighbours.values_mut().filter(told) {
                let cease = Notification::administrative_shutdown(text);
                neighbour.end(cease, &mut self.io, &mut orders.rib, now);
            }
        }
        self.neighbours.clear();
        // What links still hear would keep them waiting for us.
        self.inputs.close();
        self.io.intake.close();
        let _ = timeout(FAREWELL, async { while self.io.tasks.join_next().await.is_some() {} }).await;
        // Last, so that no neighbour hears that BFD ends before it hears why, and takes that for the reason.
        self.bfd = None;
    }
}

//! The thread that writes the ruleset into the kernel.
//!
//! ```text
//!   update, sweep ─┐          ┌─ additions: at once                                ┌──────────┐
//!   someone else's ┼─▶ State ─┤                                         ─ batch ─▶ │ nftables │
//!   change, retry ─┘     ▲    └─ everything: what waited at most TICK together     └────┬─────┘
//!                        └──────────────── read: at the start, after a doubt ◀──────────┘
//! ```
//!
//! What deletes anything costs the kernel a grace period of 6 to 16 ms, however much it deletes: so such changes, if
//! they come one after the other, wait for each other for a moment, and what only adds does not wait for them. A transaction the kernel refuses changes
//! nothing: what was in force stays so, and it is tried again from what is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, oneshot};

use super::compile::{self, TABLE};
use super::conntrack::{self, Connection, Conntrack};
use super::denied::{Denial, Listener, Packet};
use super::nft::{CommitError, Counter, DumpError, Event, Monitor, Nft, Text};
use super::ruleset::{Delta, PolicyId};
use super::state::State;

/// How long after one change that deletes the next waits for more of them.
const TICK: Duration = Duration::from_millis(10);

/// The table is read at most this often, whoever changes it.
const READ_APART: Duration = Duration::from_millis(250);

/// And whether anybody has changed anything is asked this often, whatever the kernel told.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// A refused transaction is tried again after the first of these, doubling up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Denied packets that wait for a slow reader; it is told how many it missed.
const DENIALS: usize = 1024;

/// Denied packets that are remembered.
const RECENT: usize = 256;

/// How often what the table has counted is summed up for the status.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// How often a silent monitor looks whether anybody still listens.
const PATIENCE: Duration = Duration::from_secs(1);

/// A handle to the thread. It ends with the last clone; the table stays in force.
#[derive(Clone, Debug)]
pub struct Driver {
    commands: Sender<Command>,
    status: Arc<Mutex<Status>>,
    denials: broadcast::Sender<Arc<Denial>>,
    _stop: Arc<StopOnDrop>,
}

/// What becomes of connections that were let through and are forbidden by a later change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Connections {
    /// They end.
    #[default]
    End,
    /// They go on until they end by themselves.
    Keep,
}

#[derive(Debug)]
struct StopOnDrop(Sender<Command>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.0.send(Command::Stop);
    }
}

/// Why an update is not in force. It stays wanted, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The kernel, or the socket to it, in words.
    #[error("the packet filter was not changed, and is as it was before: {0}")]
    Refused(String),
    /// The thread has ended.
    #[error("the packet filter is not kept any more")]
    Stopped,
}

/// What is in force and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Endpoints, policies and sets wanted.
    pub endpoints: usize,
    /// One a direction.
    pub policies: usize,
    /// Without those of the frame.
    pub sets: usize,
    /// Of all these sets.
    pub members: usize,
    /// Whether the kernel has all that is wanted.
    pub in_force: bool,
    /// Of the kernel's ruleset after our last transaction.
    pub generation: u32,
    /// Transactions made.
    pub commits: u64,
    /// Transactions refused.
    pub refused: u64,
    /// Why the last was; none: it was not.
    pub failing: Option<String>,
    /// How often something was put right that someone else had done to the table.
    pub repaired: u64,
    /// Connections ended because a policy forbids them now.
    pub ended: u64,
    /// Packets counted, as of some seconds ago.
    pub packets: Packets,
    /// What the last transaction took.
    pub last_commit: Duration,
    /// Whether what nobody wants is removed.
    pub swept: bool,
}

/// Packets that opened, or would have opened, a connection, since the counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Let through by a rule.
    pub accepted: u64,
    /// Dropped by policy.
    pub denied: u64,
    /// Not dropped by policies in audit mode.
    pub audited: u64,
    /// Dropped for their source address.
    pub spoofed: u64,
    /// Dropped because their pod is not known.
    pub unknown: u64,
}

impl Packets {
    /// Adds what was counted since the last time. A counter that has less is a new one of that name.
    fn add(&mut self, counters: &BTreeMap<String, Counter>, before: &BTreeMap<String, Counter>) {
        for (name, counter) in counters {
            let sum = match name.split('/').next() {
                Some("accept") => &mut self.accepted,
                Some("deny") => &mut self.denied,
                Some("audit") => &mut self.audited,
                Some("spoofed") => &mut self.spoofed,
                Some("unknown") => &mut self.unknown,
                _ => continue,
            };
            let before = before.get(name).map_or(0, |before| before.packets);
            *sum += counter.packets.checked_sub(before).unwrap_or(counter.packets);
        }
    }
}

#[derive(Debug)]
enum Command {
    /// The kernel told of a denied packet.
    Denied(Packet),
    /// Who knows pods of other nodes by their addresses.
    NamedBy(tokio::sync::mpsc::Sender<Denial>),
    /// A denied packet with all the names there are.
    Named(Denial),
    /// Connections of endpoints, to judge.
    Connections(Vec<Connection>),
    Update(Box<Delta>, oneshot::Sender<Result<(), UpdateError>>),
    Sweep,
    /// Someone else changed the table, or may have.
    Doubt,
    Counters(oneshot::Sender<Result<BTreeMap<String, Counter>, String>>),
    Dump {
        elements: bool,
        answer: oneshot::Sender<String>,
    },
    Recent(oneshot::Sender<Vec<Arc<Denial>>>),
    Policies(oneshot::Sender<Vec<PolicyId>>),
    Stop,
}

impl Driver {
    /// Opens its sockets in the calling thread's network namespace. Nothing is changed before the first update.
    ///
    /// # Errors
    /// A socket could not be opened, or a thread not started.
    pub fn start(connections: Connections) -> io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let (denials, _) = broadcast::channel(DENIALS);
        let nft = Nft::open()?;
        let monitor = Monitor::open(TABLE, nft.port(), PATIENCE)?;
        let alive = Arc::new(());
        let (sender, listens) = (commands.clone(), Arc::downgrade(&alive));
        spawn("acl-monitor", move || listen(monitor, &sender, &listens))?;
        match Listener::open() {
            Ok(listener) => {
                let (sender, listens) = (commands.clone(), Arc::downgrade(&alive));
                spawn("acl-denied", move || {
                    listener.run(&listens, |packet| sender.send(Command::Denied(packet)).is_ok());
                })?;
            }
            Err(error) => {
                let group = compile::NFLOG_GROUP;
                tracing::warn!(%error, "cannot listen to NFLOG group {group}; denied packets are counted, not told");
            }
        }
        let judge = match connections {
            Connections::Keep => None,
            Connections::End => {
                let (judge, addresses) = mpsc::channel();
                let (reader, sender) = (Conntrack::open()?, commands.clone());
                spawn("acl-conntrack", move || {
                    conntrack::read(reader, &addresses, |found| {
                        sender.send(Command::Connections(found)).is_ok()
                    });
                })?;
                Some((judge, Conntrack::open()?))
            }
        };
        let keeper = Keeper::new(nft, status.clone(), denials.clone(), judge);
        spawn("acl", move || {
            let _alive = alive;
            keeper.run(&received);
        })?;
        Ok(Self { _stop: Arc::new(StopOnDrop(commands.clone())), commands, status, denials })
    }

    /// Changes what is wanted. The future resolves once all of it is in force, or the kernel has refused; the change
    /// is made whether or not it is awaited.
    pub fn update(
        &self,
        delta: Delta,
    ) -> impl Future<Output = Result<(), UpdateError>> + Send + 'static + use<> {
        let (done, answer) = oneshot::channel();
        // With the thread gone `done` is dropped, and `answer` says so.
        let _ = self.commands.send(Command::Update(Box::new(delta), done));
        async move { answer.await.unwrap_or(Err(UpdateError::Stopped)) }
    }

    /// From now on what is in our table and nobody wants goes. To be called once all watches are in sync.
    pub fn sweep(&self) {
        // With the thread gone there is nobody to sweep, and `update` tells.
        let _ = self.commands.send(Command::Sweep);
    }

    /// What the table's counters have counted.
    ///
    /// # Errors
    /// The kernel's, in words.
    pub fn counters(
        &self,
    ) -> impl Future<Output = Result<BTreeMap<String, Counter>, String>> + Send + 'static + use<> {
        let (sender, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Counters(sender));
        async move { answer.await.unwrap_or_else(|_| Err(UpdateError::Stopped.to_string())) }
    }

    /// The table as it is wanted, as `nft list` would print it, with what has been counted.
    pub fn dump(&self, elements: bool) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        let (sender, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Dump { elements, answer: sender });
        async move { answer.await.ok() }
    }

    /// The policies that are wanted; none: the thread has ended.
    pub fn policies(&self) -> impl Future<Output = Option<Vec<PolicyId>>> + Send + 'static + use<> {
        let (sender, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Policies(sender));
        async move { answer.await.ok() }
    }

    /// Packets denied lately, the oldest first.
    pub fn recent(&self) -> impl Future<Output = Vec<Arc<Denial>>> + Send + 'static + use<> {
        let (sender, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Recent(sender));
        async move { answer.await.unwrap_or_default() }
    }

    /// Denied packets from now on.
    pub fn denials(&self) -> broadcast::Receiver<Arc<Denial>> {
        self.denials.subscribe()
    }

    /// From now on denied packets are sent here, for the names of pods of other nodes to be filled in, and are told when they
    /// come back by [`Driver::named`].
    pub fn name_by(&self, names: tokio::sync::mpsc::Sender<Denial>) {
        // With the thread gone nothing is denied here.
        let _ = self.commands.send(Command::NamedBy(names));
    }

    /// Tells a denied packet with all the names there are.
    pub fn named(&self, denial: Denial) {
        let _ = self.commands.send(Command::Named(denial));
    }

    /// What is in force, as of the last transaction.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Hands on what others do to the table until nobody takes it.
fn listen(mut monitor: Monitor, commands: &Sender<Command>, alive: &Weak<()>) {
    while alive.strong_count() > 0 {
        match monitor.wait() {
            Ok(Some(Event::Changed | Event::Overrun)) => {
                if commands.send(Command::Doubt).is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "cannot hear of changes to nftables any more; asked once a minute instead");
                return;
            }
        }
    }
}

/// The thread's state.
struct Keeper {
    nft: Nft,
    state: State,
    waiting: Vec<oneshot::Sender<Result<(), UpdateError>>>,
    /// Nothing is touched before it is known what is wanted.
    has_orders: bool,
    /// Whether the state knows what is there.
    is_known: bool,
    /// Someone else may have changed the table.
    is_doubted: bool,
    /// The generation after our last transaction.
    generation: u32,
    read_at: Option<Instant>,
    last_read: Option<Instant>,
    flush_at: Option<Instant>,
    /// When a change that deletes was last made.
    deleted_at: Option<Instant>,
    retry_after: Duration,
    ask_at: Instant,
    count_at: Instant,
    counted: BTreeMap<String, Counter>,
    names: Option<tokio::sync::mpsc::Sender<Denial>>,
    denials: broadcast::Sender<Arc<Denial>>,
    recent: VecDeque<Arc<Denial>>,
    /// Who reads connections, and what ends them; none: they are kept.
    judge: Option<(Sender<BTreeSet<IpAddr>>, Conntrack)>,
    counts: Status,
    status: Arc<Mutex<Status>>,
}

impl Keeper {
    fn new(
        nft: Nft,
        status: Arc<Mutex<Status>>,
        denials: broadcast::Sender<Arc<Denial>>,
        judge: Option<(Sender<BTreeSet<IpAddr>>, Conntrack)>,
    ) -> Self {
        Self {
            nft,
            state: State::new(),
            waiting: Vec::new(),
            has_orders: false,
            is_known: false,
            is_doubted: false,
            generation: 0,
            read_at: None,
            last_read: None,
            flush_at: None,
            deleted_at: None,
            retry_after: RETRY_FIRST,
            ask_at: Instant::now() + ASK_EVERY,
            count_at: Instant::now(),
            counted: BTreeMap::new(),
            names: None,
            denials,
            recent: VecDeque::new(),
            judge,
            counts: Status::default(),
            status,
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let due = [self.read_at, self.flush_at, Some(self.count_at)];
            let due = due.into_iter().flatten().fold(self.ask_at, Instant::min);
            let first = match commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for command in first.into_iter().chain(commands.try_iter()) {
                match command {
                    Command::Update(delta, done) => self.update(*delta, done),
                    Command::Sweep => {
                        self.state.sweep();
                        self.counts.swept = true;
                        self.read_at = Some(Instant::now());
                    }
                    Command::Doubt => self.doubt(),
                    Command::Denied(packet) => {
                        let denial = packet.explain(self.state.ruleset());
                        // One that cannot be named now is told as it is.
                        let unnamed = match &self.names {
                            Some(names) => names.try_send(denial).err().map(TrySendError::into_inner),
                            None => Some(denial),
                        };
                        unnamed.into_iter().for_each(|denial| self.tell(denial));
                    }
                    Command::NamedBy(names) => self.names = Some(names),
                    Command::Named(denial) => self.tell(denial),
                    Command::Connections(found) => self.judge(&found),
                    // Nobody waits for what was dropped.
                    Command::Counters(answer) => {
                        _ = answer.send(self.nft.counters(TABLE).map_err(|error| error.to_string()));
                    }
                    Command::Dump { elements, answer } => _ = answer.send(self.dump(elements)),
                    Command::Recent(answer) => _ = answer.send(self.recent.iter().cloned().collect()),
                    Command::Policies(answer) => {
                        _ = answer.send(self.state.ruleset().policies.keys().cloned().collect());
                    }
                    Command::Stop => return,
                }
            }
            self.work(Instant::now());
            self.publish();
        }
    }

    fn update(&mut self, delta: Delta, done: oneshot::Sender<Result<(), UpdateError>>) {
        let now = Instant::now();
        self.waiting.push(done);
        let is_unsure = self.state.apply(delta);
        if is_unsure {
            self.is_known = false;
        }
        if !std::mem::replace(&mut self.has_orders, true) || is_unsure {
            self.read_at = Some(now);
        }
        let earliest = self.deleted_at.map_or(now, |at| at + TICK);
        self.flush_at = self.flush_at.or(Some(earliest));
        // It may be just what was in the way.
        if self.counts.failing.is_some() {
            self.retry_after = RETRY_FIRST;
            (self.read_at, self.flush_at) = (Some(now + TICK), Some(now + TICK));
        }
    }

    /// Has the table read soon.
    fn doubt(&mut self) {
        self.is_doubted = true;
        let earliest = self.last_read.map_or_else(Instant::now, |at| at + READ_APART);
        self.read_at = Some(self.read_at.map_or(earliest, |at| at.min(earliest)));
    }

    fn tell(&mut self, denial: Denial) {
        match serde_json::to_string(&denial) {
            Ok(json) => tracing::info!(target: "manx_felix::acl::denied", "{json}"),
            Err(error) => tracing::warn!(%error, "a denied packet cannot be told"),
        }
        let denial = Arc::new(denial);
        self.recent.push_back(Arc::clone(&denial));
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        // An error means that nobody asks.
        let _ = self.denials.send(denial);
    }

    /// Ends the connections that are forbidden.
    fn judge(&mut self, found: &[Connection]) {
        let Some((_, conntrack)) = &mut self.judge else { return };
        // While a change waits the next reading follows it.
        for connection in found.iter().filter(|connection| connection.is_denied(self.state.ruleset())) {
            match conntrack.delete(connection) {
                Ok(()) => self.counts.ended += 1,
                Err(error) => {
                    tracing::warn!(%error, flow = ?connection.flow, "cannot end a connection that is forbidden now");
                }
            }
        }
    }

    /// Has connections judged by what is in force now.
    fn judge_soon(&self) {
        if let Some((judge, _)) = &self.judge {
            let endpoints = self.state.ruleset().endpoints.values();
            let addresses = endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
            // An error means that the thread has ended, which it does only with this one.
            let _ = judge.send(addresses);
        }
    }

    fn work(&mut self, now: Instant) {
        if now >= self.count_at {
            self.count_at = now + COUNT_EVERY;
            if let Ok(counters) = self.nft.counters(TABLE) {
                self.counts.packets.add(&counters, &self.counted);
                self.counted = counters;
            }
        }
        if now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            match self.nft.generation() {
                Ok(generation) if generation == self.generation => {}
                Ok(_) => self.doubt(),
                Err(error) => tracing::warn!(%error, "cannot ask whether nftables have changed"),
            }
        }
        if !self.has_orders {
            return;
        }
        if self.read_at.is_some_and(|at| now >= at) {
            self.read();
        }
        // What cannot be read is not changed: the next read tells what there is to do.
        if !self.is_known {
            return;
        }
        let outcome = self.write(now);
        if let Err(error) = outcome {
            self.fail(&error.to_string());
        }
    }

    /// Reads what is there.
    fn read(&mut self) {
        (self.read_at, self.last_read) = (None, Some(Instant::now()));
        match self.read_table() {
            Ok(()) => {
                // While changes of ours wait it cannot be told who is behind a difference.
                let is_drift = self.is_doubted && self.is_known && self.flush_at.is_none();
                (self.is_known, self.is_doubted) = (true, false);
                let pending = self.state.pending();
                if pending > 0 || !self.state.is_clean() {
                    if is_drift {
                        self.counts.repaired += 1;
                        tracing::warn!(
                            pending,
                            "someone else has changed table inet {TABLE}; putting it right"
                        );
                    }
                    self.flush_at = Some(Instant::now());
                }
            }
            Err(error) => {
                self.is_known = false;
                self.fail(&error.to_string());
            }
        }
    }

    fn read_table(&mut self) -> Result<(), DumpError> {
        self.generation = self.nft.generation()?;
        let table = self.nft.read_table(TABLE)?;
        self.state.observe(table);
        Ok(())
    }

    /// Adds what can be added at once, and the rest when its time has come.
    fn write(&mut self, now: Instant) -> Result<(), CommitError> {
        if self.flush_at.is_none() {
            return Ok(());
        }
        let before = self.counts.commits;
        if let Some(batch) = self.state.creation() {
            self.commit(&batch)?;
        }
        while let Some((batch, added)) = self.state.additions() {
            self.commit(&batch)?;
            self.state.added(added);
        }
        if !self.state.is_clean() {
            if self.flush_at.is_some_and(|at| now < at) {
                return Ok(());
            }
            let batch = self.state.everything();
            self.commit(&batch)?;
            self.state.done();
            self.deleted_at = Some(Instant::now());
        }
        self.flush_at = None;
        self.retry_after = RETRY_FIRST;
        if self.counts.failing.take().is_some() {
            tracing::info!("the packet filter is as it should be again");
        }
        if self.counts.commits > before {
            self.judge_soon();
        }
        self.publish();
        for done in self.waiting.drain(..) {
            // Nobody waits for an update that was dropped.
            let _ = done.send(Ok(()));
        }
        Ok(())
    }

    fn commit(&mut self, batch: &super::nft::Batch) -> Result<(), CommitError> {
        let start = Instant::now();
        let outcome = self.nft.commit(batch);
        self.counts.last_commit = start.elapsed();
        match &outcome {
            Ok(()) => {
                self.counts.commits += 1;
                self.generation = self.generation.wrapping_add(1);
            }
            Err(_) => self.is_known = false,
        }
        outcome
    }

    /// Says why it did not work, and tries again later from what is there.
    fn fail(&mut self, reason: &str) {
        self.counts.refused += 1;
        if self.counts.failing.as_deref() != Some(reason) {
            tracing::warn!(%reason, "the packet filter was not changed, and is as it was before; tried again");
            self.counts.failing = Some(reason.to_owned());
        }
        self.publish();
        for done in self.waiting.drain(..) {
            // Nobody waits for an update that was dropped.
            let _ = done.send(Err(UpdateError::Refused(reason.to_owned())));
        }
        let again = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
        (self.read_at, self.flush_at) = (Some(again), Some(again));
    }

    fn dump(&mut self, elements: bool) -> String {
        let counters = self.nft.counters(TABLE).ok();
        let table = compile::table(self.state.ruleset());
        Text { table: &table, counters: counters.as_ref(), elements }.to_string()
    }

    fn publish(&mut self) {
        let ruleset = self.state.ruleset();
        self.counts.endpoints = ruleset.endpoints.len();
        self.counts.policies = ruleset.policies.len();
        self.counts.sets = ruleset.sets.len();
        self.counts.generation = self.generation;
        self.counts.members = ruleset.sets.values().map(|set| set.members.len()).sum();
        self.counts.in_force = self.has_orders && self.is_known && self.flush_at.is_none();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
    }
}

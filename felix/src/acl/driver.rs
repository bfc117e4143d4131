//! The thread that writes the ruleset into the kernel.
//!
//! ```text
//!   update, sweep ─┐          ┌─ additions: at once                                ┌──────────┐
//!   someone else's ┼─▶ State ─┤                                         ─ batch ─▶ │ nftables │
//!   change, retry ─┘     ▲    └─ everything: what waited at most TICK together     └────┬─────┘
//!                        └──────────────── read: at the start, after a doubt ◀──────────┘
//! ```
//!
//! What deletes anything costs the kernel a grace period of 6 to 16 ms, however much it deletes: so such changes wait
//! for each other for a moment, and what only adds does not wait for them. A transaction the kernel refuses changes
//! nothing: what was in force stays so, and it is tried again from what is there.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::compile::{self, TABLE};
use super::nft::{CommitError, Counter, DumpError, Event, Monitor, Nft, Text};
use super::ruleset::Delta;
use super::state::State;

/// How long changes that delete wait for more of them.
const TICK: Duration = Duration::from_millis(10);

/// The table is read at most this often, whoever changes it.
const READ_APART: Duration = Duration::from_millis(250);

/// And whether anybody has changed anything is asked this often, whatever the kernel told.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// A refused transaction is tried again after the first of these, doubling up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// How often a silent monitor looks whether anybody still listens.
const PATIENCE: Duration = Duration::from_secs(1);

/// A handle to the thread. It ends with the last clone; the table stays in force.
#[derive(Clone, Debug)]
pub struct Driver {
    commands: Sender<Command>,
    status: Arc<Mutex<Status>>,
    _stop: Arc<StopOnDrop>,
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
    /// Transactions made.
    pub commits: u64,
    /// Transactions refused.
    pub refused: u64,
    /// Why the last was; none: it was not.
    pub failing: Option<String>,
    /// How often something was put right that someone else had done to the table.
    pub repaired: u64,
    /// What the last transaction took.
    pub last_commit: Duration,
    /// Whether what nobody wants is removed.
    pub swept: bool,
}

#[derive(Debug)]
enum Command {
    Update(Box<Delta>, oneshot::Sender<Result<(), UpdateError>>),
    Sweep,
    /// Someone else changed the table, or may have.
    Doubt,
    Counters(oneshot::Sender<Result<BTreeMap<String, Counter>, String>>),
    Dump {
        elements: bool,
        answer: oneshot::Sender<String>,
    },
    Stop,
}

impl Driver {
    /// Opens its sockets in the calling thread's network namespace. Nothing is changed before the first update.
    ///
    /// # Errors
    /// A socket could not be opened, or a thread not started.
    pub fn start() -> io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let nft = Nft::open()?;
        let monitor = Monitor::open(TABLE, nft.port(), PATIENCE)?;
        let alive = Arc::new(());
        let (sender, listens) = (commands.clone(), Arc::downgrade(&alive));
        thread::Builder::new()
            .name("acl-monitor".to_owned())
            .spawn(move || listen(monitor, &sender, &listens))?;
        let keeper = Keeper::new(nft, status.clone());
        thread::Builder::new().name("acl".to_owned()).spawn(move || {
            let _alive = alive;
            keeper.run(&received);
        })?;
        Ok(Self { _stop: Arc::new(StopOnDrop(commands.clone())), commands, status })
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

    /// What is in force, as of the last transaction.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
    retry_after: Duration,
    ask_at: Instant,
    counts: Status,
    status: Arc<Mutex<Status>>,
}

impl Keeper {
    fn new(nft: Nft, status: Arc<Mutex<Status>>) -> Self {
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
            retry_after: RETRY_FIRST,
            ask_at: Instant::now() + ASK_EVERY,
            counts: Status::default(),
            status,
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let due = [self.read_at, self.flush_at].into_iter().flatten().fold(self.ask_at, Instant::min);
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
                    // Nobody waits for what was dropped.
                    Command::Counters(answer) => {
                        _ = answer.send(self.nft.counters(TABLE).map_err(|error| error.to_string()));
                    }
                    Command::Dump { elements, answer } => _ = answer.send(self.dump(elements)),
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
        self.flush_at = self.flush_at.or(Some(now + TICK));
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

    fn work(&mut self, now: Instant) {
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
        }
        self.flush_at = None;
        self.retry_after = RETRY_FIRST;
        if self.counts.failing.take().is_some() {
            tracing::info!("the packet filter is as it should be again");
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
        self.counts.members = ruleset.sets.values().map(|set| set.members.len()).sum();
        self.counts.in_force = self.has_orders && self.is_known && self.flush_at.is_none();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
    }
}

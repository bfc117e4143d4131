//! The thread's work: what is wanted, what is there, and when the difference is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::status::Status;
use super::{Command, Hear, UpdateError};
use crate::acl::compile::{self, Numbers, TABLE};
use crate::acl::conntrack::{Connection, Conntrack};
use crate::acl::denied::Denial;
use crate::acl::nft::{Batch, CommitError, Counter, DumpError, Nft, Text};
use crate::acl::ruleset::Delta;
use crate::acl::state::State;

/// How long after one change that deletes the next waits for more of them.
const TICK: Duration = Duration::from_millis(10);

/// The table is read at most this often, whoever changes it.
const READ_APART: Duration = Duration::from_millis(250);

/// And whether anybody has changed anything is asked this often, whatever the kernel told.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// A refused transaction is tried again after the first of these, doubling up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Denied packets that are remembered.
const RECENT: usize = 256;

/// How often what the table has counted is summed up for the status.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// The thread's state.
pub struct Keeper {
    nft: Nft,
    state: State,
    waiting: Vec<Waiting>,
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
    names: Option<mpsc::Sender<Denial>>,
    denials: broadcast::Sender<Arc<Denial>>,
    recent: VecDeque<Arc<Denial>>,
    /// Who reads connections, and what ends them; none: they are kept.
    judge: Option<(Sender<BTreeSet<IpAddr>>, Conntrack)>,
    /// Not before the first change is in force: the kernel tells each part of a change to whoever hears, which takes
    /// it a third as long as to make it.
    hear: Option<Hear>,
    counts: Status,
    status: Arc<Mutex<Status>>,
}

/// Who waits for a change.
struct Waiting {
    done: oneshot::Sender<Result<(), UpdateError>>,
    /// It takes nothing away, and is in force when all that is wanted is there.
    only_adds: bool,
}

impl Keeper {
    /// Knowing nothing.
    pub fn new(
        nft: Nft,
        status: Arc<Mutex<Status>>,
        denials: broadcast::Sender<Arc<Denial>>,
        judge: Option<(Sender<BTreeSet<IpAddr>>, Conntrack)>,
        hear: Hear,
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
            hear: Some(hear),
            counts: Status::default(),
            status,
        }
    }

    /// Until it is told to stop, or nobody can tell it anything.
    pub fn run(mut self, commands: &Receiver<Command>) {
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
        self.waiting.push(Waiting { done, only_adds: delta.only_adds(self.state.ruleset()) });
        if !self.has_orders {
            self.adopt();
        }
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

    /// Takes over the numbers that an earlier agent has given to sets, before any is given.
    fn adopt(&mut self) {
        let numbers = compile::sets().find(|(name, _)| *name == compile::NUMBERS);
        let read = numbers.map(|(name, set)| self.nft.read_set(TABLE, name, &set)).transpose();
        if let Err(error) = &read {
            tracing::warn!(%error, "cannot read which sets the packet filter has; it is made anew");
        }
        self.state.adopt(read.ok().map(|elements| Numbers::read(&elements.unwrap_or_default())));
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
        if !self.state.lacks() {
            // A pod that starts does not wait for what is to go with one that ends.
            self.answer(|waiting| waiting.only_adds);
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
        if let Some(hear) = self.hear.take() {
            if let Err(error) = hear() {
                tracing::error!(%error, "cannot hear of changes to nftables; asked once a minute instead");
            }
            // Whether anybody has changed anything until now.
            self.ask_at = now;
        }
        if self.counts.failing.take().is_some() {
            tracing::info!("the packet filter is as it should be again");
        }
        if self.counts.commits > before {
            self.judge_soon();
        }
        self.publish();
        self.answer(|_| true);
        Ok(())
    }

    fn answer(&mut self, is_done: impl Fn(&Waiting) -> bool) {
        for waiting in self.waiting.extract_if(.., |waiting| is_done(waiting)) {
            // Nobody waits for an update that was dropped.
            let _ = waiting.done.send(Ok(()));
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
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
        for Waiting { done, .. } in self.waiting.drain(..) {
            // Nobody waits for an update that was dropped.
            let _ = done.send(Err(UpdateError::Refused(reason.to_owned())));
        }
        let again = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
        (self.read_at, self.flush_at) = (Some(again), Some(again));
    }

    fn dump(&mut self, elements: bool) -> String {
        let counters = self.nft.counters(TABLE).ok();
        let table = compile::table(self.state.ruleset(), self.state.numbers());
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

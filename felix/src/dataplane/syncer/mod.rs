//! The one thread that writes routes.
//!
//! ```text
//!   update, sweep ─┐           ┌─ urgent: at most 64 destinations (a pod)
//!   kernel events ─┼─▶ State ──┤                                     ─▶ at most 256 messages ─▶ kernel
//!   compare, retry ┘           └─ bulk                                     next job ◀─ answers ─┘
//! ```
//!
//! Small commands change the state at once, between two batches, large ones a slice at a time: a pod waits for neither.
//! What waits is a list of destinations whose change is worked out when their turn comes. So however much waits, it is
//! bounded by the number of destinations, and of two changes to one destination only the last is written. Groups of next
//! hops that change under many routes are written before anything else.

mod reader;
mod repair;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use ipnetwork::IpNetwork;
use manx_cni::netlink::{Netlink, NetlinkError};
use tokio::sync::oneshot;

use super::message::Seen;
use super::monitor::Event;
use super::next_hops::Links;
use super::overlaps::{Foreign, Foreigners};
use super::snapshot;
use super::state::{Snapshot, State};
pub use reader::Reader;

use super::{ApplyErrors, FibDelta, RouteError, Settings, Status};

/// Most messages in a batch: a millisecond, which is how long an urgent change waits behind bulk ones.
const BATCH: usize = 256;

/// Most destinations of an urgent change.
const URGENT: usize = 64;

/// Of a large change so much is taken in at a time, a fifth of a millisecond.
const SLICE: usize = 1000;

/// All of our routes are read and compared this often, whatever the kernel told us.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// And at most this often, whatever the kernel tells us; and where there is much to read, a quarter of the time.
const COMPARE_APART: Duration = Duration::from_millis(250);

/// Refused routes are tried again after the first of these, doubling up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// How long after the last change what was done for the time being is put right, and what nobody needs is removed.
const REST: Duration = Duration::from_secs(1);

/// Failures told one by one, in the log at a time and in the status.
const TOLD: usize = 16;

/// What the thread is told.
pub enum Command {
    /// Change what is wanted, and say when it is done.
    Update(FibDelta, oneshot::Sender<Result<(), ApplyErrors>>),
    /// Remove what nobody wants, from now on.
    Sweep,
    /// The kernel said something.
    Kernel(Event),
    /// What is connected is this now.
    Links(Links),
    /// All routes there are, as they were asked for.
    Read(Result<Snapshot, NetlinkError>),
    /// End. Routes stay.
    Stop,
}

/// Destinations to look at, and who waits for it.
#[derive(Default)]
struct Job {
    destinations: VecDeque<IpNetwork>,
    refused: Vec<RouteError>,
    done: Option<oneshot::Sender<Result<(), ApplyErrors>>>,
    /// Puts back what someone else changed.
    is_repair: bool,
}

/// The thread's state.
pub struct Syncer {
    netlink: Netlink,
    reader: Reader,
    settings: Settings,
    state: State,
    foreigners: Foreigners,
    /// Overlaps that have been told.
    told: BTreeSet<String>,
    /// Large changes, as far as they are not taken in yet.
    intake: VecDeque<(FibDelta, Job)>,
    urgent: VecDeque<Job>,
    bulk: VecDeque<Job>,
    /// Routes that went since the last batch.
    lost: BTreeSet<IpNetwork>,
    failures: BTreeMap<IpNetwork, Arc<str>>,
    /// Of those, what someone else did away with: still a repair when it succeeds.
    mending: BTreeSet<IpNetwork>,
    retry_after: Duration,
    retry_at: Option<Instant>,
    /// The next comparison may begin.
    may_compare_at: Instant,
    compare_at: Instant,
    /// Since when a comparison is under way.
    comparing: Option<Instant>,
    /// Routes read for it, as far as they are not looked at yet; none: they are still being read.
    read: Option<IntoIter<Seen>>,
    /// Other programs' routes that came or went since then.
    meanwhile: Vec<(Foreign, bool)>,
    /// The kernel may have changed our next-hop objects.
    doubts_objects: bool,
    /// Groups may be made of what cannot be reached, or not of all that can.
    unsettled: bool,
    rest_at: Option<Instant>,
    /// Pods' veths whose routes the kernel dropped.
    down: BTreeSet<u32>,
    counts: Status,
    status: Arc<Mutex<Status>>,
}

impl Syncer {
    /// Reads what is ours.
    ///
    /// # Errors
    /// The socket's.
    pub fn new(
        mut netlink: Netlink,
        reader: Reader,
        settings: Settings,
        links: Links,
        status: Arc<Mutex<Status>>,
    ) -> Result<Self, NetlinkError> {
        let mut snapshot = snapshot::read(&mut netlink, Some(settings))?;
        let mut foreigners = Foreigners::default();
        foreigners.observe(std::mem::take(&mut snapshot.foreign));
        let state = State::new(settings, links, snapshot);
        let now = Instant::now();
        let mut syncer = Self {
            netlink,
            reader,
            settings,
            state,
            foreigners,
            told: BTreeSet::new(),
            intake: VecDeque::new(),
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
            lost: BTreeSet::new(),
            failures: BTreeMap::new(),
            mending: BTreeSet::new(),
            retry_after: RETRY_FIRST,
            retry_at: None,
            may_compare_at: now,
            compare_at: now + COMPARE_EVERY,
            comparing: None,
            read: None,
            meanwhile: Vec::new(),
            doubts_objects: false,
            unsettled: true,
            rest_at: None,
            down: BTreeSet::new(),
            counts: Status::default(),
            status,
        };
        syncer.publish();
        Ok(syncer)
    }

    /// Works until told to stop.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let busy = !self.is_idle();
            let compare_at =
                self.compare_at.max(self.comparing.map_or(self.compare_at, |at| at + COMPARE_EVERY));
            let due = [self.retry_at, self.rest_at].into_iter().flatten().fold(compare_at, Instant::min);
            let wait = if busy { Duration::ZERO } else { due.saturating_duration_since(Instant::now()) };
            let first = match commands.recv_timeout(wait) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for command in first.into_iter().chain(commands.try_iter()) {
                match command {
                    Command::Update(delta, done) => self.update(delta, done),
                    Command::Sweep => self.sweep(),
                    Command::Kernel(event) => self.event(event),
                    Command::Links(links) => {
                        self.state.connect(links);
                        self.unsettled = true;
                        self.retry_soon();
                    }
                    Command::Read(read) => self.take_read(read),
                    Command::Stop => return,
                }
            }
            self.repair_lost();
            self.timers(Instant::now());
            self.objects();
            self.work();
            self.publish();
        }
    }

    fn is_idle(&self) -> bool {
        self.intake.is_empty() && self.urgent.is_empty() && self.bulk.is_empty() && self.read.is_none()
    }

    fn update(&mut self, delta: FibDelta, done: oneshot::Sender<Result<(), ApplyErrors>>) {
        let job = Job { done: Some(done), ..Job::default() };
        let size = delta.set.len() + delta.remove.len();
        if size <= URGENT {
            // It is newer than what waits.
            for (waiting, _) in &mut self.intake {
                for destination in delta.set.keys().chain(&delta.remove) {
                    waiting.set.remove(destination);
                }
                waiting.remove.retain(|key| !delta.set.contains_key(key) && !delta.remove.contains(key));
            }
        }
        self.intake.push_back((delta, job));
        if size <= URGENT {
            let newest = self.intake.len() - 1;
            self.take_in(newest);
        }
    }

    /// Takes a slice of a change in; the job is enqueued with the last.
    fn take_in(&mut self, place: usize) {
        let Some((delta, job)) = self.intake.get_mut(place) else { return };
        for _ in 0..SLICE {
            if let Some(destination) = delta.remove.pop() {
                self.state.unwant(destination);
                job.destinations.push_back(destination);
            } else if let Some((destination, route)) = delta.set.pop_first() {
                self.state.want(destination, &route);
                job.destinations.push_back(destination);
            } else {
                if let Some((_, job)) = self.intake.remove(place) {
                    self.enqueue(job);
                }
                return;
            }
        }
    }

    fn sweep(&mut self) {
        let destinations = self.state.sweep().into();
        self.rest_at = Some(Instant::now());
        self.enqueue(Job { destinations, ..Job::default() });
    }

    fn enqueue(&mut self, job: Job) {
        let queue = if job.destinations.len() <= URGENT { &mut self.urgent } else { &mut self.bulk };
        queue.push_back(job);
    }

    fn timers(&mut self, now: Instant) {
        let idle = self.is_idle();
        // What still waits in a queue would look like drift.
        if now >= self.compare_at && idle && self.comparing.is_none() {
            self.compare();
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
            self.state.forgive();
            self.unsettled = true;
            let destinations = self.failures.keys().copied().collect();
            self.enqueue(Job { destinations, ..Job::default() });
        }
        if self.rest_at.is_some_and(|at| now >= at) && idle {
            self.rest_at = None;
            let mut writes = Vec::new();
            self.state.rest(&mut writes);
            self.write(writes, &mut Job::default());
            self.tell_overlaps();
        }
    }

    /// Does one batch of the job whose turn it is.
    fn work(&mut self) {
        let is_urgent = !self.urgent.is_empty();
        if !is_urgent && !self.intake.is_empty() {
            return self.take_in(0);
        }
        if !is_urgent && self.compare_slice() {
            return;
        }
        let queue = if is_urgent { &mut self.urgent } else { &mut self.bulk };
        let Some(mut job) = queue.pop_front() else { return };
        self.batch(&mut job);
        if !job.destinations.is_empty() {
            self.bulk.push_front(job);
            return;
        }
        self.rest_at = Some(Instant::now() + REST);
        let outcome = if job.refused.is_empty() { Ok(()) } else { Err(ApplyErrors::Refused(job.refused)) };
        if let Some(done) = job.done {
            // Who waits may look at the status next.
            self.publish();
            // Nobody waits for an update that was dropped.
            let _ = done.send(outcome);
        }
    }

    fn publish(&mut self) {
        (self.counts.wanted, self.counts.installed, self.counts.objects) = self.state.counts();
        self.counts.swept = self.state.is_swept();
        self.counts.failing = self.failures.len();
        let told = self.failures.iter().take(TOLD);
        self.counts.failures = told
            .map(|(&destination, reason)| RouteError { destination, reason: Arc::clone(reason) })
            .collect();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
    }
}

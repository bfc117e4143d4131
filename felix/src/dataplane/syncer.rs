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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use tokio::sync::oneshot;

use super::monitor::Event;
use super::next_hops::Links;
use super::overlaps::Foreigners;
use super::snapshot;
use super::state::{Plan, State, Target, Write};
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
            let due = [self.retry_at, self.rest_at].into_iter().flatten().fold(self.compare_at, Instant::min);
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
        self.intake.is_empty() && self.urgent.is_empty() && self.bulk.is_empty()
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

    fn event(&mut self, event: Event) {
        match event {
            Event::RouteGone(seen) => {
                if seen.settings != self.settings {
                    return;
                }
                if self.state.actual(seen.destination) == Some(seen.target) {
                    self.state.lost(seen.destination);
                    self.lost.insert(seen.destination);
                } else if !matches!(seen.target, Target::Pod(_)) {
                    // Something we have written anew since.
                    self.doubt();
                }
            }
            Event::RouteSet(seen) if seen.settings == self.settings => {
                self.state.found(seen.destination, seen.target);
                self.lost.insert(seen.destination);
            }
            Event::RouteSet(_) | Event::Doubt => self.doubt(),
            Event::Objects => self.doubts_objects = true,
            Event::VethDown(index) => {
                // Not put back at once: it cannot be until the link is up, and mostly the pod is being deleted.
                let lost = self.state.there_by(index);
                if !lost.is_empty() {
                    self.down.insert(index);
                }
                for destination in lost {
                    self.state.lost(destination);
                }
            }
            Event::VethUp(index) => {
                if self.down.remove(&index) {
                    self.repair(self.state.wanted_by(index).into());
                }
            }
            Event::Foreign(foreign, is_there) => {
                if self.foreigners.change(foreign, is_there) {
                    self.rest_at.get_or_insert(Instant::now() + REST);
                }
            }
            Event::Reachable => self.retry_soon(),
        }
    }

    /// Has everything compared soon.
    fn doubt(&mut self) {
        self.compare_at = self.compare_at.min(self.may_compare_at);
    }

    /// What failed may succeed now.
    fn retry_soon(&mut self) {
        self.state.forgive();
        self.unsettled = true;
        self.retry_after = RETRY_FIRST;
        if !self.failures.is_empty() {
            self.retry_at = Some(Instant::now());
        }
    }

    fn repair(&mut self, destinations: VecDeque<IpNetwork>) {
        self.enqueue(Job { destinations, is_repair: true, ..Job::default() });
    }

    /// Routes that went one by one are put back together.
    fn repair_lost(&mut self) {
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            self.repair(lost.into_iter().collect());
        }
    }

    fn enqueue(&mut self, job: Job) {
        let queue = if job.destinations.len() <= URGENT { &mut self.urgent } else { &mut self.bulk };
        queue.push_back(job);
    }

    fn timers(&mut self, now: Instant) {
        let idle = self.is_idle();
        // What still waits in a queue would look like drift.
        if now >= self.compare_at && idle {
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

    /// Says what other programs' routes take from ours, once each.
    fn tell_overlaps(&mut self) {
        let ours = |destination| self.state.wanted(destination).is_some();
        let found = self.foreigners.overlaps(ours, self.settings.metric);
        for overlap in found.iter().filter(|overlap| !self.told.contains(*overlap)).take(TOLD) {
            tracing::warn!("{overlap}");
        }
        self.counts.overlapping = found.len();
        self.counts.overlaps = found.iter().take(TOLD).cloned().collect();
        self.told = found.into_iter().collect();
    }

    /// Reads what is there and puts right what is not as wanted.
    fn compare(&mut self) {
        let start = Instant::now();
        match snapshot::read(&mut self.netlink, Some(self.settings)) {
            Ok(mut snapshot) => {
                self.foreigners.observe(std::mem::take(&mut snapshot.foreign));
                let drifted = self.state.observe(snapshot).into_iter();
                let drifted: VecDeque<_> = drifted.filter(|key| !self.failures.contains_key(key)).collect();
                if !drifted.is_empty() {
                    self.repair(drifted);
                }
                self.unsettled = true;
                self.rest_at.get_or_insert(Instant::now() + REST);
            }
            Err(error) => {
                self.counts.netlink_errors += 1;
                tracing::warn!(%error, "cannot read the kernel's routes; trying again");
            }
        }
        let now = Instant::now();
        self.may_compare_at = now + COMPARE_APART.max(now.saturating_duration_since(start) * 3);
        self.compare_at = now + COMPARE_EVERY;
    }

    /// What is written before any route: groups that change under many.
    fn objects(&mut self) {
        if std::mem::take(&mut self.doubts_objects) {
            match snapshot::read_objects(&mut self.netlink) {
                Ok(objects) => {
                    let lost = self.state.observe_objects(objects);
                    if !lost.is_empty() {
                        self.repair(lost.into());
                    }
                    self.unsettled = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the kernel's next-hop objects; trying again");
                    self.doubt();
                }
            }
        }
        let mut writes = Vec::new();
        if std::mem::take(&mut self.unsettled) {
            self.state.settle(&mut writes);
        }
        self.state.moves(&mut writes);
        self.write(writes, &mut Job { is_repair: true, ..Job::default() });
    }

    /// Does one batch of the job whose turn it is.
    fn work(&mut self) {
        let is_urgent = !self.urgent.is_empty();
        if !is_urgent && !self.intake.is_empty() {
            return self.take_in(0);
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

    fn batch(&mut self, job: &mut Job) {
        let mut writes = Vec::with_capacity(BATCH);
        let mut failed = Vec::new();
        while writes.len() < BATCH
            && let Some(destination) = job.destinations.pop_front()
        {
            match self.state.plan(destination, &mut writes) {
                Plan::Written => {}
                Plan::Right => {
                    self.failures.remove(&destination);
                    self.mending.remove(&destination);
                }
                Plan::Impossible(reason) => failed.push((destination, reason)),
            }
        }
        self.fail(job, failed);
        self.write(writes, job);
    }

    /// Writes, and takes the kernel's answers.
    fn write(&mut self, writes: Vec<Write>, job: &mut Job) {
        if writes.is_empty() {
            return;
        }
        let had_failures = !self.failures.is_empty();
        let repaired = self.counts.repaired;
        let start = Instant::now();
        let messages = writes.iter().map(|write| self.state.message(write));
        let mut refused: BTreeMap<usize, Refusal> = match self.netlink.batch(messages) {
            Ok(refused) => refused.into_iter().collect(),
            Err(error) => {
                // Some were done and some were not: only the kernel knows.
                self.doubt();
                self.counts.netlink_errors += 1;
                let reason: Arc<str> = error.to_string().into();
                let lost = writes.into_iter().filter_map(|write| match write {
                    Write::Route(destination, _) => Some((destination, Arc::clone(&reason))),
                    _ => None,
                });
                return self.fail(job, lost.collect());
            }
        };
        self.counts.batches.0 += 1;
        self.counts.batches.1 += start.elapsed().as_secs_f64();
        let mut failed = Vec::new();
        for (place, write) in writes.into_iter().enumerate() {
            match refused.remove(&place) {
                Some(refusal) if !is_gone_already(&write, &refusal) => {
                    self.refuse(write, &refusal, &mut failed);
                }
                _ => self.succeed(&write, job.is_repair),
            }
        }
        self.fail(job, failed);
        if had_failures && self.failures.is_empty() {
            self.retry_after = RETRY_FIRST;
            tracing::info!("the kernel has taken all routes it had refused");
        }
        if self.counts.repaired > repaired {
            let routes = self.counts.repaired - repaired;
            tracing::warn!(routes, "put right what someone else had done to our routes");
        }
    }

    fn succeed(&mut self, write: &Write, is_repair: bool) {
        self.state.done(write);
        match write {
            Write::Route(destination, target) => {
                self.failures.remove(destination);
                match target {
                    Some(_) => self.counts.written += 1,
                    None => self.counts.removed += 1,
                }
                let is_mended = self.mending.remove(destination);
                self.counts.repaired += u64::from(is_repair || is_mended);
            }
            Write::Object(_) => self.counts.objects_written += 1,
            Write::Stray(_) => self.counts.removed += 1,
        }
    }

    fn refuse(&mut self, write: Write, refusal: &Refusal, failed: &mut Vec<(IpNetwork, Arc<str>)>) {
        match &write {
            Write::Route(destination, target) => {
                failed.push((*destination, self.explain(*target, refusal).into()));
            }
            Write::Object(object) => {
                tracing::debug!(?object, %refusal, "the kernel refuses a next-hop object");
                if refusal.errno == Errno::EEXIST || refusal.errno == Errno::ENOENT {
                    // It is there, or is not, and we did not know.
                    self.doubts_objects = true;
                }
                // Its groups may do without for now: a link says that it is up a moment before it is.
                self.unsettled = true;
                self.retry_at.get_or_insert(Instant::now() + self.retry_after);
            }
            Write::Stray(seen) => {
                tracing::warn!(destination = %seen.destination, %refusal, "a route of ours with another table or metric stays");
            }
        }
        self.state.refused(write);
    }

    fn fail(&mut self, job: &mut Job, failed: Vec<(IpNetwork, Arc<str>)>) {
        let mut news = 0;
        for (destination, reason) in failed {
            if job.is_repair {
                self.mending.insert(destination);
            }
            job.refused.push(RouteError { destination, reason: Arc::clone(&reason) });
            if self.failures.get(&destination) != Some(&reason) {
                news += 1;
                if news <= TOLD {
                    tracing::warn!(%destination, %reason, "a route cannot be written; it will be tried again");
                }
                self.failures.insert(destination, reason);
            }
        }
        if news > TOLD {
            tracing::warn!(more = news - TOLD, "more routes cannot be written");
        }
        if news > 0 {
            self.retry_after = RETRY_FIRST;
        }
        if !self.failures.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry_after);
        }
    }

    /// Why the kernel refused a route, in words.
    fn explain(&mut self, target: Option<Target>, refusal: &Refusal) -> String {
        match (refusal.errno, target) {
            (Errno::ENODEV, Some(Target::Pod(ifindex))) => {
                format!("there is no interface {ifindex}: {refusal}")
            }
            (Errno::ENETDOWN, Some(Target::Pod(ifindex))) => {
                format!("interface {ifindex} is down: {refusal}")
            }
            (Errno::EINVAL, Some(Target::Group(_))) => {
                self.doubts_objects = true;
                format!("its next hops cannot be used, or are of another family: {refusal}")
            }
            (Errno::EEXIST, _) => {
                self.doubt();
                let metric = self.settings.metric;
                format!("a route with metric {metric} that is not ours is in its place: {refusal}")
            }
            _ => refusal.to_string(),
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

/// Someone else was first.
fn is_gone_already(write: &Write, refusal: &Refusal) -> bool {
    match write {
        Write::Route(_, None) | Write::Stray(_) => refusal.errno == Errno::ESRCH,
        Write::Object(object) => object.after.is_none() && refusal.errno == Errno::ENOENT,
        Write::Route(..) => false,
    }
}

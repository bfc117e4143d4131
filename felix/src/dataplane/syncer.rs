//! The one thread that writes routes.
//!
//! ```text
//!   update, sweep ─┐            ┌─ urgent: at most 64 destinations (a pod)
//!   kernel events ─┼─▶ tracker ─┤                                     ─▶ at most 1,000 messages ─▶ kernel
//!   compare, retry ┘            └─ bulk                                      next job ◀─ answers ─┘
//! ```
//!
//! Commands change the tracker at once, between two batches; what waits is a list of destinations whose change is
//! worked out when their turn comes. So however much waits, it is bounded by the number of destinations,
//! and of two changes to one destination only the last is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use manx_cni::netlink::{Errno, Netlink, NetlinkError, Refusal};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;
use tokio::sync::oneshot;

use super::links::is_on_link;
use super::monitor::Event;
use super::routes::{self, PRIORITY};
use super::tracker::{Change, Tracker};
use super::{ApplyErrors, Fib, FibDelta, Route, RouteError, Status};

/// Most messages in a batch: some 7 ms, which is how long an urgent change waits behind bulk ones.
const BATCH: usize = 1000;

/// Most destinations of an urgent change.
const URGENT: usize = 64;

/// All of our routes are read and compared this often, whatever the kernel told us.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// And at most this often, whatever the kernel tells us: reading 100,000 routes takes a tenth of a second.
const COMPARE_APART: Duration = Duration::from_secs(1);

/// Refused routes are tried again after the first of these, doubling up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

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
    tracker: Tracker<IpNetwork, Route>,
    urgent: VecDeque<Job>,
    bulk: VecDeque<Job>,
    failures: BTreeMap<IpNetwork, String>,
    retry_after: Duration,
    retry_at: Option<Instant>,
    compared_at: Instant,
    compare_at: Instant,
    /// Pods' veths whose routes the kernel dropped.
    down: BTreeSet<u32>,
    counts: Status,
    status: Arc<Mutex<Status>>,
}

impl Syncer {
    /// Reads the routes that are ours.
    ///
    /// # Errors
    /// The socket's.
    pub fn new(mut netlink: Netlink, status: Arc<Mutex<Status>>) -> Result<Self, NetlinkError> {
        let actual = read(&mut netlink)?;
        let now = Instant::now();
        let mut syncer = Self {
            netlink,
            tracker: Tracker::new(actual),
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
            failures: BTreeMap::new(),
            retry_after: RETRY_FIRST,
            retry_at: None,
            compared_at: now,
            compare_at: now + COMPARE_EVERY,
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
            let busy = !self.urgent.is_empty() || !self.bulk.is_empty();
            let due = self.retry_at.map_or(self.compare_at, |at| at.min(self.compare_at));
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
                    Command::Stop => return,
                }
            }
            self.timers(Instant::now());
            self.work();
            self.publish();
        }
    }

    fn update(&mut self, delta: FibDelta, done: oneshot::Sender<Result<(), ApplyErrors>>) {
        let destinations = delta.remove.iter().chain(delta.set.keys()).copied().collect();
        for destination in &delta.remove {
            self.tracker.unwant(destination);
        }
        for (destination, route) in delta.set {
            self.tracker.want(destination, route);
        }
        self.enqueue(Job { destinations, done: Some(done), ..Job::default() });
    }

    fn sweep(&mut self) {
        self.tracker.sweep();
        let destinations = self.tracker.pending().copied().collect();
        self.enqueue(Job { destinations, ..Job::default() });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::RouteGone(destination, route) => {
                if self.tracker.actual().get(&destination) == Some(&route) {
                    self.tracker.lost(&destination);
                    self.repair([destination].into());
                } else if !matches!(route, Route::Pod { .. }) {
                    // One next hop of several, or something we have written anew since.
                    self.doubt();
                }
            }
            Event::Doubt => self.doubt(),
            Event::VethDown(index) => {
                // Not put back at once: it cannot be until the link is up, and mostly the pod is being deleted.
                let lost = on_link(self.tracker.actual(), index);
                if !lost.is_empty() {
                    self.down.insert(index);
                }
                for destination in &lost {
                    self.tracker.lost(destination);
                }
            }
            Event::VethUp(index) => {
                if self.down.remove(&index) {
                    self.repair(on_link(self.tracker.wanted(), index));
                }
            }
            Event::Reachable => {
                self.retry_after = RETRY_FIRST;
                self.retry_at = self.retry_at.map(|at| at.min(Instant::now() + RETRY_FIRST));
            }
        }
    }

    /// Has everything compared soon.
    fn doubt(&mut self) {
        self.compare_at = self.compare_at.min(self.compared_at + COMPARE_APART);
    }

    fn repair(&mut self, destinations: VecDeque<IpNetwork>) {
        self.enqueue(Job { destinations, is_repair: true, ..Job::default() });
    }

    fn enqueue(&mut self, job: Job) {
        let queue = if job.destinations.len() <= URGENT { &mut self.urgent } else { &mut self.bulk };
        queue.push_back(job);
    }

    fn timers(&mut self, now: Instant) {
        // What still waits in a queue would look like drift.
        if now >= self.compare_at && self.urgent.is_empty() && self.bulk.is_empty() {
            self.compare();
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
            let destinations = self.failures.keys().copied().collect();
            self.enqueue(Job { destinations, ..Job::default() });
        }
    }

    /// Reads what is there and puts right what is not as wanted.
    fn compare(&mut self) {
        match read(&mut self.netlink) {
            Ok(actual) => {
                self.tracker.observe(actual);
                let drifted: VecDeque<_> =
                    self.tracker.pending().filter(|key| !self.failures.contains_key(key)).copied().collect();
                if !drifted.is_empty() {
                    self.repair(drifted);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the kernel's routes; trying again"),
        }
        self.compared_at = Instant::now();
        self.compare_at = self.compared_at + COMPARE_EVERY;
    }

    /// Does one batch of the job whose turn it is.
    fn work(&mut self) {
        let is_urgent = !self.urgent.is_empty();
        let queue = if is_urgent { &mut self.urgent } else { &mut self.bulk };
        let Some(mut job) = queue.pop_front() else { return };
        self.batch(&mut job);
        if !job.destinations.is_empty() {
            self.bulk.push_front(job);
            return;
        }
        let outcome = if job.refused.is_empty() { Ok(()) } else { Err(ApplyErrors::Refused(job.refused)) };
        if let Some(done) = job.done {
            // Who waits may look at the status next.
            self.publish();
            // Nobody waits for an update that was dropped.
            let _ = done.send(outcome);
        }
    }

    fn batch(&mut self, job: &mut Job) {
        let mut sent = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < BATCH
            && let Some(destination) = job.destinations.pop_front()
        {
            match self.tracker.change(&destination) {
                Some(change) => {
                    sent.push((destination, change == Change::Remove));
                    requests.push(routes::request(destination, change));
                }
                None => {
                    self.failures.remove(&destination);
                }
            }
        }
        let mut refused: BTreeMap<usize, Refusal> = match self.netlink.batch(requests) {
            Ok(refused) => refused.into_iter().collect(),
            Err(error) => {
                // Some were done and some were not: only the kernel knows.
                self.doubt();
                let reason = error.to_string();
                let lost = sent.into_iter().map(|(destination, _)| (destination, reason.clone()));
                return self.fail(job, lost.collect());
            }
        };
        let mut failed = Vec::new();
        let mut reachable = BTreeMap::new();
        let before = (self.failures.len(), self.counts.repaired);
        for (place, (destination, is_removal)) in sent.into_iter().enumerate() {
            match refused.remove(&place) {
                // ESRCH: someone else removed it first.
                Some(refusal) if !(is_removal && refusal.errno == Errno::ESRCH) => {
                    failed.push((destination, self.explain(destination, &refusal, &mut reachable)));
                }
                _ => self.succeed(destination, is_removal, job.is_repair),
            }
        }
        self.fail(job, failed);
        if before.0 > 0 && self.failures.is_empty() {
            self.retry_after = RETRY_FIRST;
            tracing::info!("the kernel has taken all routes it had refused");
        }
        if self.counts.repaired > before.1 {
            let routes = self.counts.repaired - before.1;
            tracing::warn!(routes, "put right what someone else had done to our routes");
        }
    }

    fn succeed(&mut self, destination: IpNetwork, is_removal: bool, is_repair: bool) {
        self.tracker.done(&destination);
        self.failures.remove(&destination);
        match is_removal {
            true => self.counts.removed += 1,
            false => self.counts.written += 1,
        }
        if is_repair {
            self.counts.repaired += 1;
        }
    }

    fn fail(&mut self, job: &mut Job, failed: Vec<(IpNetwork, String)>) {
        let mut news = 0;
        for (destination, reason) in failed {
            job.refused.push(RouteError { destination, reason: reason.clone() });
            if self.failures.get(&destination) != Some(&reason) {
                news += 1;
                if news <= TOLD {
                    tracing::warn!(%destination, %reason, "the kernel refuses a route; it will be tried again");
                }
                self.failures.insert(destination, reason);
            }
        }
        if news > TOLD {
            tracing::warn!(more = news - TOLD, "the kernel refuses more routes");
        }
        if news > 0 {
            self.retry_after = RETRY_FIRST;
        }
        if !self.failures.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry_after);
        }
    }

    /// Why the kernel refused, in words. `reachable` remembers next hops asked for within a batch.
    fn explain(
        &mut self,
        destination: IpNetwork,
        refusal: &Refusal,
        reachable: &mut BTreeMap<IpAddr, bool>,
    ) -> String {
        match (refusal.errno, self.tracker.wanted().get(&destination)) {
            (Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL, Some(Route::Via(next_hops))) => {
                let netlink = &mut self.netlink;
                let unreachable: Vec<_> = next_hops
                    .iter()
                    .filter(|hop| !*reachable.entry(**hop).or_insert_with(|| is_on_link(netlink, **hop)))
                    .map(IpAddr::to_string)
                    .collect();
                if unreachable.is_empty() {
                    return refusal.to_string();
                }
                format!("next hop {} is on no connected network: {refusal}", unreachable.join(", "))
            }
            (Errno::ENODEV, Some(Route::Pod { ifindex })) => {
                format!("there is no interface {ifindex}: {refusal}")
            }
            (Errno::ENETDOWN, Some(Route::Pod { ifindex })) => {
                format!("interface {ifindex} is down: {refusal}")
            }
            (Errno::EEXIST, _) => {
                self.doubt();
                format!("a route with metric {PRIORITY} that is not ours is in its place: {refusal}")
            }
            _ => refusal.to_string(),
        }
    }

    fn publish(&mut self) {
        self.counts.wanted = self.tracker.wanted().len();
        self.counts.installed = self.tracker.actual().len();
        self.counts.swept = self.tracker.is_swept();
        self.counts.failing = self.failures.len();
        let told = self.failures.iter().take(TOLD);
        self.counts.failures =
            told.map(|(&destination, reason)| RouteError { destination, reason: reason.clone() }).collect();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
    }
}

/// All of our routes that the kernel holds.
pub(super) fn read(netlink: &mut Netlink) -> Result<Fib, NetlinkError> {
    let mut fib = Fib::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        match netlink.dump(&routes::dump_request(family), |route: RouteMessage| routes::parse(&route)) {
            Ok(routes) => fib.extend(routes),
            // The main table comes into being with its first route.
            Err(NetlinkError::Refused(Refusal { errno: Errno::ENOENT, .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fib)
}

/// The destinations of `fib` on-link by `index`.
fn on_link(fib: &Fib, index: u32) -> VecDeque<IpNetwork> {
    fib.iter().filter(|(_, route)| **route == Route::Pod { ifindex: index }).map(|(key, _)| *key).collect()
}

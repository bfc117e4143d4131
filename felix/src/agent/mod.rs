//! The one task that owns the agent's state.
//!
//! ```text
//!   watch ─ Update ──▶ ┌──────┐ ─ Program ▶ dataplane, acl ─ answered ─▶ plugins, then the speaker's orders
//!   attach ─ Command ▶ │ Core │ ─ Claim ──▶ API
//!   speaker ─ Event ─▶ │      │ ─ Write ──▶ API
//!   outcomes, ticks ─▶ └──────┘ ─ Report ─▶ manxctl
//! ```
//!
//! `Core` decides and never waits. This file moves what it decides outside, and the outcomes back. Restarting is
//! the same as starting: what is in the kernel and with the speaker stays, until everything that wants it has been
//! read again.

mod answers;
mod balancing;
mod blocks;
mod carve;
mod choice;
mod cluster;
mod core;
mod degraded;
mod draining;
mod election;
mod enforced;
mod exhaustion;
mod found;
mod give;
mod heartbeat;
pub mod known;
pub mod lease;
mod lookup;
mod meshing;
mod mirror;
mod own_address;
mod pods;
mod release;
mod report;
#[cfg(test)]
mod tests;
mod vanished;
mod write;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Client;
use manx_bgp::api::{self, AfterDrain, Config, Request};
use manx_ipam::claim::{Claim, ClaimError, Claimed, Taken, claim, claim_this};
use manx_ipam::crd::IPAMBlock;
use manx_ipam::store::kube::KubeStore;
use manx_ipam::store::{Store, StoreError};
use manx_ipam::{BlockCidr, Pool};
use tokio::sync::{mpsc, oneshot, watch as cell};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::core::{Answer, Core, Effect, Host, Retired, Start};
use crate::acl;
use crate::acl::driver::{Driver, UpdateError};
use crate::acl::keeper::Keeper;
use crate::acl::ruleset::Delta;
use crate::attach::files::Files;
use crate::attach::{Attempt, Command, Refusal};
use crate::dataplane::own_address::find as own_address_of;
use crate::dataplane::retire::{LinkError, Removal};
use crate::dataplane::{ApplyErrors, Dataplane, links, neighbours, sysctl};
use crate::discovery::Discovery;
use crate::health::{Metrics, Pulse};
use crate::model::service::Service;
use crate::model::{Object, Wanted};
use crate::speaker::{self, Speaker};
use crate::status::NodeReport;
use crate::watch::{Said, Update, Watches};
use balancing::Granted;
use blocks::Want;
use choice::Learned;
use election::{Bid, Duty, Record};
use enforced::Survey;
use found::PodLink;
use mirror::Write;
use vanished::{Collected, Collection};

/// Between two turns of what is done from time to time.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at the kernel's settings.
const SETTINGS: u32 = 5;

/// Ticks between two questions to the speaker.
const POLL: u32 = 2;

/// Denied packets that wait for the names of their pods; more are told without those of other nodes.
const UNNAMED: usize = 256;

/// What the speaker may take to say how it is.
const POLL_DEADLINE: Duration = Duration::from_secs(2);

/// The agent, and what it acts on.
pub struct Agent {
    core: Core,
    dataplane: Dataplane,
    acl: Driver,
    services: Keeper,
    nat: Keeper,
    discovery: Discovery,
    proc_sys: PathBuf,
    speaker: Speaker,
    client: Client,
    store: KubeStore,
    /// Of the Lease.
    namespace: String,
    doubt: Arc<tokio::sync::Notify>,
    /// Names of the Secrets to be read.
    secrets: cell::Sender<BTreeSet<String>>,
    metrics: Metrics,
    pulse: cell::Sender<Pulse>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Counts [`Effect::Program`]s: orders are given in the order they were decided.
    programs: u64,
    ordered: u64,
    /// Changes of the packet filter that are not answered yet.
    filtering: usize,
    ticks: u32,
}

/// How work outside ended.
enum Done {
    Programmed {
        number: u64,
        in_sync: bool,
        answers: Vec<Answer<()>>,
        orders: Option<Config>,
        outcome: Result<(), ApplyErrors>,
        removal: Option<(Vec<Retired>, Result<Removal, LinkError>)>,
    },
    Taught(Result<(), ApplyErrors>),
    Settled(Option<(sysctl::Report, Vec<neighbours::Table>)>),
    Gone(Vec<Retired>, bool),
    Attached {
        answers: Vec<Answer<()>>,
        /// None: the packet filter had all of it already.
        filtered: Option<Result<(), UpdateError>>,
        routed: Result<(), ApplyErrors>,
    },
    Filtered(Result<(), UpdateError>),
    Claimed(Want, Result<Claimed, ClaimError>),
    Reclaimed(BlockCidr, Result<Claimed, ClaimError>),
    Returned(BlockCidr, Result<(), StoreError>),
    Granted(BlockCidr, Result<(), StoreError>),
    LookedUp(Attempt, Learned),
    Bid(Duty, Bid, Result<Option<Record>, ()>),
    ListedServices(Option<Vec<Object<Service>>>),
    Given(Vec<(Arc<str>, Granted)>),
    Collected(String, Collected),
    Written(Vec<Write>, Option<String>),
    Surveyed(Option<Survey>),
    Drained(Option<u32>, Result<(), String>),
    Polled(Option<api::Status>),
    Report(oneshot::Sender<serde_json::Value>, Option<api::Status>),
}

impl Agent {
    /// Reads back what an earlier agent left in the state directory.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn new(
        config: &crate::config::Config,
        client: Client,
        (dataplane, acl, services, nat): (Dataplane, Driver, Keeper, Keeper),
        speaker: Speaker,
        metrics: Metrics,
    ) -> io::Result<(Self, cell::Receiver<Pulse>)> {
        let now = Instant::now();
        let core = Core::start(
            Start {
                me: config.node_name.clone(),
                files: Files::open(config.state_dir())?,
                socket: config.socket.clone(),
                known: known::KnownFile::new(config.state_dir()),
                host: Box::new(Kernel),
                mtu: config.mtu,
                metrics: metrics.clone(),
                collection: Collection {
                    grace: Duration::from_secs(config.gc_grace),
                    budget: config.gc_budget,
                    dry_run: config.gc_dry_run,
                },
                finds_routes: dataplane.status().installed > 0,
            },
            now,
        )?;
        let (pulse, receiver) = cell::channel(Pulse { at: now, report: NodeReport::default() });
        let store = KubeStore::new(client.clone());
        let agent = Self {
            core,
            dataplane,
            acl,
            services,
            nat,
            discovery: Discovery::default(),
            proc_sys: config.proc_sys.clone(),
            speaker,
            client,
            store,
            namespace: config.namespace.clone(),
            doubt: Arc::default(),
            secrets: cell::channel(BTreeSet::new()).0,
            metrics,
            pulse,
            work: FuturesUnordered::new(),
            programs: 0,
            ordered: 0,
            filtering: 0,
            ticks: 0,
        };
        Ok((agent, receiver))
    }

    /// Turns until `stop` resolves, or the plugins' commands end; then leaves everything in place.
    pub async fn run(
        mut self,
        watches: Watches,
        mut commands: mpsc::Receiver<Command>,
        stop: impl Future<Output = ()>,
    ) {
        let Watches { mut updates, doubt, secrets } = watches;
        self.doubt = doubt;
        self.secrets = secrets;
        let mut stop = std::pin::pin!(stop);
        let (names, mut unnamed) = mpsc::channel(UNNAMED);
        self.acl.name_by(names);
        let mut underlay = self.dataplane.underlay();
        self.core.see_underlay(underlay.borrow_and_update().clone());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act();
            let behind = self.core.is_behind();
            tokio::select! {
                // In order of who can wait least: pods are started and stopped between two parts of a large change.
                biased;
                () = &mut stop => return,
                command = commands.recv() => match command {
                    Some(command) => self.core.command(command, Instant::now()),
                    None => return,
                },
                Some(done) = self.work.next() => self.done(done),
                _ = tick.tick() => self.tick(),
                Some(mut denial) = unnamed.recv() => {
                    self.core.graph.policy.name(&mut denial);
                    self.acl.named(denial);
                }
                Ok(()) = underlay.changed() => self.core.see_underlay(underlay.borrow_and_update().clone()),
                Some(found) = self.discovery.found.recv() => self.core.find(found),
                Some(said) = updates.recv() => self.update(said),
                Some(event) = self.speaker.events.recv(), if !behind => self.core.hear(event),
                () = std::future::ready(()), if behind => {}
            }
        }
    }

    fn update(&mut self, Said { at, update }: Said) {
        let kind = update.name();
        self.metrics.watch_events.with_label_values(&[update.name()]).inc();
        if matches!(update, Update::Refused(_, Some(_)) | Update::Api(Err(_))) {
            self.metrics.api_errors.with_label_values(&["watch"]).inc();
        }
        self.core.update(update, Instant::now());
        self.metrics.watch_lag.with_label_values(&[kind]).observe(at.elapsed().as_secs_f64());
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let kernel = self.dataplane.status();
        self.metrics.see_routes(&kernel);
        self.core.see_kernel(kernel);
        self.core.see_filter(self.acl.status(), self.filtering > 0, now);
        if self.ticks.is_multiple_of(SETTINGS) {
            let root = self.proc_sys.clone();
            let look = spawn_blocking(move || (sysctl::prepare_node(&root), neighbours::read()));
            self.work.push(Box::pin(async move { Done::Settled(look.await.ok()) }));
        }
        self.core.tick(now);
        if self.ticks.is_multiple_of(POLL) {
            let socket = self.speaker.socket().to_owned();
            self.work.push(Box::pin(async move { Done::Polled(poll(&socket).await) }));
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.pulse.send_replace(Pulse { at: now, report: self.core.report(now) });
    }

    /// The kernel's settings are what they were made, or made so again: a few small files an interface.
    fn settled(&mut self, report: &sysctl::Report, tables: &[neighbours::Table]) {
        for change in &report.changed {
            self.metrics.sysctl_repairs.with_label_values(&[&change.name]).inc();
            tracing::warn!(
                "{} was {}, which someone else has set or a new interface came with; it is {} again",
                change.name,
                change.from,
                change.to
            );
        }
        let mut failed: Vec<String> = report.failed.iter().map(ToString::to_string).collect();
        for table in tables {
            self.metrics.see_neighbours(table);
            failed.extend(table.complaint());
        }
        failed.extend([&self.nat, &self.services].into_iter().filter_map(|kept| kept.status().failure));
        self.core.see_settings(failed);
    }

    /// Does what the core wants done now; what takes time goes on beside the loop.
    fn act(&mut self) {
        let began = Instant::now();
        let effects = self.core.effects(began);
        if !effects.is_empty() {
            let took = began.elapsed().as_secs_f64();
            self.metrics.graph_seconds.with_label_values::<&str>(&[]).observe(took);
        }
        for effect in effects {
            match effect {
                Effect::Program { delta, acl, retire, answers, attached, orders } => {
                    self.programs += 1;
                    let (number, in_sync) = (self.programs, self.core.in_sync());
                    let filtered = self.filter(*acl, !attached.is_empty());
                    let routed = self.dataplane.update(delta).shared();
                    if filtered.is_some() || !attached.is_empty() {
                        self.filtering += usize::from(filtered.is_some());
                        let (filtered, routed) = (OptionFuture::from(filtered), routed.clone());
                        self.work.push(Box::pin(async move {
                            let (filtered, routed) = tokio::join!(filtered, routed);
                            Done::Attached { answers: attached, filtered, routed }
                        }));
                    }
                    let dataplane = self.dataplane.clone();
                    self.work.push(Box::pin(async move {
                        let outcome = routed.await;
                        let removal = remove(&dataplane, retire).await;
                        Done::Programmed { number, in_sync, answers, orders, outcome, removal }
                    }));
                }
                Effect::Filter(acl) => {
                    self.filtering += 1;
                    let filtered = self.acl.update(*acl);
                    self.work.push(Box::pin(async move { Done::Filtered(filtered.await) }));
                }
                Effect::Guard(guard) => self.services.want(acl::services::compile(&guard)),
                Effect::Learn(delta) => {
                    let routed = self.dataplane.update(delta);
                    self.work.push(Box::pin(async move { Done::Taught(routed.await) }));
                }
                Effect::Translate(nat) => self.nat.want(nat.table()),
                Effect::Discover(interfaces) => {
                    if let Err(error) = self.discovery.look_on(&interfaces) {
                        tracing::error!("cannot look for neighbours by their links: {error}");
                    }
                }
                Effect::SweepAcl => self.acl.sweep(),
                Effect::Sweep => self.dataplane.sweep(),
                Effect::Claim { want, pools, taken } => {
                    let (store, me) = (self.store.clone(), self.core.node().to_owned());
                    self.work.push(Box::pin(async move {
                        let outcome = claim_wanted(&store, &me, &want, &pools, taken).await;
                        Done::Claimed(want, outcome)
                    }));
                }
                Effect::Reclaim(wanted) => {
                    let (store, cidr) = (self.store.clone(), wanted.cidr);
                    self.work.push(Box::pin(async move {
                        Done::Reclaimed(cidr, claim_this(&store, wanted).await)
                    }));
                }
                Effect::Return { cidr, uid } => {
                    let store = self.store.clone();
                    self.work.push(Box::pin(async move {
                        Done::Returned(cidr, store.delete_block(&cidr.object_name(), &uid, None).await)
                    }));
                }
                Effect::Grant(part) => {
                    let store = self.store.clone();
                    self.work.push(Box::pin(async move {
                        Done::Granted(part.cidr, store.create_block(&IPAMBlock::from(&part)).await)
                    }));
                }
                Effect::ListServices => {
                    let client = self.client.clone();
                    self.work.push(Box::pin(async move { Done::ListedServices(give::list(client).await) }));
                }
                Effect::Give { grants, until } => {
                    let client = self.client.clone();
                    self.work
                        .push(Box::pin(async move { Done::Given(give::give(client, grants, until).await) }));
                }
                Effect::Bid(duty, bid) => {
                    let (client, namespace) = (self.client.clone(), self.namespace.clone());
                    let me = self.core.node().to_owned();
                    self.work.push(Box::pin(async move {
                        let lease = lease::bid(client, &namespace, &me, (duty, &bid)).await;
                        Done::Bid(duty, bid, lease)
                    }));
                }
                Effect::Collect { node, blocks, dry_run } => {
                    let (client, store) = (self.client.clone(), self.store.clone());
                    self.work.push(Box::pin(async move {
                        let outcome = lease::collect(client, &store, &node, blocks, dry_run).await;
                        Done::Collected(node, outcome)
                    }));
                }
                Effect::LookUp { attempt, namespace, name } => {
                    let client = self.client.clone();
                    self.work.push(Box::pin(async move {
                        Done::LookedUp(attempt, lookup::look_up(client, &namespace, &name).await)
                    }));
                }
                Effect::Survey { statuses } => {
                    let client = self.client.clone();
                    self.work.push(Box::pin(async move {
                        Done::Surveyed(lookup::survey(client, statuses).await)
                    }));
                }
                Effect::Secrets(named) => drop(self.secrets.send_replace(named)),
                Effect::Drain(wait) => {
                    let socket = self.speaker.socket().to_owned();
                    self.work.push(Box::pin(async move { Done::Drained(wait, drain(&socket, wait).await) }));
                }
                Effect::Write(writes) => {
                    let (client, store) = (self.client.clone(), self.store.clone());
                    self.work.push(Box::pin(async move {
                        let (done, failure) = write::write_all(client, store, writes).await;
                        Done::Written(done, failure)
                    }));
                }
                Effect::Report(answer) => {
                    let socket = self.speaker.socket().to_owned();
                    self.work.push(Box::pin(async move { Done::Report(answer, poll(&socket).await) }));
                }
            }
        }
    }

    /// Gives the packet filter a change. Without one a pod that is ready waits for those given before, of which one may be
    /// its own; none: all of them are in force.
    fn filter(
        &self,
        delta: Delta,
        is_ready: bool,
    ) -> Option<impl Future<Output = Result<(), UpdateError>> + Send + 'static + use<>> {
        let in_force = || self.filtering == 0 && self.acl.is_in_force();
        (!delta.is_empty() || is_ready && !in_force()).then(|| self.acl.update(delta))
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Programmed { number, in_sync, answers, orders, outcome, removal } => {
                if let Some((retired, down)) = removal {
                    self.removing(retired, down);
                }
                self.programmed(number, answers, orders, outcome);
                if in_sync {
                    self.core.programmed();
                }
            }
            Done::Settled(looked) => {
                if let Some((report, tables)) = looked {
                    self.settled(&report, &tables);
                }
            }
            Done::Taught(outcome) => self.see_outcome(&outcome),
            Done::Gone(retired, gone) => self.core.gone(retired, gone, now),
            Done::Attached { answers, filtered, routed } => {
                self.filtering -= usize::from(filtered.is_some());
                let filtered = filtered.unwrap_or(Ok(()));
                let later = "the runtime tries again; manxctl status shows the node's routes and policies";
                let failed = match (&filtered, &routed) {
                    (Err(error), _) => Some(format!("the pod's policies are not in force: {error}")),
                    (Ok(()), Err(errors)) => Some(format!("the pod's route is not in the kernel: {errors}")),
                    (Ok(()), Ok(())) => None,
                };
                if let (Err(error), true) = (&filtered, answers.is_empty()) {
                    tracing::warn!("{error}; tried again");
                }
                for answer in answers {
                    let refused = failed.as_ref().map(|message| Refusal::try_again(message.clone(), later));
                    // A plugin that has gone is undone by the Abort that follows.
                    let _ = answer.send(refused.map_or(Ok(()), Err));
                }
            }
            Done::Filtered(outcome) => {
                self.filtering -= 1;
                if let Err(error) = outcome {
                    tracing::warn!("{error}; tried again");
                }
            }
            Done::Claimed(want, outcome) => {
                self.doubt_if(outcome.is_err());
                self.core.claimed(want, outcome, now);
            }
            Done::Returned(cidr, outcome) => {
                self.doubt_if(outcome.is_err());
                self.core.returned(cidr, outcome, now);
            }
            Done::Granted(part, outcome) => {
                self.doubt_if(outcome.is_err());
                self.core.granted(part, outcome, now);
            }
            Done::Bid(duty, bid, lease) => self.core.bid_answered((duty, &bid), lease, now),
            Done::ListedServices(services) => {
                self.doubt_if(services.is_none());
                self.core.listed_services(services, now);
            }
            Done::Given(outcomes) => {
                self.doubt_if(outcomes.iter().any(|(_, outcome)| *outcome == Granted::Unknown));
                self.core.given(outcomes, now);
            }
            Done::Collected(node, outcome) => self.core.collected(node, outcome, now),
            Done::LookedUp(attempt, learned) => self.core.looked_up(attempt, learned, now),
            Done::Reclaimed(cidr, outcome) => {
                self.doubt_if(outcome.is_err());
                self.core.reclaimed(cidr, outcome, now);
            }
            Done::Written(done, failure) => {
                self.doubt_if(failure.is_some());
                self.core.written(done, failure, now);
            }
            Done::Surveyed(survey) => {
                self.doubt_if(survey.is_none());
                self.core.surveyed(survey, now);
            }
            Done::Drained(wait, outcome) => self.core.drained(wait, outcome, now),
            Done::Polled(status) => self.core.hear_status(status),
            Done::Report(answer, status) => {
                self.core.hear_status(status);
                self.core.see_kernel(self.dataplane.status());
                self.core.see_filter(self.acl.status(), self.filtering > 0, now);
                let report = serde_json::to_value(self.core.report(now)).unwrap_or_default();
                let _ = answer.send(report);
            }
        }
    }

    /// The kernel has answered: now plugins may be told, and then the speaker.
    fn programmed(
        &mut self,
        number: u64,
        answers: Vec<Answer<()>>,
        orders: Option<Config>,
        outcome: Result<(), ApplyErrors>,
    ) {
        self.see_outcome(&outcome);
        for answer in answers {
            let outcome = outcome.as_ref().map(drop).map_err(|errors| {
                let message = format!("the pod's route is not in the kernel: {errors}");
                Refusal::try_again(message, "the runtime tries again; manxctl status shows the node's routes")
            });
            let _ = answer.send(outcome);
        }
        if let Some(orders) = orders
            && number > self.ordered
        {
            self.ordered = number;
            self.speaker.order(orders);
        }
    }

    fn see_outcome(&mut self, outcome: &Result<(), ApplyErrors>) {
        if let Err(errors) = outcome {
            tracing::warn!("{errors}; tried again");
        }
        if *outcome == Err(ApplyErrors::Stopped) {
            self.core.lose_kernel();
        }
    }

    /// Waits for interfaces that are down to go. One that cannot be taken down is tried again: nothing leads to it any
    /// more, and its address stays held, so a DEL need not know.
    fn removing(&mut self, retired: Vec<Retired>, down: Result<Removal, LinkError>) {
        match down {
            Ok(removal) => {
                self.work.push(Box::pin(async move { Done::Gone(retired, removal.gone().await) }));
            }
            Err(error) => {
                tracing::warn!("{error}; tried again");
                self.core.gone(retired, false, Instant::now());
            }
        }
    }

    fn doubt_if(&self, failed: bool) {
        if failed {
            self.doubt.notify_one();
        }
    }
}

/// Has interfaces taken down.
async fn remove(
    dataplane: &Dataplane,
    retired: Vec<Retired>,
) -> Option<(Vec<Retired>, Result<Removal, LinkError>)> {
    if retired.is_empty() {
        return None;
    }
    let down = dataplane.retire(retired.iter().map(|link| link.index).collect()).await;
    Some((retired, down))
}

async fn poll(socket: &Path) -> Option<api::Status> {
    match timeout(POLL_DEADLINE, speaker::status(socket)).await {
        Ok(Ok(status)) => Some(status),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the speaker does not say how it is");
            None
        }
        Err(_) => None,
    }
}

/// Has the speaker leave gracefully (RFC 8326) after so many seconds, or takes that back.
async fn drain(socket: &Path, wait: Option<u32>) -> Result<(), String> {
    let request = match wait {
        Some(wait) => {
            let (then, reason) = (AfterDrain::Withdraw, draining::REASON.to_owned());
            Request::Drain { peer: None, wait, then, reason }
        }
        None => Request::Undrain { peer: None },
    };
    match timeout(POLL_DEADLINE, speaker::tell(socket, request)).await {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err("the speaker does not answer".to_owned()),
    }
}

/// Claims what is wanted: a block of these pools, or one and no other.
async fn claim_wanted(
    store: &impl Store,
    me: &str,
    want: &Want,
    pools: &[Pool],
    taken: Taken,
) -> Result<Claimed, ClaimError> {
    match (want.block, pools.first()) {
        (Some(cidr), Some(pool)) => {
            let wanted = Claim { cidr, pool: pool.name.clone(), node: me.to_owned(), parent: None };
            claim_this(store, wanted).await
        }
        _ => claim(store, pools, me, taken).await,
    }
}

/// The interfaces of the kernel this agent runs on.
struct Kernel;

impl Host for Kernel {
    fn index_of(&self, name: &str) -> io::Result<Option<u32>> {
        links::index_of(name).map_err(io::Error::other)
    }

    fn pod_links(&self) -> io::Result<Vec<PodLink>> {
        let links = links::pod_links().map_err(io::Error::other)?;
        Ok(links.into_iter().map(|(address, ifname, ifindex)| PodLink { address, ifname, ifindex }).collect())
    }

    fn addresses(&self, wanted: &Wanted) -> io::Result<Vec<IpAddr>> {
        own_address_of(wanted)
    }

    fn mtu_of(&self, addresses: &[IpAddr]) -> Option<u32> {
        match links::mtu_of_uplink(addresses) {
            Ok(mtu) => mtu,
            Err(error) => {
                tracing::warn!("cannot read the MTU of this node's interface: {error}");
                None
            }
        }
    }
}

//! The kernel's side: routes, links and sysctls, made to be what is wanted.
//!
//! ```text
//!   Dataplane ──FibDelta──▶ syncer (one thread) ──batches──▶ kernel      state, objects: wanted against actual
//!       ▲                    │  ▲   ▲                          │           message: how the kernel says it
//!       └─ future resolves ──┘  │   └─ monitor (one thread) ◀──┘           what others did to what is ours
//!                               └──── Links ─┐      └─ pokes ─┐
//!   Dataplane::underlay ◀──── Reach ─── underlay (one thread) ◀┘           the ways there are without us
//!       │                    └── route-reader (one thread) reads all there is, to be compared
//!       └── veths to remove ──▶ retire (two threads) ─▶ down ─▶ removed
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use ipnetwork::IpNetwork;
use manx_bgp::api::Reach;
use manx_cni::netlink::{Netlink, NetlinkError};
use tokio::sync::{oneshot, watch};

use monitor::Monitor;
use next_hops::{NextHop, NextHops};
use retire::{LinkError, Removal, Retirement};
use syncer::{Command, Reader, Syncer};

pub mod links;
pub mod lookup;
pub mod message;
mod monitor;
pub mod neighbours;
pub mod next_hops;
pub mod objects;
mod overlaps;
pub mod own_address;
pub mod retire;
mod slots;
pub mod snapshot;
pub mod state;
mod syncer;
pub mod sysctl;
mod underlay;

/// All routes wanted, by destination (no host bits).
pub type Fib = BTreeMap<IpNetwork, Route>;

/// One wanted route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A pod's address: on-link by its veth.
    Pod {
        /// The host's end.
        ifindex: u32,
    },
    /// An owned block: what no pod holds is dropped here, not sent back to a default route.
    Blackhole,
    /// Nothing is there, and who sends there is told so (ICMP).
    Unreachable,
    /// Learned: by those of these next hops together (ECMP) that can be reached; at least one.
    Via(NextHops),
}

impl Route {
    /// A learned route by these next hops.
    pub fn via<H: Into<NextHop>>(hops: impl IntoIterator<Item = H>) -> Self {
        Self::Via(hops.into_iter().collect())
    }
}

/// Where routes are put. Routes of ours that are elsewhere are of an agent that was told otherwise, and go with the
/// sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// The routing table all routes of Manx are put in: 1 to 4294967295. A rule that looks packets up in another than
    /// the main one (254) is for you to make (ip rule).
    #[arg(long = "route-table", value_name = "NUMBER", default_value_t = Settings::TABLE, value_parser = clap::value_parser!(u32).range(1..))]
    pub table: u32,
    /// The metric of all routes of Manx: 1 to 4294967295, one that no other program of the node uses. The route with
    /// the least is taken.
    #[arg(long = "route-metric", value_name = "NUMBER", default_value_t = Settings::METRIC, value_parser = clap::value_parser!(u32).range(1..))]
    pub metric: u32,
}

impl Settings {
    /// The metric unless it is said. A route is replaced by its destination and metric, whosever it is, so ours is one
    /// that no other program writes: they leave 0 (IPv4) or 1024 (IPv6), take 20 and up (FRR, its distances), 32 (BIRD)
    /// or 100 and up (DHCP clients). Below those of the routing daemons, so that a pod of this node stays here when one
    /// of them learns the pod's block back from the network.
    pub const METRIC: u32 = 13;
}

impl Default for Settings {
    fn default() -> Self {
        Self { table: Self::TABLE, metric: Self::METRIC }
    }
}

/// What to change. A destination is in at most one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FibDelta {
    /// Add or replace.
    pub set: Fib,
    /// Remove.
    pub remove: Vec<IpNetwork>,
}

/// A handle to the threads that keep the kernel's routes. They end with its last clone; the routes stay.
#[derive(Clone, Debug)]
pub struct Dataplane {
    commands: mpsc::Sender<Command>,
    retirement: Retirement,
    status: Arc<Mutex<Status>>,
    underlay: watch::Receiver<Vec<Reach>>,
    _stop: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(mpsc::Sender<Command>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.0.send(Command::Stop);
    }
}

/// Why the dataplane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A netlink socket could not be opened, or a thread not started.
    #[error("cannot start the route syncer: {0}")]
    Io(#[from] io::Error),
    /// The routes could not be read.
    #[error("cannot read the kernel's routes: {0}")]
    Read(#[from] NetlinkError),
}

/// Why a [`Dataplane::update`] is not wholly in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyErrors {
    /// The kernel refused these. They stay wanted, and are tried again.
    Refused(Vec<RouteError>),
    /// The route syncer has ended.
    Stopped,
}

impl fmt::Display for ApplyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the route syncer has ended"),
            Self::Refused(routes) => match routes.as_slice() {
                [one] => one.fmt(f),
                routes => {
                    write!(f, "the kernel refused {} routes", routes.len())?;
                    routes.first().map_or(Ok(()), |first| write!(f, ", the first {first}"))
                }
            },
        }
    }
}

impl std::error::Error for ApplyErrors {}

/// A route the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{destination}: {reason}")]
pub struct RouteError {
    /// Which.
    pub destination: IpNetwork,
    /// Why, in words.
    pub reason: Arc<str>,
}

/// What the dataplane holds and has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Routes wanted.
    pub wanted: usize,
    /// Routes of ours in the kernel.
    pub installed: usize,
    /// Next-hop objects of ours in the kernel.
    pub objects: usize,
    /// Routes the kernel refused at the last try.
    pub failing: usize,
    /// The first 16 of those, with the reason.
    pub failures: Vec<RouteError>,
    /// Routes written since the start.
    pub written: u64,
    /// Routes removed since the start.
    pub removed: u64,
    /// Next-hop objects written or removed since the start.
    pub objects_written: u64,
    /// Of all these, put right after someone else had changed them.
    pub repaired: u64,
    /// Other programs' routes that take packets from ours, in words: the first 16.
    pub overlaps: Vec<String>,
    /// How many there are.
    pub overlapping: usize,
    /// Whether they have been looked for since all that is wanted was known ([`Dataplane::sweep`]).
    pub sought_overlaps: bool,
    /// Batches of writes, and the seconds they took.
    pub batches: (u64, f64),
    /// Batches the socket failed, reads too.
    pub netlink_errors: u64,
    /// Whether [`Dataplane::sweep`] has been called.
    pub swept: bool,
}

impl Dataplane {
    /// Removes the veths an earlier agent was about to, reads the routes that are ours and starts the threads that keep
    /// them, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let retirement = Retirement::start()?;
        let netlink = Netlink::open()?;
        // Listens before it reads, so that no change falls between the two.
        let monitor = Monitor::open(netlink.port(), settings)?;
        let (commands, received) = mpsc::channel();
        let underlay::Started { poke, links, ways } = underlay::start(commands.clone())?;
        let status = Arc::new(Mutex::new(Status::default()));
        let reader = Reader::start(settings, commands.clone())?;
        let syncer = Syncer::new(netlink, reader, settings, links, Arc::clone(&status))?;
        let alive = Arc::new(());
        let events = (commands.clone(), Arc::downgrade(&alive));
        thread::Builder::new()
            .name("route-monitor".to_owned())
            .spawn(move || monitor.run(&events.0, &poke, &events.1))?;
        thread::Builder::new().name("routes".to_owned()).spawn(move || {
            let _alive = alive;
            syncer.run(&received);
        })?;
        Ok(Self {
            _stop: Arc::new(StopOnDrop(commands.clone())),
            commands,
            retirement,
            status,
            underlay: ways,
        })
    }

    /// Changes what is wanted. The future resolves once the kernel has answered for every route of `delta`; the
    /// change is made whether or not it is awaited.
    pub fn update(
        &self,
        delta: FibDelta,
    ) -> impl Future<Output = Result<(), ApplyErrors>> + Send + 'static + use<> {
        let (done, answer) = oneshot::channel();
        // With the thread gone `done` is dropped, and `answer` says so.
        let _ = self.commands.send(Command::Update(delta, done));
        async move { answer.await.unwrap_or(Err(ApplyErrors::Stopped)) }
    }

    /// Takes pods' veths down, the host's ends by their indexes, and has them removed after that. The future resolves
    /// when they are down.
    pub fn retire(
        &self,
        indexes: Vec<u32>,
    ) -> impl Future<Output = Result<Removal, LinkError>> + Send + 'static + use<> {
        self.retirement.retire(indexes)
    }

    /// From now on: remove routes of ours nobody wants. To be called once all watches are in sync.
    pub fn sweep(&self) {
        // With the thread gone there is nobody to sweep, and `update` tells.
        let _ = self.commands.send(Command::Sweep);
    }

    /// The ways this machine has without our routes, now and whenever they change: connected networks and other
    /// programs' routes of the main table, sorted.
    pub fn underlay(&self) -> watch::Receiver<Vec<Reach>> {
        self.underlay.clone()
    }

    /// What it holds and has done, as of its last batch.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

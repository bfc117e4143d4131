//! The kernel's side: routes, links and sysctls, made to be what is wanted.
//!
//! ```text
//!   Dataplane ──FibDelta──▶ syncer (one thread) ──batches──▶ kernel      tracker: wanted against actual
//!       ▲                    │  ▲                              │           routes: a route as the kernel says it
//!       └─ future resolves ──┘  └─── monitor (one thread) ◀────┘           what others did to our routes
//!   Dataplane::underlay ◀─ underlay (one thread) ◀─ poked ─┘              the ways there are without us
//!       └── veths to remove ──▶ retire (two threads) ─▶ down ─▶ removed
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use ipnetwork::IpNetwork;
use manx_bgp::api::Reach;
use manx_cni::netlink::{Netlink, NetlinkError};
use tokio::sync::{oneshot, watch};

use monitor::Monitor;
use retire::{LinkError, Removal, Retirement};
use syncer::{Command, Syncer};

pub mod links;
mod monitor;
pub mod own_address;
pub mod retire;
pub mod routes;
mod syncer;
pub mod sysctl;
pub(crate) mod tracker;
mod underlay;

/// All routes wanted, by destination (no host bits).
pub type Fib = BTreeMap<IpNetwork, Route>;

/// One wanted route in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A pod's address: on-link by its veth.
    Pod {
        /// The host's end.
        ifindex: u32,
    },
    /// An owned block: what no pod holds is dropped here, not sent back to a default route.
    Blackhole,
    /// Learned: by these next hops together (ECMP), sorted, at least one.
    Via(Vec<IpAddr>),
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
    pub reason: String,
}

/// What the dataplane holds and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Routes wanted.
    pub wanted: usize,
    /// Routes of ours in the kernel.
    pub installed: usize,
    /// Routes the kernel refused at the last try.
    pub failing: usize,
    /// The first 16 of those, with the reason.
    pub failures: Vec<RouteError>,
    /// Routes written since the start.
    pub written: u64,
    /// Routes removed since the start.
    pub removed: u64,
    /// Of those, put right after someone else had changed them.
    pub repaired: u64,
    /// Whether [`Dataplane::sweep`] has been called.
    pub swept: bool,
}

impl Dataplane {
    /// Removes the veths an earlier agent was about to, reads the routes that are ours and starts the threads that keep
    /// them, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        let retirement = Retirement::start()?;
        let netlink = Netlink::open()?;
        // Listens before it reads, so that no change falls between the two.
        let monitor = Monitor::open(netlink.port())?;
        let (poke, underlay) = underlay::start()?;
        let status = Arc::new(Mutex::new(Status::default()));
        let syncer = Syncer::new(netlink, Arc::clone(&status))?;
        let (commands, received) = mpsc::channel();
        let alive = Arc::new(());
        let events = (commands.clone(), Arc::downgrade(&alive));
        thread::Builder::new()
            .name("route-monitor".to_owned())
            .spawn(move || monitor.run(&events.0, &poke, &events.1))?;
        thread::Builder::new().name("routes".to_owned()).spawn(move || {
            let _alive = alive;
            syncer.run(&received);
        })?;
        Ok(Self { _stop: Arc::new(StopOnDrop(commands.clone())), commands, retirement, status, underlay })
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

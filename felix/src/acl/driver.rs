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

mod keeper;
mod status;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};

use self::keeper::Keeper;
pub use self::status::{Packets, Status};
use super::compile::{self, TABLE};
use super::conntrack::{self, Connection, Conntrack};
use super::denied::{Denial, Listener, Packet};
use super::nft::{Counter, Event, Monitor, Nft};
use super::ruleset::{Delta, PolicyId};

/// Denied packets that wait for a slow reader; it is told how many it missed.
const DENIALS: usize = 1024;

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

/// Begins to hear of what others do to the table.
type Hear = Box<dyn FnOnce() -> io::Result<()> + Send>;

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
        let alive = Arc::new(());
        let hear: Hear = {
            let (sender, listens, own) = (commands.clone(), Arc::downgrade(&alive), nft.port());
            Box::new(move || {
                let monitor = Monitor::open(TABLE, own, PATIENCE)?;
                spawn("acl-monitor", move || listen(monitor, &sender, &listens))
            })
        };
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
        let keeper = Keeper::new(nft, status.clone(), denials.clone(), judge, hear);
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

    /// Whether the kernel had all that was wanted after the last change that was answered.
    pub fn is_in_force(&self) -> bool {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).in_force
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

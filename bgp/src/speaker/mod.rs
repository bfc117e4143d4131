//! The speaker: sockets around the pure cores.
//!
//! One task owns every peer's state machine and the RIB; nothing is shared, nothing is locked. All other
//! tasks move bytes and talk to it over bounded channels:
//!
//! ```text
//!   listen ── accepted ──▶┌────────────────────┐◀── Command ── Handle ◀── socket (agent, manxctl)
//!   call ──── connected ─▶│   task: Speaker    │                   ◀── manx-bgpd (file, signals)
//!   link ──── heard ─────▶│  fsm::Peer a peer  │── Watch ─────────▶ best paths
//!   link ◀─── control ────│  rib::Rib          │
//!   link ◀─── updates ────└────────────────────┘   the task never waits for any of them
//!   bfd thread ── Way ─────────▲                     what BFD says of the way to a neighbour
//! ```

mod bfd;
pub mod config;
mod drain;
mod dynamic;
mod guard;
mod keys;
mod limit;
mod link;
pub mod listen;
pub mod metrics;
mod neighbour;
mod orders;
mod scope;
pub mod socket;
mod sockopt;
mod stats;
mod task;
mod watch;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use config::ConfigError;
pub use listen::ListenError;
pub use watch::Watch;

use crate::api::{AfterDrain, Config, Destination, Direction, Status};
use crate::types::{Prefix, ScopedAddr};

/// What a daemon is called in `Hello` and `Status`.
pub const NAME: &str = concat!("manx-bgpd ", env!("CARGO_PKG_VERSION"));

/// What the speaker is started with; all else comes with [`Handle::apply`].
#[derive(Clone, Debug)]
pub struct Options {
    /// How long after the first [`Handle::apply`] the table counts as complete although a neighbour has
    /// not said that it is.
    pub start_wait: Duration,
}

impl Default for Options {
    /// 30 s: six of the longest waits between two calls.
    fn default() -> Self {
        Self { start_wait: Duration::from_secs(30) }
    }
}

/// Why a wanted state was not taken; what was in force still is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is wrong in itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// BFD is wanted and has no thread of its own to run on.
    #[error("cannot start the BFD thread: {0}; take bfd out of all peers to do without")]
    Bfd(String),
    /// The speaker has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// The speaker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the speaker has been shut down")]
pub struct Gone;

/// Why what was asked of a neighbour cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    /// There is no such neighbour.
    #[error("no peer {peer} is configured; there {}", there_are(known))]
    Unknown {
        /// Who was asked for.
        peer: ScopedAddr,
        /// Those there are.
        known: Vec<ScopedAddr>,
    },
    /// Its routes or ours cannot be said again.
    #[error("peer {peer} cannot be refreshed: {why}")]
    Unasked {
        /// Who was to be asked or told.
        peer: ScopedAddr,
        /// In words.
        why: &'static str,
    },
    /// It has no session, because it is drained.
    #[error("peer {0} is drained and shut down: undrain it first")]
    Drained(ScopedAddr),
    /// What is to be taken back is not there.
    #[error("{}", not_drained(peer, *whole))]
    NotDrained {
        /// Whose drain; none: any.
        peer: Option<ScopedAddr>,
        /// It is drained with all others.
        whole: bool,
    },
    /// The speaker has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
}

fn not_drained(peer: &Option<ScopedAddr>, whole: bool) -> String {
    match peer {
        Some(peer) if whole => format!("peer {peer} is drained with all others: undrain without naming one"),
        Some(peer) => format!("peer {peer} is not drained"),
        None => "nothing is drained".to_owned(),
    }
}

fn there_are(known: &[ScopedAddr]) -> String {
    match known {
        [] => "is none".to_owned(),
        [one] => format!("is {one}"),
        many => format!("are {}", many.iter().map(ScopedAddr::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Speaks with the speaker.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Command>);

/// What the task is asked; each is answered once.
#[derive(Debug)]
enum Command {
    Apply(Config, oneshot::Sender<Result<Vec<String>, ApplyError>>),
    Status(oneshot::Sender<Status>),
    Report(oneshot::Sender<metrics::Report>),
    Routes(Option<Prefix>, oneshot::Sender<Vec<Destination>>),
    Received(ScopedAddr, Option<Prefix>, oneshot::Sender<Result<Vec<Destination>, NoPeer>>),
    Advertised(ScopedAddr, Option<Prefix>, oneshot::Sender<Result<Vec<Destination>, NoPeer>>),
    Reset(ScopedAddr, String, oneshot::Sender<Result<(), NoPeer>>),
    Refresh(ScopedAddr, Direction, oneshot::Sender<Result<(), NoPeer>>),
    Drain(Option<ScopedAddr>, drain::Wanted, oneshot::Sender<Result<(), NoPeer>>),
    Undrain(Option<ScopedAddr>, oneshot::Sender<Result<(), NoPeer>>),
    Watch(oneshot::Sender<Watch>),
    Shutdown(String, oneshot::Sender<()>),
}

/// Starts a speaker without orders. It ends after [`Handle::shutdown`] or when the last handle is gone.
pub fn start(options: Options) -> (Handle, JoinHandle<()>) {
    let (sender, commands) = mpsc::channel(16);
    (Handle(sender), tokio::spawn(task::Speaker::new(options).run(commands)))
}

impl Handle {
    /// Replaces the wanted state and says what changed, in words. Only what differs is touched: policies
    /// and networks change without a session noticing.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, config: Config) -> Result<Vec<String>, ApplyError> {
        self.ask(|reply| Command::Apply(config, reply)).await?
    }

    /// Sessions and counts.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Command::Status).await
    }

    /// What `/metrics` tells.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn report(&self) -> Result<metrics::Report, Gone> {
        self.ask(Command::Report).await
    }

    /// The Loc-RIB with all candidates of one destination, or of all.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn routes(&self, prefix: Option<Prefix>) -> Result<Vec<Destination>, Gone> {
        self.ask(|reply| Command::Routes(prefix, reply)).await
    }

    /// What a neighbour said, of one destination or of all, refused or not, each with what became of it.
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn received(
        &self,
        peer: impl Into<ScopedAddr>,
        prefix: Option<Prefix>,
    ) -> Result<Vec<Destination>, NoPeer> {
        self.ask(|reply| Command::Received(peer.into(), prefix, reply)).await?
    }

    /// What a neighbour was told, of one destination or of all, as it was told.
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn advertised(
        &self,
        peer: impl Into<ScopedAddr>,
        prefix: Option<Prefix>,
    ) -> Result<Vec<Destination>, NoPeer> {
        self.ask(|reply| Command::Advertised(peer.into(), prefix, reply)).await?
    }

    /// Ends a neighbour's session with Cease/Administrative Reset and `reason` (RFC 9003), and begins a new one.
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn reset(&self, peer: impl Into<ScopedAddr>, reason: &str) -> Result<(), NoPeer> {
        self.ask(|reply| Command::Reset(peer.into(), reason.to_owned(), reply)).await?
    }

    /// Asks a neighbour for all its routes again, or tells it all of ours (RFC 2918, RFC 7313).
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn refresh(&self, peer: impl Into<ScopedAddr>, direction: Direction) -> Result<(), NoPeer> {
        self.ask(|reply| Command::Refresh(peer.into(), direction, reply)).await?
    }

    /// Has one neighbour or all do without us: see [`crate::api::Request::Drain`].
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn drain(
        &self,
        peer: Option<ScopedAddr>,
        wait: Duration,
        then: AfterDrain,
        reason: &str,
    ) -> Result<(), NoPeer> {
        let wanted = drain::Wanted { reason: reason.to_owned(), then, wait };
        self.ask(|reply| Command::Drain(peer, wanted, reply)).await?
    }

    /// Takes that back, of one neighbour or all of it.
    ///
    /// # Errors
    /// See [`NoPeer`].
    pub async fn undrain(&self, peer: Option<ScopedAddr>) -> Result<(), NoPeer> {
        self.ask(|reply| Command::Undrain(peer, reply)).await?
    }

    /// Best paths from now on: all that are there, then changes.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn watch(&self) -> Result<Watch, Gone> {
        self.ask(Command::Watch).await
    }

    /// Ends all sessions with Cease/Administrative Shutdown and `text` (RFC 9003); comes back when the
    /// neighbours have been told, or have not listened for two seconds.
    ///
    /// # Errors
    /// The speaker has ended before.
    pub async fn shutdown(&self, text: &str) -> Result<(), Gone> {
        self.ask(|reply| Command::Shutdown(text.to_owned(), reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (sender, reply) = oneshot::channel();
        self.0.send(command(sender)).await.map_err(|_| Gone)?;
        reply.await.map_err(|_| Gone)
    }
}

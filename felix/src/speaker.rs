//! The client of `manx-bgpd`: hands over the wanted state, hears best paths.
//!
//! Two connections, each kept up by its own task:
//!
//! ```text
//!   agent ── newest Config ──▶ orders ── Apply ──▶ manx-bgpd     on connect, and whenever it changes
//!   agent ◀─ Event ─────────── routes ◀─ Watch ───     │
//!   agent ── status() ─────────────────── Status ──────┘          a short connection of its own
//! ```
//!
//! The daemon keeps its last orders while nobody is connected, and so does the kernel its learned routes: what a
//! restarted daemon has not confirmed goes only with its [`Event::Synced`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use manx_bgp::api::{Config, Destination, MAX_FRAME, News, Reply, Request, RouteGroup, Status, VERSION};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// What an answer may take. Applying thousands of peers is the longest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses before the next try to connect: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Events on their way to the agent; a full channel slows the daemon's watch.
const QUEUE: usize = 16;

/// What the daemon says, or that it is not there.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The daemon is there and begins to tell its table.
    Up {
        /// `manx-bgpd 0.1.0`.
        daemon: String,
    },
    /// Destinations whose next hops are now these.
    Routes(Vec<RouteGroup>),
    /// The table is complete: what it has not named is gone.
    Synced,
    /// The daemon is away. Said once, until it is up again.
    Down {
        /// What happened, in words.
        reason: String,
    },
    /// Orders are in force.
    Applied {
        /// What changed, in the daemon's words.
        changes: Vec<String>,
    },
    /// The daemon did not take the orders; it keeps those before.
    Refused {
        /// In the daemon's words.
        reason: String,
    },
}

/// Why an exchange with the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The socket's.
    #[error("manx-bgpd at {path}: {source}")]
    Socket {
        /// The socket's path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon closed the connection.
    #[error("manx-bgpd closed the connection")]
    Closed,
    /// No answer in time.
    #[error("manx-bgpd did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// A frame that is none of the protocol's.
    #[error("manx-bgpd sent what is not of protocol version {VERSION}: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A reply to another question.
    #[error("manx-bgpd sent an answer to another question: {0}")]
    Unexpected(&'static str),
    /// Agent and daemon are of different versions.
    #[error("{daemon} speaks protocol version {theirs}, this agent {VERSION}: run both from one release")]
    Version {
        /// The daemon.
        daemon: String,
        /// Its version.
        theirs: u32,
    },
    /// It said no.
    #[error("manx-bgpd: {0}")]
    Refused(String),
}

/// The handle to the two tasks; they end with it.
#[derive(Debug)]
pub struct Speaker {
    /// What the daemon says.
    pub events: mpsc::Receiver<Event>,
    orders: watch::Sender<Option<Config>>,
    socket: PathBuf,
}

impl Speaker {
    /// Starts to look for the daemon at `socket`.
    pub fn start(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let (tx, events) = mpsc::channel(QUEUE);
        let (orders, wanted) = watch::channel(None);
        tokio::spawn(keep_orders(socket.clone(), wanted, tx.clone()));
        tokio::spawn(keep_routes(socket.clone(), tx));
        Self { events, orders, socket }
    }

    /// Says what is wanted. Only the newest is kept; it is applied as soon as the daemon can hear it.
    pub fn order(&self, config: Config) {
        self.orders.send_if_modified(|orders| {
            let changed = orders.as_ref() != Some(&config);
            *orders = Some(config);
            changed
        });
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Asks the daemon what it is doing.
///
/// # Errors
/// Any of [`SpeakerError`].
pub async fn status(socket: &Path) -> Result<Status, SpeakerError> {
    match Line::open(socket).await?.ask(Request::Status).await? {
        Reply::Status(status) => Ok(status),
        Reply::Error { message } => Err(SpeakerError::Refused(message)),
        _ => Err(SpeakerError::Unexpected("wanted its status")),
    }
}

/// Asks the daemon for its table, or for what one neighbour said or was told: [`Request::Routes`],
/// [`Request::Received`] or [`Request::Advertised`].
///
/// # Errors
/// Any of [`SpeakerError`].
pub async fn table(socket: &Path, request: Request) -> Result<Vec<Destination>, SpeakerError> {
    match Line::open(socket).await?.ask(request).await? {
        Reply::Table { destinations } => Ok(destinations),
        Reply::Error { message } => Err(SpeakerError::Refused(message)),
        _ => Err(SpeakerError::Unexpected("wanted its table")),
    }
}

/// Has the daemon do what [`Reply::Done`] answers: [`Request::Reset`], [`Request::Refresh`], [`Request::Drain`] or
/// [`Request::Undrain`].
///
/// # Errors
/// Any of [`SpeakerError`].
pub async fn tell(socket: &Path, request: Request) -> Result<(), SpeakerError> {
    match Line::open(socket).await?.ask(request).await? {
        Reply::Done => Ok(()),
        Reply::Error { message } => Err(SpeakerError::Refused(message)),
        _ => Err(SpeakerError::Unexpected("wanted it done")),
    }
}

async fn keep_orders(socket: PathBuf, mut wanted: watch::Receiver<Option<Config>>, tx: mpsc::Sender<Event>) {
    let mut pause = Pause::default();
    loop {
        // `routes` says that the daemon is away; two voices would say it twice.
        let ended = match Line::open(&socket).await {
            Ok(line) => {
                pause = Pause::default();
                line.keep_applied(&mut wanted, &tx).await
            }
            Err(error) => Err(error),
        };
        if tx.is_closed() || wanted.has_changed().is_err() {
            return;
        }
        if let Err(error) = ended {
            tracing::debug!(%error, "the line to the speaker ended");
        }
        pause.wait().await;
    }
}

async fn keep_routes(socket: PathBuf, tx: mpsc::Sender<Event>) {
    let mut pause = Pause::default();
    let mut away = false;
    loop {
        let ended = async {
            let line = Line::open(&socket).await?;
            away = false;
            pause = Pause::default();
            line.follow(&tx).await
        };
        let reason = match ended.await {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut away, true) && tx.send(Event::Down { reason }).await.is_err() {
            return;
        }
        if tx.is_closed() {
            return;
        }
        pause.wait().await;
    }
}

/// Doubles from the first to the longest.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pause {
    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSES.1);
    }
}

/// One connection whose greeting has been exchanged.
struct Line {
    frames: Framed<UnixStream, LengthDelimitedCodec>,
    path: String,
    daemon: String,
}

impl Line {
    async fn open(socket: &Path) -> Result<Self, SpeakerError> {
        let path = socket.display().to_string();
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| SpeakerError::Socket { path: path.clone(), source })?;
        let frames = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_framed(stream);
        let mut line = Self { frames, path, daemon: String::new() };
        let client = concat!("manx-felix ", env!("CARGO_PKG_VERSION")).to_owned();
        match line.ask(Request::Hello { version: VERSION, client }).await? {
            Reply::Hello { version: VERSION, daemon } => line.daemon = daemon,
            Reply::Hello { version: theirs, daemon } => return Err(SpeakerError::Version { daemon, theirs }),
            Reply::Error { message } => return Err(SpeakerError::Refused(message)),
            _ => return Err(SpeakerError::Unexpected("wanted its greeting")),
        }
        Ok(line)
    }

    /// Applies the newest orders, now and on every change, until the connection or the agent ends.
    async fn keep_applied(
        mut self,
        wanted: &mut watch::Receiver<Option<Config>>,
        tx: &mpsc::Sender<Event>,
    ) -> Result<(), SpeakerError> {
        loop {
            let config = wanted.borrow_and_update().clone();
            if let Some(config) = config {
                let event = match self.ask(Request::Apply { config }).await? {
                    Reply::Applied { changes } => Event::Applied { changes },
                    Reply::Error { message } => Event::Refused { reason: message },
                    _ => return Err(SpeakerError::Unexpected("wanted \"applied\"")),
                };
                if tx.send(event).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return Ok(()) },
                frame = self.frames.next() => {
                    self.read::<Reply>(frame)?;
                    return Err(SpeakerError::Unexpected("asked nothing"));
                }
            }
        }
    }

    /// Passes on best paths until the connection (an error) or the agent (none) ends.
    async fn follow(mut self, tx: &mpsc::Sender<Event>) -> Result<(), SpeakerError> {
        self.send(Request::Watch).await?;
        let mut event = Event::Up { daemon: self.daemon.clone() };
        loop {
            if tx.send(event).await.is_err() {
                return Ok(());
            }
            let frame = tokio::select! {
                frame = self.frames.next() => frame,
                () = tx.closed() => return Ok(()),
            };
            event = match self.read(frame)? {
                News::Routes(groups) => Event::Routes(groups),
                News::Synced => Event::Synced,
                News::Error { message } => return Err(SpeakerError::Refused(message)),
            };
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, SpeakerError> {
        let exchange = async {
            self.send(request).await?;
            let frame = self.frames.next().await;
            self.read(frame)
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Err(SpeakerError::Late))
    }

    async fn send(&mut self, request: Request) -> Result<(), SpeakerError> {
        let frame = Bytes::from(serde_json::to_vec(&request)?);
        let sent = self.frames.send(frame).await;
        sent.map_err(|source| SpeakerError::Socket { path: self.path.clone(), source })
    }

    fn read<T: DeserializeOwned>(
        &self,
        frame: Option<io::Result<bytes::BytesMut>>,
    ) -> Result<T, SpeakerError> {
        let frame = frame
            .ok_or(SpeakerError::Closed)?
            .map_err(|source| SpeakerError::Socket { path: self.path.clone(), source })?;
        Ok(serde_json::from_slice(&frame)?)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use tokio::net::UnixListener;

    use super::*;

    /// A daemon that says what the test tells it to.
    struct Daemon(UnixListener);

    /// With a request that was heard, and is still to be answered.
    struct Connection(Framed<UnixStream, LengthDelimitedCodec>, Option<Request>);

    impl Daemon {
        /// The next connection, greeted.
        async fn greet(&self, version: u32) -> Connection {
            let (stream, _) = self.0.accept().await.unwrap();
            let frames = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_framed(stream);
            let mut connection = Connection(frames, None);
            assert!(matches!(connection.hear().await, Some(Request::Hello { version: VERSION, .. })));
            connection.say(Reply::Hello { version, daemon: "manx-bgpd test".to_owned() }).await;
            connection
        }

        /// The two connections of a client: orders and routes, in whichever order they come.
        async fn both(&self) -> (Connection, Connection) {
            let mut first = self.greet(VERSION).await;
            let mut second = self.greet(VERSION).await;
            match first.hear().await {
                Some(Request::Watch) => (second, first),
                heard => {
                    first.1 = heard;
                    assert_eq!(second.hear().await, Some(Request::Watch));
                    (first, second)
                }
            }
        }
    }

    impl Connection {
        async fn hear(&mut self) -> Option<Request> {
            if let Some(heard) = self.1.take() {
                return Some(heard);
            }
            let frame = self.0.next().await?.unwrap();
            Some(serde_json::from_slice(&frame).unwrap())
        }

        async fn say(&mut self, reply: impl Serialize) {
            self.0.send(Bytes::from(serde_json::to_vec(&reply).unwrap())).await.unwrap();
        }

        async fn apply(&mut self) -> Config {
            let Some(Request::Apply { config }) = self.hear().await else { panic!("no orders") };
            self.say(Reply::Applied { changes: Vec::new() }).await;
            config
        }
    }

    fn config(asn: u32) -> Config {
        serde_json::from_value(serde_json::json!({"asn": asn, "routerId": "192.0.2.11"})).unwrap()
    }

    async fn event(speaker: &mut Speaker) -> Event {
        timeout(Duration::from_secs(20), speaker.events.recv()).await.unwrap().unwrap()
    }

    fn listen(directory: &tempfile::TempDir) -> (Daemon, PathBuf) {
        let path = directory.path().join("bgpd.sock");
        (Daemon(UnixListener::bind(&path).unwrap()), path)
    }

    #[tokio::test]
    async fn the_newest_orders_are_applied_and_only_those() {
        let directory = tempfile::tempdir().unwrap();
        let (daemon, path) = listen(&directory);
        let mut speaker = Speaker::start(&path);
        speaker.order(config(64512));
        let (mut orders, _routes) = daemon.both().await;
        assert_eq!(orders.apply().await, config(64512));
        assert_eq!(event(&mut speaker).await, Event::Up { daemon: "manx-bgpd test".to_owned() });
        assert_eq!(event(&mut speaker).await, Event::Applied { changes: Vec::new() });
        for asn in [64513, 64514, 64514] {
            speaker.order(config(asn));
        }
        assert_eq!(orders.apply().await, config(64514));
        assert_eq!(event(&mut speaker).await, Event::Applied { changes: Vec::new() });
    }

    #[tokio::test]
    async fn a_daemon_that_comes_back_is_given_its_orders_again_and_tells_its_table_again() {
        let directory = tempfile::tempdir().unwrap();
        let (daemon, path) = listen(&directory);
        let mut speaker = Speaker::start(&path);
        speaker.order(config(64512));
        let (mut orders, mut routes) = daemon.both().await;
        orders.apply().await;
        routes.say(News::Synced).await;
        drop((orders, routes, daemon));
        std::fs::remove_file(&path).unwrap();
        let (daemon, _) = listen(&directory);
        let (mut orders, mut routes) = daemon.both().await;
        assert_eq!(orders.apply().await, config(64512));
        let group = RouteGroup {
            prefixes: vec!["10.0.0.0/8".parse().unwrap()],
            next_hops: vec!["192.0.2.1".parse().unwrap()],
            weights: Vec::new(),
        };
        routes.say(News::Routes(vec![group.clone()])).await;
        routes.say(News::Synced).await;
        let mut heard = Vec::new();
        while heard.iter().filter(|event| **event == Event::Synced).count() < 2 {
            let event = event(&mut speaker).await;
            if !matches!(event, Event::Applied { .. }) {
                heard.push(event);
            }
        }
        assert!(matches!(heard[2], Event::Down { .. }), "{heard:?}");
        assert!(matches!(heard[3], Event::Up { .. }), "{heard:?}");
        assert_eq!(heard[4..], [Event::Routes(vec![group]), Event::Synced]);
    }

    #[tokio::test]
    async fn orders_refused_are_told_in_the_daemons_words() {
        let directory = tempfile::tempdir().unwrap();
        let (daemon, path) = listen(&directory);
        let mut speaker = Speaker::start(&path);
        speaker.order(config(64512));
        let (mut orders, _routes) = daemon.both().await;
        orders.hear().await;
        orders.say(Reply::Error { message: "two peers with one address".to_owned() }).await;
        while !matches!(event(&mut speaker).await, Event::Refused { reason } if reason.contains("one address"))
        {
        }
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_or_of_another_version_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bgpd.sock");
        let error = status(&path).await.unwrap_err();
        assert!(error.to_string().contains("bgpd.sock"), "{error}");
        let (daemon, path) = listen(&directory);
        let mut speaker = Speaker::start(&path);
        for _ in 0..4 {
            daemon.greet(VERSION + 1).await;
        }
        let Event::Down { reason } = event(&mut speaker).await else { panic!("not told") };
        assert!(reason.contains("run both from one release"), "{reason}");
        assert!(speaker.events.try_recv().is_err(), "it is said once");
    }
}

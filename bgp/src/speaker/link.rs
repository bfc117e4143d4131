//! One TCP connection: bytes to messages and messages to bytes, nothing else.
//!
//! ```text
//!   socket ─▶ read, frame, parse ─▶ Input::Heard, bounded: a busy speaker stops us reading
//!   socket ◀─ write ◀─ control (OPEN, KEEPALIVE, NOTIFICATION): first, also between chunks of updates
//!                   ◀─ updates, a few runs: the speaker takes more from the RIB as they are written
//! ```
//!
//! A neighbour that does not read holds up its own link only: the routes it is to hear stay in the RIB.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::guard::Guard;
use super::scope::socket_addr;
use super::task::Input;
use crate::fsm::negotiate::SEND_HOLD_TIME;
use crate::types::ScopedAddr;
use crate::wire::{self, Message, Notification, Session};

/// Read at once, in octets.
const READ: usize = 16 << 10;

/// Written at once, in octets; between two, control messages get their turn.
const WRITE: usize = 64 << 10;

/// Runs of updates handed to a link and not yet being written. The octets are shared by all that hear the same.
const RUNS: usize = 8;

/// Control messages waiting for a neighbour that does not read; KEEPALIVEs fill half of it at most.
const CONTROL: usize = 64;

/// How long the last words may take once a connection is given up.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a neighbour that has been told may take to hang up.
const LINGER: Duration = Duration::from_millis(500);

/// A connection, by the order of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LinkId(pub u64);

/// What a link hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// A good message.
    Message(Message),
    /// Something else, and the answer to it; the last thing heard.
    Malformed(Notification),
    /// Nothing, but the neighbour has taken not one octet for so many seconds.
    Stalled(u64),
    /// The end, in words; the last thing heard.
    Lost(String),
}

/// What both OPENs agreed on, as far as a link needs it.
#[derive(Debug)]
struct Agreed {
    session: Session,
    send_hold_time: Duration,
}

/// The speaker's end of a link. Dropping it sends what control messages are left and closes.
pub(super) struct Link {
    pub id: LinkId,
    /// Our address on it.
    pub local: IpAddr,
    /// The same socket, where more may have to be required of what comes.
    pub socket: Option<Socket>,
    control: mpsc::Sender<Message>,
    updates: mpsc::Sender<Bytes>,
    agreed: Arc<OnceLock<Agreed>>,
    _closing: oneshot::Sender<()>,
}

/// The neighbour has stopped reading long ago.
#[derive(Debug)]
pub(super) struct Stalled;

impl Link {
    /// A link and what runs it, to be spawned.
    pub fn new(
        id: LinkId,
        stream: TcpStream,
        inputs: mpsc::Sender<Input>,
        intake: Arc<Semaphore>,
        wake: Arc<Notify>,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?.ip().to_canonical();
        let (control, control_rx) = mpsc::channel(CONTROL);
        let (updates, updates_rx) = mpsc::channel(RUNS);
        let (closing, closed) = oneshot::channel();
        let agreed = Arc::new(OnceLock::new());
        let writer = Writer {
            id,
            inputs: inputs.clone(),
            control: control_rx,
            updates: updates_rx,
            agreed: agreed.clone(),
            wake,
        };
        let reader = Reader { id, inputs, intake, agreed: agreed.clone() };
        let link = Self { id, local, socket: None, control, updates, agreed, _closing: closing };
        Ok((link, run(stream, reader, writer, closed)))
    }

    /// Sends ahead of all updates. A KEEPALIVE behind many messages that are not being read says nothing, and leaves
    /// the room to a NOTIFICATION.
    pub fn send(&self, message: Message) -> Result<(), Stalled> {
        if message == Message::Keepalive && self.control.capacity() < CONTROL / 2 {
            return Ok(());
        }
        self.control.try_send(message).map_err(|_| Stalled)
    }

    /// Its guard has become stricter.
    pub fn require_ttl(&self, guard: &Guard) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| guard.require_ttl(socket))
    }

    /// A place for a run of updates, if the neighbour keeps up.
    pub fn room(&self) -> Option<mpsc::Permit<'_, Bytes>> {
        self.updates.try_reserve().ok()
    }

    /// The context of all messages from here on.
    pub fn negotiated(&self, session: Session, send_hold_time: Duration) {
        // Set once a connection: only OpenSent takes an OPEN.
        let _ = self.agreed.set(Agreed { session, send_hold_time });
    }
}

/// Calls a neighbour.
///
/// # Errors
/// In words, for the session's reason: `connection refused`.
pub(super) async fn call(
    to: ScopedAddr,
    port: u16,
    from: Option<IpAddr>,
    guard: Guard,
) -> Result<TcpStream, String> {
    let zone = to.zone;
    let to = socket_addr(to, port).map_err(words)?;
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(words)?;
    guard.calling(SockRef::from(&socket)).map_err(words)?;
    if let Some(from) = from {
        let from = ScopedAddr::new(from, zone);
        socket_addr(from, 0)
            .and_then(|from| socket.bind(from))
            .map_err(|error| format!("cannot call from {from}: {}", words(error)))?;
    }
    socket.connect(to).await.map_err(words)
}

/// Tells a caller that it may not, and closes.
pub(super) async fn refuse(mut stream: TcpStream, notification: Notification) {
    let mut buffer = Vec::new();
    if wire::write(&Message::Notification(notification), None, &mut buffer).is_ok() {
        let _ = timeout(FAREWELL, async {
            let (mut read, mut write) = stream.split();
            if write.write_all(&buffer).await.is_ok() && write.shutdown().await.is_ok() {
                drain(&mut read).await;
            }
        })
        .await;
    }
}

async fn run(stream: TcpStream, reader: Reader, writer: Writer, closed: oneshot::Receiver<()>) {
    let (mut read, mut write) = stream.into_split();
    let (id, inputs) = (reader.id, reader.inputs.clone());
    let lost = {
        let mut reading = pin!(reader.run(&mut read));
        let mut writing = pin!(writer.run(&mut write));
        let closing = async {
            let _ = closed.await;
        };
        let mut closing = pin!(closing);
        let mut heard_all = false;
        loop {
            tokio::select! {
                () = &mut reading, if !heard_all => heard_all = true,
                end = &mut writing => break end.err(),
                () = &mut closing => break timeout(FAREWELL, &mut writing).await.ok().and_then(Result::err),
            }
        }
    };
    match lost {
        // Nobody listens any more where the speaker closed the link itself.
        Some(why) => drop(inputs.send(Input::Heard(id, vec![Heard::Lost(why)], None)).await),
        None => {
            // Closing with octets unread would reset the connection under our last words.
            let _ = write.shutdown().await;
            let _ = timeout(LINGER, drain(&mut read)).await;
        }
    }
}

async fn drain(read: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    while matches!(read.read(&mut buffer).await, Ok(1..)) {}
}

struct Reader {
    id: LinkId,
    inputs: mpsc::Sender<Input>,
    /// A permit an octet.
    intake: Arc<Semaphore>,
    agreed: Arc<OnceLock<Agreed>>,
}

impl Reader {
    async fn run(self, read: &mut OwnedReadHalf) {
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            buffer.reserve(READ);
            let (octets, end) = match read.read_buf(&mut buffer).await {
                Ok(0) => (0, Some(Heard::Lost("connection closed by the neighbour".to_owned()))),
                Ok(octets) => (octets.min(READ) as u32, None),
                Err(error) => (0, Some(Heard::Lost(words(error)))),
            };
            let Ok(intake) = self.intake.clone().acquire_many_owned(octets).await else { return };
            let mut heard = Vec::new();
            let malformed = self.parse(&mut buffer, &mut heard).err().map(Heard::Malformed);
            let last = malformed.or(end);
            let is_last = last.is_some();
            heard.extend(last);
            if heard.is_empty() {
                continue;
            }
            let input = Input::Heard(self.id, heard, Some(intake));
            if self.inputs.send(input).await.is_err() || is_last {
                return;
            }
        }
    }

    fn parse(&self, buffer: &mut BytesMut, heard: &mut Vec<Heard>) -> Result<(), Notification> {
        let session = self.agreed.get().map(|agreed| &agreed.session);
        let max = session.map_or(wire::frame::MAX_MESSAGE, Session::max_message);
        while let Some(frame) = wire::frame(buffer, max)? {
            heard.push(Heard::Message(wire::parse(&frame, session)?));
        }
        Ok(())
    }
}

struct Writer {
    id: LinkId,
    inputs: mpsc::Sender<Input>,
    control: mpsc::Receiver<Message>,
    updates: mpsc::Receiver<Bytes>,
    agreed: Arc<OnceLock<Agreed>>,
    wake: Arc<Notify>,
}

impl Writer {
    /// Until the speaker drops its end; an error is the end of the connection, in words.
    async fn run(mut self, write: &mut OwnedWriteHalf) -> Result<(), String> {
        let mut buffer = Vec::with_capacity(2 * WRITE);
        loop {
            while buffer.len() < WRITE {
                match self.control.try_recv() {
                    Ok(message) => self.encode(&message, &mut buffer),
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        return self.flush(write, &mut buffer).await;
                    }
                    Err(mpsc::error::TryRecvError::Empty) => match self.updates.try_recv() {
                        Ok(run) => self.take(&run, &mut buffer),
                        Err(_) => break,
                    },
                }
            }
            if !buffer.is_empty() {
                self.flush(write, &mut buffer).await?;
                continue;
            }
            tokio::select! {
                biased;
                message = self.control.recv() => match message {
                    Some(message) => self.encode(&message, &mut buffer),
                    None => return Ok(()),
                },
                Some(run) = self.updates.recv() => self.take(&run, &mut buffer),
            }
        }
    }

    fn take(&self, run: &[u8], buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(run);
        self.wake.notify_one();
    }

    fn encode(&self, message: &Message, buffer: &mut Vec<u8>) {
        let session = self.agreed.get().map(|agreed| &agreed.session);
        if let Err(error) = wire::write(message, session, buffer) {
            tracing::error!(%error, ?message, "a message of ours has no form on the wire and was not sent");
        }
    }

    /// Writes all of it. The SendHoldTimer (RFC 9687) is for each step forward, not for the whole; once it has expired,
    /// who owns the link closes it, and there is a little time left for the last words.
    async fn flush(&self, write: &mut OwnedWriteHalf, buffer: &mut Vec<u8>) -> Result<(), String> {
        let send_hold_time = self.agreed.get().map_or(SEND_HOLD_TIME, |agreed| agreed.send_hold_time);
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            match timeout(send_hold_time, write.write(rest)).await {
                Ok(Ok(0)) => return Err("connection closed by the neighbour".to_owned()),
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(error)) => return Err(words(error)),
                Err(_) => {
                    let stalled = vec![Heard::Stalled(send_hold_time.as_secs())];
                    // Nobody listens any more where the speaker closed the link itself.
                    let _ = self.inputs.send(Input::Heard(self.id, stalled, None)).await;
                }
            }
        }
        buffer.clear();
        Ok(())
    }
}

/// Without the number that Rust puts behind the kernel's words.
pub(super) fn words(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by the neighbour".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

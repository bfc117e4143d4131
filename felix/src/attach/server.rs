//! The socket: who may speak, frames in and out, deadlines.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use manx_cni::protocol::{AttachmentKey, MAX_FRAME, Reply, Request, VERSION};
use prometheus::HistogramVec;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Asked, Attempt, Command, Refusal};
use crate::acl::question::Asking;

/// For the first frame of a connection, and for each frame we write.
const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// For the agent to answer a command; shorter than the plugin's own patience, so that it hears why.
const AGENT_DEADLINE: Duration = Duration::from_secs(15);

/// For the plugin to make the veth.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Answers of the packet filter that wait for a slow caller.
const ANSWERS: usize = 16;

/// Before the next try to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections served at once; more wait in the kernel's backlog. A kubelet starts pods of all its 110 (by default)
/// at once after a reboot.
const CONNECTIONS: usize = 256;

/// The agent's socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// User ids that may speak: root and our own.
    callers: [u32; 2],
}

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent is alive.
    #[error("{0} is answered by another process: only one agent can run on a node")]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{0} is there and is not a socket: name another path, or remove it")]
    NotASocket(PathBuf),
    /// The file system's answer.
    #[error("listening on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Listens on a unix socket that only root and our own user can open. What a killed agent left is replaced.
///
/// # Errors
/// [`ListenError::InUse`] when somebody listens there already, [`ListenError::NotASocket`] when it would take the
/// place of a file, otherwise the file system's answer.
pub async fn listen(path: &Path) -> Result<Listener, ListenError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        _ => {}
    }
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    match UnixStream::connect(path).await.map_err(|error| (error.kind(), error)) {
        // Its backlog may be full; it lives all the same.
        Ok(_) | Err((io::ErrorKind::WouldBlock, _)) => Err(ListenError::InUse(path.to_owned())),
        Err((io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, _)) => bind(path).map_err(failed),
        Err((_, error)) => Err(failed(error)),
    }
}

/// Binds beside the path and renames, so that nobody sees the socket before its permissions are set, and a plugin
/// never finds no socket at all.
fn bind(path: &Path) -> io::Result<Listener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    let own = fs::metadata(&fresh)?.uid();
    fs::rename(&fresh, path)?;
    Ok(Listener { socket, callers: [0, own] })
}

/// Serves plugins until the receiver of `commands` is dropped. What `manxctl` asks of the packet filter goes to
/// `questions`; `took` is told, by verb, how many seconds of a plugin's run were the agent's.
pub async fn serve(
    listener: Listener,
    commands: mpsc::Sender<Command>,
    questions: mpsc::Sender<Asking>,
    took: HistogramVec,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let attempts = Arc::new(AtomicU64::new(1));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = commands.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: that passes when other connections end.
                tracing::warn!(%error, "cannot accept a plugin's connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut connection = Connection::new(stream, commands.clone(), questions.clone());
        let (callers, attempts, took) = (listener.callers, attempts.clone(), took.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.serve(callers, &attempts).await {
                tracing::warn!(%error, "a plugin's connection ended early");
            }
            if let Some(verb) = connection.verb {
                took.with_label_values(&[verb]).observe(connection.spent.as_secs_f64());
            }
            drop(slot);
        });
    }
}

struct Connection {
    frames: Framed<UnixStream, LengthDelimitedCodec>,
    commands: mpsc::Sender<Command>,
    questions: mpsc::Sender<Asking>,
    /// What was asked first.
    verb: Option<&'static str>,
    /// When the last question was read.
    heard: Instant,
    /// From each question to its answer, together.
    spent: Duration,
}

impl Connection {
    fn new(stream: UnixStream, commands: mpsc::Sender<Command>, questions: mpsc::Sender<Asking>) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME as usize).new_codec();
        let frames = Framed::new(stream, codec);
        Self { frames, commands, questions, verb: None, heard: Instant::now(), spent: Duration::ZERO }
    }

    async fn serve(&mut self, callers: [u32; 2], attempts: &AtomicU64) -> io::Result<()> {
        let caller = self.frames.get_ref().peer_cred()?.uid();
        if !callers.contains(&caller) {
            let message = format!("user {caller} may not speak to the agent");
            let details = "the plugin must run as root, as container runtimes run it".to_owned();
            return self.say(Refusal { code: Refusal::FORBIDDEN, message, details }.into()).await;
        }
        let request = match self.hear(FRAME_DEADLINE).await {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => request,
            Err(error) => return self.say(Refusal::protocol(error.to_string()).into()).await,
        };
        if let Some(version) = request.version()
            && version != VERSION
        {
            let message = format!("the caller speaks version {version} of the protocol, the agent {VERSION}");
            return self.say(Refusal::protocol(message).into()).await;
        }
        self.verb = verb(&request);
        match request {
            Request::Add { key, pod, netns, network, ips, .. } => {
                let attempt = Attempt(attempts.fetch_add(1, Ordering::Relaxed));
                self.add(attempt, Asked { key, pod, netns, network, ips }).await
            }
            Request::Del { key, .. } => {
                let answer =
                    self.ask(|reply| Command::Release { key, reply }).await.and_then(|answer| answer);
                self.say(answer.map_or_else(Reply::from, |()| Reply::Deleted)).await
            }
            Request::Check { key, .. } => {
                let asked = key.clone();
                let answer = self.ask(|reply| Command::Inspect { key: asked, reply }).await;
                let answer = answer.and_then(|held| held.ok_or_else(|| Refusal::unknown(&key)));
                self.say(answer.map_or_else(Reply::from, Reply::Attached)).await
            }
            Request::Gc { network, valid, .. } => {
                let answer = self.ask(|reply| Command::Stale { network, valid, reply }).await;
                self.say(answer.map_or_else(Reply::from, |attachments| Reply::Stale { attachments })).await
            }
            Request::NodeReady { .. } => {
                let answer = self.ask(|reply| Command::CanAttach { reply }).await.and_then(|answer| answer);
                self.say(answer.map_or_else(Reply::from, |()| Reply::NodeReady)).await
            }
            Request::Status { .. } => {
                let answer = self.ask(|reply| Command::Status { reply }).await;
                self.say(answer.map_or_else(Reply::from, |report| Reply::Status { report })).await
            }
            Request::Free { address, .. } => {
                let answer = self.ask(|reply| Command::Free { address, reply }).await;
                let answer = answer.and_then(|freed| {
                    let details = "manxctl ipam show ADDRESS says who has it".to_owned();
                    freed.map_err(|message| Refusal { code: Refusal::NOT_FREED, message, details })
                });
                self.say(answer.map_or_else(Reply::from, |holder| Reply::Freed { holder })).await
            }
            Request::Explain { question, .. } => {
                let question = match serde_json::from_value(question) {
                    Ok(question) => question,
                    Err(error) => return self.say(Refusal::protocol(error.to_string()).into()).await,
                };
                let answer = self.ask(|reply| Command::Explain { question, reply }).await;
                let answer = answer.and_then(|explained| {
                    let details =
                        "manxctl status shows this node's pods, kubectl get pods -A -o wide all".to_owned();
                    explained.map_err(|message| Refusal { code: Refusal::NOT_KNOWN, message, details })
                });
                let explained = |explained| serde_json::to_value(explained).unwrap_or_default();
                let reply = answer.map(|answer| Reply::Explained { explanations: explained(answer) });
                self.say(reply.unwrap_or_else(Reply::from)).await
            }
            Request::Policy { question, .. } => self.policy(question).await,
            Request::Ready { .. } | Request::Failed { .. } => {
                self.say(Refusal::protocol("what follows an \"add\" came before it").into()).await
            }
        }
    }

    async fn add(&mut self, attempt: Attempt, asked: Asked) -> io::Result<()> {
        let key = asked.key.clone();
        let result = self.add_steps(attempt, key.clone(), asked).await;
        if !matches!(result, Ok(Added::Refused | Added::Programmed)) {
            // Without a deadline: this must not be lost, and it ends when the agent takes it or goes.
            let _ = self.commands.send(Command::Abort { attempt, key }).await;
        }
        result.map(drop)
    }

    async fn add_steps(&mut self, attempt: Attempt, key: AttachmentKey, asked: Asked) -> io::Result<Added> {
        let allocate = |reply| Command::Allocate { attempt, asked, reply };
        match self.ask(allocate).await {
            Ok(Ok(attach)) => self.say(Reply::Attach(attach)).await?,
            Ok(Err(refusal)) => return self.say(refusal.into()).await.map(|()| Added::Refused),
            // The command may still lie in the agent's queue.
            Err(refusal) => return self.say(refusal.into()).await.map(|()| Added::Undo),
        }
        let (pod_mac, host_ifindex) = match self.hear(READY_DEADLINE).await? {
            Some(Request::Ready { pod_mac, host_ifindex }) => (pod_mac, host_ifindex),
            Some(Request::Failed { why }) => {
                tracing::warn!("{} of container {} not attached: {why}", key.ifname, key.container_id);
                return Ok(Added::Undo);
            }
            Some(_) => {
                self.say(Refusal::protocol("expected \"ready\" after \"attach\"").into()).await?;
                return Ok(Added::Undo);
            }
            None => return Ok(Added::Undo),
        };
        let answer = self.ask(|reply| Command::Ready { attempt, key, pod_mac, host_ifindex, reply }).await;
        match answer.and_then(|answer| answer) {
            Ok(()) => self.say(Reply::Programmed).await.map(|()| Added::Programmed),
            Err(refusal) => self.say(refusal.into()).await.map(|()| Added::Undo),
        }
    }

    /// Hands on answers until there are no more, or the caller has gone.
    async fn policy(&mut self, question: serde_json::Value) -> io::Result<()> {
        let question = match serde_json::from_value(question) {
            Ok(question) => question,
            Err(error) => return self.say(Refusal::protocol(error.to_string()).into()).await,
        };
        let (answers, mut answered) = mpsc::channel(ANSWERS);
        // Taken or not, an answer that nobody gives ends the channel.
        let _ = timeout(AGENT_DEADLINE, self.questions.send((question, answers))).await;
        loop {
            tokio::select! {
                answer = answered.recv() => match answer {
                    Some(answer) => self.say(Reply::Policy { answer: serde_json::to_value(answer)? }).await?,
                    None => return Ok(()),
                },
                // Whoever asks says no more: this is the end of the connection.
                _ = self.frames.next() => return Ok(()),
            }
        }
    }

    /// Sends the agent a command and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        let again = "the runtime tries again; see the agent's log if this lasts";
        match timeout(AGENT_DEADLINE, exchange).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Refusal::try_again("the agent is shutting down", again)),
            Err(_) => {
                let seconds = AGENT_DEADLINE.as_secs();
                Err(Refusal::try_again(format!("the agent did not answer within {seconds} s"), again))
            }
        }
    }

    /// Reads one frame; `None` at the end.
    async fn hear(&mut self, deadline: Duration) -> io::Result<Option<Request>> {
        let frame = timeout(deadline, self.frames.next()).await?;
        let Some(frame) = frame.transpose()? else { return Ok(None) };
        self.heard = Instant::now();
        Ok(Some(serde_json::from_slice(&frame)?))
    }

    async fn say(&mut self, reply: Reply) -> io::Result<()> {
        let frame = Bytes::from(serde_json::to_vec(&reply)?);
        let sent = timeout(FRAME_DEADLINE, self.frames.send(frame)).await?;
        self.spent += self.heard.elapsed();
        sent
    }
}

/// As CNI calls it; none is no business of a runtime's.
fn verb(request: &Request) -> Option<&'static str> {
    match request {
        Request::Add { .. } => Some("add"),
        Request::Del { .. } => Some("del"),
        Request::Check { .. } => Some("check"),
        Request::Gc { .. } => Some("gc"),
        Request::NodeReady { .. } => Some("status"),
        Request::Ready { .. }
        | Request::Failed { .. }
        | Request::Status { .. }
        | Request::Free { .. }
        | Request::Explain { .. }
        | Request::Policy { .. } => None,
    }
}

/// How an ADD ended.
enum Added {
    /// The agent said no and holds nothing.
    Refused,
    /// The plugin was told.
    Programmed,
    /// The agent may hold something.
    Undo,
}

#[cfg(test)]
mod tests;

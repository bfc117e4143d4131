//! Serves [`crate::api`] on a unix socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::link::words;
use super::{Gone, Handle, NAME, NoPeer, Watch};
use crate::api::{Destination, MAX_FRAME, News, Reply, Request, VERSION};

/// Clients at one time: the agent, and people with `manxctl`.
const CLIENTS: usize = 32;

/// How long a client may take to say `Hello`, and to read a reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// The owner and its group may speak with the daemon: whoever may can redirect the cluster's traffic.
const MODE: u32 = 0o660;

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("{0} is served by another process already: end that one, or give this one another --socket")]
    Taken(PathBuf),
    /// The file system does not let us.
    #[error("cannot make the socket {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket, whose file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on `path`, in place of what a process that is gone has left there.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::Taken(path.to_owned()));
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // Made aside and moved into place with its mode, so that it never can be opened by more than may.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let _ = std::fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside).map_err(failed)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        std::fs::rename(&aside, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients until dropped.
    pub async fn serve(self, speaker: Handle) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let speaker = speaker.clone();
                    tokio::spawn(async move {
                        if let Err(error) = client(stream, speaker).await {
                            tracing::debug!(%error, "a client was parted from");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %words(error), "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why a client was parted from.
#[derive(Debug, thiserror::Error)]
enum Parted {
    #[error("it did not {0} within {seconds} s", seconds = PATIENCE.as_secs())]
    TooSlow(&'static str),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it was told: {0}")]
    Told(String),
    #[error(transparent)]
    Gone(#[from] Gone),
}

async fn client(stream: UnixStream, speaker: Handle) -> Result<(), Parted> {
    let mut frames = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_framed(stream);
    let hello = timeout(PATIENCE, receive(&mut frames)).await.map_err(|_| Parted::TooSlow("say Hello"))?;
    match hello? {
        None => return Ok(()),
        Some(Request::Hello { version: VERSION, client }) => {
            tracing::debug!(client, "a client has come");
            send(&mut frames, &Reply::Hello { version: VERSION, daemon: NAME.to_owned() }).await?;
        }
        Some(Request::Hello { version, client }) => {
            let older = if version < VERSION { client.as_str() } else { NAME };
            let message = format!(
                "{client} speaks version {version} of the protocol and {NAME} version {VERSION}: upgrade {older}"
            );
            return part(&mut frames, message).await;
        }
        Some(_) => return part(&mut frames, "the first request is Hello".to_owned()).await,
    }
    while let Some(request) = receive(&mut frames).await? {
        let reply = match request {
            Request::Hello { .. } => Reply::Error { message: "Hello was said already".to_owned() },
            Request::Apply { config } => match speaker.apply(config).await {
                Ok(changes) => Reply::Applied { changes },
                Err(error) => Reply::Error { message: error.to_string() },
            },
            Request::Status => Reply::Status(speaker.status().await?),
            Request::Routes { prefix } => Reply::Table { destinations: speaker.routes(prefix).await? },
            Request::Received { peer, prefix } => table(speaker.received(peer, prefix).await)?,
            Request::Advertised { peer, prefix } => table(speaker.advertised(peer, prefix).await)?,
            Request::Reset { peer, reason } => done(speaker.reset(peer, &reason).await)?,
            Request::Refresh { peer, direction } => done(speaker.refresh(peer, direction).await)?,
            Request::Drain { peer, wait, then, reason } => {
                let wait = Duration::from_secs(wait.into());
                done(speaker.drain(peer, wait, then, &reason).await)?
            }
            Request::Undrain { peer } => done(speaker.undrain(peer).await)?,
            Request::Watch => return stream_to(&mut frames, speaker.watch().await?).await,
        };
        send(&mut frames, &reply).await?;
    }
    Ok(())
}

fn table(shown: Result<Vec<Destination>, NoPeer>) -> Result<Reply, Gone> {
    match shown {
        Ok(destinations) => Ok(Reply::Table { destinations }),
        Err(NoPeer::Gone(gone)) => Err(gone),
        Err(error) => Ok(Reply::Error { message: error.to_string() }),
    }
}

fn done(result: Result<(), NoPeer>) -> Result<Reply, Gone> {
    match result {
        Ok(()) => Ok(Reply::Done),
        Err(NoPeer::Gone(gone)) => Err(gone),
        Err(error) => Ok(Reply::Error { message: error.to_string() }),
    }
}

async fn stream_to(frames: &mut Frames, mut watch: Watch) -> Result<(), Parted> {
    loop {
        tokio::select! {
            news = watch.next() => match news {
                Some(news) => send(frames, &news).await?,
                None => return Ok(()),
            },
            heard = frames.next() => match heard {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) => {
                    let message = "a watching connection takes no requests: open another".to_owned();
                    send(frames, &News::Error { message: message.clone() }).await?;
                    return Err(Parted::Told(message));
                }
            },
        }
    }
}

/// The next request; one that cannot be read is answered and ends the connection.
async fn receive(frames: &mut Frames) -> Result<Option<Request>, Parted> {
    let Some(frame) = frames.next().await.transpose()? else { return Ok(None) };
    match serde_json::from_slice(&frame) {
        Ok(request) => Ok(Some(request)),
        Err(error) => {
            part(frames, format!("this is no request of version {VERSION}: {error}")).await.map(|()| None)
        }
    }
}

async fn part(frames: &mut Frames, message: String) -> Result<(), Parted> {
    send(frames, &Reply::Error { message: message.clone() }).await?;
    Err(Parted::Told(message))
}

async fn send(frames: &mut Frames, reply: &impl Serialize) -> Result<(), Parted> {
    let mut json = serde_json::to_vec(reply).map_err(io::Error::from)?;
    if json.len() > MAX_FRAME {
        let message =
            format!("the answer has {} octets, more than fit a frame: ask for one prefix", json.len());
        json = serde_json::to_vec(&Reply::Error { message }).map_err(io::Error::from)?;
    }
    let sent = timeout(PATIENCE, frames.send(Bytes::from(json))).await;
    Ok(sent.map_err(|_| Parted::TooSlow("read its reply"))??)
}

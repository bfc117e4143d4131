//! gRPC as far as unary calls need it, over a unix socket: one HTTP/2 stream a call, one message each way, the outcome
//! in the trailers.

use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

/// A connection to a server; it ends with its last clone.
#[derive(Clone)]
pub struct Channel(SendRequest<Bytes>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server's, in its words.
    #[error("code {code}: {message}")]
    Status { code: u32, message: String },
    /// The connection's.
    #[error(transparent)]
    Connection(#[from] h2::Error),
    /// The answer is not what was asked for.
    #[error("the answer cannot be read: {0}")]
    Answer(String),
}

impl Channel {
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (requests, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    /// Calls `method`, as `package.Service/Method`.
    pub async fn call<A: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        let mut requests = self.0.clone().ready().await?;
        let head = Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a method's name is a path");
        let (response, mut body) = requests.send_request(head, false)?;
        body.send_data(frame(message), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        // A call that fails at once has no trailers: its only headers say so.
        outcome(&body.trailers().await?.unwrap_or(head.headers))?;
        let message = answer.get(5..).ok_or_else(|| CallError::Answer("no message".to_owned()))?;
        A::decode(message).map_err(|error| CallError::Answer(error.to_string()))
    }
}

/// Not compressed, its length, the message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a message is short"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

fn outcome(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status").parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(CallError::Status { code, message: text("grpc-message").to_owned() }),
        Err(_) => Err(CallError::Answer("no grpc-status".to_owned())),
    }
}

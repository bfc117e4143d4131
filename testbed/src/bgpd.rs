//! Asking a node's manx-bgpd: its socket is a file of the lab, reached from the host.

use std::io;
use std::path::Path;

use manx_bgp::api::{self, Reply, Request};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::lab::Lab;

impl Lab {
    /// Puts one request to the manx-bgpd of a node and gives its reply.
    ///
    /// # Errors
    /// When it does not answer, answers with an error, or says what cannot be understood.
    pub async fn ask_bgpd(&self, node: &str, request: &Request) -> io::Result<Reply> {
        ask(&self.node_folder(node).join("run/manx/bgpd.sock"), request).await
    }
}

async fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket).await?;
    let client = concat!("manx-lab ", env!("CARGO_PKG_VERSION")).to_owned();
    send(&mut stream, &Request::Hello { version: api::VERSION, client }).await?;
    receive(&mut stream).await?;
    send(&mut stream, request).await?;
    receive(&mut stream).await
}

async fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    stream.write_u32(u32::try_from(body.len()).map_err(io::Error::other)?).await?;
    stream.write_all(&body).await
}

async fn receive(stream: &mut UnixStream) -> io::Result<Reply> {
    let length = stream.read_u32().await? as usize;
    if length > api::MAX_FRAME {
        let why = format!("a frame of {length} bytes, at most {}", api::MAX_FRAME);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    match serde_json::from_slice(&body)? {
        Reply::Error { message } => Err(io::Error::other(message)),
        reply => Ok(reply),
    }
}

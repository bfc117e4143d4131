//! A TCP service that tells its callers who they are, and the caller: how one sees from a distance
//! whether an address was changed on the way.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// The service's port unless told otherwise.
pub const PORT: u16 = 7000;

/// Serves callers of both families until the process ends: each is told its own address, and the
/// connection is closed.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn serve(port: u16) -> io::Result<()> {
    // The kernel's default for such a socket is to take IPv4 callers as well (net.ipv6.bindv6only=0).
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    loop {
        let (mut stream, caller) = listener.accept().await?;
        tokio::spawn(async move {
            let said = format!("{}\n", caller.ip().to_canonical());
            // A caller that has gone does not want an answer.
            let _ = stream.write_all(said.as_bytes()).await;
        });
    }
}

/// Calls the service and gives the address it saw.
///
/// # Errors
/// When it does not answer within `patience`, or not with an address.
pub async fn probe(service: SocketAddr, patience: Duration) -> io::Result<IpAddr> {
    let call = async {
        let mut stream = TcpStream::connect(service).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        said.trim().parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("\"{}\" is not an address", said.trim()))
        })
    };
    let late =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", patience.as_secs_f32()));
    timeout(patience, call).await.map_err(late)?
}

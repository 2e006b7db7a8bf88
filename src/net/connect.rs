//! Opening a connection to a node: TCP by name or number, or a Unix socket.
//!
//! Owns name resolution and the trying of several addresses. Says nothing on the connection.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::{SocketOptions, Stream};
use crate::config::settings::Address;

/// Where PostgreSQL puts the socket of `port` in `directory`.
#[must_use]
pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// Connects before `deadline`. A host name's addresses are tried in the resolver's order, each with
/// its share of the time that is left, so that a silent first one leaves time for the next.
///
/// # Errors
/// The last address's error; [`io::ErrorKind::TimedOut`] when the time is up.
///
/// # Cancel safety
/// Safe: a connection half open is closed.
pub async fn connect(
    address: &Address,
    options: &SocketOptions,
    deadline: Instant,
) -> io::Result<Stream> {
    if address.host.starts_with('/') {
        let path = socket_path(Path::new(&address.host), address.port);
        return in_time(deadline, UnixStream::connect(path)).await.map(Stream::Unix);
    }
    let found = in_time(deadline, lookup_host((address.host.as_str(), address.port))).await?;
    let addresses: Vec<SocketAddr> = found.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (tried, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match in_time(Instant::now() + left / untried, TcpStream::connect(address)).await {
            Ok(stream) => {
                options.apply(&stream)?;
                return Ok(Stream::Tcp(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(deadline, work).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}

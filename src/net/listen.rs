//! Listening sockets and the loop that accepts.
//!
//! Owns binding, the life of a Unix socket's file, and patience: an accept that fails (no file
//! descriptor left, a client that hung up) is never the end of a listener. Says nothing to clients.
//!
//! Binding and listening are apart, because they happen in different places: [`Bound`] is made once,
//! before any worker exists, so that a port in use is an error of the start; each worker then turns a
//! clone of it into a [`Listener`] of its own runtime.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::connect::socket_path;
use super::{SocketOptions, Stream};
use crate::config::settings::Listen;

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;
/// PostgreSQL's default `unix_socket_permissions`: the password decides, not the file.
const SOCKET_MODE: u32 = 0o777;
/// The first and the longest pause after an accept failed for want of something.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

/// A socket that is bound and listens, but belongs to no runtime yet.
#[derive(Debug)]
pub struct Bound {
    socket: BoundSocket,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener, Arc<SocketFile>),
}

impl Bound {
    /// Binds `address`. With `reuse_port` other sockets may bind it as well and the kernel spreads
    /// connections over them (`SO_REUSEPORT`); it means nothing for Unix sockets.
    ///
    /// # Errors
    /// When the address is in use or may not be bound. A socket file left behind by a process that is
    /// gone is replaced; one that answers is [`io::ErrorKind::AddrInUse`].
    pub fn bind(address: &Listen, reuse_port: bool) -> io::Result<Self> {
        let socket = match address {
            Listen::Tcp(address) => BoundSocket::Tcp(bind_tcp(*address, reuse_port)?),
            Listen::Unix { directory, port } => bind_unix(&socket_path(directory, *port))?,
        };
        Ok(Self { socket })
    }

    /// Where it listens, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<BoundAddr> {
        match &self.socket {
            BoundSocket::Tcp(socket) => socket.local_addr().map(BoundAddr::Tcp),
            BoundSocket::Unix(_, file) => Ok(BoundAddr::Unix(file.path.clone())),
        }
    }

    /// Another handle of the same queue of connections.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            BoundSocket::Tcp(socket) => BoundSocket::Tcp(socket.try_clone()?),
            BoundSocket::Unix(socket, file) => {
                BoundSocket::Unix(socket.try_clone()?, Arc::clone(file))
            }
        };
        Ok(Self { socket })
    }

    /// Gives it to the runtime of the caller.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn listen(self) -> io::Result<Listener> {
        let socket = match self.socket {
            BoundSocket::Tcp(socket) => ListeningSocket::Tcp(TcpListener::from_std(socket)?),
            BoundSocket::Unix(socket, file) => {
                ListeningSocket::Unix(UnixListener::from_std(socket)?, file)
            }
        };
        Ok(Listener { socket })
    }
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket.
    Local,
}

impl fmt::Display for PeerAddr {
    /// As PostgreSQL's `log_connections` has it: an address, or `[local]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Local => f.write_str("[local]"),
        }
    }
}

/// A listening socket of one runtime. A Unix socket's file is removed when its last handle goes.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

impl Listener {
    /// The next client. Never fails: a connection that is gone before it is accepted is passed over,
    /// and while the process or the system lacks descriptors or memory it tries again, pausing from
    /// 10 ms up to a second, and warns once per shortage.
    ///
    /// # Cancel safety
    /// Safe: no connection is lost.
    pub async fn accept(&self) -> (Stream, PeerAddr) {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.accept_once().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    if pause == PAUSE_FIRST {
                        tracing::warn!(%error, "cannot accept connections, trying on");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_LONGEST);
                }
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Stream, PeerAddr)> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                Ok((Stream::Tcp(stream), PeerAddr::Tcp(address)))
            }
            ListeningSocket::Unix(socket, _file) => {
                let (stream, _) = socket.accept().await?;
                Ok((Stream::Unix(stream), PeerAddr::Local))
            }
        }
    }
}

/// Whether an accept failed because of the connection that was accepted, so that the next one may be
/// asked for at once. Linux also hands pending network errors of that connection to accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::TimedOut
    )
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // "::" beside "0.0.0.0" must be possible, as it is with PostgreSQL.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // What is connected from here on has them.
    if let Err(error) = SocketOptions::default().apply(&socket) {
        tracing::warn!(%error, %address, "cannot set socket options");
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<BoundSocket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = Arc::new(SocketFile::of(path)?);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(BoundSocket::Unix(socket.into(), file))
}

/// Makes way for a new socket file: removes one that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        // It answers, its queue is full, or it may not be asked: somebody lives there.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// A Unix socket's file, removed on drop if it is still the one that was made: a successor may have
/// put its own in the place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let made = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: made.dev(), inode: made.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

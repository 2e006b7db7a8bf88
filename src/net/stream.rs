//! A connected byte stream: TCP, TLS over TCP, or a Unix socket.
//!
//! Over TLS what is written may wait in the stream until it is flushed, and a readable stream need not
//! bring anything (see [`TlsStream`]); who reads by readiness must be ready to wait on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::tls::stream::Side;
use crate::tls::{ClientSide, ServerSide, TlsStream};

/// One connection, whatever carries it.
#[derive(Debug)]
pub enum Stream {
    /// TCP with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS that a client began.
    TlsAccepted(Box<TlsStream<TcpStream, ServerSide>>),
    /// TLS that we began toward a node.
    TlsConnected(Box<TlsStream<TcpStream, ClientSide>>),
}

impl Stream {
    /// Goes on in TLS, which the peer begins. `begun` is what has been read of its first message.
    ///
    /// # Errors
    /// When the handshake fails; [`io::ErrorKind::Unsupported`] over anything but TCP.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept_tls(self, config: Arc<ServerConfig>, begun: BytesMut) -> io::Result<Self> {
        let Self::Tcp(stream) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        Ok(Self::TlsAccepted(Box::new(TlsStream::accept(stream, config, begun).await?)))
    }

    /// Goes on in TLS, which we begin, with a peer of this name.
    ///
    /// # Errors
    /// As [`Stream::accept_tls`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let Self::Tcp(stream) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        Ok(Self::TlsConnected(Box::new(TlsStream::connect(stream, config, name).await?)))
    }

    /// What TLS has agreed on; `None` where there is none.
    #[must_use]
    pub fn tls(&self) -> Option<&CommonState> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TlsAccepted(stream) => Some(stream.agreed()),
            Self::TlsConnected(stream) => Some(stream.agreed()),
        }
    }

    /// Whether the peer is still there and has said nothing, as far as can be known at once. What it
    /// may have said is lost: a stream that is not silent is not to be used again.
    pub fn is_silent(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_read_ready(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => {
                let mut byte = [0];
                let mut byte = ReadBuf::new(&mut byte);
                Pin::new(self).poll_read(&mut cx, &mut byte).is_pending()
            }
        }
    }

    /// Polls for something to read, as far as the reactor knows: no system call.
    ///
    /// # Errors
    /// When the socket's registration is gone, which happens only while the runtime shuts down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::TlsAccepted(stream) => tls_read_ready(stream, cx),
            Self::TlsConnected(stream) => tls_read_ready(stream, cx),
        }
    }

    /// Sends all of it: at once where the socket takes it, which is nearly always.
    ///
    /// # Errors
    /// If the connection is broken.
    ///
    /// # Cancel safety
    /// Not safe: how much was sent is lost.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What is wrong is said by the next write.
        let sent = match self {
            Self::Tcp(stream) => stream.try_write(bytes).unwrap_or(0),
            Self::Unix(stream) => stream.try_write(bytes).unwrap_or(0),
            Self::TlsAccepted(_) | Self::TlsConnected(_) => 0,
        };
        if sent < bytes.len() {
            self.write_all(&bytes[sent..]).await?;
        }
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::TlsAccepted(_) | Self::TlsConnected(_) => self.flush().await,
        }
    }

    /// Moves the socket's registration to the reactor of the runtime that runs this.
    ///
    /// # Errors
    /// If the operating system refuses; the socket is closed then.
    pub fn rehome(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => rehome_tcp(stream),
            Self::Unix(stream) => {
                *stream = UnixStream::from_std(duplicate(stream)?.into())?;
                Ok(())
            }
            Self::TlsAccepted(stream) => rehome_tcp(stream.carrier_mut()),
            Self::TlsConnected(stream) => rehome_tcp(stream.carrier_mut()),
        }
    }
}

fn tls_read_ready<S: Side>(
    stream: &TlsStream<TcpStream, S>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if stream.has_unread() { Poll::Ready(Ok(())) } else { stream.carrier().poll_read_ready(cx) }
}

fn rehome_tcp(stream: &mut TcpStream) -> io::Result<()> {
    *stream = TcpStream::from_std(duplicate(stream)?.into())?;
    Ok(())
}

/// Another descriptor of the same socket; the first is closed when its owner is dropped.
fn duplicate(socket: &impl std::os::fd::AsFd) -> io::Result<std::os::fd::OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsAccepted(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Self::TlsConnected(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsAccepted(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Self::TlsConnected(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsAccepted(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::TlsConnected(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsAccepted(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::TlsConnected(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

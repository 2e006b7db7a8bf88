//! Connections of tokio-postgres to nodes: for the monitor, the clocks, the catalogs and look-ups.
//!
//! Owns what tokio-postgres does not: that a password is not given to whoever asks for it. Where not every way of
//! proof is allowed (`Connector::ways`), what a node says is read along up to `AuthenticationOk`, in TLS as well as in
//! plain text, and what may not be asked for ends the connection before tokio-postgres has heard of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Error, tls};

use super::{SocketOptions, Stream, connect};
use crate::config::settings::{Address, Ways};
use crate::tls::{ClientSide, Connector, TlsStream, ToNode};

/// How long a node may take that is given no limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// What moves a connection's bytes, until it ends.
pub type Running = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Connects as `config` says, by way of `connector`.
///
/// # Errors
/// If the node is not reached, does not let us in, or asks for a proof that may not be given.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn open(config: &Config, connector: &Connector) -> Result<(Client, Running), Error> {
    let address = address(config);
    let ways = connector.ways(&address);
    if ways == Ways::ALL {
        let (client, connection) = config.connect(connector.clone()).await?;
        return Ok((client, Box::pin(connection)));
    }
    let options = SocketOptions {
        user_timeout: config.get_tcp_user_timeout().copied(),
        ..SocketOptions::default()
    };
    let deadline = Instant::now() + config.get_connect_timeout().copied().unwrap_or(PATIENCE);
    let stream = connect::connect(&address, &options, deadline).await;
    let opened = match stream {
        Ok(stream) => Carrier::Open(stream),
        Err(error) => Carrier::Failed(Some(error)),
    };
    let mut connector = connector.clone();
    let to_node =
        MakeTlsConnect::<Guarded<Carrier>>::make_tls_connect(&mut connector, &address.host);
    let to_node = to_node.ok();
    let guarded = Guarded { stream: opened, guard: Guard::new(ways) };
    let (client, connection) = config.connect_raw(guarded, GuardedTls { to_node, ways }).await?;
    Ok((client, Box::pin(connection)))
}

/// [`open`] for deadpool.
#[derive(Debug, Clone)]
pub struct Opener(pub Connector);

impl Connect for Opener {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<
        Box<dyn Future<Output = Result<(Client, tokio::task::JoinHandle<()>), Error>> + Send + '_>,
    > {
        let config = config.clone();
        Box::pin(async move {
            let (client, running) = open(&config, &self.0).await?;
            let task = tokio::spawn(async move {
                if let Err(error) = running.await {
                    tracing::debug!(%error, "a connection to a node ended");
                }
            });
            Ok((client, task))
        })
    }
}

fn address(config: &Config) -> Address {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
        None => String::new(),
    };
    Address { host, port: config.get_ports().first().copied().unwrap_or(5432) }
}

/// A connection, or why there is none: tokio-postgres makes its errors of what it hears from a stream.
enum Carrier {
    Open(Stream),
    Failed(Option<io::Error>),
}

impl Carrier {
    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        match self {
            Self::Open(stream) => Ok(Pin::new(stream)),
            Self::Failed(error) => {
                Err(error.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into()))
            }
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}

/// Begins TLS, inside of which the guard goes on.
struct GuardedTls {
    to_node: Option<ToNode>,
    ways: Ways,
}

type Inside = TlsStream<Guarded<Carrier>, ClientSide>;

impl TlsConnect<Guarded<Carrier>> for GuardedTls {
    type Stream = Guarded<Inside>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: Guarded<Carrier>) -> Self::Future {
        Box::pin(async move {
            let to_node = self.to_node.ok_or(io::ErrorKind::InvalidInput)?;
            let stream = to_node.connect(stream).await?;
            Ok(Guarded { stream, guard: Guard::new(self.ways) })
        })
    }
}

impl tls::TlsStream for Guarded<Inside> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// A stream that is read along.
struct Guarded<S> {
    stream: S,
    guard: Guard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Err(error) = this.guard.hear(&buf.filled()[before..]) {
            buf.set_filled(before);
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.guard.say(buf);
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// What has been heard of a node's demands.
struct Guard {
    ways: Ways,
    state: Heard,
    /// The node has asked for a proof.
    asked: bool,
}

enum Heard {
    /// Nothing has been said.
    Nothing,
    /// TLS was asked for, and not answered.
    Offer,
    /// So much of a message's head: its type, its length, and the code of an authentication.
    Head([u8; 9], usize),
    /// A message of which so much is to come.
    Body(usize),
    /// It is through, or goes on where it cannot be read.
    All,
}

impl Guard {
    fn new(ways: Ways) -> Self {
        Self { ways, state: Heard::Nothing, asked: false }
    }

    fn say(&mut self, said: &[u8]) {
        if matches!(self.state, Heard::Nothing) {
            let asks = said.starts_with(b"\0\0\0\x08\x04\xd2\x16\x2f");
            self.state = if asks { Heard::Offer } else { Heard::Head([0; 9], 0) };
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                Heard::All => return Ok(()),
                Heard::Nothing => self.state = Heard::Head([0; 9], 0),
                Heard::Offer => {
                    // In TLS another guard goes on.
                    self.state = if byte == b'S' { Heard::All } else { Heard::Head([0; 9], 0) };
                    bytes = rest;
                }
                Heard::Body(left) => {
                    let here = (*left).min(bytes.len());
                    *left -= here;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.state = Heard::Head([0; 9], 0);
                    }
                }
                Heard::Head(head, count) => {
                    head[*count] = byte;
                    *count += 1;
                    bytes = rest;
                    let (head, count) = (*head, *count);
                    self.on_head(&head[..count])?;
                }
            }
        }
        Ok(())
    }

    fn on_head(&mut self, head: &[u8]) -> io::Result<()> {
        let Some((kind, rest)) = head.split_first() else { return Ok(()) };
        let Some((length, rest)) = rest.split_first_chunk() else { return Ok(()) };
        let length = u32::from_be_bytes(*length) as usize;
        if *kind != b'R' {
            self.state = Heard::Body(length.saturating_sub(4));
            if length <= 4 {
                self.state = Heard::Head([0; 9], 0);
            }
            return Ok(());
        }
        let Some(code) = rest.first_chunk() else { return Ok(()) };
        let code = u32::from_be_bytes(*code);
        let (asked, way) = match code {
            0 if self.asked => (None, Ways::NONE),
            0 => (Some("no"), Ways::NONE),
            3 => (Some("password"), Ways::PASSWORD),
            5 => (Some("md5"), Ways::MD5),
            10..=12 => (Some("scram-sha-256"), Ways::SCRAM),
            // What tokio-postgres does not know it refuses.
            _ => (None, Ways::NONE),
        };
        if let Some(asked) = asked.filter(|_| !self.ways.has(way)) {
            let error = format!(
                "the server asks for {asked} authentication, which node_tls.require_auth does not allow here"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        self.asked |= code != 0;
        self.state = match (code, length.saturating_sub(8)) {
            (0, _) => Heard::All,
            (_, 0) => Heard::Head([0; 9], 0),
            (_, left) => Heard::Body(left),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(code: u32, more: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + more.len()).unwrap();
        [&b"R"[..], &length.to_be_bytes(), &code.to_be_bytes(), more].concat()
    }

    /// Whether all of it is passed on, in pieces of any size.
    fn passes(ways: Ways, said: &[u8], heard: &[u8]) -> bool {
        let outcomes: Vec<bool> = (1..=heard.len())
            .map(|size| {
                let mut guard = Guard::new(ways);
                guard.say(said);
                heard.chunks(size).try_for_each(|piece| guard.hear(piece)).is_ok()
            })
            .collect();
        assert!(outcomes.windows(2).all(|two| two[0] == two[1]), "it depends on how it is cut");
        outcomes[0]
    }

    #[test]
    fn what_may_not_be_asked_for_is_not_heard() {
        let startup = b"\0\0\0\x09\0\x03\0\0\0";
        let request = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let (clear, md5, ok) = (asks(3, b""), asks(5, b"salt"), asks(0, b""));
        let sasl = asks(10, b"SCRAM-SHA-256\0\0");
        let scram = [&sasl[..], &asks(11, b"r=x"), &asks(12, b"v=x"), &ok].concat();
        let notice = b"N\0\0\0\x08\0\0\0\0".to_vec();
        let quiet = Ways::SCRAM.with(Ways::NONE);
        for (ways, heard, expected) in [
            (quiet, &clear, false),
            (quiet, &md5, false),
            (quiet, &scram, true),
            (quiet, &ok, true),
            (Ways::SCRAM, &ok, false),
            (Ways::SCRAM, &scram, true),
            (Ways::SCRAM.with(Ways::MD5), &[&md5[..], &ok].concat(), true),
            (Ways::PASSWORD, &[&clear[..], &ok].concat(), true),
            (Ways::PASSWORD, &scram, false),
            (quiet, &[&notice[..], &clear].concat(), false),
            // What comes behind is the session's.
            (quiet, &[&scram[..], &clear].concat(), true),
        ] {
            assert_eq!(passes(ways, startup, heard), expected, "{heard:?}");
            assert_eq!(passes(ways, request, &[&b"N"[..], heard].concat()), expected, "{heard:?}");
            assert!(passes(ways, request, &[&b"S"[..], heard].concat()), "that is TLS");
        }
    }
}

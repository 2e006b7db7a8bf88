//! A stream that encrypts what is written to it and decrypts what it reads, over another stream.
//!
//! Drives rustls's machine without its own buffers (`rustls::unbuffered`): what is read from the carrier
//! is as large as the carrier gives, and an idle connection holds no buffer at all. Owns the bytes
//! between the carrier and the caller.
//!
//! What callers must know:
//! - [`AsyncWrite::poll_write`] takes bytes and encrypts them at once; the carrier may take them later.
//!   Whoever waits for an answer must have flushed.
//! - A readable carrier need not bring anything to read (a record that has not come whole, a change of
//!   keys), and there may be something to read while the carrier is silent ([`TlsStream::has_unread`]).
//! - A carrier that ends without close_notify ends the stream all the same: PostgreSQL's messages say
//!   themselves where they end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// The least and the most that is asked of the carrier at once, in bytes. A record has up to 16 KiB.
const READ_FIRST: usize = 4 << 10;
const READ_MOST: usize = 64 << 10;
/// The most that may lie unprocessed: a handshake message, in its records. rustls takes up to 64 KiB.
const INCOMING_MOST: usize = 160 << 10;
/// How much is encrypted at once, and how much may wait for the carrier before no more is taken.
const WRITE_MOST: usize = 64 << 10;
/// The most that a record adds to what is in it, in bytes, in any version and cipher of rustls's.
const RECORD_OVERHEAD: usize = 64;
/// What a record holds at most, in bytes.
const RECORD: usize = 16 << 10;

/// Our end of a TLS connection: which of the two roles we play.
pub trait Side: Unpin {
    /// What rustls keeps for this role.
    type Data;

    /// Takes apart what has come.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What has been agreed on.
    fn agreed(&self) -> &CommonState;
}

/// We are the server.
pub type ServerSide = UnbufferedServerConnection;
/// We are the client.
pub type ClientSide = UnbufferedClientConnection;

/// The two differ in rustls's types, and in nothing that is done with them here.
macro_rules! side {
    ($side:ty, $data:ty) => {
        impl Side for $side {
            type Data = $data;

            fn process<'c, 'i>(
                &'c mut self,
                incoming: &'i mut [u8],
            ) -> UnbufferedStatus<'c, 'i, Self::Data> {
                self.process_tls_records(incoming)
            }

            fn agreed(&self) -> &CommonState {
                self
            }
        }
    };
}

side!(ServerSide, ServerConnectionData);
side!(ClientSide, ClientConnectionData);

/// One TLS connection.
pub struct TlsStream<IO: AsyncRead + AsyncWrite + Unpin, S: Side> {
    io: IO,
    side: S,
    /// Read from the carrier and not yet taken apart.
    incoming: BytesMut,
    /// For the carrier.
    outgoing: BytesMut,
    /// Decrypted, and there was no room for it.
    plaintext: BytesMut,
    /// How much to ask the carrier for.
    read_size: usize,
    /// The last reader's room was filled while more had come.
    unread: bool,
    /// Nothing more will be read.
    ended: bool,
    /// Our own close_notify is on its way.
    closed: bool,
    failure: Failure,
}

/// Whether the machine has failed: then it must not be asked again.
enum Failure {
    None,
    /// Why, which nobody has been told yet.
    Untold(rustls::Error),
    Told,
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Side> std::fmt::Debug for TlsStream<IO, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let agreed = self.side.agreed();
        f.debug_struct("TlsStream")
            .field("version", &agreed.protocol_version())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// What is to be encrypted when it is our turn.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Data(&'a [u8]),
    Goodbye,
}

/// What came of one step of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something was done; there may be more to do.
    Again,
    /// What was to be said is encrypted.
    Said,
    /// Nothing can be done before more has come.
    Waits,
    /// Both sides have said goodbye.
    Over,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO, ServerSide> {
    /// Waits for a client's handshake. `begun` is what has been read of it already.
    ///
    /// # Errors
    /// When there is no common ground, a certificate does not hold, or the carrier ends. The peer has been
    /// told by an alert.
    ///
    /// # Cancel safety
    /// Dropping the future closes the carrier.
    pub async fn accept(io: IO, config: Arc<ServerConfig>, begun: BytesMut) -> io::Result<Self> {
        let side = ServerSide::new(config).map_err(io::Error::other)?;
        Self::shake_hands(io, side, begun).await
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO, ClientSide> {
    /// Opens a TLS connection to a server of this name.
    ///
    /// # Errors
    /// As [`TlsStream::accept`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the carrier.
    pub async fn connect(
        io: IO,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let side = ClientSide::new(config, name).map_err(io::Error::other)?;
        Self::shake_hands(io, side, BytesMut::new()).await
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Side> TlsStream<IO, S> {
    async fn shake_hands(io: IO, side: S, incoming: BytesMut) -> io::Result<Self> {
        let mut stream = Self {
            io,
            side,
            incoming,
            outgoing: BytesMut::new(),
            plaintext: BytesMut::new(),
            read_size: READ_FIRST,
            unread: false,
            ended: false,
            closed: false,
            failure: Failure::None,
        };
        std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// What has been agreed on: version, protocol, the peer's certificates.
    pub fn agreed(&self) -> &CommonState {
        self.side.agreed()
    }

    /// The carrier.
    pub fn carrier(&self) -> &IO {
        &self.io
    }

    /// The carrier, to be moved to another reactor.
    pub fn carrier_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Whether there may be something to read without the carrier's saying so.
    pub fn has_unread(&self) -> bool {
        self.unread || !self.plaintext.is_empty() || self.ended
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.step(None, Say::Nothing) {
                Ok(Step::Again) => continue,
                Ok(_) => {}
                Err(error) => {
                    self.give_up(cx, error);
                    return Poll::Ready(Err(self.failure()));
                }
            }
            ready!(self.poll_send(cx))?;
            if !self.agreed().is_handshaking() {
                self.unread = !self.incoming.is_empty();
                return Poll::Ready(Ok(()));
            }
            if self.ended || ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// One step of the machine. What is decrypted goes to `room`, the rest of it to `plaintext`.
    fn step(
        &mut self,
        room: Option<&mut ReadBuf<'_>>,
        say: Say<'_>,
    ) -> Result<Step, rustls::Error> {
        let UnbufferedStatus { mut discard, state } = self.side.process(&mut self.incoming);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut room = room;
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    let mut rest = record.payload;
                    if let Some(room) = room.as_mut().filter(|_| self.plaintext.is_empty()) {
                        let (fits, left) = rest.split_at(rest.len().min(room.remaining()));
                        room.put_slice(fits);
                        rest = left;
                    }
                    self.plaintext.extend_from_slice(rest);
                }
                Ok(Step::Again)
            }
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                append(&mut self.outgoing, RECORD_OVERHEAD, |out| {
                    message.encode(out).map_err(|error| match error {
                        EncodeError::InsufficientSize(needs) => Some(needs.required_size),
                        EncodeError::AlreadyEncoded => None,
                    })
                })
                .map(|()| Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                // `outgoing` keeps the order and is not lost: as good as sent.
                sent.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match say {
                Say::Nothing => Ok(Step::Waits),
                Say::Data(data) => {
                    let overhead = (data.len() / RECORD + 2) * RECORD_OVERHEAD;
                    append(&mut self.outgoing, data.len() + overhead, |out| {
                        traffic.encrypt(data, out).map_err(|error| needed(&error))
                    })
                    .map(|()| Step::Said)
                }
                Say::Goodbye => append(&mut self.outgoing, RECORD_OVERHEAD, |out| {
                    traffic.queue_close_notify(out).map_err(|error| needed(&error))
                })
                .map(|()| Step::Said),
            },
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Waits),
            Ok(ConnectionState::PeerClosed) => {
                self.ended = true;
                Ok(Step::Again)
            }
            Ok(ConnectionState::Closed) => {
                self.ended = true;
                Ok(Step::Over)
            }
            Ok(_) => Err(rustls::Error::General("early data, which was not offered".to_owned())),
            Err(error) => Err(error),
        };
        self.incoming.advance(discard);
        step
    }

    /// The connection has failed: the peer is told why, if it still listens.
    fn give_up(&mut self, cx: &mut Context<'_>, error: rustls::Error) {
        self.ended = true;
        self.closed = true;
        if !matches!(error, rustls::Error::AlertReceived(_)) {
            // The alert comes out of the machine before it looks at what has come. A second step would
            // have it judge the same bytes again. The first error is the one that counts.
            let _ = self.step(None, Say::Nothing);
            let _ = self.poll_send(cx);
        }
        self.failure = Failure::Untold(error);
    }

    /// Why nothing can be read or written any more.
    fn failure(&mut self) -> io::Error {
        match std::mem::replace(&mut self.failure, Failure::Told) {
            Failure::Untold(error) => io::Error::new(io::ErrorKind::InvalidData, error),
            Failure::None | Failure::Told => io::ErrorKind::BrokenPipe.into(),
        }
    }

    fn has_failed(&self) -> bool {
        !matches!(self.failure, Failure::None)
    }

    /// Reads from the carrier; 0 is its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.incoming.len() > INCOMING_MOST {
            let error = "a TLS message of unlawful length";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        self.incoming.reserve(self.read_size);
        let spare = self.incoming.capacity() - self.incoming.len();
        let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.incoming);
        match read {
            Poll::Ready(Ok(0)) => self.ended = true,
            Poll::Ready(Ok(count)) if count == spare => {
                self.read_size = (self.read_size * 2).min(READ_MOST);
            }
            Poll::Ready(Ok(count)) if count < READ_FIRST => self.read_size = READ_FIRST,
            Poll::Ready(Ok(_) | Err(_)) => {}
            Poll::Pending => self.release(),
        }
        read
    }

    /// Gives the carrier what it takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.advance(count),
            }
        }
        self.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Lets go of buffers with nothing in them.
    fn release(&mut self) {
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        if self.plaintext.is_empty() {
            self.plaintext = BytesMut::new();
        }
    }

    /// Encrypts; what had come meanwhile is decrypted first, as the machine wants it.
    fn say(&mut self, cx: &mut Context<'_>, say: Say<'_>) -> io::Result<()> {
        while !self.has_failed() {
            match self.step(None, say) {
                Ok(Step::Again) => {}
                Ok(Step::Said) => return Ok(()),
                Ok(Step::Waits | Step::Over) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => self.give_up(cx, error),
            }
        }
        Err(self.failure())
    }

    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        loop {
            let ready = self.plaintext.len().min(room.remaining());
            room.put_slice(&self.plaintext[..ready]);
            self.plaintext.advance(ready);
            if room.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !self.has_failed() {
                match self.step(Some(room), Say::Nothing) {
                    Ok(Step::Again) => continue,
                    Ok(_) => {}
                    Err(error) => self.give_up(cx, error),
                }
            }
            if self.has_failed() && room.filled().len() == before {
                return Poll::Ready(Err(self.failure()));
            }
            // Answers of TLS's own, such as a change of keys, need not wait for our next word.
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if room.filled().len() > before || self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx))?;
        }
    }
}

fn needed(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(needs) => Some(needs.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `write` writes: into so much room, or into as much as it says that it needs.
fn append(
    out: &mut BytesMut,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    out.resize(start + room, 0);
    let written = match write(&mut out[start..]) {
        Err(Some(needed)) => {
            out.resize(start + needed, 0);
            write(&mut out[start..])
        }
        other => other,
    };
    out.truncate(start + *written.as_ref().unwrap_or(&0));
    written.map(drop).map_err(|_| rustls::Error::EncryptError)
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Side> AsyncRead for TlsStream<IO, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = this.poll_read_into(cx, buf);
        this.unread = buf.remaining() == 0 && !this.incoming.is_empty();
        this.release();
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Side> AsyncWrite for TlsStream<IO, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.outgoing.len() >= WRITE_MOST {
            ready!(this.poll_send(cx))?;
        }
        let piece = &buf[..buf.len().min(WRITE_MOST)];
        this.say(cx, Say::Data(piece))?;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(piece.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closed, true) {
            this.say(cx, Say::Goodbye)?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, S: Side> Drop for TlsStream<IO, S> {
    /// Says goodbye if the carrier takes it at once: a client then knows that nothing was cut off.
    fn drop(&mut self) {
        if !self.closed && !self.agreed().is_handshaking() {
            let mut cx = Context::from_waker(Waker::noop());
            if self.say(&mut cx, Say::Goodbye).is_ok() {
                let _ = self.poll_send(&mut cx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::version::{TLS12, TLS13};
    use rustls::{RootCertStore, SupportedProtocolVersion};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const HANG: Duration = Duration::from_secs(30);

    type Server = TlsStream<DuplexStream, ServerSide>;
    type Client = TlsStream<DuplexStream, ClientSide>;

    fn configs(
        version: &'static SupportedProtocolVersion,
    ) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }

    /// A connection over a carrier that holds `room` bytes.
    async fn pair(version: &'static SupportedProtocolVersion, room: usize) -> (Server, Client) {
        let (server, client) = configs(version);
        let (near, far) = duplex(room);
        let name = ServerName::try_from("db").unwrap();
        let accept = TlsStream::accept(near, server, BytesMut::new());
        let both = async { tokio::join!(accept, TlsStream::connect(far, client, name)) };
        let (server, client) = timeout(HANG, both).await.expect("the handshake hangs");
        (server.unwrap(), client.unwrap())
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    /// Whatever the carrier holds at once, and however much is read at once.
    #[tokio::test]
    async fn everything_arrives_both_ways_at_once() {
        for version in [&TLS12, &TLS13] {
            for (room, chunk) in [(1 << 20, 1 << 20), (70_000, 8192), (4096, 333), (61, 17)] {
                let (server, client) = pair(version, room).await;
                let sent = bytes(if room < 100 { 20_000 } else { 600_000 });
                let (mut server_reads, mut server_writes) = tokio::io::split(server);
                let (mut client_reads, mut client_writes) = tokio::io::split(client);
                let write = async |half: &mut (dyn AsyncWrite + Unpin + Send)| {
                    half.write_all(&sent).await.unwrap();
                    half.flush().await.unwrap();
                };
                let read = async |half: &mut (dyn AsyncRead + Unpin + Send)| {
                    let mut heard = Vec::new();
                    let mut piece = vec![0; chunk];
                    while heard.len() < sent.len() {
                        let count = half.read(&mut piece).await.unwrap();
                        assert_ne!(count, 0, "it ended after {}", heard.len());
                        heard.extend_from_slice(&piece[..count]);
                    }
                    assert!(heard == sent, "{room} {chunk}");
                };
                let all = async {
                    tokio::join!(
                        write(&mut server_writes),
                        write(&mut client_writes),
                        read(&mut server_reads),
                        read(&mut client_reads)
                    )
                };
                timeout(HANG, all).await.expect("it hangs");
            }
        }
    }

    /// What has come is never hidden: while [`TlsStream::has_unread`] is false, whatever will be read has
    /// still to come through the carrier.
    #[tokio::test]
    async fn a_silent_carrier_does_not_hide_what_has_come() {
        let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
        let sent = bytes(3000);
        // Three records, which come at once.
        for record in sent.chunks(1000) {
            client.write_all(record).await.unwrap();
        }
        client.flush().await.unwrap();
        let mut heard = vec![0; 100];
        server.read_exact(&mut heard).await.unwrap();
        while heard.len() < sent.len() {
            assert!(server.has_unread(), "after {}", heard.len());
            let mut piece = [0; 100];
            let count = server.read(&mut piece).await.unwrap();
            heard.extend_from_slice(&piece[..count]);
        }
        assert!(heard == sent);
        let nothing = timeout(Duration::from_millis(10), server.read(&mut [0; 100])).await;
        assert!(nothing.is_err());
        assert!(!server.has_unread());
        assert_eq!((server.incoming.capacity(), server.plaintext.capacity()), (0, 0));
        assert_eq!(client.outgoing.capacity(), 0);
    }

    /// A part of a record is nothing to read, and is not lost.
    #[tokio::test]
    async fn half_a_record_is_waited_for() {
        let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
        client.say(&mut Context::from_waker(Waker::noop()), Say::Data(b"hello")).unwrap();
        let record = client.outgoing.split();
        client.io.write_all(&record[..7]).await.unwrap();
        let early = timeout(Duration::from_millis(20), server.read(&mut [0; 100])).await;
        assert!(early.is_err());
        client.io.write_all(&record[7..]).await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[tokio::test]
    async fn new_keys_are_taken_in_between() {
        let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
        for round in 0..3_u8 {
            let ConnectionState::WriteTraffic(traffic) =
                client.side.process(&mut []).state.unwrap()
            else {
                panic!("not ready to write")
            };
            traffic.refresh_traffic_keys().unwrap();
            client.write_all(&[round]).await.unwrap();
            client.flush().await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), round);
            server.write_all(&[round + 100]).await.unwrap();
            server.flush().await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), round + 100);
        }
    }

    #[tokio::test]
    async fn how_it_ends() {
        // By goodbye, which dropping says too.
        for version in [&TLS12, &TLS13] {
            let (mut server, mut client) = pair(version, 1 << 20).await;
            client.write_all(b"last").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"last");
            assert!(server.has_unread(), "the end is something to hear");
            drop(server);
            assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
        }
        // By the carrier's end.
        let (mut server, client) = pair(&TLS13, 1 << 20).await;
        let mut client = std::mem::ManuallyDrop::new(client);
        client.io.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
    }

    /// Plain text, and records that were tampered with, are an error, and the peer hears an alert.
    #[tokio::test]
    async fn what_is_not_protected_is_refused() {
        let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
        client.io.write_all(b"Q\0\0\0\x0dSELECT 1\0").await.unwrap();
        let error = server.read(&mut [0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = client.read(&mut [0; 100]).await.unwrap_err();
        assert!(error.to_string().contains("fatal alert"), "{error}");

        let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
        client.say(&mut Context::from_waker(Waker::noop()), Say::Data(b"hello")).unwrap();
        let mut record = client.outgoing.split();
        record[8] ^= 1;
        client.io.write_all(&record).await.unwrap();
        assert!(server.read(&mut [0; 100]).await.is_err());
        assert!(server.write_all(b"more").await.is_err());
        assert!(server.read(&mut [0; 100]).await.is_err());
    }

    #[tokio::test]
    async fn handshakes_that_fail() {
        let (server, client) = configs(&TLS13);
        // The peer speaks something else.
        let (near, mut far) = duplex(1 << 16);
        far.write_all(b"\0\0\0\x08\x04\xd2\x16\x2fand more").await.unwrap();
        let failed = TlsStream::accept(near, server.clone(), BytesMut::new()).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidData);
        // The peer leaves.
        let (near, far) = duplex(1 << 16);
        drop(far);
        let failed = TlsStream::accept(near, server.clone(), BytesMut::new()).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // The certificate is another's.
        let (near, far) = duplex(1 << 16);
        let name = ServerName::try_from("other").unwrap();
        let (server, client) = tokio::join!(
            TlsStream::accept(near, server, BytesMut::new()),
            TlsStream::connect(far, client, name)
        );
        assert!(client.unwrap_err().to_string().contains("not valid for name"));
        assert!(server.is_err());
    }

    /// A peer that announces a handshake message without end is not listened to for ever.
    #[tokio::test]
    async fn a_handshake_is_not_endless() {
        let (server, _) = configs(&TLS13);
        let (near, mut far) = duplex(1 << 20);
        let mut record = vec![0x16, 3, 1, 0x40, 0];
        record.extend_from_slice(&[1, 0, 0xFF, 0xFF]);
        record.resize(5 + 0x4000, 0);
        let flood = async {
            for _ in 0..1000 {
                if far.write_all(&record).await.is_err() {
                    break;
                }
                record.splice(5..9, [0, 0, 0, 0]);
            }
        };
        let accept = TlsStream::accept(near, server, BytesMut::new());
        let (failed, ()) = timeout(HANG, async { tokio::join!(accept, flood) }).await.unwrap();
        assert!(failed.is_err());
    }
}

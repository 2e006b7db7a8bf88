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

mod side;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

pub use self::side::{ClientSide, ServerSide, Side};

/// The least and the most that is asked of the carrier at once, in bytes. A record has up to 16 KiB. Whoever asks for
/// little, as of a peer that has not proved itself, has little read ahead.
const READ_FIRST: usize = 4 << 10;
const READ_MOST: usize = 64 << 10;
/// How much is encrypted at once, and how much may wait for the carrier before no more is taken.
const WRITE_MOST: usize = 64 << 10;
/// The most that a record adds to what is in it, in bytes, in any version and cipher of rustls's.
const RECORD_OVERHEAD: usize = 64;
/// What a record holds at most, in bytes.
const RECORD: usize = 16 << 10;

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
            if self.ended || ready!(self.poll_receive(cx, READ_FIRST))? == 0 {
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

    /// Reads from the carrier, up to `most` at once; 0 is its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if self.incoming.len() > S::INCOMING_MOST {
            let error = "a TLS message of unlawful length";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        self.incoming.reserve(self.read_size);
        let spare = self.incoming.capacity() - self.incoming.len();
        let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.incoming);
        match read {
            Poll::Ready(Ok(0)) => self.ended = true,
            Poll::Ready(Ok(count)) if count == spare => {
                self.read_size = (self.read_size * 2).min(most);
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
            let most = if room.remaining() < READ_FIRST { READ_FIRST } else { READ_MOST };
            ready!(self.poll_receive(cx, most))?;
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
mod tests;

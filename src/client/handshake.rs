//! From an accepted connection to `AuthenticationOk`, or to a clear refusal.
//!
//! Owns the order of a login, its time limit, and what a refused client hears. Ends before
//! `ParameterStatus`, `BackendKeyData` and `ReadyForQuery`, which are the session's. Invariants: before
//! the client has proved itself it costs one small buffer; nothing it sends is waited for beyond
//! `limits.startup_timeout`; a refused client can always read why.
//!
//! Order and texts follow PostgreSQL 18 (`backend_startup.c`, `auth.c`, `auth-sasl.c`).

use std::io;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout_at};

use crate::auth::Credentials;
use crate::auth::credentials::Doom;
use crate::auth::scram::{self, ScramError};
use crate::config::settings::Limits;
use crate::net::{ReadAhead, Stream};
use crate::protocol::frontend::SaslInitialResponse;
use crate::protocol::startup::{
    self, CancelKey, GSSENC_REQUEST, SSL_REQUEST, Startup, StartupError, StartupPacket,
};
use crate::protocol::{Blame, ErrorReport, backend};

/// The longest message that a client may send while it proves itself, its length word included:
/// PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`.
const SASL_MESSAGE_MAX: usize = 1024;

/// What a login is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Entrance<'a> {
    /// Who may enter.
    pub credentials: &'a Credentials,
    /// `startup_packet` and `startup_timeout` are looked at.
    pub limits: &'a Limits,
    /// Set when nobody may enter now (too many clients, shutting down): what a client hears once it
    /// has said what it wants. Cancel requests pass all the same.
    pub closed: Option<&'a ErrorReport>,
}

/// What came of a connection.
#[derive(Debug)]
pub enum Entered {
    /// A client that has proved who it is.
    Session(Welcome),
    /// A cancel request. The client learns that it was carried out by the stream's end, so it is to
    /// be dropped afterwards; nothing is to be written to it.
    Cancel {
        /// The connection that asks.
        stream: Stream,
        /// What is to be cancelled.
        key: CancelKey,
    },
}

/// A client that has heard `AuthenticationOk`.
#[derive(Debug)]
pub struct Welcome {
    /// The connection.
    pub stream: Stream,
    /// Bytes already read behind the login.
    pub buffer: BytesMut,
    /// The role.
    pub user: String,
    /// The database asked for.
    pub database: String,
    /// Start-up parameters beside these, `options` included, in the order sent and each name once.
    pub parameters: Vec<(String, String)>,
    /// 0 or 2: the minor version of protocol 3 that the client speaks.
    pub protocol_minor: u16,
}

/// Why a client did not get in. It has been told (where it may be) and its connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Its first packets.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// It did not prove that it is `user`.
    #[error("password authentication failed for user \"{user}\": {}", doom_text(*.doom, .source))]
    Authentication {
        /// Who it says it is.
        user: String,
        /// What was wrong with what it sent.
        source: ScramError,
        /// Whether it could have succeeded at all.
        doom: Option<Doom>,
    },
    /// A message that is no answer to the challenge.
    #[error("expected SASL response, got message type {kind}")]
    UnexpectedMessage {
        /// The message's first byte.
        kind: u8,
    },
    /// A message of a length that is no answer's.
    #[error("invalid message length")]
    MessageLength,
    /// An answer whose inner lengths do not agree.
    #[error("invalid message format")]
    MessageFormat,
    /// Another mechanism than the one offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// Nobody may enter now.
    #[error("{}", .0.message)]
    Closed(Box<ErrorReport>),
    /// It took too long.
    #[error("canceling authentication due to timeout")]
    Timeout {
        /// Whether it had got as far as saying who it is: only then it is told.
        started: bool,
    },
    /// It hung up.
    #[error("the client hung up during the login")]
    Gone {
        /// Whether it had sent anything that was not answered: without, it is but a port check, or a
        /// driver that wanted TLS or must ask for a password first.
        midway: bool,
    },
    /// Its socket failed.
    #[error("the client's connection failed during the login")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// Who must act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Closed(_) => Blame::Operator,
            Self::Startup(_)
            | Self::Authentication { .. }
            | Self::UnexpectedMessage { .. }
            | Self::MessageLength
            | Self::MessageFormat
            | Self::Mechanism
            | Self::Timeout { .. }
            | Self::Gone { .. }
            | Self::Io(_) => Blame::Client,
        }
    }

    /// What the client was told; `None` where it was told nothing.
    #[must_use]
    pub fn report(&self) -> Option<ErrorReport> {
        let violation = || Some(ErrorReport::fatal("08P01", self.to_string()));
        match self {
            // A cancel request is never answered, and before it has said who it is a client that is
            // slow may be waiting for something else than an error.
            Self::Startup(StartupError::CancelLength)
            | Self::Timeout { started: false }
            | Self::Gone { .. }
            | Self::Io(_) => None,
            Self::Startup(error) => Some(error.report()),
            Self::Authentication { user, source, .. } => Some(source.report(user)),
            Self::UnexpectedMessage { .. }
            | Self::MessageLength
            | Self::MessageFormat
            | Self::Mechanism => violation(),
            Self::Closed(report) => Some(report.as_ref().clone()),
            Self::Timeout { started: true } => Some(ErrorReport::fatal("57014", self.to_string())),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::UnexpectedEof
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe => Self::Gone { midway: true },
            _ => Self::Io(error),
        }
    }
}

fn doom_text(doom: Option<Doom>, source: &ScramError) -> String {
    match doom {
        Some(Doom::UnknownUser) => "there is no such user in the file".to_owned(),
        Some(Doom::NoPassword) => "the user has no password in the file".to_owned(),
        None => source.to_string(),
    }
}

/// Lets a client in up to `AuthenticationOk`, or refuses it: the ErrorResponse is written and the
/// connection closed when this returns an error, which is for the log. `buffer` holds bytes already
/// read, if any.
///
/// Takes at most `limits.startup_timeout`, and two seconds more to say goodbye.
///
/// # Errors
/// When the client did not get in.
///
/// # Cancel safety
/// Dropping the future closes the connection without a word.
pub async fn enter(
    stream: Stream,
    buffer: BytesMut,
    entrance: Entrance<'_>,
) -> Result<Entered, HandshakeError> {
    let mut wire = ReadAhead { stream, buffer };
    match admit(&mut wire, entrance).await {
        Ok(Admitted::Session(startup)) => Ok(Entered::Session(Welcome {
            stream: wire.stream,
            buffer: wire.buffer,
            user: startup.user,
            database: startup.database,
            parameters: startup.parameters,
            protocol_minor: startup.protocol.minor,
        })),
        Ok(Admitted::Cancel(key)) => Ok(Entered::Cancel { stream: wire.stream, key }),
        Err(error) => {
            if let Some(report) = error.report() {
                let mut last = BytesMut::new();
                report.encode(&mut last);
                wire.close_after(&last).await;
            }
            Err(error)
        }
    }
}

/// Tells a client that is not let in at all why, before it has said anything, and closes. For a
/// client that should first be heard, use [`Entrance::closed`].
pub async fn refuse(stream: Stream, report: &ErrorReport) {
    let mut last = BytesMut::new();
    report.encode(&mut last);
    ReadAhead { stream, buffer: BytesMut::new() }.close_after(&last).await;
}

enum Admitted {
    Session(Startup),
    Cancel(CancelKey),
}

async fn admit(wire: &mut ReadAhead, entrance: Entrance<'_>) -> Result<Admitted, HandshakeError> {
    let deadline = Instant::now() + entrance.limits.startup_timeout;
    let opening = first_packets(wire, entrance.limits.startup_packet);
    let startup = match timeout_at(deadline, opening).await {
        Ok(Ok(Admitted::Session(startup))) => startup,
        Ok(other) => return other,
        Err(_) => return Err(HandshakeError::Timeout { started: false }),
    };
    if let Some(report) = entrance.closed {
        return Err(HandshakeError::Closed(Box::new(report.clone())));
    }
    match timeout_at(deadline, authenticate(wire, &startup, entrance.credentials)).await {
        Ok(Ok(())) => Ok(Admitted::Session(startup)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(HandshakeError::Timeout { started: true }),
    }
}

/// Reads packets up to the first that is no request for encryption. Each kind of such a request is
/// answered at most once; after that its code is but an unknown version.
async fn first_packets(wire: &mut ReadAhead, limit: usize) -> Result<Admitted, HandshakeError> {
    let (mut ssl_answered, mut gssenc_answered) = (false, false);
    loop {
        match next_packet(wire, limit).await? {
            StartupPacket::Session(startup) => return Ok(Admitted::Session(startup)),
            StartupPacket::Cancel(key) => return Ok(Admitted::Cancel(key)),
            StartupPacket::Ssl if ssl_answered => {
                return Err(startup::unsupported(SSL_REQUEST).into());
            }
            StartupPacket::Gssenc if gssenc_answered => {
                return Err(startup::unsupported(GSSENC_REQUEST).into());
            }
            StartupPacket::Ssl => {
                ssl_answered = true;
                decline_encryption(wire, StartupError::DataAfterSsl).await?;
            }
            StartupPacket::Gssenc => {
                gssenc_answered = true;
                decline_encryption(wire, StartupError::DataAfterGssenc).await?;
            }
        }
    }
}

async fn next_packet(wire: &mut ReadAhead, limit: usize) -> Result<StartupPacket, HandshakeError> {
    if wire.buffer.is_empty() {
        wire.fill(1).await.map_err(|error| match HandshakeError::from(error) {
            HandshakeError::Gone { .. } => HandshakeError::Gone { midway: false },
            other => other,
        })?;
    }
    wire.fill(4).await?;
    let length_word = [wire.buffer[0], wire.buffer[1], wire.buffer[2], wire.buffer[3]];
    let length = startup::body_length(length_word, limit)?;
    wire.fill(4 + length).await?;
    let packet = startup::parse(&wire.buffer[4..4 + length]);
    wire.buffer.advance(4 + length);
    Ok(packet?)
}

/// Answers a request for encryption with "no". What the client sent before it could know the answer
/// may have been put in by somebody on the way, so it ends the connection.
async fn decline_encryption(
    wire: &mut ReadAhead,
    injected: StartupError,
) -> Result<(), HandshakeError> {
    wire.write(b"N").await?;
    if wire.buffer.is_empty() { Ok(()) } else { Err(injected.into()) }
}

async fn authenticate(
    wire: &mut ReadAhead,
    startup: &Startup,
    credentials: &Credentials,
) -> Result<(), HandshakeError> {
    let mut out = BytesMut::new();
    if startup.protocol.must_answer {
        let Startup { protocol, .. } = startup;
        backend::negotiate_protocol_version(&mut out, protocol.minor, &protocol.unrecognized);
    }
    backend::authentication_sasl(&mut out, &[scram::MECHANISM]);
    wire.write(&out).await?;

    let challenge = credentials.challenge(&startup.user);
    let refused = |source| HandshakeError::Authentication {
        user: startup.user.clone(),
        source,
        doom: challenge.doom,
    };
    let mut message = sasl_message(wire).await.map_err(as_reluctant)?;
    let initial = SaslInitialResponse::parse(&message).ok_or(HandshakeError::MessageFormat)?;
    if initial.mechanism != scram::MECHANISM.as_bytes() {
        return Err(HandshakeError::Mechanism);
    }
    if let Some(response) = initial.response {
        let start = message.len() - response.len();
        message.advance(start);
    } else {
        // The client wants to be asked first: an empty challenge (RFC 4422 section 3).
        out.clear();
        backend::authentication_sasl_continue(&mut out, b"");
        wire.write(&out).await?;
        message = sasl_message(wire).await?;
    }
    let (exchange, server_first) =
        challenge.begin().on_client_first(&message, &scram::nonce()).map_err(refused)?;
    out.clear();
    backend::authentication_sasl_continue(&mut out, server_first.as_bytes());
    wire.write(&out).await?;

    let message = sasl_message(wire).await?;
    let server_final = exchange.on_client_final(&message).map_err(refused)?;
    out.clear();
    backend::authentication_sasl_final(&mut out, server_final.as_bytes());
    backend::authentication_ok(&mut out);
    wire.write(&out).await?;
    Ok(())
}

/// A client that hangs up when it is asked for a password: psql does, to ask its user first.
fn as_reluctant(error: HandshakeError) -> HandshakeError {
    match error {
        HandshakeError::Gone { .. } => HandshakeError::Gone { midway: false },
        other => other,
    }
}

/// The body of the next message, which must be an answer of the client's to a challenge.
async fn sasl_message(wire: &mut ReadAhead) -> Result<BytesMut, HandshakeError> {
    wire.fill(1).await?;
    let kind = wire.buffer[0];
    if kind != b'p' {
        return Err(HandshakeError::UnexpectedMessage { kind });
    }
    wire.fill(5).await?;
    wire.buffer.advance(1);
    let length = wire.buffer.get_u32() as usize;
    if !(4..=SASL_MESSAGE_MAX).contains(&length) {
        return Err(HandshakeError::MessageLength);
    }
    wire.fill(length - 4).await?;
    Ok(wire.buffer.split_to(length - 4))
}

//! From an accepted connection to `AuthenticationOk`, or to a clear refusal.
//!
//! Owns the order of a login, its time limit, and what a refused client hears. Ends before
//! `ParameterStatus`, `BackendKeyData` and `ReadyForQuery`, which are the session's. Invariants: before
//! the client has proved itself it costs one small buffer; nothing it sends is waited for beyond
//! its deadline; a refused client can always read why.
//!
//! Order and texts follow PostgreSQL 18 (`backend_startup.c`, `auth.c`, `auth-sasl.c`).

use std::io;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::prove;
use crate::auth::credentials::Doom;
use crate::auth::scram::ScramError;
use crate::auth::throttle::Throttled;
use crate::auth::{Credentials, Refusal, ServerSecret, Throttle};
use crate::catalog::{LookUpError, Roles};
use crate::config::settings::{AccessRule, Limits};
use crate::net::{PeerAddr, ReadAhead, Stream};
use crate::protocol::startup::{
    self, CancelKey, GSSENC_REQUEST, SSL_REQUEST, Startup, StartupError, StartupPacket,
};
use crate::protocol::{Blame, ErrorReport};
use crate::tls::{self, Acceptor};

/// The first byte of a TLS handshake. As the first of a length it would claim some 370 MB.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a login is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Entrance<'a> {
    /// Who may enter.
    pub credentials: &'a Credentials,
    /// `startup_packet` is looked at.
    pub limits: &'a Limits,
    /// When its time is over: from its arrival `limits.startup_timeout`, or less.
    pub deadline: Instant,
    /// Who else, as the database says.
    pub roles: Option<&'a Roles>,
    /// Who may try, from where and how.
    pub access: &'a [AccessRule],
    /// Where the client comes from.
    pub peer: PeerAddr,
    /// Who has failed of late: of an address from which many have, few proofs are judged.
    pub throttle: &'a Throttle,
    /// Set when nobody may enter now (shutting down): what a client hears once it
    /// has said what it wants. Cancel requests pass all the same.
    pub closed: Option<&'a ErrorReport>,
    /// What is offered of TLS.
    pub tls: Option<&'a Acceptor>,
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

/// A client that has proved itself.
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
    /// What its login has shown that opens servers as the same role.
    pub secret: Option<ServerSecret>,
    /// What it is to hear first, up to `AuthenticationOk`.
    pub unsent: BytesMut,
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
    /// Its password was changed after it had been asked for it, and what it sent has not been judged.
    #[error("the password of user \"{user}\" has changed meanwhile")]
    Outdated {
        /// Who it says it is.
        user: String,
    },
    /// Too many have failed from there, and its proof has not been judged.
    #[error("too many logins from this address have failed")]
    Throttled(#[from] Throttled),
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
    /// No rule of access lets it try.
    #[error(transparent)]
    Access(#[from] Refusal),
    /// A way to prove itself that its connection does not allow.
    #[error("connection requires a valid client certificate")]
    NoCertificate,
    /// It came without TLS, which it must use.
    #[error("connection requires TLS")]
    TlsRequired,
    /// Its certificate is another's.
    #[error(
        "certificate authentication failed for user \"{user}\": the certificate's common name is {}",
        name.as_deref().unwrap_or("missing")
    )]
    Certificate {
        /// Who it says it is.
        user: String,
        /// Whom the certificate names.
        name: Option<String>,
    },
    /// The TLS handshake failed. It has been told by an alert.
    #[error("could not accept SSL connection: {0}")]
    Tls(#[source] io::Error),
    /// It began TLS at once without naming PostgreSQL's protocol.
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    /// A role that is trusted does not exist.
    #[error("role \"{user}\" does not exist")]
    NoRole {
        /// Its name.
        user: String,
    },
    /// It has proved itself, and its role may not log in.
    #[error("role \"{user}\" is not permitted to log in")]
    MayNotLogIn {
        /// Its name.
        user: String,
    },
    /// Nobody knows whether there is such a role.
    #[error("the role could not be looked up")]
    LookUp(#[from] LookUpError),
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
            Self::Closed(_) | Self::LookUp(_) => Blame::Operator,
            Self::Access(_)
            | Self::NoCertificate
            | Self::TlsRequired
            | Self::Certificate { .. }
            | Self::Tls(_)
            | Self::NoAlpn
            | Self::NoRole { .. }
            | Self::MayNotLogIn { .. }
            | Self::Startup(_)
            | Self::Authentication { .. }
            | Self::Outdated { .. }
            | Self::Throttled(_)
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
            // As PostgreSQL: what has no packet's length is no client's that would know an error, or
            // the goodbye of one that has changed its mind. A cancel request is never answered, and
            // before it has said who it is a client that is slow may be waiting for something else.
            Self::Startup(StartupError::Length | StartupError::CancelLength)
            | Self::Timeout { started: false }
            | Self::Gone { .. }
            | Self::Tls(_)
            | Self::NoAlpn
            | Self::Io(_) => None,
            Self::Startup(error) => Some(error.report()),
            Self::Authentication { user, source, .. } => Some(source.report(user)),
            Self::Outdated { user } => Some(ScramError::Mismatch.report(user)),
            Self::Throttled(_) => Some(
                ErrorReport::fatal("53300", self.to_string())
                    .with_detail("The password was not looked at. Try again later."),
            ),
            Self::UnexpectedMessage { .. }
            | Self::MessageLength
            | Self::MessageFormat
            | Self::Mechanism => violation(),
            Self::Access(refusal) => Some(refusal.report()),
            Self::NoCertificate | Self::NoRole { .. } | Self::MayNotLogIn { .. } => {
                Some(ErrorReport::fatal("28000", self.to_string()))
            }
            Self::TlsRequired => Some(
                ErrorReport::fatal("28000", self.to_string())
                    .with_hint("Connect with sslmode=require, or verify-full."),
            ),
            Self::Certificate { user, .. } => Some(ErrorReport::fatal(
                "28000",
                format!("certificate authentication failed for user \"{user}\""),
            )),
            Self::LookUp(_) => Some(
                ErrorReport::fatal("57P03", "the role could not be looked up")
                    .with_detail("The log of the proxy says why auth_query failed."),
            ),
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
        Some(Doom::UnknownUser) => "there is no such user".to_owned(),
        Some(Doom::NoPassword) => "the user has no password".to_owned(),
        Some(Doom::Expired) => "its password has expired (VALID UNTIL)".to_owned(),
        Some(Doom::OnlyMd5) => "only an md5 hash of its password is kept".to_owned(),
        None => source.to_string(),
    }
}

/// Lets a client prove itself, or refuses it: the ErrorResponse is written and the
/// connection closed when this returns an error, which is for the log. `buffer` holds bytes already
/// read, if any.
///
/// Takes until the deadline at most, and two seconds more to say goodbye.
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
    let deadline = entrance.deadline;
    let mut wire = ReadAhead { stream, buffer };
    let mut admitted = admit(&mut wire, entrance, deadline).await;
    if let Ok(Admitted::Tls { acceptor, direct }) = admitted {
        wire = accept_tls(wire, acceptor, direct, deadline).await?;
        admitted = admit(&mut wire, entrance, deadline).await;
    }
    match admitted {
        Ok(Admitted::Tls { .. }) => unreachable!("inside of TLS no TLS is accepted"),
        Ok(Admitted::Session(startup, (secret, unsent))) => Ok(Entered::Session(Welcome {
            stream: wire.stream,
            buffer: wire.buffer,
            user: startup.user,
            database: startup.database,
            parameters: startup.parameters,
            protocol_minor: startup.protocol.minor,
            secret,
            unsent,
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
/// client that should first be heard, use [`Entrance::closed`]. `last` is what it has not heard yet.
pub async fn refuse(stream: Stream, mut last: BytesMut, report: &ErrorReport) {
    report.encode(&mut last);
    ReadAhead { stream, buffer: BytesMut::new() }.close_after(&last).await;
}

enum Admitted<'a> {
    Session(Startup, (Option<ServerSecret>, BytesMut)),
    Cancel(CancelKey),
    /// TLS is to begin, and then all of it again.
    Tls {
        acceptor: &'a Acceptor,
        /// Without having been asked for.
        direct: bool,
    },
}

/// The packet that says what a connection is for, or that it goes on in TLS.
enum First<'a> {
    Session(Startup),
    Cancel(CancelKey),
    Tls { acceptor: &'a Acceptor, direct: bool },
}

/// The TLS handshake. A client with which it fails is told by an alert, not by an ErrorResponse.
async fn accept_tls(
    wire: ReadAhead,
    acceptor: &Acceptor,
    direct: bool,
    deadline: Instant,
) -> Result<ReadAhead, HandshakeError> {
    let ReadAhead { stream, buffer } = wire;
    let accepted = timeout_at(deadline, stream.accept_tls(acceptor.config().clone(), buffer)).await;
    let stream = accepted
        .map_err(|_| HandshakeError::Timeout { started: false })?
        .map_err(HandshakeError::Tls)?;
    let protocol = stream.tls().and_then(|agreed| agreed.alpn_protocol());
    if direct && protocol != Some(tls::ALPN) {
        return Err(HandshakeError::NoAlpn);
    }
    Ok(ReadAhead { stream, buffer: BytesMut::new() })
}

async fn admit<'a>(
    wire: &mut ReadAhead,
    entrance: Entrance<'a>,
    deadline: Instant,
) -> Result<Admitted<'a>, HandshakeError> {
    // As PostgreSQL: TLS only over TCP, and once.
    let offered = entrance.tls.filter(|_| matches!(wire.stream, Stream::Tcp(_)));
    let opening = first_packets(wire, entrance.limits.startup_packet, offered);
    let startup = match timeout_at(deadline, opening).await {
        Ok(Ok(First::Session(startup))) => startup,
        Ok(Ok(First::Cancel(key))) => return Ok(Admitted::Cancel(key)),
        Ok(Ok(First::Tls { acceptor, direct })) => return Ok(Admitted::Tls { acceptor, direct }),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(HandshakeError::Timeout { started: false }),
    };
    if let Some(report) = entrance.closed {
        return Err(HandshakeError::Closed(Box::new(report.clone())));
    }
    match timeout_at(deadline, prove::prove(wire, &startup, entrance)).await {
        Ok(Ok(proved)) => Ok(Admitted::Session(startup, proved)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(HandshakeError::Timeout { started: true }),
    }
}

/// Reads packets up to the first that is no request for encryption. Each kind of such a request is
/// answered at most once; after that its code is but an unknown version.
async fn first_packets<'a>(
    wire: &mut ReadAhead,
    limit: usize,
    offered: Option<&'a Acceptor>,
) -> Result<First<'a>, HandshakeError> {
    let inside_tls = wire.stream.tls().is_some();
    let (mut ssl_answered, mut gssenc_answered) = (inside_tls, inside_tls);
    if let Some(acceptor) = offered {
        first_byte(wire).await?;
        if wire.buffer[0] == TLS_HANDSHAKE {
            return Ok(First::Tls { acceptor, direct: true });
        }
    }
    loop {
        match next_packet(wire, limit).await? {
            StartupPacket::Session(startup) => return Ok(First::Session(startup)),
            StartupPacket::Cancel(key) => return Ok(First::Cancel(key)),
            StartupPacket::Ssl if ssl_answered => {
                return Err(startup::unsupported(SSL_REQUEST).into());
            }
            StartupPacket::Gssenc if gssenc_answered => {
                return Err(startup::unsupported(GSSENC_REQUEST).into());
            }
            StartupPacket::Ssl => {
                let Some(acceptor) = offered else {
                    ssl_answered = true;
                    decline_encryption(wire, StartupError::DataAfterSsl).await?;
                    continue;
                };
                // What came in plain text must not be taken for what TLS has protected.
                if !wire.buffer.is_empty() {
                    return Err(StartupError::DataAfterSsl.into());
                }
                wire.write(b"S").await?;
                return Ok(First::Tls { acceptor, direct: false });
            }
            StartupPacket::Gssenc => {
                gssenc_answered = true;
                decline_encryption(wire, StartupError::DataAfterGssenc).await?;
            }
        }
    }
}

/// Waits for the first byte of a packet: a client that hangs up before has not been cut off.
async fn first_byte(wire: &mut ReadAhead) -> Result<(), HandshakeError> {
    wire.fill(1).await.map_err(|error| prove::as_reluctant(error.into()))
}

async fn next_packet(wire: &mut ReadAhead, limit: usize) -> Result<StartupPacket, HandshakeError> {
    first_byte(wire).await?;
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

//! From an address to a server that is ready for its first query.
//!
//! Owns the order of a login toward PostgreSQL and the judgement of what a server may say during it. Does not
//! keep servers. Invariants: a server that asked for SCRAM has proved that it knows the password
//! before it is used; what a server claims or sends costs bounded memory and bounded time.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::open::{OpenError, open};
use crate::auth::scram_client::{
    self, AwaitingChallenge, AwaitingProof, Binding, Prover, ScramClientError,
};
use crate::auth::{ServerSecret, md5, turns};
use crate::config::settings::{Address, Ways};
use crate::net::{ReadAhead, Stream};
use crate::protocol::backend::{self, Authentication};
use crate::protocol::{Blame, ErrorReport, frontend};
use crate::tls::{Connector, channel_binding};

/// The longest message that is read during a login, its length word included.
const MESSAGE_MAX: usize = 64 << 10;
/// The most that is kept of all `ParameterStatus` messages together, in bytes.
const PARAMETERS_MAX: usize = 64 << 10;
/// What a parameter counts beside its bytes, so that their number is bounded too.
const PARAMETER_OVERHEAD: usize = 64;
/// The minor version of protocol 3 that is asked for.
const PROTOCOL_MINOR: u16 = 0;

/// As whom, and where to.
#[derive(Debug, Clone)]
pub struct ServerLogin {
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// What proves the role, if the server asks.
    pub secret: Option<ServerSecret>,
    /// Further start-up parameters.
    pub parameters: Vec<(String, String)>,
}

/// Name and value of a `ParameterStatus`.
pub type Reported = (Box<[u8]>, Box<[u8]>);

/// A server that has said `ReadyForQuery`, outside of a transaction.
pub struct Established {
    /// The connection.
    pub stream: Stream,
    /// Bytes already read behind `ReadyForQuery`; empty unless the server speaks unasked.
    pub buffer: BytesMut,
    /// For a CancelRequest; 0 where the server gave none.
    pub process_id: i32,
    /// For a CancelRequest; empty where the server gave none.
    pub secret_key: Bytes,
    /// The last value of every parameter reported.
    pub parameters: Vec<Reported>,
    /// The minor version of protocol 3 spoken.
    pub protocol_minor: u16,
}

impl std::fmt::Debug for Established {
    /// The secret does not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (process_id, parameters) = (self.process_id, &self.parameters);
        f.debug_struct("Established")
            .field("process_id", &process_id)
            .field("parameters", parameters)
            .finish_non_exhaustive()
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server said so.
    #[error("the server refused the login: {0}")]
    Refused(#[source] Box<ErrorReport>),
    /// The node is not reached, or its connection broke.
    #[error("the server is not reached: {0}")]
    Unreachable(#[source] io::Error),
    /// It is reached, and no connection of the kind that `[node_tls]` wants can be made.
    #[error(transparent)]
    Tls(OpenError),
    /// The time was up.
    #[error("the login took longer than {0:?}")]
    Timeout(Duration),
    /// It asks for a password, and there is none for this user.
    #[error("the server asks for a password and none is configured for this user")]
    NoPassword,
    /// It asks for something that what is known of the user's password cannot answer.
    #[error(
        "the server asks for {asked} authentication, for which {known} is not enough; give the password \
         itself, or let pg_hba.conf ask for {instead}"
    )]
    SecretDoesNotFit {
        /// What it asks for.
        asked: &'static str,
        /// What there is.
        known: &'static str,
        /// What it would be good for.
        instead: &'static str,
    },
    /// It asks for what it may not be given.
    #[error(
        "the server asks for {asked} authentication, which node_tls.require_auth does not allow here; let its \
         pg_hba.conf ask for scram-sha-256, verify it by node_tls.mode = \"verify-full\", or allow it"
    )]
    NotAllowed {
        /// What it asks for.
        asked: &'static str,
    },
    /// It asks for a way of authentication that Causeway does not have.
    #[error("the server asks for an unsupported way of authentication (code {code})")]
    UnsupportedAuthentication {
        /// The number in the `R` message.
        code: u32,
    },
    /// It does not speak the protocol, or is not who it should be.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ServerViolation),
}

/// How a server broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ServerViolation {
    /// A message out of its order, or of an unknown type.
    #[error("unexpected message of type {kind}", kind = kind.escape_ascii())]
    UnexpectedMessage {
        /// The message's first byte.
        kind: u8,
    },
    /// A message shorter than its own length word, or longer than 64 KiB.
    #[error("message of type {kind} with length {length}", kind = kind.escape_ascii())]
    Length {
        /// The message's first byte.
        kind: u8,
        /// What it claims.
        length: u32,
    },
    /// A message whose body does not have its type's shape.
    #[error("malformed message of type {kind}", kind = kind.escape_ascii())]
    Malformed {
        /// The message's first byte.
        kind: u8,
    },
    /// An ErrorResponse that names no SQLSTATE.
    #[error("an error without SQLSTATE: {message}")]
    ErrorWithoutSqlstate {
        /// Its text.
        message: String,
    },
    /// An authentication message out of its order, such as "ok" before the server proved itself.
    #[error("authentication out of order")]
    AuthenticationOrder,
    /// SCRAM, but not the mechanism that Causeway has.
    #[error("none of the SASL mechanisms offered is supported")]
    Mechanisms,
    /// SCRAM that does not hold.
    #[error(transparent)]
    Scram(#[from] ScramClientError),
    /// More than 64 KiB of `ParameterStatus`.
    #[error("too many parameters reported")]
    Parameters,
    /// It settles on a version that was not asked for.
    #[error("the server wants to speak protocol 3.{minor}")]
    Version {
        /// The minor version.
        minor: u16,
    },
    /// It is inside a transaction before anything was asked.
    #[error("not idle after the login (status {status})", status = status.escape_ascii())]
    NotIdle {
        /// The byte in `ReadyForQuery`.
        status: u8,
    },
}

impl ConnectError {
    /// Who must act: the operator where server and file do not fit together, the client where it asked
    /// for what is not there, else the server.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused(report) => match report.sqlstate.as_bytes() {
                // A login or a setting of the client's that the server does not take.
                [b'2', b'8', ..] => Blame::Operator,
                b"3D000" | [b'2' | b'4', b'2', ..] => Blame::Client,
                _ => Blame::Server,
            },
            Self::NoPassword
            | Self::SecretDoesNotFit { .. }
            | Self::NotAllowed { .. }
            | Self::UnsupportedAuthentication { .. }
            | Self::Tls(_) => Blame::Operator,
            Self::Unreachable(_) | Self::Timeout(_) | Self::Protocol(_) => Blame::Server,
        }
    }

    /// What the client hears whose request needed the server. A server's own refusal is passed on
    /// as it is; of all else the client learns that there is no server, and the log learns why.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        match self {
            Self::Refused(report) => report.as_ref().clone(),
            Self::Unreachable(_) | Self::Timeout(_) => {
                ErrorReport::fatal("08001", "could not connect to the server")
            }
            Self::Tls(_) => {
                ErrorReport::fatal("08001", "could not make a TLS connection to the server")
            }
            Self::NoPassword
            | Self::SecretDoesNotFit { .. }
            | Self::NotAllowed { .. }
            | Self::UnsupportedAuthentication { .. } => {
                ErrorReport::fatal("08001", "could not log in to the server")
                    .with_detail(self.to_string())
            }
            Self::Protocol(_) => ErrorReport::fatal("08P01", "the server broke the protocol"),
        }
    }
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unreachable(error) => Self::Unreachable(error),
            other => Self::Tls(other),
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// Opens a server and logs in.
///
/// # Errors
/// When that does not succeed within `timeout`, which covers everything.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect(
    address: &Address,
    connector: &Connector,
    login: &ServerLogin,
    timeout: Duration,
) -> Result<Established, ConnectError> {
    let deadline = Instant::now() + timeout;
    let whole = async {
        // The deadline inside is only there to be shared out among several addresses.
        let stream = open(address, connector, deadline).await?;
        let mut wire = ReadAhead { stream, buffer: BytesMut::new() };
        log_in(&mut wire, login, connector.ways(address)).await?;
        settle(wire).await
    };
    match timeout_at(deadline, whole).await {
        Ok(Err(ConnectError::Unreachable(error))) if error.kind() == io::ErrorKind::TimedOut => {
            // Ours or the system's: the meaning is the same.
            Err(ConnectError::Timeout(timeout))
        }
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Timeout(timeout)),
    }
}

/// How far the server's demands have been met.
enum Proof {
    /// It has asked for nothing yet.
    Unasked,
    /// It has been given a password, and must now answer with "ok".
    Given,
    /// SCRAM, before its challenge.
    Challenge(AwaitingChallenge),
    /// SCRAM, before its own proof.
    Mutual(AwaitingProof),
}

/// From the start-up packet to `AuthenticationOk`.
async fn log_in(wire: &mut ReadAhead, login: &ServerLogin, ways: Ways) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    let named = [("user", login.user.as_str()), ("database", login.database.as_str())];
    let others = login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    frontend::startup(&mut out, PROTOCOL_MINOR, named.into_iter().chain(others));
    wire.write(&out).await?;
    let end_point = end_point(&wire.stream);
    let mut proof = Proof::Unasked;
    loop {
        let (kind, body) = next_message(wire).await?;
        let asked = match kind {
            b'R' => Authentication::parse(&body).ok_or(ServerViolation::Malformed { kind })?,
            b'v' => {
                accept_version(&body)?;
                continue;
            }
            _ => return Err(ServerViolation::UnexpectedMessage { kind }.into()),
        };
        allow(&asked, &proof, ways)?;
        if matches!((&asked, &proof), (Authentication::Ok, Proof::Unasked | Proof::Given)) {
            return Ok(());
        }
        out.clear();
        proof = answer(asked, proof, login, end_point.as_deref(), &mut out).await?;
        wire.write(&out).await?;
    }
}

/// Whether it may ask for that.
fn allow(asked: &Authentication<'_>, proof: &Proof, ways: Ways) -> Result<(), ConnectError> {
    let (asked, way) = match (asked, proof) {
        (Authentication::Ok, Proof::Unasked) => ("no", Ways::NONE),
        (Authentication::CleartextPassword, _) => ("password", Ways::PASSWORD),
        (Authentication::Md5Password(_), _) => ("md5", Ways::MD5),
        (Authentication::Sasl(_), _) => ("scram-sha-256", Ways::SCRAM),
        _ => return Ok(()),
    };
    if ways.has(way) { Ok(()) } else { Err(ConnectError::NotAllowed { asked }) }
}

/// What SCRAM can be bound to: the certificate that the server has shown.
fn end_point(stream: &Stream) -> Option<Vec<u8>> {
    channel_binding::tls_server_end_point(stream.tls()?.peer_certificates()?.first()?)
}

/// Meets one demand. The answer, if it takes one, is put into `out`.
async fn answer(
    asked: Authentication<'_>,
    proof: Proof,
    login: &ServerLogin,
    end_point: Option<&[u8]>,
    out: &mut BytesMut,
) -> Result<Proof, ConnectError> {
    let secret = || login.secret.as_ref().ok_or(ConnectError::NoPassword);
    match (asked, proof) {
        (Authentication::CleartextPassword, Proof::Unasked) => {
            let ServerSecret::Password(password) = secret()? else {
                return Err(misfit("password", secret()?));
            };
            frontend::password(out, password.expose().as_bytes());
            Ok(Proof::Given)
        }
        (Authentication::Md5Password(salt), Proof::Unasked) => {
            let hashed = match secret()? {
                ServerSecret::Password(password) => {
                    md5_hash(login.user.as_bytes(), password.expose().as_bytes(), salt)
                }
                ServerSecret::Md5(hash) => md5::salted(hash.expose(), salt),
                keys @ ServerSecret::Keys(_) => return Err(misfit("md5", keys)),
            };
            frontend::password(out, hashed.as_bytes());
            Ok(Proof::Given)
        }
        (Authentication::Sasl(mechanisms), Proof::Unasked) => {
            let (mechanism, binding) =
                choose(mechanisms, end_point).ok_or(ServerViolation::Mechanisms)?;
            let prover = match secret()? {
                ServerSecret::Password(password) => Prover::Password(password.clone()),
                ServerSecret::Keys(keys) => Prover::Keys(keys.clone()),
                hash @ ServerSecret::Md5(_) => return Err(misfit("SCRAM", hash)),
            };
            let exchange = AwaitingChallenge::new(prover, binding);
            frontend::sasl_initial_response(out, mechanism, exchange.message());
            Ok(Proof::Challenge(exchange))
        }
        (Authentication::SaslContinue(challenge), Proof::Challenge(exchange)) => {
            let exchange = derive(exchange, challenge.to_vec()).await?;
            frontend::sasl_response(out, exchange.message());
            Ok(Proof::Mutual(exchange))
        }
        (Authentication::SaslFinal(message), Proof::Mutual(exchange)) => {
            exchange.on_server_final(message).map_err(ServerViolation::Scram)?;
            Ok(Proof::Given)
        }
        (Authentication::Other(code), Proof::Unasked) => {
            Err(ConnectError::UnsupportedAuthentication { code })
        }
        _ => Err(ServerViolation::AuthenticationOrder.into()),
    }
}

fn misfit(asked: &'static str, known: &ServerSecret) -> ConnectError {
    let (known, instead) = match known {
        ServerSecret::Keys(_) => ("a SCRAM verifier", "scram-sha-256"),
        ServerSecret::Md5(_) => ("an md5 hash", "md5"),
        ServerSecret::Password(_) => ("a password", "scram-sha-256"),
    };
    ConnectError::SecretDoesNotFit { asked, known, instead }
}

/// The mechanism to use of those offered, and how it is bound. Where we could bind and are not offered
/// to, we say so: a server that did offer it then knows that somebody has taken the offer out.
fn choose(mechanisms: &[u8], end_point: Option<&[u8]>) -> Option<(&'static str, Binding)> {
    let offered =
        |wanted: &str| mechanisms.split(|&byte| byte == 0).any(|name| name == wanted.as_bytes());
    match end_point {
        Some(hash) if offered(scram_client::MECHANISM_PLUS) => {
            Some((scram_client::MECHANISM_PLUS, Binding::EndPoint(hash.to_vec())))
        }
        _ if !offered(scram_client::MECHANISM) => None,
        Some(_) => Some((scram_client::MECHANISM, Binding::NotOffered)),
        None => Some((scram_client::MECHANISM, Binding::Impossible)),
    }
}

/// Answers the challenge away from the worker, whose other sessions would have to wait for the key
/// derivation.
async fn derive(
    exchange: AwaitingChallenge,
    challenge: Vec<u8>,
) -> Result<AwaitingProof, ConnectError> {
    if !exchange.is_costly(&challenge) {
        return exchange.on_challenge(&challenge).map_err(|e| ServerViolation::Scram(e).into());
    }
    let derived = turns::derive(move || exchange.on_challenge(&challenge)).await;
    derived
        .map_err(|stopped: JoinError| ConnectError::Unreachable(stopped.into()))?
        .map_err(|error| ServerViolation::Scram(error).into())
}

/// From `AuthenticationOk` to `ReadyForQuery`.
async fn settle(mut wire: ReadAhead) -> Result<Established, ConnectError> {
    let mut parameters = Parameters::default();
    let mut key = (0, Bytes::new());
    loop {
        let (kind, body) = next_message(&mut wire).await?;
        let malformed = ServerViolation::Malformed { kind };
        match kind {
            b'S' => {
                let (name, value) = backend::parse_parameter_status(&body).ok_or(malformed)?;
                parameters.set(name, value)?;
            }
            b'K' => key = backend::parse_key_data(&body, PROTOCOL_MINOR).ok_or(malformed)?,
            b'v' => accept_version(&body)?,
            b'Z' => match body[..] {
                [b'I'] => break,
                [status] => return Err(ServerViolation::NotIdle { status }.into()),
                _ => return Err(malformed.into()),
            },
            _ => return Err(ServerViolation::UnexpectedMessage { kind }.into()),
        }
    }
    Ok(Established {
        stream: wire.stream,
        buffer: wire.buffer,
        process_id: key.0,
        secret_key: key.1,
        parameters: parameters.list,
        protocol_minor: PROTOCOL_MINOR,
    })
}

/// We ask for no option and for the oldest version, so a server has no cause to negotiate; one that
/// does anyway may only confirm.
fn accept_version(body: &[u8]) -> Result<(), ServerViolation> {
    match backend::parse_negotiated_minor(body) {
        Some(PROTOCOL_MINOR) => Ok(()),
        Some(minor) => Err(ServerViolation::Version { minor }),
        None => Err(ServerViolation::Malformed { kind: b'v' }),
    }
}

/// The next message that is no notice. An ErrorResponse is an error here: whatever comes before
/// `ReadyForQuery` is fatal.
async fn next_message(wire: &mut ReadAhead) -> Result<(u8, BytesMut), ConnectError> {
    loop {
        wire.fill(5).await?;
        let kind = wire.buffer.get_u8();
        let length = wire.buffer.get_u32();
        let body = match (length as usize).checked_sub(4) {
            Some(body) if body <= MESSAGE_MAX - 4 => body,
            _ => return Err(ServerViolation::Length { kind, length }.into()),
        };
        wire.fill(body).await?;
        let body = wire.buffer.split_to(body);
        match kind {
            b'N' => {}
            b'E' => return Err(refusal(&body)),
            _ => return Ok((kind, body)),
        }
    }
}

fn refusal(body: &[u8]) -> ConnectError {
    let report = ErrorReport::parse(body);
    match ErrorReport::sqlstate_of(body) {
        Some(sqlstate) if sqlstate.len() == 5 => ConnectError::Refused(Box::new(report)),
        _ => {
            let message = report.message.into_owned();
            ServerViolation::ErrorWithoutSqlstate { message }.into()
        }
    }
}

/// What the server reports, bounded.
#[derive(Default)]
struct Parameters {
    list: Vec<Reported>,
    bytes: usize,
}

impl Parameters {
    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), ServerViolation> {
        if let Some(known) = self.list.iter_mut().find(|(known, _)| **known == *name) {
            self.bytes = self.bytes - known.1.len() + value.len();
            known.1 = value.into();
        } else {
            self.bytes += name.len() + value.len() + PARAMETER_OVERHEAD;
            self.list.push((name.into(), value.into()));
        }
        if self.bytes > PARAMETERS_MAX { Err(ServerViolation::Parameters) } else { Ok(()) }
    }
}

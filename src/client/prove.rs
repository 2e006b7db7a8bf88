//! How a client proves who it is: by the method that its rule of access asks for.
//!
//! Whoever cannot be let in (no such role, no password, one that has expired) goes through the same
//! exchange at the same cost, and hears the same refusal. What a proof has shown is handed on, so that
//! servers can be opened as the same role without a password being kept anywhere.
//!
//! Order and texts follow PostgreSQL 18 (`auth.c`, `auth-sasl.c`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BytesMut};
use rand::RngCore;

use super::handshake::{Entrance, HandshakeError};
use crate::auth::credentials::{Challenge, Doom};
use crate::auth::role::Role;
use crate::auth::scram::{self, Binding, ScramError};
use crate::auth::throttle::Attempt;
use crate::auth::turns::Turn;
use crate::auth::{ServerSecret, Visitor, admit, md5};
use crate::catalog::Roles;
use crate::config::settings::{Method, Secret};
use crate::net::{PeerAddr, ReadAhead, Stream};
use crate::protocol::backend;
use crate::protocol::frontend::SaslInitialResponse;
use crate::protocol::startup::Startup;
use crate::tls::Acceptor;
use crate::tls::server::common_name;

/// The longest message that a client may send while it proves itself, its length word included:
/// PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`.
const SASL_MESSAGE_MAX: usize = 1024;

/// What is left of a login's time for the answer when its proof has waited to be judged.
const TIME_TO_TELL: Duration = Duration::from_secs(1);

/// Lets the client prove itself. What comes back opens servers as its role, and is to be said to it, up to
/// `AuthenticationOk`: in one piece with what a session says first.
///
/// # Errors
/// When it may not try, or did not prove itself.
pub(super) async fn prove(
    wire: &mut ReadAhead,
    startup: &Startup,
    entrance: Entrance<'_>,
) -> Result<(Option<ServerSecret>, BytesMut), HandshakeError> {
    let address = match entrance.peer {
        PeerAddr::Tcp(address) => Some(address.ip()),
        PeerAddr::Local => None,
    };
    let Startup { user, database, protocol, .. } = startup;
    let agreed = wire.stream.tls();
    let accepted = entrance.tls.filter(|_| agreed.is_some());
    if matches!(wire.stream, Stream::Tcp(_)) && entrance.tls.is_some_and(Acceptor::is_required) {
        return Err(HandshakeError::TlsRequired);
    }
    let tls = agreed.is_some();
    let method = admit(entrance.access, &Visitor { address, user, database, tls })?;
    if let Some(acceptor) = accepted
        && (method == Method::Cert || acceptor.wants_certificate())
    {
        certified(&wire.stream, acceptor, user)?;
    }
    let roles = entrance.roles.filter(|_| entrance.credentials.needs_look_up(user));
    let role = match roles {
        Some(roles) => roles.find(user, address).await?,
        None => None,
    };
    let challenge = entrance.credentials.challenge(user, role.as_deref(), SystemTime::now());
    let mut out = BytesMut::new();
    if protocol.must_answer {
        backend::negotiate_protocol_version(&mut out, protocol.minor, &protocol.unrecognized);
    }
    let end_point = accepted.and_then(Acceptor::end_point);
    let is_judged = !matches!(method, Method::Trust | Method::Cert);
    let attempt =
        address.filter(|_| is_judged).map(|address| entrance.throttle.attempt(address, user));
    let deadline = entrance.deadline;
    let believed = roles.map(|roles| Believed { roles, role: role.clone(), user, address });
    let mut exchange =
        Exchange { wire, out, user, challenge, end_point, attempt, believed, deadline };
    let proved = match (method, exchange.challenge.md5.is_some()) {
        (Method::Trust | Method::Cert, _) if role.is_none() && !entrance.credentials.has(user) => {
            return Err(HandshakeError::NoRole { user: user.clone() });
        }
        (Method::Trust, _) => Ok(None),
        (Method::Cert, _) if accepted.is_some() => Ok(None),
        (Method::Password, _) if accepted.is_some() => exchange.password().await,
        (Method::Md5, true) => exchange.md5().await,
        (Method::Scram | Method::Md5, _) => exchange.scram().await,
        // The first two are for connections in TLS only, and no rule matches with them without.
        (Method::Cert | Method::Password | Method::Reject, _) => {
            return Err(HandshakeError::NoCertificate);
        }
    };
    if let Err(HandshakeError::Authentication { .. }) = proved {
        exchange.failed().await;
    }
    let proved = proved?;
    if let Some(attempt) = &exchange.attempt {
        attempt.succeeded(Instant::now());
    }
    if !exchange.challenge.can_login {
        return Err(HandshakeError::MayNotLogIn { user: user.clone() });
    }
    let Exchange { mut out, .. } = exchange;
    backend::authentication_ok(&mut out);
    Ok((proved, out))
}

/// Whether the client has shown a certificate that is its user's. It was verified in the handshake.
fn certified(stream: &Stream, acceptor: &Acceptor, user: &str) -> Result<(), HandshakeError> {
    let agreed = stream.tls().filter(|agreed| agreed.peer_certificates().is_some());
    let name = common_name(agreed.ok_or(HandshakeError::NoCertificate)?);
    if name.is_some_and(|name| acceptor.may_be(name, user)) {
        return Ok(());
    }
    Err(HandshakeError::Certificate { user: user.to_owned(), name: name.map(str::to_owned) })
}

/// One attempt to prove itself. What is to be said stands in `out` until something must be heard.
struct Exchange<'a> {
    wire: &'a mut ReadAhead,
    out: BytesMut,
    user: &'a str,
    challenge: Challenge,
    /// What SCRAM may be bound to.
    end_point: Option<&'a [u8]>,
    /// What the throttle knows of it, if it comes from an address and proves itself by what can be guessed.
    attempt: Option<Attempt<'a>>,
    /// Where the challenge comes from, if the database was asked.
    believed: Option<Believed<'a>>,
    deadline: tokio::time::Instant,
}

/// What was known of a role when its client was challenged.
struct Believed<'a> {
    roles: &'a Roles,
    role: Option<Arc<Role>>,
    user: &'a str,
    address: Option<IpAddr>,
}

impl Believed<'_> {
    async fn is_outdated(&self) -> bool {
        self.roles.is_outdated(self.user, self.role.as_ref(), self.address).await
    }
}

impl Exchange<'_> {
    /// The proof was not good enough. It is counted before anything is waited for, and taken back if what it was
    /// judged by did not hold any more: who has a new password is not to pay for what was kept of the old one.
    async fn failed(&self) {
        if let Some(attempt) = &self.attempt {
            attempt.failed(Instant::now());
        }
        let Some(believed) = &self.believed else { return };
        believed.roles.doubt(self.user);
        if believed.is_outdated().await
            && let Some(attempt) = &self.attempt
        {
            attempt.excused();
        }
    }

    /// Before a place is taken: of the many who were challenged by what does not hold any more nobody needs one, for
    /// what they say is not looked at.
    ///
    /// # Errors
    /// If this is one of them.
    async fn is_of_today(&self) -> Result<(), HandshakeError> {
        let (Some(attempt), Some(believed)) = (&self.attempt, &self.believed) else {
            return Ok(());
        };
        if attempt.is_suspect(Instant::now()) && believed.is_outdated().await {
            return Err(HandshakeError::Outdated { user: self.user.to_owned() });
        }
        Ok(())
    }

    fn refused(&self, source: ScramError) -> HandshakeError {
        let only_md5 = self.challenge.md5.as_ref().map(|_| Doom::OnlyMd5);
        HandshakeError::Authentication {
            user: self.user.to_owned(),
            source,
            doom: self.challenge.doom.or(only_md5),
        }
    }

    /// Takes the place in which the proof is judged: how long to wait for it. What is judged then is told to the
    /// throttle before anything else is waited for.
    fn place(&mut self) -> Result<Duration, HandshakeError> {
        let Some(attempt) = &mut self.attempt else { return Ok(Duration::ZERO) };
        let left = self.deadline.saturating_duration_since(tokio::time::Instant::now());
        Ok(attempt.turn(Instant::now(), left.saturating_sub(TIME_TO_TELL))?)
    }

    /// Waits for that place.
    async fn wait_for_place(&mut self) -> Result<(), HandshakeError> {
        self.is_of_today().await?;
        let wait = self.place()?;
        self.sleep(wait).await;
        Ok(())
    }

    async fn sleep(&self, wait: Duration) {
        // A sleep of no time lasts until the timer's next tick: a millisecond of every login.
        if !wait.is_zero()
            && let Some(attempt) = &self.attempt
        {
            attempt.wait(wait).await;
        }
    }

    /// Says what is in `out`.
    async fn say(&mut self) -> Result<(), HandshakeError> {
        self.wire.write(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn scram(&mut self) -> Result<Option<ServerSecret>, HandshakeError> {
        let mechanisms = [scram::MECHANISM_PLUS, scram::MECHANISM];
        let first = usize::from(self.end_point.is_none());
        backend::authentication_sasl(&mut self.out, &mechanisms[first..]);
        self.say().await?;
        let mut message = password_message(self.wire).await.map_err(as_reluctant)?;
        let initial = SaslInitialResponse::parse(&message).ok_or(HandshakeError::MessageFormat)?;
        let binding = match self.end_point {
            Some(hash) if initial.mechanism == scram::MECHANISM_PLUS.as_bytes() => {
                Binding::EndPoint(hash)
            }
            _ if initial.mechanism != scram::MECHANISM.as_bytes() => {
                return Err(HandshakeError::Mechanism);
            }
            Some(_) => Binding::Declined,
            None => Binding::Impossible,
        };
        if let Some(response) = initial.response {
            let start = message.len() - response.len();
            message.advance(start);
        } else {
            // The client wants to be asked first: an empty challenge (RFC 4422 section 3).
            backend::authentication_sasl_continue(&mut self.out, b"");
            self.say().await?;
            message = password_message(self.wire).await?;
        }
        let challenge = self.challenge.clone();
        let (exchange, server_first) = challenge
            .begin(binding)
            .on_client_first(&message, &scram::nonce())
            .map_err(|source| self.refused(source))?;
        backend::authentication_sasl_continue(&mut self.out, server_first.as_bytes());
        self.say().await?;
        let message = password_message(self.wire).await?;
        self.wait_for_place().await?;
        let accepted = exchange.on_client_final(&message).map_err(|source| self.refused(source))?;
        backend::authentication_sasl_final(&mut self.out, accepted.message.as_bytes());
        Ok(Some(ServerSecret::Keys(Arc::new(accepted.keys))))
    }

    /// The password as it is, which only encryption keeps from others. It is judged by what is kept and
    /// forgotten: what opens servers are the keys behind it.
    async fn password(&mut self) -> Result<Option<ServerSecret>, HandshakeError> {
        backend::authentication_cleartext_password(&mut self.out);
        self.say().await?;
        let message = password_message(self.wire).await.map_err(as_reluctant)?;
        let sent = message.strip_suffix(&[0]).and_then(|sent| std::str::from_utf8(sent).ok());
        let password = Secret::new(sent.ok_or(HandshakeError::MessageFormat)?);
        let (challenge, user) = (self.challenge.clone(), self.user.to_owned());
        self.is_of_today().await?;
        // The place is taken when it is this proof's turn: until then others may have failed.
        let mut turn = Turn::take().await;
        let wait = self.place()?;
        if !wait.is_zero() {
            drop(turn);
            self.sleep(wait).await;
            turn = Turn::take().await;
        }
        let judged = turn.derive(move || challenge.judge(&user, password.expose())).await;
        let (judged, _turn) = judged.map_err(|stopped| HandshakeError::Io(stopped.into()))?;
        match judged {
            Some(secret) => Ok(Some(secret)),
            None => Err(HandshakeError::Authentication {
                user: self.user.to_owned(),
                source: ScramError::Mismatch,
                doom: self.challenge.doom,
            }),
        }
    }

    /// Only for those of whom an md5 hash is kept: all others prove themselves by SCRAM.
    async fn md5(&mut self) -> Result<Option<ServerSecret>, HandshakeError> {
        let mut salt = [0; 4];
        rand::rng().fill_bytes(&mut salt);
        backend::authentication_md5_password(&mut self.out, salt);
        self.say().await?;
        let message = password_message(self.wire).await.map_err(as_reluctant)?;
        let Some(sent) = message.strip_suffix(&[0]) else {
            return Err(HandshakeError::MessageFormat);
        };
        self.wait_for_place().await?;
        match &self.challenge.md5 {
            Some(kept) if md5::proves(sent, kept.expose(), salt) => {
                Ok(Some(ServerSecret::Md5(kept.clone())))
            }
            _ => Err(HandshakeError::Authentication {
                user: self.user.to_owned(),
                source: ScramError::Mismatch,
                doom: self.challenge.doom,
            }),
        }
    }
}

/// A client that hangs up when it is asked for a password: psql does, to ask its user first.
pub(super) fn as_reluctant(error: HandshakeError) -> HandshakeError {
    match error {
        HandshakeError::Gone { .. } => HandshakeError::Gone { midway: false },
        other => other,
    }
}

/// The body of the next message, which must be an answer of the client's to a challenge.
async fn password_message(wire: &mut ReadAhead) -> Result<BytesMut, HandshakeError> {
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

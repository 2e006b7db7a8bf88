//! SCRAM-SHA-256, the server's side: proves that a client knows a password.
//!
//! A pure machine in two steps, each state consumed by the message that ends it:
//! [`AwaitingFirst`] → [`AwaitingFinal`] → the server's last word. Owns the syntax of SCRAM's
//! messages and PostgreSQL's wording of its refusals. Knows no frames and no sockets.
//!
//! Source: RFC 5802, RFC 7677 and PostgreSQL's `src/backend/libpq/auth-scram.c`. Where the connection
//! can be bound to (TLS), [`MECHANISM_PLUS`] is offered beside [`MECHANISM`]; a client that then says
//! that it would bind but was not offered it (`y`) has been lied to by somebody in between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::secret::ScramKeys;
use super::verifier::{Key, Verifier, hmac};
use crate::protocol::{Blame, ErrorReport};

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The mechanism's name with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The one type of channel binding that there is.
const END_POINT: &str = "tls-server-end-point";
/// Random bytes in the server's part of the nonce, as in PostgreSQL.
const NONCE_LENGTH: usize = 18;

/// Whether the client is who it says, once the exchange is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A proof that fits lets it in.
    Genuine,
    /// Nothing lets it in: the user does not exist or has no password, and is not to notice.
    Doomed,
}

/// What the exchange may be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// Nothing: there is no TLS, or none that can be bound to.
    Impossible,
    /// Nothing: it was offered, and the client chose the mechanism without.
    Declined,
    /// The client chose the mechanism that binds; this is the connection's `tls-server-end-point`.
    EndPoint(&'a [u8]),
}

/// Why an exchange failed. All but [`ScramError::Mismatch`] are breaches of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The proof does not fit the password, or there is none to fit.
    #[error("the proof does not fit the password")]
    Mismatch,
    /// A message that SCRAM's grammar does not allow.
    #[error("malformed SCRAM message: {0}")]
    Malformed(#[from] Malformed),
    /// The client wants to act as another user than it logs in as.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// `m=` in the client's first message.
    #[error("client requires an unsupported SCRAM extension")]
    MandatoryExtension,
    /// The client's nonce has a character that may not be there, or is empty.
    #[error("non-printable characters in SCRAM nonce")]
    NonceCharacters,
    /// The last message carries another nonce than the exchange's.
    #[error("invalid SCRAM response: Nonce does not match.")]
    NonceMismatch,
    /// The last message's channel binding is not the one announced in the first.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    ChannelBinding,
    /// The client is bound to another certificate than ours: somebody is in between.
    #[error("SCRAM channel binding check failed")]
    BindingCheck,
    /// The client believes that channel binding was not offered, and it was.
    #[error("SCRAM channel binding negotiation error")]
    BindingNegotiation,
    /// A type of channel binding that we do not have.
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
}

/// Where a message leaves the grammar, in PostgreSQL's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No byte at all.
    #[error("The message is empty.")]
    Empty,
    /// A NUL byte inside.
    #[error("Message length does not match input length.")]
    Length,
    /// Not UTF-8, which RFC 5802 asks for.
    #[error("The message is not valid UTF-8.")]
    Encoding,
    /// `p=`, though no channel binding was offered.
    #[error(
        "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes \
         channel binding data."
    )]
    ChannelBindingData,
    /// `n` or `y`, though the client chose the mechanism that binds.
    #[error(
        "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel \
         binding data."
    )]
    NoChannelBindingData,
    /// Neither `n`, `y` nor `p`.
    #[error("Unexpected channel-binding flag {0}.")]
    ChannelBindingFlag(Shown),
    /// No comma behind the flag.
    #[error("Comma expected, but found character {0}.")]
    Comma(Shown),
    /// Something between the two commas of the header.
    #[error("Unexpected attribute {0} in client-first-message.")]
    UnexpectedAttribute(Shown),
    /// Another attribute than the one that belongs here.
    #[error("Expected attribute \"{0}\" but found {1}.")]
    Attribute(char, Shown),
    /// An attribute without `=`.
    #[error("Expected character \"=\" for attribute {0}.")]
    Equals(Shown),
    /// An attribute's name that is no letter, or the end where one must come.
    #[error("Attribute expected, but found {0}.")]
    NoAttribute(Shown),
    /// A proof that is not base64 of 32 bytes.
    #[error("Malformed proof in client-final-message.")]
    Proof,
    /// Something behind the proof.
    #[error("Garbage found at the end of client-final-message.")]
    Garbage,
}

/// A byte of the client's as it may be shown; `None` is the end of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(pub Option<u8>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(byte @ 0x21..=0x7E) => write!(f, "\"{}\"", char::from(byte)),
            Some(byte) => write!(f, "\"0x{byte:02x}\""),
            None => f.write_str("end of string"),
        }
    }
}

impl ScramError {
    /// Always the client.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        Blame::Client
    }

    /// What the client hears.
    #[must_use]
    pub fn report(&self, user: &str) -> ErrorReport {
        match self {
            Self::Mismatch => password_failed(user),
            Self::Malformed(malformed) => ErrorReport::fatal("08P01", "malformed SCRAM message")
                .with_detail(malformed.to_string()),
            Self::AuthorizationIdentity | Self::MandatoryExtension => {
                ErrorReport::fatal("0A000", self.to_string())
            }
            Self::NonceMismatch => ErrorReport::fatal("08P01", "invalid SCRAM response")
                .with_detail("Nonce does not match."),
            Self::NonceCharacters | Self::ChannelBinding | Self::BindingType => {
                ErrorReport::fatal("08P01", self.to_string())
            }
            Self::BindingCheck => ErrorReport::fatal("28000", self.to_string()),
            Self::BindingNegotiation => ErrorReport::fatal("28000", self.to_string()).with_detail(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ),
        }
    }
}

/// The one answer to a wrong password, a user without one, and a user that does not exist.
#[must_use]
pub fn password_failed(user: &str) -> ErrorReport {
    ErrorReport::fatal("28P01", format!("password authentication failed for user \"{user}\""))
}

/// A fresh server nonce.
#[must_use]
pub fn nonce() -> String {
    let mut bytes = [0; NONCE_LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    STANDARD.encode(bytes)
}

/// The exchange before the client's first message.
#[derive(Debug)]
pub struct AwaitingFirst<'a> {
    verifier: &'a Verifier,
    standing: Standing,
    binding: Binding<'a>,
}

/// The exchange after the server's challenge.
#[derive(Debug)]
pub struct AwaitingFinal<'a> {
    verifier: &'a Verifier,
    standing: Standing,
    /// The base64 of the header that the client sent, and of what it must be bound to.
    channel_binding: String,
    bound: bool,
    nonce: String,
    /// `client-first-message-bare "," server-first-message ","`
    auth_message: String,
}

/// A client that has proved itself.
#[derive(Debug, PartialEq)]
pub struct Accepted {
    /// server-final-message.
    pub message: String,
    /// What the proof has shown: it opens servers that keep the same verifier.
    pub keys: ScramKeys,
}

impl<'a> AwaitingFirst<'a> {
    /// Begins an exchange that `verifier` judges.
    #[must_use]
    pub fn new(verifier: &'a Verifier, standing: Standing) -> Self {
        Self { verifier, standing, binding: Binding::Impossible }
    }

    /// With what the exchange may be bound to.
    #[must_use]
    pub fn bound_to(self, binding: Binding<'a>) -> Self {
        Self { binding, ..self }
    }

    /// Takes client-first-message; gives the next state and server-first-message. `server_nonce`
    /// must be fresh ([`nonce`]); it is an argument so that a test can know it.
    ///
    /// # Errors
    /// When the message breaks the grammar or asks for what is not supported.
    pub fn on_client_first(
        self,
        message: &[u8],
        server_nonce: &str,
    ) -> Result<(AwaitingFinal<'a>, String), ScramError> {
        let mut reader = Reader::new(message)?;
        let channel_binding = reader.channel_binding(self.binding)?;
        match reader.peek() {
            Some(b',') => reader.skip(),
            Some(b'a') => return Err(ScramError::AuthorizationIdentity),
            other => return Err(Malformed::UnexpectedAttribute(Shown(other)).into()),
        }
        let bare = reader.rest;
        if reader.peek() == Some(b'm') {
            return Err(ScramError::MandatoryExtension);
        }
        // The name is not looked at, as in PostgreSQL: the start-up packet's counts.
        reader.attribute('n')?;
        let client_nonce = reader.attribute('r')?;
        // Commas cannot be inside, they end the attribute.
        if client_nonce.is_empty() || !client_nonce.bytes().all(|b| (0x21..=0x7E).contains(&b)) {
            return Err(ScramError::NonceCharacters);
        }
        while !reader.rest.is_empty() {
            reader.any_attribute()?;
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let challenge = format!(
            "r={nonce},s={},i={}",
            STANDARD.encode(&self.verifier.salt),
            self.verifier.iterations
        );
        let auth_message = format!("{bare},{challenge},");
        let Self { verifier, standing, binding } = self;
        let bound = matches!(binding, Binding::EndPoint(_));
        let next =
            AwaitingFinal { verifier, standing, channel_binding, bound, nonce, auth_message };
        Ok((next, challenge))
    }
}

impl AwaitingFinal<'_> {
    /// Takes client-final-message; gives server-final-message, which proves to the client that we
    /// know its password's verifier, and the keys that the client's proof has shown. All paths to [`ScramError::Mismatch`] do the same work.
    ///
    /// # Errors
    /// [`ScramError::Mismatch`] when the client may not enter; another when it breaks the grammar.
    pub fn on_client_final(self, message: &[u8]) -> Result<Accepted, ScramError> {
        let mut reader = Reader::new(message)?;
        if reader.attribute('c')? != self.channel_binding {
            return Err(if self.bound {
                ScramError::BindingCheck
            } else {
                ScramError::ChannelBinding
            });
        }
        let nonce = reader.attribute('r')?;
        let (without_proof, proof) = loop {
            let before = reader.position();
            if let (b'p', value) = reader.any_attribute()? {
                // The comma before "p=" does not belong to it.
                break (&reader.whole[..before - 1], value);
            }
        };
        let proof: Key = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Malformed::Proof)?;
        if !reader.rest.is_empty() {
            return Err(Malformed::Garbage.into());
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::NonceMismatch);
        }
        let auth_message = [self.auth_message.as_bytes(), without_proof.as_bytes()];
        let signature = hmac(&self.verifier.stored_key, &auth_message);
        let mut client_key = proof;
        for (key, signature) in client_key.iter_mut().zip(signature) {
            *key ^= signature;
        }
        let claimed: Key = Sha256::digest(client_key).into();
        let server_signature = hmac(&self.verifier.server_key, &auth_message);
        // Judged only after all the work, so that the doomed cost as much as the mistaken.
        let fits = bool::from(claimed.ct_eq(&self.verifier.stored_key));
        if fits && self.standing == Standing::Genuine {
            Ok(Accepted {
                message: format!("v={}", STANDARD.encode(server_signature)),
                keys: ScramKeys::recovered(client_key, self.verifier),
            })
        } else {
            Err(ScramError::Mismatch)
        }
    }
}

/// Walks over `a=value,b=value,...`.
struct Reader<'m> {
    whole: &'m str,
    rest: &'m str,
}

impl<'m> Reader<'m> {
    fn new(message: &'m [u8]) -> Result<Self, Malformed> {
        if message.is_empty() {
            return Err(Malformed::Empty);
        }
        if message.contains(&0) {
            return Err(Malformed::Length);
        }
        let whole = std::str::from_utf8(message).map_err(|_| Malformed::Encoding)?;
        Ok(Self { whole, rest: whole })
    }

    fn position(&self) -> usize {
        self.whole.len() - self.rest.len()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.as_bytes().first().copied()
    }

    /// Reads the flag of the header and the comma behind it; gives what `c=` must be at the end.
    fn channel_binding(&mut self, binding: Binding<'_>) -> Result<String, ScramError> {
        match (self.peek(), binding) {
            (Some(b'n' | b'y'), Binding::EndPoint(_)) => {
                Err(Malformed::NoChannelBindingData.into())
            }
            (Some(b'y'), Binding::Declined) => Err(ScramError::BindingNegotiation),
            (Some(b'p'), Binding::EndPoint(hash)) => {
                if self.attribute('p')? != END_POINT {
                    return Err(ScramError::BindingType);
                }
                let header = [format!("p={END_POINT},,").as_bytes(), hash].concat();
                Ok(STANDARD.encode(header))
            }
            (Some(b'p'), _) => Err(Malformed::ChannelBindingData.into()),
            (Some(flag @ (b'n' | b'y')), _) => {
                self.skip();
                match self.peek() {
                    Some(b',') => self.skip(),
                    other => return Err(Malformed::Comma(Shown(other)).into()),
                }
                Ok(STANDARD.encode(format!("{},,", char::from(flag))))
            }
            (other, _) => Err(Malformed::ChannelBindingFlag(Shown(other)).into()),
        }
    }

    /// Steps over the ASCII character that was peeked at.
    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    /// The value of the attribute that must come next.
    fn attribute(&mut self, name: char) -> Result<&'m str, Malformed> {
        if !self.rest.starts_with(name) {
            return Err(Malformed::Attribute(name, Shown(self.peek())));
        }
        self.any_attribute().map(|(_, value)| value)
    }

    /// The name and value of whatever attribute comes next.
    fn any_attribute(&mut self) -> Result<(u8, &'m str), Malformed> {
        let name = match self.peek() {
            Some(name) if name.is_ascii_alphabetic() => name,
            other => return Err(Malformed::NoAttribute(Shown(other))),
        };
        let value = self.rest[1..].strip_prefix('=').ok_or(Malformed::Equals(Shown(Some(name))))?;
        let (value, rest) = value.split_once(',').unwrap_or((value, ""));
        self.rest = rest;
        Ok((name, value))
    }
}

#[cfg(test)]
mod tests;

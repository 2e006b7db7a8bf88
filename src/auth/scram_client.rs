//! SCRAM-SHA-256, the client's side: proves Causeway to a server, and the server to Causeway.
//!
//! A consumed-state shell around `postgres_protocol`'s implementation, which panics or fails when its
//! steps are called out of order; here the types keep the order. Adds the check that the server has
//! put something of its own into the nonce.

use std::io;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

pub use postgres_protocol::authentication::sasl::SCRAM_SHA_256 as MECHANISM;

/// A server's part of the exchange that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ScramClientError {
    /// The challenge is malformed, its nonce does not continue ours, or it asks for more than 100,000
    /// rounds.
    #[error("invalid SCRAM challenge from the server")]
    Challenge(#[source] io::Error),
    /// The challenge's nonce is ours alone: a replayed one.
    #[error("the server added nothing to the SCRAM nonce")]
    NonceNotExtended,
    /// The server does not know the password's verifier: it is an impostor.
    #[error("the server could not prove that it knows the password")]
    ServerSignature(#[source] io::Error),
}

/// Our first message is ready; the server's challenge is awaited.
pub struct AwaitingChallenge(ScramSha256);

/// Our proof is ready; the server's is awaited.
pub struct AwaitingProof(ScramSha256);

impl AwaitingChallenge {
    /// Begins an exchange without channel binding.
    #[must_use]
    pub fn new(password: &str) -> Self {
        Self(ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported()))
    }

    /// client-first-message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.0.message()
    }

    /// Takes server-first-message. Costs the key derivation, a millisecond or more: not for a thread
    /// that serves others meanwhile.
    ///
    /// # Errors
    /// When the challenge does not hold.
    pub fn on_challenge(mut self, challenge: &[u8]) -> Result<AwaitingProof, ScramClientError> {
        let ours = after_last(self.0.message(), b"r=").to_vec();
        let theirs = challenge.split(|&byte| byte == b',').next().unwrap_or_default();
        if theirs.strip_prefix(b"r=") == Some(&ours) {
            return Err(ScramClientError::NonceNotExtended);
        }
        self.0.update(challenge).map_err(ScramClientError::Challenge)?;
        Ok(AwaitingProof(self.0))
    }
}

impl AwaitingProof {
    /// client-final-message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.0.message()
    }

    /// Takes server-final-message: the end of the exchange.
    ///
    /// # Errors
    /// When the server's signature does not verify.
    pub fn on_server_final(mut self, message: &[u8]) -> Result<(), ScramClientError> {
        self.0.finish(message).map_err(ScramClientError::ServerSignature)
    }
}

/// What follows the header `n,,n=,r=` of our own first message.
fn after_last<'a>(message: &'a [u8], name: &[u8]) -> &'a [u8] {
    message
        .windows(name.len())
        .position(|at| at == name)
        .map_or(&[], |at| &message[at + name.len()..])
}

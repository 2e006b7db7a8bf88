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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::{AwaitingFirst, ScramError, Standing, nonce};
    use crate::auth::verifier::{ITERATIONS, Verifier};

    /// Both of our sides against each other; the other tests let real drivers and servers judge.
    fn exchange(ours: &str, theirs: &str) -> Result<(), ScramError> {
        let verifier = Verifier::derive(theirs, b"0123456789abcdef", ITERATIONS);
        let server = AwaitingFirst::new(&verifier, Standing::Genuine);
        let client = AwaitingChallenge::new(ours);
        let (server, challenge) = server.on_client_first(client.message(), &nonce())?;
        let client = client.on_challenge(challenge.as_bytes()).unwrap();
        let last = server.on_client_final(client.message())?;
        client.on_server_final(last.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn both_sides_agree() {
        assert_eq!(exchange("secret", "secret"), Ok(()));
        assert_eq!(exchange("I\u{ad}X", "IX"), Ok(()));
        assert_eq!(exchange("\u{7}", "\u{7}"), Ok(()));
        assert_eq!(exchange("secret", "Secret"), Err(ScramError::Mismatch));
        assert_eq!(exchange("", "secret"), Err(ScramError::Mismatch));
    }

    #[test]
    fn challenges_that_do_not_hold() {
        let salt = "s=MDEyMzQ1Njc4OWFiY2RlZg==";
        let client = AwaitingChallenge::new("secret");
        let ours = String::from_utf8(after_last(client.message(), b"r=").to_vec()).unwrap();
        assert_eq!(ours.len(), 24);
        assert!(matches!(
            client.on_challenge(format!("r={ours},{salt},i=4096").as_bytes()),
            Err(ScramClientError::NonceNotExtended)
        ));
        for challenge in [
            String::new(),
            "r=".to_owned(),
            "e=other-error".to_owned(),
            format!("r=someone-elses,{salt},i=4096"),
        ] {
            let found = AwaitingChallenge::new("secret").on_challenge(challenge.as_bytes());
            assert!(matches!(found, Err(ScramClientError::Challenge(_))), "{challenge}");
        }
        for tail in ["i=4096", "s=!,i=1", "s=AA==,i=", "s=AA==,i=100001", "s=AA==,i=-1"] {
            let client = AwaitingChallenge::new("secret");
            let ours = String::from_utf8(after_last(client.message(), b"r=").to_vec()).unwrap();
            let found = client.on_challenge(format!("r={ours}x,{tail}").as_bytes());
            assert!(matches!(found, Err(ScramClientError::Challenge(_))), "{tail}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        for last in [
            "",
            "e=other-error",
            "v=",
            "v=AAAA",
            "x",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ] {
            let client = AwaitingChallenge::new("secret");
            let ours = String::from_utf8(after_last(client.message(), b"r=").to_vec()).unwrap();
            let client = client.on_challenge(format!("r={ours}x,s=AA==,i=1").as_bytes()).unwrap();
            let found = client.on_server_final(last.as_bytes());
            assert!(matches!(found, Err(ScramClientError::ServerSignature(_))), "{last}");
        }
    }
}

//! SCRAM-SHA-256, the client's side: proves Causeway to a server, and the server to Causeway.
//!
//! A pure machine in two steps, each state consumed by the message that ends it. Proves itself by a
//! password, or by the keys that a client's login has left ([`ScramKeys`]), which need no rounds. Source:
//! RFC 5802 and RFC 7677.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::scram::nonce;
use super::secret::{Password, ScramKeys};
use super::verifier::{Key, MOST_ITERATIONS};
use crate::config::settings::Secret;

pub use super::scram::{MECHANISM, MECHANISM_PLUS};

/// What an exchange is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: there is no TLS, or none that can be bound to.
    Impossible,
    /// Nothing, though we could: the server does not offer it.
    NotOffered,
    /// The server's certificate (`tls-server-end-point`).
    EndPoint(Vec<u8>),
}

/// A server's part of the exchange that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramClientError {
    /// The challenge is malformed, its nonce does not continue ours, or it asks for more than 100,000
    /// rounds.
    #[error("invalid SCRAM challenge from the server: {0}")]
    Challenge(&'static str),
    /// The challenge's nonce is ours alone: a replayed one.
    #[error("the server added nothing to the SCRAM nonce")]
    NonceNotExtended,
    /// The server keeps another verifier for the role than the one that the client proved itself by.
    #[error(
        "the server has another verifier for this role than Causeway; give Causeway the one of \
         pg_authid.rolpassword, or the password"
    )]
    OtherVerifier,
    /// The server does not know the password's verifier: it is an impostor.
    #[error("the server could not prove that it knows the password")]
    ServerSignature,
}

/// What an exchange is proved by.
#[derive(Debug, Clone)]
pub enum Prover {
    /// A password.
    Password(Arc<Password>),
    /// The keys behind a verifier.
    Keys(Arc<ScramKeys>),
}

impl Prover {
    /// By this password.
    #[must_use]
    pub fn password(password: &str) -> Self {
        Self::Password(Arc::new(Password::new(Secret::new(password))))
    }
}

/// Our first message is ready; the server's challenge is awaited.
pub struct AwaitingChallenge {
    prover: Prover,
    nonce: String,
    /// What our first message says of channel binding.
    header: &'static str,
    /// What our last one says of it behind that.
    bound_to: Vec<u8>,
    message: String,
}

/// Our proof is ready; the server's is awaited.
pub struct AwaitingProof {
    message: String,
    server_signature: Key,
}

impl AwaitingChallenge {
    /// Begins an exchange; with [`Binding::EndPoint`] it is [`MECHANISM_PLUS`].
    #[must_use]
    pub fn new(prover: Prover, binding: Binding) -> Self {
        let (header, bound_to) = match binding {
            Binding::Impossible => ("n,,", Vec::new()),
            Binding::NotOffered => ("y,,", Vec::new()),
            Binding::EndPoint(hash) => ("p=tls-server-end-point,,", hash),
        };
        let nonce = nonce();
        let message = format!("{header}n=,r={nonce}");
        Self { prover, nonce, header, bound_to, message }
    }

    /// client-first-message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Whether [`on_challenge`](Self::on_challenge) has rounds to do.
    #[must_use]
    pub fn is_costly(&self, challenge: &[u8]) -> bool {
        let Prover::Password(password) = &self.prover else { return false };
        let challenge = std::str::from_utf8(challenge).ok().map(parse_challenge);
        let Some(Ok((_, salt, iterations))) = challenge else { return false };
        password.known_keys(&salt, iterations).is_none()
    }

    /// Takes server-first-message. With a password it costs the key derivation, a millisecond or more:
    /// not for a thread that serves others meanwhile.
    ///
    /// # Errors
    /// When the challenge does not hold.
    pub fn on_challenge(self, challenge: &[u8]) -> Result<AwaitingProof, ScramClientError> {
        let text = std::str::from_utf8(challenge)
            .map_err(|_| ScramClientError::Challenge("not valid UTF-8"))?;
        let (nonce, salt, iterations) = parse_challenge(text)?;
        match nonce.strip_prefix(&*self.nonce) {
            Some("") => return Err(ScramClientError::NonceNotExtended),
            Some(_) => {}
            None => return Err(ScramClientError::Challenge("another nonce")),
        }
        let keys = match self.prover {
            Prover::Password(password) => password.keys(&salt, iterations),
            Prover::Keys(keys) if keys.fit(&salt, iterations) => keys,
            Prover::Keys(_) => return Err(ScramClientError::OtherVerifier),
        };
        let binding = [self.header.as_bytes(), &self.bound_to].concat();
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(binding));
        let bare = &self.message[self.header.len()..];
        let auth_message: [&[u8]; 5] =
            [bare.as_bytes(), b",", challenge, b",", without_proof.as_bytes()];
        let proof = STANDARD.encode(keys.proof(&auth_message));
        let server_signature = keys.server_signature(&auth_message);
        Ok(AwaitingProof { message: format!("{without_proof},p={proof}"), server_signature })
    }
}

impl AwaitingProof {
    /// client-final-message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Takes server-final-message: the end of the exchange.
    ///
    /// # Errors
    /// When the server's signature does not verify.
    pub fn on_server_final(self, message: &[u8]) -> Result<(), ScramClientError> {
        let attributes = message.strip_prefix(b"v=").unwrap_or_default();
        let signature = attributes.split(|&byte| byte == b',').next().unwrap_or_default();
        let proved = STANDARD
            .decode(signature)
            .is_ok_and(|signature| signature.ct_eq(&self.server_signature).into());
        if proved { Ok(()) } else { Err(ScramClientError::ServerSignature) }
    }
}

/// Nonce, salt and rounds of server-first-message; extensions behind them mean nothing.
fn parse_challenge(text: &str) -> Result<(&str, Vec<u8>, NonZeroU32), ScramClientError> {
    let mut attributes = text.split(',');
    let mut next = |name: &str, wrong| {
        let value = attributes.next().and_then(|attribute| attribute.strip_prefix(name));
        value.ok_or(ScramClientError::Challenge(wrong))
    };
    let nonce = next("r=", "no nonce")?;
    let salt = next("s=", "no salt")?;
    let iterations = next("i=", "no number of rounds")?;
    let salt = STANDARD.decode(salt).map_err(|_| ScramClientError::Challenge("malformed salt"))?;
    let iterations = iterations
        .parse()
        .ok()
        .filter(|rounds: &NonZeroU32| rounds.get() <= MOST_ITERATIONS)
        .ok_or(ScramClientError::Challenge("a number of rounds out of range"))?;
    Ok((nonce, salt, iterations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::{self, AwaitingFirst, ScramError, Standing, nonce};
    use crate::auth::verifier::{ITERATIONS, Verifier};

    /// Both of our sides against each other; the other tests let real drivers and servers judge.
    fn exchange(ours: &str, theirs: &str) -> Result<(), ScramError> {
        let verifier = Verifier::derive(theirs, b"0123456789abcdef", ITERATIONS);
        let server = AwaitingFirst::new(&verifier, Standing::Genuine);
        let client = AwaitingChallenge::new(Prover::password(ours), Binding::Impossible);
        let (server, challenge) = server.on_client_first(client.message(), &nonce())?;
        let client = client.on_challenge(challenge.as_bytes()).unwrap();
        let accepted = server.on_client_final(client.message())?;
        client.on_server_final(accepted.message.as_bytes()).unwrap();
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

    /// What a client proves itself by opens a server that keeps the same verifier, and no other.
    #[test]
    fn a_clients_proof_opens_a_server() {
        let verifier = |salt: &[u8]| Verifier::derive("secret", salt, ITERATIONS);
        let login = |verifier: &Verifier, prover: Prover| {
            let server = AwaitingFirst::new(verifier, Standing::Genuine);
            let client = AwaitingChallenge::new(prover, Binding::Impossible);
            let (server, challenge) = server.on_client_first(client.message(), &nonce()).unwrap();
            let client = client.on_challenge(challenge.as_bytes())?;
            let accepted = server.on_client_final(client.message()).expect("a proof that fits");
            client.on_server_final(accepted.message.as_bytes())?;
            Ok::<_, ScramClientError>(accepted.keys)
        };
        let ours = verifier(b"0123456789abcdef");
        let keys = Arc::new(login(&ours, Prover::password("secret")).unwrap());
        let again = login(&ours, Prover::Keys(keys.clone())).unwrap();
        assert_eq!(again, *keys, "and is recovered from that exchange as well");
        // Rounds are done once for a password and a verifier.
        let challenge = format!("r=x,s={},i=4096", STANDARD.encode(b"0123456789abcdef"));
        let costs = |prover: &Prover| {
            AwaitingChallenge::new(prover.clone(), Binding::Impossible)
                .is_costly(challenge.as_bytes())
        };
        let password = Prover::password("secret");
        assert!(costs(&password) && !costs(&Prover::Keys(keys.clone())));
        login(&ours, password.clone()).unwrap();
        assert!(!costs(&password));
        login(&verifier(b"another salt 123"), password.clone()).unwrap();
        assert!(costs(&password));
        let other = login(&verifier(b"another salt 123"), Prover::Keys(keys.clone()));
        assert_eq!(other, Err(ScramClientError::OtherVerifier));
        let rounds = Verifier::derive("secret", b"0123456789abcdef", NonZeroU32::MIN);
        assert_eq!(login(&rounds, Prover::Keys(keys)), Err(ScramClientError::OtherVerifier));
    }

    #[test]
    fn both_sides_are_bound_to_the_same() {
        let verifier = Verifier::derive("secret", b"0123456789abcdef", ITERATIONS);
        let exchange = |client, server| {
            let server = AwaitingFirst::new(&verifier, Standing::Genuine).bound_to(server);
            let client = AwaitingChallenge::new(Prover::password("secret"), client);
            let (server, challenge) = server.on_client_first(client.message(), &nonce())?;
            let client = client.on_challenge(challenge.as_bytes()).unwrap();
            let accepted = server.on_client_final(client.message())?;
            client.on_server_final(accepted.message.as_bytes()).unwrap();
            Ok(())
        };
        let end_point = |hash: &[u8]| Binding::EndPoint(hash.to_vec());
        for (client, server, expected) in [
            (end_point(b"one"), scram::Binding::EndPoint(b"one"), Ok(())),
            // Two TLS connections with somebody in between.
            (end_point(b"his"), scram::Binding::EndPoint(b"one"), Err(ScramError::BindingCheck)),
            (Binding::NotOffered, scram::Binding::Impossible, Ok(())),
            (Binding::NotOffered, scram::Binding::Declined, Err(ScramError::BindingNegotiation)),
            (Binding::Impossible, scram::Binding::Declined, Ok(())),
        ] {
            assert_eq!(exchange(client.clone(), server), expected, "{client:?} {server:?}");
        }
    }

    #[test]
    fn challenges_that_do_not_hold() {
        let salt = "s=MDEyMzQ1Njc4OWFiY2RlZg==";
        let client = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible);
        let ours = client.nonce.clone();
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
            let found = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible)
                .on_challenge(challenge.as_bytes());
            assert!(matches!(found, Err(ScramClientError::Challenge(_))), "{challenge}");
        }
        for tail in ["i=4096", "s=!,i=1", "s=AA==,i=", "s=AA==,i=100001", "s=AA==,i=-1"] {
            let client = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible);
            let ours = client.nonce.clone();
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
            let client = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible);
            let ours = client.nonce.clone();
            let client = client.on_challenge(format!("r={ours}x,s=AA==,i=1").as_bytes()).unwrap();
            let found = client.on_server_final(last.as_bytes());
            assert!(matches!(found, Err(ScramClientError::ServerSignature)), "{last}");
        }
    }
}

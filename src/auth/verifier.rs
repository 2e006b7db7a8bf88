//! SCRAM-SHA-256 verifiers: what proves a password without being one.
//!
//! Owns their text form (as in `pg_authid.rolpassword`), their derivation from a password, and the
//! preparation of passwords. Source: RFC 5802 section 3, RFC 7677, and PostgreSQL's
//! `src/common/scram-common.c` and `saslprep.c`.

use std::borrow::Cow;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The rounds that PostgreSQL uses by default (`scram_iterations`).
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// The most rounds of any verifier or server: each keeps a thread busy that has to do them. PostgreSQL lets a role
/// set its own verifier with two thousand millions, which would be an hour.
pub const MOST_ITERATIONS: u32 = 100_000;
/// The length of the salts that Causeway makes, in bytes; as PostgreSQL's.
pub const SALT_LENGTH: usize = 16;
/// An HMAC-SHA-256 key or SHA-256 digest.
pub type Key = [u8; 32];

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of the key derivation.
    pub iterations: NonZeroU32,
    /// The salt, as bytes; not empty.
    pub salt: Box<[u8]>,
    /// `H(ClientKey)`.
    pub stored_key: Key,
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: Key,
}

/// The text is not `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` with so many iterations at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a SCRAM-SHA-256 verifier (SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey) of up to \
     {MOST_ITERATIONS} iterations"
)]
pub struct InvalidVerifier;

impl Verifier {
    /// Derives it. Costs `iterations` rounds of HMAC: one or two milliseconds at 4096.
    #[must_use]
    pub fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let salted = salted_password(prepare(password).as_bytes(), salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.into(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn parse(text: &str) -> Result<Self, InvalidVerifier> {
        let read = || {
            let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            let iterations = iterations.parse().ok().filter(|rounds| *rounds <= MOST_ITERATIONS)?;
            Some(Self {
                iterations: NonZeroU32::new(iterations)?,
                salt: salt.into(),
                stored_key: STANDARD.decode(stored_key).ok()?.try_into().ok()?,
                server_key: STANDARD.decode(server_key).ok()?.try_into().ok()?,
            })
        };
        read().ok_or(InvalidVerifier)
    }

    /// The text form. A secret: who holds it can play the server.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier(SCRAM-SHA-256, {} iterations)", self.iterations)
    }
}

/// HMAC-SHA-256 over the parts, one after the other.
#[must_use]
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// RFC 5802's `Hi()`: PBKDF2 with HMAC-SHA-256 and one block.
pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    let keyed = keyed(password);
    let round = |input: &[u8], suffix: &[u8]| -> Key {
        let mut mac = keyed.clone();
        mac.update(input);
        mac.update(suffix);
        mac.finalize().into_bytes().into()
    };
    let mut last = round(salt, &1u32.to_be_bytes());
    let mut sum = last;
    for _ in 1..iterations.get() {
        last = round(&last, &[]);
        for (sum, last) in sum.iter_mut().zip(last) {
            *sum ^= last;
        }
    }
    sum
}

/// SASLprep with PostgreSQL's way out: a password that may not be prepared, or of which nothing would
/// be left, is used as it is.
pub(super) fn prepare(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3, and what PostgreSQL 15 itself made of passwords.
    #[test]
    fn derivation_is_the_standards() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive("pencil", &salt, ITERATIONS);
        assert_eq!(
            verifier.to_text(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert_eq!(Verifier::parse(&verifier.to_text()), Ok(verifier));
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        for (password, prepared) in [
            ("pencil", "pencil"),
            ("", ""),
            ("I\u{ad}X", "IX"),
            ("\u{2168}", "IX"),
            ("\u{aa}", "a"),
            ("a\u{a0}b", "a b"),
            // Prohibited or empty after preparation: used as they are.
            ("\u{7}", "\u{7}"),
            ("\u{627}1", "\u{627}1"),
            ("\u{ad}", "\u{ad}"),
        ] {
            assert_eq!(prepare(password), prepared, "{password:?}");
        }
    }

    #[test]
    fn texts_that_are_no_verifier() {
        let good = Verifier::derive("x", b"salt", NonZeroU32::MIN).to_text();
        assert!(Verifier::parse(&good).is_ok());
        assert!(Verifier::parse(&good.replace("$1:", "$100000:")).is_ok());
        let (head, keys) = good.rsplit_once('$').unwrap();
        for text in [
            "",
            "x",
            "SCRAM-SHA-256",
            "md5d41d8cd98f00b204e9800998ecf8427e",
            "SCRAM-SHA-256$",
            head,
            &format!("{head}$"),
            &format!("{head}$a:b"),
            &format!("{head}${keys}x"),
            &format!("{head}${}", keys.replace(':', ";")),
            &format!("SCRAM-SHA-256$0:c2FsdA==${keys}"),
            &format!("SCRAM-SHA-256$-1:c2FsdA==${keys}"),
            &format!("SCRAM-SHA-256$4294967296:c2FsdA==${keys}"),
            &format!("SCRAM-SHA-256$2147483647:c2FsdA==${keys}"),
            &format!("SCRAM-SHA-256$100001:c2FsdA==${keys}"),
            &format!("SCRAM-SHA-256$1:${keys}"),
            &format!("SCRAM-SHA-256$1:!!!!${keys}"),
            &format!("SCRAM-SHA-1$1:c2FsdA==${keys}"),
        ] {
            assert_eq!(Verifier::parse(text), Err(InvalidVerifier), "{text}");
        }
    }

    #[test]
    fn keys_do_not_show() {
        let verifier = Verifier::derive("x", b"salt", NonZeroU32::MIN);
        assert_eq!(format!("{verifier:?}"), "Verifier(SCRAM-SHA-256, 1 iterations)");
    }
}

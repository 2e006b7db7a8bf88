//! What proves a role to a server: a password, or the keys that a client's own login left.

use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::verifier::{Key, Verifier, hmac, prepare, salted_password};
use crate::config::settings::Secret;

/// What proves a role to a server.
#[derive(Debug, Clone)]
pub enum ServerSecret {
    /// The password itself: for every way of authentication.
    Password(Arc<Password>),
    /// The keys behind a SCRAM verifier: for servers whose verifier has the same salt and rounds.
    Keys(Arc<ScramKeys>),
    /// `md5` and 32 hexadecimal digits, as `pg_authid.rolpassword` has it: for md5 only.
    Md5(Secret),
}

/// A password, with the keys that were derived of it last: every server of a cluster has the same verifier.
pub struct Password {
    secret: Secret,
    derived: Mutex<Option<Arc<ScramKeys>>>,
}

impl Password {
    /// Nothing is derived of it yet.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self { secret, derived: Mutex::default() }
    }

    /// To be said, or hashed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.secret.expose()
    }

    /// The keys under this salt, if they were the last.
    #[must_use]
    pub(super) fn known_keys(&self, salt: &[u8], iterations: NonZeroU32) -> Option<Arc<ScramKeys>> {
        self.derived.lock().clone().filter(|keys| keys.fit(salt, iterations))
    }

    /// The keys under this salt. Costs `iterations` rounds of HMAC where they are not known.
    #[must_use]
    pub(super) fn keys(&self, salt: &[u8], iterations: NonZeroU32) -> Arc<ScramKeys> {
        self.known_keys(salt, iterations).unwrap_or_else(|| {
            let prepared = prepare(self.expose());
            let keys = Arc::new(ScramKeys::derive(prepared.as_bytes(), salt, iterations));
            *self.derived.lock() = Some(keys.clone());
            keys
        })
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.secret.fmt(f)
    }
}

impl ServerSecret {
    /// By a password.
    #[must_use]
    pub fn password(secret: Secret) -> Self {
        Self::Password(Arc::new(Password::new(secret)))
    }
}

/// What one password is under one salt: as good as the password toward servers with the same
/// verifier, and of no use elsewhere.
#[derive(Clone)]
pub struct ScramKeys {
    client_key: Key,
    server_key: Key,
    salt: Box<[u8]>,
    iterations: NonZeroU32,
}

impl ScramKeys {
    /// Derives them. Costs `iterations` rounds of HMAC.
    #[must_use]
    pub fn derive(prepared_password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let salted = salted_password(prepared_password, salt, iterations);
        Self {
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
            salt: salt.into(),
            iterations,
        }
    }

    /// What a client's proof has shown: the client key that fits `verifier`.
    #[must_use]
    pub(super) fn recovered(client_key: Key, verifier: &Verifier) -> Self {
        Self {
            client_key,
            server_key: verifier.server_key,
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
        }
    }

    /// Whether they are those of a server with this salt and so many rounds.
    #[must_use]
    pub fn fit(&self, salt: &[u8], iterations: NonZeroU32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// Whether they are behind this verifier.
    #[must_use]
    pub(super) fn prove(&self, verifier: &Verifier) -> bool {
        let stored_key: Key = Sha256::digest(self.client_key).into();
        stored_key.ct_eq(&verifier.stored_key).into()
    }

    /// What proves us: the client key under the signature of the exchange.
    pub(super) fn proof(&self, auth_message: &[&[u8]]) -> Key {
        let stored_key: Key = Sha256::digest(self.client_key).into();
        let mut proof = hmac(&stored_key, auth_message);
        for (proof, key) in proof.iter_mut().zip(self.client_key) {
            *proof ^= key;
        }
        proof
    }

    /// What proves the server.
    pub(super) fn server_signature(&self, auth_message: &[&[u8]]) -> Key {
        hmac(&self.server_key, auth_message)
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        let keys =
            self.client_key.ct_eq(&other.client_key) & self.server_key.ct_eq(&other.server_key);
        bool::from(keys) && self.fit(&other.salt, other.iterations)
    }
}

impl PartialEq for ServerSecret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(one), Self::Password(other)) => {
                one.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
            }
            (Self::Md5(one), Self::Md5(other)) => {
                one.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
            }
            (Self::Keys(one), Self::Keys(other)) => Arc::ptr_eq(one, other) || one == other,
            _ => false,
        }
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_once_for_each_verifier() {
        let password = Password::new(Secret::new("pencil"));
        let (one, two) = (NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
        assert!(password.known_keys(b"salt", one).is_none());
        let keys = password.keys(b"salt", one);
        assert_eq!(*keys, ScramKeys::derive(b"pencil", b"salt", one));
        assert!(Arc::ptr_eq(&keys, &password.keys(b"salt", one)));
        for (salt, rounds) in [(&b"tlas"[..], one), (b"salt", two)] {
            assert!(password.known_keys(salt, rounds).is_none());
        }
        // The role has got another verifier.
        assert_eq!(*password.keys(b"tlas", one), ScramKeys::derive(b"pencil", b"tlas", one));
    }

    #[test]
    fn secrets_do_not_show_and_compare_by_value() {
        let keys = |password: &[u8]| {
            ServerSecret::Keys(Arc::new(ScramKeys::derive(password, b"salt", NonZeroU32::MIN)))
        };
        assert_eq!(keys(b"one"), keys(b"one"));
        assert_ne!(keys(b"one"), keys(b"two"));
        let password = ServerSecret::password(Secret::new("hush"));
        assert_ne!(password, ServerSecret::Md5(Secret::new("hush")));
        assert_eq!(
            format!("{:?} {password:?}", keys(b"x")),
            "Keys(ScramKeys(***)) Password(Secret(***))"
        );
    }
}

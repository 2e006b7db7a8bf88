//! A role as the database keeps it (`pg_authid`): what proves it, until when, and whether it may log in.

use std::sync::Arc;
use std::time::SystemTime;

use super::md5;
use super::verifier::Verifier;
use crate::config::settings::Secret;

/// What is kept of a password.
#[derive(Debug, Clone)]
pub enum Kept {
    /// A SCRAM-SHA-256 verifier.
    Scram(Arc<Verifier>),
    /// `md5` and 32 hexadecimal digits.
    Md5(Secret),
}

/// A role of the database.
#[derive(Debug, Clone)]
pub struct Role {
    /// What is kept of its password; `None` where there is none, or nothing that can be read.
    pub kept: Option<Kept>,
    /// From when on its password counts for nothing; `None` for never.
    pub valid_until: Option<SystemTime>,
    /// `rolcanlogin`
    pub can_login: bool,
}

impl Kept {
    /// Reads `pg_authid.rolpassword`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if md5::is_kept(text) {
            return Some(Self::Md5(Secret::new(text)));
        }
        Verifier::parse(text).ok().map(|verifier| Self::Scram(Arc::new(verifier)))
    }
}

impl Role {
    /// Whether what proves one proves the other.
    #[must_use]
    pub fn is_proved_like(&self, other: &Self) -> bool {
        match (&self.kept, &other.kept) {
            (Some(Kept::Scram(one)), Some(Kept::Scram(other))) => {
                Arc::ptr_eq(one, other) || one.to_text() == other.to_text()
            }
            (Some(Kept::Md5(one)), Some(Kept::Md5(other))) => one == other,
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether its password counts for nothing any more, as in PostgreSQL's `get_role_password`.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.valid_until.is_some_and(|until| until < now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn passwords_are_read_as_the_database_keeps_them() {
        let hash = md5::kept("app", "secret");
        assert!(matches!(Kept::parse(&hash), Some(Kept::Md5(kept)) if kept.expose() == hash));
        let verifier = Verifier::derive("secret", b"salt", std::num::NonZeroU32::MIN);
        assert!(matches!(Kept::parse(&verifier.to_text()), Some(Kept::Scram(_))));
        for text in ["", "secret", "md5", "SCRAM-SHA-256$", "md5D41D8CD98F00B204E9800998ECF8427E"] {
            assert!(Kept::parse(text).is_none(), "{text}");
        }
        assert!(!format!("{:?}", Kept::parse(&hash)).contains(&hash));
    }

    #[test]
    fn another_password_is_another_proof() {
        let scram = |salt: &[u8]| {
            Kept::Scram(Arc::new(Verifier::derive("secret", salt, std::num::NonZeroU32::MIN)))
        };
        let role = |kept| Role { kept, valid_until: None, can_login: true };
        let md5 = |password| Kept::Md5(Secret::new(md5::kept("app", password)));
        let kinds = [
            role(None),
            role(Some(scram(b"one"))),
            role(Some(scram(b"two"))),
            role(Some(md5("one"))),
            role(Some(md5("two"))),
        ];
        for (at, one) in kinds.iter().enumerate() {
            for (other_at, other) in kinds.iter().enumerate() {
                assert_eq!(one.is_proved_like(other), at == other_at);
            }
        }
        assert!(role(Some(scram(b"one"))).is_proved_like(&role(Some(scram(b"one")))));
    }

    #[test]
    fn a_password_is_good_up_to_its_time() {
        let role = |valid_until| Role { kept: None, valid_until, can_login: true };
        let now = SystemTime::now();
        assert!(!role(None).is_expired(now));
        assert!(!role(Some(now)).is_expired(now));
        assert!(role(Some(now - Duration::from_secs(1))).is_expired(now));
    }
}

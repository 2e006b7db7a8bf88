//! What the file says proves each user, ready to be used.
//!
//! An immutable table, built at start and at each reload: keys are derived here once and never during
//! a login. Owns the pretence for users that are not in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rand::RngCore;
use subtle::ConstantTimeEq;

use super::md5;
use super::role::{Kept, Role};
use super::scram::{AwaitingFirst, Binding, Standing};
use super::secret::{ScramKeys, ServerSecret};
use super::verifier::{ITERATIONS, InvalidVerifier, SALT_LENGTH, Verifier, hmac, prepare};
use crate::config::Settings;
use crate::config::settings::{Secret, User, UserPassword};
use crate::protocol::startup::truncate_name;

/// The table of users. Names are cut to 63 bytes, as PostgreSQL cuts those of logins.
#[derive(Debug)]
pub struct Credentials {
    users: HashMap<Box<str>, Credential>,
    salts: Salts,
}

/// A user of the file.
#[derive(Debug, Clone)]
struct Credential {
    /// As the file has it, to see at a reload whether it changed.
    password: Option<UserPassword>,
    kept: Option<Kept>,
    /// What opens servers: the password, if the file gives it in plain.
    server: Option<ServerSecret>,
}

/// The file gives a user something that cannot prove anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("password of user \"{user}\": {reason}")]
pub struct CredentialsError {
    /// The user's name.
    pub user: String,
    /// What is wrong.
    pub reason: InvalidVerifier,
}

/// What a login is judged by.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// What SCRAM is judged by; a pretence where there is nothing.
    verifier: Arc<Verifier>,
    /// What md5 is judged by, where only that is kept.
    pub md5: Option<Secret>,
    /// Whether the role may log in once it has proved itself.
    pub can_login: bool,
    /// Why nothing will let the client in, for the log; the client never learns it.
    pub doom: Option<Doom>,
}

/// Why a login must fail whatever the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// The file has no such user.
    UnknownUser,
    /// The user has no password.
    NoPassword,
    /// Its password was good until a time that is over (VALID UNTIL).
    Expired,
    /// Only an md5 hash is kept, and SCRAM is asked for.
    OnlyMd5,
}

impl Challenge {
    /// Judges a password as it is; what it proves opens servers. Whoever cannot be let in costs as much
    /// as whoever can: the rounds of the verifier, so not for a thread that serves others.
    #[must_use]
    pub fn judge(&self, user: &str, password: &str) -> Option<ServerSecret> {
        let prepared = prepare(password);
        let Verifier { salt, iterations, .. } = &*self.verifier;
        let keys = ScramKeys::derive(prepared.as_bytes(), salt, *iterations);
        match &self.md5 {
            _ if self.doom.is_some() => None,
            Some(kept) => {
                let same = md5::kept(user, password).as_bytes().ct_eq(kept.expose().as_bytes());
                bool::from(same).then(|| ServerSecret::Md5(kept.clone()))
            }
            None => keys.prove(&self.verifier).then(|| ServerSecret::Keys(Arc::new(keys))),
        }
    }

    /// Begins the exchange, bound to what it may be bound to.
    #[must_use]
    pub fn begin<'a>(&'a self, binding: Binding<'a>) -> AwaitingFirst<'a> {
        let doomed = self.doom.is_some() || self.md5.is_some();
        let standing = if doomed { Standing::Doomed } else { Standing::Genuine };
        AwaitingFirst::new(&self.verifier, standing).bound_to(binding)
    }
}

impl Credentials {
    /// Derives what logins need. `previous` is the table in use, if there is one: keys of passwords
    /// that did not change are taken over, and so are salts, so that a reload shows nobody which users
    /// exist. Costs a millisecond or two per new password.
    ///
    /// # Errors
    /// When a verifier in the file cannot be read.
    pub fn build(settings: &Settings, previous: Option<&Self>) -> Result<Self, CredentialsError> {
        Self::from_users(&settings.users, previous)
    }

    /// [`Credentials::build`] from the users alone.
    ///
    /// # Errors
    /// When a verifier cannot be read.
    pub fn from_users(users: &[User], previous: Option<&Self>) -> Result<Self, CredentialsError> {
        let salts = previous.map_or_else(Salts::new, |table| table.salts.clone());
        let users = users
            .iter()
            .map(|user| {
                let known = previous.and_then(|table| table.users.get(truncate_name(&user.name)));
                let credential = match known {
                    Some(known) if same(known.password.as_ref(), user.password.as_ref()) => {
                        known.clone()
                    }
                    _ => Credential::derive(user, &salts)?,
                };
                Ok((truncate_name(&user.name).into(), credential))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { users, salts })
    }

    /// Whether the file says nothing of what proves `user`, so that the database is to be asked.
    #[must_use]
    pub fn needs_look_up(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|known| known.kept.is_none())
    }

    /// Whether the file has such a user.
    #[must_use]
    pub fn has(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// What a login as `user` is judged by: always something, and at the same cost, whether or not
    /// there is such a user. The file goes before what the database says (`role`).
    #[must_use]
    pub fn challenge(&self, user: &str, role: Option<&Role>, now: SystemTime) -> Challenge {
        let pretence = Verifier {
            iterations: ITERATIONS,
            salt: self.salts.of(user).into(),
            stored_key: [0; 32],
            server_key: [0; 32],
        };
        let pretence = Arc::new(pretence);
        let in_file = self.users.get(user);
        let (kept, doom) = match (in_file.map(|known| &known.kept), role) {
            (Some(Some(kept)), _) => (Some(kept), None),
            (_, Some(role)) if role.is_expired(now) => (None, Some(Doom::Expired)),
            (_, Some(Role { kept: Some(kept), .. })) => (Some(kept), None),
            (Some(None), _) | (_, Some(_)) => (None, Some(Doom::NoPassword)),
            (None, None) => (None, Some(Doom::UnknownUser)),
        };
        let (verifier, md5) = match kept {
            Some(Kept::Scram(verifier)) => (Arc::clone(verifier), None),
            Some(Kept::Md5(hash)) => (pretence, Some(hash.clone())),
            None => (pretence, None),
        };
        let can_login = role.is_none_or(|role| role.can_login);
        Challenge { verifier, md5, can_login, doom }
    }

    /// What opens servers as `user`: the password, if the file gives it in plain, else the keys that
    /// its login has `proved`.
    #[must_use]
    pub fn server_secret(&self, user: &str, proved: Option<ServerSecret>) -> Option<ServerSecret> {
        self.users.get(user).and_then(|user| user.server.clone()).or(proved)
    }
}

impl Credential {
    fn derive(user: &User, salts: &Salts) -> Result<Self, CredentialsError> {
        let kept = match &user.password {
            None => None,
            Some(UserPassword::Md5(hash)) => Some(Kept::Md5(hash.clone())),
            Some(UserPassword::Plain(password)) => {
                let salt = salts.of(truncate_name(&user.name));
                let verifier = Verifier::derive(password.expose(), &salt, ITERATIONS);
                Some(Kept::Scram(Arc::new(verifier)))
            }
            Some(UserPassword::Verifier(text)) => {
                let verifier = Verifier::parse(text.expose())
                    .map_err(|reason| CredentialsError { user: user.name.clone(), reason })?;
                Some(Kept::Scram(Arc::new(verifier)))
            }
        };
        let server = match &user.password {
            Some(UserPassword::Plain(password)) => Some(ServerSecret::password(password.clone())),
            _ => None,
        };
        Ok(Self { password: user.password.clone(), kept, server })
    }
}

/// Salts that depend on the name and a secret of this process only: the same for a name at every
/// login, whether or not there is such a user.
#[derive(Clone)]
struct Salts([u8; 32]);

impl Salts {
    fn new() -> Self {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        Self(secret)
    }

    fn of(&self, user: &str) -> [u8; SALT_LENGTH] {
        let mut salt = [0; SALT_LENGTH];
        salt.copy_from_slice(&hmac(&self.0, &[user.as_bytes()])[..SALT_LENGTH]);
        salt
    }
}

impl std::fmt::Debug for Salts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salts(***)")
    }
}

fn same(one: Option<&UserPassword>, other: Option<&UserPassword>) -> bool {
    use UserPassword::{Md5, Plain, Verifier};
    match (one, other) {
        (None, None) => true,
        (Some(Plain(one)), Some(Plain(other)))
        | (Some(Md5(one)), Some(Md5(other)))
        | (Some(Verifier(one)), Some(Verifier(other))) => {
            one.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: impl Into<Option<UserPassword>>) -> User {
        User { name: name.to_owned(), password: password.into(), ..User::default() }
    }

    fn plain(text: &str) -> UserPassword {
        UserPassword::Plain(Secret::new(text))
    }

    fn kept(text: &str) -> UserPassword {
        UserPassword::Verifier(Secret::new(text))
    }

    #[test]
    fn who_may_enter_and_who_may_not() {
        let verifier = Verifier::derive("secret", b"0123456789abcdef", ITERATIONS).to_text();
        let users = [
            user("plain", plain("secret")),
            user("kept", kept(&verifier)),
            user("none", None),
            user(&"x".repeat(70), plain("secret")),
        ];
        let table = Credentials::from_users(&users, None).unwrap();
        for (name, doom) in [
            ("plain", None),
            ("kept", None),
            ("none", Some(Doom::NoPassword)),
            ("nobody", Some(Doom::UnknownUser)),
            ("PLAIN", Some(Doom::UnknownUser)),
            ("", Some(Doom::UnknownUser)),
            (&"x".repeat(63), None),
        ] {
            assert_eq!(table.challenge(name, None, SystemTime::now()).doom, doom, "{name}");
        }
        assert_eq!(table.challenge("kept", None, SystemTime::now()).verifier.to_text(), verifier);
        let password = ServerSecret::password(Secret::new("secret"));
        assert_eq!(table.server_secret("plain", None), Some(password.clone()));
        assert_eq!(table.server_secret("kept", Some(password.clone())), Some(password));
        for name in ["kept", "none", "nobody"] {
            assert_eq!(table.server_secret(name, None), None, "{name}");
        }
    }

    #[test]
    fn a_role_of_the_database_proves_itself_where_the_file_is_silent() {
        let verifier = Arc::new(Verifier::derive("secret", b"0123456789abcdef", ITERATIONS));
        let role = |valid_until| Role {
            kept: Some(Kept::Scram(verifier.clone())),
            valid_until,
            can_login: false,
        };
        let table =
            Credentials::from_users(&[user("app", plain("secret")), user("open", None)], None)
                .unwrap();
        let now = SystemTime::now();
        let earlier = Some(now - std::time::Duration::from_secs(1));
        for name in ["open", "nobody"] {
            assert!(table.needs_look_up(name));
            let challenge = table.challenge(name, Some(&role(None)), now);
            assert!(Arc::ptr_eq(&challenge.verifier, &verifier) && challenge.doom.is_none());
            assert!(!challenge.can_login);
            // CVE-2025-2291 of another pooler: VALID UNTIL must not be lost on the way.
            assert_eq!(table.challenge(name, Some(&role(earlier)), now).doom, Some(Doom::Expired));
            let hash = Some(Kept::Md5(Secret::new("md5...")));
            let hashed = table.challenge(name, Some(&Role { kept: hash, ..role(None) }), now);
            assert!(hashed.md5.is_some());
            let none = table.challenge(name, Some(&Role { kept: None, ..role(None) }), now);
            assert_eq!(none.doom, Some(Doom::NoPassword));
        }
        assert!(!table.needs_look_up("app"));
        let challenge = table.challenge("app", Some(&role(earlier)), now);
        assert!(!Arc::ptr_eq(&challenge.verifier, &verifier) && challenge.doom.is_none());
    }

    #[test]
    fn passwords_are_judged_by_whatever_is_kept() {
        let verifier = Verifier::derive("secret", b"0123456789abcdef", ITERATIONS).to_text();
        let hash = UserPassword::Md5(Secret::new(md5::kept("hashed", "secret")));
        let users = [
            user("plain", plain("secret")),
            user("kept", kept(&verifier)),
            user("hashed", hash),
            user("none", None),
        ];
        let table = Credentials::from_users(&users, None).unwrap();
        for name in ["plain", "kept", "hashed", "none", "nobody"] {
            let challenge = table.challenge(name, None, SystemTime::now());
            let proved = challenge.judge(name, "secret");
            assert_eq!(proved.is_some(), !name.starts_with("no"), "{name}");
            for wrong in ["", "Secret", "secret "] {
                assert_eq!(challenge.judge(name, wrong), None, "{name} {wrong}");
            }
        }
    }

    /// An attacker sees salt and rounds: they must be as constant, and as different from each
    /// other's, for users that do not exist as for those that do.
    #[test]
    fn the_unknown_look_like_the_known() {
        let table = Credentials::from_users(&[user("app", plain("secret"))], None).unwrap();
        let seen = |table: &Credentials, name: &str| {
            let challenge = table.challenge(name, None, SystemTime::now());
            (challenge.verifier.salt.clone(), challenge.verifier.iterations)
        };
        for name in ["app", "nobody"] {
            assert_eq!(seen(&table, name), seen(&table, name));
            assert_eq!(seen(&table, name).0.len(), SALT_LENGTH);
            assert_eq!(seen(&table, name).1, ITERATIONS);
        }
        assert_ne!(seen(&table, "nobody").0, seen(&table, "anybody").0);
        assert_ne!(seen(&table, "nobody").0, seen(&table, "app").0);
        // Also over a reload that changes the password, removes the user, or adds one.
        let users = [user("app", plain("other")), user("nobody", plain("new"))];
        let reloaded = Credentials::from_users(&users, Some(&table)).unwrap();
        let emptied = Credentials::from_users(&[], Some(&reloaded)).unwrap();
        for name in ["app", "nobody", "anybody"] {
            assert_eq!(seen(&table, name), seen(&reloaded, name), "{name}");
            assert_eq!(seen(&table, name), seen(&emptied, name), "{name}");
        }
        let elsewhere = Credentials::from_users(&users, None).unwrap();
        assert_ne!(seen(&table, "nobody").0, seen(&elsewhere, "nobody").0);
    }

    #[test]
    fn a_reload_derives_only_what_changed() {
        let table =
            Credentials::from_users(&[user("a", plain("1")), user("b", plain("1"))], None).unwrap();
        let users = [user("a", plain("1")), user("b", plain("2"))];
        let reloaded = Credentials::from_users(&users, Some(&table)).unwrap();
        let of = |table: &Credentials, name: &str| {
            table.challenge(name, None, SystemTime::now()).verifier
        };
        assert!(Arc::ptr_eq(&of(&table, "a"), &of(&reloaded, "a")));
        assert_ne!(of(&table, "b"), of(&reloaded, "b"));
    }

    #[test]
    fn a_verifier_that_cannot_be_read_is_the_operators_to_mend() {
        let error = Credentials::from_users(&[user("app", kept("md5123"))], None).unwrap_err();
        assert!(error.to_string().starts_with("password of user \"app\": not a SCRAM"), "{error}");
        assert!(!error.to_string().contains("md5123"));
    }

    #[test]
    fn secrets_do_not_show() {
        let table = Credentials::from_users(&[user("app", plain("hush"))], None).unwrap();
        assert!(!format!("{table:?}").contains("hush"));
    }
}

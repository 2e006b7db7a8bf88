//! What opens the servers of an account, which may change while it has sessions.
//!
//! Owns the secret in use and the one before it. A client that has logged in with another replaces it, for its proof
//! is the newest; but what a server has the last word on, it keeps: where the new one opens nothing, the one before
//! is tried and goes first again. So neither a password that has just been changed nor a client that still has
//! the old one takes its servers from a session that is there.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::auth::ServerSecret;
use crate::server::ConnectError;
use crate::server::connect::{ServerLogin, ServerViolation};

/// As whom, where to, and with what.
#[derive(Debug)]
pub struct Login {
    user: String,
    database: String,
    secrets: Mutex<Secrets>,
    /// The number of the one in use, for those who only compare it.
    number: AtomicU64,
}

#[derive(Debug)]
struct Secrets {
    now: Option<ServerSecret>,
    /// Tells it from all others.
    number: u64,
    before: Option<(Option<ServerSecret>, u64)>,
    last_number: u64,
}

impl Login {
    /// With this secret, if any.
    #[must_use]
    pub fn new(user: &str, database: &str, secret: Option<ServerSecret>) -> Self {
        let secrets = Secrets { now: secret, number: 0, before: None, last_number: 0 };
        let (secrets, number) = (Mutex::new(secrets), AtomicU64::new(0));
        Self { user: user.into(), database: database.into(), secrets, number }
    }

    /// A client has logged in that has this. One that has shown nothing (by certificate, or trusted) takes nothing
    /// away.
    pub fn adopt(&self, secret: Option<ServerSecret>) {
        let mut secrets = self.secrets.lock();
        if secret.is_some() && secrets.now != secret && !secrets.swap(secret.as_ref()) {
            secrets.last_number += 1;
            let number = secrets.last_number;
            let before = std::mem::replace(&mut secrets.now, secret);
            let before = (before, std::mem::replace(&mut secrets.number, number));
            secrets.before = Some(before).filter(|(secret, _)| secret.is_some());
        }
        self.number.store(secrets.number, Ordering::Release);
    }

    /// What to open servers with.
    pub(super) fn now(&self) -> ServerLogin {
        self.with(self.secrets.lock().now.clone())
    }

    /// What else to try, if that was not good enough.
    pub(super) fn instead(&self, tried: &ServerLogin, error: &ConnectError) -> Option<ServerLogin> {
        let is_about_the_secret = match error {
            ConnectError::Refused(report) => report.sqlstate == "28P01",
            ConnectError::SecretDoesNotFit { .. }
            | ConnectError::Protocol(ServerViolation::Scram(_)) => true,
            _ => false,
        };
        let secrets = self.secrets.lock();
        let before = secrets.before.as_ref().and_then(|(secret, _)| secret.as_ref());
        let other = if secrets.now == tried.secret { before } else { secrets.now.as_ref() };
        other.filter(|_| is_about_the_secret).map(|other| self.with(Some(other.clone())))
    }

    /// It has opened a server, and goes first from now on. Its number: what was opened with another may be somebody
    /// else's, a role that had the same name.
    pub(super) fn opened(&self, with: &ServerLogin) -> u64 {
        let mut secrets = self.secrets.lock();
        if secrets.now != with.secret {
            secrets.swap(with.secret.as_ref());
        }
        self.number.store(secrets.number, Ordering::Release);
        secrets.number
    }

    /// Which secret is in use.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    fn with(&self, secret: Option<ServerSecret>) -> ServerLogin {
        ServerLogin {
            user: self.user.clone(),
            database: self.database.clone(),
            secret,
            parameters: Vec::new(),
        }
    }
}

impl Secrets {
    /// Puts the one before in the first place again, if it is this.
    fn swap(&mut self, secret: Option<&ServerSecret>) -> bool {
        let Some((before, number)) = &mut self.before else { return false };
        let is_it = before.as_ref() == secret;
        if is_it {
            std::mem::swap(&mut self.now, before);
            std::mem::swap(&mut self.number, number);
        }
        is_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Secret;
    use crate::protocol::ErrorReport;

    fn secret(text: &str) -> ServerSecret {
        ServerSecret::password(Secret::new(text))
    }

    fn refused(sqlstate: &'static str) -> ConnectError {
        ConnectError::Refused(Box::new(ErrorReport::fatal(sqlstate, "no")))
    }

    #[test]
    fn the_newest_goes_first_and_the_one_before_is_not_lost() {
        let login = Login::new("app", "app", Some(secret("old")));
        let old = login.opened(&login.now());
        login.adopt(Some(secret("new")));
        let new = login.now();
        assert_eq!(new.secret, Some(secret("new")));
        // The server says who is right.
        assert_eq!(login.instead(&new, &refused("28P01")).unwrap().secret, Some(secret("old")));
        assert!(login.instead(&new, &refused("53300")).is_none());
        let newer = login.opened(&new);
        assert_eq!(login.number(), newer);
        assert_ne!(newer, old, "what was opened before may be another's");
        login.adopt(Some(secret("stale")));
        let stale = login.now();
        assert_ne!(login.number(), newer, "to be tried");
        let instead = login.instead(&stale, &refused("28P01")).unwrap();
        assert_eq!((login.opened(&instead), login.number()), (newer, newer));
        assert_eq!(login.now().secret, Some(secret("new")), "it goes first again");
        // One who opens servers meanwhile tries the newest.
        assert_eq!(login.instead(&stale, &refused("28P01")).unwrap().secret, Some(secret("new")));
        login.adopt(Some(secret("new")));
        assert_eq!(login.opened(&login.now()), newer);
    }

    #[test]
    fn who_has_shown_nothing_takes_nothing_away() {
        let login = Login::new("app", "app", None);
        login.adopt(Some(secret("one")));
        login.adopt(None);
        login.adopt(Some(secret("one")));
        assert_eq!(login.now().secret, Some(secret("one")));
        assert!(
            login.instead(&login.now(), &refused("28P01")).is_none(),
            "nothing was there before"
        );
    }
}

//! What a session's statements mean to the servers of others: those about roles and databases.
//!
//! Owns when servers are closed for it. What a statement about a role has changed counts once its transaction has
//! ended well, and for the servers of that role alone. CREATE, ALTER and DROP DATABASE may need a database without
//! connections before they run, so its idle servers are closed and its catalog is left beforehand, for a user whose
//! last such statement was not in vain: nobody is to disturb others again and again by what fails.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::driver::Session;
use super::step::Disturbance;
use crate::sql::subject::Subject;

/// For so long no way is made for a user whose statement has failed: PostgreSQL itself waits for five seconds until
/// a database is free, and who repeats what failed is as a rule not allowed to do it.
const IN_VAIN: Duration = Duration::from_secs(30);
/// Users that are remembered for it.
const MOST: usize = 1000;

/// Who has of late asked in vain for a database without connections.
#[derive(Debug, Default)]
pub struct Vain(Mutex<HashMap<Box<str>, Instant>>);

impl Vain {
    fn is_heard(&self, user: &str, now: Instant) -> bool {
        self.0.lock().get(user).is_none_or(|since| now.duration_since(*since) >= IN_VAIN)
    }

    fn note(&self, user: &str, now: Instant) {
        let mut users = self.0.lock();
        if users.len() >= MOST {
            users.retain(|_, since| now.duration_since(*since) < IN_VAIN);
        }
        if users.len() < MOST {
            users.insert(user.into(), now);
        }
    }
}

impl Session {
    /// Before a statement that may need its database without connections, or that is about roles: whoever logs in
    /// when its client has heard the answer must not be judged by what was known before, and the answer may be
    /// there before this session has taken note of it.
    pub(super) fn make_way(&self) {
        if let Some(roles) = &self.eyes.rules.roles {
            for name in self.machine.disturbed() {
                roles.forget(name);
            }
        }
        let Some(script) = self.machine.disturbing() else { return };
        if let Some(roles) = &self.eyes.rules.roles
            && script.statements.iter().any(|one| one.verb.ends_with(" ROLE"))
        {
            let names = script.statements.iter().flat_map(|one| &one.identifiers);
            names.map(|name| &**name).chain([&*self.account.user]).for_each(|name| {
                roles.forget(Some(name));
            });
        }
        if !self.shared.vain.is_heard(&self.account.user, Instant::now()) {
            return;
        }
        for statement in script.statements.iter().filter(|one| one.verb.ends_with("DATABASE")) {
            let names = &statement.identifiers;
            let template = (statement.verb == "CREATE DATABASE").then_some("template1");
            self.shared.pools.retire(|account| {
                names.contains(&Box::from(&*account.database))
                    || template.is_some_and(|template| template == &*account.database)
            });
            for name in names {
                self.shared.catalogs.leave(name);
            }
        }
    }

    /// After a request: servers that began with what has changed are closed, those on loan as they come back.
    pub(super) fn settle_disturbances(&mut self) {
        self.note_vain();
        for Disturbance { verb, subject, .. } in self.machine.take_disturbances() {
            let name = match &subject {
                Subject::Named(name) => Some(&**name),
                Subject::Own => {
                    let role = self.eyes.options.role.as_deref().filter(|role| *role != "none");
                    Some(role.unwrap_or(&self.account.user))
                }
                Subject::All => None,
            };
            let is_it = |other: &str| name.is_none_or(|name| name == other);
            if verb.ends_with("DATABASE") {
                self.shared.pools.retire(|account| is_it(&account.database));
                continue;
            }
            if matches!(verb, "ALTER ROLE" | "DROP ROLE") {
                self.shared.pools.retire(|account| is_it(&account.user));
            }
            if let Some(roles) = &self.eyes.rules.roles {
                roles.forget(name);
            }
        }
    }

    /// Takes note if way was made, and what it was made for has failed. A database in use (55006) is told of only to
    /// who may do the rest; of one that does not exist DROP has disturbed nothing.
    fn note_vain(&self) {
        let (Some(script), Some(lease)) = (self.machine.disturbing(), &self.lease) else { return };
        let Some(sqlstate) = lease.responses.failed_with() else { return };
        let disturbs = |verb: &str| match &sqlstate {
            b"55006" => false,
            b"3D000" => verb.ends_with("DATABASE") && verb != "DROP DATABASE",
            _ => verb.ends_with("DATABASE"),
        };
        if script.statements.iter().any(|statement| disturbs(statement.verb)) {
            self.shared.vain.note(&self.account.user, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_in_vain_is_not_heard_for_a_while() {
        let (vain, now) = (Vain::default(), Instant::now());
        assert!(vain.is_heard("app", now));
        vain.note("app", now);
        assert!(!vain.is_heard("app", now + IN_VAIN / 2) && vain.is_heard("other", now));
        assert!(vain.is_heard("app", now + IN_VAIN));
        for number in 0..2 * MOST {
            vain.note(&number.to_string(), now);
        }
        assert!(vain.0.lock().len() <= MOST);
    }
}

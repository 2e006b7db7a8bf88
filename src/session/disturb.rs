//! What a session's statements mean to the servers of others: those about roles and databases.
//!
//! Owns when servers are closed for it. What a statement about a role has changed counts once its transaction has
//! ended well, and for the servers of that role alone, and only if they would begin differently now. CREATE, ALTER and
//! DROP DATABASE may need a database without connections before they run, so its idle servers are closed and its catalog
//! is left beforehand, for a user whose last such statement about it was not in vain: nobody is to disturb others again
//! and again by what fails.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::driver::Session;
use super::machine::Machine;
use super::step::{Disturbance, Disturbances};
use crate::sql::statement::Statement;
use crate::sql::subject::Subject;

/// For so long no way is made for a user whose statement has failed: PostgreSQL itself waits for five seconds until
/// a database is free, and who repeats what failed is as a rule not allowed to do it.
const IN_VAIN: Duration = Duration::from_secs(30);
/// Users that are remembered for it.
const MOST: usize = 1000;
/// Databases of one user; who has so many is not heard of any.
const MOST_OF_ONE: usize = 64;

/// Who has of late asked in vain for which database without connections.
#[derive(Debug, Default)]
pub struct Vain(Mutex<HashMap<Box<str>, Databases>>);

/// And when.
type Databases = Vec<(Box<str>, Instant)>;

impl Vain {
    fn is_heard(&self, user: &str, database: &str, now: Instant) -> bool {
        let users = self.0.lock();
        let all = users.get(user).map(|all| &all[..]).unwrap_or_default();
        let fresh = || all.iter().filter(|(_, since)| is_fresh(*since, now));
        fresh().count() < MOST_OF_ONE && fresh().all(|(name, _)| **name != *database)
    }

    fn note<'a>(&self, user: &str, databases: impl Iterator<Item = &'a str>, now: Instant) {
        let mut users = self.0.lock();
        if users.len() >= MOST {
            users.retain(|_, all| all.iter().any(|(_, since)| is_fresh(*since, now)));
        }
        if users.len() >= MOST && !users.contains_key(user) {
            return;
        }
        let all = users.entry(user.into()).or_default();
        for database in databases {
            all.retain(|(name, since)| is_fresh(*since, now) && **name != *database);
            if all.len() < MOST_OF_ONE {
                all.push((database.into(), now));
            }
        }
    }
}

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < IN_VAIN
}

/// The databases that a statement may want without connections. What CREATE makes is not there yet; what it copies is
/// named after it, or is the usual template.
fn wanted(statement: &Statement) -> impl Iterator<Item = &str> {
    let creates = statement.verb == "CREATE DATABASE";
    // In order of appearance, and the word DATABASE may be a name for all that is known there.
    let made = if creates { 2 } else { 0 };
    let names = statement.identifiers.iter().skip(made).map(|name| &**name);
    names.chain(creates.then_some("template1")).filter(|_| statement.verb.ends_with("DATABASE"))
}

/// Whether a failure with this code shows that no way should have been made. Who is told that the database is in use
/// (55006) or that there is one of that name (42P04) may do the rest; of one that does not exist DROP disturbs nothing.
fn was_in_vain(statement: &Statement, sqlstate: [u8; 5]) -> bool {
    match &sqlstate {
        b"55006" | b"42P04" => false,
        b"3D000" => statement.verb != "DROP DATABASE",
        _ => true,
    }
}

impl Disturbances {
    /// Whoever was meant by its own role is meant by name from here on: by the user's, and by that of the role in force,
    /// for which of the two it was depends on the words.
    fn name_own(&mut self, user: &str, role: Option<&str>) {
        for at in 0..self.0.len() {
            let one = &mut self.0[at];
            if one.subject != Subject::Own {
                continue;
            }
            one.subject = Subject::Named(user.into());
            let (verb, begins, settled) = (one.verb, one.begins, one.settled);
            if let Some(role) = role {
                let subject = Subject::Named(role.into());
                self.0.push(Disturbance { verb, subject, begins, settled });
            }
        }
    }
}

impl Machine {
    /// What has been done to roles and databases since the last time, as far as its transactions have ended well.
    fn take_disturbances(&mut self, user: &str, role: Option<&str>) -> Vec<Disturbance> {
        let Some(mut all) = self.disturbances.take() else { return Vec::new() };
        all.name_own(user, role);
        let (settled, open): (Vec<_>, Vec<_>) = all.0.into_iter().partition(|one| one.settled);
        self.disturbances = (!open.is_empty()).then(|| Box::new(Disturbances(open)));
        settled
    }

    /// Whom the transaction under way has done something to, if this request may end it; all, where that cannot be told.
    /// Before then nobody sees it, and a transaction that goes on and on makes nobody forget anything.
    pub fn about_to_settle(&self) -> impl Iterator<Item = Option<&str>> {
        let may_end = self.asks.commits || self.client_status() != b'T';
        let all = self.disturbances.iter().filter(move |_| may_end).flat_map(|all| &all.0);
        all.map(|one| match &one.subject {
            Subject::Named(name) => Some(&**name),
            Subject::Own | Subject::All => None,
        })
    }

    /// A transaction has ended: what it did to roles and databases counts, or is forgotten.
    pub(super) fn settle(&mut self, committed: bool) {
        if let Some(all) = &mut self.disturbances {
            all.0.retain(|one| committed || one.settled);
            all.0.iter_mut().for_each(|one| one.settled = true);
        }
    }
}

impl Session {
    /// Before a statement that may need its database without connections, or that is about roles: whoever logs in
    /// when its client has heard the answer must not be judged by what was known before, and the answer may be
    /// there before this session has taken note of it.
    pub(super) fn make_way(&self) {
        if let Some(roles) = &self.eyes.rules.roles {
            for name in self.machine.about_to_settle() {
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
        let now = Instant::now();
        let heard = |name: &&str| self.shared.vain.is_heard(&self.account.user, name, now);
        for statement in &script.statements {
            let names: Vec<&str> = wanted(statement).filter(heard).collect();
            if names.is_empty() {
                continue;
            }
            self.shared.pools.retire(|account| names.contains(&&*account.database));
            for name in names {
                self.shared.catalogs.leave(name);
            }
        }
    }

    /// After a request: servers that began with what has changed are closed, those on loan as they come back.
    pub(super) fn settle_disturbances(&mut self) {
        self.note_vain();
        let user = &self.account.user;
        let role = self.eyes.options.role.as_deref();
        let role = role.filter(|role| *role != "none" && **role != **user);
        for Disturbance { verb, subject, begins, .. } in self.machine.take_disturbances(user, role)
        {
            let name = match &subject {
                Subject::Named(name) => Some(&**name),
                Subject::Own | Subject::All => None,
            };
            let is_it = |other: &str| name.is_none_or(|name| name == other);
            if verb.ends_with("DATABASE") {
                self.shared.pools.retire(|account| is_it(&account.database));
                continue;
            }
            if begins && verb != "CREATE ROLE" {
                self.shared.pools.retire(|account| is_it(&account.user));
            }
            if let Some(roles) = &self.eyes.rules.roles {
                roles.forget(name);
            }
        }
    }

    /// Takes note if way was made, and what it was made for has failed.
    fn note_vain(&self) {
        let (Some(script), Some(lease)) = (self.machine.disturbing(), &self.lease) else { return };
        let Some(sqlstate) = lease.responses.failed_with() else { return };
        let failed = script.statements.iter().filter(|one| was_in_vain(one, sqlstate));
        for statement in failed.filter(|one| one.verb.ends_with("DATABASE")) {
            self.shared.vain.note(&self.account.user, wanted(statement), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyze;
    use crate::sql::statement::Lexis;

    #[test]
    fn who_asks_in_vain_is_not_heard_for_a_while() {
        let (vain, now) = (Vain::default(), Instant::now());
        let note = |user: &str, database: &str| vain.note(user, [database].into_iter(), now);
        assert!(vain.is_heard("app", "one", now));
        note("app", "one");
        assert!(!vain.is_heard("app", "one", now + IN_VAIN / 2));
        assert!(vain.is_heard("app", "two", now) && vain.is_heard("other", "one", now));
        assert!(vain.is_heard("app", "one", now + IN_VAIN));
        for number in 0..2 * MOST_OF_ONE {
            note("app", &number.to_string());
        }
        assert!(!vain.is_heard("app", "two", now), "too many in vain");
        assert!(vain.is_heard("app", "two", now + IN_VAIN));
        for number in 0..2 * MOST {
            note(&number.to_string(), "one");
        }
        assert!(vain.0.lock().len() <= MOST);
    }

    #[test]
    fn ones_own_role_is_the_users_and_the_one_in_force() {
        let one =
            |subject| Disturbance { verb: "ALTER ROLE", subject, begins: true, settled: true };
        let named = |name: &str| Subject::Named(name.into());
        for (role, expected) in [
            (None, &[named("other"), named("app")][..]),
            (Some("owner"), &[named("other"), named("app"), named("owner")]),
        ] {
            let mut all = Disturbances(vec![one(named("other")), one(Subject::Own)]);
            all.name_own("app", role);
            all.name_own("somebody", Some("else"));
            assert!(all.0.iter().all(|one| one.settled && one.begins));
            assert_eq!(all.0.into_iter().map(|one| one.subject).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_is_wanted_without_connections_and_when_that_was_in_vain() {
        for (text, expected, code, in_vain) in [
            ("CREATE DATABASE one", &["template1"][..], b"42P04", false),
            ("CREATE DATABASE one TEMPLATE two", &["two", "template1"], b"3D000", true),
            ("CREATE DATABASE one TEMPLATE two", &["two", "template1"], b"42501", true),
            ("DROP DATABASE one", &["one"], b"42501", true),
            ("DROP DATABASE one", &["one"], b"3D000", false),
            ("DROP DATABASE one", &["one"], b"55006", false),
            ("DROP DATABASE one", &["one"], b"25001", true),
            ("ALTER DATABASE one RENAME TO two", &["one", "two"], b"3D000", true),
            ("DROP ROLE one", &[], b"42501", true),
        ] {
            let script = analyze(text.as_bytes(), Lexis::default());
            let [statement] = &script.statements[..] else { panic!("{text}") };
            let wanted: Vec<_> = wanted(statement).collect();
            for name in expected {
                assert!(wanted.contains(name), "{text}: {wanted:?}");
            }
            let ones = wanted.contains(&"one");
            assert!(!text.starts_with("CREATE") || !ones, "{text}: {wanted:?}");
            assert!(!expected.is_empty() || wanted.is_empty(), "{text}: {wanted:?}");
            assert_eq!(was_in_vain(statement, *code), in_vain, "{text}");
        }
    }
}

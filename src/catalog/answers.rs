//! What was last heard of roles: those that exist, and names that do not.
//!
//! Owns for how long an answer counts, and how many are kept. The two kinds are kept apart: anybody can think of names,
//! and is not to drive out those that mean something.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::role::Role;

/// Answers of each kind that are kept.
const MOST: usize = 10_000;
/// A login that fails forgets an answer only if it is older: whoever floods is not to make each of its
/// attempts a query.
const LEAST_KEEP: Duration = Duration::from_secs(1);

/// What is known of a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Its role.
    Role(Arc<Role>),
    /// There is none.
    Absent,
}

impl Answer {
    /// The role, if there is one.
    pub fn role(self) -> Option<Arc<Role>> {
        match self {
            Self::Role(role) => Some(role),
            Self::Absent => None,
        }
    }
}

/// The answers.
#[derive(Debug)]
pub struct Answers {
    keep: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    roles: HashMap<Box<str>, (Arc<Role>, Instant)>,
    absent: HashMap<Box<str>, Instant>,
}

impl Answers {
    /// None yet; each counts for so long.
    pub fn new(keep: Duration) -> Self {
        Self { keep, state: Mutex::default() }
    }

    /// What is known of that name: `None` if nothing is. An answer that came after `since` counts however short it
    /// is kept: whoever has waited for it wants no other.
    pub fn get(&self, name: &str, since: Instant) -> Option<Answer> {
        let state = self.state.lock();
        let counts = |at: &Instant| *at >= since || at.elapsed() < self.keep;
        if let Some((role, at)) = state.roles.get(name) {
            return counts(at).then(|| Answer::Role(role.clone()));
        }
        state.absent.get(name).filter(|at| counts(at)).map(|_| Answer::Absent)
    }

    /// Whether this is still the last that was heard of that name, however long ago.
    pub fn holds(&self, name: &str, role: Option<&Arc<Role>>) -> bool {
        let state = self.state.lock();
        match role {
            Some(role) => state.roles.get(name).is_some_and(|(now, _)| Arc::ptr_eq(now, role)),
            None => state.absent.contains_key(name),
        }
    }

    /// The database has answered.
    pub fn put(&self, name: &str, role: Option<Arc<Role>>, now: Instant) {
        let state = &mut *self.state.lock();
        if let Some(role) = role {
            state.absent.remove(name);
            make_room(&mut state.roles, |(_, at)| *at);
            state.roles.insert(name.into(), (role, now));
        } else {
            state.roles.remove(name);
            make_room(&mut state.absent, |at| *at);
            state.absent.insert(name.into(), now);
        }
    }

    /// A client has changed this role, or nobody knows which.
    pub fn forget(&self, name: Option<&str>) {
        let mut state = self.state.lock();
        match name {
            Some(name) => {
                state.roles.remove(name);
                state.absent.remove(name);
            }
            None => *state = State::default(),
        }
    }

    /// A login that relied on what is known of this role has failed.
    pub fn doubt(&self, name: &str) {
        let mut state = self.state.lock();
        let at = state.roles.get(name).map(|(_, at)| *at).or(state.absent.get(name).copied());
        if at.is_some_and(|at| at.elapsed() >= LEAST_KEEP) {
            state.roles.remove(name);
            state.absent.remove(name);
        }
    }
}

/// Forgets the older half where there is no room for one more.
fn make_room<V>(all: &mut HashMap<Box<str>, V>, at: impl Fn(&V) -> Instant) {
    if all.len() < MOST {
        return;
    }
    let mut times: Vec<_> = all.values().map(&at).collect();
    let (_, middle, _) = times.select_nth_unstable(MOST / 2);
    let middle = *middle;
    let mut surplus = MOST / 2;
    all.retain(|_, value| {
        let goes = surplus > 0 && at(value) <= middle;
        surplus -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn role() -> Arc<Role> {
        Arc::new(Role { kept: None, valid_until: None, can_login: true })
    }

    #[test]
    fn names_that_do_not_exist_drive_nobody_out() {
        let (answers, now) = (Answers::new(KEEP), Instant::now());
        answers.put("app", Some(role()), now);
        for number in 0..3 * MOST {
            answers.put(&format!("x{number}"), None, now);
        }
        assert!(matches!(answers.get("app", now), Some(Answer::Role(_))));
        let last = format!("x{}", 3 * MOST - 1);
        assert!(matches!(answers.get(&last, now), Some(Answer::Absent)));
        assert!(answers.state.lock().absent.len() <= MOST);
        for number in 0..3 * MOST {
            answers.put(&format!("y{number}"), Some(role()), now);
        }
        assert!(answers.state.lock().roles.len() <= MOST);
    }

    #[test]
    fn an_answer_counts_for_a_while_and_for_who_has_waited_for_it() {
        let (answers, now) = (Answers::new(Duration::ZERO), Instant::now());
        answers.put("app", Some(role()), now);
        assert!(answers.get("app", now).is_some());
        assert!(answers.get("app", now + LEAST_KEEP).is_none());
        let answers = Answers::new(KEEP);
        for (name, found) in [("app", Some(role())), ("nobody", None)] {
            answers.put(name, found, now);
            answers.doubt(name);
            assert!(answers.get(name, now + LEAST_KEEP).is_some(), "too young to be doubted");
            let Some(earlier) = now.checked_sub(LEAST_KEEP) else { return };
            answers.put(name, None, earlier);
            assert!(answers.holds(name, None) && !answers.holds(name, Some(&role())));
            answers.doubt(name);
            assert!(answers.get(name, now).is_none() && !answers.holds(name, None));
        }
        answers.put("one", Some(role()), now);
        answers.put("two", None, now);
        answers.forget(Some("one"));
        assert!(answers.get("one", now).is_none() && answers.get("two", now).is_some());
        answers.forget(None);
        assert!(answers.get("two", now).is_none());
    }
}

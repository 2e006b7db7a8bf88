//! A session's settings, with the semantics of transactions.
//!
//! Owns what the session has set, what it had set when the transaction and each savepoint began,
//! and what it gets back on RESET. SET and RESET are followed exactly; what cannot be followed from
//! outside (`set_config`, DO ...) is read back from the server when the transaction has ended, and
//! replaces what is here.
//!
//! A custom setting (`app.user`) that was ever set in a session exists there to its end, empty where
//! it has no value: neither rollback nor RESET makes it unknown again. So must it on every server.

use bytes::Bytes;

use crate::server::Laid;

/// Settings of a start-up packet: names in lower case, and values as they came.
pub type Start = Vec<(Box<str>, Box<str>)>;

/// The settings of one session.
#[derive(Debug, Default)]
pub struct SessionSettings {
    /// From the start-up packet: name and value, as they came.
    start: Start,
    /// What RESET goes back to: the start-up packet's, and every custom setting ever set, empty.
    floor: Laid,
    /// As of the last end of a transaction.
    committed: Laid,
    /// As of now, inside the transaction.
    current: Laid,
    /// The same with what of Causeway's own was set for the transaction only.
    local: Option<Box<Laid>>,
    savepoints: Vec<(Box<str>, Laid, Option<Box<Laid>>)>,
}

impl SessionSettings {
    /// The settings that a start-up packet asks for, as names in lower case and values; of a name
    /// that comes twice the later value counts.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let floor = start
            .iter()
            .fold(Laid::default(), |laid, (name, value)| laid.with_value(name, &**value));
        let (committed, current) = (floor.clone(), floor.clone());
        Self { start, floor, committed, current, local: None, savepoints: Vec::new() }
    }

    /// Keeps this copy of what a session that has just begun has laid, which others keep as well.
    pub fn share(&mut self, same: &Laid) {
        debug_assert_eq!(self.floor, *same);
        (self.floor, self.committed, self.current) = (same.clone(), same.clone(), same.clone());
    }

    /// What RESET goes back to.
    #[must_use]
    pub fn floor(&self) -> &Laid {
        &self.floor
    }

    /// What a server must have laid before the session's next transaction begins.
    #[must_use]
    pub fn committed(&self) -> &Laid {
        &self.committed
    }

    /// What holds now.
    #[must_use]
    pub fn current(&self) -> &Laid {
        &self.current
    }

    /// The same as Causeway itself is to read it: with what SET LOCAL has set.
    #[must_use]
    pub fn effective(&self) -> &Laid {
        self.local.as_deref().unwrap_or(&self.current)
    }

    /// The value of the start-up packet that RESET of this name goes back to, if it named it.
    #[must_use]
    pub fn start_value(&self, name: &str) -> Option<&str> {
        self.start.iter().rev().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    /// Every setting that the start-up packet named.
    pub fn start_names(&self) -> impl Iterator<Item = &str> {
        self.start.iter().map(|(name, _)| &**name)
    }

    /// Whether a custom setting exists in the session, if only empty.
    #[must_use]
    pub fn exists(&self, custom: &str) -> bool {
        self.floor.statement(custom).is_some()
    }

    /// A custom setting came into being, by whatever statement.
    pub fn touch(&mut self, name: &str) {
        if !name.contains('.') || self.exists(name) {
            return;
        }
        self.floor = self.floor.with_value(name, "");
        let snapshots = self.savepoints.iter_mut().map(|(_, laid, _)| laid);
        for laid in snapshots.chain([&mut self.committed, &mut self.current]) {
            if laid.statement(name).is_none() {
                *laid = laid.with_value(name, "");
            }
        }
    }

    /// A custom setting does not exist any more: a library has taken its prefix.
    pub fn forget(&mut self, name: &str) {
        self.start.retain(|(known, _)| &**known != name);
        let snapshots = self.savepoints.iter_mut().map(|(_, laid, _)| laid);
        for laid in snapshots.chain([&mut self.floor, &mut self.committed, &mut self.current]) {
            *laid = laid.without(name);
        }
    }

    /// A SET (not SET LOCAL) of `name` succeeded; `statement` is its text.
    pub fn set(&mut self, name: &str, statement: Bytes) {
        self.touch(name);
        if let Some(local) = &mut self.local {
            **local = local.with(name, statement.clone());
        }
        self.current = self.current.with(name, statement);
    }

    /// SET LOCAL of one of Causeway's own settings succeeded: it ends with the transaction. `None`: to its
    /// default.
    pub fn set_local(&mut self, name: &str, statement: Option<Bytes>) {
        self.touch(name);
        if let Some(statement) = statement.or_else(|| self.floor.statement(name).cloned()) {
            self.local = Some(Box::new(self.effective().with(name, statement)));
        }
    }

    /// RESET of `name` succeeded, or what means the same.
    pub fn reset(&mut self, name: &str) {
        if name == "session_authorization" {
            self.current = self.current.without("role");
        }
        let reset = |laid: &Laid| match self.floor.statement(name) {
            Some(statement) => laid.with(name, statement.clone()),
            None => laid.without(name),
        };
        self.current = reset(&self.current);
        self.local = self.local.as_deref().map(|local| Box::new(reset(local)));
    }

    /// RESET ALL succeeded: all but the rights of the session.
    pub fn reset_all(&mut self) {
        let before = self.current.clone();
        self.local = None;
        self.current = self.floor.clone();
        for name in ["session_authorization", "role"] {
            if let Some(statement) = before.statement(name) {
                self.current = self.current.with(name, statement.clone());
            }
        }
    }

    /// DISCARD ALL succeeded.
    pub fn discard(&mut self) {
        self.local = None;
        self.current = self.floor.clone();
    }

    /// The name of the transaction's last savepoint.
    #[must_use]
    pub fn last_savepoint(&self) -> Option<&str> {
        self.savepoints.last().map(|(name, ..)| &**name)
    }

    /// SAVEPOINT succeeded.
    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.into(), self.current.clone(), self.local.clone()));
    }

    /// ROLLBACK TO succeeded.
    pub fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.find(name) {
            let (_, current, local) = &self.savepoints[at];
            (self.current, self.local) = (current.clone(), local.clone());
            self.savepoints.truncate(at + 1);
        }
    }

    /// RELEASE succeeded.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.find(name) {
            self.savepoints.truncate(at);
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.savepoints.iter().rposition(|(savepoint, ..)| &**savepoint == name)
    }

    /// The transaction ended.
    pub fn end_transaction(&mut self, committed: bool) {
        self.savepoints.clear();
        self.local = None;
        if committed {
            self.committed = self.current.clone();
        } else {
            self.current = self.committed.clone();
        }
    }

    /// What a server said is set, at the end of a transaction: replaces all that was followed. What
    /// the start-up packet set and the server no longer has was RESET, and comes back.
    pub fn replace(&mut self, on_server: &Laid) {
        for (name, _) in on_server.iter() {
            self.touch(name);
        }
        let mut laid = on_server.clone();
        for (name, statement) in self.floor.iter() {
            if laid.statement(name).is_none() {
                laid = laid.with(name, statement.clone());
            }
        }
        self.committed = laid.clone();
        self.current = laid;
        self.local = None;
        self.savepoints.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionSettings {
        SessionSettings::new(vec![("timezone".into(), "UTC".into())])
    }

    fn set(settings: &mut SessionSettings, name: &str, value: &str) {
        settings.set(name, crate::server::laid::statement_for(name, value));
    }

    #[test]
    fn a_rolled_back_set_is_undone() {
        let mut settings = session();
        set(&mut settings, "timezone", "CET");
        settings.end_transaction(false);
        assert_eq!(settings.committed(), &Laid::default().with_value("timezone", "UTC"));
        set(&mut settings, "timezone", "CET");
        settings.end_transaction(true);
        assert_eq!(settings.committed(), &Laid::default().with_value("timezone", "CET"));
    }

    #[test]
    fn savepoints_nest_and_shadow() {
        let mut settings = session();
        settings.savepoint("a");
        set(&mut settings, "x.y", "1");
        settings.savepoint("a");
        set(&mut settings, "x.y", "2");
        settings.rollback_to("a");
        assert_eq!(&settings.current().statement("x.y").unwrap()[..], b"SET \"x\".\"y\" TO '1'");
        settings.release("a");
        settings.rollback_to("a");
        assert_eq!(&settings.current().statement("x.y").unwrap()[..], b"SET \"x\".\"y\" TO ''");
        settings.rollback_to("unknown");
        settings.end_transaction(true);
        let expected = Laid::default().with_value("timezone", "UTC").with_value("x.y", "");
        assert_eq!(settings.committed(), &expected);
    }

    #[test]
    fn reset_goes_back_to_the_start_up_packet_and_never_makes_unknown() {
        let mut settings = session();
        for name in ["timezone", "x.y", "work_mem", "role"] {
            set(&mut settings, name, "1");
        }
        settings.reset("timezone");
        settings.reset("work_mem");
        let expected = Laid::default()
            .with_value("timezone", "UTC")
            .with_value("x.y", "1")
            .with_value("role", "1");
        assert_eq!(settings.current(), &expected);
        settings.reset_all();
        let expected = expected.with_value("x.y", "");
        assert_eq!(settings.current(), &expected);
        settings.discard();
        assert_eq!(settings.current(), &expected.without("role"));
        settings.end_transaction(false);
        assert_eq!(settings.current(), &expected.without("role"));
    }

    #[test]
    fn the_authorization_takes_the_role_with_it() {
        let mut settings = SessionSettings::default();
        set(&mut settings, "role", "a");
        set(&mut settings, "session_authorization", "b");
        set(&mut settings, "role", "c");
        settings.reset("session_authorization");
        assert_eq!(settings.current(), &Laid::default());
    }

    #[test]
    fn what_was_reset_on_the_server_falls_back_to_the_start_up_packet() {
        let mut settings = session();
        settings.replace(&Laid::default().with_value("x.y", "1"));
        let expected = Laid::default().with_value("x.y", "1").with_value("timezone", "UTC");
        assert_eq!(settings.committed(), &expected);
    }
}

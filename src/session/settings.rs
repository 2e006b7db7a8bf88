//! A session's settings, with the semantics of transactions.
//!
//! Owns what the session has set, what it had set when the transaction and each savepoint began,
//! and what it gets back on RESET. A plain SET is followed exactly; what cannot be followed from
//! outside (set_config, RESET beside start-up parameters, DO ...) is read back from the server when
//! the transaction has ended, and replaces what is here.

use bytes::Bytes;

use crate::server::Laid;

/// The settings of one session.
#[derive(Debug, Default)]
pub struct SessionSettings {
    /// From the start-up packet: what RESET goes back to.
    base: Laid,
    /// As of the last end of a transaction.
    committed: Laid,
    /// As of now, inside the transaction.
    current: Laid,
    savepoints: Vec<(Box<str>, Laid)>,
}

impl SessionSettings {
    /// The settings that a start-up packet asks for.
    #[must_use]
    pub fn new(base: Laid) -> Self {
        Self { committed: base.clone(), current: base.clone(), base, savepoints: Vec::new() }
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

    /// What the start-up packet asked for.
    #[must_use]
    pub fn base(&self) -> &Laid {
        &self.base
    }

    /// A SET (not SET LOCAL) of `name` succeeded; `statement` is its text.
    pub fn set(&mut self, name: &str, statement: Bytes) {
        self.current = self.current.with(name, statement);
    }

    /// SAVEPOINT succeeded.
    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.into(), self.current.clone()));
    }

    /// ROLLBACK TO succeeded.
    pub fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.find(name) {
            self.current = self.savepoints[at].1.clone();
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
        self.savepoints.iter().rposition(|(savepoint, _)| &**savepoint == name)
    }

    /// The transaction ended.
    pub fn end_transaction(&mut self, committed: bool) {
        self.savepoints.clear();
        if committed {
            self.committed = self.current.clone();
        } else {
            self.current = self.committed.clone();
        }
    }

    /// What a server said is set, at the end of a transaction: replaces all that was followed. What
    /// the start-up packet set and the server no longer has was RESET, and comes back.
    pub fn replace(&mut self, on_server: &Laid) {
        let mut laid = on_server.clone();
        for (name, statement) in self.base.iter() {
            if laid.statement(name).is_none() {
                laid = laid.with(name, statement.clone());
            }
        }
        self.committed = laid.clone();
        self.current = laid;
        self.savepoints.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionSettings {
        SessionSettings::new(Laid::default().with_value("timezone", "UTC"))
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
        assert_eq!(settings.current().statement("x.y"), None);
        settings.rollback_to("unknown");
        settings.end_transaction(true);
        assert_eq!(settings.committed(), &Laid::default().with_value("timezone", "UTC"));
    }

    #[test]
    fn what_was_reset_on_the_server_falls_back_to_the_start_up_packet() {
        let mut settings = session();
        settings.replace(&Laid::default().with_value("x.y", "1"));
        let expected = Laid::default().with_value("x.y", "1").with_value("timezone", "UTC");
        assert_eq!(settings.committed(), &expected);
    }
}

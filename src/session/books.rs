//! The session's books: what the answers of a server change in them.
//!
//! A statement is believed only when its answer has come, and a setting only when its transaction
//! has ended well. What cannot be followed from outside is left to the audit.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::audit::{Findings, Suspicion, custom_names, names_settings};
use super::lend::executes_only;
use super::machine::{Machine, changes};
use super::phase::Phase;
use super::pins::{Pin, Pins};
use super::relocation;
use super::step::{After, Book, Disturbance};
use crate::protocol::ErrorReport;
use crate::protocol::response::{Event, Responses};
use crate::server::ServerConn;
use crate::server::conn::Sequences;
use crate::sql::is_transaction_mode;
use crate::sql::statement::{Class, Lexis, SessionEffect, Statement, Transaction};
use crate::sql::{self, Script};

/// What stands in the place of a book that is done with.
const DONE: u64 = 0;

impl Machine {
    /// What was to be closed or discarded at the server and was not, since an error came first, is still
    /// there.
    pub(super) fn close_books(&mut self, server: &mut ServerConn) {
        for book in self.books.drain(..) {
            match book {
                Book::Gone(number) => server.prepared.insert(number),
                // A Parse that failed has left no unnamed statement.
                Book::Unnamed(hash) if hash != DONE => self.statements.unnamed.clear(),
                Book::Discard => {
                    self.sequences_at = Weak::new();
                    server.sequences = Sequences::Unknown;
                }
                _ => {}
            }
        }
        self.pending.clear();
    }

    /// The server refused the request, which is composed anew for another: only what was prepared
    /// and closed on this one before the refusal counts.
    pub fn on_refused(&mut self, server: &mut ServerConn) {
        for event in server.responses.events() {
            let Event::Done(tag) = event else { continue };
            let Some(book) = self.books.get_mut(tag as usize) else { continue };
            match std::mem::replace(book, Book::Unnamed(DONE)) {
                Book::Named(_, prepared) => server.prepared.insert(prepared.number),
                Book::Here(number) => server.prepared.insert(number),
                Book::Gone(number) => server.prepared.remove(number),
                Book::Unnamed(_)
                | Book::Closed(_)
                | Book::Executed(..)
                | Book::Lent(..)
                | Book::Discard
                | Book::Ending => {}
            }
        }
        self.settle_lending(true, server);
        self.close_books(server);
    }

    /// An exchange has come to its end with the server's ReadyForQuery.
    pub fn on_ready(&mut self, server: &mut ServerConn, on_replica: bool) -> After {
        if server.responses.status() != b'I' {
            self.open(on_replica);
        }
        let events: Vec<Event> = server.responses.events().collect();
        for event in events {
            match event {
                Event::Parameter(name, value) => self.on_parameter(&name, &value),
                Event::Done(tag) => self.on_done(tag as usize, server),
            }
        }
        self.close_books(server);
        self.settle_lending(server.responses.failed(), server);
        self.redefined |= server.responses.stale_plan();
        if let Some((script, text)) = self.running.take() {
            if !self.ascii_safe {
                self.suspect = true;
            } else if server.responses.failed() && script.statements.len() == 1 {
                self.suspect |= changes(&script);
            } else {
                self.apply_first(server.responses.completed(), &script, &text, server);
                // What was set before and after a border between transactions, the server knows.
                let border = |(at, statement): (usize, &Statement)| {
                    let begins = matches!(statement.transaction, Some(Transaction::Begin(_)));
                    statement.transaction.is_some() && !(at == 0 && begins)
                };
                self.suspect |=
                    script.statements.iter().enumerate().any(border) && script.statements.len() > 1;
            }
        }
        if server.responses.status() != b'I' {
            return After::Keep;
        }
        self.end_transaction(server)
    }

    pub(super) fn end_transaction(&mut self, server: &mut ServerConn) -> After {
        self.phase = Phase::Idle;
        self.portals.clear();
        let committed = !ended_in_rollback(&server.responses);
        self.settings.end_transaction(committed);
        self.settle(committed);
        server.set_applied(self.settings.committed());
        self.suspicion.firm |= std::mem::take(&mut self.suspect) || self.pins.has(Pin::Opaque);
        if self.suspicion.firm || self.suspicion.opaque {
            After::Audit
        } else if self.pins.is_free() {
            After::Release
        } else {
            After::Keep
        }
    }

    /// What is to be asked of the server: the custom settings that the session has, and those that
    /// its last transaction named.
    pub fn take_suspicion(&mut self) -> Suspicion {
        let mut suspicion = std::mem::take(&mut self.suspicion);
        let known = self.settings.current().iter().map(|(name, _)| name);
        suspicion.custom.extend(known.filter(|name| name.contains('.')).map(Box::from));
        suspicion
    }

    /// What the server said when it was asked what is left on it. `None`: it could not be asked.
    pub fn on_audit(&mut self, findings: Option<Findings>, server: &mut ServerConn) -> After {
        match findings {
            Some(found) => {
                if found.own == 0 && !server.prepared.is_empty() {
                    // Code that nobody has read has said DEALLOCATE ALL.
                    self.forget_statements(server);
                } else if found.own != server.prepared.len() {
                    server.spoiled = true;
                }
                let by_hand = [Pin::SessionMode, Pin::Sequence, Pin::Load];
                let kept = by_hand.into_iter().filter(|pin| self.pins.has(*pin));
                let mut pins = found.pins;
                kept.for_each(|pin| pins.add(pin));
                // What a function has prepared nobody else can.
                if !found.prepared.iter().all(|name| server.lent.contains_key(name)) {
                    pins.add(Pin::Prepared);
                }
                if !self.ascii_safe && found.laid.depends_on_encoding() {
                    // Its bytes cannot be put between quotes.
                    pins.add(Pin::Opaque);
                }
                self.pins = pins;
                self.settings.replace(&found.laid);
                server.set_applied(&found.laid);
                server.set_applied(&found.on_server);
            }
            None => self.pins.add(Pin::Opaque),
        }
        if self.pins.is_free() { After::Release } else { After::Keep }
    }

    /// What was lent is at the server, or nobody knows.
    fn settle_lending(&mut self, failed: bool, server: &mut ServerConn) {
        for name in self.lending.drain(..) {
            if failed {
                server.lent.insert(name, 0);
            }
        }
    }

    /// The server is gone inside a transaction or between requests of a pinned session.
    pub fn on_server_lost(&mut self, in_transaction: bool) {
        self.books.clear();
        self.pending.clear();
        self.preparing = None;
        self.portals.clear();
        self.bound = false;
        self.running = None;
        self.lending.clear();
        self.suspect = false;
        self.settings.end_transaction(false);
        self.settle(false);
        let session_mode = self.pins.has(Pin::SessionMode);
        self.pins = Pins::default();
        if session_mode {
            self.pins.add(Pin::SessionMode);
        }
        self.phase = if in_transaction { Phase::Lost { untold: None } } else { Phase::Idle };
    }

    /// A setting could not be laid, or not be taken away. True if that is for its prefix, which a library
    /// has taken on that server: the session goes on without it.
    pub fn on_setting_refused(&mut self, report: &ErrorReport) -> bool {
        let name = report.message.split('"').nth(1).unwrap_or_default();
        let gone = report.sqlstate == "42602" && name.contains('.');
        if gone {
            self.settings.forget(name);
        }
        gone
    }

    /// What a server said while nothing was asked of it.
    pub fn on_overheard(&mut self, server: &mut ServerConn) {
        for event in server.responses.events() {
            if let Event::Parameter(name, value) = event {
                self.on_parameter(&name, &value);
            }
        }
    }

    pub(super) fn on_done(&mut self, tag: usize, server: &mut ServerConn) {
        let Some(book) = self.books.get_mut(tag) else { return };
        match std::mem::replace(book, Book::Unnamed(DONE)) {
            Book::Unnamed(hash) => server.unnamed = Some(hash),
            Book::Named(name, prepared) => {
                server.prepared.insert(prepared.number);
                self.statements.insert(name, prepared);
            }
            Book::Lent(name, prepared) => self.statements.insert(name, prepared),
            Book::Here(number) => server.prepared.insert(number),
            Book::Gone(number) => server.prepared.remove(number),
            Book::Closed(name) => {
                self.statements.remove(&name);
            }
            Book::Discard | Book::Ending => {}
            Book::Executed(script, text, bound) => {
                if bound.is_none() && relocation::sets_by_value(&script) {
                    self.stay();
                }
                if let Phase::Open { begun: Some(begun), .. } = &mut self.phase {
                    begun.values = bound;
                }
                self.apply_first(1, &script, &text, server);
            }
        }
    }

    /// So many of a script's statements have run.
    fn apply_first(
        &mut self,
        count: usize,
        script: &Arc<Script>,
        text: &Bytes,
        server: &mut ServerConn,
    ) {
        if let [only] = &script.statements[..] {
            return self.apply(only, script, text, server);
        }
        let ranges = sql::split(text, self.lexis);
        for (number, statement) in script.statements.iter().enumerate().take(count) {
            let part = ranges.get(number).filter(|_| ranges.len() == script.statements.len());
            let part = part.map_or_else(Bytes::new, |range| text.slice(range.clone()));
            self.apply(statement, script, &part, server);
        }
    }

    /// A statement ran: takes what it did to the session into the books.
    pub(super) fn apply(
        &mut self,
        statement: &Statement,
        script: &Arc<Script>,
        text: &Bytes,
        server: &mut ServerConn,
    ) {
        self.take_along(statement, text);
        if let Some(transaction) = &statement.transaction {
            match transaction {
                Transaction::Savepoint(name) => self.settings.savepoint(name),
                Transaction::RollbackTo(name) => {
                    self.failed = false;
                    self.settings.rollback_to(name);
                }
                // Another may begin before the server is ready.
                Transaction::Commit { .. } | Transaction::Rollback { .. } => {
                    let commits = matches!(transaction, Transaction::Commit { .. });
                    let failed = std::mem::take(&mut self.failed);
                    // Older minor releases do not take a COMMIT in a pipeline without BEGIN at its word.
                    self.suspect |= matches!(self.phase, Phase::Idle) && server.responses.failed();
                    self.settings.end_transaction(commits && !failed);
                    self.settle(commits && !failed);
                }
                Transaction::Release(name) => self.settings.release(name),
                Transaction::SetCharacteristics(_) => self.suspect = true,
                _ => {}
            }
        }
        self.note_class(statement);
        if statement.verb.ends_with(" ROLE") || statement.verb.ends_with(" DATABASE") {
            let subject = sql::subject::subject(text, self.lexis);
            let all = self.disturbances.get_or_insert_default();
            let begins = statement.verb != "ALTER ROLE"
                || sql::subject::changes_beginnings(text, self.lexis);
            all.0.push(Disturbance { verb: statement.verb, subject, begins, settled: false });
        }
        self.suspect |= matches!(statement.class, Class::Procedure | Class::Unknown)
            || !self.pins.is_free() && !matches!(statement.class, Class::Read | Class::Write);
        self.suspicion.opaque |= statement.class == Class::Procedure || script.is_unread();
        for effect in &statement.session {
            self.apply_effect(effect, statement, script, text, server);
        }
    }

    fn apply_effect(
        &mut self,
        effect: &SessionEffect,
        statement: &Statement,
        script: &Arc<Script>,
        text: &Bytes,
        server: &mut ServerConn,
    ) {
        match effect {
            SessionEffect::Set { name, local: true, to_default }
                if name.starts_with("causeway.") =>
            {
                self.settings.set_local(name, (!to_default).then(|| text.clone()));
            }
            SessionEffect::Set { name, local: true, .. } => self.settings.touch(name),
            SessionEffect::Set { name, .. } if is_transaction_mode(name) => {}
            SessionEffect::Reset(name) | SessionEffect::Set { name, to_default: true, .. } => {
                self.settings.reset(name);
                self.note_encoding(name);
            }
            SessionEffect::Set { name, .. } if means_the_same_elsewhere(name, text) => {
                self.settings.set(name, text.clone());
                self.note_encoding(name);
            }
            SessionEffect::Set { name, .. } => {
                self.settings.touch(name);
                self.suspect = true;
            }
            SessionEffect::ResetAll => self.settings.reset_all(),
            SessionEffect::DiscardAll | SessionEffect::DeallocateAll => {
                self.forget_statements(server);
                if *effect == SessionEffect::DiscardAll {
                    self.settings.discard();
                    self.pins.remove(Pin::Sequence);
                    self.forget_sequences(server);
                }
                self.suspect |= !self.pins.is_free();
            }
            SessionEffect::DiscardSequences => {
                self.pins.remove(Pin::Sequence);
                self.forget_sequences(server);
            }
            SessionEffect::SetConfig => {
                custom_names(text, &mut self.suspicion.custom);
                self.suspicion.opaque |= !names_settings(text);
                self.suspect = true;
            }
            SessionEffect::Load => self.pins.add(Pin::Load),
            SessionEffect::SequenceRead => self.pins.add(Pin::Sequence),
            SessionEffect::Prepare(name) => self.prepare(name, statement, script, text, server),
            SessionEffect::Deallocate(name) => {
                self.statements.remove(name.as_bytes());
                server.lent.remove(name.as_bytes());
                self.suspect |= self.pins.has(Pin::Prepared);
            }
            SessionEffect::Execute(name) => match self.statements.get(name.as_bytes()).cloned() {
                Some(prepared) if executes_only(statement).is_some() => {
                    if relocation::sets_by_value(&prepared.script) {
                        self.stay();
                        custom_names(text, &mut self.suspicion.custom);
                    }
                    self.apply_first(1, &prepared.script, &prepared.text, server);
                }
                _ => self.suspect = true,
            },
            // These end with the transaction, or what they end is no cause of a pin now.
            SessionEffect::SequenceAdvance
            | SessionEffect::DiscardPlans
            | SessionEffect::Constraints
            | SessionEffect::Declare { hold: false } => {}
            SessionEffect::CloseCursor => self.suspect |= self.pins.has(Pin::HoldCursor),
            SessionEffect::Unlisten => self.suspect |= self.pins.has(Pin::Listen),
            SessionEffect::AdvisoryUnlock => self.suspect |= self.pins.has(Pin::AdvisoryLock),
            SessionEffect::DiscardTemp => self.suspect |= self.pins.has(Pin::TempTable),
            SessionEffect::Declare { hold: true }
            | SessionEffect::Listen
            | SessionEffect::CreateTemp
            | SessionEffect::AdvisoryLock
            | SessionEffect::Opaque => self.suspect = true,
        }
    }

    /// In another encoding the texts of the other settings are no longer what they were: the server has their values.
    fn note_encoding(&mut self, set: &str) {
        self.suspect |= set == "client_encoding" && self.settings.current().depends_on_encoding();
    }

    /// What a statement may do to the catalog.
    pub(super) fn note_class(&mut self, statement: &Statement) {
        self.ddl |= matches!(statement.class, Class::Ddl | Class::Maintenance | Class::Unknown);
        self.may_be_ddl |= matches!(statement.class, Class::Procedure);
        self.redefined |= matches!(statement.class, Class::Ddl);
    }

    /// All names are gone, the server's own for statements too.
    fn forget_statements(&mut self, server: &mut ServerConn) {
        self.statements.clear();
        server.prepared.clear();
        server.lent.clear();
        for book in self.books.iter_mut().filter(|book| matches!(book, Book::Gone(_))) {
            *book = Book::Unnamed(DONE);
        }
        server.unnamed = None;
    }

    /// SQL's PREPARE succeeded.
    fn prepare(
        &mut self,
        name: &str,
        statement: &Statement,
        script: &Arc<Script>,
        text: &Bytes,
        server: &mut ServerConn,
    ) {
        let (Some(inner), false) = (&statement.inner, text.is_empty()) else {
            self.suspect = true;
            return;
        };
        let execution = Script {
            statements: vec![(**inner).clone()],
            hints: script.hints.clone(),
            // Not that of the PREPARE, which goes elsewhere.
            shape: !script.shape,
            ..Script::default()
        };
        let name = Bytes::copy_from_slice(name.as_bytes());
        let prepared = self.shared.intern_sql(text, &Arc::new(execution));
        server.lent.insert(name.clone(), prepared.number);
        self.statements.insert(name, prepared);
    }
}

/// Whether what the transaction set is undone: it said ROLLBACK (also in answer to COMMIT), or it
/// was an implicit one and failed.
fn ended_in_rollback(responses: &Responses) -> bool {
    responses.rolled_back() || responses.failed()
}

/// Whether a SET sets the same on every server. `FROM CURRENT` takes what is there, and a part of a
/// `DateStyle` leaves the other part as it is: these are read back from the server instead.
pub(super) fn means_the_same_elsewhere(name: &str, text: &[u8]) -> bool {
    name != "datestyle" && sql::set_value(text, Lexis::default()).is_some()
}

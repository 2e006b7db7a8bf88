//! What a request needs at its server beside itself: statements under the session's own names, and
//! the values of the start-up packet after a RESET.
//!
//! SQL's EXECUTE, DEALLOCATE and PREPARE know statements by the client's names, and so does the list
//! of prepared statements. Such names are lent to a server for as long as it serves the session, and
//! closed before it serves another. Where the client's own text is sent with statements of Causeway's
//! added, the client sees none of their answers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::machine::Machine;
use super::phase::{Bound, Phase, Repeated};
use super::statements::{By, Prepared};
use crate::protocol::request::{End, Request};
use crate::protocol::response::{Completion, Sent};
use crate::protocol::write;
use crate::server::ServerConn;
use crate::server::laid::statement_for;
use crate::sql::statement::{Class, SessionEffect, Statement};
use crate::sql::{self, Script};

/// The name of what is prepared and bound for a moment.
const FOR_A_MOMENT: &[u8] = b"cw_run";

/// Around what may fail inside the client's transaction.
const SAVE: &[u8] = b"SAVEPOINT cw_lend";
const UNDO: &[u8] = b"ROLLBACK TO SAVEPOINT cw_lend; RELEASE SAVEPOINT cw_lend";

/// Fails in every transaction.
const FAILS: &[u8] = b"ROLLBACK TO SAVEPOINT cw_failed";

/// DISCARD ALL, apart from what it does to the settings of a start-up packet, as statements that may
/// stand together (PostgreSQL's `DiscardAll`).
const DISCARD_ALL: &[&str] = &[
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "DEALLOCATE ALL",
    "UNLISTEN *",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
];
const DISCARDED: &[u8] = b"C\0\0\0\x10DISCARD ALL\0";

/// A client's query with statements added, and what the client sees of each answer.
pub(super) struct Amended {
    pub(super) text: BytesMut,
    pub(super) completions: Vec<Completion>,
}

impl Machine {
    /// Closes at the server what is there under names that the session has no more.
    pub(super) fn reclaim(&self, request: &Request, server: &mut ServerConn) {
        if server.lent.is_empty() {
            return;
        }
        let known = |name: &Bytes| self.statements.get(name).map(|prepared| prepared.number);
        let gone: Vec<Bytes> = server
            .lent
            .extract_if(|name, number| known(name) != Some(*number))
            .map(|e| e.0)
            .collect();
        close_all(&gone, !matches!(request.end, End::Query | End::FunctionCall), server);
    }

    /// Closes at the server what was lent for another session.
    pub(super) fn evict(server: &mut ServerConn) {
        let names: Vec<Bytes> = server.lent.drain().map(|(name, _)| name).collect();
        close_all(&names, false, server);
    }

    /// Makes the statement of this name known to the server under it, inside a pipeline or before a
    /// Sync of Causeway's own.
    pub(super) fn lend(&mut self, name: &[u8], server: &mut ServerConn) {
        if self.fails_first(server) {
            // Nothing is prepared in a failed transaction, and the failure would be answered as well.
            return;
        }
        let Some(prepared) = self.named(name) else { return };
        if server.lent.get(name) == Some(&prepared.number) {
            return;
        }
        let name = Bytes::copy_from_slice(name);
        if server.lent.contains_key(&name) {
            close_all(std::slice::from_ref(&name), true, server);
        }
        match prepared.by {
            By::Parse => {
                write::parse(&mut server.output, &name, &prepared.text, &prepared.types);
                server.responses.expect_own(Sent::Parse, None);
            }
            By::Sql => run(&prepared.text, server, Failing::Shown),
        }
        server.lent.insert(name.clone(), prepared.number);
        self.lending.push(name);
    }

    /// Lends every name that a text of the extended protocol uses.
    pub(super) fn lend_names(&mut self, script: &Script, server: &mut ServerConn) {
        for name in names_used(script) {
            self.lend(name.as_bytes(), server);
        }
    }

    /// Lends every statement of SQL's PREPARE, ahead of a request: what may do anything may execute it by
    /// its name. One that cannot be prepared any more is of no interest, so none may fail the
    /// transaction of the client's.
    pub(super) fn lend_to_functions(&mut self, server: &mut ServerConn) {
        if self.fails_first(server) {
            return;
        }
        let in_transaction =
            server.responses.status() == b'T' || matches!(self.phase, Phase::Held(_));
        let missing = |(name, prepared): &(&Bytes, &Arc<Prepared>)| {
            prepared.by == By::Sql && server.lent.get(*name) != Some(&prepared.number)
        };
        let missing = self.statements.iter().filter(missing);
        let missing: Vec<(Bytes, Arc<Prepared>)> =
            missing.map(|(name, prepared)| (name.clone(), prepared.clone())).collect();
        for (name, prepared) in missing {
            if server.lent.contains_key(&name) {
                close_all(std::slice::from_ref(&name), false, server);
            }
            if in_transaction {
                query(SAVE, server);
            }
            run(&prepared.text, server, Failing::Quiet);
            write::sync(&mut server.output);
            server.responses.expect_own(Sent::Sync, None);
            if in_transaction {
                // No transaction takes a PREPARE back.
                query(UNDO, server);
            }
            server.lent.insert(name, prepared.number);
        }
    }

    /// Makes the server's list of prepared statements the session's, before the request that reads it and
    /// a BEGIN that was held back for it. What cannot be prepared must not fail a transaction.
    pub(super) fn lend_all(&mut self, server: &mut ServerConn) {
        let in_transaction = server.responses.status() == b'T';
        for number in server.prepared.take() {
            let mut name = BytesMut::new();
            server.prepared.put_name(&mut name, number);
            close_all(&[name.freeze()], true, server);
        }
        close_all(&[Bytes::from_static(FOR_A_MOMENT)], false, server);
        for (name, prepared) in self.statements.iter() {
            if server.lent.get(name) == Some(&prepared.number) {
                continue;
            }
            if in_transaction {
                query(SAVE, server);
            }
            match prepared.by {
                By::Parse => {
                    write::parse(&mut server.output, name, &prepared.text, &prepared.types);
                    server.responses.expect_quiet(Sent::Parse);
                }
                By::Sql => run(&prepared.text, server, Failing::Quiet),
            }
            write::sync(&mut server.output);
            server.responses.expect_own(Sent::Sync, None);
            if in_transaction {
                query(UNDO, server);
            }
            server.lent.insert(name.clone(), prepared.number);
        }
    }

    /// Inside a transaction `causeway.lsn` is set for that transaction only.
    pub(super) fn lend_position(&mut self, server: &mut ServerConn) {
        let lends = std::mem::take(&mut self.lends_position);
        let Some(position) = self.position.filter(|_| lends) else { return };
        if server.responses.status() == b'T' {
            let text = format!(
                "SELECT pg_catalog.set_config('{}', '{position}', true)",
                super::options::LSN
            );
            query(text.as_bytes(), server);
        }
    }

    /// The client's simple query with what has to stand in it; `None` if nothing has. The names that it
    /// uses are lent ahead of it.
    pub(super) fn amend(
        &mut self,
        text: &[u8],
        script: &Script,
        server: &mut ServerConn,
    ) -> Option<Amended> {
        if self.fails_first(server) {
            return None;
        }
        let before = server.output.len();
        self.lend_names(script, server);
        if server.output.len() > before {
            write::sync(&mut server.output);
            server.responses.expect_own(Sent::Sync, None);
        }
        self.restores(text, script, server)
    }

    /// The query with the start-up packet's values put back after each RESET of them.
    fn restores(&self, text: &[u8], script: &Script, server: &ServerConn) -> Option<Amended> {
        let statements = &script.statements;
        if statements.iter().all(|statement| self.restoring(statement).is_empty()) {
            return None;
        }
        let mut amended = Amended { text: BytesMut::new(), completions: Vec::new() };
        let alone = statements.len() == 1;
        if statements[0].session.contains(&SessionEffect::DiscardAll) {
            let idle = matches!(self.phase, Phase::Idle) && server.responses.status() == b'I';
            if !alone || !idle {
                // PostgreSQL refuses it.
                return None;
            }
            for part in DISCARD_ALL {
                amended.add(part.as_bytes());
            }
            let restoring = self.restoring(&statements[0]);
            let (last, others) = restoring.split_last()?;
            for restore in others {
                amended.add(restore);
            }
            amended.text.extend_from_slice(last);
            amended.completions.push(Completion::Said(DISCARDED));
            return Some(amended);
        }
        let ranges = sql::split(text, self.lexis);
        if ranges.len() != statements.len() {
            return None;
        }
        let mut at = 0;
        for (statement, range) in statements.iter().zip(ranges) {
            amended.text.extend_from_slice(&text[at..range.end]);
            amended.completions.push(Completion::Shown);
            at = range.end;
            for restore in self.restoring(statement) {
                amended.text.extend_from_slice(b";");
                amended.text.extend_from_slice(&restore);
                amended.completions.push(Completion::Hidden);
            }
        }
        amended.text.extend_from_slice(&text[at..]);
        Some(amended)
    }

    /// The statements that put back, after this one, what the start-up packet asked for: a server
    /// does not know of it, and goes back to its own default.
    pub(super) fn restoring(&self, statement: &Statement) -> Vec<Bytes> {
        let mut names: Vec<&str> = Vec::new();
        for effect in &statement.session {
            match effect {
                SessionEffect::Reset(name)
                | SessionEffect::Set { name, local: false, to_default: true } => names.push(name),
                SessionEffect::ResetAll => names.extend(
                    self.settings
                        .start_names()
                        .filter(|name| !matches!(*name, "role" | "session_authorization")),
                ),
                SessionEffect::DiscardAll => names.extend(self.settings.start_names()),
                _ => {}
            }
        }
        // No SELECT if it can be helped: after a query a transaction's modes cannot be set any more.
        let value = |name: &str| self.settings.start_value(name);
        names.iter().filter_map(|name| Some(statement_for(name, value(name)?))).collect()
    }

    /// Runs the same as part of a pipeline.
    pub(super) fn restore(&self, statement: &Statement, server: &mut ServerConn) {
        if !self.fails_first(server) {
            for text in self.restoring(statement) {
                run(&text, server, Failing::Shown);
            }
        }
    }
}

impl Amended {
    /// Adds a statement that the client does not see the answer of.
    fn add(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.text.extend_from_slice(b"\n;");
        self.completions.push(Completion::Hidden);
    }
}

/// Names of prepared statements that a text uses or takes, but for those that it makes itself.
fn names_used(script: &Script) -> Vec<&str> {
    let mut made: Vec<&str> = Vec::new();
    let mut used = Vec::new();
    for effect in script.statements.iter().flat_map(|statement| &statement.session) {
        match effect {
            SessionEffect::Execute(name)
            | SessionEffect::Deallocate(name)
            | SessionEffect::Prepare(name)
                if !made.contains(&&**name) && !used.contains(&&**name) =>
            {
                used.push(&**name);
            }
            _ => {}
        }
        if let SessionEffect::Prepare(name) = effect {
            made.push(name);
        }
    }
    used
}

/// Whether an execution by EXECUTE does what the prepared statement does and no more.
pub(super) fn executes_only(statement: &Statement) -> Option<&str> {
    match &statement.session[..] {
        [SessionEffect::Execute(name)]
            if statement.class == Class::Session && statement.calls.is_empty() =>
        {
            Some(name)
        }
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failing {
    /// Answers the client's message that follows.
    Shown,
    /// Is of no interest.
    Quiet,
}

/// What cannot be lent to a server, because its transaction has failed, is refused by it as all else is.
pub(super) fn refuse_in_failed(server: &mut ServerConn) {
    write::parse(&mut server.output, FOR_A_MOMENT, b"SELECT", &[0, 0]);
    server.responses.expect_own(Sent::Parse, None);
}

/// Runs once more what a transaction has run elsewhere.
pub(super) fn repeat(repeated: &Repeated, server: &mut ServerConn) {
    match repeated {
        Repeated::Query(text) => query(text, server),
        Repeated::Bound(bound) => {
            let Bound { text, types, values } = &**bound;
            write::run_with(&mut server.output, FOR_A_MOMENT, (text, types), values);
            for sent in RUN {
                server.responses.expect_own(sent, None);
            }
            write::sync(&mut server.output);
            server.responses.expect_own(Sent::Sync, None);
        }
    }
}

/// Takes the transaction's first snapshot: its modes cannot be set any more.
pub(super) fn see(server: &mut ServerConn) {
    query(b"SELECT", server);
}

/// Fails the transaction, as it had failed elsewhere.
pub(super) fn fail_quietly(server: &mut ServerConn) {
    run(FAILS, server, Failing::Quiet);
    write::sync(&mut server.output);
    server.responses.expect_own(Sent::Sync, None);
}

/// Runs one statement of Causeway's own inside a pipeline. `tag` is for what is noted once it has run.
pub(super) fn run_unseen(text: &[u8], tag: u32, server: &mut ServerConn) {
    write::run(&mut server.output, FOR_A_MOMENT, text);
    for sent in RUN {
        server.responses.expect_own(sent, (sent == Sent::Execute).then_some(tag));
    }
}

/// What [`write::run`] writes.
const RUN: [Sent; 6] =
    [Sent::Close, Sent::Parse, Sent::Bind, Sent::Execute, Sent::Close, Sent::Close];

/// Runs one statement of Causeway's own by the extended protocol.
fn run(text: &[u8], server: &mut ServerConn, failing: Failing) {
    write::run(&mut server.output, FOR_A_MOMENT, text);
    for sent in RUN {
        match failing {
            Failing::Shown => server.responses.expect_own(sent, None),
            Failing::Quiet => server.responses.expect_quiet(sent),
        }
    }
}

/// Writes a simple query of Causeway's own.
pub(super) fn query(text: &[u8], server: &mut ServerConn) {
    write::query(&mut server.output, text);
    server.responses.expect_own(Sent::Query, None);
    server.unnamed = None;
}

fn close_all(names: &[Bytes], in_pipeline: bool, server: &mut ServerConn) {
    for name in names {
        write::close_statement(&mut server.output, name);
        server.responses.expect_own(Sent::Close, None);
    }
    if !in_pipeline && !names.is_empty() {
        write::sync(&mut server.output);
        server.responses.expect_own(Sent::Sync, None);
    }
}

//! From the client's frames to what a server is sent: settings laid first, a held BEGIN made real,
//! statements under the server's names, prepared where they are not.
//!
//! Every message that is written is noted with [`Responses::expect`], in order, so that the answers
//! find their way. Causeway's own messages are noted as such and the client never sees them.

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::audit::custom_names;
use super::fields::{parse_fields, statement_named};
use super::judge::Judge;
use super::lend::{self, Amended, refuse_in_failed};
use super::machine::{Machine, changes};
use super::phase::Phase;
use super::pipeline::is_opaque;
use super::statements::{By, Prepared};
use super::step::{Book, Portal};
use super::unread::deallocates;
use crate::protocol::request::{End, Frame, Request};
use crate::protocol::response::Sent;
use crate::protocol::{frame, write};
use crate::server::ServerConn;
use crate::sql::Script;

const PARSE_COMPLETE: &[u8] = &[b'1', 0, 0, 0, 4];
const CLOSE_COMPLETE: &[u8] = &[b'3', 0, 0, 0, 4];

impl Machine {
    /// Writes the statements that lay the session's settings on a server outside of a transaction.
    /// Returns whether their success must be seen before anything else is sent.
    pub fn compose_settings(&mut self, server: &mut ServerConn) -> bool {
        if server.applied == *self.settings.committed() {
            return false;
        }
        let mut sure = true;
        let mut applied = server.applied.clone();
        if let Some(first) = self.settings.committed().encoding_first(&applied) {
            let mut text = bytes::BytesMut::new();
            sure &= first.difference(&applied, &mut text);
            write::query(&mut server.output, &text);
            server.responses.expect_own(Sent::Query, None);
            applied = first;
        }
        write::message(&mut server.output, b'Q', |out| {
            sure &= self.settings.committed().difference(&applied, out);
            out.put_u8(0);
        });
        server.responses.expect_own(Sent::Query, None);
        server.unnamed = None;
        server.set_applied(self.settings.committed());
        !sure
    }

    /// Writes the session's settings as a whole, also those that the server has already, so that it
    /// reports them all. False if there is none. In two queries: what has the same value at a query's end as
    /// it was last reported with is not reported again.
    pub fn compose_settings_anew(&mut self, server: &mut ServerConn) -> bool {
        let committed = self.settings.committed().clone();
        let foreign = server.applied.clone();
        let nothing = crate::server::Laid::default();
        let mut composed = false;
        for (to, from) in [(&nothing, &foreign), (&committed, &nothing)] {
            let mut text = bytes::BytesMut::new();
            to.difference(from, &mut text);
            if !text.is_empty() {
                write::query(&mut server.output, &text);
                server.responses.expect_own(Sent::Query, None);
                composed = true;
            }
        }
        if composed {
            server.unnamed = None;
            server.set_applied(&committed);
        }
        composed
    }

    /// Writes what stands between the session and its request: a BEGIN that was held back, and the
    /// removal of names that must not stay.
    pub fn compose_prefix(&mut self, server: &mut ServerConn, session: i32) {
        if server.served != session {
            Self::evict(server);
            server.served = session;
        }
        if self.asks.lists_statements && matches!(self.phase, Phase::Idle | Phase::Held(_)) {
            self.lend_all(server);
        }
        if let Phase::Held(begun) = &self.phase {
            server.unnamed = None;
            for text in &begun.texts {
                lend::query(text, server);
            }
            for repeated in &begun.since {
                lend::repeat(repeated, server);
            }
            if begun.seen {
                lend::see(server);
            }
            if begun.failed {
                lend::fail_quietly(server);
            }
        }
    }

    /// Writes a whole request.
    pub fn compose(
        &mut self,
        request: &Request,
        buffer: &[u8],
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        self.books.clear();
        self.pending.clear();
        self.preparing = None;
        (self.asks.deallocates, self.asks.forgets) = (false, false);
        self.reclaim(request, server);
        self.lend_position(server);
        if self.statements.has_any_of_sql() {
            let ran = self.ran(request, buffer, judge);
            if ran.scripts().iter().any(|script| is_opaque(script, judge)) {
                self.lend_to_functions(server);
            }
        }
        if self.asks.lists_statements && server.responses.status() == b'T' {
            self.lend_all(server);
        }
        if request.end == End::Query {
            return self.compose_query(buffer, request.frames[0], server, judge);
        }
        for frame in &request.frames {
            self.compose_frame(*frame, buffer, server, judge);
        }
        // Their places mean nothing in what is read later.
        self.judged.clear();
    }

    /// The facts of a text, as they were looked up when the request was judged.
    fn script_of(&self, frame: Frame, text: &[u8], judge: &impl Judge) -> Arc<Script> {
        let judged = self.judged.iter().find(|(start, _)| *start == frame.start);
        judged.map_or_else(|| judge.script(text, self.lexis), |(_, script)| script.clone())
    }

    /// Writes one frame of the client's. It must be whole.
    pub fn compose_frame(
        &mut self,
        frame: Frame,
        buffer: &[u8],
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        let bytes = frame.bytes(buffer);
        let body = frame.body(buffer);
        let sent = match frame.kind {
            b'P' => return self.compose_parse(frame, buffer, server, judge),
            b'B' => return self.compose_bind(bytes, body, server, judge),
            b'D' => return self.compose_describe(bytes, body, server),
            b'C' => return self.compose_close(bytes, body, server),
            b'E' => return self.compose_execute(bytes, body, server),
            b'Q' => {
                self.claim_for_unexamined(server);
                self.suspect = true;
                self.stay();
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                let script = judge.script(text, self.lexis);
                let opaque = self.note_calls(&self.effective(&script), judge);
                self.asks.deallocates |= opaque || script.statements.iter().any(deallocates);
                self.lend_names(&script, server);
                self.note_unordered(&script, opaque, server);
                custom_names(text, &mut self.suspicion.custom);
                self.bound = false;
                // PostgreSQL drops the unnamed statement at every simple query.
                server.unnamed = None;
                self.statements.unnamed.clear();
                Some(Sent::Query)
            }
            b'F' => {
                self.run_unexamined(server);
                custom_names(body, &mut self.suspicion.custom);
                Some(Sent::FunctionCall)
            }
            b'S' => {
                self.bound = false;
                Some(Sent::Sync)
            }
            b'c' | b'f' => Some(Sent::CopyEnd),
            _ => None,
        };
        server.output.extend_from_slice(bytes);
        if let Some(sent) = sent {
            server.responses.expect(sent, None);
        }
    }

    pub(super) fn book(&mut self, book: Book) -> u32 {
        self.books.push(book);
        // A pipeline is bounded by `limits.pipeline` bytes, far fewer messages than 2^32.
        u32::try_from(self.books.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<std::sync::Arc<Prepared>> {
        match self.pending.get(name) {
            Some(pending) => pending.clone(),
            None if self.asks.forgets => None,
            None => self.statements.get(name).cloned(),
        }
    }

    fn compose_parse(
        &mut self,
        frame: Frame,
        buffer: &[u8],
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        let bytes = frame.bytes(buffer);
        let Some((name, text, types)) = parse_fields(frame.body(buffer)) else {
            return pass(bytes, Sent::Parse, server);
        };
        let script = self.script_of(frame, text, judge);
        self.lend_names(&script, server);
        let meaning = self.settings.current().meaning();
        if name.is_empty() {
            // It is for what follows, and not to be lost to what must be done before.
            self.claim_sequences(&self.effective(&script), true, server, judge);
            self.statements.unnamed.set(text, types, meaning, script);
            let hash = self.statements.unnamed.get().map_or(0, |unnamed| unnamed.3);
            server.unnamed = None;
            let tag = self.book(Book::Unnamed(hash));
            server.output.extend_from_slice(bytes);
            return server.responses.expect(Sent::Parse, Some(tag));
        }
        if self.named(name).is_some() {
            // The name is taken. So that the server says so in its own words, it is taken there too.
            self.lend(name, server);
            return pass(bytes, Sent::Parse, server);
        }
        let prepared = self.shared.intern(text, types, meaning, &script);
        let name = Bytes::copy_from_slice(name);
        self.pending.insert(name.clone(), Some(prepared.clone()));
        let number = prepared.number;
        if self.asks.lists_statements {
            // The list shows it under its own name.
            server.lent.insert(name.clone(), number);
            self.lending.push(name.clone());
            let tag = self.book(Book::Lent(name, prepared));
            server.output.extend_from_slice(bytes);
            return server.responses.expect(Sent::Parse, Some(tag));
        }
        // An earlier message of the request under way may prepare it.
        let pending = !self.prepares(number);
        let tag = self.book(Book::Named(name, prepared));
        if (server.prepared.touch(number) || pending) && !self.asks.deallocates {
            return server.responses.expect(Sent::Answer(PARSE_COMPLETE), Some(tag));
        }
        self.make_way(number, server);
        write::message(&mut server.output, b'P', |out| {
            server.prepared.put_name(out, number);
            out.put_u8(0);
            out.extend_from_slice(text);
            out.put_u8(0);
            out.extend_from_slice(types);
        });
        server.responses.expect(Sent::Parse, Some(tag));
    }

    /// Notes that the request under way has this number prepared; whether it was the first to.
    fn prepares(&mut self, number: u64) -> bool {
        self.preparing.get_or_insert_default().insert(number)
    }

    /// Sees to it that this number can be prepared.
    fn make_way(&mut self, number: u64, server: &mut ServerConn) {
        if self.asks.deallocates {
            // Whether it is there nobody knows before the answer.
            let mut name = bytes::BytesMut::new();
            server.prepared.put_name(&mut name, number);
            write::close_statement(&mut server.output, &name);
            server.responses.expect_own(Sent::Close, None);
        }
        self.make_room(server);
    }

    /// Closes the least recently used statement at a server that has as many as it may.
    fn make_room(&mut self, server: &mut ServerConn) {
        if let Some(surplus) = server.prepared.surplus(self.prepared_limit) {
            write::message(&mut server.output, b'C', |out| {
                out.put_u8(b'S');
                server.prepared.put_name(out, surplus);
                out.put_u8(0);
            });
            let tag = self.book(Book::Gone(surplus));
            server.responses.expect_own(Sent::Close, Some(tag));
            // Were it to stay in the books until the answer, the next Parse would pick it again.
            server.prepared.remove(surplus);
            if let Some(preparing) = &mut self.preparing {
                preparing.remove(&surplus);
            }
        }
    }

    /// Prepares a statement of the session's at the server, if it is not there.
    pub(super) fn ensure_prepared(&mut self, prepared: &Prepared, server: &mut ServerConn) {
        let here = server.prepared.touch(prepared.number) || !self.prepares(prepared.number);
        if here && !self.asks.deallocates {
            return;
        }
        self.make_way(prepared.number, server);
        write::message(&mut server.output, b'P', |out| {
            server.prepared.put_name(out, prepared.number);
            out.put_u8(0);
            out.extend_from_slice(&prepared.text);
            out.put_u8(0);
            out.extend_from_slice(&prepared.types);
        });
        let tag = self.book(Book::Here(prepared.number));
        server.responses.expect_own(Sent::Parse, Some(tag));
    }

    /// Prepares the session's unnamed statement at the server, if another is there.
    pub(super) fn ensure_unnamed(&mut self, server: &mut ServerConn) {
        let Some((text, types, _, hash)) = self.statements.unnamed.get() else {
            // What the server may have there is another session's.
            write::close_statement(&mut server.output, b"");
            return server.responses.expect_own(Sent::Close, None);
        };
        let pending = self.books.iter().any(|book| matches!(book, Book::Unnamed(_)));
        if pending || server.unnamed == Some(hash) {
            return;
        }
        write::parse(&mut server.output, b"", text, types);
        let tag = self.book(Book::Unnamed(hash));
        server.responses.expect_own(Sent::Parse, Some(tag));
    }

    fn compose_describe(&mut self, bytes: &[u8], body: &[u8], server: &mut ServerConn) {
        match statement_named(body) {
            Some(b"") => {
                if let Some((_, _, script, _)) = self.statements.unnamed.get() {
                    let script = script.clone();
                    self.lend_names(&script, server);
                }
                self.ensure_unnamed(server);
            }
            Some(name) => {
                if let Some(prepared) = self.named(name) {
                    if prepared.by == By::Sql {
                        self.lend(name, server);
                    }
                    let lent = server.lent.get(name) == Some(&prepared.number);
                    if !lent && prepared.by == By::Sql {
                        refuse_in_failed(server);
                    }
                    if lent || prepared.by == By::Sql {
                        return pass(bytes, Sent::Describe, server);
                    }
                    self.lend_names(&prepared.script, server);
                    self.ensure_prepared(&prepared, server);
                    write::message(&mut server.output, b'D', |out| {
                        out.put_u8(b'S');
                        server.prepared.put_name(out, prepared.number);
                        out.put_u8(0);
                    });
                    return server.responses.expect(Sent::Describe, None);
                }
            }
            None => {}
        }
        pass(bytes, Sent::Describe, server);
    }

    fn compose_close(&mut self, bytes: &[u8], body: &[u8], server: &mut ServerConn) {
        match statement_named(body) {
            Some(b"") => {
                self.statements.unnamed.clear();
                server.unnamed = None;
            }
            Some(name) if self.named(name).is_some() => {
                // The server keeps it: other clients have prepared the same text.
                let name = Bytes::copy_from_slice(name);
                if server.lent.remove(&name).is_some() {
                    write::close_statement(&mut server.output, &name);
                    server.responses.expect_own(Sent::Close, None);
                }
                self.pending.insert(name.clone(), None);
                let tag = self.book(Book::Closed(name));
                return server.responses.expect(Sent::Answer(CLOSE_COMPLETE), Some(tag));
            }
            _ => {}
        }
        pass(bytes, Sent::Close, server);
    }

    fn compose_execute(&mut self, bytes: &[u8], body: &[u8], server: &mut ServerConn) {
        let portal = frame::cstr(body).map(|(name, _)| name);
        let noted = self.portals.iter().find(|known| Some(&known.name[..]) == portal);
        let Some(Portal { script, text, bound, .. }) = noted else {
            return pass(bytes, Sent::Execute, server);
        };
        let (script, text, bound) = (script.clone(), text.clone(), bound.clone());
        if script.statements.iter().any(deallocates) {
            (self.asks.deallocates, self.asks.forgets) = (true, true);
            self.pending.clear();
        }
        let tag = self.book(Book::Executed(script.clone(), text, bound));
        server.output.extend_from_slice(bytes);
        server.responses.expect(Sent::Execute, Some(tag));
        if let [statement] = &script.statements[..] {
            self.restore(statement, server);
        }
    }

    /// Writes a simple query, with what has to stand in it.
    fn compose_query(
        &mut self,
        buffer: &[u8],
        frame: Frame,
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        let body = frame.body(buffer);
        let text = body.strip_suffix(b"\0").unwrap_or(body);
        let script = self.script_of(frame, text, judge);
        let effective = self.effective(&script);
        self.claim_sequences(&effective, false, server, judge);
        self.bound = false;
        let amended = if changes(&script) && self.ascii_safe {
            self.amend(text, &script, server)
        } else {
            None
        };
        // PostgreSQL drops the unnamed statement at every simple query.
        server.unnamed = None;
        self.statements.unnamed.clear();
        match amended {
            Some(Amended { text, completions }) => {
                write::query(&mut server.output, &text);
                server.responses.expect_veiled(completions);
            }
            None => server.output.extend_from_slice(frame.bytes(buffer)),
        }
        server.responses.expect(Sent::Query, None);
    }
}

/// Writes a frame as it came.
pub(super) fn pass(bytes: &[u8], sent: Sent, server: &mut ServerConn) {
    server.output.extend_from_slice(bytes);
    server.responses.expect(sent, None);
}

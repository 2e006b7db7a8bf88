//! The session as a machine that decides: no socket, no clock.
//!
//! It is told what the client asked and what the server answered, and says where the request goes,
//! what is sent with it, and whether the server is kept. `driver` does what it says.
//!
//! Invariants: a server is never given back inside a transaction or while a pin holds; what a
//! failed or rolled-back statement would have changed is not believed; a BEGIN that is held back has
//! reached no server.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::audit::{Suspicion, custom_names};
use super::judge::Judge;
use super::options;
use super::pins::{Pin, Pins};
use super::settings::SessionSettings;
use super::statements::{Prepared, Shared, Statements};
use crate::protocol::request::{End, Request};
use crate::protocol::response::{Event, Responses};
use crate::protocol::{ErrorReport, frame, write};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::server::ServerConn;
use crate::sql::Script;
use crate::sql::statement::{
    Class, Isolation, Lexis, Modes, SessionEffect, Statement, Transaction,
};

/// Where a session stands between requests.
#[derive(Debug)]
pub(super) enum Phase {
    /// Outside of a transaction.
    Idle,
    /// Inside a transaction that no server knows of yet.
    Held {
        /// BEGIN and what followed it, as the client wrote them.
        texts: Vec<Bytes>,
        /// The modes that they ask for.
        modes: Modes,
    },
    /// Inside a transaction on the leased server.
    Open {
        /// The server is a replica.
        on_replica: bool,
    },
    /// Inside a transaction whose server is gone: it can only be rolled back.
    Lost {
        /// What the client hears first, if it has not heard of the loss.
        untold: Option<Box<ErrorReport>>,
    },
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is answered by what is in [`Machine::reply`].
    Answer(Decision),
    /// It goes to a server.
    Exchange(Decision),
    /// The client is leaving.
    Terminate,
    /// Nothing: PostgreSQL ignores it as well.
    Ignore,
}

/// What becomes of the server after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays with the session.
    Keep,
    /// It goes back.
    Release,
    /// It is asked what the session has left on it; then [`Machine::on_audit`] says.
    Audit,
}

/// What a message of the exchange changes in the session's books when it has succeeded.
#[derive(Debug)]
pub(super) enum Book {
    /// Parse of the unnamed statement, prepared at the server under this hash.
    Unnamed(u64),
    /// Parse under the client's name.
    Named(Bytes, Arc<Prepared>),
    /// The statement of this number is prepared at the server.
    Here(u64),
    /// Close of the client's name.
    Closed(Bytes),
    /// Close of a number at the server.
    Gone(u64),
    /// A statement with session effects ran.
    Executed(Arc<Script>, Bytes),
}

/// A portal whose execution changes the session.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) name: Bytes,
    pub(super) script: Arc<Script>,
    pub(super) text: Bytes,
}

/// One session.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one session")]
pub struct Machine {
    pub(super) phase: Phase,
    /// What the client has set.
    pub settings: SessionSettings,
    /// What the client has prepared.
    pub statements: Statements,
    pub(super) shared: Arc<Shared>,
    pins: Pins,
    /// Something may have changed that only the server knows.
    pub(super) suspect: bool,
    /// What is to be asked about it.
    pub(super) suspicion: Suspicion,
    /// The catalog may have changed since somebody asked.
    ddl: bool,
    /// Statements that were prepared before may have another result now.
    redefined: bool,
    pub(super) books: Vec<Book>,
    pub(super) portals: Vec<Portal>,
    /// What the request under way has prepared or closed so far, by the client's names.
    pub(super) pending: FxHashMap<Bytes, Option<Arc<Prepared>>>,
    /// The facts and the text of the simple query under way.
    running: Option<(Arc<Script>, Bytes)>,
    /// What is answered without a server.
    pub reply: BytesMut,
    pub(super) lexis: Lexis,
    /// Whether every byte below 0x80 is the character it looks like, in the client's encoding.
    ascii_safe: bool,
    utf8: bool,
    read_only_by_default: bool,
    /// Most statements that are prepared per server.
    pub(super) prepared_limit: usize,
}

/// Client encodings in which a byte below 0x80 may be the second half of a character.
const NOT_ASCII_SAFE: &[&[u8]] =
    &[b"BIG5", b"GB18030", b"GBK", b"JOHAB", b"SHIFT_JIS_2004", b"SJIS", b"UHC"];

impl Machine {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(settings: SessionSettings, shared: Arc<Shared>, prepared_limit: usize) -> Self {
        Self {
            phase: Phase::Idle,
            settings,
            statements: Statements::default(),
            shared,
            pins: Pins::default(),
            suspect: false,
            suspicion: Suspicion::default(),
            ddl: false,
            redefined: false,
            books: Vec::new(),
            portals: Vec::new(),
            pending: FxHashMap::default(),
            running: None,
            reply: BytesMut::new(),
            lexis: Lexis::default(),
            ascii_safe: true,
            utf8: true,
            read_only_by_default: false,
            prepared_limit,
        }
    }

    /// Pins the session for good (`pool.mode = "session"`).
    pub fn pin(&mut self, pin: Pin) {
        self.pins.add(pin);
    }

    /// Why the session keeps its server.
    #[must_use]
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// The server's report of a setting: some change how texts are read.
    pub fn on_parameter(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => {
                self.lexis.standard_conforming_strings = value == b"on";
            }
            b"client_encoding" => {
                self.utf8 = value == b"UTF8";
                self.ascii_safe = !NOT_ASCII_SAFE.contains(&value.to_ascii_uppercase().as_slice());
            }
            b"default_transaction_read_only" => self.read_only_by_default = value == b"on",
            _ => {}
        }
    }

    /// Whether the catalog may have changed: told when a statement did it and again when its
    /// transaction has ended, for only then do others see it.
    pub fn changed_catalog(&mut self) -> bool {
        let changed = self.ddl;
        if std::mem::take(&mut self.redefined) {
            self.shared.forget();
            // In a transaction only this session sees it; once more when all do, or when it is undone.
            self.redefined = !self.is_idle();
        }
        self.ddl &= !self.is_idle();
        changed
    }

    /// Whether the client's encoding is UTF8.
    #[must_use]
    pub fn names_are_utf8(&self) -> bool {
        self.utf8
    }

    /// Whether the session is between transactions.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// The status that the client was last told.
    #[must_use]
    pub fn client_status(&self) -> u8 {
        match self.phase {
            Phase::Idle => b'I',
            Phase::Held { .. } | Phase::Open { .. } => b'T',
            Phase::Lost { .. } => b'E',
        }
    }

    /// Says what to do with a request. `status` is the transaction status of the leased server, if
    /// there is one.
    pub fn on_request(
        &mut self,
        request: &Request,
        buffer: &[u8],
        server_status: Option<u8>,
        judge: &impl Judge,
    ) -> Step {
        self.reply.clear();
        self.running = None;
        match request.end {
            End::Terminate => return Step::Terminate,
            End::StrayCopy => return Step::Ignore,
            End::Query => {
                let body = request.frames[0].body(buffer);
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                return self.on_query(text, server_status, judge);
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Lost { .. }) {
            return self.answer_lost(request, buffer, judge);
        }
        if let Some(bound) = self.bound() {
            return Step::Exchange(bound);
        }
        Step::Exchange(match request.end {
            End::FunctionCall => Decision::primary(Reason::FunctionCall),
            End::Flush => Decision::primary(Reason::PipelineCutByFlush),
            End::Overflow if request.frames.is_empty() => {
                self.suspect = true;
                Decision::primary(Reason::StatementTooLarge)
            }
            End::Overflow => Decision::primary(Reason::PipelineTooLarge),
            _ => self.judge_pipeline(request, buffer, judge),
        })
    }

    /// Where the session must go whatever it asks.
    fn bound(&self) -> Option<Decision> {
        if let Phase::Open { on_replica } = self.phase {
            return Some(if on_replica {
                Decision::replica(Reason::InTransactionOnReplica)
            } else {
                Decision::primary(Reason::InTransaction)
            });
        }
        if let Some(pin) = self.pins.first() {
            return Some(Decision::primary(pin.reason()));
        }
        (!self.ascii_safe).then(|| Decision::primary(Reason::EncodingNotAsciiSafe))
    }

    fn on_query(&mut self, text: &[u8], server_status: Option<u8>, judge: &impl Judge) -> Step {
        let script = judge.script(text, self.lexis);
        let only = match &script.statements[..] {
            [only] if only.understood && self.ascii_safe => Some(only),
            _ => None,
        };
        let decision = match self.phase {
            // Not even a failed transaction makes an error of nothing.
            Phase::Lost { .. } if script.statements.is_empty() && self.ascii_safe => None,
            Phase::Lost { .. } => return self.answer_lost_query(only),
            _ => self.bound(),
        };
        if script.statements.is_empty() && decision.is_none() && self.ascii_safe {
            write::message(&mut self.reply, b'I', |_| ());
            return self.answered(Target::Proxy, Reason::EmptyQuery);
        }
        if let Some(only) = only
            && let Some(step) = self
                .refuse_own_setting(only, text, server_status)
                .or_else(|| self.answer(only, text, server_status))
        {
            return step;
        }
        let decision = match (decision, &self.phase) {
            (Some(decision), _) => decision,
            (None, Phase::Held { modes, .. }) => {
                self.judge_transaction(*modes, judge.decide_read_only(&script))
            }
            (None, _) => judge.decide(&script),
        };
        self.note_calls(&script, judge);
        if changes(&script) || script.statements.len() > 1 || !self.ascii_safe {
            self.running = Some((script, Bytes::copy_from_slice(text)));
        }
        Step::Exchange(decision)
    }

    /// A function that may do anything may have changed what only the server knows.
    pub(super) fn note_calls(&mut self, script: &Arc<Script>, judge: &impl Judge) {
        if script.statements.iter().any(|statement| !statement.calls.is_empty()) {
            let reason = judge.decide(script).reason;
            if matches!(reason, Reason::VolatileFunction | Reason::UnknownFunction) {
                self.suspect = true;
                self.suspicion.opaque = true;
            }
        }
    }

    /// The transaction's place by its modes and its first statement.
    fn judge_transaction(&self, modes: Modes, first: Decision) -> Decision {
        if modes.isolation == Some(Isolation::Serializable) {
            return Decision::primary(Reason::Serializable);
        }
        if !modes.read_only.unwrap_or(self.read_only_by_default) {
            return Decision::primary(Reason::ReadWriteTransaction);
        }
        match first.target {
            Target::Replica => Decision { reason: Reason::ReadOnlyTransaction, ..first },
            _ => first,
        }
    }

    /// Refuses a value that one of Causeway's own settings cannot have. Inside a transaction on a
    /// server PostgreSQL takes it, as it takes any custom setting, and it means the default.
    fn refuse_own_setting(
        &mut self,
        only: &Statement,
        text: &[u8],
        server_status: Option<u8>,
    ) -> Option<Step> {
        let [SessionEffect::Set { name, to_default: false, .. }] = &only.session[..] else {
            return None;
        };
        if server_status.is_some_and(|status| status != b'I') {
            return None;
        }
        let report = options::check(name, text).err()?;
        report.encode(&mut self.reply);
        if matches!(self.phase, Phase::Held { .. }) {
            self.phase = Phase::Lost { untold: None };
        }
        Some(self.answered(Target::Proxy, Reason::ProxySet))
    }

    /// Answers what needs no server: the beginning of a transaction (which is held back), the end
    /// of one that was held back, and the end of a prepared statement.
    fn answer(&mut self, only: &Statement, text: &[u8], server_status: Option<u8>) -> Option<Step> {
        let free = self.pins.is_free() && server_status.is_none();
        match (&mut self.phase, &only.transaction) {
            (Phase::Idle, Some(Transaction::Begin(modes))) if free => {
                let texts = vec![Bytes::copy_from_slice(text)];
                self.phase = Phase::Held { texts, modes: *modes };
                write::command_complete(&mut self.reply, only.verb);
                Some(self.answered(Target::Session, Reason::Begin))
            }
            (Phase::Held { texts, modes }, Some(Transaction::Set(more))) => {
                texts.push(Bytes::copy_from_slice(text));
                *modes = Modes {
                    read_only: more.read_only.or(modes.read_only),
                    isolation: more.isolation.or(modes.isolation),
                    deferrable: more.deferrable.or(modes.deferrable),
                };
                write::command_complete(&mut self.reply, "SET");
                Some(self.answered(Target::Session, Reason::SetTransaction))
            }
            (Phase::Held { .. }, Some(Transaction::Commit { chain: false })) => {
                self.phase = Phase::Idle;
                write::command_complete(&mut self.reply, "COMMIT");
                Some(self.answered(Target::Session, Reason::NothingToEnd))
            }
            (Phase::Held { .. }, Some(Transaction::Rollback { chain: false })) => {
                self.phase = Phase::Idle;
                write::command_complete(&mut self.reply, "ROLLBACK");
                Some(self.answered(Target::Session, Reason::NothingToEnd))
            }
            _ => {
                let [SessionEffect::Deallocate(name)] = &only.session[..] else { return None };
                let failed = server_status == Some(b'E');
                if failed || !self.statements.remove(name.as_bytes()) {
                    return None;
                }
                write::command_complete(&mut self.reply, "DEALLOCATE");
                Some(self.answered(Target::Session, Reason::Deallocate))
            }
        }
    }

    fn answered(&mut self, target: Target, reason: Reason) -> Step {
        let status = self.client_status();
        write::ready_for_query(&mut self.reply, status);
        Step::Answer(Decision::new(target, reason))
    }

    fn answer_lost_query(&mut self, only: Option<&Statement>) -> Step {
        if only.is_some_and(ends_transaction) {
            self.phase = Phase::Idle;
            write::command_complete(&mut self.reply, "ROLLBACK");
        } else {
            self.lost_report().encode(&mut self.reply);
        }
        self.answered(Target::Session, Reason::FailedTransaction)
    }

    /// Answers a pipeline inside a transaction whose server is gone, as a failed one would.
    fn answer_lost(&mut self, request: &Request, buffer: &[u8], judge: &impl Judge) -> Step {
        let mut ending = false;
        for frame in &request.frames {
            let body = frame.body(buffer);
            match frame.kind {
                b'P' => {
                    ending = parse_fields(body).is_some_and(|(_, text, _)| {
                        let script = judge.script(text, self.lexis);
                        matches!(&script.statements[..], [only] if ends_transaction(only))
                    });
                }
                b'B' => {
                    if let Some((_, name, _)) = bind_fields(body)
                        && !name.is_empty()
                    {
                        ending = self.statements.get(name).is_some_and(|prepared| {
                            matches!(&prepared.script.statements[..],
                                [only] if ends_transaction(only))
                        });
                    }
                }
                _ => {}
            }
            if !ending && matches!(frame.kind, b'P' | b'B' | b'D' | b'E' | b'F') {
                self.lost_report().encode(&mut self.reply);
                break;
            }
            match frame.kind {
                b'P' => write::message(&mut self.reply, b'1', |_| ()),
                b'B' => write::message(&mut self.reply, b'2', |_| ()),
                b'C' => {
                    if let [b'S', rest @ ..] = body
                        && let Some((name, _)) = frame::cstr(rest)
                    {
                        self.statements.remove(name);
                    }
                    write::message(&mut self.reply, b'3', |_| ());
                }
                b'D' => {
                    if body.first() == Some(&b'S') {
                        write::message(&mut self.reply, b't', |out| out.extend([0, 0]));
                    }
                    write::message(&mut self.reply, b'n', |_| ());
                }
                b'E' => {
                    self.phase = Phase::Idle;
                    write::command_complete(&mut self.reply, "ROLLBACK");
                }
                _ => {}
            }
        }
        if request.end == End::Flush {
            return Step::Answer(Decision::new(Target::Session, Reason::FailedTransaction));
        }
        self.answered(Target::Session, Reason::FailedTransaction)
    }

    /// A pipeline goes where its strictest statement goes.
    fn judge_pipeline(&mut self, request: &Request, buffer: &[u8], judge: &impl Judge) -> Decision {
        let mut verdict: Option<Decision> = None;
        let mut modes = match &self.phase {
            Phase::Held { modes, .. } => Some(*modes),
            _ => None,
        };
        for frame in &request.frames {
            let body = frame.body(buffer);
            let script = match frame.kind {
                b'P' => match parse_fields(body) {
                    Some((_, text, _)) => judge.script(text, self.lexis),
                    None => return Decision::primary(Reason::NotUnderstood),
                },
                b'B' | b'D' => {
                    let name = match frame.kind {
                        b'B' => bind_fields(body).map(|(_, name, _)| name),
                        _ if body.first() == Some(&b'S') => frame::cstr(&body[1..]).map(|n| n.0),
                        _ => continue,
                    };
                    match name {
                        None => return Decision::primary(Reason::NotUnderstood),
                        // Parsed in this pipeline, where it was judged, or before.
                        Some(b"") if verdict.is_some() => continue,
                        Some(b"") => match self.statements.unnamed.get() {
                            Some((_, _, script, _)) => script.clone(),
                            None => continue,
                        },
                        Some(name) => match self.statements.get(name) {
                            Some(prepared) => prepared.script.clone(),
                            None => continue,
                        },
                    }
                }
                _ => continue,
            };
            if let [Statement { transaction: Some(Transaction::Begin(begin)), .. }] =
                &script.statements[..]
                && verdict.is_none()
            {
                modes = Some(*begin);
                continue;
            }
            let one = match modes {
                Some(modes) => self.judge_transaction(modes, judge.decide_read_only(&script)),
                None => judge.decide(&script),
            };
            verdict = Some(match verdict {
                None => one,
                Some(first) if first.target == Target::Replica => match one.target {
                    Target::Replica => first,
                    _ => Decision::primary(Reason::PipelineStrictest),
                },
                Some(first) => first,
            });
        }
        verdict.unwrap_or_else(|| match modes {
            Some(_) => Decision::primary(Reason::Begin),
            None => Decision::primary(Reason::UnknownPrepared),
        })
    }

    /// What was to be closed at the server and was not, since an error came first, is still there.
    fn close_books(&mut self, server: &mut ServerConn) {
        for book in self.books.drain(..) {
            if let Book::Gone(number) = book {
                server.prepared.insert(number);
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
            match std::mem::replace(book, Book::Unnamed(0)) {
                Book::Named(_, prepared) => server.prepared.insert(prepared.number),
                Book::Here(number) => server.prepared.insert(number),
                Book::Gone(number) => server.prepared.remove(number),
                Book::Unnamed(_) | Book::Closed(_) | Book::Executed(..) => {}
            }
        }
        self.close_books(server);
    }

    /// An exchange has come to its end with the server's ReadyForQuery.
    pub fn on_ready(&mut self, server: &mut ServerConn, on_replica: bool) -> After {
        let events: Vec<Event> = server.responses.events().collect();
        for event in events {
            match event {
                Event::Parameter(name, value) => self.on_parameter(&name, &value),
                Event::Done(tag) => self.on_done(tag as usize, server),
                Event::Notified => {}
            }
        }
        self.close_books(server);
        self.redefined |= server.responses.stale_plan();
        if let Some((script, text)) = self.running.take() {
            if !self.ascii_safe {
                self.suspect = true;
            } else if server.responses.failed() && script.statements.len() == 1 {
                self.suspect |= changes(&script);
            } else {
                let alone = script.statements.len() == 1;
                for statement in &script.statements {
                    self.apply(statement, &text, alone, server);
                }
            }
        }
        let status = server.responses.status();
        if status != b'I' {
            if !matches!(self.phase, Phase::Open { .. }) {
                self.phase = Phase::Open { on_replica };
            }
            return After::Keep;
        }
        self.end_transaction(server)
    }

    fn end_transaction(&mut self, server: &mut ServerConn) -> After {
        self.phase = Phase::Idle;
        self.portals.clear();
        self.settings.end_transaction(!ended_in_rollback(&server.responses));
        server.applied = self.settings.committed().clone();
        if std::mem::take(&mut self.suspect) || self.pins.has(Pin::Opaque) {
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
    pub fn on_audit(
        &mut self,
        findings: Option<super::audit::Findings>,
        server: &mut ServerConn,
    ) -> After {
        match findings {
            Some(found) => {
                let by_hand = [Pin::SessionMode, Pin::Sequence, Pin::Load, Pin::Unscanned];
                let kept = by_hand.into_iter().filter(|pin| self.pins.has(*pin));
                let mut pins = found.pins;
                kept.for_each(|pin| pins.add(pin));
                self.pins = pins;
                self.settings.replace(&found.laid);
                server.applied = found.on_server;
            }
            None => self.pins.add(Pin::Opaque),
        }
        if self.pins.is_free() { After::Release } else { After::Keep }
    }

    /// The server is gone inside a transaction or between requests of a pinned session.
    pub fn on_server_lost(&mut self, in_transaction: bool) {
        self.books.clear();
        self.pending.clear();
        self.portals.clear();
        self.running = None;
        self.suspect = false;
        self.settings.end_transaction(false);
        let session_mode = self.pins.has(Pin::SessionMode);
        self.pins = Pins::default();
        if session_mode {
            self.pins.add(Pin::SessionMode);
        }
        self.phase = if in_transaction { Phase::Lost { untold: None } } else { Phase::Idle };
    }

    /// The client has not yet heard that its transaction's server is gone.
    pub fn tell_lost(&mut self, report: ErrorReport) {
        if let Phase::Lost { untold } = &mut self.phase {
            *untold = Some(Box::new(report));
        }
    }

    fn lost_report(&mut self) -> ErrorReport {
        match &mut self.phase {
            Phase::Lost { untold } => untold.take().map(|report| *report),
            _ => None,
        }
        .unwrap_or_else(failed_transaction)
    }

    /// What a server said while nothing was asked of it.
    pub fn on_overheard(&mut self, server: &mut ServerConn) {
        for event in server.responses.events() {
            if let Event::Parameter(name, value) = event {
                self.on_parameter(&name, &value);
            }
        }
    }

    /// Whether a request might end its transaction with a commit.
    pub fn commits(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> bool {
        !self.all(request, buffer, judge, |statement| {
            statement.understood
                && !matches!(
                    statement.transaction,
                    Some(Transaction::Commit { .. } | Transaction::Prepare)
                )
                && !matches!(statement.class, Class::Procedure | Class::Unknown)
        })
    }

    /// Whether a request surely changes nothing.
    pub fn only_reads(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> bool {
        self.all(request, buffer, judge, |statement| {
            statement.understood && statement.class == Class::Read && statement.calls.is_empty()
        })
    }

    /// The facts of every text that a request runs; `None` if not all are known.
    pub fn scripts(
        &self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Option<Vec<Arc<Script>>> {
        if !matches!(request.end, End::Query | End::Sync) {
            return None;
        }
        let mut scripts = Vec::new();
        for frame in &request.frames {
            let body = frame.body(buffer);
            scripts.push(match frame.kind {
                b'Q' => judge.script(body.strip_suffix(b"\0").unwrap_or(body), self.lexis),
                b'P' => judge.script(parse_fields(body)?.1, self.lexis),
                b'B' => match bind_fields(body)?.1 {
                    // What the unnamed statement is, its Parse says, or the books do.
                    b"" => self.statements.unnamed.get()?.2.clone(),
                    name => self.named(name)?.script.clone(),
                },
                _ => continue,
            });
        }
        Some(scripts)
    }

    /// Whether something holds of every statement that a request runs, and all are known.
    fn all(
        &self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
        holds: impl Fn(&Statement) -> bool,
    ) -> bool {
        self.scripts(request, buffer, judge)
            .is_some_and(|scripts| scripts.iter().flat_map(|script| &script.statements).all(holds))
    }

    fn on_done(&mut self, tag: usize, server: &mut ServerConn) {
        let Some(book) = self.books.get_mut(tag) else { return };
        match std::mem::replace(book, Book::Unnamed(0)) {
            Book::Unnamed(hash) => server.unnamed = Some(hash),
            Book::Named(name, prepared) => {
                server.prepared.insert(prepared.number);
                self.statements.insert(name, prepared);
            }
            Book::Here(number) => server.prepared.insert(number),
            Book::Gone(number) => server.prepared.remove(number),
            Book::Closed(name) => {
                self.statements.remove(&name);
            }
            Book::Executed(script, text) => {
                let alone = script.statements.len() == 1;
                for statement in &script.statements {
                    self.apply(statement, &text, alone, server);
                }
            }
        }
    }

    /// A statement ran: takes what it did to the session into the books.
    fn apply(&mut self, statement: &Statement, text: &Bytes, alone: bool, server: &mut ServerConn) {
        if let Some(transaction) = &statement.transaction {
            match transaction {
                Transaction::Savepoint(name) => self.settings.savepoint(name),
                Transaction::RollbackTo(name) => self.settings.rollback_to(name),
                Transaction::Release(name) => self.settings.release(name),
                Transaction::SetCharacteristics(_) => self.suspect = true,
                _ => {}
            }
        }
        self.ddl |= matches!(
            statement.class,
            Class::Ddl | Class::Procedure | Class::Maintenance | Class::Unknown
        );
        self.redefined |= matches!(statement.class, Class::Ddl);
        self.suspect |= matches!(statement.class, Class::Procedure | Class::Unknown)
            || !self.pins.is_free() && !matches!(statement.class, Class::Read | Class::Write);
        self.suspicion.opaque |= statement.class == Class::Procedure;
        for effect in &statement.session {
            match effect {
                SessionEffect::Set { local: true, .. }
                | SessionEffect::SequenceAdvance
                | SessionEffect::DiscardPlans => {}
                SessionEffect::Set { name, to_default: false, .. } if alone => {
                    self.settings.set(name, text.clone());
                }
                SessionEffect::DiscardAll | SessionEffect::DeallocateAll => {
                    self.statements.clear();
                    server.prepared.clear();
                    for book in self.books.iter_mut().filter(|b| matches!(b, Book::Gone(_))) {
                        *book = Book::Unnamed(0);
                    }
                    server.unnamed = None;
                    self.suspect = true;
                    self.pins.remove(Pin::Sequence);
                }
                SessionEffect::SetConfig => {
                    custom_names(text, &mut self.suspicion.custom);
                    self.suspect = true;
                }
                SessionEffect::Set { name, .. } => {
                    if name.contains('.') {
                        self.suspicion.custom.insert(name.clone());
                    }
                    self.suspect = true;
                }
                SessionEffect::DiscardSequences => self.pins.remove(Pin::Sequence),
                SessionEffect::Load => self.pins.add(Pin::Load),
                SessionEffect::SequenceRead => self.pins.add(Pin::Sequence),
                SessionEffect::Deallocate(name) => {
                    self.statements.remove(name.as_bytes());
                    self.suspect = true;
                }
                _ => self.suspect = true,
            }
        }
    }
}

/// Whether running the script may change what the session, or the database's catalog, is.
pub(super) fn changes(script: &Script) -> bool {
    script.statements.iter().any(|statement| {
        !statement.session.is_empty()
            || statement.transaction.is_some()
            || !matches!(
                statement.class,
                Class::Read | Class::LockingRead | Class::Write | Class::CopyIn
            )
    })
}

fn ends_transaction(statement: &Statement) -> bool {
    matches!(
        statement.transaction,
        Some(Transaction::Commit { chain: false } | Transaction::Rollback { chain: false })
    )
}

/// PostgreSQL's own words for a statement after the one that failed.
fn failed_transaction() -> ErrorReport {
    ErrorReport::error(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// Whether what the transaction set is undone: it said ROLLBACK (also in answer to COMMIT), or it
/// was an implicit one and failed.
fn ended_in_rollback(responses: &Responses) -> bool {
    responses.rolled_back() || responses.failed()
}

/// The parts of a Parse: name, text, parameter types.
pub(super) fn parse_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = frame::cstr(body)?;
    let (text, types) = frame::cstr(rest)?;
    Some((name, text, types))
}

/// The parts of a Bind: portal, statement, and the rest.
pub(super) fn bind_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (portal, rest) = frame::cstr(body)?;
    let (statement, rest) = frame::cstr(rest)?;
    Some((portal, statement, rest))
}

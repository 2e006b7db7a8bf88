//! The session as a machine that decides: no socket, no clock.
//!
//! It is told what the client asked and what the server answered, and says where the request goes,
//! what is sent with it, and whether the server is kept. `driver` does what it says.
//!
//! Invariants: a server is never given back inside a transaction or while a pin holds; what a
//! failed or rolled-back statement would have changed is not believed; a BEGIN that is held back has
//! reached no server.

use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::asks::Asks;
use super::audit::{Suspicion, custom_names};
use super::fields::NAME_BYTES;
use super::judge::Judge;
use super::options::{self, Fault};
use super::outlook;
use super::phase::{Begun, Phase, Repeated};
use super::pins::{Pin, Pins};
use super::relocation;
use super::settings::SessionSettings;
use super::statements::{Prepared, Shared, Statements};
use super::step::{Book, Disturbances, Portal, Question, Step};
use crate::cluster::Lsn;
use crate::protocol::request::{End, Request};
use crate::protocol::{ErrorReport, write};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::server::Identity;
use crate::server::laid::statement_for;
use crate::sql::Script;
use crate::sql::statement::{Class, Lexis, Modes, SessionEffect, Statement, Transaction};

/// One session.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one session")]
pub struct Machine {
    pub(super) phase: Phase,
    /// Its transaction has failed.
    pub(super) failed: bool,
    /// What the client has set.
    pub settings: SessionSettings,
    /// What the client has prepared.
    pub statements: Statements,
    pub(super) shared: Arc<Shared>,
    pub(super) pins: Pins,
    /// Tells this session's sequence values from others'.
    pub(super) mark: Option<Arc<()>>,
    /// The server that has them.
    pub(super) sequences_at: Weak<Identity>,
    /// Names that the request under way lends to the server.
    pub(super) lending: Vec<Bytes>,
    /// Something may have changed that only the server knows.
    pub(super) suspect: bool,
    /// What is to be asked about it.
    pub(super) suspicion: Suspicion,
    /// The catalog may have changed since somebody asked.
    pub(super) ddl: bool,
    /// The same of what a procedure did, which nobody but the server knows.
    pub(super) may_be_ddl: bool,
    /// Statements that were prepared before may have another result now.
    pub(super) redefined: bool,
    /// What has run since somebody asked, and concerns servers of others.
    pub(super) disturbances: Option<Box<Disturbances>>,
    pub(super) books: Vec<Book>,
    pub(super) portals: Vec<Portal>,
    /// The client has bound something since its last Sync: a transaction is under way at the server.
    pub(super) bound: bool,
    /// What the request under way has prepared or closed so far, by the client's names.
    pub(super) pending: FxHashMap<Bytes, Option<Arc<Prepared>>>,
    /// The numbers that it has prepared at its server, or found there.
    pub(super) preparing: Option<Box<FxHashSet<u64>>>,
    /// The facts and the text of the simple query under way.
    pub(super) running: Option<(Arc<Script>, Bytes)>,
    /// Texts of the request that were looked up when it was judged, by where their frames begin.
    pub(super) judged: SmallVec<[(usize, Arc<Script>); 1]>,
    /// How far the primary is, for the request under way, if that was asked.
    pub furthest: Option<Lsn>,
    /// What the session must not fall behind, for the request under way, if that was asked.
    pub position: Option<Lsn>,
    /// It was laid for a request before.
    shows_position: bool,
    /// It is to be lent to the server inside a transaction, as `causeway.lsn`.
    pub(super) lends_position: bool,
    /// What is answered without a server.
    pub reply: BytesMut,
    pub(super) lexis: Lexis,
    /// Whether every byte below 0x80 is the character it looks like, in the client's encoding.
    pub(super) ascii_safe: bool,
    pub(super) utf8: bool,
    pub(super) read_only_by_default: bool,
    /// What the request under way asks of servers beside its answer.
    pub(super) asks: Asks,
    /// Most statements that are prepared per server.
    pub(super) prepared_limit: usize,
}

/// Statements that are held back at most.
const HELD_MOST: usize = 16;

/// Client encodings in which a byte below 0x80 may be the second half of a character.
const NOT_ASCII_SAFE: &[&[u8]] =
    &[b"BIG5", b"GB18030", b"GBK", b"JOHAB", b"SHIFT_JIS_2004", b"SJIS", b"UHC"];

impl Machine {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(settings: SessionSettings, shared: Arc<Shared>, prepared_limit: usize) -> Self {
        Self {
            phase: Phase::Idle,
            failed: false,
            settings,
            statements: Statements::default(),
            shared,
            pins: Pins::default(),
            mark: None,
            sequences_at: Weak::new(),
            lending: Vec::new(),
            suspect: false,
            suspicion: Suspicion::default(),
            ddl: false,
            may_be_ddl: false,
            redefined: false,
            disturbances: None,
            books: Vec::new(),
            portals: Vec::new(),
            bound: false,
            pending: FxHashMap::default(),
            preparing: None,
            running: None,
            judged: SmallVec::new(),
            furthest: None,
            position: None,
            shows_position: false,
            lends_position: false,
            reply: BytesMut::new(),
            lexis: Lexis::default(),
            ascii_safe: true,
            utf8: true,
            read_only_by_default: false,
            asks: Asks::default(),
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

    /// The same of what only may have changed it.
    pub fn may_have_changed_catalog(&mut self) -> bool {
        let changed = self.may_be_ddl;
        self.may_be_ddl &= !self.is_idle();
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
            Phase::Held(_) | Phase::Open { .. } => b'T',
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
        self.judged.clear();
        self.asks =
            Asks { goes_on: matches!(request.end, End::Flush | End::Overflow), ..Asks::default() };
        self.forget_position();
        self.failed = match &self.phase {
            Phase::Held(begun) => begun.failed,
            _ => server_status == Some(b'E'),
        };
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
            if self.pipeline_leaves(request, buffer, server_status, judge) {
                return Step::Consult(Question::Leaving);
            }
            return match self.judge_bound(bound, request, buffer, judge) {
                Ok(decision) => Step::Exchange(decision),
                Err(step) => step,
            };
        }
        Step::Exchange(match request.end {
            End::FunctionCall => judge.primary(Reason::FunctionCall),
            End::Flush => match self.judge_pipeline(request, buffer, judge) {
                // Where it goes is settled, but not what it needs there.
                Ok(so_far) => {
                    self.asks.reads_so_far = so_far.target == Target::Replica;
                    let cut = judge.primary(Reason::PipelineCutByFlush);
                    so_far.strictest(cut).turned(cut.target, cut.reason)
                }
                Err(step) => return step,
            },
            End::Overflow if request.frames.is_empty() => {
                self.suspect = true;
                self.suspicion.opaque = true;
                judge.primary(Reason::StatementTooLarge)
            }
            End::Overflow => judge.primary(Reason::PipelineTooLarge),
            _ => match self.judge_pipeline(request, buffer, judge) {
                Ok(decision) => decision,
                Err(step) => return step,
            },
        })
    }

    /// Whether a replica may serve the request under way while there is no primary: what belongs to
    /// no node, and pipelines that are about to read. If more comes of it, the replica refuses that.
    #[must_use]
    pub fn may_stand_in(&self, decision: &Decision) -> bool {
        match decision.reason {
            Reason::Set | Reason::Reset | Reason::Show => true,
            Reason::PipelineCutByFlush => self.asks.reads_so_far,
            _ => false,
        }
    }

    /// Where the session must go whatever it asks.
    fn bound(&self) -> Option<Decision> {
        if let Phase::Open { on_replica, .. } = self.phase {
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
        // PostgreSQL drops the unnamed statement at every simple query, whoever answers it here.
        self.statements.unnamed.clear();
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
        if let Some(step) = self.show_position(&script, false) {
            return step;
        }
        if let Some(only) = only
            && let Some(step) = self
                .refuse_own_setting(only, text, server_status)
                .or_else(|| self.answer(only, text, server_status))
        {
            return step;
        }
        let effective = self.effective(&script);
        if !matches!(self.phase, Phase::Idle) {
            self.asks.sees_nothing = !relocation::sees_data(&effective);
            self.asks.binds = effective.statements.iter().any(outlook::binds);
            if self.leaves(&effective, server_status, judge) {
                return Step::Consult(Question::Leaving);
            }
        }
        let decision = match (decision, &self.phase) {
            // The primary's own transaction is as fresh as it was when it began.
            (Some(bound), _) if bound.reason == Reason::InTransaction => bound,
            (Some(bound), _) if !self.ascii_safe => judge.primary(bound.reason),
            (Some(bound), _) => judge.decide(&effective).turned(bound.target, bound.reason),
            (None, Phase::Held(begun)) => self.judge_transaction(begun.modes, &effective, judge),
            (None, _) => judge.decide(&effective),
        };
        self.judged.push((0, script.clone()));
        if self.note_calls(&effective, judge) {
            custom_names(text, &mut self.suspicion.custom);
        }
        self.note_reads(&effective, judge);
        self.note_absent(&effective, text);
        if changes(&script) || script.statements.len() > 1 || !self.ascii_safe {
            self.running = Some((script, Bytes::copy_from_slice(text)));
        }
        Step::Exchange(decision)
    }

    /// Refuses a value that one of Causeway's own settings cannot have. Inside a transaction on a
    /// server PostgreSQL takes it, as it takes any custom setting, and it means the default.
    pub(super) fn refuse_own_setting(
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
        let report = match options::check(name, text, self.furthest).err()? {
            Fault::Unknown => return Some(Step::Consult(Question::Furthest)),
            Fault::Refused(report) => report,
        };
        Some(self.refused(&report, Reason::ProxySet))
    }

    /// A request is refused before anything of it has run.
    fn refused(&mut self, report: &ErrorReport, reason: Reason) -> Step {
        report.encode(&mut self.reply);
        self.asks.refused = true;
        if matches!(self.phase, Phase::Held(_)) {
            self.phase = Phase::Lost { untold: None };
        }
        self.answered(Target::Proxy, reason)
    }

    /// `SHOW causeway.lsn` shows what is laid on the server for it just before: of a request, it shows what was
    /// before it. `follows`: something has come before this in the request that may see or write data.
    pub(super) fn show_position(&mut self, script: &Script, follows: bool) -> Option<Step> {
        let shows = |one: &Statement| one.shown.as_deref() == Some(options::LSN);
        let at = script.statements.iter().position(shows)?;
        let before = &script.statements[..at];
        let open = matches!(self.phase, Phase::Open { .. });
        if !open && (follows || before.iter().any(relocation::sees)) {
            let message = format!("SHOW {} must be the first of its request", options::LSN);
            let report = ErrorReport::error("0A000", message)
                .with_detail("It would not cover what is done before it in the same request.")
                .with_hint("Send it by itself, after the answer.");
            return Some(self.refused(&report, Reason::ProxyShow));
        }
        let Some(position) = self.position else {
            return Some(Step::Consult(Question::Position));
        };
        let statement = statement_for(options::LSN, position.to_string());
        self.shows_position = true;
        match &mut self.phase {
            Phase::Open { .. } => self.lends_position = true,
            // What was set since BEGIN is not committed.
            Phase::Held(begun) if !begun.since.is_empty() => {
                begun.since.push(Repeated::Query(statement));
            }
            _ => {
                self.settings.set(options::LSN, statement);
                self.settings.end_transaction(true);
            }
        }
        None
    }

    /// What was shown once is not shown again: a statement that is not seen to ask for it is shown nothing.
    fn forget_position(&mut self) {
        if self.shows_position && matches!(self.phase, Phase::Idle) {
            self.shows_position = false;
            self.settings.reset(options::LSN);
            self.settings.end_transaction(true);
        }
    }

    /// Answers what needs no server: the beginning of a transaction (which is held back), the end
    /// of one that was held back, and the end of a prepared statement.
    fn answer(&mut self, only: &Statement, text: &[u8], server_status: Option<u8>) -> Option<Step> {
        let free = self.pins.is_free() && server_status.is_none();
        match (&mut self.phase, &only.transaction) {
            (Phase::Idle, Some(Transaction::Begin(modes))) if free => {
                self.phase = Phase::Held(Box::new(Begun::new(text, *modes)));
                write::command_complete(&mut self.reply, only.verb);
                Some(self.answered(Target::Session, Reason::Begin))
            }
            // Not after what only a server knows the answer to.
            (Phase::Held(begun), Some(Transaction::Set(more)))
                if !begun.seen && begun.since.is_empty() && begun.texts.len() < HELD_MOST =>
            {
                let Begun { texts, modes, .. } = &mut **begun;
                texts.push(Bytes::copy_from_slice(text));
                *modes = Modes {
                    read_only: more.read_only.or(modes.read_only),
                    isolation: more.isolation.or(modes.isolation),
                    deferrable: more.deferrable.or(modes.deferrable),
                };
                write::command_complete(&mut self.reply, "SET");
                Some(self.answered(Target::Session, Reason::SetTransaction))
            }
            (Phase::Held(_), Some(Transaction::Commit { chain: false })) => {
                self.phase = Phase::Idle;
                write::command_complete(&mut self.reply, "COMMIT");
                Some(self.answered(Target::Session, Reason::NothingToEnd))
            }
            (Phase::Held(_), Some(Transaction::Rollback { chain: false })) => {
                self.phase = Phase::Idle;
                write::command_complete(&mut self.reply, "ROLLBACK");
                Some(self.answered(Target::Session, Reason::NothingToEnd))
            }
            _ => {
                let [SessionEffect::Deallocate(name)] = &only.session[..] else { return None };
                let failed = server_status == Some(b'E');
                // Of a name that was cut PostgreSQL says so.
                if failed || name.len() >= NAME_BYTES || !self.statements.remove(name.as_bytes()) {
                    return None;
                }
                write::command_complete(&mut self.reply, "DEALLOCATE");
                Some(self.answered(Target::Session, Reason::Deallocate))
            }
        }
    }

    pub(super) fn answered(&mut self, target: Target, reason: Reason) -> Step {
        if !self.asks.goes_on {
            let status = self.client_status();
            write::ready_for_query(&mut self.reply, status);
        }
        Step::Answer(Decision::new(target, reason))
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

//! The session as a machine that decides: no socket, no clock.
//!
//! It is told what the client asked and what the server answered, and says where the request goes,
//! what is sent with it, and whether the server is kept. `driver` does what it says.
//!
//! Invariants: a server is never given back inside a transaction or while a pin holds; what a
//! failed or rolled-back statement would have changed is not believed; a BEGIN that is held back has
//! reached no server.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::audit::{Suspicion, custom_names};
use super::judge::Judge;
use super::lend::executes_only;
use super::options::{self, Fault};
use super::pins::{Pin, Pins};
use super::sequences;
use super::settings::SessionSettings;
use super::statements::{Prepared, Shared, Statements};
use crate::cluster::Lsn;
use crate::protocol::request::{End, Request};
use crate::protocol::{ErrorReport, frame, write};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::server::Identity;
use crate::server::laid::statement_for;
use crate::sql::Script;
use crate::sql::statement::{
    Call, Class, Isolation, Lexis, Modes, Name, SessionEffect, Statement, Transaction,
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
    /// Something must be known first; then it is asked again.
    Consult(Question),
    /// The client is leaving.
    Terminate,
    /// Nothing: PostgreSQL ignores it as well.
    Ignore,
}

/// What the machine must know before it can say what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How far the primary is: [`Machine::furthest`].
    Furthest,
    /// What the session must not fall behind: [`Machine::position`].
    Position,
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
    /// Parse of a text that is prepared at the server, known to the client by this name.
    Named(Bytes, Arc<Prepared>),
    /// The same, prepared under the client's own name.
    Lent(Bytes, Arc<Prepared>),
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
    /// Statements that were prepared before may have another result now.
    pub(super) redefined: bool,
    pub(super) books: Vec<Book>,
    pub(super) portals: Vec<Portal>,
    /// What the request under way has prepared or closed so far, by the client's names.
    pub(super) pending: FxHashMap<Bytes, Option<Arc<Prepared>>>,
    /// The facts and the text of the simple query under way.
    pub(super) running: Option<(Arc<Script>, Bytes)>,
    /// Texts of the request that were looked up when it was judged, by where their frames begin.
    pub(super) judged: SmallVec<[(usize, Arc<Script>); 1]>,
    /// How far the primary is, for the request under way, if that was asked.
    pub furthest: Option<Lsn>,
    /// What the session must not fall behind, for the request under way, if that was asked.
    pub position: Option<Lsn>,
    /// `causeway.lsn`, to be lent to the server inside a transaction.
    pub(super) lend_position: Option<Lsn>,
    /// What is answered without a server.
    pub reply: BytesMut,
    pub(super) lexis: Lexis,
    /// Whether every byte below 0x80 is the character it looks like, in the client's encoding.
    pub(super) ascii_safe: bool,
    pub(super) utf8: bool,
    pub(super) read_only_by_default: bool,
    /// The request under way asks for currval or lastval.
    pub(super) reads_sequence: bool,
    /// The request under way may move a sequence.
    pub(super) moves_sequence: bool,
    /// Custom settings that the request under way asks for and the session does not have.
    pub(super) absent: Vec<Box<str>>,
    /// Of the request under way, a pipeline that goes on, all that is known are reads.
    reads_so_far: bool,
    /// The request under way is likely to bind the session to its server.
    pub(super) settles: bool,
    /// The request under way needs servers to be closed, or changes what they begin with.
    pub(super) disturbing: Option<Arc<Script>>,
    /// The request under way asks which statements are prepared.
    pub(super) lists_statements: bool,
    /// Most statements that are prepared per server.
    pub(super) prepared_limit: usize,
}

/// What counts of a name (`NAMEDATALEN`).
const NAME_BYTES: usize = 63;

/// Statements that cannot run while a database has servers, or that change what servers begin with.
const DISTURBING: &[&str] =
    &["ALTER DATABASE", "ALTER ROLE", "ALTER USER", "CREATE DATABASE", "DROP DATABASE"];

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
            mark: None,
            sequences_at: Weak::new(),
            lending: Vec::new(),
            suspect: false,
            suspicion: Suspicion::default(),
            ddl: false,
            redefined: false,
            books: Vec::new(),
            portals: Vec::new(),
            pending: FxHashMap::default(),
            running: None,
            judged: SmallVec::new(),
            furthest: None,
            position: None,
            lend_position: None,
            reply: BytesMut::new(),
            lexis: Lexis::default(),
            ascii_safe: true,
            utf8: true,
            read_only_by_default: false,
            reads_sequence: false,
            moves_sequence: false,
            absent: Vec::new(),
            reads_so_far: false,
            settles: false,
            disturbing: None,
            lists_statements: false,
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
        self.judged.clear();
        self.reads_sequence = false;
        self.lists_statements = false;
        self.moves_sequence = false;
        self.absent.clear();
        self.settles = false;
        self.disturbing = None;
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
            End::Flush => match self.judge_pipeline(request, buffer, judge) {
                // Where it goes is settled, but not what it needs there.
                Ok(so_far) => {
                    self.reads_so_far = so_far.target == Target::Replica;
                    Decision::primary(Reason::PipelineCutByFlush)
                }
                Err(step) => return step,
            },
            End::Overflow if request.frames.is_empty() => {
                self.suspect = true;
                Decision::primary(Reason::StatementTooLarge)
            }
            End::Overflow => Decision::primary(Reason::PipelineTooLarge),
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
            Reason::PipelineCutByFlush => self.reads_so_far,
            _ => false,
        }
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
        if let Some(step) = self.show_position(&script) {
            return step;
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
                self.judge_transaction(*modes, judge.decide_read_only(&self.effective(&script)))
            }
            (None, _) => judge.decide(&self.effective(&script)),
        };
        self.judged.push((0, script.clone()));
        let effective = self.effective(&script);
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

    /// A function that may do anything may have changed what only the server knows. True if one is
    /// called: what custom settings it may have set, its arguments may name.
    pub(super) fn note_calls(&mut self, script: &Arc<Script>, judge: &impl Judge) -> bool {
        let opaque = is_opaque(script, judge);
        if opaque {
            self.suspect = true;
            self.suspicion.opaque = true;
            self.suspicion.hidden.extend(judge.custom_settings().iter().cloned());
        }
        opaque
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
        let report = match options::check(name, text, self.furthest).err()? {
            Fault::Unknown => return Some(Step::Consult(Question::Furthest)),
            Fault::Refused(report) => report,
        };
        report.encode(&mut self.reply);
        if matches!(self.phase, Phase::Held { .. }) {
            self.phase = Phase::Lost { untold: None };
        }
        Some(self.answered(Target::Proxy, Reason::ProxySet))
    }

    /// `SHOW causeway.lsn` shows what is laid on the server for it just before.
    fn show_position(&mut self, script: &Script) -> Option<Step> {
        let shows = |one: &Statement| one.shown.as_deref() == Some(options::LSN);
        if !script.statements.iter().any(shows) {
            return None;
        }
        let Some(position) = self.position.take() else {
            return Some(Step::Consult(Question::Position));
        };
        if matches!(self.phase, Phase::Open { .. }) {
            self.lend_position = Some(position);
        } else {
            let statement = statement_for(options::LSN, &position.to_string());
            self.settings.set(options::LSN, statement);
            self.settings.end_transaction(true);
        }
        None
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
        let status = self.client_status();
        write::ready_for_query(&mut self.reply, status);
        Step::Answer(Decision::new(target, reason))
    }

    /// A pipeline goes where its strictest statement goes.
    fn judge_pipeline(
        &mut self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Result<Decision, Step> {
        let mut verdict: Option<Decision> = None;
        let mut modes = match &self.phase {
            Phase::Held { modes, .. } => Some(*modes),
            _ => None,
        };
        for frame in &request.frames {
            let body = frame.body(buffer);
            let script = match frame.kind {
                b'P' => match parse_fields(body) {
                    Some((_, text, _)) => {
                        let script = judge.script(text, self.lexis);
                        self.judged.push((frame.start, script.clone()));
                        if let [only] = &script.statements[..]
                            && let Some(step) = self.refuse_own_setting(only, text, None)
                        {
                            return Err(step);
                        }
                        script
                    }
                    None => return Ok(Decision::primary(Reason::NotUnderstood)),
                },
                b'B' | b'D' => {
                    let name = match frame.kind {
                        b'B' => bind_fields(body).map(|(_, name, _)| name),
                        _ if body.first() == Some(&b'S') => statement_named(body),
                        _ => continue,
                    };
                    match name {
                        None => return Ok(Decision::primary(Reason::NotUnderstood)),
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
            if let Some(step) = self.show_position(&script) {
                return Err(step);
            }
            let script = self.effective(&script);
            self.note_reads(&script, judge);
            if frame.kind == b'P' {
                self.note_absent(&script, body);
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
        Ok(verdict.unwrap_or_else(|| match modes {
            Some(_) => Decision::primary(Reason::Begin),
            None => Decision::primary(Reason::UnknownPrepared),
        }))
    }

    /// The facts of what a script runs: of an EXECUTE those of the statement that it names.
    pub(super) fn effective(&self, script: &Arc<Script>) -> Arc<Script> {
        if let [only] = &script.statements[..]
            && let Some(name) = executes_only(only)
            && let Some(prepared) = self.named(name.as_bytes())
        {
            return prepared.script.clone();
        }
        script.clone()
    }

    /// Which custom settings a text asks for that do not exist in the session: on a server where they
    /// do they would be empty, not absent.
    fn note_absent(&mut self, script: &Script, text: &[u8]) {
        let asks = |statement: &Statement| {
            let custom = |name: &str| name.contains('.') && !name.starts_with("causeway.");
            statement.shown.as_deref().is_some_and(custom)
                || statement.calls.iter().any(|call| &*call.name.name == "current_setting")
        };
        if script.statements.iter().any(asks) {
            let mut names = BTreeSet::new();
            custom_names(text, &mut names);
            self.absent.extend(names.into_iter().filter(|name| !self.settings.exists(name)));
        }
    }

    /// What a request does to servers that are not its own: the facts of the text that does it.
    #[must_use]
    pub fn disturbing(&self) -> Option<&Script> {
        self.disturbing.as_deref()
    }

    /// What of the session itself a script asks for, and what it wants a server for.
    fn note_reads(&mut self, script: &Arc<Script>, judge: &impl Judge) {
        self.moves_sequence |= judge.moves_sequence(script);
        self.settles |= script.statements.iter().any(settles);
        let disturbs = |statement: &Statement| DISTURBING.contains(&statement.verb);
        if script.statements.iter().any(disturbs) {
            self.disturbing = Some(script.clone());
        }
        self.reads_sequence |= sequences::reads(script);
        self.lists_statements |= script.statements.iter().any(|statement| {
            let view = |name: &Name| &*name.name == "pg_prepared_statements";
            let function = |call: &Call| &*call.name.name == "pg_prepared_statement";
            statement.relations.iter().any(view) || statement.calls.iter().any(function)
        });
    }
}

/// Whether a statement binds the session to its server for long. An advisory lock does so, too, but
/// mostly for a moment.
fn settles(statement: &Statement) -> bool {
    let binds = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Listen
                | SessionEffect::CreateTemp
                | SessionEffect::Declare { hold: true }
        )
    };
    statement.session.iter().any(binds)
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

/// Whether a script calls what may do anything.
pub(super) fn is_opaque(script: &Arc<Script>, judge: &impl Judge) -> bool {
    let procedure = |statement: &Statement| statement.class == Class::Procedure;
    let unknown = |call: &Call| !sequences::is_harmless(call);
    let calls = |statement: &Statement| statement.calls.iter().any(unknown);
    script.statements.iter().any(procedure)
        || script.statements.iter().any(calls)
            // Of several statements the decision tells no more than that they are several.
            && (script.statements.len() > 1
                || matches!(
                    judge.decide(script).reason,
                    Reason::VolatileFunction | Reason::UnknownFunction
                ))
}

/// The parts of a Parse: name, text, parameter types.
pub(super) fn parse_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = frame::cstr(body)?;
    let (text, types) = frame::cstr(rest)?;
    Some((significant(name), text, types))
}

/// The parts of a Bind: portal, statement, and the rest.
pub(super) fn bind_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (portal, rest) = frame::cstr(body)?;
    let (statement, rest) = frame::cstr(rest)?;
    Some((portal, significant(statement), rest))
}

/// The statement that a Describe or a Close names; `None` if it names a portal.
pub(super) fn statement_named(body: &[u8]) -> Option<&[u8]> {
    let [b'S', rest @ ..] = body else { return None };
    frame::cstr(rest).map(|(name, _)| significant(name))
}

/// What PostgreSQL keeps of a statement's name.
fn significant(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES)]
}

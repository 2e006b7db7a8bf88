//! What a request asks of servers, read from its texts before it goes anywhere.
//!
//! Owns the judgement of a pipeline and of a transaction as a whole, and what of the session itself a text asks
//! for. Pure, as the machine is.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::audit::custom_names;
use super::fields::{bind_fields, parse_fields, statement_named};
use super::judge::Judge;
use super::lend::executes_only;
use super::machine::Machine;
use super::options::{LSN, SESSION_KEY, value_in};
use super::phase::{Begun, Phase};
use super::signal::Signal;
use super::step::Step;
use super::texts::{Runs, Texts};
use super::{relocation, sequences};
use crate::protocol::request::{End, Frame, Request};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::sql::statement::{
    Call, Class, Hints, Isolation, Modes, Name, SessionEffect, Statement, Transaction,
};
use crate::sql::{self, Script, is_transaction_mode};

/// Statements that cannot run while a database has servers, or that change what servers begin with, or
/// who may open them.
const DISTURBING: &[&str] = &[
    "ALTER DATABASE",
    "ALTER ROLE",
    "CREATE DATABASE",
    "CREATE ROLE",
    "DROP DATABASE",
    "DROP ROLE",
];

impl Machine {
    /// A pipeline goes where its strictest statement goes.
    pub(super) fn judge_pipeline(
        &mut self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Result<Decision, Step> {
        let mut verdict: Option<Decision> = None;
        let mut modes = match &self.phase {
            Phase::Held(begun) => Some(begun.modes),
            _ => None,
        };
        // What was parsed on the way was judged there.
        let mut parsed: SmallVec<[(&[u8], Frame); 2]> = SmallVec::new();
        let mut sees = request.end != End::Sync;
        let mut follows = false;
        for frame in &request.frames {
            let body = frame.body(buffer);
            let script = match frame.kind {
                b'P' => match parse_fields(body) {
                    Some((name, text, _)) => {
                        let script = judge.script(text, self.lexis);
                        self.judged.push((frame.start, script.clone()));
                        if let [only] = &script.statements[..]
                            && let Some(step) = self.refuse_own_setting(only, text, None)
                        {
                            return Err(step);
                        }
                        parsed.push((name, *frame));
                        script
                    }
                    None => return Ok(judge.primary(Reason::NotUnderstood)),
                },
                b'B' | b'D' => {
                    let name = match frame.kind {
                        b'B' => bind_fields(body).map(|(_, name, _)| name),
                        _ if body.first() == Some(&b'S') => statement_named(body),
                        _ => continue,
                    };
                    let Some(name) = name else {
                        return Ok(judge.primary(Reason::NotUnderstood));
                    };
                    match parsed.iter().rev().find(|(known, _)| *known == name) {
                        // Of several that are parsed the one that is bound begins.
                        Some((_, brought)) => {
                            if frame.kind == b'B' && verdict.is_none() {
                                self.note_begin(*brought, buffer, &mut modes);
                            }
                            continue;
                        }
                        None => match self.known(name) {
                            Some((script, _)) => script.clone(),
                            None => continue,
                        },
                    }
                }
                _ => continue,
            };
            if begins(&script).is_some() && verdict.is_none() && matches!(self.phase, Phase::Idle) {
                // What is only parsed here need not be what begins it.
                if frame.kind == b'B' || modes.is_none() {
                    self.begin_with(&script, *frame, buffer, &mut modes);
                }
                continue;
            }
            if let Some(step) = self.show_position(&script, follows) {
                return Err(step);
            }
            let script = self.effective(&script);
            let sees_data = relocation::sees_data(&script);
            follows |= sees_data;
            sees = sees || modes.is_some() && sees_data;
            self.note_reads(&script, judge);
            if frame.kind == b'P' {
                self.note_absent(&script, body);
            }
            let one = match modes {
                Some(modes) => self.judge_transaction(modes, &script, judge),
                None => judge.decide(&script),
            };
            verdict = Some(verdict.map_or(one, |before| before.strictest(one)));
        }
        self.asks.sees_nothing = !sees;
        Ok(verdict.unwrap_or_else(|| match modes {
            Some(_) => judge.primary(Reason::Begin),
            None => judge.primary(Reason::UnknownPrepared),
        }))
    }

    /// A statement that this request has parsed is bound: if it is a BEGIN, it is what begins the transaction.
    fn note_begin(&mut self, brought: Frame, buffer: &[u8], modes: &mut Option<Modes>) {
        let judged = self.judged.iter().find(|(start, _)| *start == brought.start);
        if let Some((_, script)) = judged
            && matches!(self.phase, Phase::Idle)
        {
            let script = script.clone();
            self.begin_with(&script, brought, buffer, modes);
        }
    }

    /// The pipeline begins a transaction with this statement, which `frame` brings or names.
    fn begin_with(
        &mut self,
        script: &Script,
        frame: Frame,
        buffer: &[u8],
        modes: &mut Option<Modes>,
    ) {
        let Some(begin) = begins(script) else { return };
        *modes = Some(begin);
        let text = self.text_of(frame, buffer);
        self.asks.beginning = text.map(|text| Box::new(Begun::new(text, begin)));
    }

    /// What a pipeline asks of the server that its session keeps: the level and the lag of its strictest
    /// statement, but for those of a transaction on the primary, which are no matter.
    pub(super) fn judge_bound(
        &mut self,
        bound: Decision,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Result<Decision, Step> {
        let in_transaction = bound.reason == Reason::InTransaction;
        if in_transaction && !self.may_show_position(request, buffer) {
            return Ok(bound);
        }
        let mut verdict = match request.end {
            End::Sync if self.ascii_safe => None,
            _ => Some(judge.primary(bound.reason)),
        };
        let mut texts = Texts::default();
        let mut follows = false;
        for frame in &request.frames {
            let script = match texts.next(*frame, buffer, self, judge) {
                Runs::Script(script) => script,
                Runs::Nothing | Runs::Unknown => continue,
            };
            // What is parsed and bound is one statement.
            if frame.kind != b'B' || !texts.has_parsed(*frame, buffer) {
                if let Some(step) = self.show_position(&script, follows) {
                    return Err(step);
                }
                follows |= relocation::sees_data(&script);
                if !in_transaction && self.ascii_safe {
                    let one = judge.decide(&script);
                    verdict = Some(verdict.map_or(one, |before| before.strictest(one)));
                }
            }
        }
        Ok(verdict.map_or(bound, |verdict| verdict.turned(bound.target, bound.reason)))
    }

    /// Whether a pipeline is worth a look for `SHOW causeway.lsn`.
    fn may_show_position(&self, request: &Request, buffer: &[u8]) -> bool {
        request.frames.iter().any(|frame| match frame.kind {
            b'P' => {
                let mut words = frame.body(buffer).windows(LSN.len());
                words.any(|word| word.eq_ignore_ascii_case(LSN.as_bytes()))
            }
            b'B' => {
                let named =
                    bind_fields(frame.body(buffer)).and_then(|(_, name, _)| self.known(name));
                named.is_some_and(|(script, _)| {
                    script.statements.iter().any(|one| one.shown.as_deref() == Some(LSN))
                })
            }
            _ => false,
        })
    }

    /// The facts and the text of the statement that the session knows by this name.
    fn known(&self, name: &[u8]) -> Option<(&Arc<Script>, &[u8])> {
        if name.is_empty() {
            return self.statements.unnamed.get().map(|(text, _, script, _)| (script, text));
        }
        self.statements.get(name).map(|prepared| (&prepared.script, &prepared.text[..]))
    }

    /// The text that a Parse brings or a Bind names.
    fn text_of<'a>(&'a self, frame: Frame, buffer: &'a [u8]) -> Option<&'a [u8]> {
        let body = frame.body(buffer);
        match frame.kind {
            b'P' => parse_fields(body).map(|(_, text, _)| text),
            b'B' => {
                bind_fields(body).and_then(|(_, name, _)| self.known(name)).map(|known| known.1)
            }
            _ => None,
        }
    }

    /// The transaction's place by its modes and its first text.
    pub(super) fn judge_transaction(
        &self,
        modes: Modes,
        first: &Arc<Script>,
        judge: &impl Judge,
    ) -> Decision {
        let serializable = match modes.isolation {
            Some(isolation) => isolation == Isolation::Serializable,
            None => judge.is_serializable(),
        };
        let alone = judge.decide(first);
        if serializable {
            return alone.turned(Target::Primary, Reason::Serializable);
        }
        if !modes.read_only.unwrap_or(self.read_only_by_default) {
            return alone.turned(Target::Primary, Reason::ReadWriteTransaction);
        }
        let target = match alone.target {
            Target::Session | Target::Proxy if first.statements.iter().all(is_portable) => {
                Target::Replica
            }
            target => target,
        };
        match target {
            Target::Replica => Decision { target, reason: Reason::ReadOnlyTransaction, ..alone },
            _ => alone,
        }
    }

    /// The facts of what a script runs: of an EXECUTE those of the statement that it names. Its own hints go
    /// before that one's.
    pub(super) fn effective(&self, script: &Arc<Script>) -> Arc<Script> {
        if let [only] = &script.statements[..]
            && let Some(name) = executes_only(only)
            && let Some(prepared) = self.named(name.as_bytes())
        {
            if script.hints == Hints::default() {
                return prepared.script.clone();
            }
            let hints = script.hints.before(&prepared.script.hints);
            return Arc::new(Script { hints, ..(*prepared.script).clone() });
        }
        script.clone()
    }

    /// Code that may do anything may have changed what only the server knows. True if functions are
    /// called: what custom settings they may have set, their arguments may name.
    pub(super) fn note_calls(&mut self, script: &Arc<Script>, judge: &impl Judge) -> bool {
        // What has been defined and is not committed no catalog shows.
        let defining = (self.ddl || self.may_be_ddl) && !self.is_idle();
        if !is_opaque(script, judge) && !defining {
            return false;
        }
        let unknown = |call: &Call| !sequences::is_harmless(call);
        let calls = |statement: &Statement| {
            statement.class == Class::Procedure || statement.calls.iter().any(unknown)
        };
        let calls = script.statements.iter().any(calls);
        self.suspect |= calls || defining || judge.knows_catalog();
        self.suspicion.opaque = true;
        self.suspicion.called |= calls;
        self.suspicion.hidden.extend(judge.custom_settings().iter().cloned());
        calls
    }

    /// Which custom settings a text asks for that do not exist in the session: on a server where they
    /// do they would be empty, not absent.
    pub(super) fn note_absent(&mut self, script: &Script, text: &[u8]) {
        let asks = |statement: &Statement| {
            let custom = |name: &str| name.contains('.') && !name.starts_with("causeway.");
            statement.shown.as_deref().is_some_and(custom)
                || statement.calls.iter().any(|call| &*call.name.name == "current_setting")
        };
        if script.statements.iter().any(asks) {
            let mut names = BTreeSet::new();
            custom_names(text, &mut names);
            let mut absent = std::mem::take(&mut self.asks.absent).into_vec();
            absent.extend(names.into_iter().filter(|name| !self.settings.exists(name)));
            self.asks.absent = absent.into();
        }
    }

    /// The key that a request takes by its texts, if it succeeds. What is bound or set by a function counts as soon
    /// as it has run.
    #[must_use]
    pub fn key_taken(
        &self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Option<String> {
        let text = |frame: &Frame| {
            let body = frame.body(buffer);
            match frame.kind {
                b'Q' => Some(body.strip_suffix(b"\0").unwrap_or(body)),
                b'P' => parse_fields(body).map(|(_, text, _)| text),
                _ => None,
            }
        };
        request.frames.iter().rev().filter_map(text).find_map(|text| {
            let script = judge.script(text, self.lexis);
            let at = script.statements.iter().rposition(takes_key)?;
            let ranges = sql::split(text, self.lexis);
            let part = ranges.get(at).filter(|_| ranges.len() == script.statements.len())?;
            value_in(&text[part.clone()]).filter(|key| !key.is_empty())
        })
    }

    /// What of the session itself a script asks for, and what it wants a server for.
    pub(super) fn note_reads(&mut self, script: &Arc<Script>, judge: &impl Judge) {
        self.asks.moves_sequence |= judge.moves_sequence(script);
        self.asks.settles |= script.statements.iter().any(settles);
        self.asks.takes_key |= script.statements.iter().any(takes_key);
        let disturbs = |statement: &Statement| DISTURBING.contains(&statement.verb);
        let commits = |one: &Statement| matches!(one.transaction, Some(Transaction::Commit { .. }));
        self.asks.commits |= script.statements.iter().any(commits);
        if script.statements.iter().any(disturbs) {
            self.asks.disturbing = Some(script.clone());
        }
        self.asks.reads_sequence |= sequences::reads(script);
        for statement in &script.statements {
            let view = |name: &Name| &*name.name == "pg_prepared_statements";
            self.asks.lists_statements |= statement.relations.iter().any(view);
            for call in &statement.calls {
                match &*call.name.name {
                    "pg_prepared_statement" => self.asks.lists_statements = true,
                    "pg_backend_pid" => self.asks.its_server = true,
                    "pg_terminate_backend" => self.asks.signal = Some(Signal::Terminate),
                    "pg_cancel_backend" => self.asks.signal = Some(Signal::Cancel),
                    _ => {}
                }
            }
        }
    }

    /// What a request does to servers that are not its own: the facts of the text that does it.
    #[must_use]
    pub fn disturbing(&self) -> Option<&Script> {
        self.asks.disturbing.as_deref()
    }
}

/// The modes of a script that is a BEGIN and nothing else.
fn begins(script: &Script) -> Option<Modes> {
    match &script.statements[..] {
        [Statement { transaction: Some(Transaction::Begin(begin)), .. }] => Some(*begin),
        _ => None,
    }
}

/// Whether a statement sets `causeway.session_key`.
fn takes_key(statement: &Statement) -> bool {
    let sets = |effect: &SessionEffect| matches!(effect, SessionEffect::Set { name, .. } if &**name == SESSION_KEY);
    statement.session.iter().any(sets)
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

/// Whether a statement that prepares a read-only transaction for its reads does no harm on a replica, and can be
/// done again elsewhere.
fn is_portable(statement: &Statement) -> bool {
    if let Some(transaction) = &statement.transaction {
        return matches!(transaction, Transaction::Savepoint(_));
    }
    let portable = |effect: &SessionEffect| match effect {
        SessionEffect::Set { name, .. } => !is_transaction_mode(name),
        SessionEffect::SetConfig | SessionEffect::Prepare(_) | SessionEffect::Deallocate(_) => true,
        _ => false,
    };
    statement.understood && statement.session.iter().all(portable)
}

/// Whether running a script may leave something with the session that its text does not show.
pub(super) fn is_opaque(script: &Arc<Script>, judge: &impl Judge) -> bool {
    judge.decide(script).leaves
}

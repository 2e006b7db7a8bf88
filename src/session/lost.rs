//! A transaction whose server is gone: what its client hears until it has ended it, and what may be
//! said of what the server ran last.

use super::judge::Judge;
use super::machine::{Machine, Phase, Step, bind_fields, parse_fields};
use crate::protocol::request::{End, Request};
use crate::protocol::{ErrorReport, frame, write};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::sql::statement::{Class, Statement, Transaction};

impl Machine {
    pub(super) fn answer_lost_query(&mut self, only: Option<&Statement>) -> Step {
        if only.is_some_and(ends_transaction) {
            self.phase = Phase::Idle;
            write::command_complete(&mut self.reply, "ROLLBACK");
        } else {
            self.lost_report().encode(&mut self.reply);
        }
        self.answered(Target::Session, Reason::FailedTransaction)
    }

    /// Answers a pipeline inside a transaction whose server is gone, as a failed one would.
    pub(super) fn answer_lost(
        &mut self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
    ) -> Step {
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

    /// The client has not yet heard that its transaction's server is gone.
    pub fn tell_lost(&mut self, report: ErrorReport) {
        if let Phase::Lost { untold } = &mut self.phase {
            *untold = Some(Box::new(report));
        }
    }

    pub(super) fn lost_report(&mut self) -> ErrorReport {
        match &mut self.phase {
            Phase::Lost { untold } => untold.take().map(|report| *report),
            _ => None,
        }
        .unwrap_or_else(failed_transaction)
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

    /// Whether a request does nothing but end its transaction without a commit.
    pub fn rolls_back(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> bool {
        let scripts = self.scripts(request, buffer, judge).unwrap_or_default();
        let mut statements = scripts.iter().flat_map(|script| &script.statements).peekable();
        statements.peek().is_some()
            && statements.all(|statement| {
                matches!(statement.transaction, Some(Transaction::Rollback { chain: false }))
            })
    }

    /// Whether a request surely changes nothing.
    pub fn only_reads(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> bool {
        self.all(request, buffer, judge, |statement| {
            statement.understood && statement.class == Class::Read && statement.calls.is_empty()
        })
    }

    /// Whether a request asks for the end of servers, perhaps its own.
    pub fn ends_servers(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> bool {
        let ends = |statement: &Statement| {
            statement.calls.iter().any(|call| &*call.name.name == "pg_terminate_backend")
        };
        self.scripts(request, buffer, judge)
            .is_some_and(|scripts| scripts.iter().flat_map(|script| &script.statements).any(ends))
    }

    /// Whether something holds of every statement that a request runs, and all are known.
    pub(super) fn all(
        &self,
        request: &Request,
        buffer: &[u8],
        judge: &impl Judge,
        holds: impl Fn(&Statement) -> bool,
    ) -> bool {
        self.scripts(request, buffer, judge)
            .is_some_and(|scripts| scripts.iter().flat_map(|script| &script.statements).all(holds))
    }
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

//! A transaction whose server is gone: what its client hears until it has ended it.

use bytes::Bytes;

use super::fields::{parse_fields, statement_named};
use super::judge::Judge;
use super::machine::Machine;
use super::phase::Phase;
use super::step::Step;
use super::texts::{Runs, Texts};
use crate::protocol::request::Request;
use crate::protocol::{ErrorReport, write};
use crate::routing::Target;
use crate::routing::decision::Reason;
use crate::sql::statement::{Statement, Transaction};

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
        let mut texts = Texts::default();
        let mut ending = false;
        for frame in &request.frames {
            let body = frame.body(buffer);
            match texts.next(*frame, buffer, self, judge) {
                Runs::Nothing => {}
                Runs::Unknown => ending = false,
                Runs::Script(script) => {
                    ending = matches!(&script.statements[..], [only] if ends_transaction(only));
                }
            }
            if !ending && matches!(frame.kind, b'P' | b'B' | b'D' | b'E' | b'F') {
                self.lost_report().encode(&mut self.reply);
                self.asks.refused = true;
                break;
            }
            match frame.kind {
                b'P' => {
                    self.keep_parsed(body, judge);
                    write::message(&mut self.reply, b'1', |_| ());
                }
                b'B' => write::message(&mut self.reply, b'2', |_| ()),
                b'C' => {
                    if let Some(name) = statement_named(body) {
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
        self.answered(Target::Session, Reason::FailedTransaction)
    }

    /// Takes a statement that ends the transaction into the books, as the server would have.
    fn keep_parsed(&mut self, body: &[u8], judge: &impl Judge) {
        let Some((name, text, types)) = parse_fields(body) else { return };
        let script = judge.script(text, self.lexis);
        let meaning = self.settings.current().meaning();
        if name.is_empty() {
            self.statements.unnamed.set(text, types, meaning, script);
        } else {
            let prepared = self.shared.intern(text, types, meaning, &script);
            self.statements.insert(Bytes::copy_from_slice(name), prepared);
        }
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

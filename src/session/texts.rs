//! What the frames of one request run, by the session's books and by what the request itself has
//! parsed on its way: a Bind after a Parse of its name, or of no name, runs what that Parse brought.

use std::sync::Arc;

use super::fields::{bind_fields, parse_fields};
use super::judge::Judge;
use super::machine::Machine;
use super::step::Book;
use crate::protocol::request::{End, Frame, Request};
use crate::sql::Script;
use crate::sql::statement::{Class, Statement, Transaction};

/// A walk over the frames of a request.
#[derive(Debug, Default)]
pub(super) struct Texts<'a> {
    /// Names and texts that were parsed on the way, the latest last.
    parsed: Vec<(&'a [u8], Arc<Script>)>,
}

/// What a frame runs.
#[derive(Debug)]
pub(super) enum Runs {
    /// Nothing by itself.
    Nothing,
    /// This.
    Script(Arc<Script>),
    /// It is not a frame of its kind, or names what nobody knows.
    Unknown,
}

impl<'a> Texts<'a> {
    /// What the next frame runs.
    pub(super) fn next(
        &mut self,
        frame: Frame,
        buffer: &'a [u8],
        machine: &Machine,
        judge: &impl Judge,
    ) -> Runs {
        let body = frame.body(buffer);
        let script = match frame.kind {
            b'Q' => Some(judge.script(body.strip_suffix(b"\0").unwrap_or(body), machine.lexis)),
            b'P' => parse_fields(body).map(|(name, text, _)| {
                let script = judge.script(text, machine.lexis);
                self.parsed.push((name, script.clone()));
                script
            }),
            b'B' => bind_fields(body).and_then(|(_, name, _)| self.named(name, machine)),
            _ => return Runs::Nothing,
        };
        script.map_or(Runs::Unknown, |script| Runs::Script(machine.effective(&script)))
    }

    /// Whether a Bind names what was parsed on the way.
    pub(super) fn has_parsed(&self, bind: Frame, buffer: &[u8]) -> bool {
        let name = bind_fields(bind.body(buffer)).map(|(_, name, _)| name);
        self.parsed.iter().any(|(known, _)| Some(*known) == name)
    }

    fn named(&self, name: &[u8], machine: &Machine) -> Option<Arc<Script>> {
        let parsed = self.parsed.iter().rev().find(|(known, _)| *known == name);
        parsed.map(|(_, script)| script.clone()).or_else(|| match name {
            b"" => machine.statements.unnamed.get().map(|unnamed| unnamed.2.clone()),
            name => machine.statements.get(name).map(|prepared| prepared.script.clone()),
        })
    }
}

/// The facts of all that a request runs, as far as they are known.
#[derive(Debug, Default)]
pub struct Ran(Option<Vec<Arc<Script>>>);

impl Ran {
    /// Whether it might end its transaction with a commit.
    #[must_use]
    pub fn commits(&self) -> bool {
        !self.all(|statement| {
            statement.understood
                && !matches!(
                    statement.transaction,
                    Some(Transaction::Commit { .. } | Transaction::Prepare)
                )
                && !matches!(statement.class, Class::Procedure | Class::Unknown)
        })
    }

    /// Whether it does nothing but end its transaction without a commit.
    #[must_use]
    pub fn rolls_back(&self) -> bool {
        self.scripts().iter().any(|script| !script.statements.is_empty())
            && self.all(|statement| {
                matches!(statement.transaction, Some(Transaction::Rollback { chain: false }))
            })
    }

    /// Whether a server that ends before it has answered has undone all of it. A procedure commits on its way, and
    /// so does what cannot run in a transaction block.
    #[must_use]
    pub fn is_undone(&self) -> bool {
        self.all(|statement| {
            let class = statement.class;
            statement.understood
                && statement.transaction.is_none()
                && matches!(class, Class::Read | Class::LockingRead | Class::Write)
        })
    }

    /// Whether it surely changes nothing.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        self.all(|statement| {
            statement.understood && statement.class == Class::Read && statement.calls.is_empty()
        })
    }

    /// Whether it asks for the end of servers, perhaps its own.
    #[must_use]
    pub fn ends_servers(&self) -> bool {
        self.scripts().iter().flat_map(|script| &script.statements).any(ends_servers)
    }

    /// The facts of every text; none if not all are known.
    #[must_use]
    pub fn scripts(&self) -> &[Arc<Script>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether something holds of every statement, and all are known.
    fn all(&self, holds: impl Fn(&Statement) -> bool) -> bool {
        let all = |scripts: &Vec<Arc<Script>>| {
            scripts.iter().flat_map(|script| &script.statements).all(holds)
        };
        self.0.as_ref().is_some_and(all)
    }
}

/// Whether a statement asks for the end of servers.
pub(super) fn ends_servers(statement: &Statement) -> bool {
    statement.calls.iter().any(|call| &*call.name.name == "pg_terminate_backend")
}

impl Machine {
    /// Whether the exchange under way asked for the end of servers, perhaps its own: also what came when
    /// it had begun.
    #[must_use]
    pub fn has_ended_servers(&self) -> bool {
        self.books.iter().any(|book| matches!(book, Book::Ending))
    }

    /// What a request runs. Its bytes must still be in the buffer.
    #[must_use]
    pub fn ran(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> Ran {
        if !matches!(request.end, End::Query | End::Sync) {
            return Ran::default();
        }
        let mut texts = Texts::default();
        let mut scripts = Vec::new();
        for frame in &request.frames {
            match texts.next(*frame, buffer, self, judge) {
                Runs::Nothing => {}
                Runs::Script(script) => scripts.push(script),
                Runs::Unknown => return Ran::default(),
            }
        }
        Ran(Some(scripts))
    }
}

//! Sequence values: currval and lastval speak of what the session itself has done, on one server.
//!
//! A session that moves a sequence leaves its mark on the server, after the values of others there
//! are discarded. Other sessions that move sequences leave a marked server alone as long as they find
//! another, and the session itself goes back to it, so that what it asks for is still there. Once it
//! has asked it is pinned, for it will ask again. A server without its mark is discarded before it is
//! asked: an error where a direct session has a value can happen if the server had to be shared,
//! another session's value never.

use std::sync::{Arc, Weak};

use super::judge::Judge;
use super::lend::run_unseen;
use super::machine::Machine;
use super::step::Book;
use crate::catalog::builtin;
use crate::pool::Wish;
use crate::protocol::response::Sent;
use crate::protocol::write;
use crate::server::conn::Sequences;
use crate::server::{Identity, ServerConn};
use crate::sql::Script;
use crate::sql::statement::{Call, SessionEffect};

const DISCARD: &[u8] = b"DISCARD SEQUENCES";

impl Machine {
    /// What the request under way would like of its server.
    #[must_use]
    pub fn wish<'a>(&'a self, home: Option<&'a Arc<Identity>>) -> Wish<'a> {
        Wish {
            home: home.map(Arc::as_ref),
            unreserved: self.asks.moves_sequence,
            mark: self.mark.as_ref(),
            without: &self.asks.absent,
            // What the session asks for there later cannot be known now.
            only: self.asks.settles.then(|| self.settings.floor()),
        }
    }

    /// The server that has the session's sequence values, if the request under way is about such and
    /// there still is one.
    #[must_use]
    pub fn sequences_at(&self) -> Option<Arc<Identity>> {
        let concerned = self.asks.moves_sequence || self.asks.reads_sequence;
        if concerned { self.sequences_at.upgrade() } else { None }
    }

    /// Whether the request under way asks for sequence values.
    #[must_use]
    pub fn reads_sequence(&self) -> bool {
        self.asks.reads_sequence
    }

    /// Sees to it that a statement that moves or reads sequences finds no values but the session's own.
    pub(super) fn claim_sequences(
        &mut self,
        script: &Arc<Script>,
        in_pipeline: bool,
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        if self.owns_sequences(server) {
            return;
        }
        let moves = judge.moves_sequence(script);
        if moves || reads(script) {
            self.claim(moves, in_pipeline, server);
        }
    }

    /// The same for what was not examined: it may do both.
    pub(super) fn claim_for_unexamined(&mut self, server: &mut ServerConn) {
        if !self.owns_sequences(server) {
            self.claim(true, true, server);
        }
    }

    fn claim(&mut self, moves: bool, in_pipeline: bool, server: &mut ServerConn) {
        if self.fails_first(server) {
            return;
        }
        if !matches!(server.sequences, Sequences::Clean) {
            let tag = self.book(Book::Discard);
            if in_pipeline && !self.may_stand_alone(server) {
                run_unseen(DISCARD, tag, server);
            } else {
                write::query(&mut server.output, DISCARD);
                server.responses.expect_own(Sent::Query, Some(tag));
                server.unnamed = None;
            }
            server.sequences = Sequences::Clean;
        }
        if moves {
            let mark = self.mark.get_or_insert_with(|| Arc::new(()));
            server.sequences = Sequences::Of(Arc::downgrade(mark));
            self.sequences_at = Arc::downgrade(&server.identity);
        }
    }

    /// Whether a query of its own at this place in a pipeline disturbs nothing. What runs in the pipeline
    /// itself makes it a transaction of several statements, in which not all can run (VACUUM, CREATE
    /// INDEX CONCURRENTLY); but a query ends a transaction that the pipeline has begun, and an unnamed
    /// statement.
    fn may_stand_alone(&self, server: &ServerConn) -> bool {
        let unnamed = || self.books.iter().any(|book| matches!(book, Book::Unnamed(_)));
        !self.bound && server.responses.status() == b'I' && !unnamed()
    }

    /// DISCARD SEQUENCES succeeded.
    pub(super) fn forget_sequences(&mut self, server: &mut ServerConn) {
        self.sequences_at = Weak::new();
        server.sequences = Sequences::Clean;
    }

    /// Whether the sequence values that the server has are the session's, and all it has.
    fn owns_sequences(&self, server: &ServerConn) -> bool {
        self.sequences_at.as_ptr() == Arc::as_ptr(&server.identity)
            && self.mark.as_ref().is_some_and(|mark| server.sequences.are_of(mark))
    }
}

/// Whether a script asks for currval or lastval.
pub(super) fn reads(script: &Script) -> bool {
    let reads = |effect: &SessionEffect| matches!(effect, SessionEffect::SequenceRead);
    script.statements.iter().any(|statement| statement.session.iter().any(reads))
}

/// Whether a call surely does nothing to the session.
pub(super) fn is_harmless(call: &Call) -> bool {
    let name = &*call.name.name;
    builtin::is_safe_call_of(name, call.arity) || builtin::is_harmless_volatile(name)
}

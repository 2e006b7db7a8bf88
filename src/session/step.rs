//! What the machine says, and what it writes down to be believed later.
//!
//! Owns the words between [`machine`](super::machine) and [`driver`](super::driver); decides nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::phase::Bound;
use super::statements::Prepared;
use crate::routing::Decision;
use crate::sql::Script;
use crate::sql::subject::Subject;

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
    /// Whether the transaction on a replica may be ended there and be begun anew at the primary:
    /// [`Machine::on_left_replica`], [`Machine::stay`].
    Leaving,
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
    /// A statement with session effects ran, with values if they count.
    Executed(Arc<Script>, Bytes, Option<Arc<Bound>>),
    /// DISCARD SEQUENCES, ahead of what moves or reads sequences.
    Discard,
    /// Something was bound that asks for the end of servers, perhaps its own.
    Ending,
}

/// A portal whose execution changes the session.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) name: Bytes,
    pub(super) script: Arc<Script>,
    pub(super) text: Bytes,
    /// What was bound to it, if that is what changes the session.
    pub(super) bound: Option<Arc<Bound>>,
}

/// A statement that has run and that concerns servers of others.
#[derive(Debug)]
pub struct Disturbance {
    /// As a command tag has it.
    pub verb: &'static str,
    /// Whom it is about.
    pub subject: Subject,
    /// Servers may begin differently afterwards.
    pub begins: bool,
    /// Its transaction has ended, and well.
    pub settled: bool,
}

/// All of them since somebody asked: as a rule there are none.
#[derive(Debug, Default)]
pub struct Disturbances(pub Vec<Disturbance>);

//! What one request asks of servers beside its answer, as far as its texts tell.
//!
//! Filled while the request is judged and composed, and begun anew with the next: nothing of it outlives a request.

use std::sync::Arc;

use super::phase::Begun;
use super::signal::{Signal, Signals};
use crate::sql::Script;

/// What the request under way asks.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one request")]
pub(super) struct Asks {
    /// For currval or lastval.
    pub(super) reads_sequence: bool,
    /// It may move a sequence.
    pub(super) moves_sequence: bool,
    /// For custom settings that the session does not have.
    pub(super) absent: Box<[Box<str>]>,
    /// For reads only, as far as a pipeline that goes on is known.
    pub(super) reads_so_far: bool,
    /// The transaction that its pipeline begins.
    pub(super) beginning: Option<Box<Begun>>,
    /// Surely for nothing that a snapshot is needed for.
    pub(super) sees_nothing: bool,
    /// It would bind the session to its server, or be worth nothing on a replica.
    pub(super) binds: bool,
    /// It is likely to bind the session to its server.
    pub(super) settles: bool,
    /// It makes a portal that outlives it.
    pub(super) makes_portal: bool,
    /// It may leave nothing prepared at the server: what follows in it is prepared anew.
    pub(super) deallocates: bool,
    /// It surely does, and the session's names are gone with them.
    pub(super) forgets: bool,
    /// It has no end of its own: no ReadyForQuery answers it.
    pub(super) goes_on: bool,
    /// Causeway itself has answered it with an error.
    pub(super) refused: bool,
    /// For servers to be closed, or it changes what they begin with.
    pub(super) disturbing: Option<Arc<Script>>,
    /// It has a COMMIT.
    pub(super) commits: bool,
    /// For a `causeway.session_key`.
    pub(super) takes_key: bool,
    /// Which statements are prepared.
    pub(super) lists_statements: bool,
    /// For its server's process id.
    pub(super) its_server: bool,
    /// It sends a signal to servers.
    pub(super) signal: Option<Signal>,
    /// To whom, and who stands in.
    pub(super) signals: Option<Box<Signals>>,
}

//! Where a session stands, and what its transaction began with.
//!
//! Owns the words for it; [`machine`](super::machine) moves from one to the next, and
//! [`relocation`](super::relocation) begins a transaction once more.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::ErrorReport;
use crate::sql::statement::Modes;

/// Where a session stands between requests.
#[derive(Debug)]
pub(super) enum Phase {
    /// Outside of a transaction.
    Idle,
    /// Inside a transaction that no server knows of yet.
    Held(Box<Begun>),
    /// Inside a transaction on the leased server.
    Open {
        /// The server is a replica.
        on_replica: bool,
        /// On a replica, and what would begin it at another node.
        begun: Option<Box<Begun>>,
    },
    /// Inside a transaction whose server is gone: it can only be rolled back.
    Lost {
        /// What the client hears first, if it has not heard of the loss.
        untold: Option<Box<ErrorReport>>,
    },
}

/// What a transaction begins with.
#[derive(Debug)]
pub(super) struct Begun {
    /// BEGIN and what followed it, as the client wrote them.
    pub(super) texts: Vec<Bytes>,
    /// The modes that they ask for.
    pub(super) modes: Modes,
    /// What has been run since and is to be repeated where the transaction goes on.
    pub(super) since: Vec<Repeated>,
    /// What the statement was run with that is being taken into the books.
    pub(super) values: Option<Arc<Bound>>,
    /// It has run something that a snapshot was needed for.
    pub(super) seen: bool,
    /// It had failed where it was.
    pub(super) failed: bool,
}

/// What a transaction has run, to be run once more.
#[derive(Debug)]
pub(super) enum Repeated {
    /// As a simple query.
    Query(Bytes),
    /// By the extended protocol.
    Bound(Arc<Bound>),
}

/// A statement with the values that were bound to it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) text: Bytes,
    /// The end of a Parse.
    pub(super) types: Bytes,
    /// The end of a Bind, behind its names.
    pub(super) values: Bytes,
}

impl Begun {
    pub(super) fn new(text: &[u8], modes: Modes) -> Self {
        Self {
            texts: vec![Bytes::copy_from_slice(text)],
            modes,
            since: Vec::new(),
            values: None,
            seen: false,
            failed: false,
        }
    }
}

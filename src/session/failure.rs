//! What can go wrong with a request, who is to blame, and what the client hears.

use std::io;
use std::time::Duration;

use super::deadlines::Overdue;
use crate::protocol::ErrorReport;
use crate::protocol::frame::FrameError;
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The client said goodbye.
    #[error("the client left")]
    Terminated,
    /// The client's connection broke.
    #[error("the client's connection broke")]
    Client(#[from] io::Error),
    /// The client sent something that is not a frame.
    #[error("the client broke the protocol")]
    Frame(#[from] FrameError),
    /// The server ended the connection for what the client did or failed to do, and said so.
    #[error("the server ended the connection: {said}")]
    Ended {
        /// What it said.
        said: Box<ErrorReport>,
        /// The same as it came.
        body: Box<[u8]>,
    },
    /// Causeway is shutting down.
    #[error("drained")]
    Drained,
    /// The server that a pinned session depends on is gone.
    #[error("the server that the session was pinned to is gone")]
    PinnedServerLost(Option<Box<ErrorReport>>),
    /// A server was lost in the middle of a message that the client had seen the beginning of.
    #[error("a server was lost in the middle of a row")]
    AnswerTorn,
    /// The client ran into a time limit.
    #[error("{}", .0.as_str())]
    Overdue(Overdue),
}

impl From<crate::client::RequestError> for SessionEnd {
    fn from(error: crate::client::RequestError) -> Self {
        match error {
            crate::client::RequestError::Io(source) => Self::Client(source),
            crate::client::RequestError::Frame(source) => Self::Frame(source),
        }
    }
}

impl SessionEnd {
    /// The last words to the client, if it can still hear any.
    #[must_use]
    pub fn report(&self) -> Option<ErrorReport> {
        match self {
            // Of a server that ended the connection its own words are passed on.
            Self::Terminated | Self::Client(_) | Self::AnswerTorn | Self::Ended { .. } => None,
            Self::Frame(error) => error.report(),
            Self::Overdue(overdue) => Some(overdue.report()),
            Self::Drained => Some(ErrorReport::fatal(
                "57P01",
                "terminating connection due to administrator command",
            )),
            Self::PinnedServerLost(said) => Some(match said {
                Some(said) => ErrorReport { severity: "FATAL".into(), ..(**said).clone() },
                None => ErrorReport::fatal(
                    "57P01",
                    "terminating connection because its server was lost",
                )
                .with_detail("The session had state on that server that cannot be moved."),
            }),
        }
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client is to blame, or gone: the session ends.
    #[error(transparent)]
    Client(SessionEnd),
    /// A replica said "not here" before anything was shown.
    #[error("a replica refused")]
    Refused(#[source] Box<ErrorReport>),
    /// The server was lost before anything was shown, and what it ran has certainly left no trace.
    #[error("a server was lost")]
    ServerLost,
    /// The server was lost after part of a read's answer was shown.
    #[error("a server was lost in the middle of its answer")]
    AnswerLost,
    /// The server was lost in a transaction that had not been asked to commit.
    #[error("a server was lost in a transaction")]
    TransactionLost,
    /// A replica was lost at the end of a transaction: there was nothing to commit.
    #[error("a server was lost at the end of a transaction that only read")]
    ReadsLost,
    /// The server was lost when it may have committed.
    #[error("a server was lost while it may have committed")]
    CommitUnknown,
    /// A setting of the session could not be laid; nothing else was run.
    #[error("a setting could not be laid")]
    Setting(#[source] Box<ErrorReport>),
    /// The same, found only when the request had been sent.
    #[error("a setting could not be laid")]
    SettingUnseen(#[source] Box<ErrorReport>),
    /// No primary is known, and none was found in time.
    #[error("no primary is known")]
    NoPrimary,
    /// No replica may serve the read, and the primary must not.
    #[error("no replica may serve the read")]
    NoReplica,
    /// Every server was busy for too long.
    #[error("every server was busy")]
    Busy {
        /// Servers in the pool.
        size: usize,
        /// How long the request waited.
        waited: Duration,
    },
    /// The primary does not show in time what a replica has shown.
    #[error("the primary does not show yet what a replica has shown")]
    NotYetVisible,
    /// The replica of an open transaction does not have in time what it is asked for in the middle.
    #[error("the transaction's replica is behind what it must not fall behind")]
    Behind,
    /// Too many wait for a server already.
    #[error("too many wait for a server")]
    QueueFull {
        /// Servers in the pool.
        size: usize,
        /// Requests that wait.
        waiting: usize,
    },
    /// The node refused the connection.
    #[error("the node refused the connection")]
    NodeRefused(#[source] Box<ErrorReport>),
    /// The client cancelled while it waited for a server.
    #[error("cancelled while waiting for a server")]
    Cancelled,
    /// The request ran into `query_timeout` and no server has said so.
    #[error("query_timeout")]
    Overdue,
}

impl Failure {
    /// The decision to try next, if the request may be run again.
    #[must_use]
    pub fn again(&self, last: &Decision) -> Option<Decision> {
        match self {
            Self::Refused(_) => Some(last.turned(Target::Primary, Reason::ReplicaRefused)),
            Self::ServerLost if last.target == Target::Replica => {
                Some(Decision { reason: Reason::ReplicaLost, ..*last })
            }
            Self::ServerLost => Some(*last),
            _ => None,
        }
    }

    /// Whether the transaction that the client was in is over, whatever became of it.
    #[must_use]
    pub fn ends_transaction(&self) -> bool {
        matches!(self, Self::CommitUnknown | Self::ReadsLost)
    }

    /// What the client hears.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        match self {
            Self::Client(end) => end.report().unwrap_or_else(|| {
                ErrorReport::fatal("08006", "the connection to the server was lost")
            }),
            Self::Refused(report) | Self::Setting(report) => (**report).clone(),
            Self::SettingUnseen(report) => (**report).clone().with_detail(
                "A setting of the session could not be laid on its next server. The statement \
                 was sent along with it and may have run without it.",
            ),
            Self::NodeRefused(report) => {
                ErrorReport { severity: "ERROR".into(), ..(**report).clone() }
            }
            Self::ServerLost => {
                ErrorReport::error("08006", "the connection to the database server was lost")
                    .with_detail("The statement was tried on several servers.")
            }
            Self::AnswerLost => {
                ErrorReport::error("08006", "the connection to the database server was lost")
                    .with_detail("Part of the answer had been sent; nothing was changed.")
            }
            Self::TransactionLost | Self::ReadsLost => ErrorReport::error(
                "40001",
                "could not complete transaction: the connection to the database server was lost",
            )
            .with_detail("The transaction was not committed.")
            .with_hint("The transaction might succeed if retried."),
            Self::CommitUnknown => ErrorReport::error(
                "08007",
                "the connection to the database server was lost before the outcome was known",
            )
            .with_detail("What the statement did may or may not have been committed."),
            Self::NoPrimary => ErrorReport::error("57P03", "no primary server is known")
                .with_detail("Causeway has found no node that takes writes.")
                .with_hint("See /readyz and the log of the proxy, or `causeway check --connect`."),
            Self::NoReplica => {
                ErrorReport::error("57P03", "no replica may serve the read at the moment")
                    .with_hint("routing.primary_reads forbids reads on the primary.")
            }
            Self::NotYetVisible => ErrorReport::error(
                "40001",
                "could not serialize access: the primary does not show yet what this session has read",
            )
            .with_detail(
                "A replica has shown a transaction whose commit the primary has not finished: it waits \
                 for its synchronous standbys.",
            )
            .with_hint("The statement might succeed if retried."),
            Self::Behind => ErrorReport::error(
                "40001",
                "could not serialize access: the replica of this transaction is behind what it must show",
            )
            .with_detail(
                "The transaction was asked in its middle for more than it began with, and cannot go on \
                 at another node, for it has a cursor or what else only its server has.",
            )
            .with_hint("The transaction might succeed if retried."),
            Self::Busy { size, waited } => ErrorReport::error(
                "53300",
                format!("no server became free within {}", humantime::format_duration(*waited)),
            )
            .with_detail(format!("All {size} servers of this user and database are busy."))
            .with_hint("Raise pool.size or pool.wait."),
            Self::QueueFull { size, waiting } => {
                ErrorReport::error("53300", "too many requests wait for a server")
                    .with_detail(format!("{waiting} requests wait for {size} servers."))
                    .with_hint("Raise pool.size or pool.queue.")
            }
            Self::Overdue => Overdue::Query.report(),
            Self::Cancelled => {
                ErrorReport::error("57014", "canceling statement due to user request")
            }
        }
    }
}

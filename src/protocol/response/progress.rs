//! What a scan tells its caller: why it stopped, or what the server did that no server may.

use super::events::REPORTED_MOST;
use crate::protocol::frame::FrameError;

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All input is scanned and more must come.
    More,
    /// The last expected ReadyForQuery was scanned; its status is in [`Responses::status`](super::Responses::status).
    Ready,
    /// The server waits for COPY data.
    CopyIn,
    /// An ErrorResponse came before anything that could not be taken back, and its SQLSTATE is one
    /// that the caller asked to see first. Nothing of the answer has been shown.
    Refused,
    /// A FATAL or PANIC: the server is gone. The report is in [`Responses::last_error`](super::Responses::last_error).
    Fatal,
}

/// The server broke the protocol; its connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not a frame.
    #[error("the server sent a message of impossible length")]
    Frame(#[from] FrameError),
    /// A report longer than anything PostgreSQL sends.
    #[error("the server sent a message of type {kind:?} and {length} bytes")]
    TooLong {
        /// Message type.
        kind: char,
        /// Bytes.
        length: usize,
    },
    /// An answer to nothing that was sent.
    #[error("the server sent a message of type {0:?} that nothing asked for")]
    Unexpected(char),
    /// More and longer settings than any server has.
    #[error("the server reported more than {REPORTED_MOST} bytes of settings at once")]
    Reports,
}

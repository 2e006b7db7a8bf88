//! Clients that are one too many: they are told so in a moment, and cost next to nothing until then.
//!
//! Owns what such a client hears. Invariants: no TLS handshake is done for it, no more than its first packet's head
//! is read, and nothing is waited for beyond the given time. A cancel request is let through, as ever.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use crate::net::{ReadAhead, Stream};
use crate::protocol::ErrorReport;
use crate::protocol::startup::{
    self, CANCEL_KEY_MAX, CANCEL_REQUEST, CancelKey, StartupError, StartupPacket,
};

/// The longest packet that a client of this world begins with, in bytes: PostgreSQL's own limit.
const PACKET_MAX: usize = 10_000;
/// The longest cancel request's body: a code, a process and its key.
const CANCEL_MAX: usize = 8 + CANCEL_KEY_MAX;

/// Tells a client that it is not let in, once it has begun to speak, and closes; at most in `within`. Whoever asks for
/// TLS is told in plain text instead of an answer, as by a PostgreSQL that cannot fork; whoever begins TLS at once
/// hears nothing. What comes back is a cancel request, which is to be carried out before its stream is
/// dropped.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn turn_away(
    stream: Stream,
    buffer: BytesMut,
    report: &ErrorReport,
    within: Duration,
) -> Option<(Stream, CancelKey)> {
    let said = async {
        let mut wire = ReadAhead { stream, buffer };
        match first(&mut wire).await {
            Ok(Some(key)) => Some((wire.stream, key)),
            Ok(None) => {
                let mut last = BytesMut::new();
                report.encode(&mut last);
                wire.close_after(&last).await;
                None
            }
            // Silent, gone, or nobody who would know an error: there is nobody to tell.
            Err(_) => None,
        }
    };
    timeout(within, said).await.ok().flatten()
}

/// Waits for the head of the first packet: a cancel request, or something to be refused.
async fn first(wire: &mut ReadAhead) -> Result<Option<CancelKey>, StartupError> {
    let gone = |_| StartupError::Length;
    wire.fill(8).await.map_err(gone)?;
    let (mut length, mut code) = ([0; 4], [0; 4]);
    length.copy_from_slice(&wire.buffer[..4]);
    code.copy_from_slice(&wire.buffer[4..8]);
    let length = startup::body_length(length, PACKET_MAX)?;
    if u32::from_be_bytes(code) != CANCEL_REQUEST {
        return Ok(None);
    }
    if length > CANCEL_MAX {
        return Err(StartupError::CancelLength);
    }
    wire.fill(4 + length).await.map_err(gone)?;
    let packet = startup::parse(&wire.buffer[4..4 + length])?;
    wire.buffer.advance(4 + length);
    match packet {
        StartupPacket::Cancel(key) => Ok(Some(key)),
        _ => Ok(None),
    }
}

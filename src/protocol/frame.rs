//! Frame borders: a type byte and a length that counts itself
//! (<https://www.postgresql.org/docs/current/protocol-overview.html>; limits from PostgreSQL's
//! `src/backend/tcop/postgres.c`, `SocketBackend`).

use super::ErrorReport;

/// Bytes of a frame's header: its type and its length.
pub const HEADER: usize = 5;

/// PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT`, for messages that carry no data of the user's.
const SMALL: usize = 10_000;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub kind: u8,
    /// Bytes of the whole frame, the type included; at least [`HEADER`].
    pub length: usize,
}

/// The peer sent something that is not a frame. The stream has lost its borders: the connection
/// must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type is none that a frontend sends after the start-up.
    #[error("invalid frontend message type {0}")]
    UnknownKind(u8),
    /// The length is below four or above the limit for the type.
    #[error("invalid message length")]
    Length {
        /// The message type.
        kind: u8,
        /// The length field.
        length: u32,
    },
}

impl FrameError {
    /// What the peer hears, in PostgreSQL's wording: nothing where PostgreSQL closes without a word,
    /// for a length that no message can have.
    #[must_use]
    pub fn report(self) -> Option<ErrorReport> {
        let told = match self {
            Self::UnknownKind(_) => true,
            Self::Length { kind, length } => is_large(kind) && (4..1 << 30).contains(&length),
        };
        told.then(|| ErrorReport::fatal("08P01", self.to_string()))
    }
}

/// Whether messages of this type carry data of the user's.
fn is_large(kind: u8) -> bool {
    matches!(kind, b'Q' | b'P' | b'B' | b'F' | b'd' | b'p')
}

fn header(bytes: &[u8]) -> Option<(u8, u32)> {
    let [kind, a, b, c, d, ..] = *bytes else { return None };
    Some((kind, u32::from_be_bytes([a, b, c, d])))
}

/// Reads the header of a frontend frame. `None`: fewer than five bytes are there.
///
/// # Errors
/// If no frontend sends such a frame, or it is longer than `limit` bytes.
pub fn frontend(bytes: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
    let Some((kind, length)) = header(bytes) else { return Ok(None) };
    let most = match kind {
        kind if is_large(kind) => limit,
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL.min(limit),
        _ => return Err(FrameError::UnknownKind(kind)),
    };
    let whole = length as usize + 1;
    if length < 4 || whole > most.saturating_add(1) {
        return Err(FrameError::Length { kind, length });
    }
    Ok(Some(Header { kind, length: whole }))
}

/// Reads the header of a backend frame. `None`: fewer than five bytes are there.
///
/// # Errors
/// If the length is below four or beyond 2 GiB.
pub fn backend(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some((kind, length)) = header(bytes) else { return Ok(None) };
    if length < 4 || length > i32::MAX as u32 {
        return Err(FrameError::Length { kind, length });
    }
    Ok(Some(Header { kind, length: length as usize + 1 }))
}

/// The NUL-terminated string at the head of `bytes` and what follows it.
#[must_use]
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes_and_an_honest_length() {
        assert_eq!(frontend(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(frontend(b"S\0\0\0\x04", 100), Ok(Some(Header { kind: b'S', length: 5 })));
        assert!(frontend(b"Q\0\0\0\x03", 100).is_err());
        assert!(frontend(b"Q\xff\xff\xff\xff", 1 << 30).is_err());
        assert!(frontend(b"S\0\x01\0\0", 1 << 30).is_err(), "a Sync of 64 KiB");
        assert_eq!(frontend(b"z\0\0\0\x04", 100), Err(FrameError::UnknownKind(b'z')));
        assert!(backend(b"D\x80\0\0\0").is_err());
    }
}

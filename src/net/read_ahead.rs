//! A stream together with the bytes that were read beyond what was asked for.
//!
//! Used while a connection is opened, on both sides. Never asks for more room than the next message
//! needs (with a small least amount), so what a peer claims costs nothing until its caller has
//! checked it.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Stream;

/// The least room that a read is given, in bytes.
const READ_LEAST: usize = 1024;
/// The most that is read and thrown away of a peer that is being told goodbye, in bytes.
const LINGER_BYTES: usize = 4 << 20;
/// The longest that such a peer is waited for.
const LINGER: Duration = Duration::from_secs(2);

/// A stream with its read-ahead.
#[derive(Debug)]
pub struct ReadAhead {
    /// The connection.
    pub stream: Stream,
    /// Bytes read and not yet taken, oldest first.
    pub buffer: BytesMut,
}

impl ReadAhead {
    /// Waits until `buffer` holds at least `count` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the peer ends before; else the socket's error.
    ///
    /// # Cancel safety
    /// Safe: bytes already read stay in `buffer`.
    pub async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.buffer.len() < count {
            self.buffer.reserve((count - self.buffer.len()).max(READ_LEAST));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The socket's.
    ///
    /// # Cancel safety
    /// Not safe: a part may have been written.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends `last` and closes so that the peer can read it: a socket closed while bytes from the
    /// peer lie unread is reset, and a reset may overtake what was sent. So the sending half is shut
    /// first and what still comes is thrown away, up to 4 MiB and two seconds. Errors are of no
    /// interest any more.
    pub async fn close_after(mut self, last: &[u8]) {
        let goodbye = async {
            self.write(last).await?;
            self.stream.shutdown().await?;
            let mut thrown_away = 0;
            while thrown_away < LINGER_BYTES {
                self.buffer.clear();
                self.buffer.reserve(READ_LEAST);
                match self.stream.read_buf(&mut self.buffer).await? {
                    0 => break,
                    count => thrown_away += count,
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, goodbye).await;
    }
}

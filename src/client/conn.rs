//! A client's connection after its login: where requests begin and end.
//!
//! Reads into a buffer of its thread's and keeps what came: a client that is silent has no buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::net::Stream;
use crate::protocol::frame::{self, FrameError};
use crate::protocol::request::{Indexer, Limits, Request};

/// How much is read at once from a client.
const READ_CHUNK: usize = 8 << 10;

thread_local! {
    /// What a read is made into, whosever it is.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into());
    /// What clients have given up, for the next that are heard of: no request costs an allocation.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// How many buffers are kept so, and of how many bytes each at most.
const SPARE_MOST: usize = 64;
const SPARE_BYTES: usize = 2 << 10;

/// Why there is no further request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection broke or was closed without Terminate.
    #[error("the client's connection ended")]
    Io(#[from] io::Error),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A client's connection.
#[derive(Debug)]
pub struct ClientConn {
    /// Its socket.
    pub stream: Stream,
    /// What was read, from the border of a frame on.
    pub input: BytesMut,
    /// What is to be written.
    pub output: BytesMut,
    /// Bytes of a frame that is passed on in parts and has not fully arrived.
    pub frame_left: usize,
    /// How much of `input` is needed before anything of it can be passed on.
    pub needed: usize,
    /// The request under way has been taken from the buffer already.
    pub streamed: bool,
    /// The end of the pipeline under way has been taken from the buffer.
    pub sync_passed: bool,
    /// A write to the client is under way: if it is dropped, nobody knows how much was written.
    pub writing: bool,
    /// Bytes of a frame that nobody wants and that have not arrived.
    drop_left: usize,
    indexer: Indexer,
}

impl ClientConn {
    /// A client that has logged in; `input` is what it has sent since.
    #[must_use]
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: BytesMut::new(),
            frame_left: 0,
            needed: 0,
            streamed: false,
            sync_passed: false,
            writing: false,
            drop_left: 0,
            indexer: Indexer::default(),
        }
    }

    /// The request at the head of the buffer, if it is there in full.
    ///
    /// # Errors
    /// If the client sent something that is not a frame.
    pub fn buffered_request(&mut self, limits: &Limits) -> Result<Option<Request>, FrameError> {
        if self.drop_left > 0 {
            self.drop_frame();
        }
        self.indexer.index(&self.input, limits)
    }

    /// Drops the frame at the head of the buffer as far as it has arrived, and the rest of it as it
    /// comes.
    pub fn drop_frame(&mut self) {
        if self.drop_left == 0
            && let Ok(Some(header)) = frame::frontend(&self.input, usize::MAX >> 1)
        {
            self.drop_left = header.length;
        }
        let here = self.drop_left.min(self.input.len());
        self.input.advance(here);
        self.drop_left -= here;
    }

    /// Nobody takes the rest of the frame that was passed on in parts: it is dropped as it comes.
    pub fn forsake_frame(&mut self) {
        self.drop_left += std::mem::take(&mut self.frame_left);
        self.needed = 0;
    }

    /// The type of the frame at the head of the buffer, if it has come.
    #[must_use]
    pub fn next_kind(&self) -> Option<u8> {
        self.input.first().copied().filter(|_| self.drop_left == 0)
    }

    /// Reads what is there; it is then at the end of `input`. No buffer is held while nothing is.
    ///
    /// # Errors
    /// If the socket is broken or the client closed it.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut chunk = ReadBuf::new(chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
            match chunk.filled() {
                [] => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => {
                    if self.input.capacity() == 0 {
                        self.input = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
                    }
                    self.input.extend_from_slice(read);
                    Poll::Ready(Ok(()))
                }
            }
        })
    }

    /// Gives up what the buffers of the last request have left.
    pub fn rest(&mut self) {
        if self.input.is_empty() {
            let mut given_up = std::mem::take(&mut self.input);
            if (1..=SPARE_BYTES).contains(&given_up.capacity()) {
                given_up.clear();
                SPARE.with_borrow_mut(|spare| {
                    if spare.len() < SPARE_MOST {
                        spare.push(given_up);
                    }
                });
            }
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Writes what is to be written.
    ///
    /// # Errors
    /// If the socket is broken.
    ///
    /// # Cancel safety
    /// Not safe: how much was written is lost.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.writing = true;
        self.stream.send(&self.output).await?;
        self.writing = false;
        self.output.clear();
        Ok(())
    }
}

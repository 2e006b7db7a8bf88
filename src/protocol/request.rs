//! Requests: the frames that a client sends up to the point where it waits for an answer.

use smallvec::SmallVec;

use super::frame::{self, FrameError};

/// What bounds the indexing of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest message in bytes.
    pub message: usize,
    /// Largest simple query that is held whole, in bytes.
    pub statement: usize,
    /// How much of a pipeline is held, in bytes.
    pub pipeline: usize,
}

/// One whole frame in the buffer that was indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The message type.
    pub kind: u8,
    /// Where it begins.
    pub start: usize,
    /// Where the next begins.
    pub end: usize,
}

impl Frame {
    /// Its body within the indexed buffer.
    #[must_use]
    pub fn body<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.start + frame::HEADER..self.end]
    }

    /// The whole frame within the indexed buffer.
    #[must_use]
    pub fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.start..self.end]
    }
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A simple Query, whole.
    Query,
    /// A pipeline with its Sync.
    Sync,
    /// A pipeline cut by Flush: the client waits, but the pipeline goes on.
    Flush,
    /// A FunctionCall, or the head of one.
    FunctionCall,
    /// Terminate.
    Terminate,
    /// Too much to hold: what is indexed is whole frames, and what follows must stream. The frame
    /// that follows them may have arrived in part.
    Overflow,
    /// CopyData, CopyDone or CopyFail outside of a COPY, which PostgreSQL ignores.
    StrayCopy,
}

/// The index over one request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its frames. One for a simple query.
    pub frames: SmallVec<[Frame; 5]>,
    /// Bytes from the buffer's start to the request's end.
    pub length: usize,
    /// How it ends.
    pub end: End,
}

/// Remembers how far an unfinished request was indexed, so that bytes are looked at once.
#[derive(Debug, Default)]
pub struct Indexer {
    frames: SmallVec<[Frame; 5]>,
    at: usize,
}

impl Indexer {
    /// Indexes `buffer`, which begins at a frame's border. `None`: more bytes are needed.
    ///
    /// # Errors
    /// If the client sent something that is not a frame.
    pub fn index(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<Request>, FrameError> {
        loop {
            let header = match frame::frontend(&buffer[self.at..], limits.message) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(None),
                // What came before it is answered first.
                Err(FrameError::UnknownKind(_)) if !self.frames.is_empty() => {
                    return Ok(Some(self.finish(End::Overflow)));
                }
                Err(error) => return Err(error),
            };
            let end = self.at + header.length;
            let whole = end <= buffer.len();
            let frame = Frame { kind: header.kind, start: self.at, end };
            let alone = self.frames.is_empty();
            match header.kind {
                b'Q' | b'F' | b'X' | b'c' | b'd' | b'f' if !alone => {
                    // A pipeline that the client did not end: PostgreSQL takes the message as it
                    // comes, inside the implicit transaction. What was indexed goes first.
                    return Ok(Some(self.finish(End::Overflow)));
                }
                b'Q' if !whole && header.length > limits.statement => {
                    return Ok(Some(self.finish(End::Overflow)));
                }
                b'F' if !whole && header.length > limits.pipeline => {
                    return Ok(Some(self.finish(End::Overflow)));
                }
                b'Q' | b'F' | b'X' | b'c' | b'f' if !whole => return Ok(None),
                b'd' if !whole => return Ok(Some(self.finish(End::StrayCopy))),
                b'Q' => return Ok(Some(self.take(frame, End::Query))),
                b'F' => return Ok(Some(self.take(frame, End::FunctionCall))),
                b'X' => return Ok(Some(self.take(frame, End::Terminate))),
                b'c' | b'd' | b'f' => return Ok(Some(self.take(frame, End::StrayCopy))),
                b'S' if whole => return Ok(Some(self.take(frame, End::Sync))),
                b'H' if whole => return Ok(Some(self.take(frame, End::Flush))),
                _ if end > limits.pipeline && !whole => {
                    return Ok(Some(self.finish(End::Overflow)));
                }
                _ if !whole => return Ok(None),
                _ => {
                    self.frames.push(frame);
                    self.at = end;
                    if end > limits.pipeline {
                        return Ok(Some(self.finish(End::Overflow)));
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: Frame, end: End) -> Request {
        self.frames.push(frame);
        self.at = frame.end;
        self.finish(end)
    }

    fn finish(&mut self, end: End) -> Request {
        let length = std::mem::take(&mut self.at);
        Request { frames: std::mem::take(&mut self.frames), length, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { message: 1 << 30, statement: 100, pipeline: 200 };

    fn frame(kind: u8, body: usize) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&u32::try_from(body + 4).unwrap().to_be_bytes());
        bytes.extend(std::iter::repeat_n(b'x', body));
        bytes
    }

    fn ends(buffer: &[u8]) -> Vec<(End, usize)> {
        let mut rest = buffer;
        let mut found = Vec::new();
        let mut indexer = Indexer::default();
        while let Ok(Some(request)) = indexer.index(rest, &LIMITS) {
            found.push((request.end, request.frames.len()));
            rest = &rest[request.length..];
            if request.length == 0 {
                break;
            }
        }
        found
    }

    #[test]
    fn a_request_ends_where_the_client_waits() {
        let mut buffer = Vec::new();
        for (kind, body) in
            [(b'Q', 9), (b'P', 9), (b'B', 9), (b'E', 5), (b'S', 0), (b'P', 1), (b'H', 0)]
        {
            buffer.extend(frame(kind, body));
        }
        assert_eq!(ends(&buffer), [(End::Query, 1), (End::Sync, 4), (End::Flush, 2)]);
    }

    #[test]
    fn what_is_too_much_to_hold_overflows_at_a_border() {
        let mut buffer = frame(b'P', 50);
        buffer.extend(&frame(b'B', 100_000)[..1000]);
        assert_eq!(ends(&buffer), [(End::Overflow, 1), (End::Overflow, 0)]);
        assert_eq!(ends(&frame(b'Q', 1000)[..50]), [(End::Overflow, 0)]);
        assert_eq!(ends(&frame(b'Q', 1000)), [(End::Query, 1)], "whole is whole");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_requests(
            frames in proptest::collection::vec((0usize..9, 0usize..30), 1..12),
            cut in 0usize..400,
        ) {
            let mut buffer = Vec::new();
            for (kind, body) in frames {
                let kind = b"QPBDECSHX"[kind];
                buffer.extend(frame(kind, if kind == b'S' || kind == b'H' { 0 } else { body }));
            }
            let whole = ends(&buffer);
            let cut = cut.min(buffer.len());
            let mut indexer = Indexer::default();
            let mut found = Vec::new();
            let mut have = buffer[..cut].to_vec();
            let mut fed = false;
            loop {
                match indexer.index(&have, &LIMITS).unwrap() {
                    Some(request) => {
                        found.push((request.end, request.frames.len()));
                        have.drain(..request.length);
                        if request.length == 0 { break; }
                    }
                    None if fed => break,
                    None => { have.extend_from_slice(&buffer[cut..]); fed = true; }
                }
            }
            prop_assert_eq!(found, whole);
        }
    }
}

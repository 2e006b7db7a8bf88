//! What a server is to answer, in the order in which it was sent.
//!
//! A server answers messages in the order in which they were sent, so a queue of what is expected
//! ([`Expect`]) tells for every answer whether it is the client's or Causeway's own, and what it
//! completed. Owns that order: what an error skips up to the next Sync, the Syncs that a COPY takes for
//! nothing (<https://www.postgresql.org/docs/current/protocol-flow.html>), and which statements of a
//! query that was added to the client sees. Reads no answer: that is for [`super::response`].
//! Invariant: the front of the queue is what is answered next.

use std::collections::VecDeque;

/// One message that was sent and that the server will answer.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// What was sent.
    pub sent: Sent,
    /// Causeway's own: the client never sees the answer.
    pub own: bool,
    /// Causeway's own, and of no interest if it fails. A Sync of its own follows it.
    pub quiet: bool,
    /// What the sender wants to be told by when it has succeeded.
    pub tag: Option<u32>,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Parse.
    Parse,
    /// Bind.
    Bind,
    /// Describe, of either kind.
    Describe,
    /// Execute.
    Execute,
    /// Close, of either kind.
    Close,
    /// Sync.
    Sync,
    /// CopyDone or CopyFail.
    CopyEnd,
    /// A simple Query.
    Query,
    /// A FunctionCall.
    FunctionCall,
    /// Nothing was sent: this answer is put in at this place.
    Answer(&'static [u8]),
}

/// What the client sees of one of the statements of a simple query to which Causeway has added some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// All of its answer.
    Shown,
    /// Nothing.
    Hidden,
    /// These bytes.
    Said(&'static [u8]),
}

/// The messages that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Expected {
    queue: VecDeque<Expect>,
    /// An error was answered inside a pipeline whose Sync is not sent yet.
    skipping: bool,
    in_copy: bool,
}

impl Expected {
    /// Notes that a message was sent, unless the server will drop it.
    pub(super) fn push(&mut self, expect: Expect) {
        if self.skipping {
            // The server drops all up to Sync.
            if expect.sent != Sent::Sync {
                return;
            }
            self.skipping = false;
        }
        if expect.sent == Sent::Sync && self.swallows_sync() {
            return;
        }
        self.queue.push_back(expect);
    }

    /// What is answered next.
    pub(super) fn front(&self) -> Option<&Expect> {
        self.queue.front()
    }

    /// Whether a query of the client's waits for its answer.
    pub(super) fn has_query(&self) -> bool {
        self.queue.iter().any(|expect| !expect.own && expect.sent == Sent::Query)
    }

    /// Whether every message is answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && !self.skipping
    }

    /// Whether no more answers of the server's come.
    pub(super) fn is_over(&self) -> bool {
        self.queue.iter().all(|expect| matches!(expect.sent, Sent::Answer(_))) && !self.skipping
    }

    /// Whether the server drops all that is sent, up to a Sync that is not sent yet.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the server is taking COPY data.
    pub(super) fn in_copy(&self) -> bool {
        self.in_copy
    }

    /// Whether a Sync sent now would be taken for nothing: a COPY takes data and its end is not sent.
    pub(super) fn swallows_sync(&self) -> bool {
        self.in_copy && !self.queue.iter().any(|expect| expect.sent == Sent::CopyEnd)
    }

    /// Whether an answer is to be put in here.
    pub(super) fn puts_in(&self) -> bool {
        matches!(self.queue.front(), Some(Expect { sent: Sent::Answer(_), .. }))
    }

    /// Takes out the answer that is to be put in here, with its tag.
    pub(super) fn put_in(&mut self) -> Option<(&'static [u8], Option<u32>)> {
        let Some(&Expect { sent: Sent::Answer(bytes), tag, .. }) = self.queue.front() else {
            return None;
        };
        self.queue.pop_front();
        Some((bytes, tag))
    }

    /// RowDescription or NoData came.
    pub(super) fn on_description(&mut self) {
        self.drop_copy_end();
        if matches!(self.queue.front(), Some(Expect { sent: Sent::Describe, .. })) {
            self.queue.pop_front();
        }
    }

    /// ParseComplete, BindComplete or CloseComplete came: what it answers, if it may come here.
    pub(super) fn on_step(&mut self, kind: u8) -> Option<Expect> {
        // A CopyDone that came when no COPY was under way: PostgreSQL ignores it.
        self.drop_copy_end();
        let answered = self.queue.pop_front()?;
        let fits = matches!(
            (kind, answered.sent),
            (b'1', Sent::Parse) | (b'2', Sent::Bind) | (b'3', Sent::Close)
        );
        fits.then_some(answered)
    }

    /// A statement is complete, or its portal suspended. Tells the tag that it completed.
    pub(super) fn on_completion(&mut self) -> Option<u32> {
        if !self.in_copy {
            // A CopyDone that came when no COPY was under way: PostgreSQL ignores it.
            self.drop_copy_end();
        }
        self.in_copy = false;
        match self.queue.front_mut() {
            Some(Expect { sent: Sent::Execute, tag, .. }) => {
                let tag = *tag;
                self.queue.pop_front();
                self.drop_copy_end();
                tag
            }
            Some(Expect { sent: Sent::Query, tag, .. }) => tag.take(),
            _ => None,
        }
    }

    /// The server takes COPY data, and until the copy has ended takes Sync for nothing.
    pub(super) fn on_copy_in(&mut self) {
        self.in_copy = true;
        if !matches!(self.queue.front(), Some(Expect { sent: Sent::Execute, .. })) {
            return;
        }
        let mut ended = false;
        self.queue.retain(|expect| {
            ended |= matches!(expect.sent, Sent::CopyEnd);
            ended || !matches!(expect.sent, Sent::Sync)
        });
    }

    /// The COPY, if there was one, has failed.
    pub(super) fn end_copy(&mut self) {
        self.in_copy = false;
    }

    /// What was sent up to the next Sync is dropped by the server.
    pub(super) fn skip_to_sync(&mut self) {
        while let Some(expect) = self.queue.front() {
            if matches!(expect.sent, Sent::Sync) {
                return;
            }
            self.queue.pop_front();
        }
        self.skipping = true;
    }

    /// ReadyForQuery came: what it answers, if it may come here.
    pub(super) fn on_ready(&mut self) -> Option<Expect> {
        self.drop_copy_end();
        let answered = self.queue.pop_front();
        self.drop_copy_end();
        answered
            .filter(|expect| matches!(expect.sent, Sent::Sync | Sent::Query | Sent::FunctionCall))
    }

    fn drop_copy_end(&mut self) {
        while matches!(self.queue.front(), Some(Expect { sent: Sent::CopyEnd, .. })) {
            self.queue.pop_front();
        }
    }
}

/// What the client sees of its query to which statements were added: of each of them, in order.
#[derive(Debug, Default)]
pub(super) struct Veil {
    statements: VecDeque<Completion>,
}

impl Veil {
    /// Lays it over the next query.
    pub(super) fn lay(&mut self, statements: impl IntoIterator<Item = Completion>) {
        self.statements.extend(statements);
    }

    /// Takes away what is left of it.
    pub(super) fn clear(&mut self) {
        self.statements.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Whether the client does not know of the statement that is being answered.
    pub(super) fn hides(&self) -> bool {
        matches!(self.statements.front(), Some(Completion::Hidden))
    }

    /// What the client sees of this message of the query's answer.
    pub(super) fn over(&mut self, kind: u8) -> Completion {
        let next = match kind {
            b'C' | b'I' => self.statements.pop_front(),
            // What is said instead is said at the end.
            b'T' | b'D' => self.statements.front().map(|statement| match statement {
                Completion::Said(_) => Completion::Hidden,
                other => *other,
            }),
            b'Z' => {
                self.clear();
                None
            }
            _ => None,
        };
        next.unwrap_or(Completion::Shown)
    }
}

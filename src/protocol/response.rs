//! The scanner over a server's answers: by header, bytes untouched.
//!
//! A server answers messages in the order in which they were sent, so a queue of what is expected
//! ([`Expect`]) tells for every answer whether it is the client's or Causeway's own, and what it
//! completed. Owns the borders, the queue and the skip-until-Sync rule
//! (<https://www.postgresql.org/docs/current/protocol-flow.html>). Knows no socket, copies nothing:
//! what the client shall see is named as [`Piece`]s of the input.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use smallvec::SmallVec;

use super::error_report::ErrorReport;
use super::frame::{self, HEADER};

/// Largest answer other than data that is looked at whole, in bytes.
const LARGEST_REPORT: usize = 16 << 20;
/// The bytes of a process id, with which a notification begins.
const PROCESS_ID: usize = 4;
/// So much of what a server reports of its settings is kept within one exchange, in bytes.
const REPORTED_MOST: usize = 1 << 20;
/// What a setting counts for beside its text.
const REPORT_COST: usize = 64;

/// The five letters of an error's code.
pub type SqlState = [u8; 5];

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

/// What the answers brought, for the session's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The message that was sent under this tag succeeded.
    Done(u32),
    /// The server reported a setting.
    Parameter(Box<[u8]>, Box<[u8]>),
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

/// A part of what the client shall see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the input.
    Input(Range<usize>),
    /// These bytes, which no server sent.
    Own(&'static [u8]),
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All input is scanned and more must come.
    More,
    /// The last expected ReadyForQuery was scanned; its status is in [`Responses::status`].
    Ready,
    /// The server waits for COPY data.
    CopyIn,
    /// An ErrorResponse came before anything that could not be taken back, and its SQLSTATE is one
    /// that the caller asked to see first. Nothing of the answer has been shown.
    Refused,
    /// A FATAL or PANIC: the server is gone. The report is in [`Responses::last_error`].
    Fatal,
}

/// The server broke the protocol; its connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not a frame.
    #[error("the server sent a message of impossible length")]
    Frame(#[from] frame::FrameError),
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

/// The state of one server's answers.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one exchange")]
pub struct Responses {
    expects: VecDeque<Expect>,
    /// An error was answered inside a pipeline whose Sync is not sent yet.
    skipping: bool,
    /// Bytes of the current message's body that are still to come, and whether the client sees them.
    body_left: usize,
    body_shown: bool,
    /// How far the input has been scanned.
    scanned: usize,
    /// What of the input up to `scanned` the client shall see.
    pieces: SmallVec<[Piece; 4]>,
    /// Something was scanned that cannot be taken back: a row, a completion, an error.
    committed: bool,
    /// Something of it has been written.
    shown: bool,
    /// What the answers completed, in order.
    events: Vec<Event>,
    /// What the settings among these take, in bytes.
    reported: usize,
    status: u8,
    in_copy: bool,
    /// Nothing more of this exchange is shown.
    hidden: bool,
    /// Notices of Causeway's own messages are shown.
    aloud: bool,
    /// Whether the last CommandComplete said ROLLBACK.
    rolled_back: bool,
    failed: Option<SqlState>,
    completed: usize,
    rows_shown: bool,
    stale_plan: bool,
    last_error: Option<ErrorReport>,
    own_failure: Option<ErrorReport>,
    /// The body of the server's FATAL, as it came.
    last_words: Box<[u8]>,
    /// The statement under way is being cancelled because it took too long.
    overdue: Arc<AtomicBool>,
    /// What the client sees in place of the message being scanned.
    replaced: Option<&'static [u8]>,
    /// The answers to the statements of the client's query, in order, if it was added to.
    veil: VecDeque<Completion>,
    /// A preparation of Causeway's own has failed and answered the client's query, which still runs.
    answered: bool,
    /// Where in the input the process ids of notifications are.
    notifiers: SmallVec<[usize; 1]>,
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            expects: VecDeque::new(),
            skipping: false,
            body_left: 0,
            body_shown: false,
            scanned: 0,
            pieces: SmallVec::new(),
            committed: false,
            shown: false,
            events: Vec::new(),
            reported: 0,
            status: b'I',
            in_copy: false,
            hidden: false,
            aloud: false,
            rolled_back: false,
            failed: None,
            completed: 0,
            rows_shown: false,
            stale_plan: false,
            last_error: None,
            own_failure: None,
            last_words: Box::default(),
            overdue: Arc::default(),
            replaced: None,
            veil: VecDeque::new(),
            answered: false,
            notifiers: SmallVec::new(),
        }
    }
}

/// What stands in place of "canceling statement due to user request" where no user asked for it.
static STATEMENT_TIMEOUT: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut message = BytesMut::new();
    ErrorReport::error("57014", "canceling statement due to statement timeout")
        .with_detail("The limit is query_timeout of the proxy.")
        .encode(&mut message);
    message[..].into()
});

impl Responses {
    /// Of a server whose statement is cancelled for its time whenever `overdue` is set.
    #[must_use]
    pub fn of(overdue: Arc<AtomicBool>) -> Self {
        Self { overdue, ..Self::default() }
    }

    /// Begins a new exchange: forgets what the last one left for its reader.
    pub fn begin(&mut self) {
        self.overdue.store(false, Ordering::Relaxed);
        self.committed = false;
        self.shown = false;
        self.hidden = false;
        self.aloud = false;
        self.rolled_back = false;
        self.failed = None;
        self.completed = 0;
        self.rows_shown = false;
        self.stale_plan = false;
        self.last_error = None;
        self.own_failure = None;
        self.veil.clear();
        self.answered = false;
        self.events.clear();
        self.reported = 0;
    }

    /// The client's simple query of this exchange is sent with statements of Causeway's own in it.
    pub fn expect_veiled(&mut self, completions: impl IntoIterator<Item = Completion>) {
        self.veil.extend(completions);
    }

    /// Notes that a message of the client's was sent.
    pub fn expect(&mut self, sent: Sent, tag: Option<u32>) {
        self.push(Expect { sent, own: false, quiet: false, tag });
    }

    /// Notes that a message of Causeway's own was sent: the client sees nothing of its answer.
    pub fn expect_own(&mut self, sent: Sent, tag: Option<u32>) {
        self.push(Expect { sent, own: true, quiet: false, tag });
    }

    /// The same, and nobody needs to know if it failed: a Sync of Causeway's own comes next.
    pub fn expect_quiet(&mut self, sent: Sent) {
        self.push(Expect { sent, own: true, quiet: true, tag: None });
    }

    fn push(&mut self, expect: Expect) {
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
        self.expects.push_back(expect);
    }

    /// Shows nothing more of this exchange: it will be asked elsewhere.
    pub fn hide(&mut self) {
        self.hidden = true;
        self.pieces.clear();
    }

    /// Shows the notices of Causeway's own messages, for this exchange.
    pub fn show_own_notices(&mut self) {
        self.aloud = true;
    }

    /// Whether every message that was sent is answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.expects.is_empty() && self.body_left == 0 && !self.skipping
    }

    /// Transaction status of the last ReadyForQuery.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Whether the server is taking COPY data.
    #[must_use]
    pub fn in_copy(&self) -> bool {
        self.in_copy
    }

    /// Whether a Sync sent now would be taken for nothing: a COPY takes data and its end is not sent.
    #[must_use]
    pub fn swallows_sync(&self) -> bool {
        self.in_copy && !self.expects.iter().any(|expect| expect.sent == Sent::CopyEnd)
    }

    /// Whether the server drops all that is sent, up to a Sync that is not sent yet.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether something was scanned that is not to be held back: a row, a completion, an error.
    #[must_use]
    pub fn committed(&self) -> bool {
        self.committed
    }

    /// Whether the client has been shown anything of this exchange. What came in one piece with the
    /// server's last words was scanned and not shown.
    #[must_use]
    pub fn shown(&self) -> bool {
        self.shown
    }

    /// Whether the last command completed was a ROLLBACK, whatever was asked.
    #[must_use]
    pub fn rolled_back(&self) -> bool {
        self.rolled_back
    }

    /// Whether the client was shown an error in this exchange.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The SQLSTATE of the last such error.
    #[must_use]
    pub fn failed_with(&self) -> Option<SqlState> {
        self.failed
    }

    /// How many statements of the client's own completed in this exchange.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.completed
    }

    /// Whether the client has seen the beginning of a message whose end has not come.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.shown && self.body_left > 0 && self.body_shown
    }

    /// Whether a row went to the client in this exchange.
    #[must_use]
    pub fn rows_shown(&self) -> bool {
        self.rows_shown
    }

    /// Whether a prepared statement was refused in this exchange because its result has changed since
    /// it was prepared ("cached plan must not change result type").
    #[must_use]
    pub fn stale_plan(&self) -> bool {
        self.stale_plan
    }

    /// The report behind [`Progress::Refused`] and [`Progress::Fatal`].
    #[must_use]
    pub fn last_error(&self) -> Option<&ErrorReport> {
        self.last_error.as_ref()
    }

    /// The body of the report behind [`Progress::Fatal`], as it came.
    #[must_use]
    pub fn last_words(&self) -> &[u8] {
        &self.last_words
    }

    /// The error of a statement of Causeway's own, if one failed in this exchange.
    #[must_use]
    pub fn own_failure(&self) -> Option<&ErrorReport> {
        self.own_failure.as_ref()
    }

    /// What the answers completed since the exchange began.
    pub fn events(&mut self) -> std::vec::Drain<'_, Event> {
        self.reported = 0;
        self.events.drain(..)
    }

    /// Where in the input, up to what is scanned, the process ids of notifications are that the client
    /// shall see: of four bytes each.
    #[must_use]
    pub fn notifiers(&self) -> &[usize] {
        &self.notifiers
    }

    /// What the client shall see of the input scanned so far.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The pieces have been written (or dropped): forgets them and tells how many bytes of the
    /// input are done with.
    pub fn flushed(&mut self) -> usize {
        self.shown |= !self.pieces.is_empty();
        self.pieces.clear();
        self.notifiers.clear();
        std::mem::take(&mut self.scanned)
    }

    /// Scans `input`, which begins where the last [`flushed`](Self::flushed) ended and may have
    /// grown since the last call. `refusals` says of a SQLSTATE whether the caller wants to take
    /// an answer back that begins with it.
    ///
    /// # Errors
    /// If the server broke the protocol.
    pub fn scan(
        &mut self,
        input: &[u8],
        refusals: impl Fn(&[u8]) -> bool,
    ) -> Result<Progress, ResponseError> {
        self.put_in();
        loop {
            if self.body_left > 0 {
                let here = self.body_left.min(input.len() - self.scanned);
                self.pass(here, self.body_shown);
                self.body_left -= here;
                if self.body_left > 0 {
                    return Ok(Progress::More);
                }
            }
            let Some(header) = frame::backend(&input[self.scanned..])? else {
                return Ok(Progress::More);
            };
            let here = input.len() - self.scanned;
            let streams = matches!(header.kind, b'D' | b'd' | b'V' | b'T' | b't');
            if header.length > here && !streams {
                if header.length > LARGEST_REPORT {
                    return Err(ResponseError::TooLong {
                        kind: char::from(header.kind),
                        length: header.length,
                    });
                }
                return Ok(Progress::More);
            }
            let body_end = self.scanned + header.length.min(here);
            let body = &input[self.scanned + HEADER..body_end];
            let front = self.expects.front();
            let own = front.is_some_and(|expect| expect.own);
            let in_query = front.is_some_and(|expect| !expect.own && expect.sent == Sent::Query);
            // A preparation of Causeway's own that fails answers the client's Bind.
            let own_shown = header.kind == b'A'
                || header.kind == b'N' && self.aloud
                || header.kind == b'E'
                    && !front.is_some_and(|expect| expect.quiet || expect.sent == Sent::Query);
            let unseen = self.answered && matches!(header.kind, b'T' | b'D' | b'C' | b'E');
            let stop = self.on_message(header.kind, body, own, &refusals)?;
            if matches!(stop, Some(Progress::Refused | Progress::Fatal)) {
                return Ok(stop.unwrap_or(Progress::More));
            }
            let veiled = !self.veil.is_empty() && in_query && self.is_veiled(header.kind);
            let shown = !self.hidden && (!own || own_shown) && !veiled && !unseen;
            if let Some(instead) = self.replaced.take().filter(|_| shown) {
                self.pass(header.length, false);
                self.pieces.push(Piece::Own(instead));
            } else {
                self.pass(header.length.min(here), shown);
            }
            self.body_left = header.length.saturating_sub(here);
            self.body_shown = shown;
            self.put_in();
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// Whether this message is of a statement that the client does not see the answer of.
    fn is_veiled(&mut self, kind: u8) -> bool {
        let ends = matches!(kind, b'C' | b'I');
        if kind == b'Z' {
            self.veil.clear();
            return false;
        }
        if !ends && !matches!(kind, b'T' | b'D') {
            return false;
        }
        let next = if ends { self.veil.pop_front() } else { self.veil.front().copied() };
        match next {
            Some(Completion::Said(bytes)) => {
                if ends && !self.hidden {
                    self.pieces.push(Piece::Own(bytes));
                }
                true
            }
            Some(Completion::Hidden) => true,
            Some(Completion::Shown) | None => false,
        }
    }

    /// Moves past `length` bytes, showing them or not.
    fn pass(&mut self, length: usize, shown: bool) {
        let start = self.scanned;
        self.scanned += length;
        if !shown || length == 0 {
            return;
        }
        if let Some(Piece::Input(range)) = self.pieces.last_mut()
            && range.end == start
        {
            range.end = self.scanned;
        } else {
            self.pieces.push(Piece::Input(start..self.scanned));
        }
    }

    /// Puts in the answers whose place has come.
    fn put_in(&mut self) {
        while let Some(Expect { sent: Sent::Answer(bytes), tag, .. }) = self.expects.front() {
            if !self.hidden {
                self.pieces.push(Piece::Own(bytes));
            }
            self.events.extend(tag.map(Event::Done));
            self.expects.pop_front();
        }
    }

    /// Takes note of one message. `Some`: the scan stops here.
    fn on_message(
        &mut self,
        kind: u8,
        body: &[u8],
        own: bool,
        refusals: &impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Progress>, ResponseError> {
        match kind {
            b'D' | b'd' => {
                if !own {
                    self.committed = true;
                    self.rows_shown = true;
                }
            }
            b'C' | b'I' | b's' => {
                self.committed |= !own;
                let added = matches!(self.veil.front(), Some(Completion::Hidden));
                self.completed += usize::from(!own && !added);
                if kind == b'C' && !own {
                    self.rolled_back = body.starts_with(b"ROLLBACK");
                }
                self.complete_execute();
                self.in_copy = false;
            }
            b'T' | b'n' => {
                self.drop_copy_end();
                if matches!(self.expects.front(), Some(Expect { sent: Sent::Describe, .. })) {
                    self.expects.pop_front();
                }
            }
            b'1' | b'2' | b'3' => self.complete_step(kind)?,
            b'S' => {
                if let Some((name, rest)) = frame::cstr(body)
                    && let Some((value, _)) = frame::cstr(rest)
                {
                    self.on_report(name, value)?;
                }
            }
            // Without the process id that is to be named anew it is none.
            b'A' if body.len() < PROCESS_ID => return Err(ResponseError::Unexpected('A')),
            b'A' => {
                self.notifiers.push(self.scanned + HEADER);
            }
            b'G' => {
                self.committed = true;
                self.in_copy = true;
                self.forget_swallowed_syncs();
                return Ok(Some(Progress::CopyIn));
            }
            b'H' | b'W' | b'V' => self.committed |= !own,
            b'E' => return Ok(self.on_error(body, own, refusals)),
            b'Z' => match body {
                [status @ (b'I' | b'T' | b'E')] => return self.on_ready(*status),
                _ => return Err(ResponseError::Unexpected('Z')),
            },
            // CopyDone of a COPY TO: its CommandComplete follows.
            b't' | b'N' | b'c' => {}
            _ => return Err(ResponseError::Unexpected(char::from(kind))),
        }
        Ok(None)
    }

    /// A setting was reported. A server may do so any number of times before an exchange is over, so only
    /// its last word on each is kept.
    fn on_report(&mut self, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
        let known = self.events.iter_mut().find_map(|event| match event {
            Event::Parameter(known, value) if **known == *name => Some(value),
            _ => None,
        });
        if let Some(known) = known {
            self.reported -= known.len();
            *known = value.into();
        } else {
            self.reported += name.len() + REPORT_COST;
            self.events.push(Event::Parameter(name.into(), value.into()));
        }
        self.reported += value.len();
        if self.reported > REPORTED_MOST { Err(ResponseError::Reports) } else { Ok(()) }
    }

    fn complete_execute(&mut self) {
        if !self.in_copy {
            // A CopyDone that came when no COPY was under way: PostgreSQL ignores it.
            self.drop_copy_end();
        }
        match self.expects.front_mut() {
            Some(Expect { sent: Sent::Execute, tag, .. }) => {
                self.events.extend(tag.map(Event::Done));
                self.expects.pop_front();
                self.drop_copy_end();
            }
            Some(Expect { sent: Sent::Query, tag, .. }) => {
                self.events.extend(tag.take().map(Event::Done));
            }
            _ => {}
        }
    }

    fn drop_copy_end(&mut self) {
        while matches!(self.expects.front(), Some(Expect { sent: Sent::CopyEnd, .. })) {
            self.expects.pop_front();
        }
    }

    fn complete_step(&mut self, kind: u8) -> Result<(), ResponseError> {
        // A CopyDone that came when no COPY was under way: PostgreSQL ignores it.
        self.drop_copy_end();
        match (kind, self.expects.pop_front()) {
            (b'1', Some(Expect { sent: Sent::Parse, tag, .. }))
            | (b'2', Some(Expect { sent: Sent::Bind, tag, .. }))
            | (b'3', Some(Expect { sent: Sent::Close, tag, .. })) => {
                self.events.extend(tag.map(Event::Done));
                Ok(())
            }
            _ => Err(ResponseError::Unexpected(char::from(kind))),
        }
    }

    /// In COPY mode a server takes Sync for nothing until the copy has ended.
    fn forget_swallowed_syncs(&mut self) {
        if !matches!(self.expects.front(), Some(Expect { sent: Sent::Execute, .. })) {
            return;
        }
        let mut ended = false;
        self.expects.retain(|expect| {
            ended |= matches!(expect.sent, Sent::CopyEnd);
            ended || !matches!(expect.sent, Sent::Sync)
        });
    }

    fn on_error(
        &mut self,
        body: &[u8],
        own: bool,
        refusals: &impl Fn(&[u8]) -> bool,
    ) -> Option<Progress> {
        let fatal = matches!(field(body, b'V'), Some(b"FATAL" | b"PANIC"));
        let sqlstate = ErrorReport::sqlstate_of(body).unwrap_or(b"XX000");
        if fatal {
            self.last_words = body.into();
            self.last_error = Some(ErrorReport::parse(body));
            return Some(Progress::Fatal);
        }
        // Every node says it, and on another the statement would run with another result.
        let stale = sqlstate == b"0A000" && field(body, b'R') == Some(b"RevalidateCachedQuery");
        self.stale_plan |= stale;
        // A setting that cannot be laid is no refusal of the request.
        let laying =
            matches!(self.expects.front(), Some(Expect { sent: Sent::Query, own: true, .. }));
        if !self.committed && !stale && !laying && refusals(sqlstate) {
            self.last_error = Some(ErrorReport::parse(body));
            return Some(Progress::Refused);
        }
        if sqlstate == b"57014" && self.overdue.load(Ordering::Relaxed) {
            self.replaced = Some(&STATEMENT_TIMEOUT);
        }
        self.in_copy = false;
        if self.expects.front().is_some_and(|expect| expect.quiet) {
            self.skip_to_sync();
            return None;
        }
        let in_query = match self.expects.front() {
            Some(Expect { sent: Sent::Query | Sent::FunctionCall, own, .. }) => {
                if *own {
                    // What follows was sent in the belief that this would succeed.
                    self.own_failure = Some(ErrorReport::parse(body));
                    self.hidden = true;
                }
                true
            }
            _ => false,
        };
        if !own || !in_query {
            self.committed = true;
            self.failed = Some(sqlstate.first_chunk().copied().unwrap_or(*b"XX000"));
        }
        if !in_query {
            self.skip_to_sync();
            let query = |expect: &Expect| !expect.own && expect.sent == Sent::Query;
            self.answered |= own && self.expects.iter().any(query);
        }
        None
    }

    /// What was sent up to the next Sync is dropped by the server.
    fn skip_to_sync(&mut self) {
        while let Some(expect) = self.expects.front() {
            if matches!(expect.sent, Sent::Sync) {
                return;
            }
            self.expects.pop_front();
        }
        self.skipping = true;
    }

    fn on_ready(&mut self, status: u8) -> Result<Option<Progress>, ResponseError> {
        self.status = status;
        self.drop_copy_end();
        let answered = self.expects.pop_front();
        self.drop_copy_end();
        match answered {
            Some(Expect { sent: Sent::Sync | Sent::Query | Sent::FunctionCall, own, .. }) => {
                self.committed |= !own;
                let last = self.expects.iter().all(|e| matches!(e.sent, Sent::Answer(_)));
                // The last of Causeway's own is an end as well: nobody waits for more.
                Ok((last && !self.skipping).then_some(Progress::Ready))
            }
            _ => Err(ResponseError::Unexpected('Z')),
        }
    }
}

/// A field of an error's body: V is the severity that no locale translates, R the routine.
fn field(body: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = body;
    while let [field, tail @ ..] = rest {
        let (text, next) = frame::cstr(tail)?;
        if *field == wanted {
            return Some(text);
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn answers(kinds: &str) -> Vec<u8> {
        kinds
            .bytes()
            .flat_map(|kind| match kind {
                b'Z' => message(b'Z', b"I"),
                b'E' => message(b'E', b"SERROR\0VERROR\0C42601\0Moops\0\0"),
                b'R' => message(b'E', b"SERROR\0VERROR\0C25006\0Mreplica\0\0"),
                b'F' => message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"),
                b'C' => message(b'C', b"SELECT 1\0"),
                b'D' => message(b'D', b"row"),
                other => message(other, b""),
            })
            .collect()
    }

    /// What the client sees, as message types, `*` for what was put in.
    fn shown(responses: &mut Responses, input: &[u8]) -> (String, Progress) {
        let progress = responses.scan(input, |state| state == b"25006").unwrap();
        let mut seen = String::new();
        for piece in responses.pieces() {
            match piece {
                Piece::Own(_) => seen.push('*'),
                Piece::Input(range) => {
                    let mut rest = &input[range.clone()];
                    while let Some(header) = frame::backend(rest).unwrap() {
                        seen.push(char::from(header.kind));
                        rest = &rest[header.length.min(rest.len())..];
                    }
                }
            }
        }
        responses.flushed();
        (seen, progress)
    }

    fn pipeline(sent: &[Sent]) -> Responses {
        let mut responses = Responses::default();
        for one in sent {
            responses.expect(*one, None);
        }
        responses
    }

    #[test]
    fn a_simple_query_passes_up_to_ready() {
        let mut responses = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut responses, &answers("TDDCZ")), ("TDDCZ".into(), Progress::Ready));
        assert!(responses.is_quiet() && responses.committed() && responses.rows_shown());
    }

    #[test]
    fn statements_that_were_added_are_not_seen() {
        let mut responses = pipeline(&[Sent::Query]);
        responses.expect_veiled([Completion::Shown, Completion::Hidden, Completion::Said(b"x")]);
        let input = answers("TDCTDCDCSZ");
        assert_eq!(shown(&mut responses, &input), ("TDC*SZ".into(), Progress::Ready));
        responses.begin();
        responses.expect(Sent::Query, None);
        assert_eq!(shown(&mut responses, &answers("TDCZ")), ("TDCZ".into(), Progress::Ready));
    }

    #[test]
    fn an_error_among_added_statements_is_seen() {
        let mut responses = pipeline(&[Sent::Query]);
        responses.expect_veiled([Completion::Hidden, Completion::Shown]);
        assert_eq!(shown(&mut responses, &answers("CEZ")), ("EZ".into(), Progress::Ready));
    }

    #[test]
    fn what_may_fail_quietly_is_not_seen_to_fail() {
        let mut responses = Responses::default();
        responses.expect_quiet(Sent::Parse);
        responses.expect_own(Sent::Sync, None);
        responses.expect(Sent::Query, None);
        assert_eq!(shown(&mut responses, &answers("EZTCZ")), ("TCZ".into(), Progress::Ready));
        assert!(!responses.failed());
    }

    #[test]
    fn one_error_answers_a_query_whose_statement_cannot_be_lent() {
        let mut responses = Responses::default();
        responses.expect_own(Sent::Parse, None);
        responses.expect_own(Sent::Sync, None);
        responses.expect(Sent::Query, None);
        assert_eq!(shown(&mut responses, &answers("EZEZ")), ("EZ".into(), Progress::Ready));
        assert!(responses.failed());
    }

    #[test]
    fn the_process_ids_of_notifications_are_found() {
        let mut responses = pipeline(&[Sent::Query]);
        let input = [answers("C"), message(b'A', b"\0\0\0\x07c\0p\0"), answers("Z")].concat();
        responses.scan(&input, |_| false).unwrap();
        let [at] = responses.notifiers() else { panic!("one notification") };
        assert_eq!(input[*at..*at + 4], [0, 0, 0, 7]);
        responses.flushed();
        assert!(responses.notifiers().is_empty());

        for short in [&b""[..], b"\0\0\0"] {
            let mut responses = pipeline(&[Sent::Query]);
            let refused = responses.scan(&message(b'A', short), |_| false);
            assert_eq!(refused, Err(ResponseError::Unexpected('A')), "{short:?}");
        }
    }

    #[test]
    fn reports_are_bounded_however_many_there_are() {
        let mut responses = pipeline(&[Sent::Query]);
        let mut hear = |name: &str, value: &str| {
            let report = message(b'S', format!("{name}\0{value}\0").as_bytes());
            let scanned = responses.scan(&report, |_| false);
            responses.flushed();
            scanned
        };
        for round in 0..100_000 {
            assert_eq!(hear("application_name", &round.to_string()), Ok(Progress::More));
        }
        for round in 0..200 {
            assert_eq!(hear("search_path", &"x".repeat(round * 1000)), Ok(Progress::More));
        }
        let refused = (0..100_000).find_map(|number| hear(&format!("x.{number}"), "").err());
        assert_eq!(refused, Some(ResponseError::Reports));
        let last = Event::Parameter((*b"application_name").into(), (*b"99999").into());
        let events: Vec<_> = responses.events().collect();
        assert_eq!(events[0], last);
        assert!(events.len() < 20_000, "{}", events.len());
    }

    #[test]
    fn a_copy_out_passes_with_its_copy_done() {
        let mut responses = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut responses, &answers("HddcCZ")), ("HddcCZ".into(), Progress::Ready));
        assert!(responses.is_quiet());
    }

    #[test]
    fn a_sync_in_the_middle_of_a_copy_is_not_answered() {
        let mut responses = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut responses, &answers("G")), ("G".into(), Progress::CopyIn));
        responses.expect(Sent::Sync, None);
        responses.expect(Sent::CopyEnd, None);
        assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
        assert!(responses.is_quiet());
    }

    #[test]
    fn what_causeway_asked_is_not_shown() {
        let mut responses = Responses::default();
        responses.expect_own(Sent::Query, None);
        responses.expect_own(Sent::Parse, Some(7));
        for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
            responses.expect(sent, None);
        }
        assert_eq!(shown(&mut responses, &answers("SCZ12DCZ")), ("2DCZ".into(), Progress::Ready));
        assert!(responses.events().any(|event| event == Event::Done(7)));
    }

    #[test]
    fn an_own_parse_that_fails_answers_the_bind() {
        let mut responses = Responses::default();
        responses.expect_own(Sent::Parse, Some(1));
        for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
            responses.expect(sent, None);
        }
        assert_eq!(shown(&mut responses, &answers("EZ")), ("EZ".into(), Progress::Ready));
        assert_eq!(responses.events().count(), 0);
    }

    #[test]
    fn an_own_query_that_fails_hides_the_rest() {
        let mut responses = Responses::default();
        responses.expect_own(Sent::Query, None);
        responses.expect(Sent::Query, None);
        assert_eq!(shown(&mut responses, &answers("EZTDCZ")), (String::new(), Progress::Ready));
        assert_eq!(responses.own_failure().unwrap().sqlstate, "42601");
    }

    #[test]
    fn an_error_skips_to_the_sync() {
        use Sent::{Bind, Execute, Parse, Sync};
        let mut responses =
            pipeline(&[Parse, Bind, Execute, Parse, Bind, Execute, Sync, Parse, Sync]);
        assert_eq!(shown(&mut responses, &answers("12EZ1Z")), ("12EZ1Z".into(), Progress::Ready));
        let mut open = pipeline(&[Parse, Bind]);
        assert_eq!(shown(&mut open, &answers("E")), ("E".into(), Progress::More));
        open.expect(Execute, None);
        open.expect(Sync, None);
        assert_eq!(shown(&mut open, &answers("Z")), ("Z".into(), Progress::Ready));
        assert!(open.is_quiet());
    }

    #[test]
    fn a_refusal_is_seen_before_anything_is_shown() {
        use Sent::{Bind, Execute, Parse, Sync};
        let mut responses = pipeline(&[Parse, Bind, Execute, Sync]);
        let input = answers("12RZ");
        assert_eq!(responses.scan(&input, |s| s == b"25006").unwrap(), Progress::Refused);
        assert!(!responses.committed());
        responses.hide();
        assert_eq!(responses.scan(&input, |_| false).unwrap(), Progress::Ready);
        assert!(responses.pieces().is_empty());
        let mut late = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut late, &answers("TDRZ")), ("TDEZ".into(), Progress::Ready));
    }

    #[test]
    fn a_put_in_answer_takes_its_place() {
        use Sent::{Answer, Bind, Describe, Execute, Parse, Sync};
        let mut responses =
            pipeline(&[Parse, Answer(b"1"), Bind, Describe, Answer(b"3"), Execute, Sync]);
        let seen = shown(&mut responses, &answers("12nCZ"));
        assert_eq!(seen, ("1*2n*CZ".into(), Progress::Ready));
    }

    #[test]
    fn copy_in_swallows_the_sync_that_came_with_it() {
        use Sent::{Bind, CopyEnd, Execute, Parse, Sync};
        let mut responses = pipeline(&[Parse, Bind, Execute, Sync]);
        assert_eq!(shown(&mut responses, &answers("12G")), ("12G".into(), Progress::CopyIn));
        responses.expect(CopyEnd, None);
        responses.expect(Sync, None);
        assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
        assert!(responses.is_quiet());
        let mut ahead = pipeline(&[Execute, CopyEnd, Sync]);
        assert_eq!(shown(&mut ahead, &answers("G")).1, Progress::CopyIn);
        assert_eq!(shown(&mut ahead, &answers("CZ")).1, Progress::Ready);
    }

    #[test]
    fn a_copy_of_a_simple_query_ends_with_its_ready() {
        let mut responses = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut responses, &answers("G")).1, Progress::CopyIn);
        responses.expect(Sent::CopyEnd, None);
        assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
        assert!(responses.is_quiet());
    }

    #[test]
    fn a_copy_out_passes_with_its_end() {
        use Sent::{Bind, Execute, Parse, Sync};
        let mut simple = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut simple, &answers("HddcCZ")), ("HddcCZ".into(), Progress::Ready));
        let mut extended = pipeline(&[Parse, Bind, Execute, Sync]);
        assert_eq!(shown(&mut extended, &answers("12HdcCZ")), ("12HdcCZ".into(), Progress::Ready));
        assert!(simple.is_quiet() && extended.is_quiet() && extended.rows_shown());
    }

    #[test]
    fn a_fatal_ends_it() {
        let mut responses = pipeline(&[Sent::Query]);
        assert_eq!(shown(&mut responses, &answers("F")), (String::new(), Progress::Fatal));
        assert_eq!(responses.last_error().unwrap().sqlstate, "57P01");
    }

    #[test]
    fn any_split_shows_the_same() {
        use Sent::{Bind, Describe, Execute, Parse, Sync};
        let input = answers("12TDDDC12nCZ");
        let sent = [Parse, Bind, Describe, Execute, Parse, Bind, Describe, Execute, Sync];
        for step in 1..input.len() {
            let mut responses = pipeline(&sent);
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            let mut last = Progress::More;
            for chunk in input.chunks(step) {
                buffer.extend_from_slice(chunk);
                last = responses.scan(&buffer, |_| false).unwrap();
                for piece in responses.pieces() {
                    if let Piece::Input(range) = piece {
                        seen.extend_from_slice(&buffer[range.clone()]);
                    }
                }
                buffer.drain(..responses.flushed());
            }
            assert_eq!((seen, last), (input.clone(), Progress::Ready), "step {step}");
        }
    }

    #[test]
    fn a_stale_plan_is_not_asked_of_another_node() {
        let mut responses = Responses::default();
        responses.begin();
        responses.expect(Sent::Bind, None);
        responses.expect(Sent::Sync, None);
        let body = b"SERROR\0VERROR\0C0A000\0Mcached plan\0RRevalidateCachedQuery\0\0";
        let mut input = message(b'E', body);
        input.extend(answers("Z"));
        assert_eq!(responses.scan(&input, |state| state == b"0A000").unwrap(), Progress::Ready);
        assert!(responses.stale_plan());
        responses.flushed();
        responses.begin();
        assert!(!responses.stale_plan());
    }
}

//! The scanner over a server's answers: by header, bytes untouched.
//!
//! The queue of what is expected ([`Expect`]) tells whose answer comes; here it is told from the
//! message what it completes and whether the client sees it. Owns the borders and what is known of the
//! exchange under way: what was shown, what failed, what may still be taken back. The order of answers
//! is [`super::expect`]'s. Knows no socket, copies nothing: what the client shall see is named as
//! [`Piece`]s of the input.

mod events;
mod pieces;
mod progress;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use self::events::Events;
use self::pieces::Pieces;
use super::error_report::ErrorReport;
use super::expect::{Expected, Veil};
use super::frame::{self, HEADER};

pub use self::events::Event;
pub use self::pieces::Piece;
pub use self::progress::{Progress, ResponseError};
pub use super::expect::{Completion, Expect, Sent};

/// Largest answer other than data that is looked at whole, in bytes.
const LARGEST_REPORT: usize = 16 << 20;
/// The bytes of a process id, with which a notification begins.
const PROCESS_ID: usize = 4;

/// The five letters of an error's code.
pub type SqlState = [u8; 5];

/// The state of one server's answers.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one exchange")]
pub struct Responses {
    expected: Expected,
    /// Bytes of the current message's body that are still to come, and whether the client sees them.
    body_left: usize,
    body_shown: bool,
    pieces: Pieces,
    /// Something was scanned that cannot be taken back: a row, a completion, an error.
    committed: bool,
    events: Events,
    status: u8,
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
    veil: Veil,
    /// A preparation of Causeway's own has failed and answered the client's query, which still runs.
    answered: bool,
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            expected: Expected::default(),
            body_left: 0,
            body_shown: false,
            pieces: Pieces::default(),
            committed: false,
            events: Events::default(),
            status: b'I',
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
            veil: Veil::default(),
            answered: false,
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
        self.pieces.begin();
        self.committed = false;
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
    }

    /// The client's simple query of this exchange is sent with statements of Causeway's own in it.
    pub fn expect_veiled(&mut self, completions: impl IntoIterator<Item = Completion>) {
        self.veil.lay(completions);
    }

    /// Notes that a message of the client's was sent.
    pub fn expect(&mut self, sent: Sent, tag: Option<u32>) {
        self.expected.push(Expect { sent, own: false, quiet: false, tag });
    }

    /// Notes that a message of Causeway's own was sent: the client sees nothing of its answer.
    pub fn expect_own(&mut self, sent: Sent, tag: Option<u32>) {
        self.expected.push(Expect { sent, own: true, quiet: false, tag });
    }

    /// The same, and nobody needs to know if it failed: a Sync of Causeway's own comes next.
    pub fn expect_quiet(&mut self, sent: Sent) {
        self.expected.push(Expect { sent, own: true, quiet: true, tag: None });
    }

    /// Shows nothing more of this exchange: it will be asked elsewhere.
    pub fn hide(&mut self) {
        self.pieces.hide();
        self.pieces.clear();
    }

    /// Shows the notices of Causeway's own messages, for this exchange.
    pub fn show_own_notices(&mut self) {
        self.aloud = true;
    }

    /// Whether every message that was sent is answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.expected.is_quiet() && self.body_left == 0
    }

    /// Transaction status of the last ReadyForQuery.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Whether the server is taking COPY data.
    #[must_use]
    pub fn in_copy(&self) -> bool {
        self.expected.in_copy()
    }

    /// Whether a Sync sent now would be taken for nothing: a COPY takes data and its end is not sent.
    #[must_use]
    pub fn swallows_sync(&self) -> bool {
        self.expected.swallows_sync()
    }

    /// Whether the server drops all that is sent, up to a Sync that is not sent yet.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.expected.is_skipping()
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
        self.pieces.is_shown()
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
        self.pieces.is_shown() && self.body_left > 0 && self.body_shown
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
        self.events.drain()
    }

    /// Where in the input, up to what is scanned, the process ids of notifications are that the client
    /// shall see: of four bytes each.
    #[must_use]
    pub fn notifiers(&self) -> &[usize] {
        self.pieces.notifiers()
    }

    /// What the client shall see of the input scanned so far.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        self.pieces.list()
    }

    /// The pieces have been written (or dropped): forgets them and tells how many bytes of the
    /// input are done with.
    pub fn flushed(&mut self) -> usize {
        self.pieces.flushed()
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
        if self.expected.puts_in() {
            self.put_in();
        }
        loop {
            if self.body_left > 0 {
                let here = self.body_left.min(input.len() - self.pieces.scanned());
                self.pieces.pass(here, self.body_shown);
                self.body_left -= here;
                if self.body_left > 0 {
                    return Ok(Progress::More);
                }
            }
            let scanned = self.pieces.scanned();
            let Some(header) = frame::backend(&input[scanned..])? else {
                return Ok(Progress::More);
            };
            let here = input.len() - scanned;
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
            let body_end = scanned + header.length.min(here);
            let body = &input[scanned + HEADER..body_end];
            let front = self.expected.front();
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
            let shown = !self.pieces.is_hidden() && (!own || own_shown) && !veiled && !unseen;
            if let Some(instead) = self.replaced.take().filter(|_| shown) {
                self.pieces.pass(header.length, false);
                self.pieces.put_in(instead);
            } else {
                self.pieces.pass(header.length.min(here), shown);
            }
            self.body_left = header.length.saturating_sub(here);
            self.body_shown = shown;
            if self.expected.puts_in() {
                self.put_in();
            }
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// Whether this message is of a statement that the client does not see the answer of.
    fn is_veiled(&mut self, kind: u8) -> bool {
        match self.veil.over(kind) {
            Completion::Shown => false,
            Completion::Hidden => true,
            Completion::Said(bytes) => {
                self.pieces.put_in(bytes);
                true
            }
        }
    }

    /// Puts in the answers whose place has come.
    fn put_in(&mut self) {
        while let Some((bytes, tag)) = self.expected.put_in() {
            self.pieces.put_in(bytes);
            self.events.done(tag);
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
                self.completed += usize::from(!own && !self.veil.hides());
                if kind == b'C' && !own {
                    self.rolled_back = body.starts_with(b"ROLLBACK");
                }
                let tag = self.expected.on_completion();
                self.events.done(tag);
            }
            b'T' | b'n' => self.expected.on_description(),
            b'1' | b'2' | b'3' => {
                let unexpected = ResponseError::Unexpected(char::from(kind));
                let done = self.expected.on_step(kind).ok_or(unexpected)?;
                self.events.done(done.tag);
            }
            b'S' => {
                if let Some((name, rest)) = frame::cstr(body)
                    && let Some((value, _)) = frame::cstr(rest)
                {
                    self.events.report(name, value)?;
                }
            }
            // Without the process id that is to be named anew it is none.
            b'A' if body.len() < PROCESS_ID => return Err(ResponseError::Unexpected('A')),
            b'A' => self.pieces.note_notifier(HEADER),
            b'G' => {
                self.committed = true;
                self.expected.on_copy_in();
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

    fn on_error(
        &mut self,
        body: &[u8],
        own: bool,
        refusals: &impl Fn(&[u8]) -> bool,
    ) -> Option<Progress> {
        let fatal = matches!(ErrorReport::field_of(body, b'V'), Some(b"FATAL" | b"PANIC"));
        let sqlstate = ErrorReport::sqlstate_of(body).unwrap_or(b"XX000");
        if fatal {
            self.last_words = body.into();
            self.last_error = Some(ErrorReport::parse(body));
            return Some(Progress::Fatal);
        }
        // Every node says it, and on another the statement would run with another result.
        let stale = sqlstate == b"0A000"
            && ErrorReport::field_of(body, b'R') == Some(b"RevalidateCachedQuery");
        self.stale_plan |= stale;
        // A setting that cannot be laid is no refusal of the request.
        let laying =
            matches!(self.expected.front(), Some(Expect { sent: Sent::Query, own: true, .. }));
        if !self.committed && !stale && !laying && refusals(sqlstate) {
            self.last_error = Some(ErrorReport::parse(body));
            return Some(Progress::Refused);
        }
        if sqlstate == b"57014" && self.overdue.load(Ordering::Relaxed) {
            self.replaced = Some(&STATEMENT_TIMEOUT);
        }
        self.expected.end_copy();
        if self.expected.front().is_some_and(|expect| expect.quiet) {
            self.expected.skip_to_sync();
            return None;
        }
        let in_query = match self.expected.front() {
            Some(Expect { sent: Sent::Query | Sent::FunctionCall, own, .. }) => {
                if *own {
                    // What follows was sent in the belief that this would succeed.
                    self.own_failure = Some(ErrorReport::parse(body));
                    self.pieces.hide();
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
            self.expected.skip_to_sync();
            self.answered |= own && self.expected.has_query();
        }
        None
    }

    fn on_ready(&mut self, status: u8) -> Result<Option<Progress>, ResponseError> {
        self.status = status;
        let answered = self.expected.on_ready().ok_or(ResponseError::Unexpected('Z'))?;
        self.committed |= !answered.own;
        // The last of Causeway's own is an end as well: nobody waits for more.
        Ok(self.expected.is_over().then_some(Progress::Ready))
    }
}

#[cfg(test)]
mod tests;

//! What the sessions of one run share: the clock, the goal, tokens on their way, and complaints.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::client::Refusal;
use super::history::Clock;

/// How the sessions behave.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Of a hundred operations, so many are reads.
    pub reads: u32,
    /// Of a hundred reads, so many are put where the proxy does not choose: in transactions, or on
    /// the primary by a hint.
    pub placed: u32,
    /// Of a thousand operations, so many show or take a token.
    pub tokens: u32,
    /// Of ten thousand writes, so many are by CALL or DO. Few: what these do cannot be known, so that
    /// the proxy looks at the database again after each, and the primary serves meanwhile.
    pub procedures: u32,
    /// Between two operations of a session, on average.
    pub pause: Duration,
}

/// Something that a session could not do.
#[derive(Debug, Clone)]
pub struct Complaint {
    pub session: usize,
    pub what: &'static str,
    /// Empty if the connection was lost.
    pub sqlstate: String,
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, what, sqlstate, message } = self;
        write!(f, "session {session}, {what}: {sqlstate} {message}")
    }
}

/// Shared by all sessions of a run.
pub struct Ground {
    pub clock: Clock,
    pub mix: Mix,
    pub keys: usize,
    stop: AtomicBool,
    reads: AtomicUsize,
    writes: AtomicUsize,
    tokens: Mutex<Vec<(usize, String)>>,
    shown: AtomicUsize,
    elements: AtomicU64,
    complaints: Mutex<Vec<Complaint>>,
}

impl Ground {
    pub fn new(mix: Mix, keys: usize) -> Self {
        Self {
            clock: Clock::new(),
            mix,
            keys,
            stop: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            tokens: Mutex::default(),
            shown: AtomicUsize::new(0),
            elements: AtomicU64::new(1),
            complaints: Mutex::default(),
        }
    }

    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn count(&self, reads: usize, writes: usize) {
        self.reads.fetch_add(reads, Ordering::Relaxed);
        self.writes.fetch_add(writes, Ordering::Relaxed);
    }

    /// Reads and writes so far.
    pub fn counted(&self) -> (usize, usize) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    /// A number for a token.
    pub fn next_token(&self) -> usize {
        self.shown.fetch_add(1, Ordering::Relaxed)
    }

    /// Offers a token to the others; only a few lie about, the newest.
    pub fn offer_token(&self, number: usize, token: String) {
        let mut tokens = self.tokens.lock();
        if tokens.len() > 8 {
            tokens.remove(0);
        }
        tokens.push((number, token));
    }

    /// Takes the newest token, if one lies about.
    pub fn take_token(&self) -> Option<(usize, String)> {
        self.tokens.lock().pop()
    }

    pub fn next_element(&self) -> u64 {
        self.elements.fetch_add(1, Ordering::Relaxed)
    }

    /// The lists that are appended to now: they move on, so that none grows long.
    pub fn open_lists(&self) -> std::ops::Range<u32> {
        let first = self.elements.load(Ordering::Relaxed) / 60;
        let first = u32::try_from(first).expect("a run ends long before");
        first..first + 6
    }

    pub fn refused(&self, session: usize, what: &'static str, refusal: Refusal) {
        let Refusal { sqlstate, message } = refusal;
        self.complaints.lock().push(Complaint { session, what, sqlstate, message });
    }

    pub fn lost(&self, session: usize, error: &io::Error) {
        let (what, sqlstate) = ("connection", String::new());
        let message = error.to_string();
        self.complaints.lock().push(Complaint { session, what, sqlstate, message });
    }

    pub fn complaints(&self) -> Vec<Complaint> {
        self.complaints.lock().clone()
    }
}

//! What a run leaves behind: who did what, when it was sent, when it was answered, and what was seen.
//!
//! Moments are ticks of one counter, so that no two are the same and a history can be put in order
//! without comparing: two operations of which one was answered before the other was sent are in that
//! order for everybody.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub type Key = u32;
/// A counter's value: 0 at first, then 1, 2, 3 ... by its one writer.
pub type Value = u64;

/// A point in the order of all that the clients did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub tick: usize,
    /// Since the run began; for people and for latencies, never for order.
    pub at: Duration,
}

/// Gives moments.
pub struct Clock {
    ticks: AtomicUsize,
    began: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self { ticks: AtomicUsize::new(0), began: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        let tick = self.ticks.fetch_add(1, Ordering::SeqCst);
        Moment { tick, at: self.began.elapsed() }
    }
}

/// When, how and where an operation was done.
#[derive(Debug, Clone)]
pub struct Done {
    pub session: usize,
    pub sent: Moment,
    pub answered: Moment,
    /// The form of the statement, and of the protocol.
    pub how: [&'static str; 2],
    /// What the node that served it said of itself: name, position, snapshot. Empty if not asked.
    pub witness: Box<str>,
}

impl Done {
    pub fn took(&self) -> Duration {
        self.answered.at.saturating_sub(self.sent.at)
    }

    /// The node's name.
    pub fn node(&self) -> Option<&str> {
        self.witness.split(' ').next().filter(|name| !name.is_empty())
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, answered) = (self.sent.at.as_secs_f64(), self.answered.at.as_secs_f64());
        write!(f, "session {:<3} {sent:.6} s .. {answered:.6} s  ", self.session)?;
        write!(f, "({})", self.how.join(", "))?;
        if self.witness.is_empty() { Ok(()) } else { write!(f, " on {}", self.witness) }
    }
}

/// What became of a transaction that wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    /// The connection was lost, or the server could not say.
    Unknown,
}

/// Which of the two ends of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Sent(usize),
    Answered(usize),
}

/// Both ends of all operations, in their order, in O(n).
pub fn turns<'a>(all: impl Iterator<Item = &'a Done> + Clone) -> Vec<Turn> {
    let last = all.clone().map(|done| done.sent.tick.max(done.answered.tick)).max();
    let mut slots = vec![None; last.map_or(0, |last| last + 1)];
    for (number, done) in all.enumerate() {
        slots[done.sent.tick] = Some(Turn::Sent(number));
        slots[done.answered.tick] = Some(Turn::Answered(number));
    }
    slots.into_iter().flatten().collect()
}

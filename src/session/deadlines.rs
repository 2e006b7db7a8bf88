//! Time limits: `query_timeout`, `transaction_timeout`, `idle_in_transaction_timeout` and
//! `idle_timeout`; and PostgreSQL's `idle_session_timeout` and `idle_in_transaction_session_timeout`, which
//! a session may have set, while it has no server to keep them.
//!
//! Each worker has one coarse [`Clock`]. A session that has limits leaves its next deadline there; one
//! that has none never looks at it, and no request has a timer of its own. What is late is first
//! cancelled at its server as a client's cancel request would be; a server that does not answer that
//! either is given up. Words and SQLSTATEs are those of PostgreSQL's settings of the same purpose.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::driver::Session;
use super::failure::{Failure, SessionEnd};
use super::metrics::Metrics;
use super::registry::{self, Slot};
use super::relay::RelayError;
use crate::config::settings::TimeLimits;
use crate::protocol::ErrorReport;
use crate::protocol::request::Request;
use crate::routing::Decision;

/// How often a clock looks at its deadlines: nothing is noticed to be late sooner.
const TICK: Duration = Duration::from_millis(20);
/// How long a server may take to end what was cancelled before it is given up.
const GRACE: Duration = Duration::from_secs(10);
/// In place of a deadline where there is none.
const NEVER: u64 = u64::MAX;

/// A limit that a session has run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// `query_timeout`
    Query,
    /// `transaction_timeout`
    Transaction,
    /// `idle_in_transaction_timeout`
    IdleInTransaction,
    /// `idle_timeout`
    Idle,
    /// PostgreSQL's `idle_session_timeout`
    IdleSession,
    /// PostgreSQL's `idle_in_transaction_session_timeout`
    IdleInTransactionSession,
}

impl Overdue {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Query,
        Self::Transaction,
        Self::IdleInTransaction,
        Self::Idle,
        Self::IdleSession,
        Self::IdleInTransactionSession,
    ];

    /// The setting's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query_timeout",
            Self::Transaction => "transaction_timeout",
            Self::IdleInTransaction => "idle_in_transaction_timeout",
            Self::Idle => "idle_timeout",
            Self::IdleSession => "idle_session_timeout",
            Self::IdleInTransactionSession => "idle_in_transaction_session_timeout",
        }
    }

    /// What the client hears.
    #[must_use]
    pub fn report(self) -> ErrorReport {
        let report = match self {
            Self::Query => {
                ErrorReport::error("57014", "canceling statement due to statement timeout")
            }
            Self::Transaction => {
                ErrorReport::fatal("25P04", "terminating connection due to transaction timeout")
            }
            Self::IdleInTransaction | Self::IdleInTransactionSession => ErrorReport::fatal(
                "25P03",
                "terminating connection due to idle-in-transaction timeout",
            ),
            Self::Idle | Self::IdleSession => {
                ErrorReport::fatal("57P05", "terminating connection due to idle-session timeout")
            }
        };
        if matches!(self, Self::IdleSession | Self::IdleInTransactionSession) {
            return report;
        }
        report.with_detail(format!("The limit is {} of the proxy.", self.as_str()))
    }
}

/// What a session waits to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alarm {
    Late(Overdue),
    /// What was cancelled has not ended.
    Unanswered,
}

/// One session's next deadline.
#[derive(Debug)]
pub struct Timer {
    /// Milliseconds of its clock, or [`NEVER`]: so that a tick need not lock.
    due: AtomicU64,
    state: Mutex<State>,
    slot: Arc<Slot>,
    rang: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Alarm>,
    rung: Option<Alarm>,
}

/// One worker's clock.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    timers: Mutex<Vec<Weak<Timer>>>,
    entered: Notify,
}

impl Clock {
    fn new() -> Self {
        Self { began: Instant::now(), timers: Mutex::default(), entered: Notify::new() }
    }

    fn enter(&self, slot: Arc<Slot>) -> Arc<Timer> {
        let timer = Arc::new(Timer {
            due: AtomicU64::new(NEVER),
            state: Mutex::default(),
            slot,
            rang: Notify::new(),
        });
        self.timers.lock().push(Arc::downgrade(&timer));
        self.entered.notify_one();
        timer
    }

    /// Looks at the deadlines for as long as the worker lives; sleeps while nobody has any. To be run
    /// on the worker itself, so that a session never moves on while its deadline is being judged.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn run(&self, metrics: &Metrics) {
        loop {
            if self.timers.lock().is_empty() {
                self.entered.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.tick(Instant::now(), metrics);
        }
    }

    fn tick(&self, now: Instant, metrics: &Metrics) {
        let now = self.milliseconds(now);
        self.timers.lock().retain(|timer| {
            let Some(timer) = timer.upgrade() else { return false };
            if timer.due.load(Ordering::Relaxed) <= now {
                timer.ring(now, metrics);
            }
            true
        });
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.began).as_millis()).unwrap_or(NEVER - 1)
    }
}

impl Timer {
    fn set(&self, next: Option<(u64, Alarm)>) {
        let mut state = self.state.lock();
        *state = State { next: next.map(|(_, alarm)| alarm), rung: None };
        self.due.store(next.map_or(NEVER, |(due, _)| due), Ordering::Relaxed);
    }

    fn ring(&self, now: u64, metrics: &Metrics) {
        let mut state = self.state.lock();
        let rings = state.next.take();
        state.rung = rings;
        self.due.store(NEVER, Ordering::Relaxed);
        if let Some(Alarm::Late(overdue)) = rings {
            metrics.overdue(overdue);
        }
        if rings == Some(Alarm::Late(Overdue::Query)) {
            state.next = Some(Alarm::Unanswered);
            let grace = u64::try_from(GRACE.as_millis()).unwrap_or(NEVER);
            self.due.store(now.saturating_add(grace), Ordering::Relaxed);
            if let Some(server) = self.slot.begin_cancel(true) {
                tokio::spawn(async move { registry::carry_out(&server).await });
            }
        } else {
            // Who waits for a server is waiting there, not here.
            self.slot.stop_waiting();
            self.rang.notify_one();
        }
    }

    /// What has rung, other than what a cancel request settles.
    fn rung(&self) -> Option<Alarm> {
        self.state.lock().rung.filter(|alarm| *alarm != Alarm::Late(Overdue::Query))
    }

    /// Whether anything has rung for the request under way.
    fn is_late(&self) -> Option<Overdue> {
        match self.state.lock().rung? {
            Alarm::Late(overdue) => Some(overdue),
            Alarm::Unanswered => Some(Overdue::Query),
        }
    }

    /// Completes when a deadline has passed that a cancel request cannot settle.
    ///
    /// # Cancel safety
    /// Safe.
    async fn wait(&self) {
        while self.rung().is_none() {
            self.rang.notified().await;
        }
    }
}

/// The clocks of all workers.
#[derive(Debug)]
pub struct Clocks(Box<[Clock]>);

impl Clocks {
    /// For so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Clock::new()).collect())
    }

    /// A worker's own.
    #[must_use]
    pub fn of(&self, worker: usize) -> &Clock {
        &self.0[worker % self.0.len()]
    }
}

/// The deadlines of one session that has any.
#[derive(Debug)]
pub struct Deadlines {
    timer: Arc<Timer>,
    times: TimeLimits,
    transaction_began: Option<Instant>,
}

/// Completes when a silent session is to end, and says why; never where there are no deadlines.
///
/// # Cancel safety
/// Safe.
pub(super) async fn silence_ends(deadlines: Option<&Deadlines>) -> SessionEnd {
    let Some(Deadlines { timer, .. }) = deadlines else { return pending().await };
    timer.wait().await;
    SessionEnd::Overdue(timer.is_late().unwrap_or(Overdue::Idle))
}

impl Session {
    /// A request has arrived.
    pub(super) fn on_request_time(&mut self, request: &Request) {
        let times = self.times_of(request);
        let now = Instant::now();
        let deadlines = self.deadlines();
        deadlines.times = times;
        let began = *deadlines.transaction_began.get_or_insert(now);
        self.set_deadline([
            (times.query, now, Overdue::Query),
            (times.transaction, began, Overdue::Transaction),
        ]);
    }

    /// The client's turn has come.
    pub(super) fn on_silence(&mut self) {
        let idle = self.machine.is_idle();
        let idle_timeout = self.eyes.rules.settings.limits.idle_timeout;
        // A server keeps the session's own limits, and its words are passed on.
        let alone = self.lease.is_none();
        let own = |limit: Option<Duration>| limit.filter(|_| alone);
        let (own_idle, own_in_transaction) =
            (own(self.eyes.options.idle_session), own(self.eyes.options.idle_in_transaction));
        let now = Instant::now();
        let deadlines = self.deadlines();
        let times = deadlines.times;
        if idle {
            deadlines.transaction_began = None;
            self.set_deadline([
                (idle_timeout, now, Overdue::Idle),
                (own_idle, now, Overdue::IdleSession),
            ]);
        } else {
            let began = *deadlines.transaction_began.get_or_insert(now);
            self.set_deadline([
                (times.idle_in_transaction, now, Overdue::IdleInTransaction),
                (own_in_transaction, now, Overdue::IdleInTransactionSession),
                (times.transaction, began, Overdue::Transaction),
            ]);
        }
    }

    /// Takes the earliest; a limit of zero is none.
    fn set_deadline<const N: usize>(&mut self, limits: [(Option<Duration>, Instant, Overdue); N]) {
        let clock = self.shared.clocks.of(self.worker);
        let due = |(limit, since, overdue): (Option<Duration>, Instant, Overdue)| {
            let limit = limit.filter(|limit| !limit.is_zero())?;
            let at = since.checked_add(limit).map_or(NEVER - 1, |at| clock.milliseconds(at));
            Some((at, Alarm::Late(overdue)))
        };
        let next = limits.into_iter().filter_map(due).min_by_key(|(at, _)| *at);
        if let Some(deadlines) = &self.deadlines {
            deadlines.timer.set(next);
        }
    }

    fn deadlines(&mut self) -> &mut Deadlines {
        self.deadlines.get_or_insert_with(|| {
            let timer = self.shared.clocks.of(self.worker).enter(self.entry.slot.clone());
            Box::new(Deadlines { timer, times: TimeLimits::default(), transaction_began: None })
        })
    }

    fn times_of(&self, request: &Request) -> TimeLimits {
        let usual = self.eyes.times;
        if !self.eyes.rules.router.rules().timed {
            return usual;
        }
        let ran = self.machine.ran(request, &self.client.input, &self.eyes);
        let mut by_rule = ran.scripts().iter().map(|script| self.eyes.times_of(script));
        by_rule.find(|times| !times.is_empty()).unwrap_or_default().or(usual)
    }

    /// [`Session::attempt`] within the session's limits, if it has any.
    pub(super) async fn attempt_in_time(
        &mut self,
        request: &Request,
        decision: &Decision,
    ) -> Result<(), Failure> {
        let Some(deadlines) = &self.deadlines else { return self.attempt(request, decision).await };
        let timer = deadlines.timer.clone();
        let mut fresh = true;
        if let Some(lease) = &self.lease {
            // What was sent to cancel the statement before must not hit this one.
            lease.identity.cancels_delivered().await;
            fresh = lease.responses.status() == b'I';
        }
        let ended = tokio::select! {
            biased;
            ended = Box::pin(self.attempt(request, decision)) => Some(ended),
            () = timer.wait() => None,
        };
        ended.unwrap_or_else(|| Err(self.give_up(request, timer.rung(), fresh)))
    }

    /// The server has not come to an end in time.
    fn give_up(&mut self, request: &Request, rung: Option<Alarm>, fresh: bool) -> Failure {
        self.machine.asks.signals = None;
        let torn = self.client.writing
            || self.lease.as_ref().is_some_and(|lease| lease.responses.is_torn());
        if torn {
            self.abandon();
            return Failure::Client(SessionEnd::AnswerTorn);
        }
        if let Some(Alarm::Late(overdue)) = rung {
            self.abandon();
            return Failure::Client(SessionEnd::Overdue(overdue));
        }
        let silent = RelayError::Server(std::io::ErrorKind::TimedOut.into());
        match self.lost(request, silent, fresh) {
            Failure::ServerLost | Failure::AnswerLost => Failure::Overdue,
            failure => failure,
        }
    }

    /// What it means that the wait for a server was broken off.
    pub(super) fn why_cancelled(&self, failure: Failure) -> Failure {
        let late = self.deadlines.as_ref().and_then(|deadlines| deadlines.timer.is_late());
        match (failure, late) {
            (Failure::Cancelled, Some(Overdue::Query)) => Failure::Overdue,
            (Failure::Cancelled, Some(overdue)) => Failure::Client(SessionEnd::Overdue(overdue)),
            (failure, _) => failure,
        }
    }
}

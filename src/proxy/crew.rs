//! The workers together: which of them are at work, and who serves whom.
//!
//! A worker that is awake serves the next request for less than one that must be woken, and finds
//! several requests when it looks: the fewer workers share a load, the less each request costs. So
//! clients go to as few workers as can bear them. Once a `LOOK` the processor time of each worker is
//! read from the operating system; when one is short of time another is opened, and sessions that
//! are active move there between two requests; when fewer would do for long enough, one is closed.
//! [`Spread`] decides, without a clock; where the system does not tell a thread's time, all workers
//! are open and each client stays with the one that had the fewest.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::census::Counted;
use crate::client::Welcome;
use crate::net::PeerAddr;
use crate::session::Session;
use crate::session::post::Post;

/// How often the workers are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A worker with less time left than this is short of it: its share of a processor.
const FULL: f64 = 0.7;
/// The share that each of the open workers should have.
const COMFORT: f64 = 0.5;
/// One worker less is open when the others would stay below this share ...
const CALM: f64 = 0.35;
/// ... over so many looks in a row.
const CALM_LOOKS: u32 = 50;
/// Open workers whose shares differ by less are even.
const UNEVEN: f64 = 0.25;

/// What a worker is handed.
pub enum Handed {
    /// A client that has just proved itself.
    Arrival(Box<Arrival>),
    /// A session that another worker ran.
    Session(Box<Guest>),
}

/// A client that has proved itself and has no session yet.
#[derive(Debug)]
pub struct Arrival {
    /// Its connection, and what it asks for.
    pub welcome: Welcome,
    /// Where it comes from.
    pub peer: PeerAddr,
    /// It counts for as long as this lives.
    pub counted: Counted,
}

/// A client with a session.
#[derive(Debug)]
pub struct Guest {
    /// Its session.
    pub session: Session,
    /// Where it comes from.
    pub peer: PeerAddr,
    /// It counts for as long as this lives.
    pub counted: Counted,
}

/// All workers, as doors and the workers themselves see them.
#[derive(Debug)]
pub struct Crew {
    members: Box<[Member]>,
    /// The first so many take clients.
    open: AtomicUsize,
    /// Where sessions go that leave.
    relief: AtomicUsize,
    /// Clients of all workers: one that moves is counted twice for a moment, never not at all.
    clients: AtomicUsize,
    /// There are none any more.
    none: Notify,
}

#[derive(Debug)]
struct Member {
    hand_over: UnboundedSender<Handed>,
    /// Clients that it has and that are on their way to it.
    load: AtomicUsize,
    post: Arc<Post>,
    /// Where the system tells what the thread has used.
    clock: OnceLock<PathBuf>,
}

impl Crew {
    /// A crew of so many, and for each what it is handed.
    #[must_use]
    pub fn new(count: usize) -> (Arc<Self>, Vec<UnboundedReceiver<Handed>>) {
        let mut handed = Vec::with_capacity(count);
        let member = |_| {
            let (hand_over, receiver) = unbounded_channel();
            handed.push(receiver);
            let (load, post, clock) = (AtomicUsize::new(0), Arc::default(), OnceLock::new());
            Member { hand_over, load, post, clock }
        };
        let members = (0..count).map(member).collect();
        let (open, relief) = (AtomicUsize::new(1), AtomicUsize::new(0));
        let (clients, none) = (AtomicUsize::new(0), Notify::new());
        (Arc::new(Self { members, open, relief, clients, none }), handed)
    }

    /// To be called by each worker's thread, that its time can be read.
    pub fn report(&self, worker: usize) {
        // "<process>/task/<thread>"
        if let Ok(thread) = fs::read_link("/proc/thread-self") {
            let _ = self.members[worker]
                .clock
                .set(PathBuf::from("/proc").join(thread).join("schedstat"));
        }
    }

    /// The worker's post.
    #[must_use]
    pub fn post(&self, worker: usize) -> Arc<Post> {
        self.members[worker].post.clone()
    }

    /// Hands a new client to the open worker that has the fewest. It comes back if that takes none any more.
    ///
    /// # Errors
    /// The client, when the proxy is shutting down.
    pub fn admit(&self, arrival: Box<Arrival>) -> Result<(), Box<Arrival>> {
        let open = &self.members[..self.open.load(Ordering::Relaxed)];
        let fewest = open.iter().min_by_key(|member| member.load.load(Ordering::Relaxed));
        let Some(member) = fewest else { return Err(arrival) };
        self.take(member, Handed::Arrival(arrival)).map_err(|handed| match handed {
            Handed::Arrival(arrival) => arrival,
            Handed::Session(_) => unreachable!("a new client was handed over"),
        })
    }

    /// Hands a session that leaves its worker to another. It comes back if that takes none any more.
    ///
    /// # Errors
    /// The session, when the proxy is shutting down.
    pub fn relieve(&self, guest: Box<Guest>) -> Result<(), Box<Guest>> {
        let relief = &self.members[self.relief.load(Ordering::Relaxed)];
        self.take(relief, Handed::Session(guest)).map_err(|handed| match handed {
            Handed::Session(guest) => guest,
            Handed::Arrival(_) => unreachable!("a session was handed over"),
        })
    }

    /// A client is at its end, or with another worker.
    pub fn left(&self, worker: usize) {
        self.members[worker].load.fetch_sub(1, Ordering::Relaxed);
        self.lose();
    }

    fn lose(&self) {
        if self.clients.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none.notify_waiters();
        }
    }

    fn take(&self, member: &Member, handed: Handed) -> Result<(), Handed> {
        self.clients.fetch_add(1, Ordering::AcqRel);
        member.load.fetch_add(1, Ordering::Relaxed);
        member.hand_over.send(handed).map_err(|refused| {
            member.load.fetch_sub(1, Ordering::Relaxed);
            self.lose();
            refused.0
        })
    }

    /// Waits until no worker has clients. Cancel safe.
    pub async fn gone(&self) {
        loop {
            let mut none = pin!(self.none.notified());
            none.as_mut().enable();
            if self.clients.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// Looks at the workers until `stop` is cancelled.
    pub async fn keep_even(self: Arc<Self>, stop: CancellationToken) {
        let mut spread = Spread::default();
        let mut before: Option<(Vec<Duration>, Instant)> = None;
        let mut every = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            let used = self.used().map(|used| (used, Instant::now()));
            if let (Some((used, now)), Some((before, then))) = (&used, &before) {
                let since = now.duration_since(*then).as_secs_f64().max(1e-3);
                let share = |(now, before): (&Duration, &Duration)| {
                    now.saturating_sub(*before).as_secs_f64() / since
                };
                let shares: Vec<f64> = used.iter().zip(before).map(share).collect();
                let active: Vec<usize> = self.members.iter().map(|m| m.post.active()).collect();
                self.obey(&spread.look(&shares, &active));
            } else if used.is_none() {
                self.open.store(self.members.len(), Ordering::Relaxed);
            }
            before = used;
        }
    }

    fn obey(&self, orders: &Orders) {
        self.open.store(orders.open, Ordering::Relaxed);
        self.relief.store(orders.relief, Ordering::Relaxed);
        for (member, leaving) in self.members.iter().zip(&orders.leaving) {
            member.post.order(*leaving);
        }
    }

    /// The processor time that each worker has used. `None` where the system does not tell.
    fn used(&self) -> Option<Vec<Duration>> {
        let used = |member: &Member| {
            let text = fs::read_to_string(member.clock.get()?).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        };
        self.members.iter().map(used).collect()
    }
}

/// What a look at the workers has decided.
#[derive(Debug, PartialEq, Eq)]
struct Orders {
    open: usize,
    /// The worker that takes those who leave.
    relief: usize,
    /// How many of each worker's active sessions leave.
    leaving: Vec<usize>,
}

/// How the load is spread: over the first `open` workers.
#[derive(Debug)]
struct Spread {
    open: usize,
    calm: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self { open: 1, calm: 0 }
    }
}

impl Spread {
    /// Takes each worker's share of a processor and its active sessions since the last look.
    fn look(&mut self, shares: &[f64], active: &[usize]) -> Orders {
        self.set_open(shares);
        let relief = (0..self.open).min_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0);
        let leaving = (0..shares.len())
            .map(|worker| {
                let excess = shares[worker] - shares[relief];
                if worker >= self.open {
                    usize::MAX
                } else if shares[worker] > COMFORT && excess > UNEVEN {
                    part(active[worker], excess / 2.0 / shares[worker])
                } else {
                    0
                }
            })
            .collect();
        Orders { open: self.open, relief, leaving }
    }

    fn set_open(&mut self, shares: &[f64]) {
        let total: f64 = shares.iter().sum();
        let short = shares[..self.open].iter().any(|share| *share > FULL);
        if short && self.open < shares.len() {
            // A worker that is short of time says no more than that: at most as many again.
            let wanted = (1..=shares.len()).find(|n| total <= COMFORT * as_f64(*n));
            let most = shares.len().min(self.open * 2);
            self.open = wanted.unwrap_or(most).clamp(self.open + 1, most);
            self.calm = 0;
        } else if self.open > 1 && total < CALM * as_f64(self.open - 1) {
            self.calm += 1;
            if self.calm >= CALM_LOOKS {
                self.open -= 1;
                self.calm = 0;
            }
        } else {
            self.calm = 0;
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a count of workers or sessions")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
fn part(count: usize, of: f64) -> usize {
    (as_f64(count) * of) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_bears_what_it_can_and_then_half_of_it_moves() {
        let mut spread = Spread::default();
        let orders = spread.look(&[0.6, 0.0, 0.0, 0.0], &[30, 0, 0, 0]);
        let all_leave = usize::MAX;
        assert_eq!((orders.open, orders.leaving[0]), (1, 0));
        let orders = spread.look(&[0.9, 0.0, 0.0, 0.0], &[30, 0, 0, 0]);
        assert_eq!((orders.open, orders.relief), (2, 1));
        assert_eq!(orders.leaving, [15, 0, all_leave, all_leave]);
        let even = spread.look(&[0.45, 0.45, 0.0, 0.0], &[15, 15, 0, 0]);
        assert_eq!((even.open, &even.leaving[..2]), (2, &[0, 0][..]));
    }

    #[test]
    fn a_single_session_that_fills_a_worker_stays_where_it_is() {
        let orders = Spread::default().look(&[1.0, 0.0], &[1, 0]);
        assert_eq!((orders.open, orders.leaving[0]), (2, 0));
    }

    #[test]
    fn a_flood_opens_all_within_a_few_looks() {
        let mut spread = Spread::default();
        let mut looks = 0;
        while spread.open < 16 {
            let mut shares = [0.0; 16];
            shares[..spread.open].fill(1.0);
            spread.look(&shares, &[100; 16]);
            looks += 1;
        }
        assert_eq!(looks, 4);
    }

    #[test]
    fn a_worker_is_closed_only_when_it_has_been_calm_for_long() {
        let mut spread = Spread { open: 2, calm: 0 };
        for _ in 1..CALM_LOOKS {
            assert_eq!(spread.look(&[0.1, 0.1], &[5, 5]).leaving, [0, 0]);
        }
        assert_eq!(spread.look(&[0.4, 0.1], &[5, 5]).open, 2, "begins anew");
        for _ in 1..CALM_LOOKS {
            spread.look(&[0.1, 0.1], &[5, 5]);
        }
        let orders = spread.look(&[0.1, 0.1], &[5, 5]);
        assert_eq!((orders.open, orders.relief, &orders.leaving[..]), (1, 0, &[0, usize::MAX][..]));
    }
}

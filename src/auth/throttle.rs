//! Logins that fail, by address: of who has failed often few proofs are judged, however many come at once.
//!
//! Owns the places in which proofs are judged: whoever is suspect takes the next one that is free, and waits for it, or
//! is refused when it would take too long. Failures count for the user as whom they were made and for the address, and
//! each gets its own places. A user who has proved itself from there of late goes by the failures under its name alone,
//! and cannot be told from a stranger behind the same load balancer who guesses at it: neither is refused, and neither
//! waits for longer than a second. What keeps such a stranger slow is that second and how many may be logging in at
//! once. One who has never been let in from there can be kept out by others' failures. An address of IPv6 is its /64,
//! which is what one machine has. Bounded: when too many have failed of late, the oldest are forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::telemetry::Registry;
use crate::telemetry::metrics::Counter;

/// So many failures cost nothing: people mistype.
const FREE: u32 = 3;
/// The first time between two proofs; each further failure doubles it.
const FIRST: Duration = Duration::from_millis(250);
/// The longest time between two for one user, and for all users of an address together, among whom may be such as
/// have never failed. The second is also the most that a user waits who is known.
const LONGEST: Duration = Duration::from_secs(8);
const LONGEST_OF_ALL: Duration = Duration::from_secs(1);
/// Failures are forgotten after so long without another.
const FORGET: Duration = Duration::from_secs(60);
/// A user who has proved itself from an address is known there for so long.
const KNOWN: Duration = Duration::from_secs(24 * 60 * 60);
/// How many addresses, users of addresses, and known users are remembered, each.
const MOST: usize = 10_000;

/// Failed logins.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
    /// Somebody has become known.
    news: Notify,
    waited: Counter,
    refused: Counter,
}

#[derive(Debug, Default)]
struct State {
    addresses: HashMap<IpAddr, Failures>,
    users: HashMap<(IpAddr, Box<str>), Failures>,
    known: HashMap<(IpAddr, Box<str>), Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// When the next proof may be judged.
    next: Instant,
}

/// There is no place for its proof in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many logins from this address have failed")]
pub struct Throttled;

/// One login of a user from an address.
#[derive(Debug)]
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    key: (IpAddr, Box<str>),
    /// It counts as a failure already, of the user and of the address, as long as it has not succeeded.
    counted: (bool, bool),
    /// The user was known when the place was taken.
    was_known: bool,
}

impl Throttle {
    /// Nobody has failed yet.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let throttled = registry.counters(
            "causeway_throttled_logins",
            "Logins from addresses from which too many have failed: judged later, or refused",
            &["outcome"],
        );
        let (waited, refused) = (throttled.with(&["waited"]), throttled.with(&["refused"]));
        Self { state: Mutex::default(), news: Notify::new(), waited, refused }
    }

    /// Somebody wants to log in as this user.
    #[must_use]
    pub fn attempt(&self, from: IpAddr, user: &str) -> Attempt<'_> {
        let key = (source(from), user.into());
        Attempt { throttle: self, key, counted: (false, false), was_known: false }
    }
}

impl Attempt<'_> {
    /// Whether so many have failed that a proof would be counted before it is judged.
    #[must_use]
    pub fn is_suspect(&self, now: Instant) -> bool {
        let state = self.throttle.state.lock();
        let are_many = |all: Option<&Failures>| all.is_some_and(|all| all.are_many(now));
        are_many(state.users.get(&self.key))
            || are_many(state.addresses.get(&self.key.0)) && !state.knows(&self.key, now)
    }

    /// Takes the place in which the proof is judged: how long to wait for it. To be called when the proof is there,
    /// and only once; what came of it is to be told before another is judged.
    ///
    /// # Errors
    /// If it would have to wait for longer than `patience`, and is not known.
    pub fn turn(&mut self, now: Instant, patience: Duration) -> Result<Duration, Throttled> {
        let mut state = self.throttle.state.lock();
        let is_known = state.knows(&self.key, now);
        self.was_known = is_known;
        let State { addresses, users, .. } = &mut *state;
        let by_user = users.get_mut(&self.key).filter(|failures| failures.are_many(now));
        let by_address =
            addresses.get_mut(&self.key.0).filter(|all| !is_known && all.are_many(now));
        self.counted = (by_user.is_some(), by_address.is_some());
        let next = |failures: &Option<&mut Failures>| failures.as_ref().map(|all| all.next);
        let Some(place) = next(&by_user).max(next(&by_address)) else {
            return Ok(Duration::ZERO);
        };
        let mut wait = place.saturating_duration_since(now);
        if is_known {
            wait = wait.min(LONGEST_OF_ALL);
        } else if wait > patience {
            self.counted = (false, false);
            self.throttle.refused.inc();
            return Err(Throttled);
        }
        // Counted beforehand: those who wait side by side must not all be the fourth.
        if let Some(failures) = by_user {
            failures.one_more(now + wait, if is_known { LONGEST_OF_ALL } else { LONGEST });
        }
        if let Some(failures) = by_address {
            failures.one_more(now + wait, LONGEST_OF_ALL);
        }
        if !wait.is_zero() {
            self.throttle.waited.inc();
        }
        Ok(wait)
    }

    /// Waits for the place that was taken, or until the user proves itself from there elsewhere, after which
    /// nothing is held against it.
    pub async fn wait(&self, place: Duration) {
        let mut slept = pin!(tokio::time::sleep(place));
        loop {
            let mut news = pin!(self.throttle.news.notified());
            // From here on nothing is missed, whatever becomes known after the look.
            news.as_mut().enable();
            if !self.was_known && self.throttle.state.lock().knows(&self.key, Instant::now()) {
                return;
            }
            tokio::select! {
                () = &mut slept => return,
                () = news => {}
            }
        }
    }

    /// It has failed.
    pub fn failed(&self, now: Instant) {
        let mut state = self.throttle.state.lock();
        let State { addresses, users, .. } = &mut *state;
        // What was counted beforehand may have been forgiven with what others had failed in.
        if !self.counted.0 || !users.contains_key(&self.key) {
            note(users, &self.key, now, LONGEST);
        }
        if !self.counted.1 {
            note(addresses, &self.key.0, now, LONGEST_OF_ALL);
        }
    }

    /// It has failed, was told so, and turns out to have been judged by what did not hold any more.
    pub fn excused(&self) {
        let mut state = self.throttle.state.lock();
        let State { addresses, users, .. } = &mut *state;
        let both = [users.get_mut(&self.key), addresses.get_mut(&self.key.0)];
        for failures in both.into_iter().flatten() {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// It has succeeded. Others' failures from there go on counting.
    pub fn succeeded(&self, now: Instant) {
        let mut state = self.throttle.state.lock();
        state.users.remove(&self.key);
        if self.counted.1
            && let Some(failures) = state.addresses.get_mut(&self.key.0)
        {
            failures.count = failures.count.saturating_sub(1);
        }
        let was_known = state.knows(&self.key, now);
        if let Some(since) = state.known.get_mut(&self.key) {
            *since = now;
        } else {
            make_room(&mut state.known, |since| *since);
            state.known.insert(self.key.clone(), now);
        }
        drop(state);
        if !was_known {
            self.throttle.news.notify_waiters();
        }
    }
}

impl State {
    fn knows(&self, key: &(IpAddr, Box<str>), now: Instant) -> bool {
        self.known.get(key).is_some_and(|since| now.saturating_duration_since(*since) < KNOWN)
    }
}

impl Failures {
    fn are_many(&self, now: Instant) -> bool {
        self.count > FREE && now.saturating_duration_since(self.last) <= FORGET
    }

    /// A failure at this time, which may be still to come.
    fn one_more(&mut self, at: Instant, longest: Duration) {
        if at.saturating_duration_since(self.last) > FORGET {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = self.last.max(at);
        if self.count > FREE {
            let doublings = (self.count - FREE - 1).min(16);
            self.next = self.next.max(at + (FIRST * (1 << doublings)).min(longest));
        }
    }
}

fn note<K: Hash + Eq + Clone>(
    all: &mut HashMap<K, Failures>,
    key: &K,
    now: Instant,
    longest: Duration,
) {
    if let Some(failures) = all.get_mut(key) {
        return failures.one_more(now, longest);
    }
    make_room(all, |failures| failures.last);
    let mut failures = Failures { count: 0, last: now, next: now };
    failures.one_more(now, longest);
    all.insert(key.clone(), failures);
}

/// Forgets the oldest tenth where there is no room for one more: of floods, too, each costs little.
fn make_room<K: Hash + Eq, V>(all: &mut HashMap<K, V>, since: impl Fn(&V) -> Instant) {
    if all.len() < MOST {
        return;
    }
    let mut times: Vec<_> = all.values().map(&since).collect();
    let (_, oldest, _) = times.select_nth_unstable(MOST / 10);
    let oldest = *oldest;
    let mut surplus = MOST / 10;
    all.retain(|_, value| {
        let goes = surplus > 0 && since(value) <= oldest;
        surplus -= usize::from(goes);
        !goes
    });
}

/// What counts as one source.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn throttle() -> Throttle {
        Throttle::new(&Registry::new(1))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A login that fails: how long it had to wait.
    fn fails(throttle: &Throttle, from: &str, user: &str, now: &mut Instant) -> u128 {
        let mut attempt = throttle.attempt(address(from), user);
        let wait = attempt.turn(*now, PATIENCE).unwrap();
        *now += wait;
        attempt.failed(*now);
        wait.as_millis()
    }

    fn waits(throttle: &Throttle, from: &str, user: &str, now: Instant) -> Duration {
        throttle.attempt(address(from), user).turn(now, PATIENCE).unwrap()
    }

    #[test]
    fn who_fails_often_waits_longer_and_longer() {
        let (throttle, mut now) = (throttle(), Instant::now());
        let waited: Vec<_> =
            (0..12).map(|_| fails(&throttle, "192.0.2.1", "app", &mut now)).collect();
        assert_eq!(waited, [0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(waits(&throttle, "192.0.2.2", "app", now), Duration::ZERO);
        let later = now + FORGET * 2;
        assert_eq!(fails(&throttle, "192.0.2.1", "app", &mut later.clone()), 0, "counted anew");
        assert_eq!(waits(&throttle, "192.0.2.1", "app", later), Duration::ZERO);
    }

    #[test]
    fn those_who_come_side_by_side_wait_one_after_the_other() {
        let (throttle, now) = (throttle(), Instant::now());
        let mut judged = Vec::new();
        for _ in 0..2000 {
            let mut attempt = throttle.attempt(address("192.0.2.1"), "app");
            match attempt.turn(now, PATIENCE) {
                Ok(Duration::ZERO) => attempt.failed(now),
                Ok(wait) => judged.push((wait, attempt)),
                Err(Throttled) => {}
            }
        }
        let places: Vec<_> = judged.iter().map(|(wait, _)| wait.as_millis()).collect();
        assert_eq!(places, [250, 750, 1750, 3750, 7750]);
        for (wait, attempt) in judged {
            attempt.failed(now + wait);
        }
        assert_eq!(throttle.refused.value(), 2000 - 4 - 5);
        let next = now + Duration::from_millis(7750);
        assert_eq!(waits(&throttle, "192.0.2.1", "app", next), LONGEST, "each counts once");
    }

    #[test]
    fn anothers_success_makes_nobody_less_suspect() {
        let (throttle, mut now) = (throttle(), Instant::now());
        let from = "192.0.2.1";
        for user in 0..6 {
            fails(&throttle, from, &format!("guess{user}"), &mut now);
        }
        let mut own = throttle.attempt(address(from), "mallory");
        now += own.turn(now, PATIENCE).unwrap();
        own.succeeded(now);
        assert!(waits(&throttle, from, "guess7", now) >= FIRST);
        // Whoever has been let in from there does not suffer for others, but for its own failures.
        assert_eq!(waits(&throttle, from, "mallory", now), Duration::ZERO);
        for _ in 0..5 {
            fails(&throttle, from, "mallory", &mut now);
        }
        assert!(waits(&throttle, from, "mallory", now) >= FIRST * 2);
    }

    #[test]
    fn who_is_known_is_never_refused_for_what_fails_under_its_name() {
        let (throttle, now) = (throttle(), Instant::now());
        throttle.attempt(address("192.0.2.1"), "app").succeeded(now);
        for _ in 0..2000 {
            let mut guess = throttle.attempt(address("192.0.2.1"), "app");
            let wait = guess.turn(now, PATIENCE).expect("a known user is not refused");
            assert!(wait <= LONGEST_OF_ALL, "{wait:?}");
            if wait.is_zero() {
                guess.failed(now);
            }
        }
        assert_eq!(
            throttle.attempt(address("192.0.2.1"), "app").turn(now, FIRST),
            Ok(LONGEST_OF_ALL)
        );
        assert_eq!(throttle.refused.value(), 0);
    }

    #[test]
    fn a_failure_can_be_excused() {
        let (throttle, mut now) = (throttle(), Instant::now());
        for _ in 0..4 {
            fails(&throttle, "192.0.2.1", "app", &mut now);
        }
        let attempt = throttle.attempt(address("192.0.2.1"), "app");
        assert!(attempt.is_suspect(now));
        attempt.excused();
        assert!(!attempt.is_suspect(now));
        assert_eq!(waits(&throttle, "192.0.2.1", "app", now), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_go_when_its_user_becomes_known() {
        let (throttle, mut now) = (throttle(), Instant::now());
        for _ in 0..9 {
            fails(&throttle, "192.0.2.1", "app", &mut now);
        }
        let mut sleeper = throttle.attempt(address("192.0.2.1"), "app");
        let wait = sleeper.turn(now, PATIENCE).unwrap();
        let began = tokio::time::Instant::now();
        tokio::join!(sleeper.wait(wait), async {
            throttle.attempt(address("192.0.2.1"), "other").succeeded(now);
            tokio::time::sleep(FIRST).await;
            throttle.attempt(address("192.0.2.1"), "app").succeeded(now);
        });
        assert!(wait == LONGEST && began.elapsed() < wait / 2, "{:?}", began.elapsed());
        sleeper.failed(now);
        assert_eq!(throttle.state.lock().users.len(), 1, "counted though the others were forgiven");
    }

    #[test]
    fn who_succeeds_is_forgiven() {
        let (throttle, mut now) = (throttle(), Instant::now());
        for _ in 0..8 {
            fails(&throttle, "192.0.2.1", "app", &mut now);
        }
        let mut attempt = throttle.attempt(address("192.0.2.1"), "app");
        now += attempt.turn(now, PATIENCE).unwrap();
        attempt.succeeded(now);
        assert_eq!(waits(&throttle, "192.0.2.1", "app", now), Duration::ZERO);
    }

    #[test]
    fn a_machine_has_one_network_and_the_memory_is_bounded() {
        let (throttle, mut now) = (throttle(), Instant::now());
        for host in 0..4 {
            fails(&throttle, &format!("2001:db8::{host}:1"), &format!("{host}"), &mut now);
        }
        assert!(waits(&throttle, "2001:db8::ffff", "new", now) > Duration::ZERO);
        assert_eq!(waits(&throttle, "2001:db8:0:1::1", "new", now), Duration::ZERO);
        for number in 0..20_000u32 {
            let attempt = throttle.attempt(IpAddr::from(number.to_be_bytes()), "app");
            attempt.failed(now);
            attempt.succeeded(now);
            attempt.failed(now);
        }
        let state = throttle.state.lock();
        for count in [state.addresses.len(), state.users.len(), state.known.len()] {
            assert!(count <= MOST && count > MOST / 2, "{count}");
        }
    }
}

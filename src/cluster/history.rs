//! Where the primary was, and when: the ring of samples from which lag in time is read.
//!
//! Owns nothing but numbers. Positions in it only rise. An entry says: at `time` the primary was no
//! further than `position`; so whoever has replayed `position` misses nothing older than `time`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Lsn;

/// Entries kept: five minutes at four a second, and more after thinning.
const CAPACITY: usize = 1200;

/// Samples of the primary's position, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    entries: VecDeque<(Lsn, Instant)>,
}

impl History {
    /// The newest position that is known of.
    #[must_use]
    pub fn newest(&self) -> Option<Lsn> {
        self.entries.back().map(|entry| entry.0)
    }

    /// Notes that the primary was at `position` and no further when it was asked at `time`. A
    /// position behind the newest is a new history: what lies beyond it is forgotten.
    pub fn push(&mut self, position: Lsn, time: Instant) {
        while self.entries.back().is_some_and(|entry| entry.0 > position) {
            self.entries.pop_back();
        }
        match self.entries.back_mut() {
            Some(entry) if entry.0 == position => entry.1 = entry.1.max(time),
            _ => self.entries.push_back((position, time)),
        }
        if self.entries.len() > CAPACITY {
            self.thin();
        }
    }

    /// How long ago the primary was at `position`, or `None` if it was past it when first seen.
    #[must_use]
    pub fn lag(&self, position: Lsn, now: Instant) -> Option<Duration> {
        let replayed = self.entries.partition_point(|entry| entry.0 <= position);
        let entry = self.entries.get(replayed.checked_sub(1)?)?;
        Some(now.saturating_duration_since(entry.1))
    }

    /// Whether `position` is one at which the primary was seen, and past `start`.
    #[must_use]
    pub fn was_at(&self, position: Lsn, start: Lsn) -> bool {
        position > start && self.entries.binary_search_by_key(&position, |entry| entry.0).is_ok()
    }

    /// Drops every second entry of the older half: lag that is long anyway is told more coarsely,
    /// and never too short.
    fn thin(&mut self) {
        let half = CAPACITY / 2;
        let mut index = 0;
        self.entries.retain(|_| {
            index += 1;
            index > half || index % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_time_since_the_primary_was_there() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut history = History::default();
        assert_eq!(history.lag(Lsn(10), at(0)), None);
        for (position, ms) in [(100, 0), (200, 250), (200, 500), (300, 750)] {
            history.push(Lsn(position), at(ms));
        }
        let lag = |position| history.lag(Lsn(position), at(1000)).map(|lag| lag.as_millis());
        for (position, wanted) in [
            (99, None),
            (100, Some(1000)),
            (199, Some(1000)),
            (200, Some(500)),
            (299, Some(500)),
            (300, Some(250)),
            (999, Some(250)),
        ] {
            assert_eq!(lag(position), wanted, "{position}");
        }
        assert!(history.was_at(Lsn(200), Lsn(100)));
        assert!(!history.was_at(Lsn(200), Lsn(200)) && !history.was_at(Lsn(201), Lsn(100)));
    }

    #[test]
    fn a_step_back_forgets_what_lies_beyond() {
        let now = Instant::now();
        let mut history = History::default();
        for position in [100, 200, 300] {
            history.push(Lsn(position), now);
        }
        history.push(Lsn(150), now + Duration::from_secs(1));
        assert_eq!(history.newest(), Some(Lsn(150)));
        assert_eq!(
            history.lag(Lsn(120), now + Duration::from_secs(1)),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn it_stays_bounded_and_never_tells_too_little() {
        let start = Instant::now();
        let mut history = History::default();
        for n in 0..10_000 {
            history.push(Lsn(n), start + Duration::from_secs(n));
        }
        assert!(history.entries.len() <= CAPACITY);
        let now = start + Duration::from_secs(10_000);
        for n in 9000..10_000 {
            assert!(history.lag(Lsn(n), now).unwrap() >= Duration::from_secs(10_000 - n));
        }
    }
}

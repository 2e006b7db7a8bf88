//! What a worker tells the sessions that it runs: to end when they can, to show themselves when they
//! are active, and to leave for another worker when it has more to do than others.
//!
//! A session asks here between two requests, which costs it one load of a number that only its own
//! worker's thread and, a few times a second, the one that looks at all workers write.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// One worker's post. See `proxy::crew` for who writes its orders, and by what rules.
#[derive(Debug, Default)]
pub struct Post {
    /// The number of the look that is under way; a session that has seen it has shown itself.
    look: AtomicU32,
    /// Sessions that have shown themselves since the look began.
    active: AtomicUsize,
    /// So many are still to leave.
    leaving: AtomicUsize,
    draining: AtomicBool,
    told: Notify,
}

impl Post {
    /// A session that could move shows itself; true if it is to leave.
    pub fn leaves(&self, seen: &mut u32) -> bool {
        let look = self.look.load(Ordering::Acquire);
        if *seen == look {
            return false;
        }
        *seen = look;
        self.active.fetch_add(1, Ordering::Relaxed);
        let fewer = |left: usize| left.checked_sub(1);
        self.leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
    }

    /// Sessions are to end once they are between transactions.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Whether they are.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Completes when [`drain`](Self::drain) is called later. A task that has polled it once is
    /// woken then, wherever it waits.
    pub fn told(&self) -> Notified<'_> {
        self.told.notified()
    }

    /// How many sessions were active since the last order.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Begins the next look: each of the next `leaving` sessions that show themselves leaves.
    pub fn order(&self, leaving: usize) {
        self.active.store(0, Ordering::Relaxed);
        self.leaving.store(leaving, Ordering::Relaxed);
        self.look.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_shows_itself_once_and_as_many_leave_as_are_told_to() {
        let post = Post::default();
        let mut seen = [0; 5];
        assert!(!seen.iter_mut().any(|seen| post.leaves(seen)), "nobody has looked yet");
        post.order(2);
        let leave = |seen: &mut [u32; 5]| {
            seen.iter_mut().map(|seen| usize::from(post.leaves(seen))).sum::<usize>()
        };
        assert_eq!(leave(&mut seen), 2);
        assert_eq!((leave(&mut seen), post.active()), (0, 5));
        post.order(usize::MAX);
        assert_eq!((post.active(), leave(&mut seen)), (0, 5));
    }
}

//! A node's clock: where it was, and when it was asked.
//!
//! One connection per node asks (`ticker`); everybody reads. All who wait share one question, so that a
//! round trip costs one query however many sessions wait. On the primary a tick is a sample of the
//! insert position (the LSN clock), on a replica of the replayed one (its watermark).
//!
//! What a tick proves, it proves by the time at which it was *sent*: whatever had ended before is in it.
//! A replica that restarts goes back, so a watermark counts only for servers opened before it was
//! sent; a server that answers has lived since it was opened, and so has its node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::mutant::{self, Mutant};
use super::snapshot::Snapshot;
use super::{Lsn, Role};

/// Ticks kept. At the fastest pace that nobody waits for they reach back twenty seconds.
const KEPT: usize = 1024;

/// So many of the last ticks are looked at one by one before all are searched.
const NEAR: usize = 8;

/// One look at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// What the node was.
    pub role: Role,
    /// Replica: replayed; everything before is visible. Primary: inserted, less a page header that
    /// nothing follows yet; everything that was visible is before.
    pub position: Lsn,
    /// Nothing at or past this was visible: on a replica what it had received, for the record
    /// that is being replayed is visible before its end is.
    pub bound: Lsn,
    /// The transactions that had ended.
    pub snapshot: Snapshot,
    /// Every transaction that had begun to write was below this. Primary only.
    pub next_xid: u64,
    /// The timeline that a replica was receiving, if the monitor's role may see it and there was one: the position
    /// is of that timeline or of one before it.
    pub timeline: Option<u32>,
    /// When the connection that asks was opened: the node has lived since.
    pub connected: Instant,
    /// When the question was sent.
    pub sent: Instant,
}

/// The ticks of one node, and who waits for the next.
#[derive(Debug, Default)]
pub struct Clock {
    latest: ArcSwapOption<Tick>,
    inner: Mutex<Inner>,
    /// Somebody will need a tick newer than the latest, and does not wait yet.
    wanted: AtomicBool,
    /// The node cannot be asked at the moment.
    away: AtomicBool,
    /// Wakes the asker.
    turn: Notify,
    /// Transactions whose fate is asked.
    questions: Mutex<Vec<Question>>,
}

#[derive(Debug, Default)]
struct Inner {
    ticks: VecDeque<Arc<Tick>>,
    /// Who waits, each once for a tick and once for a position.
    waiting: FxHashMap<Who, Waiting>,
    /// So many may wait before those are looked for who have left.
    most: usize,
    /// The last tick was waited for by more than one.
    crowded: bool,
    /// Nobody waits for the node to move on until then, for those before waited in vain.
    hopeless_until: Option<Instant>,
    hopeless_for: Duration,
}

/// How long nobody waits for a node after somebody has waited in vain; twice as long each time.
const HOPELESS_FIRST: Duration = Duration::from_millis(50);
/// The longest of these times.
const HOPELESS_MOST: Duration = Duration::from_secs(2);

/// So many may wait without a look for those who have left.
const WAITING_FEW: usize = 64;

/// Who waits, as a number, and whether for a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Who(usize, bool);

#[derive(Debug)]
struct Waiting {
    /// The tick must have been sent after this.
    after: Instant,
    /// And be at or past this.
    position: Lsn,
    wake: Arc<Notify>,
}

/// A question for the fate of some transactions.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) xids: Vec<u64>,
    pub(super) answer: tokio::sync::oneshot::Sender<(Instant, Vec<u64>)>,
}

/// What the asker has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Somebody waits and has not been asked for yet.
    Now,
    /// The same, where others come all the time who can share the question.
    Shared,
    /// Somebody waits for the node to move on.
    Waited,
    /// Somebody will wait.
    Wanted,
    /// Nobody.
    None,
}

impl Clock {
    /// The newest tick.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Tick>> {
        self.latest.load_full()
    }

    /// Whether the newest tick is a replica's at or past `position`, was sent after `opened`, and is of this
    /// timeline, as far as the replica tells.
    #[must_use]
    pub fn has(&self, position: Lsn, opened: Option<Instant>, timeline: Option<u32>) -> bool {
        let latest = self.latest.load();
        latest.as_ref().is_some_and(|tick| {
            tick.role == Role::Replica
                && tick.position >= position
                && opened.is_none_or(|opened| tick.sent > opened)
                && (tick.timeline.is_none() || timeline.is_none() || tick.timeline == timeline)
        })
    }

    /// The position of the newest tick, if that is a replica's.
    #[must_use]
    pub fn watermark(&self) -> Option<Lsn> {
        let latest = self.latest.load();
        latest.as_ref().filter(|tick| tick.role == Role::Replica).map(|tick| tick.position)
    }

    /// The first tick that was sent after `moment`, of those that are still known.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Option<Arc<Tick>> {
        if self.latest.load().as_ref().is_none_or(|tick| tick.sent <= moment) {
            return None;
        }
        let inner = self.inner.lock();
        // Mostly it is one of the last; each that is looked at may have to come from memory.
        let later = inner.ticks.iter().rev().take(NEAR).take_while(|tick| tick.sent > moment);
        let first = match later.count() {
            NEAR => inner.ticks.partition_point(|tick| tick.sent <= moment),
            later => inner.ticks.len() - later,
        };
        inner.ticks.get(first).cloned()
    }

    /// The ticks that are still known, oldest first.
    #[must_use]
    pub fn ticks(&self) -> Arc<[Arc<Tick>]> {
        self.inner.lock().ticks.iter().cloned().collect()
    }

    /// Says that a tick newer than the latest will be needed. Costs a load where that is known.
    pub fn want(&self) {
        if !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::AcqRel) {
            self.turn.notify_one();
        }
    }

    /// Has `wake` woken at the first tick that was sent after `after` and is at or past `position`, in the place
    /// of what it was to be woken at before; one that is to be woken at any tick may wait for a position as well.
    /// Who has dropped `wake` meanwhile is forgotten.
    pub fn wake_at(&self, after: Instant, position: Lsn, wake: &Arc<Notify>) {
        let mut inner = self.inner.lock();
        let who = Who(Arc::as_ptr(wake).addr(), position > Lsn(0));
        inner.waiting.insert(who, Waiting { after, position, wake: wake.clone() });
        // Nobody may look for a while: the asker is away, or busy.
        if inner.waiting.len() > inner.most {
            inner.forget_gone();
            inner.most = (2 * inner.waiting.len()).max(WAITING_FEW);
        }
        drop(inner);
        self.turn.notify_one();
    }

    /// Whether the node cannot be asked at the moment: it is of no use to wait for its ticks.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Somebody has waited in vain for the node to move on: for a while others need not try.
    pub fn gave_up(&self, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.hopeless_until.is_none_or(|until| until <= now) {
            inner.hopeless_for = (inner.hopeless_for * 2).clamp(HOPELESS_FIRST, HOPELESS_MOST);
            inner.hopeless_until = Some(now + inner.hopeless_for);
        }
    }

    /// Whether the node is likely to move on in time.
    #[must_use]
    pub fn is_worth_waiting_for(&self, now: Instant) -> bool {
        self.inner.lock().hopeless_until.is_none_or(|until| until <= now)
    }

    /// Which of these transactions have committed, as the node knows, and since when it has lived for
    /// sure. `None` if it cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn committed(&self, xids: Vec<u64>) -> Option<(Instant, Vec<u64>)> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.questions.lock().push(Question { xids, answer });
        self.turn.notify_one();
        answered.await.ok()
    }

    /// What the asker has to do, when its last question was sent at `last`.
    pub(super) fn demand(&self, last: Option<Instant>) -> Demand {
        let mut inner = self.inner.lock();
        inner.forget_gone();
        if !self.questions.lock().is_empty() {
            return Demand::Now;
        }
        let unasked = |waiting: &Waiting| last.is_none_or(|last| waiting.after >= last);
        if inner.waiting.values().any(unasked) {
            if inner.crowded { Demand::Shared } else { Demand::Now }
        } else if !inner.waiting.is_empty() {
            Demand::Waited
        } else if self.wanted.load(Ordering::Acquire) {
            Demand::Wanted
        } else {
            Demand::None
        }
    }

    /// The least position that somebody waits for this replica to reach.
    pub(super) fn least_waited_for(&self) -> Option<Lsn> {
        self.watermark()?;
        let inner = self.inner.lock();
        let positions = inner.waiting.values().map(|waiting| waiting.position);
        positions.filter(|position| *position > Lsn(0)).min()
    }

    /// Waits until somebody has come who may want more than before.
    pub(super) async fn turned(&self) {
        self.turn.notified().await;
    }

    /// A question is about to be sent: whoever wants a tick from now on wants another.
    pub(super) fn asking(&self) -> Vec<Question> {
        self.wanted.store(false, Ordering::Release);
        std::mem::take(&mut self.questions.lock())
    }

    /// The node has answered. Ticks come in the order in which they were sent. Public for tests and for
    /// [`super::Cluster::fixed`].
    pub fn push(&self, mut tick: Tick) {
        let mut inner = self.inner.lock();
        if mutant::is(Mutant::StaleWatermark)
            && let Some(last) = inner.ticks.back()
        {
            tick.position = tick.position.max(last.position);
        }
        let tick = Arc::new(tick);
        if inner.ticks.len() == KEPT {
            inner.ticks.pop_front();
        }
        inner.ticks.push_back(tick.clone());
        self.latest.store(Some(tick.clone()));
        self.away.store(false, Ordering::Release);
        let Inner { waiting, crowded, hopeless_until, hopeless_for, .. } = &mut *inner;
        let mut first: Option<Arc<Notify>> = None;
        *crowded = false;
        waiting.retain(|_, waiting| {
            let reached = tick.sent > waiting.after && tick.position >= waiting.position;
            if reached {
                let first = first.get_or_insert_with(|| waiting.wake.clone());
                *crowded |= !Arc::ptr_eq(first, &waiting.wake);
                if waiting.position > Lsn(0) {
                    (*hopeless_until, *hopeless_for) = (None, Duration::ZERO);
                }
                waiting.wake.notify_one();
            }
            !reached
        });
    }

    /// The node cannot be asked: nobody gets an answer, and nobody is to wait for one. Public as
    /// [`push`](Self::push) is.
    pub fn stopped(&self) {
        self.away.store(true, Ordering::Release);
        self.questions.lock().clear();
        for (_, waiting) in self.inner.lock().waiting.drain() {
            waiting.wake.notify_one();
        }
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }
}

impl Inner {
    fn forget_gone(&mut self) {
        self.waiting.retain(|_, waiting| Arc::strong_count(&waiting.wake) > 1);
    }
}

impl Tick {
    /// A replica's tick, for tests and for [`super::Cluster::fixed`].
    #[must_use]
    pub fn of_replica(position: Lsn, connected: Instant, sent: Instant) -> Self {
        Self {
            role: Role::Replica,
            position,
            bound: position,
            snapshot: Snapshot::default(),
            next_xid: 0,
            timeline: None,
            connected,
            sent,
        }
    }

    /// A primary's, where every transaction below `xid` has ended and none has begun after.
    #[must_use]
    pub fn of_primary(position: Lsn, xid: u64, connected: Instant, sent: Instant) -> Self {
        let snapshot = Snapshot { xmin: xid, xmax: xid, running: Box::default() };
        Self {
            role: Role::Primary,
            position,
            bound: position,
            snapshot,
            next_xid: xid,
            timeline: None,
            connected,
            sent,
        }
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent)
    }
}

/// Takes back the page header that an idle insert position stands behind: nobody can have replayed
/// what is not written (`XLogBytePosToRecPtr`, `src/backend/access/transam/xlog.c`).
#[must_use]
pub(super) fn not_yet_written(inserted: Lsn, block_size: u64, segment_size: u64) -> Lsn {
    const SHORT_HEADER: u64 = 24;
    const LONG_HEADER: u64 = 40;
    let stands_at = |size: u64, header| size > 0 && inserted.0 % size == header;
    if stands_at(segment_size, LONG_HEADER) {
        Lsn(inserted.0 - LONG_HEADER)
    } else if stands_at(block_size, SHORT_HEADER) {
        Lsn(inserted.0 - SHORT_HEADER)
    } else {
        inserted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    #[test]
    fn who_waits_alone_is_asked_for_at_once_and_others_share() {
        let (clock, start) = (Clock::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let one = Arc::new(Notify::new());
        clock.wake_at(at(0), Lsn(0), &one);
        clock.wake_at(at(0), Lsn(0), &one);
        assert_eq!(clock.demand(Some(start)), Demand::Now);
        clock.push(Tick::of_replica(Lsn(1), start, at(1)));
        clock.wake_at(at(1), Lsn(0), &one);
        assert_eq!(clock.demand(Some(at(1))), Demand::Now, "it was one, twice");
        let other = Arc::new(Notify::new());
        clock.wake_at(at(1), Lsn(0), &other);
        clock.push(Tick::of_replica(Lsn(1), start, at(2)));
        clock.wake_at(at(2), Lsn(0), &one);
        assert_eq!(clock.demand(Some(at(2))), Demand::Shared);
        clock.push(Tick::of_replica(Lsn(1), start, at(3)));
        clock.wake_at(at(3), Lsn(0), &one);
        assert_eq!(clock.demand(Some(at(3))), Demand::Now);
    }

    #[test]
    fn who_waits_waits_once_and_is_woken_when_nobody_can_be_asked() {
        let (clock, start) = (Clock::default(), Instant::now());
        let patient = Arc::new(Notify::new());
        for ms in 0..10_000 {
            let after = start + Duration::from_millis(ms);
            clock.wake_at(after, Lsn(0), &patient);
            clock.wake_at(after, Lsn(ms + 1), &patient);
            // Comes, and leaves before the node has been asked once.
            clock.wake_at(after, Lsn(0), &Arc::new(Notify::new()));
            assert!(clock.waiting() <= 2 * WAITING_FEW);
        }
        assert!(!clock.is_away());
        clock.stopped();
        assert!(clock.is_away() && clock.waiting() == 0);
        assert!(patient.notified().now_or_never().is_some());
        clock.push(Tick::of_replica(Lsn(1), start, start));
        assert!(!clock.is_away());
    }

    #[test]
    fn the_first_tick_after_a_moment_is_found_near_and_far() {
        let (clock, start) = (Clock::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for number in 1..=3 * NEAR as u64 {
            clock.push(Tick::of_replica(Lsn(number), start, at(10 * number)));
            for moment in 0..=10 * number {
                let found = clock.since(at(moment)).map(|tick| tick.position.0);
                let wanted = (moment < 10 * number).then_some(moment / 10 + 1);
                assert_eq!(found, wanted, "after {moment} of {number}");
            }
        }
    }

    #[test]
    fn a_page_header_is_not_a_position() {
        let written = |lsn| not_yet_written(Lsn(lsn), 8192, 16 << 20).0;
        for (lsn, wanted) in [
            (8192 + 24, 8192),
            (8192 + 40, 8192 + 40),
            (8192 + 32, 8192 + 32),
            ((16 << 20) + 40, 16 << 20),
            ((16 << 20) + 24, 16 << 20),
            (8192, 8192),
        ] {
            assert_eq!(written(lsn), wanted, "{lsn}");
        }
    }

    /// However many come, a round trip costs one question.
    #[test]
    fn all_who_wait_share_one_question() {
        let (clock, start) = (Clock::default(), Instant::now());
        let mut last = None;
        for round in 0..50_u64 {
            let at = |ms: u64| start + Duration::from_millis(10 * round + ms);
            // They come at different moments, some while the question before was on its way.
            let sessions: Vec<_> = (0..500_u64)
                .map(|session| {
                    let wake = Arc::new(Notify::new());
                    clock.wake_at(at(session % 5), Lsn(0), &wake);
                    wake
                })
                .collect();
            assert!(matches!(clock.demand(last), Demand::Now | Demand::Shared));
            clock.asking();
            last = Some(at(6));
            assert_eq!(clock.demand(last), Demand::Waited, "nobody is left who was not asked for");
            clock.push(Tick::of_replica(Lsn(round), start, at(6)));
            assert!(sessions.iter().all(|wake| wake.notified().now_or_never().is_some()));
            assert_eq!(clock.waiting(), 0);
        }
    }

    /// `XLogBytePosToRecPtr` and `XLogBytePosToEndRecPtr` of `src/backend/access/transam/xlog.c`: where the next
    /// record begins, and where the last one ends, after so many bytes of records.
    fn pointers(bytes: u64, block: u64, segment: u64) -> (u64, u64) {
        const SHORT: u64 = 24;
        const LONG: u64 = 40;
        let in_page = block - SHORT;
        let in_segment = segment / block * in_page - (LONG - SHORT);
        let (segments, left) = (bytes / in_segment, bytes % in_segment);
        let (begin, end) = if left < block - LONG {
            (left + LONG, if left == 0 { 0 } else { left + LONG })
        } else {
            let left = left - (block - LONG);
            let pages = block + left / in_page * block;
            let rest = left % in_page;
            (pages + rest + SHORT, if rest == 0 { pages } else { pages + rest + SHORT })
        };
        (segments * segment + begin, segments * segment + end)
    }

    proptest! {
        #[test]
        fn an_idle_insert_position_is_where_the_last_record_ends(
            block in prop::sample::select(vec![4096_u64, 8192, 16384, 65536]),
            segment in prop::sample::select(vec![1_u64 << 20, 16 << 20, 1 << 30]),
            pages in 0_u64..1 << 22,
            off in -48_i64..48,
        ) {
            // Records end on multiples of eight, and most interesting near the border of a page.
            let bytes = (pages * (block - 24)).saturating_add_signed(off) / 8 * 8;
            let (begin, end) = pointers(bytes, block, segment);
            prop_assert_eq!(not_yet_written(Lsn(begin), block, segment), Lsn(end));
        }
    }
}

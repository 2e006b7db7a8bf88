//! What a session has written and seen, and what a node must have for it not to fall behind that.
//!
//! Pure: no socket, no clock but the moments it is given. `fresh` waits for what this says is missing.
//!
//! - After every answer of the primary, whatever the statement was, the session is *pending*: its floor is the
//!   first sample of the insert position that is sent after that moment.
//! - After a read on a replica the session has *seen* what that replica showed. It stays there for nothing; any
//!   other replica must have all that the first may have shown, which is bounded by a tick of the
//!   first sent after the read, or of the primary.
//! - The primary is not always the freshest node: it shows a commit only after the flush and the
//!   synchronous wait, a replica as soon as it has replayed it. From a replica to the primary there is a
//!   *barrier*: every transaction that the replica may have shown must have ended on the primary.
//! - A floor is only ever raised, within one history. Positions of another history say nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::cluster::mutant::{self, Mutant};
use crate::cluster::topology::Switch;
use crate::cluster::{Lsn, NodeId, Role, Tick, Topology};

/// What a session must not fall behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// The history that the floor is of, by how many switches there had been.
    era: u32,
    floor: Lsn,
    pending: Option<Pending>,
    seen: SmallVec<[Seen; 1]>,
}

/// An answer of the primary whose place in the log is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    node: NodeId,
    at: Instant,
}

/// Reads on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    node: NodeId,
    when: Span,
    /// What the replica was known to have by then, if it has lived all the while.
    had: Lsn,
}

/// When a replica was read. It may have been restarted in between, and gone back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first read began then: what lives since has not gone back.
    pub from: Instant,
    /// The last of them had ended by then.
    pub to: Instant,
}

impl Span {
    /// Just then.
    #[must_use]
    pub fn at(moment: Instant) -> Self {
        Self { from: moment, to: moment }
    }

    fn with(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// Whether a request may go to the primary after what was seen on replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barrier {
    /// It may.
    Passes,
    /// Not yet known: the primary and this replica must tick after it was read.
    Ask(NodeId, Span),
    /// The replica may have shown these transactions, and on the primary they have not ended. It
    /// can tell only if it has lived since it was read.
    Doubts(NodeId, Span, Vec<u64>),
}

/// Acknowledged history that a failover has lost, as far as this session has written or seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// How far the session was, if that is known.
    pub floor: Option<Lsn>,
    /// Where its history ended: of several ends since, the least.
    pub switch: Switch,
    /// What it is followed to.
    pub era: u32,
}

impl Sight {
    /// Whether nothing was ever written or seen.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.floor == Lsn(0) && self.pending.is_none() && self.seen.is_empty()
    }

    /// The floor, as far as it is known.
    #[must_use]
    pub fn floor(&self) -> Lsn {
        self.floor
    }

    /// Raises the floor: somebody vouches for a position of this history, which was followed.
    pub fn raise(&mut self, to: Lsn, topology: &Topology) {
        self.era = topology.era();
        self.floor = self.floor.max(to);
    }

    /// The primary has answered, at the latest now. `passed`: the barrier was passed before.
    pub fn on_primary(&mut self, node: NodeId, now: Instant, passed: bool, topology: &Topology) {
        match topology.switches.last() {
            // A primary that was left behind meanwhile: its answer belongs to what it had.
            Some(switch)
                if !switch.restarted && topology.primary.is_some_and(|primary| primary != node) =>
            {
                self.era = topology.era() - 1;
            }
            _ if self.is_blank() => self.era = topology.era(),
            _ => {}
        }
        self.pending = Some(Pending { node, at: now });
        if passed {
            self.seen.clear();
        }
    }

    /// A replica is read then, at the latest, that was proved to have `had`, or (`None`) is not asked what it
    /// has.
    pub fn on_replica(&mut self, node: NodeId, when: Span, had: Option<Lsn>, topology: &Topology) {
        if self.is_blank() {
            self.era = topology.era();
        }
        if let Some(had) = had {
            self.floor = self.floor.max(had);
            self.seen.clear();
        }
        self.has_read(Seen { node, when, had: had.unwrap_or_default() });
    }

    fn has_read(&mut self, seen: Seen) {
        match self.seen.iter_mut().find(|known| known.node == seen.node) {
            Some(known) => {
                known.when = known.when.with(seen.when);
                known.had = known.had.max(seen.had);
            }
            None => self.seen.push(seen),
        }
    }

    /// The replica has answered, at the latest now.
    pub fn on_answer(&mut self, node: NodeId, now: Instant) {
        if mutant::is(Mutant::FloorCleared) {
            *self = Self { era: self.era, ..Self::default() };
            return;
        }
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.node == node) {
            seen.when.to = now;
        }
    }

    /// Takes over what others have written and seen who share a key with this session. Both must have
    /// followed the same topology; what has not is of an older history and says nothing.
    pub fn merge(&mut self, other: &Self) {
        if self.era < other.era && !other.is_blank() {
            self.clone_from(other);
        }
        if self.era > other.era {
            return;
        }
        self.floor = self.floor.max(other.floor);
        let later = |one: &Pending, two: &Pending| if one.at >= two.at { *one } else { *two };
        self.pending = match (&self.pending, &other.pending) {
            (Some(one), Some(two)) => Some(later(one, two)),
            (one, two) => one.or(*two),
        };
        for theirs in &other.seen {
            self.has_read(*theirs);
        }
    }

    /// What was seen on a replica that has been restarted since becomes part of the floor, once it is known
    /// how far that was and the primary shows it: its servers would be taken for suspect for ever.
    pub fn settle(&mut self, topology: &Topology) {
        let Self { seen, floor, .. } = self;
        let Some(primary) = topology.primary else { return };
        seen.retain(|seen| {
            let latest = topology.node(seen.node).clock.latest();
            let restarted = latest.is_some_and(|tick| tick.connected > seen.when.from);
            let settled = bound(seen, topology)
                .filter(|_| restarted && is_shown_by(primary, seen, topology) == Some(true));
            *floor = (*floor).max(settled.unwrap_or_default());
            settled.is_none()
        });
    }

    /// Whether there was a promotion, or a crash of the primary, that was not followed yet.
    #[must_use]
    pub fn is_behind(&self, topology: &Topology) -> bool {
        topology.era() != self.era && !self.is_blank()
    }

    /// Follows what has ended the history since, be it once or several times. Tells if that has lost what this
    /// session had written or seen.
    pub fn follow(&mut self, topology: &Topology, now: Instant) -> Option<Lost> {
        let primary = topology.primary.filter(|_| self.is_behind(topology))?;
        let since = topology.switches.get(self.era as usize..).unwrap_or_default();
        let lost = self.lost_by(since, topology);
        self.era = topology.era();
        let least = since.iter().map(|switch| switch.at).min();
        self.floor = least.map_or(self.floor, |at| self.floor.min(at));
        // Whatever is true now of the new history is the least from here on, and it has all of the
        // old one that is left.
        self.seen.clear();
        self.pending = Some(Pending { node: primary, at: now });
        lost
    }

    /// What is beyond these ends of histories of what this session has written or seen, or may be.
    fn lost_by(&self, since: &[Switch], topology: &Topology) -> Option<Lost> {
        let (first, least) = (since.first()?, since.iter().min_by_key(|switch| switch.at)?);
        let promotion = since.iter().find(|switch| !switch.restarted);
        // What a replica has shown the primary had flushed, and no crash takes it away.
        let kept = |seen: &Seen| {
            promotion.is_none_or(|promotion| {
                let ended_before = |tick: Arc<Tick>| tick.bound <= least.at;
                promotion.keeps(seen.when.to, least.at)
                    || was_promoted_alive(seen, topology)
                    || tick_of_life(seen, topology).is_some_and(ended_before)
            })
        };
        let floor = (self.floor > least.at).then_some(self.floor);
        let whole = self.pending.is_none_or(|pending| first.keeps(pending.at, least.at))
            && self.seen.iter().all(kept);
        let (switch, era) = (least.clone(), topology.era());
        (floor.is_some() || !whole).then_some(Lost { floor, switch, era })
    }

    /// Turns an answer of the primary into a floor, if the clock has ticked since.
    pub fn resolve(&mut self, topology: &Topology) {
        let Some(pending) = self.pending else { return };
        let clock = &topology.node(pending.node).clock;
        let tick =
            if mutant::is(Mutant::EarlySample) { clock.latest() } else { clock.since(pending.at) };
        if let Some(tick) = tick.filter(|tick| tick.role == Role::Primary) {
            self.floor = self.floor.max(tick.position);
            self.pending = None;
        }
    }

    /// The primary's answer that has no place in the log yet: which node, and when.
    #[must_use]
    pub fn pending(&self) -> Option<(NodeId, Instant)> {
        self.pending.map(|pending| (pending.node, pending.at))
    }

    /// The position that a replica must have replayed, if all that the session has seen elsewhere is
    /// bounded. `opened`: when the server was opened that is to be used; without it, one that was
    /// opened before the last read there is assumed.
    #[must_use]
    pub fn required(
        &self,
        node: NodeId,
        opened: Option<Instant>,
        topology: &Topology,
    ) -> Option<Lsn> {
        let mut elsewhere = self.seen.iter().filter(|seen| !stays(seen, node, opened, topology));
        elsewhere.try_fold(self.floor, |floor, seen| Some(floor.max(bound(seen, topology)?)))
    }

    /// Whether a replica was seen by this session with all that it must have.
    fn had(
        &self,
        node: NodeId,
        required: Lsn,
        opened: Option<Instant>,
        topology: &Topology,
    ) -> bool {
        let has = |seen: &Seen| seen.had >= required && stays(seen, node, opened, topology);
        self.seen.iter().any(has)
    }

    /// Whether a replica is fresh enough, taken that a server is used that was opened in time.
    #[must_use]
    pub fn allows(&self, node: NodeId, topology: &Topology) -> bool {
        if self.is_behind(topology) {
            return false;
        }
        if self.pending.is_some() || mutant::is(Mutant::CheckInRead) {
            return self.pending.is_none();
        }
        let Some(required) = self.required(node, None, topology) else { return false };
        required == Lsn(0)
            || self.had(node, required, None, topology)
            || topology.node(node).clock.has(required, None, topology.timeline)
    }

    /// The position that a replica is proved to have at a server that was opened at that moment and answers.
    #[must_use]
    pub fn proof(&self, node: NodeId, opened: Instant, topology: &Topology) -> Option<Lsn> {
        if self.is_behind(topology) {
            return None;
        }
        if self.pending.is_some() || mutant::is(Mutant::CheckInRead) {
            return self.pending.is_none().then_some(self.floor);
        }
        let opened = if mutant::is(Mutant::StaleWatermark) {
            opened.checked_sub(Duration::from_secs(3600)).unwrap_or(opened)
        } else {
            opened
        };
        let required = self.required(node, Some(opened), topology)?;
        let proved = required == Lsn(0)
            || self.had(node, required, Some(opened), topology)
            || topology.node(node).clock.has(required, Some(opened), topology.timeline);
        proved.then_some(required)
    }

    /// The replica and the moment after which it must be asked, before another may be read.
    #[must_use]
    pub fn unbounded(&self, topology: &Topology) -> Option<(NodeId, Instant)> {
        let seen = self.seen.iter().find(|seen| bound(seen, topology).is_none())?;
        Some((seen.node, seen.when.to))
    }

    /// The replicas that were read since the last answer of the primary.
    #[must_use]
    pub fn has_seen(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Whether a request may go to the primary now.
    #[must_use]
    pub fn barrier(&self, primary: NodeId, topology: &Topology) -> Barrier {
        if mutant::is(Mutant::NoBarrier) {
            return Barrier::Passes;
        }
        let clock = &topology.node(primary).clock;
        for seen in self.seen.iter().filter(|seen| seen.node != primary) {
            let ask = Barrier::Ask(seen.node, seen.when);
            let latest = clock.latest().filter(|tick| tick.role == Role::Primary);
            let Some(latest) = latest else { return ask };
            if is_shown_by(primary, seen, topology) == Some(true) {
                continue;
            }
            let Some(shown) = tick_of_life(seen, topology) else { return ask };
            let shown = shown.snapshot.xmax;
            if latest.snapshot.has_all_below(shown) {
                continue;
            }
            if latest.sent <= seen.when.to {
                return ask;
            }
            let doubts = latest.snapshot.doubts(shown).collect();
            return Barrier::Doubts(seen.node, seen.when, doubts);
        }
        Barrier::Passes
    }
}

/// Whether every transaction that had begun when a replica had been read has ended on the primary. `None`:
/// its clock has not ticked since.
fn is_shown_by(primary: NodeId, seen: &Seen, topology: &Topology) -> Option<bool> {
    let clock = &topology.node(primary).clock;
    let of_primary = |tick: &Arc<Tick>| tick.role == Role::Primary;
    let then = clock.since(seen.when.to).filter(of_primary)?;
    let latest = clock.latest().filter(of_primary)?;
    Some(latest.snapshot.xmin >= then.next_xid)
}

/// Whether a server of this node, opened at that moment, is one of the life of the replica that was
/// seen: it was opened before the read, or the connection of a later tick was.
fn stays(seen: &Seen, node: NodeId, opened: Option<Instant>, topology: &Topology) -> bool {
    let lives_on = |opened| {
        let latest = topology.node(node).clock.latest();
        latest.is_some_and(|tick| tick.connected <= seen.when.from && tick.sent > opened)
    };
    seen.node == node && opened.is_none_or(|opened| opened <= seen.when.from || lives_on(opened))
}

/// The first tick of a replica that was sent after the session's last read there, if the replica has
/// lived from that read to the tick.
fn tick_of_life(seen: &Seen, topology: &Topology) -> Option<Arc<Tick>> {
    let tick = topology.node(seen.node).clock.since(seen.when.to)?;
    (tick.role == Role::Replica && tick.connected <= seen.when.from).then_some(tick)
}

/// Whether the replica that was read is the primary now, and has lived from the read until it was. One that
/// restarts goes back, and may be promoted before it is where it was.
fn was_promoted_alive(seen: &Seen, topology: &Topology) -> bool {
    let latest = topology.node(seen.node).clock.latest();
    topology.primary == Some(seen.node)
        && latest.is_some_and(|tick| tick.role == Role::Primary && tick.connected <= seen.when.from)
}

/// The position before which lies everything that a replica may have shown: by its own tick, or by
/// the primary's, which is ahead of all replicas.
fn bound(seen: &Seen, topology: &Topology) -> Option<Lsn> {
    let own = tick_of_life(seen, topology).map(|tick| tick.bound);
    own.filter(|bound| *bound != Lsn(u64::MAX)).or_else(|| {
        let tick = topology.node(topology.primary?).clock.since(seen.when.to)?;
        (tick.role == Role::Primary).then_some(tick.position)
    })
}

#[cfg(test)]
mod tests;

//! What a node that is not the primary is worth: of whose history it is, and how far behind.
//!
//! Owns the rules for histories, lag, torn ends and the way back, and the state that follows from them.
//! Takes the primary as elected and notes no change.

use std::time::{Duration, Instant};

use super::Judge;
use super::node::Node;
use crate::cluster::sample::Sample;
use crate::cluster::verdict::Why;
use crate::cluster::{Lsn, NodeId, NodeState, Role};

/// A record with a full page or two; longer ones are rare, and merely eject.
const LONGEST_RECORD: u64 = 2 * 8192 + 256;

type Verdict = (NodeState, Option<Why>);

impl Judge {
    /// Notes what a replica's position proves about its history.
    pub(super) fn note_history(&mut self, index: usize, elected: Option<NodeId>) {
        let Some(primary) = elected
            .filter(|id| usize::from(id.0) != index)
            .and_then(|id| self.nodes[usize::from(id.0)].sample.clone())
        else {
            return;
        };
        let excused = self.nodes[index].reached().is_some_and(|s| self.stands_at_torn_end(s));
        let node = &mut self.nodes[index];
        let Some(sample) = node.sample.as_ref().filter(|sample| sample.role == Role::Replica)
        else {
            return;
        };
        if let Some(torn) = self.torn.filter(|_| excused) {
            node.excused = torn;
        }
        if sample.received < primary.sent && sample.position > primary.inserted {
            node.diverged = true;
        }
        if self.history.was_at(sample.position, self.timeline_start) {
            node.followed = Some(primary.timeline);
        }
    }

    pub(super) fn verdict(
        &mut self,
        index: usize,
        elected: Option<NodeId>,
        ours: u64,
        sampled: Option<NodeId>,
        now: Instant,
    ) -> Verdict {
        let node = &self.nodes[index];
        if let Some(why) = &node.unreachable {
            return (NodeState::Down, Some(why.clone()));
        }
        let Some(sample) = &node.sample else { return (NodeState::Down, None) };
        if elected == Some(node.id) {
            return (NodeState::Up, None);
        }
        if let Some(why) = self.history_of(node, sample, ours) {
            return (NodeState::Banned, Some(why));
        }
        let behind = self.behind(node, sample, self.limits.max_lag, now);
        let returning = self.behind(node, sample, self.limits.readmit_lag, now);
        let lag = self.lag(node, sample, now).unwrap_or_default();
        let id = node.id;
        let node = &mut self.nodes[index];
        if sampled == Some(id) {
            node.streak = if returning.is_none() { node.streak.saturating_add(1) } else { 0 };
        }
        match behind {
            Some(why) => {
                node.fresh &= matches!(why, Why::LagUnknown { .. });
                node.streak = 0;
                (NodeState::Ejected, Some(why))
            }
            // Up as the primary that it was is not up as a replica.
            None if node.state == NodeState::Up && self.primary != Some(id) => {
                (NodeState::Up, None)
            }
            None if node.fresh => (NodeState::Up, Some(Why::FirstSample { lag })),
            None if node.streak >= self.limits.readmit_after => {
                (NodeState::Up, Some(Why::CaughtUp { lag, samples: node.streak }))
            }
            None => (NodeState::Ejected, Some(Why::Returning { role: node.role() })),
        }
    }

    /// Why a node that is not the primary is not of its history.
    fn history_of(&self, node: &Node, sample: &Sample, ours: u64) -> Option<Why> {
        if sample.system_identifier != ours {
            return Some(Why::OtherSystem { theirs: sample.system_identifier, ours });
        }
        let theirs = sample.timeline;
        if sample.role == Role::Primary {
            return Some(match self.timeline.filter(|known| *known > theirs) {
                Some(ours) => Why::FormerPrimary { theirs, ours },
                None => Why::TwoPrimaries { timeline: theirs },
            });
        }
        if node.diverged {
            return Some(Why::Diverged);
        }
        let ours = self.timeline.filter(|ours| *ours != theirs)?;
        let follows = theirs < ours && !sample.timeline_exact && node.followed == Some(ours);
        (!follows).then_some(Why::OtherTimeline { theirs, ours })
    }

    /// Why a replica is too far behind for `limit`.
    fn behind(&self, node: &Node, sample: &Sample, limit: Duration, now: Instant) -> Option<Why> {
        let bytes = self.lag_bytes(sample.position);
        if let Some(limit) = self.limits.max_lag_bytes.filter(|limit| bytes > *limit) {
            return Some(Why::LagBytes { bytes, limit });
        }
        if bytes == 0 {
            return None;
        }
        match self.lag(node, sample, now) {
            None => Some(Why::LagUnknown { bytes }),
            Some(lag) if lag > limit => Some(Why::Lag { lag, bytes, limit }),
            Some(_) => None,
        }
    }

    /// Whether a replica has replayed all that can be replayed of WAL with a torn end.
    fn stands_at_torn_end(&self, sample: &Sample) -> bool {
        self.torn.is_some_and(|torn| {
            !sample.paused
                && sample.position >= self.whole
                && sample.streamed >= torn
                && torn.bytes_past(sample.position) <= LONGEST_RECORD
        })
    }

    /// Lag in time. What counts as replayed stays so when the torn record becomes whole.
    pub(super) fn lag(&self, node: &Node, sample: &Sample, now: Instant) -> Option<Duration> {
        self.history.lag(sample.position.max(node.excused), now)
    }

    pub(super) fn lag_bytes(&self, position: Lsn) -> u64 {
        self.history.newest().map_or(0, |newest| newest.bytes_past(position))
    }
}

//! Which cluster it is, which node is its primary, and what a change of it leaves behind.
//!
//! Owns the rules for the primary, the timeline, the switches between timelines, and the history of its
//! positions, with the furthest replica's in its place while there is none. Judges no replica.

use std::sync::Arc;

use super::Judge;
use crate::cluster::sample::Sample;
use crate::cluster::topology::Switch;
use crate::cluster::verdict::{Change, Standing, Why};
use crate::cluster::{Lsn, NodeId, Role};

/// Of so many promotions the ticks before are kept.
const SWITCHES_IN_FULL: usize = 4;

impl Judge {
    /// The system identifier that most nodes have; of several, that of the first node.
    pub(super) fn most_common_system(&self) -> Option<u64> {
        let systems: Vec<u64> = self
            .nodes
            .iter()
            .filter_map(|node| node.reached().map(|sample| sample.system_identifier))
            .collect();
        let count = |system: &u64| systems.iter().filter(|other| *other == system).count();
        // `max_by_key` takes the last of equals, hence the `rev`.
        systems.iter().rev().max_by_key(|system| count(system)).copied()
    }

    fn candidates(&self, ours: u64) -> impl Iterator<Item = (NodeId, &Sample)> {
        self.nodes.iter().filter_map(move |node| {
            let sample = node.reached()?;
            let candidate = sample.role == Role::Primary && sample.system_identifier == ours;
            candidate.then_some((node.id, sample))
        })
    }

    /// The node that is the primary by what is known now.
    pub(super) fn elect(&self, ours: u64) -> Option<NodeId> {
        let highest = self.candidates(ours).map(|(_, sample)| sample.timeline).max()?;
        if self.timeline.is_some_and(|known| known > highest) {
            return None;
        }
        let mut top = self.candidates(ours).filter(|(_, sample)| sample.timeline == highest);
        let (candidate, _) = top.next()?;
        if top.next().is_some() {
            return None;
        }
        // The timeline's own primary is out of reach, and has not been seen in recovery since.
        let usurps = self.timeline == Some(highest)
            && self.last_primary.is_some_and(|last| {
                last != candidate && self.nodes[usize::from(last.0)].role() == Role::Primary
            });
        (!usurps).then_some(candidate)
    }

    /// Notes where the primary is; without one, where the furthest replica is.
    pub(super) fn feed_history(
        &mut self,
        elected: Option<NodeId>,
        ours: u64,
        changes: &mut Vec<Change>,
    ) {
        let Some(id) = elected else {
            for node in &self.nodes {
                let replica = node.reached().filter(|sample| {
                    sample.role == Role::Replica
                        && sample.system_identifier == ours
                        && !node.diverged
                        && self.history.newest().is_none_or(|newest| sample.position >= newest)
                });
                if let Some(sample) = replica {
                    self.history.push(sample.position, sample.sent);
                }
            }
            return;
        };
        let left = self.last_primary.map(|last| Arc::clone(&self.nodes[usize::from(last.0)].clock));
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(sample) = &node.sample else { return };
        let lost = self.history.newest().map_or(0, |newest| newest.bytes_past(sample.position));
        let timeline = sample.timeline;
        let recovered_to = sample.recovered_to;
        let promoted = self.timeline != Some(timeline);
        // What it had not flushed is gone, and may have been acknowledged (`synchronous_commit = off`).
        let restarted = !promoted
            && self.last_primary == elected
            && recovered_to.is_some()
            && recovered_to != self.recovered_to;
        if let Some(ended) = self.timeline.filter(|_| promoted || restarted) {
            let at = recovered_to.unwrap_or(node.replayed);
            // Of a node that is promoted again, what it said as the primary that it was before.
            let last_ticks = left.map(|clock| clock.ticks()).unwrap_or_default();
            if let Some(old) = self.switches.iter_mut().rev().nth(SWITCHES_IN_FULL) {
                old.last_ticks = Arc::default();
            }
            // Floors are positions of what was inserted, and a crash loses of that also what nobody had been told of.
            let exact = recovered_to.is_some() && !restarted;
            self.switches.push(Switch { ended, restarted, at, exact, last_ticks });
        }
        if promoted {
            self.timeline = Some(timeline);
            self.timeline_start = sample.position;
        }
        if promoted || restarted {
            self.version += 1;
        }
        self.recovered_to = recovered_to;
        let new = self.primary != elected;
        if new {
            let was = node.state;
            let lost_bytes = if self.last_primary == elected { 0 } else { lost };
            let why = Why::Elected { timeline, lost_bytes };
            let name = Arc::clone(&node.name);
            changes.push(Change { node: id, name, was, now: Standing::Primary, why });
        }
        self.history.push(sample.position, sample.sent);
        self.torn = sample.torn.then_some(sample.position);
        if !sample.torn {
            self.whole = sample.position;
        }
        self.last_primary = elected;
        if new {
            // Who had diverged from another primary is looked at anew.
            for node in &mut self.nodes {
                node.diverged = false;
                node.excused = Lsn(0);
            }
        }
    }
}

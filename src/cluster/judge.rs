//! Judges the nodes from samples: which is the primary, which replicas may serve.
//!
//! Pure: samples and failures go in with the time, changes and a [`Topology`] come out. No socket, no
//! clock. Owns the nodes, the order in which all is judged anew, and which changes are told; who is the
//! primary is for [`election`], what a replica is worth for [`replicas`]. The rules (semantics.md sections
//! 2 and 5):
//!
//! - Nothing is judged before every node was heard of once, so that one foreign node that answers first
//!   is not taken for the cluster. The cluster is then the system identifier that most nodes have.
//! - The primary is the one node out of recovery on the highest timeline, which is at least the one
//!   known. Two on one timeline: none is. It is the primary no longer as soon as it is out of reach.
//! - A replica is ejected when the primary left its replayed position longer than `max_lag` ago, and
//!   comes back after `readmit_after` samples in a row under `readmit_lag`. Time runs on while nobody
//!   answers: silence ejects.
//! - While there is no primary, the furthest replica stands for it: whoever has replayed all that is
//!   known of is as fresh as can be known and goes on serving. One that lagged when the primary died
//!   goes on lagging, for the primary's last position stays in the history.
//! - Positions compare only within one history. A replica past the primary has another one. After a
//!   promotion a replica must be seen on the new timeline, or exactly where the new primary was past
//!   the switch (a role without `pg_read_all_stats` cannot see the timeline of a stream).
//!
//! Lag is measured to the primary's flush position: what is not flushed was not acknowledged (save
//! under `synchronous_commit = off`, within three `wal_writer_delay`) and cannot reach a replica.
//! The WAL writer flushes whole pages, so that while a long transaction stands still the flushed WAL
//! may end within a record, which nobody can replay. Such a *torn* end is not held against a replica
//! that has received all of it, does replay, and has passed the last end that was not torn.

mod election;
mod node;
mod replicas;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::node::Node;
use super::history::History;
use super::sample::{Limits, Sample};
use super::topology::Switch;
use super::verdict::{Change, Standing, Why};
use super::{Clock, Lsn, NodeId, NodeState, NodeView, Role, Topology};
use crate::config::settings;

/// What is known of all nodes, and what follows from it.
#[derive(Debug)]
pub struct Judge {
    limits: Limits,
    nodes: Vec<Node>,
    history: History,
    system_identifier: Option<u64>,
    timeline: Option<u32>,
    /// Where the primary was first seen on its timeline.
    timeline_start: Lsn,
    /// Where earlier histories ended.
    switches: Vec<Switch>,
    /// Where the primary's last recovery ended: a crash, of its node or of one backend, makes another.
    recovered_to: Option<Lsn>,
    /// The primary's last position, if it was torn.
    torn: Option<Lsn>,
    /// The primary's last position that was not torn.
    whole: Lsn,
    primary: Option<NodeId>,
    /// The last node that was the primary, also while it is out of reach.
    last_primary: Option<NodeId>,
    version: u64,
}

impl Judge {
    /// Knows no node yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            nodes: Vec::new(),
            history: History::default(),
            system_identifier: None,
            timeline: None,
            timeline_start: Lsn(0),
            switches: Vec::new(),
            recovered_to: None,
            torn: None,
            whole: Lsn(0),
            primary: None,
            last_primary: None,
            version: 0,
        }
    }

    /// Judges by other limits from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds a node under a number that was never given before. `None` after 65,536 of them.
    pub fn add(&mut self, node: &settings::Node) -> Option<NodeId> {
        let id = NodeId(u16::try_from(self.nodes.len()).ok()?);
        self.nodes.push(Node::new(id, node));
        self.version += 1;
        Some(id)
    }

    /// The node of that name and address, if it is served.
    #[must_use]
    pub fn find(&self, node: &settings::Node) -> Option<NodeId> {
        let same =
            |have: &&Node| !have.removed && have.name == node.name && have.address == node.address;
        self.nodes.iter().find(same).map(|have| have.id)
    }

    /// Every node that is served, with its name.
    #[must_use]
    pub fn served(&self) -> Vec<(NodeId, Arc<str>)> {
        let served = self.nodes.iter().filter(|node| !node.removed);
        served.map(|node| (node.id, Arc::clone(&node.name))).collect()
    }

    /// The clock of a node.
    #[must_use]
    pub fn clock(&self, id: NodeId) -> Arc<Clock> {
        Arc::clone(&self.nodes[usize::from(id.0)].clock)
    }

    /// Takes over what may change of a node while it is served.
    pub fn update(&mut self, id: NodeId, node: &settings::Node) {
        let have = &mut self.nodes[usize::from(id.0)];
        if have.weight != node.weight || have.zone != node.zone {
            have.weight = node.weight;
            have.zone.clone_from(&node.zone);
            self.version += 1;
        }
    }

    /// Serves a node no longer; its number stays taken.
    pub fn remove(&mut self, id: NodeId, now: Instant) -> Vec<Change> {
        let node = &mut self.nodes[usize::from(id.0)];
        node.removed = true;
        node.epoch += 1;
        node.unreachable = Some(Why::Removed);
        if self.last_primary == Some(id) {
            self.last_primary = None;
        }
        self.settle(now, None)
    }

    /// A node answered.
    pub fn on_sample(&mut self, id: NodeId, sample: Sample, now: Instant) -> Vec<Change> {
        let node = &mut self.nodes[usize::from(id.0)];
        if node.removed {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if let Some(last) = &node.sample {
            let restarted = last.life != sample.life;
            let switched =
                last.timeline != sample.timeline && last.timeline_exact && sample.timeline_exact;
            if restarted || switched || last.role != sample.role {
                node.epoch += 1;
                self.version += 1;
            }
            if restarted {
                node.diverged = false;
                node.followed = None;
                node.excused = Lsn(0);
            }
            if restarted && last.role == sample.role && node.unreachable.is_none() {
                let name = Arc::clone(&node.name);
                let standing = match self.primary {
                    Some(primary) if primary == id => Standing::Primary,
                    _ => Standing::Node(node.state),
                };
                let was = node.state;
                changes.push(Change { node: id, name, was, now: standing, why: Why::Restarted });
            }
        }
        node.heard = true;
        node.unreachable = None;
        if sample.role == Role::Replica {
            node.replayed = sample.position;
        }
        node.sample = Some(sample);
        changes.extend(self.settle(now, Some(id)));
        changes
    }

    /// A node failed to answer, twice.
    pub fn on_failure(&mut self, id: NodeId, error: String, now: Instant) -> Vec<Change> {
        let node = &mut self.nodes[usize::from(id.0)];
        if node.removed {
            return Vec::new();
        }
        node.heard = true;
        node.unreachable = Some(Why::Unreachable { error });
        self.settle(now, None)
    }

    /// Time passed.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Change> {
        self.settle(now, None)
    }

    /// Whether every node was heard of, so that the rest of the answers mean something.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.nodes.iter().all(|node| node.heard || node.removed)
    }

    /// Judges everything anew. `sampled` is the node whose sample this follows on.
    fn settle(&mut self, now: Instant, sampled: Option<NodeId>) -> Vec<Change> {
        if self.system_identifier.is_none() {
            self.system_identifier = self.settled().then(|| self.most_common_system()).flatten();
        }
        let Some(ours) = self.system_identifier else { return Vec::new() };
        self.note_silence(now);
        let elected = self.elect(ours);
        let mut changes = Vec::new();
        self.feed_history(elected, ours, &mut changes);
        for index in 0..self.nodes.len() {
            self.note_history(index, elected);
            let (state, why) = self.verdict(index, elected, ours, sampled, now);
            self.enter(index, state, why, elected, &mut changes);
        }
        if self.primary != elected {
            self.primary = elected;
            self.version += 1;
        }
        if changes.iter().any(|change| matches!(change.now, Standing::Node(_))) {
            self.version += 1;
        }
        changes
    }

    fn note_silence(&mut self, now: Instant) {
        let limit = self.limits.silence();
        for node in &mut self.nodes {
            let age = node.reached().map(|sample| now.saturating_duration_since(sample.received));
            if let Some(age) = age.filter(|age| *age > limit) {
                node.unreachable = Some(Why::Silent { age });
            }
        }
    }

    /// Puts a node into a state and notes the change, if it is one.
    fn enter(
        &mut self,
        index: usize,
        state: NodeState,
        why: Option<Why>,
        elected: Option<NodeId>,
        changes: &mut Vec<Change>,
    ) {
        let node = &mut self.nodes[index];
        let (was, first) = (node.state, node.fresh);
        node.state = state;
        if matches!(state, NodeState::Down | NodeState::Banned) {
            node.streak = 0;
        }
        if state != NodeState::Ejected && (why.is_some() || state == NodeState::Up) {
            node.fresh = false;
        }
        let quiet = match &why {
            // Not yet comparable, as anybody is at first.
            Some(Why::LagUnknown { .. }) if first => true,
            // Down is also where a node starts that was not heard of yet.
            Some(_) => was == state && !(first && state == NodeState::Down),
            None => true,
        };
        let Some(why) = why.filter(|_| !quiet) else { return };
        let (id, name) = (node.id, Arc::clone(&node.name));
        let lost_primary = self.primary == Some(id) && elected.is_none();
        let (now, why) = match (state, why) {
            (NodeState::Ejected, _) if lost_primary => (Standing::NoPrimary, Why::InRecovery),
            (_, why) if lost_primary => (Standing::NoPrimary, why),
            (NodeState::Ejected, _) if was == NodeState::Down && !first => {
                (Standing::Node(state), Why::Returning { role: node.role() })
            }
            (_, why) => (Standing::Node(state), why),
        };
        changes.push(Change { node: id, name, was, now, why });
    }

    /// The picture for everybody else.
    #[must_use]
    pub fn topology(&self, now: Instant) -> Topology {
        let view = |node: &Node| {
            let position = node.sample.as_ref().map_or(Lsn(0), |sample| sample.inserted);
            let is_primary = self.primary == Some(node.id);
            let judged = node.sample.as_ref().filter(|_| !is_primary);
            NodeView {
                id: node.id,
                name: Arc::clone(&node.name),
                address: node.address.clone(),
                weight: node.weight,
                zone: node.zone.clone(),
                role: if node.removed { Role::Unknown } else { node.role() },
                state: node.state,
                removed: node.removed,
                epoch: node.epoch,
                position,
                lag_bytes: judged.map_or(0, |sample| self.lag_bytes(sample.position)),
                lag: match judged {
                    None => is_primary.then_some(Duration::ZERO),
                    Some(sample) => self.lag(node, sample, now),
                },
                sampled_at: node.sample.as_ref().map(|sample| sample.received),
                server_version_num: node.sample.as_ref().map(|sample| sample.server_version_num),
                clock: Arc::clone(&node.clock),
            }
        };
        Topology {
            version: self.version,
            primary: self.primary,
            system_identifier: self.system_identifier,
            timeline: self.timeline,
            switches: self.switches.as_slice().into(),
            nodes: self.nodes.iter().map(view).collect(),
        }
    }
}

#[cfg(test)]
mod tests;

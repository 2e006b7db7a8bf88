//! What the judge knows of one node, and in which state it holds it to be.

use std::sync::Arc;

use crate::cluster::sample::Sample;
use crate::cluster::verdict::Why;
use crate::cluster::{Clock, Lsn, NodeId, NodeState, Role};
use crate::config::settings::{self, Address};

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, not one state")]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) name: Arc<str>,
    pub(super) address: Address,
    pub(super) weight: u32,
    pub(super) zone: Option<Arc<str>>,
    pub(super) removed: bool,
    /// Whether it answered or failed to since it was added.
    pub(super) heard: bool,
    pub(super) sample: Option<Sample>,
    pub(super) unreachable: Option<Why>,
    pub(super) state: NodeState,
    pub(super) epoch: u64,
    /// Not yet judged by its lag: the first good sample admits it.
    pub(super) fresh: bool,
    pub(super) streak: u32,
    pub(super) diverged: bool,
    /// The timeline that it was proved to follow by standing where the primary stood.
    pub(super) followed: Option<u32>,
    /// The torn end that it stood at: counts as replayed when lag is told in time.
    pub(super) excused: Lsn,
    /// The furthest that it was seen to have replayed in recovery.
    pub(super) replayed: Lsn,
    pub(super) clock: Arc<Clock>,
}

impl Node {
    /// One of that number, of which nothing is known.
    pub(super) fn new(id: NodeId, node: &settings::Node) -> Self {
        Self {
            id,
            name: Arc::clone(&node.name),
            address: node.address.clone(),
            weight: node.weight,
            zone: node.zone.clone(),
            removed: false,
            heard: false,
            sample: None,
            unreachable: None,
            state: NodeState::Down,
            epoch: 1,
            fresh: true,
            streak: 0,
            diverged: false,
            followed: None,
            excused: Lsn(0),
            replayed: Lsn(0),
            clock: Arc::default(),
        }
    }

    pub(super) fn reached(&self) -> Option<&Sample> {
        self.sample.as_ref().filter(|_| self.unreachable.is_none() && !self.removed)
    }

    pub(super) fn role(&self) -> Role {
        self.sample.as_ref().map_or(Role::Unknown, |sample| sample.role)
    }
}

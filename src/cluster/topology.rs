//! The immutable picture of the cluster that every decision reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Clock, Lsn, Tick};
use crate::config::settings::Address;

/// A node's number: its place in [`Topology::nodes`]. Never given to another node while the process
/// lives, also over reloads (a removed node leaves a gap that is never eligible).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// The cluster as last judged. Swapped whole; readers hold one for the length of one decision.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Raised by one with every swap that changed a role, a state, a life or the set of nodes.
    pub version: u64,
    /// The node that takes writes, if one is known for sure.
    pub primary: Option<NodeId>,
    /// `pg_control_system().system_identifier` of the cluster that is served.
    pub system_identifier: Option<u64>,
    /// The primary's timeline.
    pub timeline: Option<u32>,
    /// Where histories ended that were followed to the present one, the latest last.
    pub switches: Arc<[Switch]>,
    /// By [`NodeId`].
    pub nodes: Arc<[NodeView]>,
}

/// Where a history ended: a timeline at a promotion, or what the primary had not flushed when it crashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended, or on which the primary crashed.
    pub ended: u32,
    /// The primary crashed and goes on, on the same timeline: what it had flushed, and so all that replicas had, is
    /// there.
    pub restarted: bool,
    /// The end of its history: what is beyond was lost.
    pub at: Lsn,
    /// Whether `at` is the end, or only the furthest position before it that is known of.
    pub exact: bool,
    /// The last ticks of the primary that was left behind, oldest first.
    pub last_ticks: Arc<[Arc<Tick>]>,
}

impl Switch {
    /// Whether all that was written or shown anywhere until `moment` is before `at`, as far as the old primary
    /// has told.
    #[must_use]
    pub fn keeps(&self, moment: Instant, at: Lsn) -> bool {
        let after = self.last_ticks.iter().find(|tick| tick.sent > moment);
        after.is_some_and(|tick| tick.role == Role::Primary && tick.position <= at)
    }
}

/// One node as last judged.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its number.
    pub id: NodeId,
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Share of reads under the weighted balance.
    pub weight: u32,
    /// Its zone, if the file gives one.
    pub zone: Option<Arc<str>>,
    /// As it says of itself.
    pub role: Role,
    /// What Causeway makes of it.
    pub state: NodeState,
    /// The settings name it no longer: it only keeps its number taken.
    pub removed: bool,
    /// Raised whenever servers opened before must not be used again: the node restarted, changed
    /// its role or timeline, or was removed. A node out of reach keeps its epoch until it answers:
    /// only then is it known whether it lives on. A server carries the epoch it was opened in.
    pub epoch: u64,
    /// Replayed position on a replica, insert position on the primary.
    pub position: Lsn,
    /// Distance to the primary's newest known position; zero on the primary.
    pub lag_bytes: u64,
    /// How long ago the primary was where this node is; zero on the primary, `None` if unknown.
    pub lag: Option<Duration>,
    /// When the last good sample was taken.
    pub sampled_at: Option<Instant>,
    /// `server_version_num`, once known.
    pub server_version_num: Option<u32>,
    /// Where it is at this moment.
    pub clock: Arc<Clock>,
}

/// What a node says of itself (`pg_is_in_recovery()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not yet asked.
    Unknown,
    /// Out of recovery.
    Primary,
    /// In recovery.
    Replica,
}

/// What Causeway makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Takes its share.
    Up,
    /// A replica out of the rotation: it lags, or is coming back and not yet readmitted.
    Ejected,
    /// Not reached, or its last good sample is too old.
    Down,
    /// On another history, or a second primary: never used.
    Banned,
}

impl Role {
    /// The word for it in labels and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Up, Self::Ejected, Self::Down, Self::Banned];

    /// The word for it in labels and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Banned => "banned",
        }
    }
}

impl Topology {
    /// The nodes that the settings name.
    pub fn served(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|node| !node.removed)
    }

    /// The node of that number. Every [`NodeId`] that exists has one.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &NodeView {
        &self.nodes[usize::from(id.0)]
    }

    /// How many histories have ended before the present one.
    #[must_use]
    pub fn era(&self) -> u32 {
        u32::try_from(self.switches.len()).unwrap_or(u32::MAX)
    }

    /// The replicas that may serve a read under the cluster's own limits.
    pub fn eligible_replicas(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|node| node.role == Role::Replica && node.state == NodeState::Up)
    }
}

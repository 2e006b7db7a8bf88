//! What changed in the picture of the cluster, and why, in words for the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{NodeId, NodeState, Role};

/// One change; one log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub node: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// The state it was in.
    pub was: NodeState,
    /// What it is now.
    pub now: Standing,
    /// Why.
    pub why: Why,
}

/// What a change led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The node is the primary.
    Primary,
    /// No node is: this one was, or would be if it were the only one.
    NoPrimary,
    /// A node that is not the primary is now in this state.
    Node(NodeState),
}

/// The reason of a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A replica's first good sample.
    FirstSample {
        /// Its lag then.
        lag: Duration,
    },
    /// A replica caught up.
    CaughtUp {
        /// Its lag in the last sample.
        lag: Duration,
        /// Good samples in a row.
        samples: u32,
    },
    /// Behind by more than `max_lag`.
    Lag {
        /// Lag in time.
        lag: Duration,
        /// Lag in bytes.
        bytes: u64,
        /// `max_lag`.
        limit: Duration,
    },
    /// Behind by more than `max_lag_bytes`.
    LagBytes {
        /// Lag in bytes.
        bytes: u64,
        /// `max_lag_bytes`.
        limit: u64,
    },
    /// Behind everything that the primary was ever seen at, so that nobody knows how far in time.
    LagUnknown {
        /// Lag in bytes.
        bytes: u64,
    },
    /// It answers again and must prove itself first.
    Returning {
        /// What it says it is.
        role: Role,
    },
    /// Two probes in a row failed.
    Unreachable {
        /// How the second failed.
        error: String,
    },
    /// No probe came back for too long.
    Silent {
        /// How old the last good sample is.
        age: Duration,
    },
    /// A node of another cluster.
    OtherSystem {
        /// Its system identifier.
        theirs: u64,
        /// The served cluster's.
        ours: u64,
    },
    /// It replayed what the primary never wrote.
    Diverged,
    /// Not (yet) seen on the primary's timeline.
    OtherTimeline {
        /// Its timeline.
        theirs: u32,
        /// The primary's.
        ours: u32,
    },
    /// Out of recovery on an older timeline than the primary.
    FormerPrimary {
        /// Its timeline.
        theirs: u32,
        /// The primary's.
        ours: u32,
    },
    /// Another node is out of recovery on the same timeline.
    TwoPrimaries {
        /// Their timeline.
        timeline: u32,
    },
    /// It is out of recovery, on the highest timeline.
    Elected {
        /// That timeline.
        timeline: u32,
        /// Whether the former primary was seen further than the new one is: history was lost.
        lost_bytes: u64,
    },
    /// It went back into recovery.
    InRecovery,
    /// It restarted, so quickly that no probe failed.
    Restarted,
    /// The settings name it no longer.
    Removed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstSample { lag } => write!(f, "its first sample is good (lag {})", Ms(*lag)),
            Self::CaughtUp { lag, samples } => {
                write!(f, "caught up (lag {}, {samples} good samples in a row)", Ms(*lag))
            }
            Self::Lag { lag, bytes, limit } => write!(
                f,
                "lags by {} ({} of WAL); max_lag is {}",
                Ms(*lag),
                bytesize::ByteSize(*bytes),
                Ms(*limit)
            ),
            Self::LagBytes { bytes, limit } => write!(
                f,
                "lags by {} of WAL; max_lag_bytes is {}",
                bytesize::ByteSize(*bytes),
                bytesize::ByteSize(*limit)
            ),
            Self::LagUnknown { bytes } => {
                write!(f, "is {} of WAL behind, since when is unknown", bytesize::ByteSize(*bytes))
            }
            Self::Returning { role: Role::Replica } => f.write_str("answers, and is in recovery"),
            Self::Returning { .. } => f.write_str("answers"),
            Self::Unreachable { error } => write!(f, "cannot be reached: {error}"),
            Self::Silent { age } => write!(f, "has not answered for {}", Ms(*age)),
            Self::OtherSystem { theirs, ours } => write!(
                f,
                "belongs to another cluster: its system identifier is {theirs}, this cluster's is {ours}"
            ),
            Self::Diverged => f.write_str("has replayed WAL that the primary never wrote"),
            Self::OtherTimeline { theirs, ours } => {
                write!(
                    f,
                    "was last seen on timeline {theirs}, the primary is on {ours}; it must follow the new primary"
                )
            }
            Self::FormerPrimary { theirs, ours } => write!(
                f,
                "is out of recovery on timeline {theirs}, the primary is on {ours}; rebuild it as a replica (pg_rewind)"
            ),
            Self::TwoPrimaries { timeline } => write!(
                f,
                "is one of several nodes out of recovery on timeline {timeline}; writes stop until one of them is gone"
            ),
            Self::Elected { timeline, lost_bytes: 0 } => {
                write!(f, "is out of recovery on timeline {timeline}")
            }
            Self::Elected { timeline, lost_bytes } => write!(
                f,
                "is out of recovery on timeline {timeline}, {} of WAL behind its predecessor: acknowledged writes may be lost",
                bytesize::ByteSize(*lost_bytes)
            ),
            Self::Restarted => f.write_str("it restarted"),
            Self::InRecovery => f.write_str("went into recovery"),
            Self::Removed => f.write_str("is no longer in the settings"),
        }
    }
}

/// A time for people: whole milliseconds.
struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        humantime::format_duration(Duration::from_millis(millis)).fmt(f)
    }
}

impl Change {
    /// Writes the one log line.
    pub fn log(&self) {
        let (node, why) = (&*self.name, &self.why);
        match (self.now, why) {
            (Standing::Primary, Why::Elected { lost_bytes: 1.., .. }) => {
                tracing::warn!(node, "node {node} is the primary: {why}");
            }
            (Standing::Primary, _) => tracing::info!(node, "node {node} is the primary: {why}"),
            (Standing::NoPrimary, _) => {
                tracing::error!(node, "there is no primary: node {node} {why}");
            }
            (Standing::Node(NodeState::Up), _) => {
                tracing::info!(node, "replica {node} serves reads: {why}");
            }
            (Standing::Node(NodeState::Ejected), Why::Returning { .. }) => {
                tracing::info!(node, "replica {node} is back and must catch up: {why}");
            }
            (Standing::Node(NodeState::Ejected), _) => {
                tracing::warn!(node, "replica {node} is ejected: {why}");
            }
            (Standing::Node(NodeState::Down), Why::Removed) => {
                tracing::info!(node, "node {node} is removed: {why}");
            }
            (Standing::Node(NodeState::Down), _) => {
                tracing::warn!(node, "node {node} is down: {why}");
            }
            // After a promotion every replica passes through this, if briefly.
            (Standing::Node(NodeState::Banned), Why::OtherTimeline { .. }) => {
                tracing::warn!(node, "replica {node} is ejected: {why}");
            }
            (Standing::Node(NodeState::Banned), _) => {
                tracing::error!(node, "node {node} is banned: {why}");
            }
        }
    }
}

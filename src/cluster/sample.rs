//! What the judge is given: samples, and the limits to judge them by.

use std::time::{Duration, Instant};

use super::{Lsn, Role};
use crate::config::settings;

/// When a replica is ejected and readmitted: a part of `[monitor]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time between two samples of one node.
    pub interval: Duration,
    /// Ejected beyond.
    pub max_lag: Duration,
    /// Ejected beyond, in bytes.
    pub max_lag_bytes: Option<u64>,
    /// Readmitted below.
    pub readmit_lag: Duration,
    /// After so many samples.
    pub readmit_after: u32,
}

impl From<&settings::Monitor> for Limits {
    fn from(monitor: &settings::Monitor) -> Self {
        Self {
            interval: monitor.interval,
            max_lag: monitor.max_lag,
            max_lag_bytes: monitor.max_lag_bytes,
            // A replica that has replayed all that is known shows the age of the primary's last
            // sample: under two intervals nobody can be told apart from it.
            readmit_lag: monitor.readmit_lag.max(2 * monitor.interval),
            readmit_after: monitor.readmit_after,
        }
    }
}

impl Limits {
    /// A node whose last good sample is older is down.
    pub(super) fn silence(&self) -> Duration {
        self.max_lag.max(3 * self.interval)
    }
}

/// What a node said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// In recovery or not.
    pub role: Role,
    /// `pg_control_system().system_identifier`.
    pub system_identifier: u64,
    /// The timeline that it writes, or was last seen to follow.
    pub timeline: u32,
    /// Whether `timeline` is the current one, or only one that it has reached.
    pub timeline_exact: bool,
    /// Replica: replayed. Primary: flushed.
    pub position: Lsn,
    /// Primary: inserted. Replica: as `position`.
    pub inserted: Lsn,
    /// Primary: the flushed WAL ends with a page, and more was inserted: its end may be within a
    /// record. Replica: false.
    pub torn: bool,
    /// Replica: received and flushed from the stream. Primary: as `position`.
    pub streamed: Lsn,
    /// Primary: where its last recovery ended, after a crash or by its promotion, if it had one in this life.
    pub recovered_to: Option<Lsn>,
    /// Replica: replay is paused.
    pub paused: bool,
    /// When the postmaster started, in microseconds: tells one life of a node from the next.
    pub life: i64,
    /// `server_version_num`.
    pub server_version_num: u32,
    /// When it was asked.
    pub sent: Instant,
    /// When it had answered.
    pub received: Instant,
}

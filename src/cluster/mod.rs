//! Which node is what: roles, positions, lag, ejection.
//!
//! Owns the monitor (one task per node), the pure judgement over samples, the [`Topology`] snapshot
//! that everybody else reads, and each node's [`Clock`] (one more task per node). Never promotes a node and never opens a server for a session.

pub mod clock;
mod history;
pub mod judge;
pub mod lsn;
mod metrics;
pub mod monitor;
pub mod mutant;
pub mod probe;
pub mod sample;
pub mod snapshot;
mod ticker;
pub mod topology;
pub mod verdict;

pub use clock::{Clock, Tick};
pub use lsn::Lsn;
pub use monitor::Cluster;
pub use topology::{NodeId, NodeState, NodeView, Role, Topology};

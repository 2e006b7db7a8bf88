//! Which node is what: roles, positions, lag, ejection.
//!
//! Owns the monitor (one task per node), the pure judgement over samples, and the [`Topology`]
//! snapshot that everybody else reads. Never promotes a node and never opens a server for a session.

mod history;
pub mod judge;
pub mod lsn;
mod metrics;
pub mod monitor;
pub mod probe;
pub mod sample;
pub mod topology;
pub mod verdict;

pub use lsn::Lsn;
pub use monitor::Cluster;
pub use topology::{NodeId, NodeState, NodeView, Role, Topology};
